//! What becomes of a write that finds no room for data only this store has: whether
//! room may come free, and for what. Absent: counting what is taken, and IO.

use quickwater_proto::{CHUNK_BYTES, OverLimit, PathPolicy, PolicyMode};

use crate::decisions::persist_queue::QueueTotals;
use crate::decisions::read_plan::chunks_of;
use crate::io::{DirtyAmount, DirtySpace};

/// Most bytes on disk that a chunk takes beside its data, and an object beside its
/// last chunk: head, padding, its entry in the journal. To be judged too large a
/// little too early does no harm: the write goes through.
const OVERHEAD_BYTES_MAX: u64 = 12 << 10;
/// Least of the same, for what waits: to think that more comes free than does would
/// make a write wait for ever.
const OVERHEAD_BYTES_MIN: u64 = 4 << 10;

impl DirtyAmount {
    /// Most that a body of `bytes` is asked room for. Never less than the store keeps
    /// for it: a write that seems to fit and is refused would wait for ever.
    pub(crate) fn needed_for(bytes: u64) -> Self {
        let chunks = u64::from(chunks_of(bytes)).max(1);
        Self {
            bytes: bytes.saturating_add((chunks + 1).saturating_mul(OVERHEAD_BYTES_MAX)),
            records: chunks + 2,
        }
    }

    /// Least that comes free when `puts` objects of `bytes` together are persisted.
    pub(crate) fn freed_by(puts: u64, bytes: u64) -> Self {
        Self {
            bytes: bytes.saturating_add(puts.saturating_mul(OVERHEAD_BYTES_MIN)),
            records: puts.max(bytes / u64::from(CHUNK_BYTES)),
        }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            records: self.records.saturating_add(other.records),
        }
    }

    /// What is left of it without `other`.
    pub(crate) fn without(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            records: self.records.saturating_sub(other.records),
        }
    }

    fn fits(self, limit: Self) -> bool {
        self.bytes <= limit.bytes && self.records <= limit.records
    }
}

/// Most bytes that can be kept: either limit may be the one that is short.
pub(crate) fn most_bytes(space: DirtySpace) -> u64 {
    let by_records = space.limit.records.saturating_mul(u64::from(CHUNK_BYTES));
    space.limit.bytes.min(by_records)
}

/// What comes free without anybody's doing: what waits for the UFS, and what it has
/// and is `released` within a flush.
pub(crate) fn comes_free(waiting: &QueueTotals, released: DirtyAmount) -> DirtyAmount {
    DirtyAmount::freed_by(waiting.puts, waiting.bytes).and(released)
}

/// What a write without room is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instead {
    /// Come back: room comes free as the UFS takes what it is given, or as others end.
    SlowDown,
    /// It goes to the UFS now, because its policy says so.
    Through,
    /// It goes to the UFS now: waiting would not help.
    Oversize,
    /// Nothing helps.
    TooLarge,
}

/// For an object of `bytes`. TRANSIENT objects and parts of open uploads make no room:
/// waiting helps only if there is room once all that `frees` has come free. Writes under
/// way may be of objects that will be persisted: they are judged when they have ended.
pub(crate) fn of_object(
    policy: &PathPolicy,
    bytes: u64,
    frees: DirtyAmount,
    space: DirtySpace,
) -> Instead {
    let needed = DirtyAmount::needed_for(bytes);
    match policy.mode {
        PolicyMode::WriteBack if policy.over_limit == OverLimit::WriteThrough => Instead::Through,
        PolicyMode::WriteBack if !needed.and(stays(frees, space)).fits(space.limit) => {
            Instead::Oversize
        }
        PolicyMode::WriteBack => Instead::SlowDown,
        _ if !needed.fits(space.limit) => Instead::TooLarge,
        _ => Instead::SlowDown,
    }
}

/// What neither the queue nor writes under way take with them.
fn stays(frees: DirtyAmount, space: DirtySpace) -> DirtyAmount {
    space.pinned.without(space.reserved).without(frees)
}

/// Whether a write that could fit will not, however long it waits, as long as nobody
/// deletes, completes or hands over anything.
pub(crate) fn is_blocked(bytes: u64, (frees, space): (DirtyAmount, DirtySpace)) -> bool {
    let needed = DirtyAmount::needed_for(bytes);
    needed.fits(space.limit) && !needed.and(stays(frees, space)).fits(space.limit)
}

/// For a part of an upload whose object will be persisted. Parts make no room, those
/// under way included, so waiting helps only if there is room beside all of them.
pub(crate) fn of_part(
    policy: &PathPolicy,
    bytes: u64,
    frees: DirtyAmount,
    space: DirtySpace,
) -> Instead {
    if policy.mode == PolicyMode::WriteBack && policy.over_limit == OverLimit::WriteThrough {
        return Instead::Through;
    }
    let stays = space.pinned.and(space.reserved).without(frees);
    match DirtyAmount::needed_for(bytes).and(stays).fits(space.limit) {
        true => Instead::SlowDown,
        false => Instead::Oversize,
    }
}

/// For a part of an upload that is never persisted; `others`: what its other parts take.
pub(crate) fn of_transient_part(bytes: u64, others: DirtyAmount, space: DirtySpace) -> Instead {
    match DirtyAmount::needed_for(bytes).and(others).fits(space.limit) {
        true => Instead::SlowDown,
        false => Instead::TooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NOTHING: DirtyAmount = amount(0, 0);
    /// Bytes are short.
    const SPACE: DirtySpace = DirtySpace {
        pinned: amount(90 * MIB, 200),
        reserved: NOTHING,
        limit: amount(100 * MIB, 1_000_000),
    };
    /// Records are.
    const RECORDS: DirtySpace = DirtySpace {
        pinned: amount(4 * MIB, 1_000),
        reserved: NOTHING,
        limit: amount(100 * MIB, 1_000),
    };

    const fn amount(bytes: u64, records: u64) -> DirtyAmount {
        DirtyAmount { bytes, records }
    }

    fn policy(mode: PolicyMode, over_limit: OverLimit) -> PathPolicy {
        PathPolicy {
            mode,
            over_limit,
            ..PathPolicy::default()
        }
    }

    fn back() -> PathPolicy {
        policy(PolicyMode::WriteBack, OverLimit::SlowDown)
    }

    #[test]
    fn what_fits_in_the_end_waits_and_what_never_does_goes_through() {
        let of = |bytes, frees| of_object(&back(), bytes, amount(frees, 0), SPACE);
        assert_eq!(of(50 * MIB, 80 * MIB), Instead::SlowDown);
        // TRANSIENT objects and parts of open uploads stay.
        assert_eq!(of(50 * MIB, 30 * MIB), Instead::Oversize);
        assert_eq!(of(20 * MIB, 0), Instead::Oversize);
        assert_eq!(of(100 * MIB, 90 * MIB), Instead::Oversize);
        assert_eq!(of(u64::MAX, u64::MAX), Instead::Oversize);
        let through = policy(PolicyMode::WriteBack, OverLimit::WriteThrough);
        assert_eq!(of_object(&through, MIB, NOTHING, SPACE), Instead::Through);
    }

    #[test]
    fn writes_under_way_are_waited_for() {
        let writing = DirtySpace {
            reserved: amount(50 * MIB, 0),
            ..SPACE
        };
        let of = |space| of_object(&back(), 40 * MIB, NOTHING, space);
        assert_eq!(of(writing), Instead::SlowDown);
        assert_eq!(of(SPACE), Instead::Oversize);
    }

    #[test]
    fn records_are_judged_as_bytes_are() {
        let frees = |puts| DirtyAmount::freed_by(puts, 0);
        let object = |puts| of_object(&back(), 1, frees(puts), RECORDS);
        assert_eq!(object(0), Instead::Oversize);
        assert_eq!(object(2), Instead::Oversize);
        assert_eq!(object(3), Instead::SlowDown);
        let part = |puts| of_part(&back(), 1, frees(puts), RECORDS);
        assert_eq!((part(0), part(3)), (Instead::Oversize, Instead::SlowDown));
        let transient = policy(PolicyMode::Transient, OverLimit::SlowDown);
        let few = DirtySpace {
            limit: amount(1 << 50, 1_000),
            ..RECORDS
        };
        let of = |bytes| of_object(&transient, bytes, NOTHING, few);
        assert_eq!(of(MIB), Instead::SlowDown);
        assert_eq!(of(1_000 * MIB), Instead::TooLarge);
        assert_eq!(most_bytes(few), 1_000 * MIB);
        assert_eq!(most_bytes(SPACE), 100 * MIB);
    }

    #[test]
    fn transient_waits_for_others_to_go_but_not_for_more_than_there_is() {
        let transient = policy(PolicyMode::Transient, OverLimit::SlowDown);
        let of = |bytes| of_object(&transient, bytes, NOTHING, SPACE);
        assert_eq!(of(50 * MIB), Instead::SlowDown);
        assert_eq!(of(100 * MIB), Instead::TooLarge);
        let part = |others| of_transient_part(MIB, amount(others, 1), SPACE);
        assert_eq!(part(50 * MIB), Instead::SlowDown);
        assert_eq!(part(99 * MIB), Instead::TooLarge);
        let many = of_transient_part(MIB, amount(MIB, 999), RECORDS);
        assert_eq!(many, Instead::TooLarge);
    }

    #[test]
    fn a_part_waits_for_what_is_persisted_only() {
        let of = |bytes, waits| of_part(&back(), bytes, DirtyAmount::freed_by(1, waits), SPACE);
        assert_eq!(of(20 * MIB, 80 * MIB), Instead::SlowDown);
        assert_eq!(of(20 * MIB, 5 * MIB), Instead::Oversize);
        assert_eq!(of(20 * MIB, 0), Instead::Oversize);
        assert_eq!(of(200 * MIB, 90 * MIB), Instead::Oversize);
        let through = policy(PolicyMode::WriteBack, OverLimit::WriteThrough);
        let full = of_part(&through, MIB, amount(90 * MIB, 90), SPACE);
        assert_eq!(full, Instead::Through);
    }
}
