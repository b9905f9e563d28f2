//! The programs in this binary, and loading them.

use aya::{Ebpf, EbpfLoader};

use crate::Unavailable;

#[cfg(programs_built)]
const PROGRAMS: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("PROGRAMS")));
#[cfg(not(programs_built))]
const PROGRAMS: Option<&[u8]> = None;
/// Those that need more rights than the others already for their maps.
#[cfg(programs_built)]
const BYPASS: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("PROGRAMS_BYPASS")));
#[cfg(not(programs_built))]
const BYPASS: Option<&[u8]> = None;

/// Whether this binary has the programs.
#[must_use]
pub fn is_built() -> bool {
    PROGRAMS.is_some()
}

/// A name of the programs in this binary, of 16 characters; no others have it.
pub(crate) fn version() -> Option<String> {
    // FNV-1a: it tells versions apart, nobody gains by two of the same name.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    PROGRAMS.map(|programs| format!("{:016x}", programs.iter().fold(0xcbf2_9ce4_8422_2325, mix)))
}

/// Makes all maps and reads all programs, which know the numbers that `tell` sets; none
/// of them is in the kernel yet.
pub(crate) fn open<'n>(tell: impl FnOnce(&mut EbpfLoader<'n>)) -> Result<Ebpf, Unavailable> {
    load(PROGRAMS, tell)
}

/// The same for the programs of bypass.
pub(crate) fn open_bypass<'n>(tell: impl FnOnce(&mut EbpfLoader<'n>)) -> Result<Ebpf, Unavailable> {
    load(BYPASS, tell)
}

fn load<'n>(
    programs: Option<&[u8]>,
    tell: impl FnOnce(&mut EbpfLoader<'n>),
) -> Result<Ebpf, Unavailable> {
    let programs = programs.ok_or(Unavailable::NotBuilt)?;
    let mut loader = EbpfLoader::new();
    tell(&mut loader);
    let opened = loader.load(programs);
    opened.map_err(Unavailable::refused("making the maps"))
}
