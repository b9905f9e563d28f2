//! What becomes of the bytes of an object when a worker that has some of them goes for good,
//! as far as its row says. Pure: who is there is handed in.

use std::collections::BTreeSet;

use quickwater_proto::{Holders, NodeId};

/// How a worker is that has bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It has a session, and its lease is not over.
    Answers,
    /// It may come back, or be lost as well.
    Silent,
    /// It goes now, or was removed before.
    Removed,
}

/// What becomes of an object whose bytes are not all with workers that answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Lost: whoever else had it was removed.
    Lost,
    /// Otherwise only these have it, which do not answer now.
    Unanswered(BTreeSet<NodeId>),
    /// It is in parts, of which others that answer have some; any other may be only with
    /// those that do not, or were removed.
    InPart,
}

/// What becomes of an object that these have; none: others that answer have all of it.
pub(super) fn fate(holders: &Holders, presence: impl Fn(&NodeId) -> Presence) -> Option<Fate> {
    let nodes = &holders.nodes;
    let there = nodes.iter().filter(|n| presence(n) == Presence::Answers);
    let there = there.count();
    if there == 0 {
        let silent = nodes.iter().filter(|n| presence(n) == Presence::Silent);
        let silent: BTreeSet<NodeId> = silent.cloned().collect();
        return Some(match silent.is_empty() {
            true => Fate::Lost,
            false => Fate::Unanswered(silent),
        });
    }
    // Each body is on so many of them. On more than that no single one is.
    let copies = holders.copies.max(1);
    let several = nodes.len() > copies;
    (several && nodes.len() - there >= copies).then_some(Fate::InPart)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that begin with `a` answer, with `s` are silent, with `r` were removed.
    fn of(names: &[&str], copies: usize) -> Option<Fate> {
        let nodes = names.iter().map(|name| NodeId::new(name).unwrap());
        let holders = Holders {
            nodes: nodes.collect(),
            copies,
        };
        fate(&holders, |node| match node.as_str().as_bytes()[0] {
            b'a' => Presence::Answers,
            b's' => Presence::Silent,
            _ => Presence::Removed,
        })
    }

    fn unanswered(names: &[&str]) -> Option<Fate> {
        let nodes = names.iter().map(|name| NodeId::new(name).unwrap());
        Some(Fate::Unanswered(nodes.collect()))
    }

    #[test]
    fn only_one_that_answers_saves_an_object() {
        for copies in [0, 1, 2, 3] {
            assert_eq!(of(&["r1"], copies), Some(Fate::Lost));
            assert_eq!(of(&["r1", "r2"], copies), Some(Fate::Lost));
            assert_eq!(of(&["r1", "s2", "s3"], copies), unanswered(&["s2", "s3"]));
        }
        assert_eq!(of(&["r1", "a2"], 2), None);
        assert_eq!(of(&["r1", "s2", "a3"], 3), None);
    }

    #[test]
    fn of_several_bodies_each_has_to_be_with_one_that_answers() {
        // One is on 1 and 2, the other on 2 and 3.
        assert_eq!(of(&["r1", "a2", "a3"], 2), None);
        assert_eq!(of(&["r1", "s2", "a3"], 2), Some(Fate::InPart));
        assert_eq!(of(&["r1", "r2", "a3"], 2), Some(Fate::InPart));
        assert_eq!(of(&["r1", "a2"], 1), Some(Fate::InPart));
        assert_eq!(of(&["r1", "a2"], 0), Some(Fate::InPart));
    }
}
