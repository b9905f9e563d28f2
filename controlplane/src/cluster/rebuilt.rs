//! What a cluster begins with whose metadata were lost and rebuilt: its name, numbers above
//! all that were given, and which workers go on with what they have. Absent: objects.

use quickwater_proto::{NodeId, SlotTable};

use super::arrival::Past;
use crate::keyspace;
use crate::records::{
    Fence, Member, RecordError, Witness, encode_fence, encode_member, encode_rebuilt,
    encode_slot_table,
};
use crate::store::Row;

/// Sessions that may have been opened after the largest one known.
const SESSIONS_AHEAD: u64 = 1 << 20;

/// The cluster as its workers knew it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Its name.
    pub name: String,
    /// The largest epoch of a placement table.
    pub epoch: u64,
    /// The largest number of a session.
    pub session: u64,
    /// Whose stores told.
    pub witnesses: Vec<Witness>,
    /// Workers that did not, and are given up.
    pub missing: Vec<NodeId>,
}

impl Rebuilt {
    /// Its rows.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`]: more than some hundred workers.
    pub(crate) fn rows(&self) -> Result<Vec<Row>, RecordError> {
        let row = |key: Vec<u8>, value: Vec<u8>| Row {
            key: key.into(),
            value: value.into(),
        };
        // Nobody owns anything: who registers gets it, by later tables than all before.
        let table = SlotTable::from_slots(self.epoch + 1, |_| (None, None));
        let mut rows = vec![
            row(keyspace::cluster_name(), self.name.clone().into()),
            row(keyspace::slot_table(), encode_slot_table(&table)?),
            row(
                keyspace::cluster_rebuilt(),
                encode_rebuilt(&self.witnesses)?,
            ),
        ];
        let fence = encode_fence(Fence {
            session: self.session.saturating_add(SESSIONS_AHEAD),
            epoch: table.epoch,
        })?;
        let witnesses = self.witnesses.iter().map(|witness| &witness.node);
        for node in witnesses.chain(&self.missing) {
            rows.push(row(keyspace::fence(node), fence.clone()));
        }
        for node in &self.missing {
            let lost = Member {
                node: node.clone(),
                advertise: String::new(),
                zone: String::new(),
                capacity_bytes: 0,
                s3_address: String::new(),
                store: Vec::new(),
                shards: 0,
                version: String::new(),
                gone: true,
                draining: false,
                removed: true,
                lease_ms: 0,
            };
            rows.push(row(keyspace::member(node), encode_member(&lost)?));
        }
        Ok(rows)
    }
}

/// Whether the metadata were rebuilt from what this worker has, and it has seen nothing
/// since.
pub(super) fn goes_on(witnesses: &[Witness], member: &Member, past: &Past) -> bool {
    witnesses.iter().any(|witness| {
        witness.node == member.node
            && witness.directory == member.store
            && witness.seen == past.seen
    })
}

#[cfg(test)]
mod tests {
    use super::super::Position;
    use super::*;
    use crate::records::{decode_fence, decode_rebuilt, decode_slot_table};

    fn witness(name: &str, version: u64) -> Witness {
        Witness {
            node: NodeId::new(name).unwrap(),
            directory: vec![1; 16],
            seen: Some(Position { term: 5, version }),
        }
    }

    #[test]
    fn numbers_begin_above_all_that_were_given() {
        let rebuilt = Rebuilt {
            name: "c".into(),
            epoch: 9,
            session: 4,
            witnesses: vec![witness("n1", 3), witness("n2", 4)],
            missing: vec![NodeId::new("n3").unwrap()],
        };
        let rows = rebuilt.rows().unwrap();
        let value = |key: Vec<u8>| {
            let row = rows.iter().find(|row| *row.key == *key);
            row.map(|row| row.value.clone()).unwrap()
        };
        let table = decode_slot_table(&value(keyspace::slot_table())).unwrap();
        assert_eq!((table.epoch, table.owner(0)), (10, None));
        for name in ["n1", "n2", "n3"] {
            let row = value(keyspace::fence(&NodeId::new(name).unwrap()));
            let fence = decode_fence(&row).unwrap();
            assert!(fence.session > 1_000_000 && fence.epoch == 10, "{fence:?}");
        }
        let known = decode_rebuilt(&value(keyspace::cluster_rebuilt())).unwrap();
        assert_eq!(known, rebuilt.witnesses);
    }

    #[test]
    fn only_what_was_collected_goes_on() {
        let all = [witness("n1", 3)];
        let member = |name: &str, store: u8| Member {
            node: NodeId::new(name).unwrap(),
            advertise: String::new(),
            zone: String::new(),
            capacity_bytes: 1,
            s3_address: String::new(),
            store: vec![store; 16],
            shards: 1,
            version: String::new(),
            gone: false,
            draining: false,
            removed: false,
            lease_ms: 0,
        };
        let past = |version| Past {
            seen: Some(Position { term: 5, version }),
            ..Past::default()
        };
        assert!(goes_on(&all, &member("n1", 1), &past(3)));
        assert!(!goes_on(&all, &member("n2", 1), &past(3)), "another worker");
        assert!(
            !goes_on(&all, &member("n1", 2), &past(3)),
            "another directory"
        );
        assert!(
            !goes_on(&all, &member("n1", 1), &past(4)),
            "it has run since"
        );
        assert!(!goes_on(&all, &member("n1", 1), &Past::default()));
    }
}
