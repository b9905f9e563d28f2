//! Which way of hashing several streams this CPU has, and how streams of any
//! length and phase are laid on its lanes. Absent: when to do it.

use crate::{BLOCK_BYTES, Md5, scalar};

#[cfg(target_arch = "x86_64")]
use crate::x86::{Avx2, Avx512};

/// Most lanes any kernel has.
pub const LANES_MAX: usize = 16;

/// The next bytes of one stream.
#[derive(Debug)]
pub struct Lane<'a> {
    /// What they are hashed into.
    pub md5: &'a mut Md5,
    /// The bytes.
    pub data: &'a [u8],
}

/// A way of hashing that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// One stream on its way through [`Kernel::update`].
#[derive(Clone, Copy)]
struct Run<'a> {
    /// Which of the caller's lanes.
    lane: usize,
    /// Whole blocks not hashed yet; never empty.
    blocks: &'a [u8],
}

impl Kernel {
    /// The fastest one of this CPU.
    #[must_use]
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this CPU has, fastest first; the last is the scalar one.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::detect().map(|cpu| Self(Kind::Avx512(cpu))));
            all.extend(Avx2::detect().map(|cpu| Self(Kind::Avx2(cpu))));
        }
        all.push(Self(Kind::Scalar));
        all
    }

    /// Its name, for logs and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
        }
    }

    /// Streams it hashes at the price of one.
    #[must_use]
    pub const fn lanes(self) -> usize {
        match self.0 {
            Kind::Scalar => 2,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => 16,
        }
    }

    /// Hashes the bytes of every lane into its state: the same result as
    /// [`Md5::update`] for each, whatever their number and lengths.
    pub fn update(self, lanes: &mut [Lane<'_>]) {
        for lanes in lanes.chunks_mut(self.lanes()) {
            self.update_group(lanes);
        }
    }

    /// At most as many as the kernel has lanes.
    fn update_group(self, lanes: &mut [Lane<'_>]) {
        let nothing: &[u8] = &[];
        let mut tails = [nothing; LANES_MAX];
        let mut runs = [Run {
            lane: 0,
            blocks: nothing,
        }; LANES_MAX];
        let mut count = 0;
        for (index, lane) in lanes.iter_mut().enumerate() {
            let (head, blocks, tail) = lane.md5.split(lane.data);
            lane.md5.take_head(head);
            tails[index] = tail;
            if !blocks.is_empty() {
                runs[count] = Run {
                    lane: index,
                    blocks,
                };
                count += 1;
            }
        }
        while count > 0 {
            count = self.pass(lanes, &mut runs[..count]);
        }
        for (lane, tail) in lanes.iter_mut().zip(tails) {
            lane.md5.take_tail(tail);
        }
    }

    /// Hashes until at least one run is at its end; moves the others to the
    /// front and returns their number.
    fn pass(self, lanes: &mut [Lane<'_>], runs: &mut [Run<'_>]) -> usize {
        match (self.0, runs.len()) {
            (_, 0 | 1) => one_by_one(lanes, runs),
            // A pass of vectors takes as long as for all its lanes: longer than this
            // for two, and for four without AVX-512's instructions.
            (Kind::Scalar, _) | (_, 2) => pair(lanes, runs),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2(_), 3 | 4) => pair(lanes, runs),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2(cpu), _) => side_by_side::<8>(lanes, runs, |s, d| cpu.hash_8(s, d)),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512(cpu), ..=8) => side_by_side::<8>(lanes, runs, |s, d| cpu.hash_8(s, d)),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512(cpu), _) => side_by_side::<16>(lanes, runs, |s, d| cpu.hash_16(s, d)),
        }
    }
}

/// Hashes every run to its end.
fn one_by_one(lanes: &mut [Lane<'_>], runs: &[Run<'_>]) -> usize {
    for run in runs {
        let md5 = &mut *lanes[run.lane].md5;
        scalar::compress(&mut md5.state, run.blocks);
        md5.took(run.blocks.len());
    }
    0
}

/// Hashes the first two runs until one is at its end; the others wait.
fn pair(lanes: &mut [Lane<'_>], runs: &mut [Run<'_>]) -> usize {
    let pair = &mut runs[..2];
    let left = side_by_side::<2>(lanes, pair, |s, d| scalar::compress_pair(s, *d));
    runs.copy_within(2.., left);
    left + runs.len() - 2
}

/// One pass of a kernel with `N` lanes over at most `N` runs.
fn side_by_side<const N: usize>(
    lanes: &mut [Lane<'_>],
    runs: &mut [Run<'_>],
    hash: impl Fn(&mut [[u32; 4]; N], &[&[u8]; N]) -> usize,
) -> usize {
    // A lane without a stream repeats the first one; its result is dropped.
    let mut states = [lanes[runs[0].lane].md5.state; N];
    let mut data = [runs[0].blocks; N];
    for (at, run) in runs.iter().enumerate() {
        states[at] = lanes[run.lane].md5.state;
        data[at] = run.blocks;
    }
    let bytes = hash(&mut states, &data) * BLOCK_BYTES;
    let mut left = 0;
    for at in 0..runs.len() {
        let run = runs[at];
        let md5 = &mut *lanes[run.lane].md5;
        md5.state = states[at];
        md5.took(bytes);
        let blocks = &run.blocks[bytes..];
        if !blocks.is_empty() {
            runs[left] = Run { blocks, ..run };
            left += 1;
        }
    }
    left
}
