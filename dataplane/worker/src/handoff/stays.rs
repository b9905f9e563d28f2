//! Connections that are here and whose packets another worker sends on: it is told when they
//! have ended, because it sees only what the client says. Absent: looking for them
//! (`quickwater-handoff`), telling (`service/handoff.rs`).

use std::collections::HashMap;
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
}

impl Stays {
    /// A connection is here, and has a socket.
    pub(crate) fn begin(&self, ends: Ends, stay: Stay, now: Instant) {
        let known = &mut *lock(&self.0);
        if known.here.len() < STAYS_MAX || known.here.contains_key(&ends) {
            known.here.insert(ends, Here { stay, begun: now });
        }
    }

    /// It is about to go elsewhere: that its socket goes then is no end.
    pub(crate) fn leave(&self, ends: &Ends) -> Option<Stay> {
        lock(&self.0).here.remove(ends).map(|here| here.stay)
    }

    /// All that are here, and since when.
    pub(crate) fn here(&self) -> Vec<(Ends, Instant)> {
        let known = lock(&self.0);
        let all = known.here.iter();
        all.map(|(ends, here)| (*ends, here.begun)).collect()
    }

    /// These have no socket any more, so they have ended: unless they have left since
    /// [`Stays::here`], or left and came back.
    pub(crate) fn end(&self, gone: &[(Ends, Instant)]) {
        let known = &mut *lock(&self.0);
        for (ends, begun) in gone {
            if known.ended.len() < STAYS_MAX
                && known
                    .here
                    .get(ends)
                    .is_some_and(|here| here.begun == *begun)
                && let Some(here) = known.here.remove(ends)
            {
                known.ended.push((*ends, here.stay));
            }
        }
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
    use std::net::SocketAddr;
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

    /// All that are here have no socket.
    fn end_all(stays: &Stays) {
        stays.end(&stays.here());
    }

    #[test]
    fn who_has_no_socket_any_more_has_ended() {
        let (stays, now) = (Stays::default(), Instant::now());
        for port in 1..=3 {
            stays.begin(ends(port), stay("n1", port.into()), now);
        }
        assert_eq!(stays.here().len(), 3);
        stays.end(&[(ends(2), now), (ends(4), now)]);
        assert_eq!(
            stays.take_ended(9),
            Some((NodeId::new("n1").unwrap(), vec![(ends(2), 2)]))
        );
        assert_eq!(stays.take_ended(9), None, "told once");
        let mut here: Vec<_> = stays.here().into_iter().map(|(ends, _)| ends).collect();
        here.sort_by_key(|ends| ends.client.port());
        assert_eq!(here, [ends(1), ends(3)]);
    }

    #[test]
    fn a_look_says_nothing_of_what_left_since() {
        let (stays, now) = (Stays::default(), Instant::now());
        for port in 1..=3 {
            stays.begin(ends(port), stay("n1", port.into()), now);
        }
        let looked_at = stays.here();
        assert_eq!(stays.leave(&ends(2)), Some(stay("n1", 2)));
        // It went on, and came back.
        stays.leave(&ends(3));
        let later = now + Duration::from_secs(1);
        stays.begin(ends(3), stay("n1", 4), later);
        stays.end(&looked_at);
        let (_, told) = stays.take_ended(9).unwrap();
        assert_eq!(told, [(ends(1), 1)]);
        assert_eq!(stays.here(), [(ends(3), later)]);
    }

    #[test]
    fn each_entry_is_told_of_its_own_so_many_at_a_time() {
        let (stays, now) = (Stays::default(), Instant::now());
        for port in 1..=10 {
            let entry = if port % 2 == 0 { "n1" } else { "n2" };
            stays.begin(ends(port), stay(entry, port.into()), now);
        }
        end_all(&stays);
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
        end_all(&stays);
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
            end_all(&stays);
            stays.begin(ends(1), stay("n1", 1), now);
        }
        assert_eq!(lock(&stays.0).ended.len(), STAYS_MAX);
    }
}
