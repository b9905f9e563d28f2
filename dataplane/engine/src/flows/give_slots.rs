//! Slots that others are to have: nothing of them is answered or changed here any more, and
//! what of them is pending is let go. Absent: who says that they are others', which slots
//! have to stay.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use quickwater_proto::{CopyOf, NodeId, slot_of};

use crate::decisions::copy_holders::Copied;
use crate::flows::take_slots::Taking;
use crate::shared::Shared;

/// Slots that are being given away: nothing begins in them. Until they are, or if that is
/// broken off, nobody else has them, and they are ours as before.
struct Going<'a> {
    shared: &'a Shared,
    slots: Vec<usize>,
}

impl<'a> Going<'a> {
    fn begin(shared: &'a Shared, slots: Vec<usize>) -> Self {
        for slot in &slots {
            shared.rights.set(*slot, false);
        }
        Self { shared, slots }
    }

    /// They go, but for those.
    fn end(mut self, kept: &BTreeSet<usize>) -> BTreeSet<usize> {
        let gone = self.slots.extract_if(.., |slot| !kept.contains(slot));
        gone.collect()
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        for slot in &self.slots {
            self.shared.rights.set(*slot, true);
        }
    }
}

impl Shared {
    /// Gives the slots `lost` away. Answers those that this worker keeps for now: those that
    /// `must_stay` names before, or when nothing is under way in them any more, and those in
    /// which something still is when `patience` is over. Nobody else may have any of them
    /// before this has answered; dropped before that, it gives none away. `now`: monotonic.
    pub async fn give_slots(
        &self,
        lost: Vec<usize>,
        must_stay: impl Fn() -> BTreeSet<usize>,
        now: impl Fn() -> Duration,
        patience: impl Future<Output = ()>,
    ) -> Vec<usize> {
        // Nobody throws away what is noted of them before it is known whose they are.
        let _giving = Taking::begin(self, &lost);
        let must = must_stay();
        let (mut kept, going): (Vec<usize>, Vec<usize>) =
            lost.iter().copied().partition(|slot| must.contains(slot));
        let going = Going::begin(self, going);
        let mut patience = pin!(patience.fuse());
        let mut over = false;
        let mut stay = BTreeSet::new();
        for slot in &going.slots {
            let mut ended = pin!(self.quiesce(*slot));
            let is_quiet = match over {
                true => ended.as_mut().now_or_never().is_some(),
                false => matches!(select(ended, patience.as_mut()).await, Either::Left(_)),
            };
            if !is_quiet {
                over = true;
                stay.insert(*slot);
            }
        }
        // A change that was under way may have left something that no UFS has.
        let must = must_stay();
        stay.extend(going.slots.iter().filter(|slot| must.contains(slot)));
        let gone = going.end(&stay);
        kept.extend(stay);
        self.let_go(|slot| gone.contains(&slot), now());
        self.forget_objects();
        kept
    }

    /// Lets go of what is pending in slots that others will have: it stands in its rows.
    /// Bytes that are here, and that others have, too, are kept for the next owners.
    /// Nothing may be under way in these slots.
    fn let_go(&self, given: impl Fn(usize) -> bool, now: Duration) {
        self.persist.let_go(&given);
        self.transient.let_go(&given);
        self.notes.give(&given);
        let of = |copied: &Copied| given(slot_of(copied.bucket, &copied.key));
        for (blob, copied) in self.holders.let_go(of) {
            self.forget_anchor(blob);
            // The UFS may have it since a moment ago: then nobody else would tell them.
            let others: Vec<NodeId> = copied.others.iter().map(|at| at.node.clone()).collect();
            self.holders.tell(blob, &others);
            let copy = CopyOf {
                bucket: copied.bucket,
                key: copied.key,
                blob,
                part: copied.part,
                // Its commit was ours, and is made.
                owner: None,
            };
            self.kept.keep(copy, copied.bytes, true, now);
        }
    }
}

#[cfg(test)]
mod tests;
