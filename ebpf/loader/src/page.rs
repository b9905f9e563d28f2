//! The value of a map with one entry, in our own memory: what a program counts is read,
//! and what it is told is written, without a system call. `unsafe` of this crate is
//! here, in `netns.rs`, in `attached.rs`, in `call.rs` and in `device.rs`.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use quickwater_ebpf_shapes::{Balance, BypassCounts, HandoffCounts, Steer};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Layouts that consist of atomics only: valid whatever their bits, and whoever
/// writes them at the same time.
///
/// # Safety
/// Implementors have no field that is not an atomic.
pub(crate) unsafe trait Shape {}

// SAFETY: all its fields are atomics.
unsafe impl Shape for Balance {}
// SAFETY: as above.
unsafe impl Shape for BypassCounts {}
// SAFETY: as above.
unsafe impl Shape for Steer {}
// SAFETY: as above.
unsafe impl Shape for HandoffCounts {}

/// A mapped value; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Page<T> {
    value: NonNull<T>,
}

// SAFETY: it only gives out shared references to atomics; the mapping has no thread.
unsafe impl<T: Shape> Send for Page<T> {}
// SAFETY: as above.
unsafe impl<T: Shape> Sync for Page<T> {}

impl<T: Shape> Page<T> {
    /// Maps the only value of the array map `map`, made with BPF_F_MMAPABLE and values
    /// of `T`'s size.
    ///
    /// # Errors
    /// The kernel refuses, for one because the map is smaller.
    pub(crate) fn map(map: impl AsFd) -> rustix::io::Result<Self> {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                both,
                MapFlags::SHARED,
                map,
                0,
            )?
        };
        NonNull::new(address.cast())
            .map(|value| Page { value })
            .ok_or(rustix::io::Errno::FAULT)
    }
}

impl<T> Deref for Page<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping lives as long as `self`, begins at a page, and `T` is
        // valid whatever is in it (see `Shape`).
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Page<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every reference to it borrowed `self`.
        let unmapped = unsafe { munmap(self.value.as_ptr().cast(), size_of::<T>()) };
        // Only arguments that are no mapping are refused.
        debug_assert!(unmapped.is_ok());
    }
}
