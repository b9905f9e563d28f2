//! One stream at a time, for a lone stream and for machines without vectors.

use crate::BLOCK_BYTES;
use crate::rounds::{md5_rounds, sines};

macro_rules! f {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        ($d ^ ($b & ($c ^ $d))).wrapping_add($sum)
    };
}
// The two halves never have a bit in common, so they may be added one by one:
// `c & !d` is ready long before `b`, which the step has to wait for.
macro_rules! g {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        ($c & !$d).wrapping_add($sum).wrapping_add($b & $d)
    };
}
macro_rules! h {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        ($b ^ ($c ^ $d)).wrapping_add($sum)
    };
}
macro_rules! i {
    ($b:ident, $c:ident, $d:ident, $sum:ident) => {
        ($c ^ ($b | !$d)).wrapping_add($sum)
    };
}
macro_rules! step {
    ($mix:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:expr, $shift:literal, $sine:expr) => {
        let sum = $a.wrapping_add($word).wrapping_add($sine);
        $a = $b.wrapping_add($mix!($b, $c, $d, sum).rotate_left($shift));
    };
}

/// Takes whole blocks; a rest shorter than a block is ignored.
pub(crate) fn compress(state: &mut [u32; 4], data: &[u8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let sines = sines();
    let (blocks, _) = data.as_chunks::<BLOCK_BYTES>();
    for block in blocks {
        let mut m = [0_u32; 16];
        for (word, bytes) in m.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let before = [a, b, c, d];
        md5_rounds!(step, f, g, h, i, a b c d, m, sines);
        a = a.wrapping_add(before[0]);
        b = b.wrapping_add(before[1]);
        c = c.wrapping_add(before[2]);
        d = d.wrapping_add(before[3]);
    }
    *state = [a, b, c, d];
}
