//! Error codes: their texts and their kinds. From the manual, "Error Codes".
#![expect(unsafe_code, reason = "exported under the names of the C API")]

use std::ffi::{CStr, c_char, c_int};

use foundationdb_sys::{
    FDBErrorPredicate_FDB_ERROR_PREDICATE_MAYBE_COMMITTED as MAYBE_COMMITTED,
    FDBErrorPredicate_FDB_ERROR_PREDICATE_RETRYABLE as RETRYABLE,
    FDBErrorPredicate_FDB_ERROR_PREDICATE_RETRYABLE_NOT_COMMITTED as RETRYABLE_NOT_COMMITTED,
    fdb_bool_t, fdb_error_t,
};

/// The transaction may have been committed.
fn is_maybe_committed(code: fdb_error_t) -> bool {
    matches!(code, 1021 | 1039)
}

fn is_retryable_not_committed(code: fdb_error_t) -> bool {
    matches!(
        code,
        1007 | 1009 | 1020 | 1037 | 1038 | 1042 | 1051 | 1078 | 1213 | 1223
    )
}

pub(super) fn is_retryable(code: fdb_error_t) -> bool {
    is_maybe_committed(code) || is_retryable_not_committed(code)
}

fn text(code: fdb_error_t) -> &'static CStr {
    match code {
        0 => c"Success",
        1007 => c"Transaction is too old to perform reads or be committed",
        1009 => c"Request for future version",
        1020 => c"Transaction not committed due to conflict with another transaction",
        1021 => c"Transaction may or may not have committed",
        1025 => c"Operation aborted because the transaction was cancelled",
        1031 => c"Operation aborted because the transaction timed out",
        1032 => c"Too many watches currently set",
        1036 => c"Read or wrote an unreadable key",
        1037 => c"Storage process does not have recent mutations",
        1039 => c"Cluster has been upgraded to a new protocol version",
        1042 => c"Transaction rejected due to resource constraints",
        1101 => c"Asynchronous operation cancelled",
        1213 => c"Transaction tag is being throttled",
        1500 => c"Platform error",
        1510 => c"Invalid connection string",
        1515 => c"No cluster file found",
        2000 => c"Invalid API call",
        2004 => c"Key outside legal range",
        2005 => c"Range begin key larger than end key",
        2007 => c"Option not valid in this context",
        2008 => c"Action not possible before the network is configured",
        2009 => c"Action not possible because the network is configured already",
        2012 => c"Range limits not valid",
        2017 => c"Operation issued while a commit was outstanding",
        2018 => c"Unrecognized atomic mutation type",
        2021 => c"No commit version as the transaction was read-only",
        2101 => c"Transaction exceeds byte limit",
        2102 => c"Key length exceeds limit",
        2103 => c"Value length exceeds limit",
        2108 => c"Operation is not supported",
        2201 => c"API version may be set only once",
        2203 => c"API version not supported",
        4100 => c"An internal error occurred",
        _ => c"Unknown error",
    }
}

#[unsafe(no_mangle)]
extern "C" fn fdb_get_error(code: fdb_error_t) -> *const c_char {
    text(code).as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn fdb_error_predicate(predicate_test: c_int, code: fdb_error_t) -> fdb_bool_t {
    let holds = match u32::try_from(predicate_test) {
        Ok(RETRYABLE) => is_retryable(code),
        Ok(MAYBE_COMMITTED) => is_maybe_committed(code),
        Ok(RETRYABLE_NOT_COMMITTED) => is_retryable_not_committed(code),
        _ => false,
    };
    fdb_bool_t::from(holds)
}
