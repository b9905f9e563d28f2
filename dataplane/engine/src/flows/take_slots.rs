//! Slots that become ours: nothing of them is answered before what is pending in them is
//! known. Absent: who says that they are ours, how what is pending is read.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};

use crate::shared::Shared;

/// Slots that are neither owned nor another's: while it is being read what is pending of
/// them, or what was pending is let go.
pub(crate) struct Taking<'a>(&'a Shared, &'a [usize]);

impl<'a> Taking<'a> {
    pub(crate) fn begin(shared: &'a Shared, slots: &'a [usize]) -> Self {
        let taking = Self(shared, slots);
        taking.set(true);
        taking
    }

    fn set(&self, taking: bool) {
        for slot in self.1 {
            self.0.rights.set_taking(*slot, taking);
        }
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// What is read of slots while they are taken, if that is broken off: nobody looks at it
/// again when they become others'.
struct Reading<'a>(Option<&'a Shared>);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.forget_foreign();
        }
    }
}

impl Shared {
    /// Takes the slots `gained`, in order. `look` reads what is pending of the slots it is
    /// given, and returns when it has; `pause` is a short wait.
    ///
    /// A change of before may be under way in a slot, and come to an unknown outcome only
    /// after that look: then the slot is looked at once more, because what became of the
    /// change is in the metadata, but not in what was read.
    pub async fn take_slots<L, P>(
        &self,
        gained: &[usize],
        now: impl Fn() -> Duration,
        look: impl Fn(Vec<usize>) -> L,
        pause: impl Fn() -> P,
    ) where
        L: Future<Output = ()>,
        P: Future<Output = ()>,
    {
        // What is noted of them meanwhile is kept, unless this is broken off: then they are
        // another's first, and what was read of them is forgotten next.
        let mut reading = Reading(Some(self));
        let _taking = Taking::begin(self, gained);
        // It may say what others have ended since.
        let back: BTreeSet<usize> = gained.iter().copied().collect();
        self.notes.take_back(|slot| back.contains(&slot));
        let stuck = self.stuck();
        look(gained.to_vec()).await;
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        for slot in gained {
            if stuck.contains(slot) {
                self.release(*slot);
            }
            match self.note_taken(*slot, now()).now_or_never() {
                Some(()) => quiet.push(*slot),
                None => busy.push(*slot),
            }
        }
        self.own(&quiet);
        // Those do not keep the others waiting.
        for slot in busy {
            self.take_busy(slot, &now, &look, &pause).await;
            self.own(&[slot]);
        }
        reading.0 = None;
    }

    /// From now on these are ours. What is remembered of them is of a time when others could
    /// change them, or was read then and is yet to be looked at.
    fn own(&self, slots: &[usize]) {
        self.rights.lapse();
        self.forget_objects();
        for slot in slots {
            self.rights.set(*slot, true);
        }
    }

    async fn take_busy<L, P>(
        &self,
        slot: usize,
        now: &impl Fn() -> Duration,
        look: &impl Fn(Vec<usize>) -> L,
        pause: &impl Fn() -> P,
    ) where
        L: Future<Output = ()>,
        P: Future<Output = ()>,
    {
        loop {
            let taken = pin!(self.note_taken(slot, now()));
            if let Either::Left(_) = select(taken, pin!(pause())).await {
                return;
            }
            if self.slots.is_kept(slot) {
                look(vec![slot]).await;
                self.release(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Arc;

    use quickwater_proto::{ETag, ObjectRecord, PersistState, Version};
    use quickwater_simulation::Sim;

    use crate::shared::EngineConfig;

    use super::*;

    /// What was looked at, and which slots were ours then.
    type Looks = Rc<RefCell<Vec<(Vec<usize>, Vec<usize>)>>>;

    /// Takes slots 7 and 8.
    fn taking(sim: &Sim, shared: &Arc<Shared>, looked: &Looks) {
        let (sim, shared, looked) = (sim.clone(), Arc::clone(shared), Rc::clone(looked));
        let clock = sim.clone();
        sim.clone().spawn(async move {
            let look = |slots: Vec<usize>| {
                let owned = [7, 8].into_iter().filter(|slot| shared.rights.owns(*slot));
                looked.borrow_mut().push((slots, owned.collect()));
                sim.sleep(Duration::from_secs(1))
            };
            let pause = || sim.sleep(Duration::from_millis(100));
            shared
                .take_slots(&[7, 8], || clock.now(), look, pause)
                .await;
        });
    }

    #[test]
    fn a_slot_that_gets_stuck_while_it_is_taken_is_looked_at_again() {
        for stuck_after in [500, 5_000] {
            let sim = Sim::new(1);
            let shared = Shared::leased(EngineConfig::least());
            let looked = Looks::default();
            // A change of before, under way.
            let (of, time) = (Arc::clone(&shared), sim.clone());
            sim.spawn(async move {
                let guard = of.slots.lock(7).await;
                time.sleep(Duration::from_millis(stuck_after)).await;
                guard.keep();
            });
            let (of, time, seen) = (Arc::clone(&shared), sim.clone(), Rc::clone(&looked));
            sim.spawn(async move {
                time.sleep(Duration::from_millis(10)).await;
                taking(&time, &of, &seen);
            });
            sim.run();
            assert!(shared.rights.owns(7) && shared.rights.owns(8));
            assert!(shared.stuck().is_empty());
            let again = (vec![7], vec![8]);
            assert_eq!(*looked.borrow(), [(vec![7, 8], vec![]), again]);
        }
    }

    fn transient() -> ObjectRecord {
        ObjectRecord {
            version: Version(1),
            size: 10,
            etag: ETag::new("e"),
            modified_ms: 0,
            headers: Default::default(),
            checksums: Vec::new(),
            tags: Vec::new(),
            extents: Vec::new(),
            parts: Vec::new(),
            ufs: None,
            persist: PersistState::Transient,
            partial: false,
        }
    }

    #[test]
    fn a_slot_is_foreign_to_nobody_while_it_is_taken() {
        let sim = Sim::new(1);
        let shared = Shared::leased(EngineConfig::least());
        assert!(
            !shared.rights.is_foreign(7),
            "what a start reads is not thrown away"
        );
        shared.rights.started();
        assert!(shared.rights.is_foreign(7) && shared.rights.is_foreign(9));
        taking(&sim, &shared, &Looks::default());
        let (of, time) = (Arc::clone(&shared), sim.clone());
        sim.spawn(async move {
            time.sleep(Duration::from_millis(500)).await;
            assert!(!of.rights.owns(7) && !of.rights.is_foreign(7));
            assert!(of.rights.is_foreign(9));
        });
        sim.run();
        assert!(shared.rights.owns(7) && !shared.rights.is_foreign(7));
        shared.rights.set(7, false);
        assert!(shared.rights.is_foreign(7));
        // One that is broken off leaves nothing behind.
        let record = transient();
        let look = |_| {
            shared.transient.add(&record, 7);
            std::future::pending()
        };
        let pause = || std::future::ready(());
        let broken = shared.take_slots(&[7], || Duration::ZERO, look, pause);
        assert!(broken.now_or_never().is_none());
        assert!(shared.rights.is_foreign(7));
        assert_eq!(
            (shared.transient.objects(), shared.transient.bytes()),
            (0, 0)
        );
    }

    #[test]
    fn what_was_read_before_does_not_count_in_slots_that_are_taken() {
        let sim = Sim::new(1);
        let shared = Shared::leased(EngineConfig::least());
        // One that waits for a change of before, and one that does not.
        let writing = shared.slots.lock(7).now_or_never().unwrap();
        let since = shared.rights.since();
        taking(&sim, &shared, &Looks::default());
        let first = sim.now() + Duration::from_secs(2);
        sim.run_while(|| sim.now() < first);
        assert!(shared.rights.owns(8) && !shared.rights.owns(7));
        assert!(!shared.rights.holds_since(since));
        let since = shared.rights.since();
        drop(writing);
        sim.run();
        assert!(shared.rights.owns(7) && !shared.rights.holds_since(since));
    }

    #[test]
    fn what_was_stuck_before_is_known_by_the_first_look() {
        let sim = Sim::new(1);
        let shared = Shared::leased(EngineConfig::least());
        shared.slots.lock(8).now_or_never().unwrap().keep();
        let looked = Looks::default();
        taking(&sim, &shared, &looked);
        sim.run();
        assert!(shared.rights.owns(7) && shared.rights.owns(8));
        assert!(shared.stuck().is_empty());
        assert_eq!(*looked.borrow(), [(vec![7, 8], vec![])]);
    }

    #[test]
    fn a_change_that_ends_well_needs_no_other_look() {
        let sim = Sim::new(1);
        let shared = Shared::leased(EngineConfig::least());
        let looked = Looks::default();
        let (of, time) = (Arc::clone(&shared), sim.clone());
        sim.spawn(async move {
            let guard = of.slots.lock(7).await;
            time.sleep(Duration::from_secs(9)).await;
            drop(guard);
        });
        let (of, time, seen) = (Arc::clone(&shared), sim.clone(), Rc::clone(&looked));
        sim.spawn(async move {
            time.sleep(Duration::from_millis(10)).await;
            taking(&time, &of, &seen);
        });
        sim.run();
        assert!(shared.rights.owns(7) && shared.rights.owns(8));
        assert_eq!(*looked.borrow(), [(vec![7, 8], vec![])]);
    }
}
