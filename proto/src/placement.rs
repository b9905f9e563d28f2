//! Which slot a key falls into, and the table that says who owns it. Absent: how
//! owners are chosen.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{BucketId, ObjectKey};

/// Slots keys fall into. Part of what all versions agree on.
pub const SLOTS: usize = 16_384;
/// Longest name of a node, characters: with what follows in a certificate it is a name of
/// at most 253 (RFC 1035).
const NODE_ID_CHARS_MAX: usize = 200;
/// Longest part of it between dots (RFC 1123, section 2.1).
const LABEL_CHARS_MAX: usize = 63;
/// Stands for nobody in a table.
const NOBODY: u16 = u16::MAX;
/// Most members of a table.
const MEMBERS_MAX: usize = 10_000;

/// The slot of a key, the same in every process and version.
#[must_use]
pub fn slot_of(bucket: BucketId, key: &ObjectKey) -> usize {
    slot_of_text(bucket, key.as_str())
}

/// The same of a key as text.
#[must_use]
pub fn slot_of_text(bucket: BucketId, key: &str) -> usize {
    (xxh3_64_with_seed(key.as_bytes(), bucket.0) % SLOTS as u64) as usize
}

/// The slot that a stripe of a large object falls into, by its number from 0: whoever owns it
/// is to have the stripe's clean bytes. The first lies with the key, so that who knows the
/// object gives its head itself.
#[must_use]
pub fn stripe_slot(bucket: BucketId, key: &ObjectKey, stripe: u64) -> usize {
    let of_key = xxh3_64_with_seed(key.as_str().as_bytes(), bucket.0);
    match stripe {
        0 => (of_key % SLOTS as u64) as usize,
        number => (xxh3_64_with_seed(&number.to_le_bytes(), of_key) % SLOTS as u64) as usize,
    }
}

/// How well a node suits a slot: of several, the one with the greatest score belongs to
/// each with a chance in proportion to its weight. The same in every process.
#[must_use]
pub fn rendezvous_score(slot: usize, node: &NodeId, weight: u64) -> f64 {
    let hash = xxh3_64_with_seed(node.as_str().as_bytes(), slot as u64);
    // 53 bits, never 0 or 1. `weight / -ln(u)` with `u` uniform in (0, 1).
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    weight.max(1) as f64 / -uniform.ln()
}

/// What follows a node's id in the name its certificate is for.
pub const WORKER_NAME_SUFFIX: &str = ".worker.quickwater";

/// Not a name for a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no node id: up to 200 of a-z, 0-9, '-' and '.', each part between dots of 1 to 63 \
     beginning and ending with a letter or digit"
)]
pub struct InvalidNodeId(String);

/// What every worker knows of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub node: NodeId,
    /// Where other workers reach it, `host:port`.
    pub address: String,
    /// Where it stands; empty: nobody said.
    pub zone: String,
    /// Bytes of its cache.
    pub capacity_bytes: u64,
    /// Its session.
    pub session: u64,
    /// Its lease runs.
    pub live: bool,
    /// It is to get rid of what only it has.
    pub draining: bool,
}

/// Name of a node: a host name in lower case (RFC 1123, section 2.1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidNodeId`].
    pub fn new(name: &str) -> Result<Self, InvalidNodeId> {
        let fits = name.len() <= NODE_ID_CHARS_MAX && name.split('.').all(is_label);
        match fits {
            true => Ok(Self(name.into())),
            false => Err(InvalidNodeId(name.chars().take(80).collect())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether this is one part of a host name.
fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let fits = bytes.len() <= LABEL_CHARS_MAX && bytes.iter().all(inner);
    fits && edge(bytes.first()) && edge(bytes.last())
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A table that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a placement table: {0}")]
pub struct TableError(&'static str);

/// Who owns which slot, and who may still hold a slot that is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    /// Number of the table; a later one is larger.
    pub epoch: u64,
    members: Vec<NodeId>,
    owners: Vec<u16>,
    /// Of slots that nobody owns: who owned them last and has not let go.
    yielding: Vec<u16>,
}

impl Default for SlotTable {
    /// Epoch 0: nobody owns anything.
    fn default() -> Self {
        Self {
            epoch: 0,
            members: Vec::new(),
            owners: vec![NOBODY; SLOTS],
            yielding: vec![NOBODY; SLOTS],
        }
    }
}

impl SlotTable {
    /// A table from one owner, or one that has not let go yet, per slot.
    #[must_use]
    pub fn from_slots<'n>(
        epoch: u64,
        slots: impl Fn(usize) -> (Option<&'n NodeId>, Option<&'n NodeId>),
    ) -> Self {
        let mut table = Self {
            epoch,
            ..Self::default()
        };
        for slot in 0..SLOTS {
            let (owner, yielding) = slots(slot);
            table.owners[slot] = table.number(owner);
            table.yielding[slot] = match owner {
                Some(_) => NOBODY,
                None => table.number(yielding),
            };
        }
        table
    }

    fn number(&mut self, node: Option<&NodeId>) -> u16 {
        let Some(node) = node else { return NOBODY };
        let known = self.members.iter().position(|member| member == node);
        let at = known.unwrap_or_else(|| {
            self.members.push(node.clone());
            self.members.len() - 1
        });
        u16::try_from(at).unwrap_or(NOBODY)
    }

    /// Who owns a slot.
    #[must_use]
    pub fn owner(&self, slot: usize) -> Option<&NodeId> {
        self.members.get(usize::from(*self.owners.get(slot)?))
    }

    /// Who owns or may still hold slots.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// Who may still hold a slot that nobody owns.
    #[must_use]
    pub fn yielding(&self, slot: usize) -> Option<&NodeId> {
        self.members.get(usize::from(*self.yielding.get(slot)?))
    }

    /// Whether a node owns no slot, and has let go of all it owned.
    #[must_use]
    pub fn is_clear_of(&self, node: &NodeId) -> bool {
        let Some(at) = self.members.iter().position(|member| member == node) else {
            return true;
        };
        let mut numbers = self.owners.iter().chain(&self.yielding);
        numbers.all(|number| usize::from(*number) != at)
    }

    /// How many slots a node owns.
    #[must_use]
    pub fn owned_by(&self, node: &NodeId) -> usize {
        let Some(at) = self.members.iter().position(|member| member == node) else {
            return 0;
        };
        let owned = self.owners.iter();
        owned.filter(|owner| usize::from(**owner) == at).count()
    }

    /// Its members and, per slot, owner and yielding one as big-endian numbers of them.
    #[must_use]
    pub fn to_parts(&self) -> (Vec<String>, Vec<u8>, Vec<u8>) {
        let bytes = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        let members = self.members.iter().map(ToString::to_string).collect();
        (members, bytes(&self.owners), bytes(&self.yielding))
    }

    /// What [`SlotTable::to_parts`] made of a table.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn from_parts(
        epoch: u64,
        members: &[String],
        owners: &[u8],
        yielding: &[u8],
    ) -> Result<Self, TableError> {
        if members.len() > MEMBERS_MAX {
            return Err(TableError("too many members"));
        }
        let members = members.iter().map(|name| NodeId::new(name));
        let members: Vec<NodeId> = members
            .collect::<Result<_, _>>()
            .map_err(|_| TableError("a member without a name"))?;
        let numbers = |bytes: &[u8]| {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let numbers: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            let named = |n: &u16| *n == NOBODY || usize::from(*n) < members.len();
            match rest.is_empty() && numbers.len() == SLOTS && numbers.iter().all(named) {
                true => Ok(numbers),
                false => Err(TableError("not a member for every slot")),
            }
        };
        Ok(Self {
            epoch,
            owners: numbers(owners)?,
            yielding: numbers(yielding)?,
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn slots_never_change() {
        let key = |text| ObjectKey::new(text).unwrap();
        let seen: Vec<usize> = ["a", "b/c", "\u{e9}"]
            .into_iter()
            .map(|text| slot_of(BucketId(7), &key(text)))
            .collect();
        assert_eq!(seen, PINNED);
        assert!(seen.iter().all(|slot| *slot < SLOTS));
    }

    /// Slots of three keys of bucket 7: other versions place them there, too.
    const PINNED: [usize; 3] = [8340, 1526, 2895];

    #[test]
    fn stripes_spread_and_the_first_lies_with_its_key() {
        let key = ObjectKey::new("models/large.bin").unwrap();
        let of = |stripe| stripe_slot(BucketId(7), &key, stripe);
        assert_eq!(of(0), slot_of(BucketId(7), &key));
        assert_eq!([of(1), of(2), of(1 << 40)], PINNED_STRIPES);
        let thirds = (0..3_000).map(|stripe| of(stripe) * 3 / SLOTS);
        let mut counts = [0; 3];
        thirds.for_each(|third| counts[third] += 1);
        assert!(
            counts.iter().all(|count| (850..1_150).contains(count)),
            "{counts:?}"
        );
    }

    /// As [`PINNED`], of stripes of one object.
    const PINNED_STRIPES: [usize; 3] = [5520, 11635, 15287];

    #[test]
    fn names_of_nodes_are_host_names() {
        for good in [
            "a",
            "n-1",
            "gpu042",
            "a.b",
            "ip-10-0-1-2.ec2.internal",
            &"x".repeat(63),
        ] {
            assert_eq!(node(good).as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a..b",
            ".a",
            "a.",
            "a.-b",
            "a/b",
            "..",
            "a_b",
            "\u{e9}",
            &"x".repeat(64),
            &"x.".repeat(101),
        ] {
            NodeId::new(bad).unwrap_err();
        }
    }

    #[test]
    fn a_table_survives_its_parts() {
        let (a, b) = (node("a"), node("b"));
        let table = SlotTable::from_slots(9, |slot| match slot % 3 {
            0 => (Some(&a), None),
            1 => (Some(&b), Some(&a)),
            _ => (None, (slot % 2 == 0).then_some(&a)),
        });
        let (members, owners, yielding) = table.to_parts();
        let again = SlotTable::from_parts(9, &members, &owners, &yielding).unwrap();
        assert_eq!(again, table);
        assert_eq!((again.owner(0), again.owner(1)), (Some(&a), Some(&b)));
        assert_eq!((again.owner(2), again.yielding(2)), (None, Some(&a)));
        assert_eq!((again.yielding(1), again.owner(SLOTS)), (None, None));
        assert_eq!(again.owned_by(&a), SLOTS.div_ceil(3));
        SlotTable::from_parts(9, &members[..1], &owners, &yielding).unwrap_err();
        SlotTable::from_parts(9, &members, &owners[2..], &yielding).unwrap_err();
    }
}
