//! Many transactions at once in any store: whatever happened, it must be as if they
//! had run one after another in the order of their versions.

use std::collections::BTreeMap;

use bytes::Bytes;
use quickwater_controlplane::store::{
    CommitError, CommitVersion, KeyRange, Scan, Store, Transaction,
};

use crate::support::rows;

const CLIENTS: u32 = 12;
const ROUNDS: u32 = 60;
/// Few rows, so that transactions meet.
const ROWS: u64 = 10;

/// What one transaction saw and wanted.
pub(crate) struct History {
    id: Vec<u8>,
    point: (Vec<u8>, Option<Bytes>),
    range: (KeyRange, Vec<(Bytes, Bytes)>),
    set: (Vec<u8>, Vec<u8>),
    clear: Vec<u8>,
    add: (Vec<u8>, i64),
    outcome: Result<CommitVersion, CommitError>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn row(&mut self) -> Vec<u8> {
        vec![b'r', b'0' + self.below(ROWS) as u8]
    }
}

async fn transact(store: &impl Store, id: Vec<u8>, random: &mut Random) -> Option<History> {
    let mut transaction = store.begin();
    let (key, low, high) = (random.row(), random.row(), random.row());
    let value = transaction.get(&key).await.ok()?;
    let range = KeyRange::new(low.clone().min(high.clone()), low.max(high));
    let page = transaction.scan(Scan::new(range.clone(), 100)).await.ok()?;
    let found = page.rows.into_iter().map(|row| (row.key, row.value));
    let set = (random.row(), [&b"="[..], &id].concat());
    let clear = random.row();
    let add = (
        vec![b'n', random.below(3) as u8],
        random.below(100) as i64 - 50,
    );
    transaction.set(&set.0, &set.1);
    transaction.clear(&clear);
    transaction.add(&add.0, add.1);
    transaction.set_versionstamped_value(&[&b"s"[..], &id].concat(), &[0; 10], 0);
    Some(History {
        point: (key, value),
        range: (range, found.collect()),
        set,
        clear,
        add,
        id,
        outcome: transaction.commit().await,
    })
}

/// Lets many clients at `store`, and answers what each of their transactions saw.
pub(crate) async fn run(store: &impl Store) -> Vec<History> {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let store = store.clone();
        clients.spawn(async move {
            let mut random = Random(u64::from(client + 1) * 0x9e37_79b9);
            let mut histories = Vec::new();
            for round in 0..ROUNDS {
                let id = [client.to_be_bytes(), round.to_be_bytes()].concat();
                histories.extend(transact(&store, id, &mut random).await);
            }
            histories
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// Replays what the store says was committed, in the order of versions.
pub(crate) async fn check(store: &impl Store, histories: Vec<History>) {
    let stamps: BTreeMap<Vec<u8>, Vec<u8>> = rows(store, KeyRange::prefix(b"s"))
        .await
        .into_iter()
        .collect();
    let mut committed = BTreeMap::new();
    let mut conflicts = 0;
    for history in histories {
        let stamp = stamps.get(&[&b"s"[..], &history.id].concat());
        match (&history.outcome, stamp) {
            (Ok(version), Some(stamp)) => assert_eq!(version.as_bytes()[..], stamp[..]),
            (Err(CommitError::Unknown), _) => {}
            (Err(error), None) => conflicts += u32::from(*error == CommitError::Conflict),
            (outcome, stamp) => panic!("{outcome:?} with stamp {stamp:?}"),
        }
        if let Some(stamp) = stamp {
            assert!(committed.insert(stamp.clone(), history).is_none());
        }
    }
    assert_eq!(committed.len(), stamps.len());
    let mut state: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for history in committed.values() {
        replay(history, &mut state);
    }
    let stored = [
        rows(store, KeyRange::prefix(b"n")).await,
        rows(store, KeyRange::prefix(b"r")).await,
    ];
    assert_eq!(stored.concat(), state.into_iter().collect::<Vec<_>>());
    assert!(committed.len() > 100, "{} committed", committed.len());
    assert!(conflicts > 100, "only {conflicts} conflicts");
}

fn replay(history: &History, state: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let (key, value) = &history.point;
    assert_eq!(state.get(key).map(Vec::as_slice), value.as_deref());
    let (range, found) = &history.range;
    let there = state.iter().filter(|(key, _)| range.contains(key));
    let there: Vec<_> = there.map(|(key, value)| (&key[..], &value[..])).collect();
    let found: Vec<_> = found
        .iter()
        .map(|(key, value)| (&key[..], &value[..]))
        .collect();
    assert_eq!(there, found);
    state.insert(history.set.0.clone(), history.set.1.clone());
    state.remove(&history.clear);
    let number = state.entry(history.add.0.clone()).or_insert(vec![0; 8]);
    let before = i64::from_le_bytes(number.as_slice().try_into().expect("eight bytes"));
    *number = (before + history.add.1).to_le_bytes().to_vec();
}
