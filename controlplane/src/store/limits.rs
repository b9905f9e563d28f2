//! The limits every backend obeys, FoundationDB's own where it has one
//! ("Known Limitations" of its manual). Nothing here is configurable.

use std::time::Duration;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 10_000;
/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Most affected data in one transaction, bytes: keys and values written, keys
/// of read and write conflict ranges.
pub const TRANSACTION_BYTES_MAX: usize = 10_000_000;
/// Longest time from a transaction's first read to its commit.
pub const TRANSACTION_AGE_MAX: Duration = Duration::from_secs(5);
/// Most rows in one answer of a scan; a larger limit is lowered to this.
pub const SCAN_ROWS_MAX: usize = 10_000;
/// Most bytes of keys and values in one answer of a scan, first row apart; a
/// larger limit is lowered to this.
pub const SCAN_BYTES_MAX: usize = 4 << 20;
/// Keys from here on are the system's, as in FoundationDB.
pub const SYSTEM_KEYS_START: u8 = 0xff;
/// Bytes in a commit version: eight of version, two of order within a batch,
/// both big-endian.
pub const VERSION_BYTES: usize = 10;

/// Most rows the range clears of one transaction may remove in the embedded
/// store, which writes a tombstone for each. `FoundationDB` has no such limit:
/// clear in pages.
pub const CLEARED_ROWS_MAX: usize = 100_000;
/// Most transactions waiting for the committer.
pub const QUEUE_TRANSACTIONS_MAX: usize = 4_096;
/// Most affected data waiting for the committer, bytes.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Most transactions in one durable batch; their order must fit in two bytes.
pub const GROUP_TRANSACTIONS_MAX: usize = 1_024;
/// Affected data in one durable batch, bytes, first transaction apart.
pub const GROUP_BYTES_MAX: usize = 8 << 20;
/// Memory for recent writes against which reads are checked, bytes. When it is
/// reached, the oldest are forgotten and older transactions end as too old.
pub const CONFLICT_WINDOW_BYTES_MAX: usize = 64 << 20;
/// Longest a relaxed commit stays unflushed while the store runs.
pub const UNFLUSHED_TIME_MAX: Duration = Duration::from_secs(1);
/// Rows of relaxed commits, bytes, from which on the next batch is flushed.
pub const UNFLUSHED_BYTES_MAX: usize = 4 << 20;
/// Longest a commit waits for its answer before the outcome is called unknown.
pub const COMMIT_WAIT_MAX: Duration = Duration::from_secs(30);

const _: () = assert!(GROUP_TRANSACTIONS_MAX < u16::MAX as usize);
const _: () = assert!(TRANSACTION_BYTES_MAX <= QUEUE_BYTES_MAX);
