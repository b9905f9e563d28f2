//! What is in objects: a fixed random pattern, entered at a place that follows
//! from the object and read round and round. Written without being generated,
//! checked by comparing memory. The pattern's length is a prime just above 1 MiB,
//! so pages, chunks and parts put in a wrong place do not match.

use super::random::mix;

/// Length of the pattern: a prime.
const PERIOD: usize = (1 << 20) + 7;
/// Longest piece that is handed out at once.
const SLICE_MAX: usize = 256 << 10;

/// The pattern.
#[derive(Debug)]
pub(crate) struct Content {
    /// One period and the beginning of the next.
    pattern: Vec<u8>,
}

impl Content {
    pub(crate) fn new() -> Self {
        let words = (0..PERIOD.div_ceil(8) as u64).flat_map(|i| mix(0x5157, i).to_le_bytes());
        let mut pattern: Vec<u8> = words.take(PERIOD).collect();
        pattern.extend_from_within(..SLICE_MAX);
        Self { pattern }
    }

    /// The bytes of the object `seed` from `offset`, at most `length` and
    /// [`SLICE_MAX`] of them.
    pub(crate) fn slice(&self, seed: u64, offset: u64, length: u64) -> &[u8] {
        let period = PERIOD as u64;
        let start = ((seed % period + offset % period) % period) as usize;
        let length = length.min(SLICE_MAX as u64) as usize;
        self.pattern.get(start..start + length).unwrap_or_default()
    }

    /// Whether bytes are those of the object at `offset`.
    pub(crate) fn matches(&self, seed: u64, offset: u64, found: &[u8]) -> bool {
        let mut at = offset;
        found.chunks(SLICE_MAX).all(|piece| {
            let same = self.slice(seed, at, piece.len() as u64) == piece;
            at += piece.len() as u64;
            same
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &Content, seed: u64, mut offset: u64, end: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while offset < end {
            let piece = content.slice(seed, offset, end - offset);
            offset += piece.len() as u64;
            out.extend_from_slice(piece);
        }
        out
    }

    #[test]
    fn the_period_is_a_prime() {
        assert!((2..2000).all(|d| !PERIOD.is_multiple_of(d)));
    }

    #[test]
    fn content_depends_on_object_and_offset_alone() {
        let content = Content::new();
        let whole = read(&content, 77, 0, 3 << 20);
        assert_eq!(whole.len(), 3 << 20);
        for (from, to) in [(0, 1), (4096, 8192), ((1 << 20) - 3, (2 << 20) + 9), (5, 5)] {
            assert_eq!(
                read(&content, 77, from, to),
                whole[from as usize..to as usize]
            );
            assert!(content.matches(77, from, &whole[from as usize..to as usize]));
        }
    }

    #[test]
    fn wrong_bytes_are_seen() {
        let content = Content::new();
        let whole = read(&content, 77, 0, 3 << 20);
        for place in [0, 1, (1 << 20) + 6, (3 << 20) - 1] {
            let mut bad = whole.clone();
            bad[place] ^= 1;
            assert!(!content.matches(77, 0, &bad), "{place}");
        }
        // A page, a chunk or an object in the place of another.
        assert!(!content.matches(77, 4096, &whole[..4096]));
        assert!(!content.matches(77, 1 << 20, &whole[..1 << 20]));
        assert!(!content.matches(78, 0, &whole[..16]));
    }
}
