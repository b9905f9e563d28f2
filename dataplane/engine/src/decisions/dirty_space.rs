//! What becomes of a write that finds no room for data only this store has: whether
//! room may come free, and for what. Absent: counting what is taken, and IO.

use quickwater_proto::{OverLimit, PathPolicy, PolicyMode};

use crate::decisions::persist_queue::QueueTotals;
use crate::decisions::read_plan::chunks_of;
use crate::io::DirtySpace;

/// Most bytes on disk that a chunk takes beside its data, and an object beside its
/// last chunk: head, padding, its entry in the journal. To be judged too large a
/// little too early does no harm: the write goes through.
const OVERHEAD_BYTES_MAX: u64 = 12 << 10;
/// Least of the same, for what waits: to think that more comes free than does would
/// make a write wait for ever.
const OVERHEAD_BYTES_MIN: u64 = 4 << 10;

/// Most bytes on disk of a body of `bytes`.
pub(crate) fn on_disk(bytes: u64) -> u64 {
    let chunks = u64::from(chunks_of(bytes)).max(1);
    bytes.saturating_add(chunks.saturating_mul(OVERHEAD_BYTES_MAX))
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

/// For an object of `bytes`; `transient` bytes on disk will never be persisted.
pub(crate) fn of_object(
    policy: &PathPolicy,
    bytes: u64,
    transient: u64,
    space: DirtySpace,
) -> Instead {
    let needed = on_disk(bytes);
    match policy.mode {
        PolicyMode::WriteBack if policy.over_limit == OverLimit::WriteThrough => Instead::Through,
        PolicyMode::WriteBack if needed.saturating_add(transient) > space.limit => {
            Instead::Oversize
        }
        PolicyMode::WriteBack => Instead::SlowDown,
        _ if needed > space.limit => Instead::TooLarge,
        _ => Instead::SlowDown,
    }
}

/// For a part of an upload whose object will be persisted. Parts make no room, so
/// waiting helps only if there is room once all that waits is persisted.
pub(crate) fn of_part(
    policy: &PathPolicy,
    bytes: u64,
    waiting: &QueueTotals,
    space: DirtySpace,
) -> Instead {
    if policy.mode == PolicyMode::WriteBack && policy.over_limit == OverLimit::WriteThrough {
        return Instead::Through;
    }
    let frees = waiting.puts.saturating_mul(OVERHEAD_BYTES_MIN);
    let stays = space
        .used
        .saturating_sub(waiting.bytes.saturating_add(frees));
    match on_disk(bytes).saturating_add(stays) > space.limit {
        true => Instead::Oversize,
        false => Instead::SlowDown,
    }
}

/// For a part of an upload that is never persisted; `others`: bytes on disk of its
/// other parts.
pub(crate) fn of_transient_part(bytes: u64, others: u64, space: DirtySpace) -> Instead {
    match on_disk(bytes).saturating_add(others) > space.limit {
        true => Instead::TooLarge,
        false => Instead::SlowDown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SPACE: DirtySpace = DirtySpace {
        used: 90 * MIB,
        limit: 100 * MIB,
    };

    fn policy(mode: PolicyMode, over_limit: OverLimit) -> PathPolicy {
        PathPolicy {
            mode,
            over_limit,
            ..PathPolicy::default()
        }
    }

    #[test]
    fn what_fits_in_the_end_waits_and_what_never_does_goes_through() {
        let back = policy(PolicyMode::WriteBack, OverLimit::SlowDown);
        let of = |bytes, transient| of_object(&back, bytes, transient, SPACE);
        assert_eq!(of(50 * MIB, 0), Instead::SlowDown);
        assert_eq!(of(50 * MIB, 60 * MIB), Instead::Oversize);
        assert_eq!(of(100 * MIB, 0), Instead::Oversize);
        assert_eq!(of(u64::MAX, u64::MAX), Instead::Oversize);
        let through = policy(PolicyMode::WriteBack, OverLimit::WriteThrough);
        assert_eq!(of_object(&through, MIB, 0, SPACE), Instead::Through);
    }

    #[test]
    fn transient_waits_for_others_to_go_but_not_for_more_than_there_is() {
        let transient = policy(PolicyMode::Transient, OverLimit::SlowDown);
        let of = |bytes| of_object(&transient, bytes, 90 * MIB, SPACE);
        assert_eq!(of(50 * MIB), Instead::SlowDown);
        assert_eq!(of(100 * MIB), Instead::TooLarge);
        assert_eq!(of_transient_part(MIB, 50 * MIB, SPACE), Instead::SlowDown);
        assert_eq!(of_transient_part(MIB, 99 * MIB, SPACE), Instead::TooLarge);
    }

    #[test]
    fn a_part_waits_for_what_is_persisted_only() {
        let back = policy(PolicyMode::WriteBack, OverLimit::SlowDown);
        let waiting = |bytes| QueueTotals {
            puts: 1,
            bytes,
            ..QueueTotals::default()
        };
        let of = |bytes, waits| of_part(&back, bytes, &waiting(waits), SPACE);
        assert_eq!(of(20 * MIB, 80 * MIB), Instead::SlowDown);
        assert_eq!(of(20 * MIB, 5 * MIB), Instead::Oversize);
        assert_eq!(of(20 * MIB, 0), Instead::Oversize);
        assert_eq!(of(200 * MIB, 90 * MIB), Instead::Oversize);
        let through = policy(PolicyMode::WriteBack, OverLimit::WriteThrough);
        let full = of_part(&through, MIB, &waiting(90 * MIB), SPACE);
        assert_eq!(full, Instead::Through);
    }
}
