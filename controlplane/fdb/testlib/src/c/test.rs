//! What tests ask for beyond the C API, by the path of the cluster file.
#![expect(unsafe_code, reason = "exported for tests that load the library")]

use std::ffi::{CStr, c_char};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::database::{self, Database};

/// # Safety
/// `path` is a C string.
unsafe fn open(path: *const c_char) -> Option<Arc<Database>> {
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    database::open(path.to_str().ok()?).ok()
}

/// Sets the plan of faults; not 0 when it means nothing or there is no such file.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_test_faults(path: *const c_char, plan: *const c_char) -> i32 {
    // SAFETY: the caller's promise.
    let (database, plan) = unsafe { (open(path), CStr::from_ptr(plan)) };
    let set = match (database, plan.to_str()) {
        (Some(database), Ok(plan)) => database.faults().set(plan).is_ok(),
        _ => false,
    };
    i32::from(!set)
}

/// Moves the clock on.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_test_advance(path: *const c_char, by_ms: u64) {
    // SAFETY: the caller's promise.
    if let Some(database) = unsafe { open(path) } {
        database.clock.advance(by_ms);
    }
}

/// Writes what was counted: commits, gets, pages, read versions, watches, faults.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_test_counts(path: *const c_char, out: *mut [u64; 6]) {
    // SAFETY: the caller's promise.
    let Some(database) = (unsafe { open(path) }) else {
        return;
    };
    let counts = &database.counts;
    let read = [
        counts.commits.load(Ordering::SeqCst),
        counts.gets.load(Ordering::SeqCst),
        counts.pages.load(Ordering::SeqCst),
        counts.read_versions.load(Ordering::SeqCst),
        counts.watches.load(Ordering::SeqCst),
        database.faults().injected(),
    ];
    // SAFETY: the caller's promise.
    unsafe { *out = read };
}
