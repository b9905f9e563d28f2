//! Databases.
#![expect(unsafe_code, reason = "exported under the names of the C API")]

use std::ffi::{CStr, c_char, c_double, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foundationdb_sys::{
    FDBDatabase, FDBDatabaseOption,
    FDBDatabaseOption_FDB_DB_OPTION_TRANSACTION_MAX_RETRY_DELAY as MAX_RETRY_DELAY,
    FDBDatabaseOption_FDB_DB_OPTION_TRANSACTION_RETRY_LIMIT as RETRY_LIMIT,
    FDBDatabaseOption_FDB_DB_OPTION_TRANSACTION_TIMEOUT as TIMEOUT, FDBFuture, FDBTransaction,
    fdb_error_t,
};

use super::bytes;
use super::future::hand_out;
use crate::database::{self, Database};
use crate::promise::Promise;
use crate::transaction::Transaction;

const NO_CLUSTER_FILE_FOUND: i32 = 1515;
const INVALID_OPTION_VALUE: i32 = 2006;
const INVALID_OPTION: i32 = 2007;
pub(super) const UNSUPPORTED_OPERATION: i32 = 2108;

/// A handle of a database with the defaults of its transactions.
struct Handle {
    database: Arc<Database>,
    /// 0 is none.
    timeout_ms: AtomicU64,
}

/// # Safety
/// `d` is a handle that was not destroyed.
unsafe fn handle<'a>(d: *mut FDBDatabase) -> &'a Handle {
    // SAFETY: `fdb_create_database` made it from such a box.
    unsafe { &*d.cast::<Handle>() }
}

/// A number of an option: eight bytes, the lowest first.
pub(super) fn number(value: &[u8]) -> Result<u64, i32> {
    let number = value.try_into().map_err(|_| INVALID_OPTION_VALUE)?;
    u64::try_from(i64::from_le_bytes(number)).map_err(|_| INVALID_OPTION_VALUE)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_create_database(
    cluster_file_path: *const c_char,
    out_database: *mut *mut FDBDatabase,
) -> fdb_error_t {
    if cluster_file_path.is_null() {
        return NO_CLUSTER_FILE_FOUND;
    }
    // SAFETY: a C string, as the caller promises.
    let path = unsafe { CStr::from_ptr(cluster_file_path) };
    let Ok(path) = path.to_str() else {
        return NO_CLUSTER_FILE_FOUND;
    };
    match database::open(path) {
        Ok(database) => {
            let handle = Handle {
                database,
                timeout_ms: AtomicU64::new(0),
            };
            // SAFETY: the caller's promise.
            unsafe { *out_database = Box::into_raw(Box::new(handle)).cast() };
            0
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_database_destroy(d: *mut FDBDatabase) {
    // SAFETY: `fdb_create_database` made it; the caller uses it no more.
    drop(unsafe { Box::from_raw(d.cast::<Handle>()) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_database_set_option(
    d: *mut FDBDatabase,
    option: FDBDatabaseOption,
    value: *const u8,
    value_length: c_int,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    let (handle, value) = unsafe { (handle(d), bytes(value, value_length)) };
    match option {
        TIMEOUT => match number(value) {
            Ok(ms) => {
                handle.timeout_ms.store(ms, Ordering::SeqCst);
                0
            }
            Err(code) => code,
        },
        // About retries that this library leaves to `on_error`.
        RETRY_LIMIT | MAX_RETRY_DELAY => 0,
        _ => INVALID_OPTION,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_database_create_transaction(
    d: *mut FDBDatabase,
    out_transaction: *mut *mut FDBTransaction,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    let handle = unsafe { handle(d) };
    let timeout = match handle.timeout_ms.load(Ordering::SeqCst) {
        0 => None,
        ms => Some(Duration::from_millis(ms)),
    };
    let transaction = Transaction::begin(Arc::clone(&handle.database), timeout);
    // SAFETY: the caller's promise.
    unsafe { *out_transaction = Box::into_raw(Box::new(transaction)).cast() };
    0
}

#[unsafe(no_mangle)]
extern "C" fn fdb_database_get_client_status(_d: *mut FDBDatabase) -> *mut FDBFuture {
    hand_out(Promise::ready(Err(UNSUPPORTED_OPERATION)))
}

#[unsafe(no_mangle)]
extern "C" fn fdb_database_get_main_thread_busyness(_d: *mut FDBDatabase) -> c_double {
    0.0
}
