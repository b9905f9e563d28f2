//! The programs in this binary, and loading them.

use aya::{Ebpf, EbpfLoader};

use crate::Unavailable;

#[cfg(programs_built)]
const PROGRAMS: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("PROGRAMS")));
#[cfg(not(programs_built))]
const PROGRAMS: Option<&[u8]> = None;

/// Whether this binary has the programs.
#[must_use]
pub fn is_built() -> bool {
    PROGRAMS.is_some()
}

/// Makes all maps and reads all programs, which know the numbers that `tell` sets; none
/// of them is in the kernel yet.
pub(crate) fn open<'n>(tell: impl FnOnce(&mut EbpfLoader<'n>)) -> Result<Ebpf, Unavailable> {
    let programs = PROGRAMS.ok_or(Unavailable::NotBuilt)?;
    let mut loader = EbpfLoader::new();
    tell(&mut loader);
    let opened = loader.load(programs);
    opened.map_err(Unavailable::refused("making the maps"))
}
