//! Which chunks hold a range of an object.

use std::ops::Range;

use quickwater_proto::{CHUNK_BYTES, Extent};

use crate::io::ChunkId;

/// A piece of a read: part of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) chunk: ChunkId,
    /// Bytes wanted, within the chunk.
    pub(crate) range: Range<u32>,
    /// All bytes the chunk has.
    pub(crate) chunk_len: u32,
    /// Where the chunk begins in the object.
    pub(crate) chunk_start: u64,
}

/// Walks the chunks of a range in order.
#[derive(Debug, Clone)]
pub(crate) struct ReadPlan {
    extent: usize,
    extent_start: u64,
    at: u64,
    end: u64,
}

impl ReadPlan {
    pub(crate) fn new(range: Range<u64>) -> Self {
        Self {
            extent: 0,
            extent_start: 0,
            at: range.start,
            end: range.end,
        }
    }

    /// The next piece, `None` at the end (or when the extents end early).
    pub(crate) fn next(&mut self, extents: &[Extent]) -> Option<Piece> {
        if self.at >= self.end {
            return None;
        }
        let mut extent = extents.get(self.extent)?;
        while self.at >= self.extent_start + extent.size {
            self.extent_start += extent.size;
            self.extent += 1;
            extent = extents.get(self.extent)?;
        }
        let chunk_bytes = u64::from(CHUNK_BYTES);
        let inside = self.at - self.extent_start;
        let index = inside / chunk_bytes;
        let chunk_offset = index * chunk_bytes;
        let chunk_len = (extent.size - chunk_offset).min(chunk_bytes);
        let chunk_start = self.extent_start + chunk_offset;
        let from = self.at - chunk_start;
        let to = (self.end - chunk_start).min(chunk_len);
        self.at = chunk_start + to;
        Some(Piece {
            chunk: ChunkId {
                blob: extent.blob,
                index: u32::try_from(index).ok()?,
            },
            range: from as u32..to as u32,
            chunk_len: chunk_len as u32,
            chunk_start,
        })
    }
}

/// Number of chunks of an extent.
pub(crate) fn chunks_of(size: u64) -> u32 {
    size.div_ceil(u64::from(CHUNK_BYTES))
        .min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quickwater_proto::BlobId;

    use super::*;

    fn pieces(extents: &[Extent], range: Range<u64>) -> Vec<Piece> {
        let mut plan = ReadPlan::new(range);
        std::iter::from_fn(|| plan.next(extents)).collect()
    }

    proptest! {
        #[test]
        fn pieces_tile_the_range(sizes in prop::collection::vec(1u64..5_000_000, 1..6), a in 0u64..10_000_000, b in 0u64..10_000_000) {
            let extents: Vec<Extent> = sizes.iter().enumerate()
                .map(|(i, s)| Extent { blob: BlobId(i as u128), size: *s }).collect();
            let total: u64 = sizes.iter().sum();
            let range = a.min(b).min(total)..a.max(b).min(total);
            let mut at = range.start;
            for piece in pieces(&extents, range.clone()) {
                prop_assert_eq!(piece.chunk_start + u64::from(piece.range.start), at);
                prop_assert!(piece.range.end <= piece.chunk_len && piece.range.start < piece.range.end);
                at += u64::from(piece.range.end - piece.range.start);
            }
            prop_assert_eq!(at, range.end);
        }
    }

    #[test]
    fn extents_that_end_early_end_the_plan() {
        let extents = [Extent {
            blob: BlobId(1),
            size: 10,
        }];
        assert_eq!(pieces(&extents, 0..20).len(), 1);
        assert_eq!(pieces(&[], 0..20).len(), 0);
        assert_eq!(chunks_of(0), 0);
        assert_eq!(chunks_of(u64::from(CHUNK_BYTES) + 1), 2);
    }
}
