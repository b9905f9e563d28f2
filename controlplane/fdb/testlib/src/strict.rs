//! Misuse that ends the process in strict mode: a real library punishes it only
//! sometimes, or aborts as well.

use crate::database::Database;

/// Transactions larger than this are to be redesigned, says the manual. Bytes.
pub(crate) const TRANSACTION_BYTES: usize = 1_000_000;

/// Ends the process when `misused` and the database is strict.
pub(crate) fn refuse(database: &Database, misused: bool, what: &str) {
    if misused && database.faults().is_strict() {
        eprintln!("misuse of FoundationDB: {what}");
        std::process::abort();
    }
}
