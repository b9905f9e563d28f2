//! Which clean bytes of a large object lie where in a cluster, and which workers are left
//! alone for a while because they did not answer. Absent: asking them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{CHUNK_BYTES, Extent, NodeId};

use crate::decisions::read_plan::Piece;

/// How long a worker that did not answer is asked for nothing.
const AVOIDED_FOR: Duration = Duration::from_secs(10);
/// Extents noted for others at most; of more they find out when they need the room.
const ENDED_MAX: usize = 65_536;

/// How objects are cut, and who does not answer; shared by all shards.
#[derive(Debug)]
pub(crate) struct Stripes {
    /// Bytes of a stripe, whole chunks; `None`: nothing is cut.
    bytes: Option<u64>,
    avoided: Mutex<HashMap<NodeId, Duration>>,
    /// Extents that nobody will read any more.
    ended: Mutex<Vec<Extent>>,
}

impl Stripes {
    /// `bytes`: of a stripe; rounded down to whole chunks, one at least.
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        let chunk = u64::from(CHUNK_BYTES);
        Self {
            bytes: bytes.map(|bytes| (bytes / chunk).max(1) * chunk),
            avoided: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    fn avoided(&self) -> MutexGuard<'_, HashMap<NodeId, Duration>> {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes extents of versions that are gone, for those who have stripes of them.
    pub(crate) fn note_ended(&self, extents: impl Iterator<Item = Extent>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let room = ENDED_MAX.saturating_sub(ended.len());
        ended.extend(extents.take(room));
    }

    /// What was noted since.
    pub(crate) fn take_ended(&self) -> Vec<Extent> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *ended)
    }

    /// Whether an object of this size is cut.
    pub(crate) fn cuts(&self, size: u64) -> bool {
        self.bytes.is_some_and(|bytes| size > bytes)
    }

    /// The stripe that a chunk belongs to: that in which it begins.
    pub(crate) fn of(&self, piece: &Piece) -> u64 {
        self.bytes.map_or(0, |bytes| piece.chunk_start / bytes)
    }

    /// Where the stripe after this one begins; chunks that begin before it belong to this
    /// one or those before.
    pub(crate) fn end(&self, stripe: u64) -> u64 {
        let bytes = self.bytes.unwrap_or(u64::MAX);
        (stripe + 1).saturating_mul(bytes)
    }

    /// Numbers of the stripes that a range of an object touches, and that of a chunk which
    /// begins before it.
    pub(crate) fn touched(&self, range: &Range<u64>) -> Range<u64> {
        let Some(bytes) = self.bytes.filter(|_| !range.is_empty()) else {
            return 0..1;
        };
        let before = range.start.saturating_sub(u64::from(CHUNK_BYTES) - 1);
        before / bytes..(range.end - 1) / bytes + 1
    }

    /// Whether a worker is to be asked now.
    pub(crate) fn answers(&self, node: &NodeId, now: Duration) -> bool {
        let mut avoided = self.avoided();
        if avoided.is_empty() {
            return true;
        }
        avoided.retain(|_, until| now < *until);
        !avoided.contains_key(node)
    }

    /// A worker did not answer.
    pub(crate) fn avoid(&self, node: &NodeId, now: Duration) {
        self.avoided().insert(node.clone(), now + AVOIDED_FOR);
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::BlobId;

    use super::*;
    use crate::io::ChunkId;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    fn at(chunk_start: u64) -> Piece {
        Piece {
            chunk: ChunkId {
                blob: BlobId(1),
                index: 0,
            },
            range: 0..1,
            chunk_len: 1,
            chunk_start,
        }
    }

    #[test]
    fn chunks_belong_to_the_stripe_in_which_they_begin() {
        let stripes = Stripes::new(Some(4 * CHUNK + 1));
        assert!(stripes.cuts(4 * CHUNK + 1) && !stripes.cuts(4 * CHUNK));
        let of = |start| stripes.of(&at(start));
        assert_eq!([of(0), of(4 * CHUNK - 1), of(4 * CHUNK)], [0, 0, 1]);
        assert_eq!(stripes.end(1), 8 * CHUNK);
        assert_eq!(stripes.touched(&(0..1)), 0..1);
        assert_eq!(stripes.touched(&(5 * CHUNK..8 * CHUNK + 1)), 1..3);
        // The chunk of an odd part may have begun before the stripe.
        assert_eq!(stripes.touched(&(4 * CHUNK..4 * CHUNK + 1)), 0..2);
    }

    #[test]
    fn without_a_size_nothing_is_cut() {
        let stripes = Stripes::new(None);
        assert!(!stripes.cuts(u64::MAX));
        assert_eq!(stripes.of(&at(u64::MAX)), 0);
        assert_eq!(stripes.touched(&(7..u64::MAX)), 0..1);
    }

    #[test]
    fn what_ended_is_told_once_and_not_without_limit() {
        let stripes = Stripes::new(Some(CHUNK));
        let extent = Extent {
            blob: BlobId(1),
            size: 1,
        };
        stripes.note_ended(std::iter::repeat_n(extent, ENDED_MAX + 1));
        assert_eq!(stripes.take_ended().len(), ENDED_MAX);
        assert!(stripes.take_ended().is_empty());
    }

    #[test]
    fn who_did_not_answer_is_left_alone_for_a_while() {
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let stripes = Stripes::new(Some(CHUNK));
        let now = Duration::from_secs(100);
        stripes.avoid(&a, now);
        assert!(!stripes.answers(&a, now) && stripes.answers(&b, now));
        assert!(stripes.answers(&a, now + AVOIDED_FOR));
        assert!(stripes.answers(&a, now), "it was forgotten");
    }
}
