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

/// Makes all maps and reads all programs, which know these numbers; none of them is in
/// the kernel yet.
pub(crate) fn open(numbers: &[(&'static str, u32)]) -> Result<Ebpf, Unavailable> {
    let programs = PROGRAMS.ok_or(Unavailable::NotBuilt)?;
    let mut loader = EbpfLoader::new();
    for (name, number) in numbers {
        loader.override_global(name, number, true);
    }
    let opened = loader.load(programs);
    opened.map_err(Unavailable::refused("making the maps"))
}
