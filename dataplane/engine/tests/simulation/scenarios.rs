//! What must hold whatever the order and the faults.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_engine::io::{Body, BodyDigests, Buffer, Disk};
use quickwater_engine::{Engine, EngineConfig, FlowError, ListQuery, PutError, PutObject, Shared};
use quickwater_proto::*;

use crate::checker::{Event, Op, linearizable};
use crate::world::*;
use quickwater_simulation::Sim;

pub(crate) type SimEngine = Engine<SimWorld>;

/// A body whose every byte tells the value it stands for.
pub(crate) struct ValueBody {
    disk: SimDisk,
    value: u64,
    left: usize,
    size: u64,
}

pub(crate) fn content_of(value: u64) -> Vec<u8> {
    // Mostly small, now and then of several chunks.
    let size = match value % 8 {
        2 => 2_500_000,
        small => 8 + 100 * small as usize,
    };
    let mut content = value.to_be_bytes().repeat(size.div_ceil(8));
    content.truncate(size);
    content
}

impl ValueBody {
    pub(crate) fn of(disk: &SimDisk, value: u64) -> Self {
        let size = content_of(value).len();
        Self {
            disk: disk.clone(),
            value,
            left: size,
            size: size as u64,
        }
    }

    /// Of no bytes.
    pub(crate) fn empty(disk: &SimDisk) -> Self {
        Self {
            disk: disk.clone(),
            value: 0,
            left: 0,
            size: 0,
        }
    }
}

impl Body for ValueBody {
    type Buffer = SimBuffer;
    type Error = String;

    fn length(&self) -> u64 {
        self.size
    }

    async fn next(&mut self) -> Result<Option<SimBuffer>, String> {
        if self.left == 0 {
            return Ok(None);
        }
        let at = self.size as usize - self.left;
        let len = self.left.min(CHUNK_BYTES as usize);
        let mut buffer = self.disk.buffer(len).await.unwrap();
        buffer.set_len(len);
        buffer
            .as_mut_slice()
            .copy_from_slice(&content_of(self.value)[at..at + len]);
        self.left -= len;
        Ok(Some(buffer))
    }

    fn finish(&mut self) -> Result<BodyDigests, String> {
        let mut md5 = [0; 16];
        md5[..8].copy_from_slice(&self.value.to_be_bytes());
        Ok(BodyDigests {
            md5,
            checksums: Vec::new(),
        })
    }
}

pub(crate) struct Setup {
    pub(crate) sim: Sim,
    pub(crate) engines: Vec<SimEngine>,
    pub(crate) disk: SimDisk,
    pub(crate) ufs: SimUfs,
    pub(crate) metadata: SimMetadata,
    pub(crate) faults: Rc<Cell<Faults>>,
    pub(crate) bucket: Arc<Bucket>,
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        object_cache_bytes: 64 * 4_000,
        read_depth: 2,
        fill_run_chunks: 2,
        stripe_bytes: None,
        hot_copies_bytes: None,
        wait_max: Duration::from_secs(30),
        import_concurrency: 3,
        persist: Default::default(),
        content_matches: |_, _| true,
    }
}

pub(crate) fn setup(seed: u64, faults: Faults, ttl_ms: u64) -> Setup {
    let sim = Sim::new(seed);
    let faults = Rc::new(Cell::new(faults));
    let disk = SimDisk {
        sim: sim.clone(),
        faults: Rc::clone(&faults),
        chunks: Rc::default(),
        dirty_full: Rc::default(),
    };
    let ufs = SimUfs::new(&sim, &faults);
    let metadata = SimMetadata::new(&sim, &faults);
    let shared = Shared::new(config());
    let engines = (0..2)
        .map(|_| {
            let environment = SimEnvironment(sim.clone());
            Engine::new(
                Arc::clone(&shared),
                disk.clone(),
                ufs.clone(),
                metadata.clone(),
                environment,
                quickwater_engine::io::Alone,
            )
        })
        .collect();
    let bucket = Arc::new(Bucket {
        id: BucketId(1),
        name: BucketName::new("sim").unwrap(),
        ufs: "sim:".into(),
        created_ms: 0,
        metadata_ttl_ms: ttl_ms,
        options: Vec::new(),
        tags: Vec::new(),
        owned: true,
    });
    Setup {
        sim,
        engines,
        disk,
        ufs,
        metadata,
        faults,
        bucket,
    }
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

pub(crate) fn body_of(engine: &SimEngine, value: u64) -> ValueBody {
    ValueBody::of(engine.disk(), value)
}

pub(crate) async fn put(
    engine: &SimEngine,
    bucket: &Arc<Bucket>,
    name: &str,
    value: u64,
) -> Result<(), FlowError> {
    let mut body = body_of(engine, value);
    match engine
        .put(bucket, &key(name), PutObject::default(), &mut body)
        .await
    {
        Ok(_) => Ok(()),
        Err(PutError::Flow(error)) => Err(error),
        Err(PutError::Body(error)) => panic!("{error}"),
    }
}

/// Reads a whole object and checks that its bytes are of one value.
pub(crate) async fn get(
    engine: &SimEngine,
    bucket: &Arc<Bucket>,
    name: &str,
) -> Result<Option<u64>, FlowError> {
    let record = match engine.resolve(bucket, &key(name), false).await {
        Ok(record) => record,
        Err(FlowError::NoSuchKey) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = engine.read(bucket, &key(name), &record, 0..record.size);
    let mut bytes = Vec::new();
    while let Some(buffer) = reader.next().await? {
        bytes.extend_from_slice(buffer.as_slice());
    }
    let value = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes == content_of(value), "spliced or damaged body");
    Ok(Some(value))
}

fn unknown(error: &FlowError) -> bool {
    matches!(error, FlowError::Unknown(_) | FlowError::Unsettled(_))
}

#[derive(Default)]
struct History(RefCell<BTreeMap<String, Vec<Event>>>);

impl History {
    fn note(&self, name: &str, op: Op, begun: Duration, ended: Option<Duration>) {
        self.0
            .borrow_mut()
            .entry(name.into())
            .or_default()
            .push(Event { op, begun, ended });
    }
}

/// One client: puts, gets, deletes and lists at random, noting what it saw.
async fn client(
    sim: Sim,
    engine: SimEngine,
    bucket: Arc<Bucket>,
    history: Rc<History>,
    values: Rc<Cell<u64>>,
) {
    let names = ["a", "d/b", "d/c"];
    for _ in 0..7 {
        sim.jitter().await;
        let name = names[sim.below(3) as usize];
        let begun = sim.now();
        match sim.below(12) {
            0..=3 => {
                values.set(values.get() + 1);
                let value = values.get();
                match put(&engine, &bucket, name, value).await {
                    Ok(()) => history.note(name, Op::Write(Some(value)), begun, Some(sim.now())),
                    Err(error) if unknown(&error) => {
                        history.note(name, Op::Write(Some(value)), begun, None);
                    }
                    Err(_) => {}
                }
            }
            4 => match engine
                .delete(&bucket, &key(name), &PutCondition::None)
                .await
            {
                Ok(()) => history.note(name, Op::Write(None), begun, Some(sim.now())),
                Err(error) if unknown(&error) => history.note(name, Op::Write(None), begun, None),
                Err(_) => {}
            },
            5..=8 => {
                if let Ok(seen) = get(&engine, &bucket, name).await {
                    history.note(name, Op::Read(seen), begun, Some(sim.now()));
                }
            }
            _ => list(&sim, &engine, &bucket, &history, &names).await,
        }
    }
}

/// Lists everything; each name's presence is part of that name's history.
async fn list(
    sim: &Sim,
    engine: &SimEngine,
    bucket: &Arc<Bucket>,
    history: &History,
    names: &[&str],
) {
    let begun = sim.now();
    let query = ListQuery {
        limit: 100,
        ..ListQuery::default()
    };
    let Ok(page) = engine.list(bucket, &query).await else {
        return;
    };
    for name in names {
        let listed = page.objects.iter().any(|(key, _)| key.as_str() == *name);
        history.note(name, Op::Listed(listed), begun, Some(sim.now()));
    }
}

fn run_clients(seed: u64, faults: Faults, ttl_ms: u64) {
    run_clients_in(&setup(seed, faults, ttl_ms), seed);
}

pub(crate) fn run_clients_in(setup: &Setup, seed: u64) {
    let history = Rc::new(History::default());
    let values = Rc::new(Cell::new(0));
    for n in 0..4 {
        let engine = setup.engines[n % 2].clone();
        setup.sim.spawn(client(
            setup.sim.clone(),
            engine,
            Arc::clone(&setup.bucket),
            Rc::clone(&history),
            Rc::clone(&values),
        ));
    }
    setup.sim.run();
    // Quiet now: what is read last is part of the history too.
    setup.faults.set(Faults::default());
    for name in ["a", "d/b", "d/c"] {
        let (engine, bucket, sim) = (
            setup.engines[0].clone(),
            Arc::clone(&setup.bucket),
            setup.sim.clone(),
        );
        let history = Rc::clone(&history);
        let ufs = setup.ufs.clone();
        setup.sim.spawn(async move {
            sim.sleep(Duration::from_secs(60)).await;
            let begun = sim.now();
            let seen = get(&engine, &bucket, name).await.unwrap();
            history.note(name, Op::Read(seen), begun, Some(sim.now()));
            let in_ufs = ufs.files.borrow().get(name).map(|f| f.content.clone());
            assert_eq!(
                seen.map(content_of),
                in_ufs,
                "the UFS ends with the last version"
            );
            let query = ListQuery {
                limit: 100,
                ..ListQuery::default()
            };
            let page = engine.list(&bucket, &query).await.unwrap();
            let listed = page.objects.iter().any(|(k, _)| k.as_str() == name);
            assert_eq!(listed, seen.is_some(), "the listing agrees");
        });
    }
    setup.sim.run();
    for (name, events) in history.0.borrow().iter() {
        assert!(
            linearizable(events, None),
            "seed {seed}, key {name}: {events:#?}"
        );
    }
    assert!(setup.disk.chunks.borrow().len() < 10_000);
    assert!(setup.metadata.objects.borrow().len() <= 3);
}

pub(crate) const SEEDS: u64 = 150;

#[test]
fn keys_are_linearizable_without_faults() {
    (0..SEEDS).for_each(|seed| run_clients(seed, Faults::default(), 10_000));
    // Every listing is compared with the UFS anew while writes go on.
    (0..4 * SEEDS).for_each(|seed| run_clients(seed, Faults::default(), 0));
}

#[test]
fn keys_are_linearizable_while_the_store_forgets_and_is_full() {
    let faults = Faults {
        disk_forgets: 30,
        disk_full: 20,
        ..Faults::default()
    };
    (0..SEEDS).for_each(|seed| run_clients(seed, faults, 10_000));
}

#[test]
fn keys_are_linearizable_with_unknown_outcomes() {
    let faults = Faults {
        disk_forgets: 10,
        disk_full: 5,
        ufs_refuses: 5,
        ufs_loses_reply: 10,
        metadata_unknown: 10,
    };
    (0..SEEDS).for_each(|seed| run_clients(seed, faults, 1));
    (0..SEEDS).for_each(|seed| run_clients(seed, faults, 10_000));
}

#[test]
fn a_cold_object_is_fetched_once_for_all_readers() {
    for seed in 0..50 {
        let setup = setup(seed, Faults::default(), 10_000);
        setup
            .ufs
            .place("big", content_of(2), ObjectHeaders::default());
        for n in 0..20 {
            let (engine, bucket) = (setup.engines[n % 2].clone(), Arc::clone(&setup.bucket));
            setup.sim.spawn(async move {
                assert_eq!(get(&engine, &bucket, "big").await.unwrap(), Some(2));
            });
        }
        setup.sim.run();
        let chunks = content_of(2).len().div_ceil(CHUNK_BYTES as usize) as u64;
        let stats = &setup.engines[0].shared().stats;
        assert_eq!(
            stats.fills.load(std::sync::atomic::Ordering::Relaxed),
            chunks,
            "seed {seed}"
        );
        assert!(setup.ufs.reads.get() <= chunks);
    }
}

#[test]
fn a_version_that_vanished_half_way_is_not_served_again() {
    let setup = setup(3, Faults::default(), u64::MAX);
    let (engine, bucket, disk, ufs) = (
        setup.engines[0].clone(),
        Arc::clone(&setup.bucket),
        setup.disk.clone(),
        setup.ufs.clone(),
    );
    setup.sim.spawn(async move {
        put(&engine, &bucket, "a", 2).await.unwrap();
        ufs.place("a", content_of(10), ObjectHeaders::default());
        disk.chunks.borrow_mut().retain(|chunk, _| chunk.index == 0);
        let broken = get(&engine, &bucket, "a").await;
        assert_eq!(broken, Err(FlowError::Changed), "the first chunk was there");
        assert_eq!(get(&engine, &bucket, "a").await, Ok(Some(10)));
    });
    setup.sim.run();
}

#[test]
fn a_cache_keeps_serving_while_the_ufs_is_away() {
    let setup = setup(1, Faults::default(), 1_000);
    let (engine, bucket, sim) = (
        setup.engines[0].clone(),
        Arc::clone(&setup.bucket),
        setup.sim.clone(),
    );
    let faults = Rc::clone(&setup.faults);
    setup.sim.spawn(async move {
        put(&engine, &bucket, "a", 1).await.unwrap();
        faults.set(Faults {
            ufs_refuses: 100,
            ..Faults::default()
        });
        sim.sleep(Duration::from_secs(100)).await;
        assert_eq!(get(&engine, &bucket, "a").await.unwrap(), Some(1));
        let asked = engine.resolve(&bucket, &key("a"), true).await;
        assert!(
            matches!(asked, Err(FlowError::Unavailable(_))),
            "no-cache wants the truth"
        );
        assert!(put(&engine, &bucket, "a", 2).await.is_err());
    });
    setup.sim.run();
}

/// Names and common prefixes of a page.
pub(crate) async fn listed(
    engine: &SimEngine,
    bucket: &Arc<Bucket>,
    query: &ListQuery,
) -> Result<Vec<String>, FlowError> {
    let page = engine.list(bucket, query).await?;
    let keys = page.objects.iter().map(|(key, _)| key.as_str().to_owned());
    let mut names: Vec<String> = keys.chain(page.prefixes).collect();
    names.sort();
    Ok(names)
}

#[test]
fn what_was_listed_is_listed_while_the_ufs_is_away() {
    let setup = setup(3, Faults::default(), 5_000);
    let (engine, bucket, sim, faults) = (
        setup.engines[0].clone(),
        Arc::clone(&setup.bucket),
        setup.sim.clone(),
        Rc::clone(&setup.faults),
    );
    for name in ["a", "d/b", "d/e/c", "x"] {
        let headers = ObjectHeaders::default();
        setup.ufs.place(name, content_of(1), headers);
    }
    let below = |prefix: &str, delimiter: &str| ListQuery {
        prefix: prefix.into(),
        delimiter: delimiter.into(),
        limit: 10,
        ..ListQuery::default()
    };
    let ufs = setup.ufs.clone();
    setup.sim.spawn(async move {
        let list = async |query: &ListQuery| listed(&engine, &bucket, query).await;
        let (level, all_of_d) = (below("", "/"), below("d/", ""));
        assert_eq!(list(&level).await.unwrap(), ["a", "d/", "x"]);
        assert_eq!(list(&all_of_d).await.unwrap(), ["d/b", "d/e/c"]);
        put(&engine, &bucket, "n", 2).await.unwrap();
        engine
            .delete(&bucket, &key("x"), &PutCondition::None)
            .await
            .unwrap();
        faults.set(Faults {
            ufs_refuses: 100,
            ..Faults::default()
        });
        for _ in 0..3 {
            sim.sleep(Duration::from_mins(1)).await;
            assert_eq!(list(&level).await.unwrap(), ["a", "d/", "n"]);
            assert_eq!(list(&all_of_d).await.unwrap(), ["d/b", "d/e/c"]);
            let deeper = below("d/e/", "/");
            assert_eq!(list(&deeper).await.unwrap(), ["d/e/c"], "a part of it");
        }
        let stats = &engine.shared().stats;
        assert_eq!(stats.stale_answers.load(Ordering::Relaxed), 9);
        let never = list(&below("", "")).await;
        assert!(matches!(never, Err(FlowError::Unavailable(_))), "{never:?}");
        let now = ListQuery {
            revalidate: true,
            ..level.clone()
        };
        let asked = list(&now).await;
        assert!(matches!(asked, Err(FlowError::Unavailable(_))), "no-cache");
        faults.set(Faults::default());
        ufs.files.borrow_mut().remove("a");
        assert_eq!(list(&now).await.unwrap(), ["d/", "n"], "no-cache");
        sim.sleep(Duration::from_mins(1)).await;
        assert_eq!(list(&level).await.unwrap(), ["d/", "n"]);
    });
    setup.sim.run();
}

#[test]
fn changes_behind_our_back_are_seen_after_the_ttl() {
    let setup = setup(2, Faults::default(), 1_000);
    let (engine, bucket, sim, ufs) = (
        setup.engines[0].clone(),
        Arc::clone(&setup.bucket),
        setup.sim.clone(),
        setup.ufs.clone(),
    );
    setup.sim.spawn(async move {
        put(&engine, &bucket, "a", 1).await.unwrap();
        ufs.place("a", content_of(2), ObjectHeaders::default());
        ufs.place("x/new", content_of(3), ObjectHeaders::default());
        assert!(engine.resolve(&bucket, &key("a"), true).await.is_ok());
        assert_eq!(
            get(&engine, &bucket, "a").await.unwrap(),
            Some(2),
            "no-cache sees it at once"
        );
        ufs.files.borrow_mut().remove("a");
        sim.sleep(Duration::from_millis(1_001)).await;
        assert_eq!(get(&engine, &bucket, "a").await.unwrap(), None);
        let query = ListQuery {
            delimiter: "/".into(),
            limit: 10,
            ..ListQuery::default()
        };
        let page = engine.list(&bucket, &query).await.unwrap();
        assert_eq!(page.prefixes, ["x/"]);
        assert!(page.objects.is_empty());
    });
    setup.sim.run();
}

#[test]
fn pages_cover_everything_once_for_every_limit() {
    let names = [
        "a",
        "a/",
        "a/b",
        "a/c/d",
        "a/c/e",
        "b",
        "b-",
        "b/x",
        "c//y",
        "\u{10FFFF}",
        "é",
    ];
    for (seed, limit) in (1..8).enumerate() {
        for delimiter in ["", "/", "c"] {
            for prefix in ["", "a/", "a/c"] {
                pages(seed as u64, &names, prefix, delimiter, limit);
            }
        }
    }
}

fn pages(seed: u64, names: &[&str], prefix: &str, delimiter: &str, limit: usize) {
    let setup = setup(seed, Faults::default(), 10_000);
    for name in names {
        setup.ufs.place(name, vec![1; 9], ObjectHeaders::default());
    }
    let mut expected: Vec<String> = names
        .iter()
        .filter(|n| n.starts_with(prefix))
        .map(|n| {
            match n[prefix.len()..]
                .find(delimiter)
                .filter(|_| !delimiter.is_empty())
            {
                Some(at) => n[..prefix.len() + at + delimiter.len()].to_owned(),
                None => (*n).to_owned(),
            }
        })
        .collect();
    expected.sort();
    expected.dedup();
    let (engine, bucket) = (setup.engines[0].clone(), Arc::clone(&setup.bucket));
    let (prefix, delimiter) = (prefix.to_owned(), delimiter.to_owned());
    setup.sim.spawn(async move {
        let mut seen = Vec::new();
        let mut query = ListQuery {
            prefix,
            delimiter,
            after: String::new(),
            limit,
            ..ListQuery::default()
        };
        loop {
            let page = engine.list(&bucket, &query).await.unwrap();
            let mut names: Vec<String> = page
                .objects
                .iter()
                .map(|(k, _)| k.as_str().to_owned())
                .collect();
            names.extend(page.prefixes.clone());
            assert!(names.len() <= limit);
            names.sort();
            assert_eq!(names.last().cloned(), page.last);
            seen.extend(names);
            match page.truncated {
                true => query.after = page.last.unwrap(),
                false => break,
            }
        }
        assert_eq!(seen, expected, "{query:?}");
    });
    setup.sim.run();
}

#[test]
fn folders_are_shown_once_across_pages() {
    for limit in 1..6 {
        let setup = setup(limit as u64, Faults::default(), 10_000);
        for name in ["a/b/c", "a/b/d", "a/e", "f", "g/h"] {
            setup.ufs.place(name, vec![1; 9], ObjectHeaders::default());
        }
        let (engine, bucket) = (setup.engines[0].clone(), Arc::clone(&setup.bucket));
        setup.sim.spawn(async move {
            let mut seen = Vec::new();
            let mut query = ListQuery {
                limit,
                folders: true,
                ..ListQuery::default()
            };
            loop {
                let page = engine.list(&bucket, &query).await.unwrap();
                seen.extend(page.objects.iter().map(|(k, _)| k.as_str().to_owned()));
                match page.truncated {
                    true => query.after = page.last.unwrap(),
                    false => break,
                }
            }
            let expected = ["a/", "a/b/", "a/b/c", "a/b/d", "a/e", "f", "g/", "g/h"];
            assert_eq!(seen, expected);
        });
        setup.sim.run();
    }
}
