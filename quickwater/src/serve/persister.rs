//! The thread that tells the UFSs what they do not have yet, and the runtime its
//! calls of UFS and metadata run on: beside the shards and below them in priority,
//! so that no request waits for what nobody waits for. Absent: the order and the
//! retries, which are the engine's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quickwater_engine::{Engine, Shared};
use quickwater_ufs::UfsClient;
use quickwater_worker::buffers::Pool;
use quickwater_worker::environment::ShardEnvironment;
use quickwater_worker::peer::EnginePeers;
use quickwater_worker::runtime::{self, RuntimeConfig, Shards, Stop, lower_priority};
use quickwater_worker::store::Store;
use tokio::runtime::{Builder, Runtime};

use super::names::Names;
use super::shard::Local;

/// Threads for its UFS and metadata calls; calls of POSIX UFSs have their own.
const CALL_THREADS: usize = 2;
/// Blocking calls of POSIX UFSs at a time; each mount has its own limit below.
const BLOCKING_THREADS_MAX: usize = 512;

/// What it works with.
pub(super) struct Parts<M> {
    pub(super) runtime: RuntimeConfig,
    /// Of all its threads.
    pub(super) nice: u8,
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) ufs: UfsClient,
    pub(super) metadata: M,
    pub(super) pool: Pool,
    /// When the shards' monotonic clock was zero.
    pub(super) start: Instant,
}

/// The running persister.
pub(super) struct Persister {
    thread: Shards,
    calls: Runtime,
    stop: Stop,
}

impl Persister {
    /// Starts it.
    ///
    /// # Errors
    /// No thread or ring could be made.
    pub(super) fn start<M: Names>(parts: Parts<M>) -> Result<Self> {
        let nice = parts.nice;
        let calls = Builder::new_multi_thread()
            .worker_threads(CALL_THREADS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("persist-call")
            .on_thread_start(move || lower_priority(nice))
            .enable_all()
            .build()
            .context("cannot start the threads for uploads")?;
        let config = RuntimeConfig {
            pin: false,
            name: "persist",
            nice,
            ..parts.runtime
        };
        let handle = calls.handle().clone();
        let metadata = parts.metadata.on(handle.clone());
        let ufs = parts.ufs.on(handle);
        let stop = Stop::new();
        let asked = stop.clone();
        let main = move |_| async move {
            let engine = Engine::<Local<M>>::new(
                parts.shared,
                parts.store.reader(parts.pool),
                ufs,
                metadata,
                ShardEnvironment::new(parts.start),
                // It sees to keys of its own only.
                EnginePeers::default(),
            );
            tokio::select! {
                () = asked.requested() => {}
                () = engine.run_persister(|| asked.is_requested()) => {}
            }
        };
        let thread = runtime::start(&config, vec![main]).context("cannot start the persister")?;
        Ok(Self {
            thread,
            calls,
            stop,
        })
    }

    /// Ends it, after those who may wait for what it sends; at most `timeout`. What it was
    /// at is done again after the next start. `false`: it had to be left.
    pub(super) fn end(self, timeout: Duration) -> bool {
        self.stop.request();
        let missing = self.thread.join(timeout);
        if !missing.is_empty() {
            tracing::error!("the persister did not end in time");
        }
        self.calls.shutdown_timeout(timeout);
        missing.is_empty()
    }
}
