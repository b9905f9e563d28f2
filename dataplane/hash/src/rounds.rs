//! The 64 steps of MD5 (RFC 1321 §3.4), written once for every width. Absent:
//! what a word is; whoever expands the macro says how to add, rotate and mix.

/// The additive constants, where the compiler does not see them. It would move
/// them to the end of every sum, behind what the step waits for: a quarter of the
/// speed.
pub(crate) fn sines() -> &'static [u32; 64] {
    std::hint::black_box(&SINES)
}

/// `floor(2^32 * abs(sin(i + 1)))`.
static SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// Expands to the 64 steps over the variables `a b c d` and the message words
/// `m[0..16]` with the constants of [`sines`]. `step!(mix, a, b, c, d, word, shift, sine)` must do
/// `a = b + ((a + mix(b, c, d) + word + sine) <<< shift)`.
macro_rules! md5_rounds {
    ($step:ident, $f:ident, $g:ident, $h:ident, $i:ident, $a:ident $b:ident $c:ident $d:ident, $m:ident, $sines:ident) => {
        md5_rounds!(@four $step $f $a $b $c $d $m $sines [0 1 2 3] [7 12 17 22] 0);
        md5_rounds!(@four $step $f $a $b $c $d $m $sines [4 5 6 7] [7 12 17 22] 4);
        md5_rounds!(@four $step $f $a $b $c $d $m $sines [8 9 10 11] [7 12 17 22] 8);
        md5_rounds!(@four $step $f $a $b $c $d $m $sines [12 13 14 15] [7 12 17 22] 12);
        md5_rounds!(@four $step $g $a $b $c $d $m $sines [1 6 11 0] [5 9 14 20] 16);
        md5_rounds!(@four $step $g $a $b $c $d $m $sines [5 10 15 4] [5 9 14 20] 20);
        md5_rounds!(@four $step $g $a $b $c $d $m $sines [9 14 3 8] [5 9 14 20] 24);
        md5_rounds!(@four $step $g $a $b $c $d $m $sines [13 2 7 12] [5 9 14 20] 28);
        md5_rounds!(@four $step $h $a $b $c $d $m $sines [5 8 11 14] [4 11 16 23] 32);
        md5_rounds!(@four $step $h $a $b $c $d $m $sines [1 4 7 10] [4 11 16 23] 36);
        md5_rounds!(@four $step $h $a $b $c $d $m $sines [13 0 3 6] [4 11 16 23] 40);
        md5_rounds!(@four $step $h $a $b $c $d $m $sines [9 12 15 2] [4 11 16 23] 44);
        md5_rounds!(@four $step $i $a $b $c $d $m $sines [0 7 14 5] [6 10 15 21] 48);
        md5_rounds!(@four $step $i $a $b $c $d $m $sines [12 3 10 1] [6 10 15 21] 52);
        md5_rounds!(@four $step $i $a $b $c $d $m $sines [8 15 6 13] [6 10 15 21] 56);
        md5_rounds!(@four $step $i $a $b $c $d $m $sines [4 11 2 9] [6 10 15 21] 60);
    };
    (@four $step:ident $mix:ident $a:ident $b:ident $c:ident $d:ident $m:ident $sines:ident
     [$w0:literal $w1:literal $w2:literal $w3:literal]
     [$s0:literal $s1:literal $s2:literal $s3:literal] $k:literal) => {
        $step!($mix, $a, $b, $c, $d, $m[$w0], $s0, $sines[$k]);
        $step!($mix, $d, $a, $b, $c, $m[$w1], $s1, $sines[$k + 1]);
        $step!($mix, $c, $d, $a, $b, $m[$w2], $s2, $sines[$k + 2]);
        $step!($mix, $b, $c, $d, $a, $m[$w3], $s3, $sines[$k + 3]);
    };
}
pub(crate) use md5_rounds;
