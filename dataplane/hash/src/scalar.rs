//! One stream or two without vectors, for few streams and for machines without.

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

// Two streams step by step: a step of one waits for its last result most of the
// time, which is time for the other.
macro_rules! step_pair {
    ($mix:ident, $a:ident, $b:ident, $c:ident, $d:ident, $word:expr, $shift:literal, $sine:expr) => {
        let word = $word;
        $a = [0, 1].map(|lane| {
            let (a, b, c, d) = ($a[lane], $b[lane], $c[lane], $d[lane]);
            let sum = a.wrapping_add(word[lane]).wrapping_add($sine);
            b.wrapping_add($mix!(b, c, d, sum).rotate_left($shift))
        });
    };
}

/// Takes as many whole blocks of both as the shorter one has; returns how many.
pub(crate) fn compress_pair(states: &mut [[u32; 4]; 2], data: [&[u8]; 2]) -> usize {
    let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3].map(|word| states.map(|state| state[word]));
    let sines = sines();
    let [one, other] = data.map(|data| data.as_chunks::<BLOCK_BYTES>().0);
    for (one, other) in one.iter().zip(other) {
        let [x, y] = [one, other].map(words);
        let m: [[u32; 2]; 16] = std::array::from_fn(|word| [x[word], y[word]]);
        let before = [a, b, c, d];
        md5_rounds!(step_pair, f, g, h, i, a b c d, m, sines);
        let sum = |now: [u32; 2], then: [u32; 2]| [0, 1].map(|i| now[i].wrapping_add(then[i]));
        a = sum(a, before[0]);
        b = sum(b, before[1]);
        c = sum(c, before[2]);
        d = sum(d, before[3]);
    }
    *states = [0, 1].map(|lane| [a[lane], b[lane], c[lane], d[lane]]);
    one.len().min(other.len())
}

fn words(block: &[u8; BLOCK_BYTES]) -> [u32; 16] {
    let mut words = [0_u32; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// Takes whole blocks; a rest shorter than a block is ignored.
pub(crate) fn compress(state: &mut [u32; 4], data: &[u8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let sines = sines();
    let (blocks, _) = data.as_chunks::<BLOCK_BYTES>();
    for block in blocks {
        let m = words(block);
        let before = [a, b, c, d];
        md5_rounds!(step, f, g, h, i, a b c d, m, sines);
        a = a.wrapping_add(before[0]);
        b = b.wrapping_add(before[1]);
        c = c.wrapping_add(before[2]);
        d = d.wrapping_add(before[3]);
    }
    *state = [a, b, c, d];
}
