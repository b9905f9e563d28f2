//! One anonymous mapping carved into exclusive slots; absent: who may use which.
#![expect(
    unsafe_code,
    reason = "the arena is memory from mmap, shared out as exclusive slots"
)]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A huge page: the mapping begins on such a border.
const HUGE_BYTES: usize = 2 << 20;

/// The operating system did not give the memory.
#[derive(Debug, Clone, thiserror::Error)]
#[error("mapping {bytes} bytes for buffers: {cause}")]
pub struct ArenaError {
    /// Bytes asked for.
    pub bytes: usize,
    /// What the system said.
    pub cause: rustix::io::Errno,
}

/// The mapping; unmapped when the last slot is gone.
struct Mapping {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping itself is only an address range; the bytes in it are
// reached through slots, which never overlap.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method of `Mapping` touches the bytes.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what mmap returned, and no slot is left,
        // because every slot holds an `Arc` of this mapping.
        if let Err(cause) = unsafe { munmap(self.base.as_ptr(), self.len) } {
            tracing::error!(%cause, "unmapping a buffer arena");
        }
    }
}

impl Mapping {
    fn new(len: usize) -> Result<Self, ArenaError> {
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let base = mapped.map_err(|cause| ArenaError { bytes: len, cause })?;
        match NonNull::new(base) {
            Some(base) => Ok(Self { base, len }),
            None => Err(ArenaError {
                bytes: len,
                cause: rustix::io::Errno::NOMEM,
            }),
        }
    }

    fn advise(&self, advice: Advice) -> rustix::io::Result<()> {
        // SAFETY: the whole range is ours, and neither MADV_HUGEPAGE nor
        // MADV_POPULATE_WRITE changes its content.
        unsafe { madvise(self.base.as_ptr(), self.len, advice) }
    }
}

/// Exclusive use of one run of bytes of the arena. Not `Clone`.
pub(crate) struct Slot {
    mapping: Arc<Mapping>,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a slot is the only way to its bytes, as a `Box<[u8]>` is.
unsafe impl Send for Slot {}
// SAFETY: `&Slot` gives out `&[u8]` only.
unsafe impl Sync for Slot {}

impl Slot {
    /// All bytes of the slot.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `base..base+len` lies in the mapping, which the Arc keeps alive;
        // pages of an anonymous mapping are initialised; `&self` forbids writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// All bytes of the slot, writable.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inside = self.base.as_ptr() as usize - self.mapping.base.as_ptr() as usize;
        write!(f, "Slot({inside}+{})", self.len)
    }
}

/// Maps enough for `layout` (count, bytes each) and carves it into slots, in
/// order of `layout`. Huge pages are a wish; without them all still works.
pub(crate) fn carve(
    layout: &[(usize, usize)],
    prefault: bool,
) -> Result<Vec<Vec<Slot>>, ArenaError> {
    let total: usize = layout.iter().map(|(count, bytes)| count * bytes).sum();
    // One huge page more, so that the first slot can begin on a huge-page border.
    let mapping = Mapping::new(total.next_multiple_of(HUGE_BYTES) + HUGE_BYTES)?;
    if let Err(cause) = mapping.advise(Advice::LinuxHugepage) {
        tracing::warn!(%cause, "no huge pages for buffers; small pages cost more CPU per byte");
    }
    if prefault && let Err(cause) = mapping.advise(Advice::LinuxPopulateWrite) {
        tracing::warn!(%cause, "buffers are not pre-faulted; first uses will be slower");
    }
    let address = mapping.base.as_ptr() as usize;
    let mut offset = address.next_multiple_of(HUGE_BYTES) - address;
    let mapping = Arc::new(mapping);
    let mut classes = Vec::with_capacity(layout.len());
    for &(count, bytes) in layout {
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            // SAFETY: `offset + bytes` is at most `total` plus the alignment gap,
            // which is less than the mapping's length; each offset is used once.
            let base = unsafe { mapping.base.cast::<u8>().add(offset) };
            slots.push(Slot {
                mapping: Arc::clone(&mapping),
                base,
                len: bytes,
            });
            offset += bytes;
        }
        classes.push(slots);
    }
    Ok(classes)
}
