//! What the client library's error codes mean here, by what the caller does next.
//!
//! The codes are those of FoundationDB's manual, "Error Codes".

use foundationdb::FdbError;
use quickwater_controlplane::store::{CommitError, StoreError};

const TRANSACTION_TOO_OLD: i32 = 1007;
const NOT_COMMITTED: i32 = 1020;
const COMMIT_UNKNOWN_RESULT: i32 = 1021;
const TRANSACTION_CANCELLED: i32 = 1025;
const TRANSACTION_TIMED_OUT: i32 = 1031;
const ACCESSED_UNREADABLE: i32 = 1036;
const CLUSTER_VERSION_CHANGED: i32 = 1039;
const CLIENT_INVALID_OPERATION: i32 = 2000;
const KEY_OUTSIDE_LEGAL_RANGE: i32 = 2004;
const INVERTED_RANGE: i32 = 2005;
const INVALID_MUTATION_TYPE: i32 = 2018;
const USED_DURING_COMMIT: i32 = 2017;
const TRANSACTION_TOO_LARGE: i32 = 2101;
const KEY_TOO_LARGE: i32 = 2102;
const VALUE_TOO_LARGE: i32 = 2103;

/// A read, or anything else before the commit was sent, failed.
pub(crate) fn read_error(error: FdbError) -> StoreError {
    match error.code() {
        TRANSACTION_TOO_OLD => StoreError::TooOld,
        ACCESSED_UNREADABLE => StoreError::Unreadable,
        KEY_TOO_LARGE => StoreError::KeyTooLarge,
        KEY_OUTSIDE_LEGAL_RANGE => StoreError::ReservedKey,
        _ if error.is_retryable() => StoreError::Again(error.message()),
        code => StoreError::Unavailable(format!("FoundationDB: {} ({code})", error.message())),
    }
}

/// A commit that was sent failed. Only what is known to leave nothing behind is
/// answered as not applied: the library's own "maybe committed" leaves out commits
/// that ended by a timeout or a cancellation, which may even be applied later.
pub(crate) fn commit_error(error: FdbError) -> CommitError {
    match error.code() {
        NOT_COMMITTED => CommitError::Conflict,
        TRANSACTION_TOO_OLD => CommitError::TooOld,
        COMMIT_UNKNOWN_RESULT
        | TRANSACTION_CANCELLED
        | TRANSACTION_TIMED_OUT
        | CLUSTER_VERSION_CHANGED => CommitError::Unknown,
        TRANSACTION_TOO_LARGE => CommitError::TooLarge("transaction"),
        KEY_TOO_LARGE => CommitError::TooLarge("key"),
        VALUE_TOO_LARGE => CommitError::TooLarge("value"),
        CLIENT_INVALID_OPERATION
        | KEY_OUTSIDE_LEGAL_RANGE
        | INVERTED_RANGE
        | USED_DURING_COMMIT
        | INVALID_MUTATION_TYPE => CommitError::Invalid(error.message()),
        _ if error.is_retryable_not_committed() => CommitError::Again(error.message()),
        code => {
            tracing::warn!(code, error = error.message(), "a commit of unknown outcome");
            CommitError::Unknown
        }
    }
}

/// A transaction could not even send its commit.
pub(crate) fn not_sent(error: FdbError) -> CommitError {
    match error.code() {
        TRANSACTION_TOO_OLD => CommitError::TooOld,
        _ if error.is_retryable() => CommitError::Again(error.message()),
        _ => CommitError::Unavailable(error.message()),
    }
}
