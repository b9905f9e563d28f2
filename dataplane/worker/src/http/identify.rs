//! Request ids: cheap, unique enough to find a request in a log, not secret.

use std::cell::Cell;
use std::fmt;

/// `x-amz-request-id`: 16 upper-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // All digits, so the default is never used.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl RequestId {
    /// The id that was given elsewhere; `None`: that is none.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Some(Self(digits(text)?))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// `x-amz-id-2`, called HostId in error documents: 32 upper-case hexadecimal
/// digits of which the first 16 name the shard that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId([u8; 32]);

impl HostId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl HostId {
    /// The id that was given elsewhere; `None`: that is none.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Some(Self(digits(text)?))
    }
}

fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: [u8; N] = text.as_bytes().try_into().ok()?;
    let upper = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
    digits.iter().all(upper).then_some(digits)
}

/// Where a shard's ids come from: a counter through SplitMix64, which is a
/// bijection, so a shard never repeats one.
#[derive(Debug)]
pub(crate) struct IdSource {
    shard: u64,
    next: Cell<u64>,
}

impl IdSource {
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut seed = [0u8; 16];
        getrandom::fill(&mut seed)?;
        let seed = u128::from_le_bytes(seed);
        Ok(IdSource {
            shard: (seed >> 64) as u64,
            next: Cell::new(seed as u64),
        })
    }

    pub(crate) fn next(&self) -> (RequestId, HostId) {
        let state = self.next.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.next.set(state);
        let request = hex(mix(state));
        let mut host = [0; 32];
        host[..16].copy_from_slice(&hex(self.shard));
        host[16..].copy_from_slice(&hex(mix(state ^ self.shard)));
        (RequestId(request), HostId(host))
    }
}

/// The output function of SplitMix64.
fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

fn hex(value: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    std::array::from_fn(|index| DIGITS[(value >> (60 - 4 * index) & 0xf) as usize])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_have_their_shape_and_do_not_repeat() {
        let source = IdSource::new().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let (request, host) = source.next();
            assert_eq!((request.as_str().len(), host.as_str().len()), (16, 32));
            let upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
            assert!(request.as_str().bytes().all(upper_hex));
            assert!(seen.insert(request.to_string()));
        }
        assert_eq!(&hex(0x0123_4567_89AB_CDEF), b"0123456789ABCDEF");
    }
}
