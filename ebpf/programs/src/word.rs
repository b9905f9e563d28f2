//! Words that others read and write at the same time.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::sync::atomic::AtomicU64;

/// Of maps whose value the loader maps into its memory (BPF_F_MMAPABLE).
pub(crate) const MAPPABLE: u32 = 1 << 10;

/// What is there now. LLVM has no atomic loads for BPF before v4 of its instructions;
/// an aligned load of eight bytes is one.
#[inline(always)]
pub(crate) fn read(word: &AtomicU64) -> u64 {
    // SAFETY: the pointer is that of a live, aligned atomic.
    unsafe { word.as_ptr().read_volatile() }
}

/// Adds `amount`, wrapping, and returns what was there before.
#[inline(always)]
pub(crate) fn add(word: &AtomicU64, amount: u64) -> u64 {
    // SAFETY: as above; BPF has an instruction for it.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word.as_ptr(), amount) }
}

/// A number that the loader sets; the compiler must not take it for what it is here.
#[inline(always)]
pub(crate) fn constant<T: Copy>(number: &'static T) -> T {
    // SAFETY: it is a reference.
    unsafe { core::ptr::from_ref(number).read_volatile() }
}
