//! Who owns what and where they are, as the control plane said last. One task writes,
//! all shards read. Absent: connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use quickwater_peer::{Capability, CapabilityError, KEY_BYTES, Key};
use quickwater_proto::{Neighbour, NodeId, SlotTable};

use super::limit::{KEY_KEPT, KEY_SETTLES};

/// Who answers for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// This worker.
    Here,
    /// That one.
    There(NodeId),
    /// Nobody now: it is on its way.
    Nowhere,
}

/// What a worker knows of the others.
#[derive(Debug)]
pub struct Directory {
    node: NodeId,
    table: ArcSwap<SlotTable>,
    met: ArcSwap<Met>,
    nonce: AtomicU64,
}

#[derive(Debug, Default)]
struct Met {
    addresses: HashMap<NodeId, SocketAddr>,
    keys: Vec<KnownKey>,
    members: Vec<Neighbour>,
}

/// A key, the newest first.
#[derive(Debug, Clone)]
struct KnownKey {
    key: Key,
    since: Instant,
}

impl Directory {
    /// Of `node`, which knows nobody yet.
    #[must_use]
    pub fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            table: ArcSwap::default(),
            met: ArcSwap::default(),
            nonce: AtomicU64::new(0),
        })
    }

    /// This worker.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Goes by a table from now on.
    pub fn set_table(&self, table: Arc<SlotTable>) {
        self.table.store(table);
    }

    /// Addresses of the others, and the key of the cluster. The key before stays good
    /// for a while. Addresses that are none are left out.
    pub fn meet(&self, key: [u8; KEY_BYTES], members: &[Neighbour]) {
        let (key, now) = (Key::new(key), Instant::now());
        let mut keys = self.met.load().keys.clone();
        if keys.first().is_none_or(|known| known.key != key) {
            keys.insert(0, KnownKey { key, since: now });
        }
        // The one before is kept as long as its successor is young.
        let keep = match keys.first() {
            Some(newest) if now.duration_since(newest.since) < KEY_KEPT => 2,
            _ => 1,
        };
        keys.truncate(keep);
        let place = |member: &Neighbour| {
            let Neighbour { node, address, .. } = member;
            let parsed = address.parse();
            if parsed.is_err() {
                tracing::warn!(%node, %address, "a worker advertises what is no address");
            }
            Some((node.clone(), parsed.ok()?))
        };
        let addresses = members.iter().filter_map(place).collect();
        self.met.store(Arc::new(Met {
            addresses,
            keys,
            members: members.to_vec(),
        }));
    }

    /// Who owns a slot.
    #[must_use]
    pub fn owner(&self, slot: usize) -> Where {
        match self.table.load().owner(slot) {
            Some(node) if *node == self.node => Where::Here,
            Some(node) => Where::There(node.clone()),
            None => Where::Nowhere,
        }
    }

    /// All others that own or may still hold slots.
    #[must_use]
    pub fn others(&self) -> Vec<NodeId> {
        let mut members = self.table.load().members().to_vec();
        members.retain(|member| *member != self.node);
        members
    }

    /// Whether a worker owns or may still hold slots.
    #[must_use]
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.table.load().members().contains(node)
    }

    /// Number of the table.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.table.load().epoch
    }

    /// Where a worker is.
    #[must_use]
    pub fn address(&self, node: &NodeId) -> Option<SocketAddr> {
        self.met.load().addresses.get(node).copied()
    }

    /// All workers that did not leave, this one included.
    #[must_use]
    pub fn neighbours(&self) -> Vec<Neighbour> {
        self.met.load().members.clone()
    }

    /// This worker's session; none: it has not met anybody yet.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        let met = self.met.load();
        let own = met.members.iter().find(|one| one.node == self.node);
        own.map(|own| own.session).filter(|session| *session > 0)
    }

    /// This worker, and the others that may be asked to keep something now.
    pub(crate) fn candidates(&self) -> (Neighbour, Vec<Neighbour>) {
        let (own, mut others): (Vec<_>, Vec<_>) = self
            .neighbours()
            .into_iter()
            .partition(|one| one.node == self.node);
        others.retain(|one| one.live && !one.draining);
        let own = own.into_iter().next();
        let unknown = || Neighbour {
            node: self.node.clone(),
            address: String::new(),
            zone: String::new(),
            capacity_bytes: 0,
            session: 0,
            live: false,
            draining: false,
        };
        (own.unwrap_or_else(unknown), others)
    }

    /// Signs a capability for `owner`; none without a key.
    pub(crate) fn allow(&self, owner: &NodeId, right: Capability) -> Option<Capability> {
        let met = self.met.load();
        let newest = met.keys.first()?;
        let settled = newest.since.elapsed() >= KEY_SETTLES;
        let key = match met.keys.get(1).filter(|_| !settled) {
            Some(before) => &before.key,
            None => &newest.key,
        };
        let right = Capability {
            caller: self.node.to_string(),
            owner: owner.to_string(),
            epoch: self.epoch(),
            nonce: self.nonce.fetch_add(1, Ordering::Relaxed),
            ..right
        };
        Some(right.signed(key))
    }

    /// Whether `caller` may have it done here.
    pub(crate) fn check(&self, caller: &NodeId, right: &Capability) -> Result<(), CapabilityError> {
        let met = self.met.load();
        let good = |at: usize| at == 0 || met.keys[0].since.elapsed() < KEY_KEPT;
        let keys = met.keys.iter().enumerate();
        let keys = keys
            .filter(|(at, _)| good(*at))
            .map(|(_, known)| &known.key);
        right.check(caller.as_str(), self.node.as_str(), keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn right() -> Capability {
        Capability {
            operation: "GetObject".into(),
            ..Capability::default()
        }
    }

    #[test]
    fn a_new_key_is_used_when_the_others_have_it_too() {
        let (a, b) = (Directory::new(node("a")), Directory::new(node("b")));
        assert!(a.allow(b.node(), right()).is_none(), "no key yet");
        a.meet([1; KEY_BYTES], &[]);
        b.meet([1; KEY_BYTES], &[]);
        let before = a.allow(b.node(), right()).unwrap();
        assert_eq!(b.check(a.node(), &before), Ok(()));
        // The control plane was started anew, and told one first.
        a.meet([2; KEY_BYTES], &[]);
        let between = a.allow(b.node(), right()).unwrap();
        assert_eq!(b.check(a.node(), &between), Ok(()));
        b.meet([2; KEY_BYTES], &[]);
        assert_eq!(b.check(a.node(), &between), Ok(()));
        // Two keys ago is over.
        a.meet([3; KEY_BYTES], &[]);
        b.meet([3; KEY_BYTES], &[]);
        assert!(b.check(a.node(), &before).is_err());
        assert!(b.check(&node("c"), &between).is_err());
    }

    #[test]
    fn members_are_those_of_the_table_and_the_news() {
        let (a, b) = (node("a"), node("b"));
        let directory = Directory::new(a.clone());
        assert_eq!(directory.owner(1), Where::Nowhere);
        let table = SlotTable::from_slots(4, |slot| match slot % 2 {
            0 => (Some(&a), None),
            _ => (Some(&b), None),
        });
        directory.set_table(Arc::new(table));
        assert_eq!(directory.owner(0), Where::Here);
        assert_eq!(directory.owner(1), Where::There(b.clone()));
        assert_eq!(directory.others(), vec![b.clone()]);
        assert!(directory.is_member(&b) && !directory.is_member(&node("c")));
        let at = |node: &NodeId, address: &str| Neighbour {
            node: node.clone(),
            address: address.into(),
            zone: "z".into(),
            capacity_bytes: 1,
            session: 3,
            live: true,
            draining: false,
        };
        assert_eq!(directory.session(), None);
        let mut told = [at(&b, "127.0.0.1:9"), at(&a, "nowhere")];
        directory.meet([0; KEY_BYTES], &told);
        assert_eq!(directory.session(), Some(3));
        assert_eq!(directory.candidates().1, told[..1]);
        assert_eq!(directory.address(&b), Some("127.0.0.1:9".parse().unwrap()));
        assert_eq!(directory.address(directory.node()), None);
        told[0].live = false;
        directory.meet([0; KEY_BYTES], &told);
        assert!(directory.candidates().1.is_empty(), "its lease is over");
    }
}
