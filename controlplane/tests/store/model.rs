//! Random transactions, interleaved by hand, against a model so simple that it is
//! plainly right: a copy of all rows per transaction, and every write ever made.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use quickwater_controlplane::store::{
    CommitError, CommitVersion, KeyRange, Scan, Store, StoreError, Transaction,
};

use crate::support::{Fixture, all};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Transactions open at once.
const OPEN: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Get {
        key: Vec<u8>,
        snapshot: bool,
    },
    Scan {
        range: KeyRange,
        rows: usize,
        reverse: bool,
        snapshot: bool,
    },
    Set {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Clear {
        key: Vec<u8>,
    },
    ClearRange {
        range: KeyRange,
    },
    Add {
        key: Vec<u8>,
        delta: i64,
    },
    Stamp {
        key: Vec<u8>,
    },
    ReadConflict {
        range: KeyRange,
    },
    WriteConflict {
        range: KeyRange,
    },
    Commit,
    Drop,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (b'a'..b'i').prop_map(|letter| vec![letter]),
        1 => (b'a'..b'i', 0..2_u8).prop_map(|(letter, more)| vec![letter, more]),
        1 => (b'a'..b'i').prop_map(|letter| vec![letter, 0xff]),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end)),
        1 => key().prop_map(|key| KeyRange::prefix(&key)),
        1 => key().prop_map(|key| KeyRange::point(&key)),
        1 => Just(KeyRange::prefix(b"")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), any::<bool>()).prop_map(|(key, snapshot)| Step::Get { key, snapshot }),
        4 => (range(), 1..6_usize, any::<bool>(), any::<bool>()).prop_map(
            |(range, rows, reverse, snapshot)| Step::Scan { range, rows, reverse, snapshot }
        ),
        5 => (key(), proptest::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(key, value)| Step::Set { key, value }),
        2 => key().prop_map(|key| Step::Clear { key }),
        2 => range().prop_map(|range| Step::ClearRange { range }),
        3 => (key(), any::<i64>()).prop_map(|(key, delta)| Step::Add { key, delta }),
        1 => key().prop_map(|key| Step::Stamp { key }),
        1 => range().prop_map(|range| Step::ReadConflict { range }),
        1 => range().prop_map(|range| Step::WriteConflict { range }),
        6 => Just(Step::Commit),
        1 => Just(Step::Drop),
    ]
}

/// What the model knows of one transaction.
#[derive(Default)]
struct Model {
    /// Rows at the first read, and how many commits there were.
    view: Option<(Map, usize)>,
    writes: Vec<Step>,
    reads: Vec<KeyRange>,
}

/// All rows, and what each commit wrote.
#[derive(Default)]
struct World {
    rows: Map,
    commits: Vec<Vec<KeyRange>>,
}

impl Model {
    /// The rows as this transaction sees them; stamped rows apart.
    fn seen(&mut self, world: &World) -> (Map, Vec<Vec<u8>>) {
        let (mut rows, _) = self.begin(world).clone();
        let unreadable = apply(&self.writes, &mut rows, CommitVersion([0; 10]));
        (rows, unreadable)
    }

    fn begin(&mut self, world: &World) -> &(Map, usize) {
        self.view
            .get_or_insert_with(|| (world.rows.clone(), world.commits.len()))
    }

    /// Whether the value of `key` is known from this transaction alone.
    fn knows(&self, key: &[u8]) -> bool {
        self.writes.iter().any(|write| match write {
            Step::Set { key: own, .. } | Step::Clear { key: own } => own == key,
            Step::ClearRange { range } => range.contains(key),
            _ => false,
        })
    }

    fn conflicts(&self, world: &World) -> bool {
        let Some((_, since)) = self.view else {
            return false;
        };
        let written = world.commits[since..].iter().flatten();
        let overlaps = |a: &KeyRange, b: &KeyRange| {
            let start = a.start.clone().max(b.start.clone());
            !a.is_empty() && !b.is_empty() && start < a.end && start < b.end
        };
        self.reads
            .iter()
            .any(|read| written.clone().any(|range| overlaps(read, range)))
    }

    fn adds_to_stamped(&self) -> bool {
        let mut stamped: Vec<&[u8]> = Vec::new();
        self.writes.iter().any(|write| {
            match write {
                Step::Stamp { key } => stamped.push(key),
                Step::Set { key, .. } | Step::Clear { key } => stamped.retain(|own| own != key),
                Step::ClearRange { range } => stamped.retain(|own| !range.contains(own)),
                Step::Add { key, .. } => return stamped.contains(&key.as_slice()),
                _ => {}
            }
            false
        })
    }
}

/// Replays writes in order; which rows are stamped in the end.
fn apply(writes: &[Step], rows: &mut Map, version: CommitVersion) -> Vec<Vec<u8>> {
    let mut stamped: Vec<Vec<u8>> = Vec::new();
    for write in writes {
        match write {
            Step::Set { key, value } => {
                stamped.retain(|own| own != key);
                rows.insert(key.clone(), value.clone());
            }
            Step::Clear { key } => {
                stamped.retain(|own| own != key);
                rows.remove(key);
            }
            Step::ClearRange { range } => {
                stamped.retain(|own| !range.contains(own));
                rows.retain(|key, _| !range.contains(key));
            }
            Step::Add { key, delta } => {
                let mut number = rows.get(key).cloned().unwrap_or_default();
                number.resize(8, 0);
                let number = i64::from_le_bytes(number.try_into().expect("eight bytes"));
                let sum = number.wrapping_add(*delta).to_le_bytes();
                rows.insert(key.clone(), sum.to_vec());
            }
            Step::Stamp { key } => {
                stamped.push(key.clone());
                rows.insert(key.clone(), version.as_bytes().to_vec());
            }
            _ => {}
        }
    }
    stamped
}

fn written(writes: &[Step]) -> Vec<KeyRange> {
    let range = |write: &Step| match write {
        Step::Set { key, .. } | Step::Clear { key } | Step::Add { key, .. } => {
            Some(KeyRange::point(key))
        }
        Step::Stamp { key } => Some(KeyRange::point(key)),
        Step::ClearRange { range } | Step::WriteConflict { range } => Some(range.clone()),
        _ => None,
    };
    writes.iter().filter_map(range).collect()
}

type Check = Result<(), TestCaseError>;

async fn run<S: Store>(store: &S, steps: &[(usize, Step)]) -> Check {
    let mut world = World::default();
    let mut open: Vec<Option<(S::Transaction, Model)>> = (0..OPEN).map(|_| None).collect();
    for (slot, step) in steps {
        let (mut transaction, mut model) = open[*slot]
            .take()
            .unwrap_or_else(|| (store.begin(), Model::default()));
        match step {
            Step::Commit => {
                commit(transaction, model, &mut world).await?;
                continue;
            }
            Step::Drop => continue,
            Step::Get { key, snapshot } => {
                get(&mut transaction, &mut model, &world, key, *snapshot).await?;
            }
            Step::Scan { .. } => scan(&mut transaction, &mut model, &world, step).await?,
            Step::ReadConflict { range } => {
                model.begin(&world);
                model.reads.push(range.clone());
                transaction.add_read_conflict(range.clone());
            }
            write => {
                perform(&mut transaction, write);
                model.writes.push(write.clone());
            }
        }
        open[*slot] = Some((transaction, model));
    }
    let rows: Map = all(store).await.into_iter().collect();
    prop_assert_eq!(rows, world.rows);
    Ok(())
}

fn perform(transaction: &mut impl Transaction, write: &Step) {
    match write {
        Step::Set { key, value } => transaction.set(key, value),
        Step::Clear { key } => transaction.clear(key),
        Step::ClearRange { range } => transaction.clear_range(range.clone()),
        Step::Add { key, delta } => transaction.add(key, *delta),
        Step::Stamp { key } => transaction.set_versionstamped_value(key, &[0; 10], 0),
        Step::WriteConflict { range } => transaction.add_write_conflict(range.clone()),
        other => unreachable!("{other:?} writes nothing"),
    }
}

async fn get(
    transaction: &mut impl Transaction,
    model: &mut Model,
    world: &World,
    key: &[u8],
    snapshot: bool,
) -> Check {
    let (rows, unreadable) = model.seen(world);
    let found = transaction.get_snapshot(key).await;
    if !snapshot {
        prop_assert_eq!(&transaction.get(key).await, &found);
        if !model.knows(key) && found.is_ok() {
            model.reads.push(KeyRange::point(key));
        }
    }
    if model.adds_to_stamped() {
        return Ok(());
    }
    if unreadable.iter().any(|own| own == key) {
        prop_assert_eq!(found, Err(StoreError::Unreadable));
    } else {
        let found = found.expect("a read").map(|value| value.to_vec());
        prop_assert_eq!(found.as_ref(), rows.get(key));
    }
    Ok(())
}

async fn scan(
    transaction: &mut impl Transaction,
    model: &mut Model,
    world: &World,
    step: &Step,
) -> Check {
    let Step::Scan {
        range,
        rows: limit,
        reverse,
        snapshot,
    } = step
    else {
        unreachable!("a scan");
    };
    let (rows, unreadable) = model.seen(world);
    let scan = Scan {
        reverse: *reverse,
        snapshot: *snapshot,
        ..Scan::new(range.clone(), *limit)
    };
    let found = transaction.scan(scan).await;
    let mut inside: Vec<_> = rows
        .into_iter()
        .filter(|(key, _)| range.contains(key))
        .collect();
    if *reverse {
        inside.reverse();
    }
    inside.truncate(*limit);
    if model.adds_to_stamped() {
        return Ok(());
    }
    if inside.iter().any(|(key, _)| unreadable.contains(key)) {
        prop_assert_eq!(found, Err(StoreError::Unreadable));
        return Ok(());
    }
    let found = found.expect("a scan");
    if !snapshot {
        model.reads.push(depended(range, &inside, *limit, *reverse));
    }
    prop_assert!(!found.more || inside.len() == *limit);
    let found: Vec<_> = found
        .rows
        .iter()
        .map(|row| (row.key.to_vec(), row.value.to_vec()))
        .collect();
    prop_assert_eq!(found, inside);
    Ok(())
}

/// What a scan that returned these rows depended on.
fn depended(
    range: &KeyRange,
    rows: &[(Vec<u8>, Vec<u8>)],
    limit: usize,
    reverse: bool,
) -> KeyRange {
    let mut depended = range.clone();
    if let Some((last, _)) = rows.last().filter(|_| rows.len() == limit) {
        let last = KeyRange::point(last);
        if reverse {
            depended.start = last.start;
        } else {
            depended.end = last.end;
        }
    }
    depended
}

async fn commit(transaction: impl Transaction, model: Model, world: &mut World) -> Check {
    let outcome = transaction.commit().await;
    if model.adds_to_stamped() {
        prop_assert!(matches!(outcome, Err(CommitError::Invalid(_))));
        return Ok(());
    }
    let written = written(&model.writes);
    if written.iter().all(KeyRange::is_empty) {
        prop_assert!(outcome.is_ok());
        return Ok(());
    }
    if model.conflicts(world) {
        prop_assert_eq!(outcome, Err(CommitError::Conflict));
        return Ok(());
    }
    apply(
        &model.writes,
        &mut world.rows,
        outcome.expect("no conflict"),
    );
    world.commits.push(written);
    Ok(())
}

/// Runs that many cases, each in a store of its own.
pub(crate) fn check(cases: u32, open: impl Fn() -> Fixture) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let steps = proptest::collection::vec((0..OPEN, step()), 1..120);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in steps)| {
        runtime.block_on(run(&open().store, &steps))?;
    });
}
