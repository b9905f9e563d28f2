//! Futures.
#![expect(unsafe_code, reason = "exported under the names of the C API")]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use foundationdb_sys::{
    FDBCallback, FDBFuture, FDBKey, FDBKeyValue, FDBMappedKeyValue, fdb_bool_t, fdb_error_t,
};

use crate::promise::{Answer, Outcome, Promise, length};

const FUTURE_NOT_SET: i32 = 2001;
const CLIENT_INVALID_OPERATION: i32 = 2000;
const OPERATION_CANCELLED: i32 = 1101;

/// A handle for the caller, who destroys it.
pub(super) fn hand_out(promise: Promise) -> *mut FDBFuture {
    Box::into_raw(Box::new(promise)).cast()
}

/// # Safety
/// `future` is a handle that was not destroyed.
unsafe fn promise<'a>(future: *mut FDBFuture) -> &'a Promise {
    // SAFETY: `hand_out` made it from such a box.
    unsafe { &*future.cast::<Promise>() }
}

/// Lends what the future holds: it does not change, and lives as long as the
/// handle, by the promise's own reference.
///
/// # Safety
/// As for [`promise`].
unsafe fn outcome<'a>(future: *mut FDBFuture) -> Result<&'a Answer, i32> {
    // SAFETY: the caller's promise.
    let outcome: Arc<Outcome> = unsafe { promise(future) }.outcome().ok_or(FUTURE_NOT_SET)?;
    // SAFETY: the promise keeps the outcome until it is destroyed with the handle.
    match unsafe { &*Arc::as_ptr(&outcome) } {
        Ok(answer) => Ok(answer),
        Err(code) => Err(*code),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_destroy(f: *mut FDBFuture) {
    // SAFETY: `hand_out` made it; the caller uses it no more.
    let promise = unsafe { Box::from_raw(f.cast::<Promise>()) };
    // As the real library does: whoever still waits is told.
    promise.set(Err(OPERATION_CANCELLED));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_is_ready(f: *mut FDBFuture) -> fdb_bool_t {
    // SAFETY: the caller's promise.
    fdb_bool_t::from(unsafe { promise(f) }.outcome().is_some())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_set_callback(
    f: *mut FDBFuture,
    callback: FDBCallback,
    parameter: *mut c_void,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    unsafe { promise(f) }.set_callback(callback, f, parameter);
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_error(f: *mut FDBFuture) -> fdb_error_t {
    // SAFETY: the caller's promise.
    unsafe { outcome(f) }.err().unwrap_or(0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_int64(f: *mut FDBFuture, out: *mut i64) -> fdb_error_t {
    // SAFETY: the caller's promise.
    match unsafe { outcome(f) } {
        Ok(Answer::Number(number)) => {
            // SAFETY: the caller's promise.
            unsafe { *out = *number };
            0
        }
        Ok(_) => CLIENT_INVALID_OPERATION,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_key(
    f: *mut FDBFuture,
    out_key: *mut *const u8,
    out_length: *mut c_int,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    match unsafe { outcome(f) } {
        Ok(Answer::Key(key)) => {
            // SAFETY: the caller's promise.
            unsafe {
                *out_key = key.as_ptr();
                *out_length = length(key);
            }
            0
        }
        Ok(_) => CLIENT_INVALID_OPERATION,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_value(
    f: *mut FDBFuture,
    out_present: *mut fdb_bool_t,
    out_value: *mut *const u8,
    out_length: *mut c_int,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    match unsafe { outcome(f) } {
        Ok(Answer::Value(value)) => {
            let bytes = value.as_deref().unwrap_or_default();
            // SAFETY: the caller's promise.
            unsafe {
                *out_present = fdb_bool_t::from(value.is_some());
                *out_value = bytes.as_ptr();
                *out_length = length(bytes);
            }
            0
        }
        Ok(_) => CLIENT_INVALID_OPERATION,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_keyvalue_array(
    f: *mut FDBFuture,
    out_rows: *mut *const FDBKeyValue,
    out_count: *mut c_int,
    out_more: *mut fdb_bool_t,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    match unsafe { outcome(f) } {
        Ok(Answer::Rows(page)) => {
            // SAFETY: the caller's promise.
            unsafe {
                *out_rows = page.array.as_ptr();
                *out_count = c_int::try_from(page.array.len()).unwrap_or(c_int::MAX);
                *out_more = fdb_bool_t::from(page.more);
            }
            0
        }
        Ok(_) => CLIENT_INVALID_OPERATION,
        Err(code) => code,
    }
}

/// No future here holds such an array.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_mappedkeyvalue_array(
    f: *mut FDBFuture,
    _out_rows: *mut *const FDBMappedKeyValue,
    _out_count: *mut c_int,
    _out_more: *mut fdb_bool_t,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    unsafe { outcome(f) }
        .err()
        .unwrap_or(CLIENT_INVALID_OPERATION)
}

/// No future here holds such an array.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_key_array(
    f: *mut FDBFuture,
    _out_keys: *mut *const FDBKey,
    _out_count: *mut c_int,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    unsafe { outcome(f) }
        .err()
        .unwrap_or(CLIENT_INVALID_OPERATION)
}

/// No future here holds such an array.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_string_array(
    f: *mut FDBFuture,
    _out_strings: *mut *mut *const c_char,
    _out_count: *mut c_int,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    unsafe { outcome(f) }
        .err()
        .unwrap_or(CLIENT_INVALID_OPERATION)
}
