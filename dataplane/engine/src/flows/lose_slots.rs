//! Slots that others have by now, or had meanwhile, without this worker having given them
//! away: nobody waited for it. Absent: who says so, the bytes that are left here.

use quickwater_proto::slot_of;

use crate::shared::Shared;

impl Shared {
    /// Loses the slots `lost` at once, whatever only this worker has of them: nothing of them
    /// is answered, changed or sent from here any more, and what was read before does not
    /// count. What is pending of them stands in its rows.
    pub fn lose_slots(&self, lost: &[usize]) {
        for slot in lost {
            self.rights.set(*slot, false);
            self.slots.lose(*slot);
        }
        // Nobody kept others from changing what is remembered.
        self.rights.lapse();
        self.forget_objects();
        self.forget_foreign();
    }

    /// Forgets what is pending of keys that are others' by now: their owners see to it.
    pub(crate) fn forget_foreign(&self) {
        let foreign = |slot: usize| self.rights.is_foreign(slot);
        self.persist
            .forget(|bucket, key| foreign(slot_of(bucket, key)));
        self.transient.let_go(foreign);
        self.notes.give(foreign);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use quickwater_proto::{BlobId, BucketId, ObjectKey, PendingChange, PendingRecord, Version};

    use super::*;
    use crate::shared::EngineConfig;

    const BUCKET: BucketId = BucketId(1);

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name).unwrap()
    }

    fn slot(name: &str) -> usize {
        slot_of(BUCKET, &key(name))
    }

    /// A worker that owns the slots of these keys, of each of which it alone has something.
    fn owning(keys: &[&str]) -> Arc<Shared> {
        let shared = Shared::leased(EngineConfig {
            object_cache_bytes: 1 << 20,
            ..EngineConfig::least()
        });
        shared.rights.started();
        for (name, blob) in keys.iter().zip(1..) {
            shared.rights.set(slot(name), true);
            shared.anchor(BlobId(blob), slot(name));
            let pending = PendingRecord {
                version: Version(1),
                change: PendingChange::Put { size: 10 },
                since_ms: 0,
                superseded: false,
            };
            let now = (Duration::ZERO, 0);
            shared.persist.load(BUCKET, key(name), pending, now, None);
        }
        shared
    }

    #[test]
    fn what_only_this_worker_has_keeps_no_slot_that_is_another_s() {
        let shared = owning(&["lost", "ours"]);
        let kept = || [BlobId(1), BlobId(2)].into();
        assert!(shared.must_stay(kept).contains(&slot("lost")));
        let since = shared.rights.since();
        shared.lose_slots(&[slot("lost")]);
        assert!(shared.rights.is_foreign(slot("lost")));
        assert!(shared.rights.owns(slot("ours")));
        assert!(!shared.rights.holds_since(since), "what was read is old");
        // Its next owner sends what is pending.
        assert_eq!(shared.persist.totals().puts, 1);
        assert!(shared.persist.pending(BUCKET, &key("ours")).is_some());
    }

    #[test]
    fn what_is_being_sent_is_left_by_who_sends_it() {
        let shared = owning(&["sent"]);
        let work = shared.persist.take(Duration::ZERO).unwrap();
        shared.lose_slots(&[slot("sent")]);
        assert_eq!(shared.persist.totals().running, 1);
        let outcome = crate::decisions::persist_queue::Outcome::Failed {
            error: "another worker owns the key".into(),
            late: None,
        };
        shared.persist.leave(&work, outcome, Duration::ZERO);
        let totals = shared.persist.totals();
        assert_eq!((totals.running, totals.puts), (0, 0));
    }
}
