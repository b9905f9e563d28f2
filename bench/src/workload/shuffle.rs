//! A shuffled order of 0..n in constant memory: a four-round Feistel network over
//! the next even number of bits, walked until it lands inside (a permutation, so
//! every number comes exactly once).

use super::random::mix;

const ROUNDS: u64 = 4;

/// A permutation of `0..count`, chosen by a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shuffle {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Shuffle {
    pub(crate) const fn new(count: u64, seed: u64) -> Self {
        let bits = 64 - count.saturating_sub(1).leading_zeros();
        let half = bits.div_ceil(2);
        Self {
            count,
            half_bits: if half == 0 { 1 } else { half },
            seed,
        }
    }

    /// The number at a position; `position` must be below the count. The walk
    /// takes four steps at most on average, as the domain is at most four times
    /// the count, and ends since the network is a permutation.
    pub(crate) fn at(&self, position: u64) -> u64 {
        debug_assert!(position < self.count);
        let mut value = self.encrypt(position);
        while value >= self.count {
            value = self.encrypt(value);
        }
        value
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let next = left ^ (mix(self.seed.wrapping_add(round), right) & mask);
            (left, right) = (right, next);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_once() {
        for count in [1, 2, 3, 4, 5, 17, 1000, 1024, 1025] {
            let shuffle = Shuffle::new(count, 42);
            let mut all: Vec<u64> = (0..count).map(|i| shuffle.at(i)).collect();
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..count), "{count}");
        }
    }

    #[test]
    fn seeds_give_different_orders_and_none_is_sorted() {
        let order = |seed| {
            (0..1000)
                .map(|i| Shuffle::new(1000, seed).at(i))
                .collect::<Vec<_>>()
        };
        assert_ne!(order(1), order(2));
        assert_eq!(order(1), order(1));
        let neighbours = order(1).windows(2).filter(|w| w[1] == w[0] + 1).count();
        assert!(neighbours < 10, "{neighbours}");
    }
}
