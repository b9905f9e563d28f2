//! Whether a copy that a worker keeps is still needed. Absent: what it does then.

use quickwater_proto::{BlobId, BucketId, CopyAt, MetadataError, NodeId, slot_of};
use quickwater_rpc::cluster as messages;

use super::wire;
use super::{Cluster, Membership};
use crate::store::Store;

impl<S: Store> Cluster<S> {
    /// Answers `flag`: the current version of the key names the copy of `asking`;
    /// `more`: who had it kept may still commit it; `change`: what became of the change, if
    /// it is not named.
    pub(super) async fn copy_state(
        &self,
        asking: &NodeId,
        call: &messages::Call,
    ) -> Result<messages::Answer, MetadataError> {
        let (bucket, key) = (BucketId(call.bucket), wire::key(&call.key)?);
        let blob = BlobId(wire::number(&call.blob)?);
        let part = wire::part_of(call)?;
        // Before the rows are read: what is over then is in them, or never will be.
        let more = wire::copies(&call.copies)?.iter().any(|owner| {
            let owns = self.0.table.borrow().owner(slot_of(bucket, &key)) == Some(&owner.node);
            may_commit(&self.members(), owner, owns, self.0.clock.now())
        });
        let names = &self.0.namespace;
        let unnamed = names
            .unnamed_copy(bucket, &key, (blob, asking), part)
            .await?;
        Ok(messages::Answer {
            flag: unnamed.is_none(),
            change: unnamed.map_or(0, |change| wire::change_of_to_wire(change).into()),
            more,
            ..messages::Answer::default()
        })
    }
}

/// Whether what a session of a worker has sent may still be committed. Once its lease
/// is over it registers anew before it owns anything again.
fn may_commit(members: &Membership, owner: &CopyAt, owns: bool, now: std::time::Duration) -> bool {
    let Some(seat) = members.seat(&owner.node) else {
        return false;
    };
    let lives = !seat.member.gone && now < seat.lease_until;
    seat.session == owner.session && (lives || owns)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quickwater_proto::SlotTable;

    use super::*;
    use crate::records::Member;

    fn member(name: &str) -> Member {
        Member {
            node: NodeId::new(name).unwrap(),
            advertise: String::new(),
            zone: String::new(),
            capacity_bytes: 1 << 30,
            s3_address: String::new(),
            store: vec![1; 16],
            shards: 2,
            version: String::new(),
            gone: false,
            draining: false,
            removed: false,
            lease_ms: 0,
        }
    }

    #[test]
    fn only_a_later_session_or_lost_slots_end_what_was_begun() {
        let lease = Duration::from_secs(10);
        let mut members = Membership::load(lease, SlotTable::default(), [], Duration::ZERO);
        members.register(member("n1"), 3, Duration::ZERO);
        let node = NodeId::new("n1").unwrap();
        let at = |session| CopyAt {
            node: node.clone(),
            session,
        };
        let early = Duration::from_secs(1);
        assert!(may_commit(&members, &at(3), true, early));
        // It may get its slots back in the same session.
        assert!(may_commit(&members, &at(3), false, early));
        assert!(!may_commit(&members, &at(2), true, early));
        // Silent, but nobody else has its slots yet: a call of it may be on its way.
        let late = Duration::from_secs(60);
        assert!(may_commit(&members, &at(3), true, late));
        assert!(!may_commit(&members, &at(3), false, late));
        members.remove(&node, 4);
        assert!(!may_commit(&members, &at(3), true, early));
        let stranger = CopyAt {
            node: NodeId::new("n9").unwrap(),
            session: 1,
        };
        assert!(!may_commit(&members, &stranger, true, early));
    }
}
