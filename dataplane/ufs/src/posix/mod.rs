//! A directory as a UFS: objects are files, keys are paths (see [`keys`]).
//!
//! All system calls run on tokio's blocking pool, one turn each. A call that was
//! given up at its deadline still runs; it keeps its turn and the key's lock, and
//! looks at a flag before it makes anything visible.
//!
//! Decisions: relative symbolic links that stay below the root are followed for
//! reads and as directories; a write replaces the link itself. Names that are
//! not UTF-8 are skipped and counted. Directories without a file are invisible.
//! A root that is gone, or not the directory that was written to (see [`identity`]),
//! is an outage ([`UfsErrorKind::Unavailable`]), never an empty bucket.

mod attributes;
mod errors;
mod fence;
mod identify;
mod identity;
mod keys;
mod listing;
mod locations;
mod locks;
mod objects;
mod probe;
mod read;
mod root;
mod staging;
mod sync;
mod uploads;
mod walk;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quickwater_proto::{BucketId, BucketName, ObjectKey, UfsError, UfsErrorKind, UfsObject};
use rustix::io::Errno;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use crate::mount::{Context, Turns, within};
use crate::standing::Permit;
use locks::KeyLocks;
use root::Root;
use staging::{StagedFile, Staging};

/// A mounted directory.
#[derive(Debug)]
pub(crate) struct Posix {
    core: Arc<Core>,
    turns: Arc<Turns>,
    locks: KeyLocks,
}

/// What the blocking calls work on.
#[derive(Debug)]
struct Core {
    path: PathBuf,
    /// Whose objects lie there; none: only looked at.
    bucket: Option<(BucketId, BucketName)>,
    context: Arc<Context>,
    state: Mutex<State>,
    /// Why the directory at the path is not the right one.
    trouble: Mutex<Option<String>>,
    /// The last modification time given, ns: every file gets a later one.
    last_modified_ns: AtomicI64,
}

#[derive(Debug, Default)]
struct State {
    root: Option<Arc<Root>>,
    staging: Option<Arc<Staging>>,
}

/// Says that nobody waits for a call any more.
#[derive(Debug, Clone, Default)]
struct GivenUp(Arc<AtomicBool>);

/// Sets the flag when the waiting future is dropped.
struct Waiting(GivenUp);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

impl GivenUp {
    /// An error once nobody waits any more.
    fn check(&self) -> Result<(), UfsError> {
        if self.0.load(Ordering::Acquire) {
            return Err(UfsError::new(
                UfsErrorKind::Timeout,
                "given up before it was published",
            ));
        }
        Ok(())
    }
}

fn ended<T>(done: Result<Result<T, UfsError>, JoinError>) -> Result<T, UfsError> {
    done.unwrap_or_else(|error| {
        let message = format!("a file system call did not end: {error}");
        Err(UfsError::new(UfsErrorKind::Other, message))
    })
}

impl Posix {
    pub(crate) fn new(
        path: PathBuf,
        bucket: Option<(BucketId, BucketName)>,
        context: Arc<Context>,
        turns: Arc<Turns>,
    ) -> Self {
        let core = Core {
            path,
            bucket,
            context,
            state: Mutex::default(),
            trouble: Mutex::default(),
            last_modified_ns: AtomicI64::new(0),
        };
        Self {
            core: Arc::new(core),
            turns,
            locks: KeyLocks::default(),
        }
    }

    /// Runs `work` on the blocking pool when it is its turn.
    async fn blocking<T: Send + 'static>(
        &self,
        limit: Duration,
        what: &str,
        work: impl FnOnce(&Core, &GivenUp) -> Result<T, UfsError> + Send + 'static,
    ) -> Result<T, UfsError> {
        let (mut task, _waiting) = self.start(work).await?;
        within(limit, what, async { ended((&mut task).await) }).await
    }

    /// The same for what changes objects: if it is given up, that it still runs is known
    /// until it ends.
    async fn changing<T: Send + 'static>(
        &self,
        limit: Duration,
        what: &str,
        work: impl FnOnce(&Core, &GivenUp) -> Result<T, UfsError> + Send + 'static,
    ) -> Result<T, UfsError> {
        let (mut task, _waiting) = self.start(work).await?;
        if let Ok(done) = timeout(limit, &mut task).await {
            return ended(done);
        }
        if let Some(standing) = &self.core.context.standing {
            let straggler = standing.straggling();
            tokio::spawn(async move {
                // Nobody asks any more what became of it.
                let _ = task.await;
                drop(straggler);
            });
        }
        let message = format!("no answer to {what} within {} ms", limit.as_millis());
        Err(UfsError::new(UfsErrorKind::Timeout, message))
    }

    async fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core, &GivenUp) -> Result<T, UfsError> + Send + 'static,
    ) -> Result<(JoinHandle<Result<T, UfsError>>, Waiting), UfsError> {
        let turn = self.turns.take().await?;
        let core = Arc::clone(&self.core);
        let given_up = GivenUp::default();
        let waiting = Waiting(given_up.clone());
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            given_up.check()?;
            work(&core, &given_up)
        });
        Ok((task, waiting))
    }

    /// Whether the file system, once its directory is open, takes the names that a
    /// key becomes. Most take 255 bytes, and any key then.
    pub(crate) fn can_hold(&self, key: &ObjectKey) -> Result<(), UfsError> {
        let root = {
            let state = self.core.state.lock();
            state.unwrap_or_else(PoisonError::into_inner).root.clone()
        };
        let Some(root) = root else { return Ok(()) };
        let most = root.name_bytes_max;
        match keys::longest_name(key.as_str()) {
            bytes if bytes > most => Err(UfsError::new(
                UfsErrorKind::Unsupported,
                format!("a name of {bytes} bytes; the file system takes {most}"),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) async fn head(&self, key: &ObjectKey) -> Result<UfsObject, UfsError> {
        let (limit, key) = (self.core.context.config.request_timeout, key.clone());
        self.blocking(limit, "head", move |core, _| core.head(key.as_str()))
            .await
    }

    pub(crate) async fn delete(&self, key: &ObjectKey, permit: Permit) -> Result<(), UfsError> {
        let (limit, key) = (self.core.context.config.request_timeout, key.clone());
        let lock = self.locks.lock(key.as_str(), limit).await?;
        self.changing(limit, "delete", move |core, given_up| {
            let _lock = lock;
            let root = core.root()?;
            match core.mark(&root) {
                // Folders below may be writable all the same.
                Err(error) if error.kind != UfsErrorKind::AccessDenied => return Err(error),
                _ => {}
            }
            let grave = core.grave(&root)?;
            given_up.check()?;
            match &grave {
                Some(grave) => core.admit(&root, &grave.staging, &permit)?,
                None => permit.check()?,
            }
            objects::remove(&root, key.as_str(), grave.as_ref())
        })
        .await
    }
}

impl Core {
    /// The staging folder, made on the first write. Whoever makes it also removes
    /// what the dead left.
    fn staging(&self, root: &Root) -> Result<Arc<Staging>, UfsError> {
        let standing = self.context.standing.as_deref();
        let known = self.known_staging();
        if let Some(staging) = known
            && !staging.is_over(standing)
        {
            return Ok(staging);
        }
        self.mark(root)?;
        let made = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(staging) = &state.staging
                && !staging.is_over(standing)
            {
                return Ok(Arc::clone(staging));
            }
            let staging = Arc::new(Staging::open(root, standing)?);
            state.staging = Some(Arc::clone(&staging));
            staging
        };
        made.remove_dead(root, standing);
        uploads::remove_old(root, self.context.config.upload_age_max);
        Ok(made)
    }

    fn known_staging(&self) -> Option<Arc<Staging>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.staging.clone()
    }

    /// An empty staged file; the folder is made again if somebody removed it, and the
    /// mark, which may be gone with it: the directory is open, hence the same.
    fn stage(&self, root: &Root) -> Result<StagedFile, UfsError> {
        let fail = |errno| errors::failed("make staged file in", keys::RESERVED, errno);
        match self.staging(root)?.create() {
            Err(Errno::NOENT) => {
                root.marked.store(false, Ordering::Release);
                self.state
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .staging = None;
                if let Some(standing) = &self.context.standing {
                    // Whoever removed it would not know of another one of this session.
                    standing.oust();
                }
                self.staging(root)?.create().map_err(fail)
            }
            done => done.map_err(fail),
        }
    }

    /// A modification time: now, but later than all given before.
    fn next_modified_ns(&self) -> i64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let update = |last: i64| Some(now.max(last.saturating_add(1)));
        let last = self
            .last_modified_ns
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
            .unwrap_or(now);
        now.max(last.saturating_add(1))
    }

    fn head(&self, key: &str) -> Result<UfsObject, UfsError> {
        let found = objects::open(&*self.root()?, key)?;
        let identity = attributes::identity(&found.stat);
        let known = attributes::load(&found.fd, &identity)
            .map_err(|e| errors::failed("read attributes of", key, e))?;
        Ok(attributes::object(identity, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UfsConfig;
    use crate::buffers::ReadBuffers;
    use crate::location::Location;
    use crate::mount::Mount;
    use crate::standing::Standing;
    use quickwater_proto::{NodeId, UfsErrorKind};

    fn posix(config: UfsConfig) -> Posix {
        posix_of(config, None)
    }

    fn posix_of(config: UfsConfig, standing: Option<Arc<Standing>>) -> Posix {
        let context = Arc::new(Context {
            buffers: ReadBuffers::new(1, 1),
            stats: Arc::default(),
            identities: Arc::new(crate::identities::Remembered::default()),
            standing,
            config,
        });
        let root = PathBuf::from("/");
        let location = Location::Posix { root: root.clone() };
        let mount = Mount::new(location, None, Arc::clone(&context));
        Posix::new(root, None, context, Arc::clone(mount.turns()))
    }

    #[tokio::test]
    async fn a_stuck_call_times_out_and_keeps_its_turn_and_lock_until_it_ends() {
        let posix = posix(UfsConfig {
            concurrency: 1,
            queue_timeout: Duration::from_millis(20),
            ..UfsConfig::default()
        });
        let short = Duration::from_millis(30);
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let lock = posix.locks.lock("k", short).await.unwrap();
        let seen = Arc::new(Mutex::new(None));
        let told = Arc::clone(&seen);
        let call = posix.blocking(short, "test", move |_, given_up| {
            let _lock = lock;
            // Ends when the test lets it.
            let _ = stuck.recv();
            *told.lock().unwrap() = Some(given_up.check());
            Ok(())
        });
        assert_eq!(call.await.unwrap_err().kind, UfsErrorKind::Timeout);
        let error = posix.locks.lock("k", short).await.unwrap_err();
        assert_eq!(
            error.kind,
            UfsErrorKind::Unavailable,
            "a later write has to wait"
        );
        let error = posix
            .blocking(short, "test", |_, _| Ok(()))
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Throttled, "threads are bounded");
        release.send(()).unwrap();
        drop(posix.locks.lock("k", Duration::from_secs(5)).await.unwrap());
        let seen = seen.lock().unwrap().take().unwrap();
        assert_eq!(
            seen.unwrap_err().kind,
            UfsErrorKind::Timeout,
            "it would not publish"
        );
    }

    #[tokio::test]
    async fn a_change_that_was_given_up_counts_until_it_ends() {
        let standing = Standing::new(NodeId::new("n1").unwrap(), || Duration::ZERO);
        let posix = posix_of(UfsConfig::default(), Some(Arc::clone(&standing)));
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let call = posix.changing(Duration::from_millis(30), "test", move |_, _| {
            // Ends when the test lets it.
            let _ = stuck.recv();
            Ok(())
        });
        assert_eq!(call.await.unwrap_err().kind, UfsErrorKind::Timeout);
        assert_eq!(standing.stragglers(), 1);
        release.send(()).unwrap();
        let ended = async {
            while standing.stragglers() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), ended).await.unwrap();
    }

    #[test]
    fn calls_that_open_a_directory_at_once_stage_in_one_folder() {
        let home = tempfile::tempdir().unwrap();
        let mut posix = posix(UfsConfig::default());
        Arc::get_mut(&mut posix.core).unwrap().path = home.path().into();
        let core = &posix.core;
        // Both have found nothing open, and opened it.
        let [first, second] = [(); 2].map(|()| Arc::new(Root::open(home.path()).unwrap()));
        let root = core.keep_open(first);
        let staging = core.staging(&root).unwrap();
        let other = core.keep_open(second);
        assert!(Arc::ptr_eq(&root, &other), "one root");
        assert!(Arc::ptr_eq(&staging, &core.staging(&other).unwrap()));
        // Another directory in its place is not that one.
        let moved = home.path().with_extension("moved");
        std::fs::rename(home.path(), &moved).unwrap();
        std::fs::create_dir(home.path()).unwrap();
        let anew = core.root().unwrap();
        assert!(!Arc::ptr_eq(&root, &anew));
        assert!(!Arc::ptr_eq(&staging, &core.staging(&anew).unwrap()));
        std::fs::remove_dir_all(moved).unwrap();
    }

    #[test]
    fn modification_times_rise() {
        let posix = posix(UfsConfig::default());
        let times: Vec<i64> = (0..1_000).map(|_| posix.core.next_modified_ns()).collect();
        assert!(times.is_sorted_by(|a, b| a < b));
    }
}
