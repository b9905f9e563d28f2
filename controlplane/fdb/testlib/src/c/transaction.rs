//! Transactions.
#![expect(unsafe_code, reason = "exported under the names of the C API")]

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foundationdb_sys::{
    FDBConflictRangeType, FDBConflictRangeType_FDB_CONFLICT_RANGE_TYPE_READ as READ, FDBFuture,
    FDBMutationType, FDBMutationType_FDB_MUTATION_TYPE_ADD as ADD,
    FDBMutationType_FDB_MUTATION_TYPE_SET_VERSIONSTAMPED_VALUE as STAMP_VALUE, FDBStreamingMode,
    FDBTransaction, FDBTransactionOption,
    FDBTransactionOption_FDB_TR_OPTION_MAX_RETRY_DELAY as MAX_RETRY_DELAY,
    FDBTransactionOption_FDB_TR_OPTION_RETRY_LIMIT as RETRY_LIMIT,
    FDBTransactionOption_FDB_TR_OPTION_TIMEOUT as TIMEOUT, fdb_bool_t, fdb_error_t,
};
use quickwater_controlplane::store::limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX};
use quickwater_controlplane::store::{KeyRange, Scan};

use super::database::{UNSUPPORTED_OPERATION, number};
use super::error::is_retryable;
use super::future::hand_out;
use super::{bytes, code};
use crate::database::Counts;
use crate::promise::{Answer, Page, Promise};
use crate::selector::Selector;
use crate::session::Session;
use crate::transaction::Transaction;

const CLIENT_INVALID_OPERATION: i32 = 2000;
const INVERTED_RANGE: i32 = 2005;
const INVALID_OPTION: i32 = 2007;
const RANGE_LIMITS_INVALID: i32 = 2012;
const INVALID_MUTATION_TYPE: i32 = 2018;
/// Bytes of a page unless the caller wants fewer, about as a cluster has it.
const PAGE_BYTES: usize = 80_000;

/// # Safety
/// `tr` is a handle that was not destroyed.
unsafe fn handle<'a>(tr: *mut FDBTransaction) -> &'a Arc<Transaction> {
    // SAFETY: `fdb_database_create_transaction` made it from such a box.
    unsafe { &*tr.cast::<Arc<Transaction>>() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_destroy(tr: *mut FDBTransaction) {
    // SAFETY: as for `handle`; the caller uses it no more.
    let transaction = unsafe { Box::from_raw(tr.cast::<Arc<Transaction>>()) };
    transaction.cancel();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_cancel(tr: *mut FDBTransaction) {
    // SAFETY: the caller's promise.
    unsafe { handle(tr) }.cancel();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_reset(tr: *mut FDBTransaction) {
    // SAFETY: the caller's promise.
    unsafe { handle(tr) }.reset();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_set_option(
    tr: *mut FDBTransaction,
    option: FDBTransactionOption,
    value: *const u8,
    value_length: c_int,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    let (transaction, value) = unsafe { (handle(tr), bytes(value, value_length)) };
    match option {
        TIMEOUT => code(number(value).map(|ms| {
            transaction.set_timeout((ms > 0).then(|| Duration::from_millis(ms)));
        })),
        RETRY_LIMIT | MAX_RETRY_DELAY => 0,
        _ => INVALID_OPTION,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_set_read_version(tr: *mut FDBTransaction, version: i64) {
    // SAFETY: the caller's promise.
    unsafe { handle(tr) }.set_read_version(version);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_read_version(tr: *mut FDBTransaction) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    hand_out(unsafe { handle(tr) }.read_version())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get(
    tr: *mut FDBTransaction,
    key: *const u8,
    key_length: c_int,
    snapshot: fdb_bool_t,
) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    let (transaction, key) = unsafe { (handle(tr), bytes(key, key_length)) };
    Counts::add(&transaction.database().counts.gets);
    transaction.trace("get", key, 0);
    hand_out(transaction.read(|session| Ok(Answer::Value(session.get(key, snapshot != 0)?))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_key(
    tr: *mut FDBTransaction,
    key: *const u8,
    key_length: c_int,
    or_equal: fdb_bool_t,
    offset: c_int,
    snapshot: fdb_bool_t,
) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    let transaction = unsafe { handle(tr) };
    // SAFETY: the caller's promise.
    let selector = unsafe { selector(key, key_length, or_equal, offset) };
    hand_out(transaction.read(|session| Ok(Answer::Key(selector.resolve(session, snapshot != 0)?))))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_range(
    tr: *mut FDBTransaction,
    begin_key: *const u8,
    begin_key_length: c_int,
    begin_or_equal: fdb_bool_t,
    begin_offset: c_int,
    end_key: *const u8,
    end_key_length: c_int,
    end_or_equal: fdb_bool_t,
    end_offset: c_int,
    limit: c_int,
    target_bytes: c_int,
    _mode: FDBStreamingMode,
    _iteration: c_int,
    snapshot: fdb_bool_t,
    reverse: fdb_bool_t,
) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    let transaction = unsafe { handle(tr) };
    // SAFETY: the caller's promise.
    let begin = unsafe { selector(begin_key, begin_key_length, begin_or_equal, begin_offset) };
    // SAFETY: the caller's promise.
    let end = unsafe { selector(end_key, end_key_length, end_or_equal, end_offset) };
    let (Ok(limit), Ok(target_bytes)) = (usize::try_from(limit), usize::try_from(target_bytes))
    else {
        return hand_out(Promise::ready(Err(RANGE_LIMITS_INVALID)));
    };
    Counts::add(&transaction.database().counts.pages);
    transaction.trace("page", &begin.key, 0);
    let page_rows = transaction.database().faults().page_rows();
    let scan = Scan {
        range: KeyRange::new(Bytes::new(), Bytes::new()),
        rows_max: [Some(limit).filter(|limit| *limit > 0), page_rows]
            .into_iter()
            .flatten()
            .fold(SCAN_ROWS_MAX, usize::min),
        bytes_max: match target_bytes {
            0 => PAGE_BYTES,
            wanted => wanted.min(PAGE_BYTES).min(SCAN_BYTES_MAX),
        },
        reverse: reverse != 0,
        snapshot: snapshot != 0,
    };
    hand_out(transaction.read(|session| Ok(Answer::Rows(page(session, &begin, &end, scan)?))))
}

/// One page of the rows between two selectors.
fn page(
    session: &mut Session,
    begin: &Selector,
    end: &Selector,
    mut scan: Scan,
) -> Result<Page, i32> {
    let mut border = |selector: &Selector| match selector.border() {
        Some(border) => Ok(border),
        None => selector.resolve(session, scan.snapshot),
    };
    scan.range = KeyRange::new(border(begin)?, border(end)?);
    let found = session.scan(scan)?;
    let rows = found.rows.into_iter().map(|row| (row.key, row.value));
    Ok(Page::new(rows.collect(), found.more))
}

/// # Safety
/// As the C API's functions that take a selector.
unsafe fn selector(
    key: *const u8,
    key_length: c_int,
    or_equal: fdb_bool_t,
    offset: c_int,
) -> Selector {
    Selector {
        // SAFETY: the caller's promise.
        key: Bytes::copy_from_slice(unsafe { bytes(key, key_length) }),
        or_equal: or_equal != 0,
        offset,
    }
}

fn unsupported() -> *mut FDBFuture {
    hand_out(Promise::ready(Err(UNSUPPORTED_OPERATION)))
}

#[unsafe(no_mangle)]
extern "C" fn fdb_transaction_get_mapped_range(
    _tr: *mut FDBTransaction,
    _begin_key: *const u8,
    _begin_key_length: c_int,
    _begin_or_equal: fdb_bool_t,
    _begin_offset: c_int,
    _end_key: *const u8,
    _end_key_length: c_int,
    _end_or_equal: fdb_bool_t,
    _end_offset: c_int,
    _mapper: *const u8,
    _mapper_length: c_int,
    _limit: c_int,
    _target_bytes: c_int,
    _mode: FDBStreamingMode,
    _iteration: c_int,
    _snapshot: fdb_bool_t,
    _reverse: fdb_bool_t,
) -> *mut FDBFuture {
    unsupported()
}

#[unsafe(no_mangle)]
extern "C" fn fdb_transaction_get_addresses_for_key(
    _tr: *mut FDBTransaction,
    _key: *const u8,
    _key_length: c_int,
) -> *mut FDBFuture {
    unsupported()
}

#[unsafe(no_mangle)]
extern "C" fn fdb_transaction_get_estimated_range_size_bytes(
    _tr: *mut FDBTransaction,
    _begin_key: *const u8,
    _begin_key_length: c_int,
    _end_key: *const u8,
    _end_key_length: c_int,
) -> *mut FDBFuture {
    unsupported()
}

#[unsafe(no_mangle)]
extern "C" fn fdb_transaction_get_range_split_points(
    _tr: *mut FDBTransaction,
    _begin_key: *const u8,
    _begin_key_length: c_int,
    _end_key: *const u8,
    _end_key_length: c_int,
    _chunk_size: i64,
) -> *mut FDBFuture {
    unsupported()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_set(
    tr: *mut FDBTransaction,
    key: *const u8,
    key_length: c_int,
    value: *const u8,
    value_length: c_int,
) {
    // SAFETY: the caller's promise.
    let (key, value) = unsafe { (bytes(key, key_length), bytes(value, value_length)) };
    // SAFETY: the caller's promise.
    let transaction = unsafe { handle(tr) };
    transaction.trace("set", key, value.len());
    transaction.write(|session| {
        session.set(key, value);
        Ok(())
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_clear(
    tr: *mut FDBTransaction,
    key: *const u8,
    key_length: c_int,
) {
    // SAFETY: the caller's promise.
    let (transaction, key) = unsafe { (handle(tr), bytes(key, key_length)) };
    transaction.trace("clear", key, 0);
    transaction.write(|session| {
        session.clear(key);
        Ok(())
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_clear_range(
    tr: *mut FDBTransaction,
    begin_key: *const u8,
    begin_key_length: c_int,
    end_key: *const u8,
    end_key_length: c_int,
) {
    // SAFETY: the caller's promise.
    let range = unsafe { range(begin_key, begin_key_length, end_key, end_key_length) };
    // SAFETY: the caller's promise.
    let transaction = unsafe { handle(tr) };
    let begin = range.as_ref().map_or(&[][..], |range| &range.start);
    transaction.trace("clear_range", begin, 0);
    transaction.write(|session| {
        session.clear_range(range?);
        Ok(())
    });
}

/// # Safety
/// As the C API's functions that take a range.
unsafe fn range(
    begin_key: *const u8,
    begin_key_length: c_int,
    end_key: *const u8,
    end_key_length: c_int,
) -> Result<KeyRange, i32> {
    // SAFETY: the caller's promise.
    let (begin, end) = unsafe {
        (
            bytes(begin_key, begin_key_length),
            bytes(end_key, end_key_length),
        )
    };
    if begin > end {
        return Err(INVERTED_RANGE);
    }
    Ok(KeyRange::new(
        Bytes::copy_from_slice(begin),
        Bytes::copy_from_slice(end),
    ))
}

/// Additions to 64-bit numbers and versionstamped values are in the subset.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_atomic_op(
    tr: *mut FDBTransaction,
    key: *const u8,
    key_length: c_int,
    param: *const u8,
    param_length: c_int,
    operation_type: FDBMutationType,
) {
    // SAFETY: the caller's promise.
    let (key, param) = unsafe { (bytes(key, key_length), bytes(param, param_length)) };
    // SAFETY: the caller's promise.
    let transaction = unsafe { handle(tr) };
    let call = match operation_type {
        ADD => "add",
        _ => "stamp",
    };
    transaction.trace(call, key, param.len());
    transaction.write(|session| match operation_type {
        ADD => {
            let delta = param.try_into().map_err(|_| INVALID_MUTATION_TYPE)?;
            session.add(key, i64::from_le_bytes(delta));
            Ok(())
        }
        STAMP_VALUE => {
            let (template, offset) = param
                .split_last_chunk::<4>()
                .ok_or(CLIENT_INVALID_OPERATION)?;
            let offset = usize::try_from(u32::from_le_bytes(*offset)).unwrap_or(usize::MAX);
            session.stamp(key, template, offset);
            Ok(())
        }
        _ => Err(INVALID_MUTATION_TYPE),
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_add_conflict_range(
    tr: *mut FDBTransaction,
    begin_key: *const u8,
    begin_key_length: c_int,
    end_key: *const u8,
    end_key_length: c_int,
    kind: FDBConflictRangeType,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    let range = unsafe { range(begin_key, begin_key_length, end_key, end_key_length) };
    let range = match range {
        Ok(range) => range,
        Err(code) => return code,
    };
    // SAFETY: the caller's promise.
    let transaction = unsafe { handle(tr) };
    match kind {
        READ => transaction.conflict(range),
        _ => transaction.write(|session| {
            session.write_conflict(range);
            Ok(())
        }),
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_watch(
    tr: *mut FDBTransaction,
    key: *const u8,
    key_length: c_int,
) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    let (transaction, key) = unsafe { (handle(tr), bytes(key, key_length)) };
    hand_out(transaction.watch(key))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_commit(tr: *mut FDBTransaction) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    hand_out(unsafe { handle(tr) }.commit())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_committed_version(
    tr: *mut FDBTransaction,
    out_version: *mut i64,
) -> fdb_error_t {
    // SAFETY: the caller's promise.
    code(unsafe { handle(tr) }.committed_version().map(|version| {
        // SAFETY: the caller's promise.
        unsafe { *out_version = version }
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_approximate_size(
    tr: *mut FDBTransaction,
) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    hand_out(unsafe { handle(tr) }.size())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_versionstamp(tr: *mut FDBTransaction) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    hand_out(unsafe { handle(tr) }.stamp())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_on_error(
    tr: *mut FDBTransaction,
    error: fdb_error_t,
) -> *mut FDBFuture {
    // SAFETY: the caller's promise.
    hand_out(unsafe { handle(tr) }.on_error(error, is_retryable(error)))
}
