//! Slots that others got without this worker having given them away, and what it has of
//! them. Absent: who got them (`attendant`), when bytes go (the keeper of copies).

use std::sync::Arc;
use std::time::Instant;

use quickwater_controlplane::records::JournalEntry;
use quickwater_engine::Shared;
use quickwater_engine::io::Environment as _;
use quickwater_proto::{CopyOf, NodeId, SLOTS, SlotTable, slot_of};
use quickwater_worker::environment::ShardEnvironment;
use quickwater_worker::store::Store;
use tokio::sync::watch;

use super::body::Body;

/// A slot that went to another worker and came back needed as many tables: one that takes it
/// from who is not heard of, one that gives it back when the other one is gone for good. Who
/// lives is asked for it by another one in between.
const TABLES_OF_A_RETURN: u64 = 2;

/// Slots that others may have had since `node` went by the table `gone_by`, if nobody waited
/// for it: those that are not its own now, or all, if there was time for some to come back.
pub(super) fn lost_meanwhile(table: &SlotTable, node: &NodeId, gone_by: u64) -> Vec<usize> {
    let returned = table.epoch >= gone_by.saturating_add(TABLES_OF_A_RETURN);
    let lost = |slot: &usize| returned || table.owner(*slot) != Some(node);
    (0..SLOTS).filter(lost).collect()
}

/// What lost slots have left in the store, while it is looked through.
pub(super) struct Leavings(watch::Sender<usize>);

impl Default for Leavings {
    fn default() -> Self {
        Self(watch::channel(0).0)
    }
}

/// A look that has not ended.
struct Look(watch::Sender<usize>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.send_modify(|looks| *looks -= 1);
    }
}

impl Leavings {
    /// Loses slots at once. What the worker has of them and no UFS had is kept for whoever
    /// sees to it by now, like any copy, and goes when the metadata do not name it: changes
    /// begun before are not made any more.
    pub(super) fn lose(&self, body: &Body, lost: &[usize]) {
        body.shared.lose_slots(lost);
        self.0.send_modify(|looks| *looks += 1);
        let look = Look(self.0.clone());
        let (shared, store) = (Arc::clone(&body.shared), body.store.clone());
        let start = body.start;
        tokio::task::spawn_blocking(move || {
            keep_for_others(&shared, &store, start);
            drop(look);
        });
    }

    /// Waits until all that was left is known. No slot may be taken before: of one that comes
    /// back nobody could tell what is left of the time before.
    pub(super) async fn known(&self) {
        // The sender is ours, so there always is an answer.
        let _ = self.0.subscribe().wait_for(|looks| *looks == 0).await;
    }
}

/// Keeps the bytes of all keys that are another worker's as copies. Blocks.
fn keep_for_others(shared: &Shared, store: &Store, start: Instant) {
    let entries = match store.journal() {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "what is kept of lost slots is not known before a restart");
            return;
        }
    };
    let now = ShardEnvironment::new(start).monotonic();
    let mut left = 0_u64;
    for entry in entries {
        let (blob, commit) = match entry {
            Ok(entry) if entry.data.is_empty() => continue,
            Ok(entry) => (entry.blob, JournalEntry::decode(&entry.data)),
            Err(error) => {
                tracing::warn!(%error, "an entry of the journal cannot be read");
                continue;
            }
        };
        let commit = match commit {
            Ok(commit) => commit,
            Err(error) => {
                tracing::warn!(%error, %blob, "an entry of the journal cannot be read");
                continue;
            }
        };
        let slot = slot_of(commit.bucket, &commit.key);
        if !shared.rights.is_foreign(slot) || shared.kept.has(blob) {
            continue;
        }
        let of = CopyOf {
            bucket: commit.bucket,
            key: commit.key,
            blob,
            part: None,
            owner: None,
        };
        shared.kept.keep(of, commit.object.size, false, now);
        left += 1;
    }
    tracing::info!(left, "slots were lost; what was kept of them is looked at");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// Of two workers, by odd and even slots.
    fn table(epoch: u64) -> SlotTable {
        let (a, b) = (node("a"), node("b"));
        SlotTable::from_slots(epoch, |slot| match slot % 2 {
            0 => (Some(&a), None),
            _ => (None, Some(&b)),
        })
    }

    #[test]
    fn slots_that_cannot_have_come_back_yet_are_kept() {
        for epoch in 7..7 + TABLES_OF_A_RETURN {
            let lost = lost_meanwhile(&table(epoch), &node("a"), 7);
            assert_eq!(lost.len(), SLOTS / 2);
            assert!(lost.iter().all(|slot| slot % 2 == 1));
            // Even those that wait for it: nobody knows since when.
            assert_eq!(lost_meanwhile(&table(epoch), &node("b"), 7).len(), SLOTS);
        }
    }

    #[test]
    fn slots_that_may_have_come_back_are_lost_like_others() {
        let later = table(7 + TABLES_OF_A_RETURN);
        assert_eq!(lost_meanwhile(&later, &node("a"), 7).len(), SLOTS);
        // No table was gone by yet.
        assert_eq!(lost_meanwhile(&table(3), &node("a"), 0).len(), SLOTS);
    }

    #[tokio::test]
    async fn slots_are_not_taken_while_it_is_looked_what_is_left_of_them() {
        let leavings = Leavings::default();
        leavings.known().await;
        leavings.0.send_modify(|looks| *looks += 2);
        let looks = [Look(leavings.0.clone()), Look(leavings.0.clone())];
        let waits = || futures_util::FutureExt::now_or_never(leavings.known());
        for look in looks {
            assert!(waits().is_none());
            drop(look);
        }
        assert!(waits().is_some());
    }
}
