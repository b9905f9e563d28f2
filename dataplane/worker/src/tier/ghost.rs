//! Remembers who was pushed out lately, by fingerprint, in fixed memory.
//!
//! A table of (fingerprint, when): an entry counts while fewer than `life` others
//! came after it. Two that fall on one place push each other out, and two with one
//! fingerprint are taken for each other once in four billion times; both cost a
//! better or worse place in the queue, never a wrong byte.

/// The ghosts of one part.
pub(super) struct Ghosts {
    /// Fingerprint and time; time 0 is empty.
    table: Vec<(u32, u32)>,
    now: u32,
}

impl Ghosts {
    /// Room for about `count`.
    pub(super) fn new(count: usize) -> Self {
        Self {
            table: vec![(0, 0); count.next_power_of_two()],
            now: 0,
        }
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.table.len() - 1)
    }

    /// Remembers one.
    pub(super) fn put(&mut self, hash: u64) {
        self.now = self.now.wrapping_add(1).max(1);
        let place = self.place(hash);
        self.table[place] = ((hash >> 32) as u32, self.now);
    }

    /// Whether it was among the last `life` that were put; forgets it.
    pub(super) fn take(&mut self, hash: u64, life: usize) -> bool {
        let place = self.place(hash);
        let (fingerprint, when) = self.table[place];
        let age = self.now.wrapping_sub(when) as usize;
        let known = when != 0 && fingerprint == (hash >> 32) as u32 && age < life;
        if known {
            self.table[place] = (0, 0);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_ones_once() {
        let mut ghosts = Ghosts::new(64);
        for n in 1..=10u64 {
            ghosts.put(n << 32 | n);
        }
        assert!(!ghosts.take(1 << 32 | 1, 5), "too old");
        assert!(ghosts.take(9 << 32 | 9, 5));
        assert!(!ghosts.take(9 << 32 | 9, 5), "taken");
        assert!(!ghosts.take(8 << 32 | 9, 64), "another one's place");
    }
}
