//! Is a key's history linearizable? A register of values (`None` = absent), with
//! writes that may have happened when their outcome was unknown.

use std::collections::HashSet;
use std::time::Duration;

#[derive(Debug, Clone)]
pub enum Op {
    /// Sets the register (`None`: delete).
    Write(Option<u64>),
    /// Saw this.
    Read(Option<u64>),
    /// Was in a listing, or not.
    Listed(bool),
    /// Set the tag of what is there, see [`tagged`].
    Tag(u64),
    /// Was refused: nothing happened.
    Nothing,
}

/// Tags that a value can have.
const TAGS: u64 = 1_000;

/// Content and tag as one value; 0: no tag.
pub fn tagged(content: u64, tag: u64) -> u64 {
    content * TAGS + tag
}

#[derive(Debug, Clone)]
pub struct Event {
    pub op: Op,
    pub begun: Duration,
    /// `None`: the outcome is unknown, it may take effect at any later time.
    pub ended: Option<Duration>,
}

/// Searches for an order that explains all reads (Wing and Gong, with memory of
/// dead ends).
pub fn linearizable(history: &[Event], initial: Option<u64>) -> bool {
    assert!(history.len() < 128, "history too long to check");
    let mut dead = HashSet::new();
    search(history, 0, initial, &mut dead)
}

fn search(
    history: &[Event],
    done: u128,
    value: Option<u64>,
    dead: &mut HashSet<(u128, Option<u64>)>,
) -> bool {
    let open = |i: usize| done & (1 << i) == 0;
    if (0..history.len()).all(|i| !open(i) || history[i].ended.is_none()) {
        return true;
    }
    if !dead.insert((done, value)) {
        return false;
    }
    let first_end = (0..history.len())
        .filter(|i| open(*i))
        .filter_map(|i| history[i].ended)
        .min();
    for (i, event) in history.iter().enumerate().filter(|(i, _)| open(*i)) {
        if first_end.is_some_and(|end| event.begun > end) {
            continue;
        }
        let next = match event.op {
            Op::Write(new) => new,
            Op::Read(seen) if seen == value => value,
            Op::Listed(there) if there == value.is_some() => value,
            Op::Tag(tag) if value.is_some() => value.map(|now| tagged(now / TAGS, tag)),
            Op::Nothing => value,
            Op::Read(_) | Op::Listed(_) | Op::Tag(_) => continue,
        };
        if search(history, done | 1 << i, next, dead) {
            return true;
        }
    }
    false
}

#[test]
fn the_checker_tells_good_from_bad() {
    let event = |op, a: u64, b: Option<u64>| Event {
        op,
        begun: Duration::from_secs(a),
        ended: b.map(Duration::from_secs),
    };
    let good = [
        event(Op::Write(Some(1)), 0, Some(3)),
        event(Op::Read(None), 1, Some(2)),
        event(Op::Read(Some(1)), 2, Some(4)),
    ];
    assert!(linearizable(&good, None));
    let stale = [
        event(Op::Write(Some(1)), 0, Some(1)),
        event(Op::Read(None), 2, Some(3)),
    ];
    assert!(!linearizable(&stale, None));
    let back = [
        event(Op::Write(Some(1)), 0, None),
        event(Op::Read(Some(1)), 2, Some(3)),
        event(Op::Read(None), 4, Some(5)),
    ];
    assert!(
        !linearizable(&back, None),
        "once new was seen, old never returns"
    );
}
