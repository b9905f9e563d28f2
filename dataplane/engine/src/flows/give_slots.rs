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
use crate::engine::Shared;
use crate::flows::take_slots::Taking;

impl Shared {
    /// Gives the slots `lost` away. Answers those that this worker keeps for now: those that
    /// `must_stay` names before, or when nothing is under way in them any more, and those in
    /// which something still is when `patience` is over. Nobody else may have any of them
    /// before this has answered. `now`: monotonic.
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
        for slot in &going {
            self.rights.set(*slot, false);
        }
        let mut patience = pin!(patience.fuse());
        let mut over = false;
        let mut quiet = BTreeSet::new();
        for slot in going {
            let mut ended = pin!(self.quiesce(slot));
            let is_quiet = match over {
                true => ended.as_mut().now_or_never().is_some(),
                false => matches!(select(ended, patience.as_mut()).await, Either::Left(_)),
            };
            match is_quiet {
                true => drop(quiet.insert(slot)),
                false => {
                    over = true;
                    kept.push(slot);
                }
            }
        }
        // A change that was under way may have left something that no UFS has.
        let must = must_stay();
        for slot in quiet.extract_if(.., |slot| must.contains(slot)) {
            self.rights.set(slot, true);
            kept.push(slot);
        }
        self.let_go(|slot| quiet.contains(&slot), now());
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
                // Its commit was ours, and is made.
                owner: None,
            };
            self.kept.keep(copy, copied.bytes, true, now);
        }
    }
}

#[cfg(test)]
mod tests;
