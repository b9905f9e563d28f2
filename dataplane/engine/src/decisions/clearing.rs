//! Slots that others should have: nothing more is kept in them that no UFS has, so that
//! they can be given away soon even if they are written to all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quickwater_proto::SLOTS;

const WORD: usize = u64::BITS as usize;

/// A set of slots, set by one task, asked by all shards.
pub struct Clearing {
    any: AtomicBool,
    all: AtomicBool,
    slots: Vec<AtomicU64>,
}

impl Default for Clearing {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            all: AtomicBool::new(false),
            slots: (0..SLOTS / WORD).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Clearing {
    /// These and no others are to be cleared from now on.
    pub fn set(&self, slots: &[usize]) {
        let mut words = vec![0u64; SLOTS / WORD];
        for slot in slots {
            if let Some(word) = words.get_mut(slot / WORD) {
                *word |= 1 << (slot % WORD);
            }
        }
        for (of, word) in self.slots.iter().zip(words) {
            of.store(word, Ordering::Release);
        }
        self.any.store(!slots.is_empty(), Ordering::Release);
    }

    /// All are, for good: the process ends soon.
    pub fn all(&self) {
        self.all.store(true, Ordering::Release);
    }

    /// Whether the process ends soon.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.all.load(Ordering::Acquire)
    }

    /// Whether a slot is to be cleared; it is computed only if some are.
    pub(crate) fn is_clearing(&self, slot: impl FnOnce() -> usize) -> bool {
        self.is_all() || (self.any.load(Ordering::Acquire) && self.has(slot()))
    }

    fn has(&self, slot: usize) -> bool {
        let word = self.slots.get(slot / WORD);
        word.is_some_and(|word| word.load(Ordering::Acquire) & (1 << (slot % WORD)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_named_last_is_cleared() {
        let clearing = Clearing::default();
        let never = || -> usize { unreachable!("nothing is to be cleared") };
        assert!(!clearing.is_clearing(never));
        clearing.set(&[3, 16_383]);
        assert!(clearing.is_clearing(|| 3) && clearing.is_clearing(|| 16_383));
        assert!(!clearing.is_clearing(|| 4));
        clearing.set(&[4]);
        assert!(!clearing.is_clearing(|| 3) && clearing.is_clearing(|| 4));
        clearing.set(&[]);
        assert!(!clearing.is_clearing(never));
        clearing.all();
        assert!(clearing.is_clearing(never) && clearing.is_all());
    }
}
