//! A run of one seed: clients, crashes, and what must hold at its end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::io::Buffer;
use quickwater_engine::{
    CompletedUpload, FlowError, ListQuery, NewUpload, PutError, PutObject, QueueScope, Shared,
};
use quickwater_proto::*;

use super::content::{ContentBody, bytes_of, content_of, content_of_etag, etag_of_parts};
use super::disk::CrashDisk;
use super::metadata::CrashMetadata;
use super::node::{Node, begin_background, new_shards, recover};
use super::ufs::CrashUfs;
use super::{Break, Faults, Trace};
use crate::checker::{Event, Op, linearizable, tagged};
use crate::executor::Sim;
use crate::scenarios::key;

const NAMES: [&str; 3] = ["a", "d/b", "d/c"];
const CLIENTS: u64 = 3;
/// Most that the queue may take to drain once nothing fails.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// Seeds of a run, where `QUICKWATER_SIM_SEEDS` says nothing else (and
/// `QUICKWATER_SIM_FIRST` where they begin).
const SEEDS: u64 = 300;
/// Seeds within which a mistake must be seen.
const SEEDS_TO_SEE_MAX: u64 = 300;

/// What outlives the process, and what watches it.
#[derive(Clone)]
pub struct Outside {
    pub sim: Sim,
    pub trace: Trace,
    pub disk: CrashDisk,
    pub metadata: CrashMetadata,
    pub ufs: CrashUfs,
    pub bucket: Arc<Bucket>,
    faults: Rc<Cell<Faults>>,
    history: Rc<RefCell<BTreeMap<&'static str, Vec<Event>>>>,
    contents: Rc<Cell<u64>>,
    /// Clients that have not ended.
    busy: Rc<Cell<u64>>,
    policies: Rc<RefCell<Vec<(String, PathPolicy)>>>,
}

/// A number from the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_crash_loses_or_revives_anything() {
    let first = asked("QUICKWATER_SIM_FIRST").unwrap_or(0);
    let seeds = asked("QUICKWATER_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in first..first + seeds {
        run(seed, None);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
    assert_ne!(run(1, None), run(2, None));
}

/// The first seed that sees the mistake.
fn first_to_see(broken: Break) -> Option<u64> {
    (0..SEEDS_TO_SEE_MAX)
        .find(|seed| std::panic::catch_unwind(|| run(*seed, Some(broken))).is_err())
}

/// Without these the rest would prove nothing.
#[test]
fn mistakes_are_seen() {
    for broken in [
        Break::LateIsNotFenced,
        Break::FlushCoversItselfOnly,
        Break::DeleteIsNotPending,
        Break::RefusedIsNotVoided,
    ] {
        let seed = first_to_see(broken);
        assert!(seed.is_some(), "{broken:?} is not seen");
        eprintln!("{broken:?} is seen by seed {seed:?}");
    }
}

/// Runs a seed to its end; a hash of all that happened.
fn run(seed: u64, broken: Option<Break>) -> u64 {
    let outside = Outside::new(seed, broken);
    let lives = 2 + outside.sim.below(4);
    for _ in 0..lives {
        outside.live();
        outside.crash();
    }
    outside.faults.set(outside.faults.get().over());
    outside.ufs.go_down(Duration::ZERO);
    if !Faults::of(seed, broken).may_block_keys() {
        outside.last_life(seed);
        outside.crash();
    }
    outside.last_life(seed);
    outside.sim.crash();
    outside.check(seed);
    outside.trace.hash.get()
}

impl Outside {
    fn new(seed: u64, broken: Option<Break>) -> Self {
        let sim = Sim::new(seed);
        let trace = Trace::new(&sim);
        let faults = Rc::new(Cell::new(Faults::of(seed, broken)));
        let ttl_ms = [1, 500, u64::MAX][sim.below(3) as usize];
        let bucket = Bucket {
            id: BucketId(1),
            name: BucketName::new("sim").unwrap(),
            ufs: "sim:".into(),
            created_ms: 0,
            metadata_ttl_ms: ttl_ms,
            options: Vec::new(),
            tags: Vec::new(),
            owned: true,
        };
        let disk = CrashDisk::new(&sim, &faults, &trace);
        let metadata = CrashMetadata::new(&sim, &faults, &trace, &bucket);
        let ufs = CrashUfs::new(&sim, &faults, &trace, &metadata);
        let outside = Self {
            sim,
            trace,
            disk,
            metadata,
            ufs,
            bucket: Arc::new(bucket),
            faults,
            history: Rc::default(),
            contents: Rc::default(),
            busy: Rc::default(),
            policies: Rc::default(),
        };
        outside.choose_policies();
        outside
    }

    /// A mode for each part of the namespace.
    fn choose_policies(&self) {
        let mut rules = self.policies.borrow_mut();
        rules.clear();
        for path in ["/sim/a", "/sim/d/b", "/sim/d/c"] {
            let mode = match self.sim.below(10) {
                0..=5 => PolicyMode::WriteBack,
                6 | 7 => PolicyMode::Transient,
                _ => PolicyMode::WriteThrough,
            };
            let over_limit = match self.sim.below(2) {
                0 if mode == PolicyMode::WriteBack => OverLimit::WriteThrough,
                _ => PathPolicy::default().over_limit,
            };
            let policy = PathPolicy {
                mode,
                over_limit,
                ..PathPolicy::default()
            };
            rules.push((path.to_owned(), policy));
        }
    }

    fn set_policies(&self, shared: &Shared) {
        let rules = self.policies.borrow().clone();
        let table = PolicyTable::new(PathPolicy::default(), rules).unwrap();
        let version = shared.policies.version() + 1;
        shared.policies.replace(version, table);
    }

    /// A time that is short, long or longer still: crashes fall into the middle of
    /// a commit, of a retry, of the wait for a late request.
    fn some_time(&self) -> Duration {
        let limit = [2_000, 20_000, 3_000_000, 30_000_000][self.sim.below(4) as usize];
        Duration::from_micros(self.sim.below(limit))
    }

    /// Starts a process, sends it clients, and returns when it is to crash.
    fn live(&self) {
        let crash_at = self.sim.now() + self.some_time();
        let shards = new_shards(self);
        self.busy.set(CLIENTS);
        let outside = self.clone();
        self.sim.spawn(async move {
            let shared = Arc::clone(shards[0].shared());
            recover(&outside, &shared).await;
            outside.set_policies(&shared);
            begin_background(&outside, &shards);
            for n in 0..CLIENTS {
                let (client, shard) = (outside.clone(), shards[n as usize % 2].clone());
                outside.sim.spawn(async move {
                    client.send_requests(&shard).await;
                    client.busy.set(client.busy.get() - 1);
                });
            }
            let operator = outside.clone();
            outside.sim.spawn(async move {
                operator.sim.sleep(operator.some_time()).await;
                operator.choose_policies();
                operator.set_policies(&shared);
                if operator.sim.below(3) == 0 {
                    let until = operator.sim.now() + operator.some_time();
                    operator.ufs.go_down(until);
                }
            });
        });
        self.sim
            .run_while(|| self.sim.now() < crash_at && self.busy.get() > 0);
    }

    fn crash(&self) {
        self.trace.note("crash", &());
        self.sim.crash();
        self.disk.crash();
        self.metadata.crash();
        self.ufs.crash();
    }

    async fn send_requests(&self, shard: &Node) {
        for _ in 0..5 {
            match self.sim.below(4) {
                0 => self.sim.sleep(self.some_time() / 4).await,
                _ => self.sim.jitter().await,
            }
            let name = NAMES[self.sim.below(3) as usize];
            match self.sim.below(16) {
                0..=5 => {
                    let content = self.next_content();
                    let write = self.begin(name, Op::Write(Some(tagged(content, 0))));
                    let result = self.put(shard, name, content).await;
                    self.end(write, result);
                }
                6 | 7 => {
                    let write = self.begin(name, Op::Write(None));
                    let (bucket, key) = (&self.bucket, key(name));
                    let deleted = shard.delete(bucket, &key, &PutCondition::None);
                    self.end(write, deleted.await);
                }
                8..=10 => self.note_read(shard, name).await,
                11 | 12 => self.set_tag(shard, name).await,
                13 => self.list(shard).await,
                _ => self.put_in_parts(shard, name).await,
            }
        }
    }

    fn next_content(&self) -> u64 {
        self.contents.set(self.contents.get() + 1);
        self.contents.get()
    }

    /// Notes a change whose outcome is unknown until `end`.
    fn begin(&self, name: &'static str, op: Op) -> (&'static str, usize) {
        self.trace.note("begin", &(name, format!("{op:?}")));
        let mut history = self.history.borrow_mut();
        let events = history.entry(name).or_default();
        events.push(Event {
            op,
            begun: self.sim.now(),
            ended: None,
        });
        (name, events.len() - 1)
    }

    fn end(&self, (name, at): (&'static str, usize), result: Result<(), FlowError>) {
        self.trace.note("end", &(name, at, format!("{result:?}")));
        let mut history = self.history.borrow_mut();
        let event = &mut history.get_mut(name).unwrap()[at];
        match result {
            Ok(()) => event.ended = Some(self.sim.now()),
            Err(FlowError::Unknown(_) | FlowError::Unsettled(_)) => {}
            // Nothing changed: never happened.
            Err(_) => event.op = Op::Nothing,
        }
    }

    async fn put(&self, shard: &Node, name: &str, content: u64) -> Result<(), FlowError> {
        let mut body = ContentBody::whole(content);
        let put = PutObject::default();
        match shard.put(&self.bucket, &key(name), put, &mut body).await {
            Ok(_) => Ok(()),
            Err(PutError::Flow(error)) => Err(error),
            Err(PutError::Body(error)) => panic!("{error}"),
        }
    }

    async fn set_tag(&self, shard: &Node, name: &'static str) {
        let tag = 1 + self.sim.below(900);
        let begun = self.sim.now();
        let write = self.begin(name, Op::Tag(tag));
        let tags = vec![("t".to_owned(), tag.to_string())];
        let result = shard.set_tags(&self.bucket, &key(name), tags).await;
        let absent = result == Err(FlowError::NoSuchKey);
        self.end(write, result);
        if absent {
            self.note_at(name, Op::Read(None), begun);
        }
    }

    /// Two parts that make the object, one sent twice, and one nobody names.
    async fn put_in_parts(&self, shard: &Node, name: &'static str) {
        let content = self.next_content();
        let write = self.begin(name, Op::Write(Some(tagged(content, 0))));
        let uploaded = self.put_parts(shard, name, content).await;
        let (upload, parts) = match uploaded {
            Ok(uploaded) => uploaded,
            // Nothing of it can be seen.
            Err(_) => return self.end(write, Err(FlowError::NoSuchUpload)),
        };
        if self.sim.below(5) == 0 {
            let aborted = shard.abort_upload(&self.bucket, &upload.key, upload.id);
            let _ = aborted.await;
            return self.end(write, Err(FlowError::NoSuchUpload));
        }
        let done = CompletedUpload {
            parts,
            etag: etag_of_parts(content),
            checksums: Vec::new(),
            condition: PutCondition::None,
        };
        let result = shard.complete_upload(&self.bucket, &upload, done).await;
        self.end(write, result.map(drop));
    }

    async fn put_parts(
        &self,
        shard: &Node,
        name: &str,
        content: u64,
    ) -> Result<(UploadRecord, Vec<PartRecord>), FlowError> {
        let new = NewUpload::default();
        let upload = shard.create_upload(&self.bucket, &key(name), new).await?;
        let size = bytes_of(content).len();
        let mut parts = Vec::new();
        let sent = [
            (1, 0..size / 2),
            (1, 0..size / 2),
            (2, size / 2..size),
            (3, 0..size),
        ];
        let once = self.sim.below(2) as usize;
        for (number, range) in sent.into_iter().skip(once) {
            let mut body = ContentBody {
                content,
                at: range.start,
                end: range.end,
            };
            let put = shard.put_part(&self.bucket, &upload, number, &mut body);
            let part = match put.await {
                Ok(part) => part,
                Err(PutError::Flow(error)) => return Err(error),
                Err(PutError::Body(error)) => panic!("{error}"),
            };
            parts.retain(|old: &PartRecord| old.number != number);
            if number < 3 {
                parts.push(part);
            }
        }
        Ok((upload, parts))
    }

    /// Reads a whole object: its content and tag.
    async fn get(&self, shard: &Node, name: &str) -> Result<Option<u64>, FlowError> {
        let (bucket, key) = (&self.bucket, key(name));
        let record = match shard.resolve(bucket, &key, false).await {
            Ok(record) => record,
            Err(FlowError::NoSuchKey) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut reader = shard.read(bucket, &key, &record, 0..record.size);
        let mut bytes = Vec::new();
        while let Some(buffer) = reader.next().await? {
            bytes.extend_from_slice(buffer.as_slice());
        }
        let tag = record.tags.iter().find(|(name, _)| name == "t");
        let tag = tag.map_or(0, |(_, tag)| tag.parse().unwrap());
        Ok(Some(tagged(content_of(&record.etag, &bytes), tag)))
    }

    async fn note_read(&self, shard: &Node, name: &'static str) {
        let begun = self.sim.now();
        if let Ok(seen) = self.get(shard, name).await {
            self.note_at(name, Op::Read(seen), begun);
        }
    }

    async fn list(&self, shard: &Node) {
        let begun = self.sim.now();
        let query = ListQuery {
            limit: 100,
            ..ListQuery::default()
        };
        let Ok(page) = shard.list(&self.bucket, &query).await else {
            return;
        };
        for name in NAMES {
            let listed = page.objects.iter().any(|(key, _)| key.as_str() == name);
            self.note_at(name, Op::Listed(listed), begun);
        }
    }

    /// Notes what was seen since `begun`.
    fn note_at(&self, name: &'static str, op: Op, begun: Duration) {
        self.trace.note("saw", &(name, format!("{op:?}")));
        let mut history = self.history.borrow_mut();
        history.entry(name).or_default().push(Event {
            op,
            begun,
            ended: Some(self.sim.now()),
        });
    }

    /// A process without faults or clients: all reaches the UFS and nothing is
    /// left over.
    fn last_life(&self, seed: u64) {
        let shards = new_shards(self);
        let outside = self.clone();
        self.busy.set(1);
        self.sim.spawn(async move {
            let shared = Arc::clone(shards[0].shared());
            recover(&outside, &shared).await;
            outside.set_policies(&shared);
            begin_background(&outside, &shards);
            outside.drain(&shared, seed).await;
            for name in NAMES {
                outside.read_last(&shards[1], name).await;
            }
            outside.list(&shards[0]).await;
            outside.drain(&shared, seed).await;
            for upload in outside.metadata.open_uploads() {
                let (bucket, key) = (&outside.bucket, &upload.key);
                // One that the UFS knows may be gone there.
                let _ = shards[0].abort_upload(bucket, key, upload.id).await;
            }
            outside.check_leftovers(seed);
            outside.busy.set(0);
        });
        self.sim.run_while(|| self.busy.get() > 0);
        assert_eq!(self.busy.get(), 0, "seed {seed}: the last life hangs");
    }

    async fn drain(&self, shared: &Shared, seed: u64) {
        let until = self.sim.now() + DRAIN_MAX;
        loop {
            let now = self.sim.now();
            let all = QueueScope::everything();
            let left = shared.persist.page(&all, None, None, 10, now).changes;
            if left.is_empty() {
                return;
            }
            assert!(now < until, "seed {seed}: never persisted: {left:?}");
            self.sim.sleep(Duration::from_secs(1)).await;
        }
    }

    /// The last read of a key is part of its history, and the UFS agrees with it.
    async fn read_last(&self, shard: &Node, name: &'static str) {
        let begun = self.sim.now();
        let seen = self.get(shard, name).await.unwrap();
        self.note_at(name, Op::Read(seen), begun);
        let file = self.ufs.file(&key(name)).map(|file| file.content);
        let record = self.metadata.current(&key(name));
        let transient = record.filter(|record| record.persist == PersistState::Transient);
        match transient {
            Some(record) => {
                let own = bytes_of(content_of_etag(&record.etag));
                let empty = own.is_empty();
                assert!(
                    empty || file.is_none_or(|file| file != own),
                    "{name} left us"
                );
            }
            None => {
                let content = seen.map(|seen| bytes_of(seen / tagged(1, 0)));
                let same = file.as_deref() == content.as_deref();
                assert!(same, "the UFS holds the last version of {name}");
            }
        }
    }

    /// Nothing is kept that nobody names.
    fn check_leftovers(&self, seed: u64) {
        assert_eq!(
            self.disk.reserved(),
            0,
            "seed {seed}: space is kept for ever"
        );
        let named = self.metadata.named();
        for blob in self.disk.pinned() {
            assert!(
                named.contains(&blob),
                "seed {seed}: {blob} is kept for ever"
            );
        }
    }

    fn check(&self, seed: u64) {
        for (name, events) in self.history.borrow().iter() {
            let events: Vec<_> = events
                .iter()
                .filter(|event| !matches!(event.op, Op::Nothing))
                .cloned()
                .collect();
            assert!(
                linearizable(&events, None),
                "seed {seed}, key {name}: {events:#?}"
            );
        }
        let mut last: BTreeMap<ObjectKey, (u64, u64)> = BTreeMap::new();
        let journal = self.ufs.journal();
        for applied in &journal {
            let (put, any) = last.entry(applied.key.clone()).or_default();
            // A delete after a newer delete changes nothing.
            let newest = match applied.content {
                Some(_) => *any,
                None => *put,
            };
            assert!(
                newest <= applied.order,
                "seed {seed}: an older change came after a newer one: {applied:?} in {journal:#?}"
            );
            if applied.content.is_some() {
                *put = applied.order;
            }
            *any = (*any).max(applied.order);
        }
    }
}
