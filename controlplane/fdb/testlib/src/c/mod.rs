//! The functions of the C API, by what they are called on. They turn pointers into
//! slices and back, no more.

mod database;
mod error;
mod future;
mod network;
mod test;
mod transaction;

/// The bytes behind a pointer of the C API, which may be null when there are none.
///
/// # Safety
/// `length` bytes must be readable there while the slice is used.
#[expect(unsafe_code, reason = "what the C API passes")]
unsafe fn bytes<'a>(start: *const u8, length: std::ffi::c_int) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: the caller's promise.
        Ok(length) if length > 0 && !start.is_null() => unsafe {
            std::slice::from_raw_parts(start, length)
        },
        _ => &[],
    }
}

/// What a function of the C API answers.
fn code(outcome: Result<(), i32>) -> foundationdb_sys::fdb_error_t {
    outcome.err().unwrap_or(0)
}
