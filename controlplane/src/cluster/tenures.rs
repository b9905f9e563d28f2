//! Since which table every slot is its owner's. A change that a worker begins while it owns a
//! slot, and that arrives when it owns the slot again, passes every other fence: owner and
//! session are right. What others did in between would be undone by it. Absent: who owns
//! what (`membership`).

use quickwater_proto::{NodeId, SLOTS, SlotTable};

/// Of every slot who has it, or had it last, and since which table.
#[derive(Debug)]
pub(super) struct Tenures(Vec<Tenure>);

#[derive(Debug)]
struct Tenure {
    node: Option<NodeId>,
    since: u64,
}

impl Tenures {
    /// By a table that is stored. Who had the slots in earlier ones nobody knows any more:
    /// what was begun by those is refused.
    pub(super) fn load(table: &SlotTable) -> Self {
        let slots = (0..SLOTS).map(|slot| Tenure {
            node: table.owner(slot).or(table.yielding(slot)).cloned(),
            since: table.epoch,
        });
        Self(slots.collect())
    }

    /// A table is to be in force. A slot that goes back to who had it last was nobody
    /// else's meanwhile.
    pub(super) fn go_by(&mut self, table: &SlotTable) {
        for (slot, tenure) in self.0.iter_mut().enumerate() {
            let Some(owner) = table.owner(slot) else {
                continue;
            };
            if tenure.node.as_ref() != Some(owner) {
                *tenure = Tenure {
                    node: Some(owner.clone()),
                    since: table.epoch,
                };
            }
        }
    }

    /// Whether a slot was nobody else's since the table `epoch`; 0: whoever asks does not say
    /// since when.
    pub(super) fn holds_since(&self, slot: usize, epoch: u64) -> bool {
        epoch == 0 || self.0[slot].since <= epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(epoch: u64, owner: Option<&NodeId>, yielding: Option<&NodeId>) -> SlotTable {
        SlotTable::from_slots(epoch, |slot| match slot {
            7 => (owner, yielding),
            _ => (None, None),
        })
    }

    #[test]
    fn who_gets_a_slot_back_from_another_begins_anew() {
        let nodes = ["n1", "n2"].map(|name| NodeId::new(name).unwrap());
        let [one, two] = [Some(&nodes[0]), Some(&nodes[1])];
        let mut tenures = Tenures::load(&SlotTable::default());
        tenures.go_by(&table(1, one, None));
        tenures.go_by(&table(2, None, one));
        // It did not give the slot away after all.
        tenures.go_by(&table(3, one, None));
        assert!(tenures.holds_since(7, 1) && tenures.holds_since(7, 3));
        tenures.go_by(&table(4, None, one));
        tenures.go_by(&table(5, two, None));
        tenures.go_by(&table(6, None, two));
        assert!(!tenures.holds_since(7, 4) && tenures.holds_since(7, 5));
        tenures.go_by(&table(7, one, None));
        assert!(!tenures.holds_since(7, 3) && !tenures.holds_since(7, 6));
        assert!(tenures.holds_since(7, 7) && tenures.holds_since(7, 9));
        // Of before there was such a number.
        assert!(tenures.holds_since(7, 0));
    }

    #[test]
    fn what_was_begun_by_a_table_of_before_a_restart_is_old() {
        let node = NodeId::new("n1").unwrap();
        let stored = [table(5, Some(&node), None), table(5, None, Some(&node))];
        for stored in stored {
            let mut tenures = Tenures::load(&stored);
            assert!(!tenures.holds_since(7, 4) && tenures.holds_since(7, 5));
            tenures.go_by(&table(6, Some(&node), None));
            assert!(tenures.holds_since(7, 5));
        }
    }
}
