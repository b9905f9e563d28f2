//! The vector kernels of x86-64: AVX-512 with 16 and 8 lanes, AVX2 with 8.
//!
//! A register holds the same word of every lane. The words of a block lie behind
//! each other in memory, so each block is loaded as rows and transposed. All use
//! registers of 256 bits: a step waits for the step before it, and two chains of
//! 8 lanes side by side cost no more time than one (16 lanes in one register
//! reached 4.2 GB/s where two of 8 reach 7.2). Absent: which kernel to use.
#![expect(
    unsafe_code,
    reason = "vector intrinsics: loads through pointers, functions that need CPU features"
)]

use core::arch::x86_64::*;

use crate::BLOCK_BYTES;
use crate::rounds::{md5_rounds, sines};

/// States of `N` lanes, word by word.
type Words<const N: usize> = [[u32; N]; 4];

/// AVX-512 is there: only [`Avx512::detect`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// AVX2 is there: only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let is_here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2");
        is_here.then_some(Self(()))
    }

    /// Hashes as many whole blocks as the shortest lane has; returns how many.
    pub(crate) fn hash_16(self, states: &mut [[u32; 4]; 16], data: &[&[u8]; 16]) -> usize {
        let (mut words, blocks) = (by_word(states), blocks_of(data));
        // SAFETY: the features were detected; every lane has that many blocks.
        unsafe { avx512_16(&mut words, &data.map(<[u8]>::as_ptr), blocks) };
        *states = by_lane(&words);
        blocks
    }

    /// As [`Avx512::hash_16`], for 8 lanes.
    pub(crate) fn hash_8(self, states: &mut [[u32; 4]; 8], data: &[&[u8]; 8]) -> usize {
        let (mut words, blocks) = (by_word(states), blocks_of(data));
        // SAFETY: the features were detected; every lane has that many blocks.
        unsafe { avx512_8(&mut words, &data.map(<[u8]>::as_ptr), blocks) };
        *states = by_lane(&words);
        blocks
    }
}

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// As [`Avx512::hash_16`], for 8 lanes.
    pub(crate) fn hash_8(self, states: &mut [[u32; 4]; 8], data: &[&[u8]; 8]) -> usize {
        let (mut words, blocks) = (by_word(states), blocks_of(data));
        // SAFETY: the feature was detected; every lane has that many blocks.
        unsafe { avx2_8(&mut words, &data.map(<[u8]>::as_ptr), blocks) };
        *states = by_lane(&words);
        blocks
    }
}

fn blocks_of<const N: usize>(data: &[&[u8]; N]) -> usize {
    let shortest = data.iter().map(|lane| lane.len()).min();
    shortest.unwrap_or_default() / BLOCK_BYTES
}

fn by_word<const N: usize>(states: &[[u32; 4]; N]) -> Words<N> {
    [0, 1, 2, 3].map(|word| states.map(|state| state[word]))
}

fn by_lane<const N: usize>(words: &Words<N>) -> [[u32; 4]; N] {
    std::array::from_fn(|lane| words.map(|word| word[lane]))
}

// Truth tables of the four functions, operands in the order b, c, d.
macro_rules! step_256 {
    ($mix:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:expr, $shift:literal, $sine:expr) => {
        let sum = _mm256_add_epi32(_mm256_add_epi32($word, _mm256_set1_epi32($sine as i32)), $a);
        let mixed = _mm256_add_epi32($mix!($b, $c, $d), sum);
        $a = _mm256_add_epi32(_mm256_rol_epi32::<$shift>(mixed), $b);
    };
}
macro_rules! f_256 {
    ($b:ident, $c:ident, $d:ident) => {
        _mm256_ternarylogic_epi32::<0xca>($b, $c, $d)
    };
}
macro_rules! g_256 {
    ($b:ident, $c:ident, $d:ident) => {
        _mm256_ternarylogic_epi32::<0xe4>($b, $c, $d)
    };
}
macro_rules! h_256 {
    ($b:ident, $c:ident, $d:ident) => {
        _mm256_ternarylogic_epi32::<0x96>($b, $c, $d)
    };
}
macro_rules! i_256 {
    ($b:ident, $c:ident, $d:ident) => {
        _mm256_ternarylogic_epi32::<0x39>($b, $c, $d)
    };
}

macro_rules! step_avx2 {
    ($mix:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:expr, $shift:literal, $sine:expr) => {
        let sum = _mm256_add_epi32(_mm256_add_epi32($word, _mm256_set1_epi32($sine as i32)), $a);
        let mixed = $mix!($b, $c, $d, sum);
        let turned = _mm256_or_si256(
            _mm256_slli_epi32::<$shift>(mixed),
            _mm256_srli_epi32::<{ 32 - $shift }>(mixed),
        );
        $a = _mm256_add_epi32(turned, $b);
    };
}
macro_rules! f_avx2 {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        _mm256_add_epi32(
            _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256($c, $d), $b), $d),
            $sum,
        )
    };
}
macro_rules! g_avx2 {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        _mm256_add_epi32(
            _mm256_and_si256($b, $d),
            _mm256_add_epi32(_mm256_andnot_si256($d, $c), $sum),
        )
    };
}
macro_rules! h_avx2 {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        _mm256_add_epi32(_mm256_xor_si256(_mm256_xor_si256($c, $d), $b), $sum)
    };
}
macro_rules! i_avx2 {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        _mm256_add_epi32(
            _mm256_xor_si256(
                _mm256_or_si256(_mm256_xor_si256($d, _mm256_set1_epi32(-1)), $b),
                $c,
            ),
            $sum,
        )
    };
}

// One step of two independent halves: while one waits for its last result (two
// cycles per instruction on some CPUs) the other goes on.
macro_rules! step_pair {
    ($mix:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:expr, $shift:literal, $sine:expr) => {
        let sine = _mm256_set1_epi32($sine as i32);
        let word = $word;
        let sum = [0, 1].map(|i| _mm256_add_epi32(_mm256_add_epi32(word[i], sine), $a[i]));
        let mixed = [0, 1].map(|i| _mm256_add_epi32($mix!($b, $c, $d, i), sum[i]));
        $a = [0, 1].map(|i| _mm256_add_epi32(_mm256_rol_epi32::<$shift>(mixed[i]), $b[i]));
    };
}
macro_rules! f_pair {
    ($b:ident, $c:ident, $d:ident, $i:ident) => {
        _mm256_ternarylogic_epi32::<0xca>($b[$i], $c[$i], $d[$i])
    };
}
macro_rules! g_pair {
    ($b:ident, $c:ident, $d:ident, $i:ident) => {
        _mm256_ternarylogic_epi32::<0xe4>($b[$i], $c[$i], $d[$i])
    };
}
macro_rules! h_pair {
    ($b:ident, $c:ident, $d:ident, $i:ident) => {
        _mm256_ternarylogic_epi32::<0x96>($b[$i], $c[$i], $d[$i])
    };
}
macro_rules! i_pair {
    ($b:ident, $c:ident, $d:ident, $i:ident) => {
        _mm256_ternarylogic_epi32::<0x39>($b[$i], $c[$i], $d[$i])
    };
}

/// Hashes `blocks` blocks of 16 lanes.
///
/// # Safety
/// AVX-512 F and VL are there; every pointer may be read for `blocks` blocks.
#[target_feature(enable = "avx512f,avx512vl,avx2")]
unsafe fn avx512_16(words: &mut Words<16>, data: &[*const u8; 16], blocks: usize) {
    // SAFETY: `half` is 0 or 8: 8 words follow, loaded unaligned.
    let load =
        |w: usize, half: usize| unsafe { _mm256_loadu_si256(words[w][half..].as_ptr().cast()) };
    let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3].map(|w| [load(w, 0), load(w, 8)]);
    let (low, high) = data.split_at(8);
    let sines = sines();
    for at in 0..blocks {
        let first: [*const u8; 8] = std::array::from_fn(|i| low[i]);
        let second: [*const u8; 8] = std::array::from_fn(|i| high[i]);
        // SAFETY: block `at` of every lane may be read.
        let x = unsafe { load_256(&first, at * BLOCK_BYTES) };
        // SAFETY: as above.
        let y = unsafe { load_256(&second, at * BLOCK_BYTES) };
        let m: [[__m256i; 2]; 16] = std::array::from_fn(|i| [x[i], y[i]]);
        let before = [a, b, c, d];
        md5_rounds!(step_pair, f_pair, g_pair, h_pair, i_pair, a b c d, m, sines);
        a = [0, 1].map(|i| _mm256_add_epi32(a[i], before[0][i]));
        b = [0, 1].map(|i| _mm256_add_epi32(b[i], before[1][i]));
        c = [0, 1].map(|i| _mm256_add_epi32(c[i], before[2][i]));
        d = [0, 1].map(|i| _mm256_add_epi32(d[i], before[3][i]));
    }
    for (word, value) in words.iter_mut().zip([a, b, c, d]) {
        // SAFETY: two halves of an array of 16 words, stored unaligned.
        unsafe {
            _mm256_storeu_si256(word[0..].as_mut_ptr().cast(), value[0]);
            _mm256_storeu_si256(word[8..].as_mut_ptr().cast(), value[1]);
        }
    }
}

/// Hashes `blocks` blocks of 8 lanes with the instructions of AVX-512.
///
/// # Safety
/// AVX-512 F and VL are there; every pointer may be read for `blocks` blocks.
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn avx512_8(words: &mut Words<8>, data: &[*const u8; 8], blocks: usize) {
    // SAFETY: arrays of 8 words, loaded unaligned.
    let [mut a, mut b, mut c, mut d] =
        [0, 1, 2, 3].map(|w| unsafe { _mm256_loadu_si256(words[w].as_ptr().cast()) });
    let sines = sines();
    for at in 0..blocks {
        // SAFETY: block `at` of every lane may be read.
        let m = unsafe { load_256(data, at * BLOCK_BYTES) };
        let before = [a, b, c, d];
        md5_rounds!(step_256, f_256, g_256, h_256, i_256, a b c d, m, sines);
        a = _mm256_add_epi32(a, before[0]);
        b = _mm256_add_epi32(b, before[1]);
        c = _mm256_add_epi32(c, before[2]);
        d = _mm256_add_epi32(d, before[3]);
    }
    for (word, value) in words.iter_mut().zip([a, b, c, d]) {
        // SAFETY: an array of 8 words, stored unaligned.
        unsafe { _mm256_storeu_si256(word.as_mut_ptr().cast(), value) };
    }
}

/// Hashes `blocks` blocks of 8 lanes with the instructions of AVX2.
///
/// # Safety
/// AVX2 is there; every pointer may be read for `blocks` blocks.
#[target_feature(enable = "avx2")]
unsafe fn avx2_8(words: &mut Words<8>, data: &[*const u8; 8], blocks: usize) {
    // SAFETY: arrays of 8 words, loaded unaligned.
    let [mut a, mut b, mut c, mut d] =
        [0, 1, 2, 3].map(|w| unsafe { _mm256_loadu_si256(words[w].as_ptr().cast()) });
    let sines = sines();
    for at in 0..blocks {
        // SAFETY: block `at` of every lane may be read.
        let m = unsafe { load_256(data, at * BLOCK_BYTES) };
        let before = [a, b, c, d];
        md5_rounds!(step_avx2, f_avx2, g_avx2, h_avx2, i_avx2, a b c d, m, sines);
        a = _mm256_add_epi32(a, before[0]);
        b = _mm256_add_epi32(b, before[1]);
        c = _mm256_add_epi32(c, before[2]);
        d = _mm256_add_epi32(d, before[3]);
    }
    for (word, value) in words.iter_mut().zip([a, b, c, d]) {
        // SAFETY: an array of 8 words, stored unaligned.
        unsafe { _mm256_storeu_si256(word.as_mut_ptr().cast(), value) };
    }
}

/// The words of a block at byte `at` of 8 lanes: word `w` of all in `[w]`.
///
/// # Safety
/// Every pointer may be read from `at` for a block.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_256(data: &[*const u8; 8], at: usize) -> [__m256i; 16] {
    // SAFETY: both halves lie within the block.
    let row = |lane: usize, half: usize| unsafe {
        _mm256_loadu_si256(data[lane].add(at + half * 32).cast())
    };
    let low = transpose_256([0, 1, 2, 3, 4, 5, 6, 7].map(|lane| row(lane, 0)));
    let high = transpose_256([0, 1, 2, 3, 4, 5, 6, 7].map(|lane| row(lane, 1)));
    let mut words = [_mm256_setzero_si256(); 16];
    words[..8].copy_from_slice(&low);
    words[8..].copy_from_slice(&high);
    words
}

/// Turns 8 rows of 8 words into 8 columns.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_256(r: [__m256i; 8]) -> [__m256i; 8] {
    // Pairs of words, then fours, then the two halves of the register.
    let p = [0, 2, 4, 6].map(|i| {
        [
            _mm256_unpacklo_epi32(r[i], r[i + 1]),
            _mm256_unpackhi_epi32(r[i], r[i + 1]),
        ]
    });
    let fours = |lo: [__m256i; 2], hi: [__m256i; 2]| {
        [
            _mm256_unpacklo_epi64(lo[0], hi[0]),
            _mm256_unpackhi_epi64(lo[0], hi[0]),
            _mm256_unpacklo_epi64(lo[1], hi[1]),
            _mm256_unpackhi_epi64(lo[1], hi[1]),
        ]
    };
    let (q, s) = (fours(p[0], p[1]), fours(p[2], p[3]));
    let low = |i: usize| _mm256_permute2x128_si256::<0x20>(q[i], s[i]);
    let high = |i: usize| _mm256_permute2x128_si256::<0x31>(q[i], s[i]);
    [
        low(0),
        low(1),
        low(2),
        low(3),
        high(0),
        high(1),
        high(2),
        high(3),
    ]
}
