//! The `Range` header (RFC 9110 14.1.2). Several ranges and garbage count as
//! none, as in S3.

use crate::error::{S3Error, S3ErrorCode};

/// One byte range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-last`, `first <= last`.
    FromTo(u64, u64),
    /// `bytes=first-`.
    From(u64),
    /// `bytes=-count`.
    Last(u64),
}

impl ByteRange {
    /// Reads a header value; `None` when the header is to be ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, spec) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = spec.trim().split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", count) => number(count).map(Self::Last),
            (first, "") => number(first).map(Self::From),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::FromTo(first, last))
            }
        }
    }

    /// The bytes meant of an object of `size` bytes.
    ///
    /// # Errors
    /// `InvalidRange` when there are none.
    pub fn resolve(self, size: u64) -> Result<std::ops::Range<u64>, S3Error> {
        let range = match self {
            Self::FromTo(first, last) => first..last.saturating_add(1).min(size),
            Self::From(first) => first..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.start < range.end {
            return Ok(range);
        }
        Err(S3Error::from(S3ErrorCode::InvalidRange).with("ActualObjectSize", size.to_string()))
    }
}

/// Digits only; numbers too large to hold are as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_as_in_the_rfc() {
        for (text, size, expect) in [
            ("bytes=0-9", 100, Some(0..10)),
            ("bytes=90-", 100, Some(90..100)),
            ("bytes=-10", 100, Some(90..100)),
            ("bytes=-1000", 100, Some(0..100)),
            ("bytes=0-1000", 100, Some(0..100)),
            ("bytes=99-99", 100, Some(99..100)),
            ("bytes=100-", 100, None),
            ("bytes=-0", 100, None),
            ("bytes=0-0", 0, None),
            ("bytes=-5", 0, None),
            ("bytes=0-99999999999999999999999", 5, Some(0..5)),
        ] {
            let range = ByteRange::parse(text).unwrap().resolve(size);
            assert_eq!(range.clone().ok(), expect, "{text}");
            if let Err(e) = range {
                assert_eq!(e.status(), 416);
            }
        }
    }

    #[test]
    fn what_is_not_one_range_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-1",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1-2-3",
        ] {
            assert_eq!(ByteRange::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_inside(text in "(bytes=)?[-0-9a, ]{0,24}", size in any::<u64>()) {
            if let Some(range) = ByteRange::parse(&text) && let Ok(r) = range.resolve(size) {
                prop_assert!(r.start < r.end && r.end <= size);
            }
        }
    }
}
