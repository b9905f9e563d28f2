//! Text inside a key: order-preserving and free of prefixes of one another.
//!
//! `00` becomes `00 FF` and the text ends with `00 00`, which sorts before any
//! continuation. (With a lone `00` as the end, a following `FF` would read as an
//! escape.)

const ESCAPE: u8 = 0x00;
const ZERO: u8 = 0xff;
const END: u8 = 0x00;

/// Appends the escaped text without its end: the common beginning of all texts
/// that begin with `text`.
pub(super) fn append(key: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        key.push(byte);
        if byte == ESCAPE {
            key.push(ZERO);
        }
    }
}

/// Appends the escaped text with its end.
pub(super) fn append_terminated(key: &mut Vec<u8>, text: &[u8]) {
    append(key, text);
    key.extend([ESCAPE, END]);
}
