//! Connections that are here and whose packets another worker sends on: it is told when they
//! have ended, because it sees only what the client says. Absent: looking for them
//! (`quickwater-handoff`), telling (`service/handoff.rs`).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use quickwater_ebpf::Ends;
use quickwater_proto::NodeId;

use super::lock;

/// Connections that are known, and ends that wait to be told, each; others end at their
/// entry by being silent.
const STAYS_MAX: usize = 65_536;

/// A connection that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stay {
    /// The worker whose host its client's packets reach.
    pub(crate) entry: NodeId,
    /// By which that one knows it.
    pub(crate) mark: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Stays(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    here: HashMap<Ends, Here>,
    ended: Vec<(Ends, Stay)>,
}

#[derive(Debug)]
struct Here {
    stay: Stay,
    begun: Instant,
    /// The last look did not find its socket.
    is_missed: bool,
}

impl Stays {
    /// A connection is here, and has a socket.
    pub(crate) fn begin(&self, ends: Ends, stay: Stay, now: Instant) {
        let known = &mut *lock(&self.0);
        if known.here.len() < STAYS_MAX || known.here.contains_key(&ends) {
            let here = Here {
                stay,
                begun: now,
                is_missed: false,
            };
            known.here.insert(ends, here);
        }
    }

    /// It is about to go elsewhere: that its socket goes then is no end.
    pub(crate) fn leave(&self, ends: &Ends) -> Option<Stay> {
        lock(&self.0).here.remove(ends).map(|here| here.stay)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).here.is_empty()
    }

    /// Those without a socket at two looks in a row have ended: the kernel tells of sockets a
    /// page at a time, and may leave one out that stands behind one that ends meanwhile.
    /// `sockets`: local and remote ends of those there were at some time after `since`; about
    /// what came later they say nothing.
    pub(crate) fn compare(&self, sockets: &HashSet<(SocketAddr, SocketAddr)>, since: Instant) {
        let known = &mut *lock(&self.0);
        let gone = known.here.extract_if(|ends, here| {
            let is_missing = here.begun < since && !sockets.contains(&(ends.service, ends.client));
            let was_missed = std::mem::replace(&mut here.is_missed, is_missing);
            was_missed && is_missing
        });
        let gone = gone.map(|(ends, here)| (ends, here.stay));
        known.ended.extend(gone);
        known.ended.truncate(STAYS_MAX);
    }

    /// Some that have ended and whose entry was not told, all of one entry, at most `most`.
    pub(crate) fn take_ended(&self, most: usize) -> Option<(NodeId, Vec<(Ends, u64)>)> {
        let known = &mut *lock(&self.0);
        let entry = known.ended.last()?.1.entry.clone();
        let mut left = most;
        let taken = known.ended.extract_if(.., |(_, stay)| {
            let taken = left > 0 && stay.entry == entry;
            left -= usize::from(taken);
            taken
        });
        let taken = taken.map(|(ends, stay)| (ends, stay.mark)).collect();
        Some((entry, taken))
    }

    /// What was not told of an entry is not told any more: it does not answer.
    pub(crate) fn give_up(&self, entry: &NodeId) -> usize {
        let known = &mut *lock(&self.0);
        let before = known.ended.len();
        known.ended.retain(|(_, stay)| stay.entry != *entry);
        before - known.ended.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ends(port: u16) -> Ends {
        Ends {
            client: SocketAddr::from(([10, 0, 0, 1], port)),
            service: "10.0.0.2:80".parse().unwrap(),
        }
    }

    fn stay(entry: &str, mark: u64) -> Stay {
        let entry = NodeId::new(entry).unwrap();
        Stay { entry, mark }
    }

    fn sockets(ports: &[u16]) -> HashSet<(SocketAddr, SocketAddr)> {
        let of = |port: &u16| (ends(*port).service, ends(*port).client);
        ports.iter().map(of).collect()
    }

    /// Two looks that find no socket.
    fn none(stays: &Stays, since: Instant) {
        stays.compare(&sockets(&[]), since);
        stays.compare(&sockets(&[]), since);
    }

    const LATER: Duration = Duration::from_secs(1);

    #[test]
    fn who_has_no_socket_any_more_has_ended() {
        let (stays, now) = (Stays::default(), Instant::now());
        for port in 1..=3 {
            stays.begin(ends(port), stay("n1", port.into()), now);
        }
        stays.compare(&sockets(&[1, 3]), now + LATER);
        assert_eq!(stays.take_ended(9), None, "it may have been left out");
        stays.compare(&sockets(&[1]), now + LATER);
        assert_eq!(
            stays.take_ended(9),
            Some((NodeId::new("n1").unwrap(), vec![(ends(2), 2)]))
        );
        assert_eq!(stays.take_ended(9), None, "told once");
        // The third one was left out once.
        stays.compare(&sockets(&[1, 3]), now + LATER);
        stays.compare(&sockets(&[1]), now + LATER);
        assert_eq!(stays.take_ended(9), None);
        assert!(!stays.is_empty());
    }

    #[test]
    fn a_look_says_nothing_of_what_came_since_or_left() {
        let (stays, now) = (Stays::default(), Instant::now());
        stays.begin(ends(1), stay("n1", 1), now + LATER);
        stays.begin(ends(2), stay("n1", 2), now);
        assert_eq!(stays.leave(&ends(2)), Some(stay("n1", 2)));
        // It went on, and came back.
        stays.begin(ends(3), stay("n1", 3), now);
        stays.leave(&ends(3));
        stays.begin(ends(3), stay("n1", 4), now + LATER);
        none(&stays, now + LATER);
        assert_eq!(stays.take_ended(9), None);
        none(&stays, now + 2 * LATER);
        let (_, mut told) = stays.take_ended(9).unwrap();
        told.sort_by_key(|(_, mark)| *mark);
        assert_eq!(told, [(ends(1), 1), (ends(3), 4)]);
    }

    #[test]
    fn each_entry_is_told_of_its_own_so_many_at_a_time() {
        let (stays, now) = (Stays::default(), Instant::now());
        for port in 1..=10 {
            let entry = if port % 2 == 0 { "n1" } else { "n2" };
            stays.begin(ends(port), stay(entry, port.into()), now);
        }
        none(&stays, now + LATER);
        let mut told = Vec::new();
        while let Some((entry, some)) = stays.take_ended(3) {
            assert!((1..=3).contains(&some.len()));
            for (_, mark) in some {
                assert_eq!(entry.as_str(), if mark % 2 == 0 { "n1" } else { "n2" });
                told.push(mark);
            }
        }
        told.sort_unstable();
        assert_eq!(told, (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_that_does_not_answer_is_given_up() {
        let (stays, now) = (Stays::default(), Instant::now());
        stays.begin(ends(1), stay("n1", 1), now);
        stays.begin(ends(2), stay("n2", 2), now);
        none(&stays, now + LATER);
        assert_eq!(stays.give_up(&NodeId::new("n1").unwrap()), 1);
        let (entry, _) = stays.take_ended(9).unwrap();
        assert_eq!(entry.as_str(), "n2");
    }

    #[test]
    fn so_many_are_known_and_no_more() {
        let (stays, now) = (Stays::default(), Instant::now());
        for number in 0..STAYS_MAX as u32 + 10 {
            let [_, a, b, c] = number.to_be_bytes();
            let client = SocketAddr::from(([10, a, b, c], 1));
            let ends = Ends { client, ..ends(1) };
            stays.begin(ends, stay("n1", number.into()), now);
        }
        assert_eq!(lock(&stays.0).here.len(), STAYS_MAX);
        for _ in 0..2 {
            none(&stays, now + LATER);
            stays.begin(ends(1), stay("n1", 1), now);
        }
        assert!(lock(&stays.0).ended.len() <= STAYS_MAX);
    }
}
