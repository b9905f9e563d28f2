//! In which zones copies are, and in which they could be. Pure. Absent: who of a zone is
//! asked (`copies`).

use std::collections::HashSet;

use quickwater_proto::{Neighbour, NodeId};

/// The zones of this worker and of those that have a body.
pub(super) fn zones_of(own: &Neighbour, known: &[Neighbour], have: &[NodeId]) -> HashSet<String> {
    let others = known.iter().filter(|one| have.contains(&one.node));
    let all = others.chain([own]);
    all.map(|one| one.zone.clone()).collect()
}

/// How many more of the zones of `usable` a body in the zones `there` is to be in: no more
/// in all than it has `copies`.
pub(super) fn zones_missing(there: &HashSet<String>, usable: &[Neighbour], copies: usize) -> usize {
    let zones = usable.iter().map(|one| &one.zone);
    let free: HashSet<&String> = zones.filter(|zone| !there.contains(*zone)).collect();
    free.len().min(copies.saturating_sub(there.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour((name, zone): (&str, &str)) -> Neighbour {
        Neighbour {
            node: NodeId::new(name).unwrap(),
            address: String::new(),
            zone: zone.into(),
            capacity_bytes: 1 << 30,
            session: 1,
            live: true,
            draining: false,
        }
    }

    /// Of a body at `n1` in zone a, and at those that have it.
    fn missing(others: &[(&str, &str)], have: &[&str], copies: usize) -> usize {
        let own = neighbour(("n1", "a"));
        let others: Vec<Neighbour> = others.iter().map(|one| neighbour(*one)).collect();
        let have: Vec<NodeId> = have.iter().map(|name| NodeId::new(name).unwrap()).collect();
        zones_missing(&zones_of(&own, &others, &have), &others, copies)
    }

    #[test]
    fn zones_of_those_that_have_it_are_not_missing() {
        let others = [("n2", "b"), ("n3", "b"), ("n4", "c")];
        assert_eq!(missing(&others, &[], 3), 2);
        assert_eq!(missing(&others, &["n2"], 3), 1);
        assert_eq!(missing(&others, &["n2", "n3"], 3), 1);
        assert_eq!(missing(&others, &["n2", "n4"], 3), 0);
    }

    #[test]
    fn no_more_zones_are_missing_than_there_are_copies_or_zones() {
        let others = [("n2", "b"), ("n3", "c")];
        assert_eq!(missing(&others, &["n2"], 2), 0);
        assert_eq!(missing(&others, &[], 2), 1);
        assert_eq!(missing(&others, &[], 16), 2);
        assert_eq!(missing(&[("n2", "a"), ("n3", "a")], &["n2"], 3), 0);
    }

    #[test]
    fn a_holder_that_nobody_knows_is_in_no_zone() {
        assert_eq!(missing(&[("n2", "b")], &["n9"], 3), 1);
    }
}
