//! In which zones copies of a body are, and in which they could be. Zones are numbers here:
//! bodies are many. Absent: who of a zone is asked for a copy.

use quickwater_proto::Neighbour;

/// The zones of all workers, numbered in the order of their names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Zones {
    names: Vec<String>,
    /// That of this worker; none: it is not known, and no zone is missing then.
    own: Option<usize>,
    /// By number: whether another worker there can be asked to keep something.
    open: Vec<bool>,
}

impl Zones {
    /// Of these others, and of this worker in the zone `own`.
    pub(super) fn of(others: &[Neighbour], own: Option<&str>) -> Self {
        let zones = others.iter().map(|other| other.zone.as_str());
        let mut names: Vec<String> = zones.chain(own).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        let mut zones = Self {
            own: None,
            open: vec![false; names.len()],
            names,
        };
        zones.own = own.and_then(|own| zones.number(own));
        for other in others.iter().filter(|one| one.live && !one.draining) {
            if let Some(number) = zones.number(&other.zone) {
                zones.open[number] = true;
            }
        }
        zones
    }

    pub(super) fn number(&self, zone: &str) -> Option<usize> {
        let found = self.names.binary_search_by(|name| name.as_str().cmp(zone));
        found.ok()
    }

    /// The zones of a body that is here and in the zones `have`.
    pub(super) fn there(&self, have: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut there: Vec<usize> = self.own.into_iter().collect();
        for zone in have {
            if !there.contains(&zone) {
                there.push(zone);
            }
        }
        there
    }

    /// In how many more zones a body is to be that is here and in the zones `have`: in no
    /// more in all than it has `copies`.
    pub(super) fn missing(&self, copies: usize, have: impl Iterator<Item = usize>) -> usize {
        if self.own.is_none() || self.names.len() <= 1 {
            return 0;
        }
        let there = self.there(have);
        let wanted = copies.saturating_sub(there.len());
        if wanted == 0 {
            return 0;
        }
        let zones = self.open.iter().enumerate();
        let free = zones.filter(|(zone, open)| **open && !there.contains(zone));
        free.take(wanted).count()
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::NodeId;

    use super::*;

    fn neighbour((name, zone): &(&str, &str)) -> Neighbour {
        Neighbour {
            node: NodeId::new(name).unwrap(),
            address: String::new(),
            zone: (*zone).into(),
            capacity_bytes: 1 << 30,
            session: 1,
            live: true,
            draining: false,
        }
    }

    /// Of a body here, in zone a, and at those that have it.
    fn missing(others: &[(&str, &str)], have: &[&str], copies: usize) -> usize {
        let known: Vec<Neighbour> = others.iter().map(neighbour).collect();
        let zones = Zones::of(&known, Some("a"));
        let have = known.iter().filter(|one| have.contains(&one.node.as_str()));
        zones.missing(copies, have.filter_map(|one| zones.number(&one.zone)))
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
    fn zones_of_whom_nothing_can_be_asked_are_not_missing() {
        let mut others = [("n2", "b"), ("n3", "c")].map(|one| neighbour(&one));
        others[0].draining = true;
        others[1].live = false;
        let zones = Zones::of(&others, Some("a"));
        assert_eq!(zones.missing(3, [].into_iter()), 0);
        others[1].live = true;
        let zones = Zones::of(&others, Some("a"));
        assert_eq!(zones.missing(3, [].into_iter()), 1);
    }

    #[test]
    fn nothing_is_missing_without_zones() {
        let others = [("n2", ""), ("n3", "")].map(|one| neighbour(&one));
        let zones = Zones::of(&others, Some(""));
        assert_eq!(zones.missing(3, [].into_iter()), 0);
        let others = [("n2", "b"), ("n3", "c")].map(|one| neighbour(&one));
        let zones = Zones::of(&others, None);
        assert_eq!(zones.missing(3, [].into_iter()), 0);
    }
}
