//! What a shard knows of the connections the program gave it. Pure: no clock, no map.

/// Looks after which a connection that was given to the shard and did not come counts
/// as lost. A handshake across continents takes less.
const LOOKS: usize = 20;

/// One shard's books. Its load, for the program, is what was placed less what is
/// settled; settled is what ended or never came.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accepted: u64,
    closed: u64,
    /// Placed and never come; negative, as two's complement, when some came that were
    /// not placed (the kernel chose).
    lost: u64,
    /// What had been placed at the last looks, oldest at `at`.
    seen: [u64; LOOKS],
    at: usize,
}

impl Ledger {
    /// A connection came.
    pub(crate) fn accept(&mut self) {
        self.accepted += 1;
    }

    /// One that came has ended.
    pub(crate) fn close(&mut self) {
        self.closed += 1;
    }

    /// To be called regularly with all that was placed so far: finds those that will
    /// not come.
    pub(crate) fn look(&mut self, placed: u64) {
        let oldest = std::mem::replace(&mut self.seen[self.at], placed);
        self.at = (self.at + 1) % LOOKS;
        let due = self.accepted.wrapping_add(self.lost);
        // Either it is behind what was placed long ago, or ahead of all that was placed.
        if is_less(due, oldest) {
            self.lost = oldest.wrapping_sub(self.accepted);
        } else if is_less(placed, due) {
            self.lost = placed.wrapping_sub(self.accepted);
        }
    }

    /// What is settled of all that was placed.
    pub(crate) fn settled(&self) -> u64 {
        self.closed.wrapping_add(self.lost)
    }
}

/// Order of counters that wrap.
fn is_less(one: u64, other: u64) -> bool {
    (one.wrapping_sub(other) as i64) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(ledger: &Ledger, placed: u64) -> i64 {
        placed.wrapping_sub(ledger.settled()) as i64
    }

    #[test]
    fn the_load_is_what_is_open_or_on_its_way() {
        let mut ledger = Ledger::default();
        assert_eq!(load(&ledger, 3), 3);
        ledger.accept();
        ledger.accept();
        ledger.look(3);
        assert_eq!(load(&ledger, 3), 3);
        ledger.close();
        assert_eq!(load(&ledger, 3), 2);
        assert_eq!(load(&ledger, 4), 3);
    }

    #[test]
    fn what_never_comes_is_settled_after_a_while_and_not_before() {
        let mut ledger = Ledger::default();
        ledger.accept();
        for _ in 0..LOOKS {
            ledger.look(5);
            assert_eq!(load(&ledger, 5), 5);
        }
        ledger.look(5);
        assert_eq!(load(&ledger, 5), 1);
        // New ones are not mixed up with the lost ones.
        ledger.look(7);
        assert_eq!(load(&ledger, 7), 3);
        ledger.accept();
        ledger.accept();
        for _ in 0..2 * LOOKS {
            ledger.look(7);
            assert_eq!(load(&ledger, 7), 3);
        }
    }

    #[test]
    fn one_that_comes_very_late_is_counted_again() {
        let mut ledger = Ledger::default();
        for _ in 0..=LOOKS {
            ledger.look(2);
        }
        assert_eq!(load(&ledger, 2), 0);
        ledger.accept();
        ledger.look(2);
        assert_eq!(load(&ledger, 2), 1);
        ledger.accept();
        ledger.look(2);
        assert_eq!(load(&ledger, 2), 2);
    }

    #[test]
    fn one_that_was_not_placed_counts_too() {
        let mut ledger = Ledger::default();
        ledger.accept();
        ledger.accept();
        ledger.look(1);
        assert_eq!(load(&ledger, 1), 2);
        ledger.close();
        ledger.close();
        assert_eq!(load(&ledger, 1), 0);
        for _ in 0..2 * LOOKS {
            ledger.look(1);
            assert_eq!(load(&ledger, 1), 0);
        }
    }
}
