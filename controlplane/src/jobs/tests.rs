//! Jobs over a store in memory and a toy that acts on objects.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quickwater_proto::{
    Bucket, BucketId, BucketName, ETag, JobAction, JobOutcome, LeftAlone, ObjectHeaders, ObjectKey,
    ObjectRecord, PersistState, PutCondition, Version,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::Namespace;
use crate::namespace::{JobLimits, WallClock};
use crate::records::{decode_job, encode_job};
use crate::store::EmbeddedStore;

type Memory = Namespace<EmbeddedStore>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Clock(Arc<AtomicI64>);

impl WallClock for Clock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Deletes rows, counts loads, fails as told.
struct Toy {
    namespace: Memory,
    acted: Mutex<Vec<String>>,
    /// How often an act on a key is still to fail, and how.
    failures: Mutex<HashMap<String, (u32, JobFailure)>>,
    /// Every act fails so.
    down: Mutex<Option<JobFailure>>,
    /// Acts that may go on.
    gate: Semaphore,
    /// Written before the first act.
    late: Mutex<Vec<String>>,
    /// A delete is done and then answered as a failure.
    lies: AtomicBool,
}

fn unavailable() -> JobFailure {
    JobFailure {
        message: "unavailable: the UFS is away".into(),
        retry: Retry::Unreached,
    }
}

fn final_failure(message: &str) -> JobFailure {
    JobFailure {
        message: message.into(),
        retry: Retry::Final,
    }
}

impl Toy {
    fn fail(&self, key: &str, times: u32, failure: JobFailure) {
        let mut failures = self.failures.lock().unwrap();
        failures.insert(key.to_owned(), (times, failure));
    }

    fn failure(&self, key: &str) -> Option<JobFailure> {
        if let Some(failure) = self.down.lock().unwrap().clone() {
            return Some(failure);
        }
        let mut failures = self.failures.lock().unwrap();
        let (times, failure) = failures.get_mut(key)?;
        *times = times.checked_sub(1)?;
        Some(failure.clone())
    }

    fn acted(&self) -> Vec<String> {
        let mut acted = self.acted.lock().unwrap().clone();
        acted.sort();
        acted
    }
}

#[tonic::async_trait]
impl JobWorker for Toy {
    async fn compare(
        &self,
        _: &BucketName,
        _: BucketId,
        path: &str,
        _: &StopFlag,
    ) -> Result<(), JobFailure> {
        match self.failure(&format!("compare {path}")) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    async fn act(
        &self,
        _: &BucketName,
        bucket: BucketId,
        key: &ObjectKey,
        action: JobAction,
        _: &StopFlag,
    ) -> Result<JobOutcome, JobFailure> {
        self.gate.acquire().await.unwrap().forget();
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for key in late {
            put(&self.namespace, bucket, &key).await;
        }
        if let Some(failure) = self.failure(key.as_str()) {
            return Err(failure);
        }
        self.acted.lock().unwrap().push(key.as_str().to_owned());
        if !matches!(action, JobAction::Delete { .. }) {
            return Ok(JobOutcome::Done { bytes: 7 });
        }
        let none = PutCondition::None;
        let removed = self.namespace.remove_object(bucket, key, &none).await;
        if self.lies.swap(false, Ordering::Relaxed) {
            return Err(unavailable());
        }
        Ok(match removed.unwrap() {
            Some(old) => JobOutcome::Done { bytes: old.size },
            None => JobOutcome::Left(LeftAlone::Gone),
        })
    }
}

async fn put(namespace: &Memory, bucket: BucketId, key: &str) -> Version {
    let record = ObjectRecord {
        version: Version(0),
        size: 7,
        etag: ETag::new("e"),
        modified_ms: 1,
        headers: ObjectHeaders::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    };
    let key = ObjectKey::new(key).unwrap();
    let none = PutCondition::None;
    let committed = namespace.commit_object(bucket, &key, &record, &none).await;
    committed.unwrap().version
}

struct World {
    namespace: Memory,
    clock: Clock,
    bucket: Bucket,
    toy: Arc<Toy>,
    config: JobsConfig,
    jobs: Jobs<EmbeddedStore>,
    runner: Option<JoinHandle<()>>,
}

impl World {
    async fn new(keys: &[&str]) -> Self {
        let clock = Clock::default();
        clock.0.store(1_000, Ordering::Relaxed);
        let store = EmbeddedStore::in_memory().unwrap();
        let namespace = Namespace::with_clock(store, clock.clone());
        let bucket = Bucket {
            id: BucketId(0),
            name: BucketName::new("data").unwrap(),
            ufs: "file:///ufs/data".into(),
            created_ms: 1,
            metadata_ttl_ms: 0,
            options: Vec::new(),
            tags: Vec::new(),
            owned: true,
        };
        let bucket = namespace.create_bucket(&bucket).await.unwrap();
        for key in keys {
            put(&namespace, bucket.id, key).await;
        }
        let toy = open(&namespace);
        let config = JobsConfig {
            running_max: 2,
            concurrency: 8,
            limits: JobLimits {
                kept_max: 10,
                keep: DAY,
            },
        };
        let jobs = Jobs::new(namespace.clone(), toy.clone(), config);
        Self {
            namespace,
            clock,
            bucket,
            toy,
            config,
            jobs,
            runner: None,
        }
    }

    /// As after a kill: what was not noted is lost. Other limits take effect.
    fn restart(&mut self) {
        self.kill();
        self.jobs = Jobs::new(self.namespace.clone(), self.toy.clone(), self.config);
        self.run();
    }

    fn run(&mut self) {
        self.runner = Some(tokio::spawn(self.jobs.clone().run()));
    }

    fn kill(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.abort();
        }
    }

    async fn start(&self, kind: JobKind, path: &str) -> u64 {
        let bucket = &self.bucket;
        let new = NewJob { kind, bucket, path };
        self.jobs.start(new).await.unwrap().0.id
    }

    async fn get(&self, id: u64) -> Job {
        self.jobs.get(id).await.unwrap().unwrap()
    }

    async fn until(&self, id: u64, wanted: impl Fn(&Job) -> bool) -> Job {
        let look = async {
            loop {
                let job = self.get(id).await;
                if wanted(&job) {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LONGEST, look).await.unwrap()
    }

    async fn ended(&self, id: u64) -> Job {
        self.until(id, |job| job.state.is_end()).await
    }

    async fn keys(&self) -> Vec<String> {
        let page = self.namespace.scan(self.bucket.id, "", "", 10_000).await;
        let entries = page.unwrap().entries.into_iter();
        entries.map(|(key, _)| key.as_str().to_owned()).collect()
    }
}

const LOAD: JobKind = JobKind::Load {
    verify: false,
    skip_cached: false,
};

fn many(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("d/{n:05}")).collect()
}

fn texts(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn a_path_is_the_key_itself_and_what_is_below() {
    let keys = ["a", "a/", "a/b", "a/b/c", "a0", "ab", "b"];
    let mut world = World::new(&keys).await;
    world.run();
    for (path, wanted) in [
        ("a", &["a", "a/", "a/b", "a/b/c"][..]),
        ("a/", &["a/", "a/b", "a/b/c"]),
        ("a/b", &["a/b", "a/b/c"]),
        ("nothing", &[]),
        ("", &keys),
    ] {
        world.toy.acted.lock().unwrap().clear();
        let id = world.start(LOAD, path).await;
        let job = world.ended(id).await;
        assert_eq!(job.state, JobState::Done, "{job:?}");
        assert_eq!(world.toy.acted(), wanted, "{path:?}");
        let objects = wanted.len() as u64;
        let tally = Tally {
            objects,
            bytes: 7 * objects,
        };
        assert_eq!((job.found, job.done), (tally, tally));
        assert_eq!(job.handled(), objects);
    }
}

#[tokio::test]
async fn a_killed_job_goes_on_from_its_last_note() {
    let keys = many(600);
    let world = World::new(&texts(&keys)).await;
    let mut world = gated(world, 300);
    world.run();
    let id = world.start(JobKind::Delete, "d").await;
    let most = |toy: &Toy| toy.acted.lock().unwrap().len() >= 300;
    while !most(&world.toy) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The job's own task is killed with the runtime only: close its gate for good.
    let noted = world.namespace.job(id).await.unwrap().unwrap();
    assert_eq!(noted.position, "d/00255", "one page is noted");
    assert_eq!((noted.state, noted.done.objects), (JobState::Running, 256));
    world.kill();
    world.toy = open(&world.namespace);
    world.restart();
    let job = world.ended(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(job.found.objects, 600);
    // What was deleted and not noted is known to be gone, not counted twice.
    let gone = job.left.get(&LeftAlone::Gone).copied().unwrap_or(0);
    assert_eq!((job.done.objects, gone), (556, 44), "{job:?}");
    assert_eq!(world.keys().await, Vec::<String>::new());
}

/// The same world whose acts stop after so many.
fn gated(mut world: World, acts: usize) -> World {
    let toy = open(&world.namespace);
    toy.gate.forget_permits(Semaphore::MAX_PERMITS);
    toy.gate.add_permits(acts);
    world.toy = toy;
    world.jobs = Jobs::new(world.namespace.clone(), world.toy.clone(), world.config);
    world
}

fn open(namespace: &Memory) -> Arc<Toy> {
    Arc::new(Toy {
        namespace: namespace.clone(),
        acted: Mutex::default(),
        failures: Mutex::default(),
        down: Mutex::default(),
        gate: Semaphore::new(Semaphore::MAX_PERMITS),
        late: Mutex::default(),
        lies: AtomicBool::new(false),
    })
}

#[tokio::test]
async fn what_is_written_after_a_delete_began_stays() {
    let keys = many(300);
    let mut world = World::new(&texts(&keys)).await;
    let late = ["d/00299", "d/new"].map(str::to_owned);
    *world.toy.late.lock().unwrap() = late.to_vec();
    world.run();
    let id = world.start(JobKind::Delete, "d/").await;
    let job = world.ended(id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(world.keys().await, late);
    assert_eq!(job.done.objects, 299);
    assert_eq!(job.left.get(&LeftAlone::Newer), Some(&2));
    // Again: they are older now.
    let id = world.start(JobKind::Delete, "d/").await;
    assert_eq!(world.ended(id).await.done.objects, 2);
    let id = world.start(JobKind::Delete, "d/").await;
    let job = world.ended(id).await;
    assert_eq!((job.state, job.handled()), (JobState::Done, 0));
}

#[tokio::test]
async fn a_running_job_stops_and_keeps_its_counts() {
    let keys = many(600);
    let world = World::new(&texts(&keys)).await;
    let mut world = gated(world, 300);
    world.run();
    let id = world.start(LOAD, "").await;
    world.until(id, |job| job.done.objects == 300).await;
    let job = world.jobs.stop(id).await.unwrap().unwrap();
    assert!(job.stopping && job.state == JobState::Running);
    world.toy.gate.add_permits(1_000);
    let job = world.ended(id).await;
    assert_eq!(job.state, JobState::Stopped);
    // Those under way were finished.
    assert!((300..=308).contains(&job.done.objects), "{job:?}");
    assert_eq!(world.namespace.job(id).await.unwrap(), Some(job.clone()));
    // To stop it again changes nothing, nor does a restart.
    assert_eq!(world.jobs.stop(id).await.unwrap(), Some(job.clone()));
    world.restart();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.get(id).await, job);
    assert_eq!(world.jobs.stop(99).await.unwrap(), None);
}

#[tokio::test]
async fn a_wish_to_stop_survives_a_kill() {
    let keys = many(600);
    let world = World::new(&texts(&keys)).await;
    let mut world = gated(world, 10);
    world.run();
    let id = world.start(LOAD, "").await;
    world.until(id, |job| job.done.objects == 10).await;
    world.kill();
    world.namespace.stop_job(id).await.unwrap();
    world.toy = open(&world.namespace);
    world.restart();
    assert_eq!(world.ended(id).await.state, JobState::Stopped);
    assert!(world.toy.acted().is_empty());
}

#[tokio::test]
async fn only_so_many_run_and_the_oldest_first() {
    let world = World::new(&["a", "b", "c", "d"]).await;
    let mut world = gated(world, 0);
    world.run();
    let mut ids = Vec::new();
    for path in ["a", "b", "c", "d"] {
        ids.push(world.start(LOAD, path).await);
    }
    for id in &ids[..2] {
        world.until(*id, |job| job.through.is_some()).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let states: Vec<_> = world.jobs.list().await.unwrap();
    let states: Vec<_> = states.iter().map(|job| (job.id, job.state)).collect();
    let (waiting, running) = (JobState::Waiting, JobState::Running);
    let wanted = [(4, waiting), (3, waiting), (2, running), (1, running)];
    assert_eq!(states, wanted, "newest first");
    let stopped = world.jobs.stop(ids[2]).await.unwrap().unwrap();
    assert_eq!(stopped.state, JobState::Stopped, "nothing of it ran");
    world.toy.gate.add_permits(100);
    for id in [1, 2, 4] {
        assert_eq!(world.ended(id).await.state, JobState::Done);
    }
    assert_eq!(world.toy.acted(), ["a", "b", "d"]);
}

#[tokio::test]
async fn jobs_are_kept_within_limits() {
    // One each, so that none ends before it may.
    let mut world = World::new(&["a", "b", "c", "d"]).await;
    world.config.limits.kept_max = 3;
    world.restart();
    for path in ["a", "b", "c", "d"] {
        let id = world.start(LOAD, path).await;
        world.ended(id).await;
    }
    let kept = world.jobs.list().await.unwrap();
    let kept: Vec<_> = kept.iter().map(|job| job.id).collect();
    assert_eq!(kept, [4, 3, 2], "the oldest went");
    // Those that wait or run never go.
    let mut world = gated(world, 0);
    world.restart();
    for path in ["a", "b", "c"] {
        world.start(LOAD, path).await;
    }
    let bucket = &world.bucket;
    let (kind, path) = (LOAD, "d");
    let refused = world.jobs.start(NewJob { kind, bucket, path }).await;
    assert_eq!(refused.unwrap_err(), StartError::TooMany(3));
    // The same job is not begun twice; another kind of it would be another one.
    let path = "c";
    let (job, existing) = world
        .jobs
        .start(NewJob { kind, bucket, path })
        .await
        .unwrap();
    assert_eq!((job.id, existing), (7, true));
}

#[tokio::test]
async fn jobs_that_ended_are_forgotten_in_time() {
    let mut world = World::new(&["a"]).await;
    world.run();
    let id = world.start(LOAD, "a").await;
    world.ended(id).await;
    // The service forgets as well, whenever it looks.
    let runner = world.runner.take().unwrap();
    runner.abort();
    assert!(runner.await.unwrap_err().is_cancelled());
    let day = i64::try_from(DAY.as_millis()).unwrap();
    world.clock.0.fetch_add(day, Ordering::Relaxed);
    assert_eq!(world.namespace.forget_jobs(DAY).await.unwrap(), 0);
    world.clock.0.fetch_add(1, Ordering::Relaxed);
    assert_eq!(world.namespace.forget_jobs(DAY).await.unwrap(), 1);
    assert_eq!(world.jobs.get(id).await.unwrap(), None);
}

#[tokio::test]
async fn failures_are_told_by_key_and_tried_again_where_that_helps() {
    let mut world = World::new(&["a", "b", "c"]).await;
    world.toy.fail("a", ATTEMPTS_MAX - 1, unavailable());
    world.toy.fail("b", 100, final_failure("READ_ONLY"));
    world.run();
    let id = world.start(JobKind::Delete, "").await;
    let job = world.ended(id).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!((job.done.objects, job.failed), (2, 1));
    let error = JobError {
        key: "b".into(),
        message: "READ_ONLY".into(),
    };
    assert_eq!(job.errors, [error]);
    assert_eq!(world.keys().await, ["b"]);
}

#[tokio::test]
async fn a_delete_whose_answer_was_lost_counts_as_done() {
    let mut world = World::new(&["a"]).await;
    world.toy.lies.store(true, Ordering::Relaxed);
    world.run();
    let id = world.start(JobKind::Delete, "").await;
    let job = world.ended(id).await;
    assert_eq!((job.state, job.done.objects), (JobState::Done, 1));
    assert!(job.left.is_empty());
}

#[tokio::test]
async fn a_job_gives_up_when_nothing_can_be_reached() {
    let keys = many(300);
    let mut world = World::new(&texts(&keys)).await;
    world.config.concurrency = 256;
    *world.toy.down.lock().unwrap() = Some(unavailable());
    world.restart();
    let id = world.start(JobKind::Free, "").await;
    let job = world.ended(id).await;
    assert_eq!(job.state, JobState::Failed);
    assert!((100..=256).contains(&job.failed), "{}", job.failed);
    assert_eq!(job.errors.len(), ERRORS_KEPT);
    let last = job.errors.last().unwrap();
    assert!(
        last.key.is_empty() && last.message.contains("gave up"),
        "{last:?}"
    );
    assert_eq!(job.position, "", "nothing was handled for good");
}

#[tokio::test]
async fn a_ufs_that_cannot_be_listed_ends_a_load_and_is_told_by_a_delete() {
    let mut world = World::new(&["d/a"]).await;
    world.toy.fail("compare d/", 1_000, unavailable());
    world.run();
    let id = world.start(LOAD, "d/").await;
    let job = world.ended(id).await;
    assert_eq!((job.state, job.unlisted), (JobState::Failed, true));
    assert!(world.toy.acted().is_empty());
    let id = world.start(JobKind::Delete, "d/").await;
    let job = world.ended(id).await;
    assert_eq!((job.state, job.done.objects), (JobState::Failed, 1));
    assert!(job.errors[0].message.contains("cannot be listed"));
    assert!(world.keys().await.is_empty());
    // Freeing asks nobody.
    let id = world.start(JobKind::Free, "d/").await;
    assert_eq!(world.ended(id).await.state, JobState::Done);
}

#[tokio::test]
async fn a_bucket_that_is_removed_ends_its_jobs() {
    let mut world = World::new(&["a", "b"]).await;
    let gone = JobFailure {
        retry: Retry::BucketGone,
        ..final_failure("no such bucket")
    };
    world.toy.fail("a", 1, gone);
    world.run();
    let id = world.start(LOAD, "").await;
    let job = world.ended(id).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.errors[0].message.contains("removed"), "{job:?}");
}

#[test]
fn rows_come_back_as_they_were() {
    let kinds = [
        JobKind::Free,
        JobKind::Delete,
        LOAD,
        JobKind::Load {
            verify: true,
            skip_cached: true,
        },
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        for state in JobState::ALL {
            let mut job = Job {
                id: 9,
                kind,
                bucket: BucketId(3),
                bucket_name: BucketName::new("data").unwrap(),
                path: "a/b".into(),
                state,
                stopping: n == 1,
                created_ms: 1,
                started_ms: 2,
                ended_ms: 3,
                through: (n > 1).then_some(Version(0xABCD_0001)),
                found: Tally {
                    objects: 1,
                    bytes: 2,
                },
                done: Tally {
                    objects: 3,
                    bytes: 4,
                },
                failed: 0,
                left: Default::default(),
                position: "a/b/c".into(),
                errors: Vec::new(),
                unlisted: n == 2,
            };
            for why in LeftAlone::ALL {
                job.leave(why, 5);
            }
            job.fail("k", &"é".repeat(ERROR_BYTES_MAX));
            assert_eq!(decode_job(9, &encode_job(&job).unwrap()).unwrap(), job);
        }
    }
}

#[test]
fn the_largest_row_fits() {
    let key = "k".repeat(1_024);
    let mut job = Job {
        id: u64::MAX,
        kind: JobKind::Delete,
        bucket: BucketId(u64::MAX),
        bucket_name: BucketName::new(&"b".repeat(63)).unwrap(),
        path: key.clone(),
        state: JobState::Failed,
        stopping: true,
        created_ms: i64::MAX,
        started_ms: i64::MAX,
        ended_ms: i64::MAX,
        through: Some(Version(u128::MAX >> 32)),
        found: Tally::default(),
        done: Tally::default(),
        failed: u64::MAX,
        left: Default::default(),
        position: key.clone(),
        errors: Vec::new(),
        unlisted: true,
    };
    for _ in 0..2 * ERRORS_KEPT {
        job.fail(&key, &"m".repeat(10_000));
    }
    assert_eq!(job.errors.len(), ERRORS_KEPT);
    assert!(encode_job(&job).is_ok());
}
