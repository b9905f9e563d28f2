//! The conflict window: what it answers, forgets and holds.

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;

fn key(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

fn read(name: &str) -> Vec<KeyRange> {
    vec![KeyRange::point(name.as_bytes())]
}

#[test]
fn a_later_write_conflicts_and_an_earlier_one_does_not() {
    let mut window = ConflictWindow::new(10);
    window.record_key(11, &key("b"));
    assert_eq!(window.judge(10, &read("b")), Verdict::Conflict);
    assert_eq!(window.judge(11, &read("b")), Verdict::Valid);
    assert_eq!(window.judge(10, &read("a")), Verdict::Valid);
    assert_eq!(window.judge(10, &[KeyRange::new("a", "b")]), Verdict::Valid);
    assert_eq!(
        window.judge(10, &[KeyRange::new("a", "c")]),
        Verdict::Conflict
    );
    assert_eq!(window.judge(10, &[KeyRange::new("c", "a")]), Verdict::Valid);
    assert_eq!(window.judge(9, &read("z")), Verdict::TooOld);
    assert_eq!(window.judge(9, &[]), Verdict::Valid);
}

#[test]
fn ranges_conflict_where_they_overlap() {
    let mut window = ConflictWindow::new(10);
    window.record_range(11, KeyRange::new("c", "e"));
    window.record_range(12, KeyRange::new("m", "n"));
    assert_eq!(window.judge(10, &read("c")), Verdict::Conflict);
    assert_eq!(window.judge(10, &read("e")), Verdict::Valid);
    assert_eq!(window.judge(11, &read("c")), Verdict::Valid);
    assert_eq!(
        window.judge(11, &[KeyRange::new("a", "z")]),
        Verdict::Conflict
    );
}

#[test]
fn what_is_too_old_to_be_asked_for_is_forgotten() {
    let mut window = ConflictWindow::new(0);
    for second in 0..12 {
        window.record_key(second + 1, &Bytes::from(second.to_string()));
        window.advance(Duration::from_secs(second), second + 1);
    }
    // A transaction that began at second 6 read version 7 or later.
    assert_eq!(window.judge(7, &read("6")), Verdict::Valid);
    assert_eq!(window.judge(7, &read("7")), Verdict::Conflict);
    assert_eq!(window.judge(5, &read("7")), Verdict::TooOld);
    assert_eq!(window.last.len(), 5);
}

#[test]
fn memory_is_bounded_and_the_newest_is_kept_longest() {
    let mut window = ConflictWindow::with_memory(0, 100_000);
    for version in 1..=20_000_u64 {
        window.record_key(version, &Bytes::copy_from_slice(&version.to_be_bytes()));
        window.record_range(version, KeyRange::new("x", "y"));
        window.advance(Duration::from_millis(version), version);
        assert!(window.bytes <= 100_000, "{} bytes", window.bytes);
    }
    assert_eq!(window.judge(1, &read("a")), Verdict::TooOld);
    assert_eq!(window.judge(20_000, &read("a")), Verdict::Valid);
}

#[test]
fn one_burst_beyond_memory_makes_all_before_it_too_old() {
    let mut window = ConflictWindow::with_memory(0, 10_000);
    for name in 0..1_000_u32 {
        window.record_key(1, &Bytes::copy_from_slice(&name.to_be_bytes()));
    }
    window.advance(Duration::ZERO, 1);
    assert_eq!(window.bytes, 0);
    assert_eq!(window.judge(0, &read("a")), Verdict::TooOld);
    assert_eq!(window.judge(1, &read("a")), Verdict::Valid);
}

#[test]
fn a_long_reader_sees_the_keys_of_every_generation() {
    let mut window = ConflictWindow::new(0);
    for version in 1..=40_u64 {
        window.record_key(version, &Bytes::from(format!("k{version:02}")));
        window.advance(Duration::from_millis(100 * version), version);
    }
    assert!(window.generations.len() > 30);
    for version in 1..=40_u64 {
        let around = [KeyRange::new(
            format!("k{version:02}"),
            format!("k{version:02}z"),
        )];
        assert_eq!(window.judge(version - 1, &around), Verdict::Conflict);
        assert_eq!(window.judge(version, &around), Verdict::Valid);
    }
}

#[test]
fn what_is_forgotten_is_given_back() {
    let mut window = ConflictWindow::new(0);
    for version in 1..=1_000_u64 {
        window.record_key(version, &Bytes::copy_from_slice(&version.to_be_bytes()));
        window.record_key(version, &key("hot"));
        window.record_range(version, KeyRange::new("x", "y"));
        window.advance(Duration::from_millis(version), version);
    }
    window.advance(Duration::from_secs(60), 1_000);
    window.advance(Duration::from_secs(120), 1_000);
    assert_eq!(window.bytes, 0);
    assert!(window.last.is_empty() && window.ranges.is_empty());
    assert_eq!(window.generations.len(), 2);
}

/// What happens to a window.
#[derive(Debug, Clone)]
enum Event {
    WriteKey(Bytes),
    WriteRange(KeyRange),
    /// The batch ends; so long until the next.
    Advance(Duration),
    /// A transaction that read so many versions ago.
    Judge(u64, Vec<KeyRange>),
}

/// Keys that are close to one another, zeros among their bytes.
fn any_key() -> impl Strategy<Value = Bytes> {
    let byte = prop::sample::select(vec![0_u8, 1, b'a', 0xfe]);
    prop::collection::vec(byte, 1..4).prop_map(Bytes::from)
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        any_key().prop_map(|key| KeyRange::point(&key)),
        (any_key(), any_key()).prop_map(|(start, end)| KeyRange::new(start, end)),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let wait = prop::sample::select(vec![0, 1, 20, 60, 400]);
    prop_oneof![
        4 => any_key().prop_map(Event::WriteKey),
        1 => any_range().prop_map(Event::WriteRange),
        3 => wait.prop_map(|ms| Event::Advance(Duration::from_millis(ms))),
        4 => (0..60_u64, prop::collection::vec(any_range(), 1..3))
            .prop_map(|(ago, reads)| Event::Judge(ago, reads)),
    ]
}

/// Remembers everything and compares it with everything.
#[derive(Default)]
struct Naive {
    writes: Vec<(u64, KeyRange)>,
    /// Time and the version that was current then.
    times: Vec<(Duration, u64)>,
}

impl Naive {
    fn conflicts(&self, after: u64, reads: &[KeyRange]) -> bool {
        let meet = |a: &KeyRange, b: &KeyRange| {
            !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
        };
        self.writes
            .iter()
            .filter(|(version, _)| *version > after)
            .any(|(_, written)| reads.iter().any(|read| meet(read, written)))
    }

    /// The version the oldest transaction may have read.
    fn oldest(&self, now: Duration) -> u64 {
        let past = |(at, _): &&(Duration, u64)| *at + TRANSACTION_AGE_MAX <= now;
        let last = self.times.iter().rev().find(past);
        last.map_or(0, |(_, version)| *version)
    }
}

/// Replays the events; returns how often each verdict was given.
fn compare(events: Vec<Event>, bytes_max: usize) -> Result<[u32; 3], TestCaseError> {
    let mut window = ConflictWindow::with_memory(0, bytes_max);
    let (mut naive, mut now, mut current) = (Naive::default(), Duration::ZERO, 0);
    let mut verdicts = [0; 3];
    for event in events {
        match event {
            Event::WriteKey(key) => {
                window.record_key(current + 1, &key);
                naive.writes.push((current + 1, KeyRange::point(&key)));
            }
            Event::WriteRange(range) => {
                // Transactions hold no empty ones.
                if !range.is_empty() {
                    window.record_range(current + 1, range.clone());
                    naive.writes.push((current + 1, range));
                }
            }
            Event::Advance(wait) => {
                now += wait;
                current += 1;
                window.advance(now, current);
                naive.times.push((now, current));
                prop_assert!(window.bytes <= bytes_max);
            }
            Event::Judge(ago, reads) => {
                let version = current.saturating_sub(ago);
                let verdict = window.judge(version, &reads);
                verdicts[verdict as usize] += 1;
                if verdict == Verdict::TooOld {
                    let is_old = version < naive.oldest(now);
                    prop_assert!(is_old || bytes_max < CONFLICT_WINDOW_BYTES_MAX);
                } else {
                    let conflict = naive.conflicts(version, &reads);
                    prop_assert_eq!(verdict == Verdict::Conflict, conflict);
                }
            }
        }
    }
    Ok(verdicts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_answers_as_one_that_compares_everything(
        events in prop::collection::vec(any_event(), 1..300),
        is_small in any::<bool>(),
    ) {
        let bytes_max = if is_small { 6_000 } else { CONFLICT_WINDOW_BYTES_MAX };
        compare(events, bytes_max)?;
    }
}

/// The comparison would be worth nothing if it met one verdict alone.
#[test]
fn the_comparison_meets_every_verdict() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = prop::collection::vec(any_event(), 300);
    for bytes_max in [6_000, CONFLICT_WINDOW_BYTES_MAX] {
        let mut seen = [0; 3];
        for _ in 0..64 {
            let tree = events.new_tree(&mut runner).expect("events");
            let verdicts = compare(tree.current(), bytes_max).expect("the same answers");
            for (sum, count) in seen.iter_mut().zip(verdicts) {
                *sum += count;
            }
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }
}
