//! What every store refuses before it asks anybody: keys and sizes beyond
//! `FoundationDB`'s limits, and the system's keys. Pure.

use super::limits::{KEY_BYTES_MAX, SYSTEM_KEYS_START, VALUE_BYTES_MAX, VERSION_BYTES};
use super::transaction::{CommitError, KeyRange, StoreError};

const RESERVED: CommitError = CommitError::Invalid("reserved key");

/// Whether a key can be read.
///
/// # Errors
/// [`StoreError::ReservedKey`], [`StoreError::KeyTooLarge`].
pub fn readable(key: &[u8]) -> Result<(), StoreError> {
    if is_reserved(key) {
        return Err(StoreError::ReservedKey);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(StoreError::KeyTooLarge);
    }
    Ok(())
}

/// Whether a range can be read.
///
/// # Errors
/// As [`readable`].
pub fn readable_range(range: &KeyRange) -> Result<(), StoreError> {
    if is_too_large(range) {
        return Err(StoreError::KeyTooLarge);
    }
    if reaches_reserved(range) {
        return Err(StoreError::ReservedKey);
    }
    Ok(())
}

/// Whether a row with a value of that many bytes can be written.
///
/// # Errors
/// [`CommitError::Invalid`], [`CommitError::TooLarge`].
pub fn writable(key: &[u8], value_bytes: usize) -> Result<(), CommitError> {
    if is_reserved(key) {
        return Err(RESERVED);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(CommitError::TooLarge("key"));
    }
    if value_bytes > VALUE_BYTES_MAX {
        return Err(CommitError::TooLarge("value"));
    }
    Ok(())
}

/// Whether a range can be cleared or conflicted with.
///
/// # Errors
/// As [`writable`].
pub fn writable_range(range: &KeyRange) -> Result<(), CommitError> {
    if is_too_large(range) {
        return Err(CommitError::TooLarge("key"));
    }
    if reaches_reserved(range) {
        return Err(RESERVED);
    }
    Ok(())
}

/// Whether a value of `template_bytes` has room for a version at `offset`.
///
/// # Errors
/// [`CommitError::Invalid`].
pub fn stampable(template_bytes: usize, offset: usize) -> Result<(), CommitError> {
    match offset.checked_add(VERSION_BYTES) {
        Some(end) if end <= template_bytes => Ok(()),
        _ => Err(CommitError::Invalid("no room for the versionstamp")),
    }
}

fn is_reserved(key: &[u8]) -> bool {
    key.first().is_none_or(|first| *first == SYSTEM_KEYS_START)
}

/// The ends of a range may be the key after the longest: a next page begins there.
fn is_too_large(range: &KeyRange) -> bool {
    range.start.len().max(range.end.len()) > KEY_BYTES_MAX + 1
}

fn reaches_reserved(range: &KeyRange) -> bool {
    range.end.as_ref() > [SYSTEM_KEYS_START].as_slice() && !range.is_empty()
}
