//! The functions of the C API that the crate `foundationdb` calls: each calls the
//! loaded library's. Before a library is loaded they end the process.
#![expect(
    unsafe_code,
    reason = "calls into the client library, whose symbols have the C header's types"
)]

use std::ffi::{c_char, c_double, c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;

use libloading::Library;

use crate::load::LoadError;
use crate::options::*;
use crate::types::*;

/// The loaded library's functions.
pub(crate) static LOADED: OnceLock<Forwards> = OnceLock::new();

macro_rules! forward {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)?;)*) => {
        /// A loaded library: the address of every function.
        pub(crate) struct Forwards {
            $($name: unsafe extern "C" fn($($type),*) $(-> $answer)?,)*
            _library: Library,
        }

        /// The names of all functions.
        pub const SYMBOLS: &[&str] = &[$(stringify!($name)),*];

        impl Forwards {
            /// Loads a library and looks every function up.
            pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
                // SAFETY: runs the initialisers of the library the operator chose;
                // whether they are sound is the library's affair, as with linking.
                let library = unsafe { Library::new(path) }.map_err(|error| LoadError::Library {
                    path: path.to_path_buf(),
                    reason: reason(&error),
                })?;
                Ok(Self {
                    $(
                        // SAFETY: the C header declares the function with this type.
                        $name: *unsafe {
                            library.get::<unsafe extern "C" fn($($type),*) $(-> $answer)?>(
                                concat!(stringify!($name), "\0").as_bytes(),
                            )
                        }
                        .map_err(|_| LoadError::Symbol {
                            path: path.to_path_buf(),
                            symbol: stringify!($name),
                        })?,
                    )*
                    _library: library,
                })
            }
        }

        $(
            /// See the C API.
            ///
            /// # Safety
            /// As the C API's function of this name; a library must be loaded.
            pub unsafe fn $name($($argument: $type),*) $(-> $answer)? {
                let Some(loaded) = LOADED.get() else { not_loaded() };
                // SAFETY: the caller's promise; the library is never unloaded.
                unsafe { (loaded.$name)($($argument),*) }
            }
        )*
    };
}

/// What the dynamic linker said, without the library's path before it.
fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// A mistake of the program: no answer would be true.
fn not_loaded() -> ! {
    eprintln!("a FoundationDB function was called before its client library was loaded");
    std::process::abort()
}

forward! {
    fn fdb_select_api_version_impl(runtime_version: c_int, header_version: c_int) -> fdb_error_t;
    fn fdb_get_max_api_version() -> c_int;
    fn fdb_network_set_option(option: FDBNetworkOption, value: *const u8, value_length: c_int) -> fdb_error_t;
    fn fdb_setup_network() -> fdb_error_t;
    fn fdb_run_network() -> fdb_error_t;
    fn fdb_stop_network() -> fdb_error_t;

    fn fdb_get_error(code: fdb_error_t) -> *const c_char;
    fn fdb_error_predicate(predicate_test: c_int, code: fdb_error_t) -> fdb_bool_t;

    fn fdb_future_destroy(f: *mut FDBFuture);
    fn fdb_future_is_ready(f: *mut FDBFuture) -> fdb_bool_t;
    fn fdb_future_set_callback(f: *mut FDBFuture, callback: FDBCallback, callback_parameter: *mut c_void) -> fdb_error_t;
    fn fdb_future_get_error(f: *mut FDBFuture) -> fdb_error_t;
    fn fdb_future_get_int64(f: *mut FDBFuture, out: *mut i64) -> fdb_error_t;
    fn fdb_future_get_key(f: *mut FDBFuture, out_key: *mut *const u8, out_key_length: *mut c_int) -> fdb_error_t;
    fn fdb_future_get_value(f: *mut FDBFuture, out_present: *mut fdb_bool_t, out_value: *mut *const u8, out_value_length: *mut c_int) -> fdb_error_t;
    fn fdb_future_get_keyvalue_array(f: *mut FDBFuture, out_kv: *mut *const FDBKeyValue, out_count: *mut c_int, out_more: *mut fdb_bool_t) -> fdb_error_t;
    fn fdb_future_get_mappedkeyvalue_array(f: *mut FDBFuture, out_kv: *mut *const FDBMappedKeyValue, out_count: *mut c_int, out_more: *mut fdb_bool_t) -> fdb_error_t;
    fn fdb_future_get_key_array(f: *mut FDBFuture, out_key_array: *mut *const FDBKey, out_count: *mut c_int) -> fdb_error_t;
    fn fdb_future_get_string_array(f: *mut FDBFuture, out_strings: *mut *mut *const c_char, out_count: *mut c_int) -> fdb_error_t;

    fn fdb_create_database(cluster_file_path: *const c_char, out_database: *mut *mut FDBDatabase) -> fdb_error_t;
    fn fdb_database_destroy(d: *mut FDBDatabase);
    fn fdb_database_set_option(d: *mut FDBDatabase, option: FDBDatabaseOption, value: *const u8, value_length: c_int) -> fdb_error_t;
    fn fdb_database_create_transaction(d: *mut FDBDatabase, out_transaction: *mut *mut FDBTransaction) -> fdb_error_t;
    fn fdb_database_get_client_status(db: *mut FDBDatabase) -> *mut FDBFuture;
    fn fdb_database_get_main_thread_busyness(db: *mut FDBDatabase) -> c_double;

    fn fdb_transaction_destroy(tr: *mut FDBTransaction);
    fn fdb_transaction_cancel(tr: *mut FDBTransaction);
    fn fdb_transaction_reset(tr: *mut FDBTransaction);
    fn fdb_transaction_set_option(tr: *mut FDBTransaction, option: FDBTransactionOption, value: *const u8, value_length: c_int) -> fdb_error_t;
    fn fdb_transaction_set_read_version(tr: *mut FDBTransaction, version: i64);
    fn fdb_transaction_get_read_version(tr: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_get(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int, snapshot: fdb_bool_t) -> *mut FDBFuture;
    fn fdb_transaction_get_key(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int, or_equal: fdb_bool_t, offset: c_int, snapshot: fdb_bool_t) -> *mut FDBFuture;
    fn fdb_transaction_get_range(tr: *mut FDBTransaction, begin_key_name: *const u8, begin_key_name_length: c_int, begin_or_equal: fdb_bool_t, begin_offset: c_int, end_key_name: *const u8, end_key_name_length: c_int, end_or_equal: fdb_bool_t, end_offset: c_int, limit: c_int, target_bytes: c_int, mode: FDBStreamingMode, iteration: c_int, snapshot: fdb_bool_t, reverse: fdb_bool_t) -> *mut FDBFuture;
    fn fdb_transaction_get_mapped_range(tr: *mut FDBTransaction, begin_key_name: *const u8, begin_key_name_length: c_int, begin_or_equal: fdb_bool_t, begin_offset: c_int, end_key_name: *const u8, end_key_name_length: c_int, end_or_equal: fdb_bool_t, end_offset: c_int, mapper_name: *const u8, mapper_name_length: c_int, limit: c_int, target_bytes: c_int, mode: FDBStreamingMode, iteration: c_int, snapshot: fdb_bool_t, reverse: fdb_bool_t) -> *mut FDBFuture;
    fn fdb_transaction_get_addresses_for_key(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int) -> *mut FDBFuture;
    fn fdb_transaction_get_estimated_range_size_bytes(tr: *mut FDBTransaction, begin_key_name: *const u8, begin_key_name_length: c_int, end_key_name: *const u8, end_key_name_length: c_int) -> *mut FDBFuture;
    fn fdb_transaction_get_range_split_points(tr: *mut FDBTransaction, begin_key_name: *const u8, begin_key_name_length: c_int, end_key_name: *const u8, end_key_name_length: c_int, chunk_size: i64) -> *mut FDBFuture;
    fn fdb_transaction_set(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int, value: *const u8, value_length: c_int);
    fn fdb_transaction_clear(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int);
    fn fdb_transaction_clear_range(tr: *mut FDBTransaction, begin_key_name: *const u8, begin_key_name_length: c_int, end_key_name: *const u8, end_key_name_length: c_int);
    fn fdb_transaction_atomic_op(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int, param: *const u8, param_length: c_int, operation_type: FDBMutationType);
    fn fdb_transaction_add_conflict_range(tr: *mut FDBTransaction, begin_key_name: *const u8, begin_key_name_length: c_int, end_key_name: *const u8, end_key_name_length: c_int, kind: FDBConflictRangeType) -> fdb_error_t;
    fn fdb_transaction_watch(tr: *mut FDBTransaction, key_name: *const u8, key_name_length: c_int) -> *mut FDBFuture;
    fn fdb_transaction_commit(tr: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_get_committed_version(tr: *mut FDBTransaction, out_version: *mut i64) -> fdb_error_t;
    fn fdb_transaction_get_approximate_size(tr: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_get_versionstamp(tr: *mut FDBTransaction) -> *mut FDBFuture;
    fn fdb_transaction_on_error(tr: *mut FDBTransaction, error: fdb_error_t) -> *mut FDBFuture;
}
