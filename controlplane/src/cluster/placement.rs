//! Who should own a slot, and who should hold copies: weighted rendezvous hashing.
//! Pure: the same members always get the same slots. Absent: who is a member.

use std::collections::HashSet;

use quickwater_proto::{NodeId, rendezvous_score};

/// A candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub node: NodeId,
    /// Its share of the slots grows with it, bytes of cache.
    pub weight: u64,
    /// Copies are spread over zones.
    pub zone: String,
}

/// The owner a slot should have.
#[must_use]
pub fn owner(slot: usize, candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().max_by(|a, b| compare(slot, a, b))
}

/// Who should hold `copies` copies of what is in a slot, best first: the owner, then
/// others in zones that have none yet, then others at all.
#[must_use]
pub fn holders(slot: usize, copies: usize, candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut ranked: Vec<&Candidate> = candidates.iter().collect();
    ranked.sort_by(|a, b| compare(slot, b, a));
    let mut zones = HashSet::new();
    let (mut first, second): (Vec<&Candidate>, Vec<&Candidate>) = ranked
        .into_iter()
        .partition(|candidate| zones.insert(candidate.zone.as_str()));
    first.extend(second);
    first.truncate(copies);
    first
}

/// Greater is better. Names decide between equals, so that there is one answer.
fn compare(slot: usize, a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let (left, right) = (score(slot, a), score(slot, b));
    left.total_cmp(&right).then_with(|| a.node.cmp(&b.node))
}

fn score(slot: usize, candidate: &Candidate) -> f64 {
    rendezvous_score(slot, &candidate.node, candidate.weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quickwater_proto::SLOTS;

    use super::*;

    fn candidates(weights: &[u64], zones: usize) -> Vec<Candidate> {
        let one = |(at, weight): (usize, &u64)| Candidate {
            node: NodeId::new(&format!("n{at}")).unwrap(),
            weight: *weight,
            zone: format!("z{}", at % zones),
        };
        weights.iter().enumerate().map(one).collect()
    }

    fn owners(candidates: &[Candidate]) -> Vec<NodeId> {
        let one = |slot| owner(slot, candidates).unwrap().node.clone();
        (0..SLOTS).map(one).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Every node gets its share, within a tenth of the whole by six standard
        /// deviations.
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1u64..8, 1..12)) {
            let all = candidates(&weights, 3);
            let owners = owners(&all);
            let total: u64 = weights.iter().sum();
            for candidate in &all {
                let share = candidate.weight as f64 / total as f64;
                let wanted = share * SLOTS as f64;
                let deviation = (wanted * (1.0 - share)).sqrt();
                let got = owners.iter().filter(|o| **o == candidate.node).count() as f64;
                prop_assert!((got - wanted).abs() <= 6.0 * deviation + 1.0, "{got} {wanted}");
            }
        }

        /// Who comes takes only for itself, who goes leaves only its own.
        #[test]
        fn only_what_must_move_moves(weights in prop::collection::vec(1u64..8, 2..10)) {
            let all = candidates(&weights, 3);
            let (last, rest) = all.split_last().unwrap();
            let (with, without) = (owners(&all), owners(rest));
            for slot in 0..SLOTS {
                prop_assert!(with[slot] == without[slot] || with[slot] == last.node);
            }
        }

        /// Copies are on different nodes, in as many zones as there are.
        #[test]
        fn copies_are_spread(
            weights in prop::collection::vec(1u64..8, 1..10),
            zones in 1usize..4,
            copies in 1usize..5,
            slot in 0..SLOTS,
        ) {
            let all = candidates(&weights, zones);
            let held = holders(slot, copies, &all);
            prop_assert_eq!(held.len(), copies.min(all.len()));
            let nodes: HashSet<_> = held.iter().map(|c| &c.node).collect();
            prop_assert_eq!(nodes.len(), held.len());
            let used: HashSet<_> = held.iter().map(|c| &c.zone).collect();
            prop_assert_eq!(used.len(), copies.min(zones.min(all.len())));
            prop_assert_eq!(held[0], owner(slot, &all).unwrap());
        }
    }

    #[test]
    fn without_candidates_nobody_owns_anything() {
        assert_eq!(owner(0, &[]), None);
        assert!(holders(0, 3, &[]).is_empty());
    }
}
