//! Which request is number n of a round.

use super::random::{below, mix, unit};
use super::{Action, KeySpace, Object, Shuffle};

/// What is asked for, in which order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pattern {
    Get,
    /// Ranges of this many bytes, anywhere.
    Range(u64),
    Head,
    /// Pages of this many keys.
    List(u64),
    /// Reads with this probability, overwrites else.
    Mixed(f64),
    /// Every object once, shuffled.
    Once(Shuffle),
    /// Objects in the order of their indexes, each once.
    Put,
    PutParts,
    WriteThenRead,
    Delete,
    Ensure,
    GetInOrder,
    /// The bucket itself, once.
    Bucket,
}

/// The requests of one round: a function of their number.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) space: KeySpace,
    pub(crate) pattern: Pattern,
    /// Objects of the space.
    pub(crate) objects: u64,
    /// First index of patterns that use every object once.
    pub(crate) base: u64,
    /// Seed of the round.
    pub(crate) seed: u64,
}

impl Workload {
    /// Request `number`; none when the objects are used up.
    pub(crate) fn action(&self, number: u64) -> Option<Action> {
        let random = mix(self.seed, number);
        let any = || self.space.object(below(random, self.objects));
        Some(match self.pattern {
            Pattern::Get => Action::Get(any()),
            Pattern::Head => Action::Head(any()),
            Pattern::Range(length) => range(any(), length, mix(random, 1)),
            Pattern::List(page) => self.page(random, page),
            Pattern::Mixed(share) if unit(mix(random, 1)) < share => Action::Get(any()),
            Pattern::Mixed(_) => Action::Put(any()),
            Pattern::Once(shuffle) => {
                Action::Get(self.space.object(shuffle.at(self.in_order(number)?)))
            }
            Pattern::Put => Action::Put(self.next(number)?),
            Pattern::PutParts => Action::PutParts(self.next(number)?),
            Pattern::WriteThenRead => Action::WriteThenRead(self.next(number)?),
            Pattern::Delete => Action::Delete(self.next(number)?),
            Pattern::Ensure => Action::Ensure(self.next(number)?),
            Pattern::GetInOrder => Action::Get(self.next(number)?),
            Pattern::Bucket if number > 0 => return None,
            Pattern::Bucket => Action::Bucket,
        })
    }

    fn in_order(&self, number: u64) -> Option<u64> {
        let index = self.base.checked_add(number)?;
        (index < self.objects).then_some(index)
    }

    fn next(&self, number: u64) -> Option<Object> {
        self.in_order(number).map(|index| self.space.object(index))
    }

    fn page(&self, random: u64, page: u64) -> Action {
        let after = below(random, self.objects);
        Action::List {
            after,
            expected: page.min(self.objects - after - 1),
        }
    }
}

/// A range inside the object; all of it when it is shorter. Starts anywhere.
fn range(object: Object, length: u64, random: u64) -> Action {
    let length = length.min(object.size);
    if length == 0 {
        return Action::Get(object);
    }
    Action::GetRange {
        object,
        offset: below(random, object.size - length + 1),
        length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Sizes;

    fn workload(pattern: Pattern, objects: u64) -> Workload {
        Workload {
            space: KeySpace::new("p/", "t", Sizes::Uniform(0, 300), 1),
            pattern,
            objects,
            base: 0,
            seed: 5,
        }
    }

    #[test]
    fn the_same_number_is_the_same_request() {
        let w = workload(Pattern::Mixed(0.7), 100);
        for n in 0..100 {
            assert_eq!(w.action(n), w.action(n));
        }
    }

    #[test]
    fn a_mix_keeps_its_share() {
        let w = workload(Pattern::Mixed(0.7), 100);
        let gets = (0..10_000).filter(|n| matches!(w.action(*n), Some(Action::Get(_))));
        assert!((6_800..7_200).contains(&gets.count()));
    }

    #[test]
    fn an_epoch_reads_every_object_once() {
        let w = workload(Pattern::Once(Shuffle::new(777, 3)), 777);
        let mut seen: Vec<u64> = (0..)
            .map_while(|n| match w.action(n) {
                Some(Action::Get(object)) => Some(object.index),
                _ => None,
            })
            .collect();
        assert_eq!(seen.len(), 777);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..777));
    }

    #[test]
    fn ranges_stay_inside_their_objects() {
        let w = workload(Pattern::Range(100), 1000);
        for n in 0..5_000 {
            match w.action(n).unwrap() {
                Action::GetRange {
                    object,
                    offset,
                    length,
                } => {
                    assert!(length == 100.min(object.size) && offset + length <= object.size);
                }
                Action::Get(object) => assert_eq!(object.size, 0),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn pages_know_how_many_keys_are_left() {
        let w = workload(Pattern::List(10), 25);
        for n in 0..500 {
            let Some(Action::List { after, expected }) = w.action(n) else {
                panic!();
            };
            assert_eq!(expected, 10.min(24 - after));
        }
    }

    #[test]
    fn writes_take_new_objects_until_none_is_left() {
        let mut w = workload(Pattern::Put, 10);
        w.base = 7;
        let indexes: Vec<_> = (0..5)
            .map(|n| {
                w.action(n)
                    .map(|a| matches!(a, Action::Put(o) if o.index == 7 + n))
            })
            .collect();
        assert_eq!(indexes, [Some(true), Some(true), Some(true), None, None]);
    }
}
