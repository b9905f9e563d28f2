//! Shards: one thread each, with its own monoio runtime. Absent: what they do.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use io_uring_06::IoUring;
use monoio::blocking::BlockingStrategy;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use rustix::thread::CpuSet;

/// Submission entries of a shard's ring.
const RING_ENTRIES: u32 = 1024;
/// Entries of a ring made only to see whether the kernel allows it.
const PROBE_ENTRIES: u32 = 4;

/// Which way of doing IO the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// io_uring if the kernel lets us, else epoll with a warning.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll, even where io_uring works.
    Epoll,
}

/// Which way of doing IO a shard uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1).
    UringDeferred,
    /// io_uring without them.
    Uring,
    /// epoll; file IO blocks the shard.
    Epoll,
}

/// How to start shards.
#[derive(Debug, Clone, Copy, Default)]
pub struct RuntimeConfig {
    /// Which driver.
    pub driver: DriverChoice,
    /// Bind shard `i` to the `i`-th CPU this process may use (wrapping).
    pub pin: bool,
}

/// Why shards could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `DriverChoice::Uring` was asked for and io_uring does not work.
    #[error("io_uring is not available: {0}")]
    NoUring(String),
    /// A thread, ring or epoll instance could not be made.
    #[error("shard {shard}: {source}")]
    Shard {
        /// Which shard.
        shard: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Given to a shard's main function.
#[derive(Debug, Clone, Copy)]
pub struct ShardInfo {
    /// Which shard, from 0.
    pub index: usize,
    /// How it does IO.
    pub driver: Driver,
}

/// Running shards.
#[derive(Debug)]
pub struct Shards {
    /// How they do IO.
    pub driver: Driver,
    /// What the operator should know about the driver; logged already.
    pub warning: Option<String>,
    threads: Vec<JoinHandle<()>>,
    ended: Receiver<usize>,
}

/// Starts one shard per function in `mains` and returns when all run. A shard
/// ends when its main future does; tasks still running on it are dropped then.
///
/// # Errors
/// No shard keeps running.
pub fn start<M, F>(config: &RuntimeConfig, mains: Vec<M>) -> Result<Shards, StartError>
where
    M: FnOnce(ShardInfo) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let (driver, warning) = choose(config.driver)?;
    if let Some(warning) = &warning {
        tracing::warn!("{warning}");
    }
    let cpus = allowed_cpus(config.pin);
    let gate = Arc::new(Gate::default());
    let (ready_sender, ready) = channel();
    let (ended_sender, ended) = channel();
    let mut threads = Vec::with_capacity(mains.len());
    for (index, main) in mains.into_iter().enumerate() {
        let info = ShardInfo { index, driver };
        let cpu = (!cpus.is_empty()).then(|| cpus[index % cpus.len()]);
        let (ready, ended) = (ready_sender.clone(), ended_sender.clone());
        let barrier = Arc::clone(&gate);
        let body = move || {
            run(info, cpu, &ready, &barrier, main);
            // Fails only when nobody waits for the end.
            let _ = ended.send(index);
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(body)
            .map_err(|source| StartError::Shard {
                shard: index,
                source,
            });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                gate.open(false);
                return Err(error);
            }
        }
    }
    drop(ready_sender);
    await_ready(&ready, threads.len()).inspect_err(|_| gate.open(false))?;
    gate.open(true);
    Ok(Shards {
        driver,
        warning,
        threads,
        ended,
    })
}

impl Shards {
    /// Waits until every shard has ended, at most `timeout`; the numbers of those
    /// that have not (their threads are left alone).
    #[must_use]
    pub fn join(self, timeout: Duration) -> Vec<usize> {
        let until = Instant::now() + timeout;
        let mut missing: Vec<usize> = (0..self.threads.len()).collect();
        while !missing.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            match self.ended.recv_timeout(left) {
                Ok(index) => missing.retain(|&other| other != index),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        for (index, thread) in self.threads.into_iter().enumerate() {
            // A panic would have aborted the process.
            if !missing.contains(&index) && thread.join().is_err() {
                tracing::error!(index, "a shard panicked");
            }
        }
        missing
    }
}

fn await_ready(ready: &Receiver<Result<(), StartError>>, shards: usize) -> Result<(), StartError> {
    for _ in 0..shards {
        match ready.recv() {
            Ok(result) => result?,
            Err(_) => break,
        }
    }
    Ok(())
}

/// Holds shards back until all have their rings.
#[derive(Debug, Default)]
struct Gate {
    go: Mutex<Option<bool>>,
    changed: std::sync::Condvar,
}

impl Gate {
    fn open(&self, go: bool) {
        *self.go.lock().unwrap_or_else(PoisonError::into_inner) = Some(go);
        self.changed.notify_all();
    }

    fn pass(&self) -> bool {
        let mut go = self.go.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *go {
                Some(go) => return go,
                None => {
                    go = self
                        .changed
                        .wait(go)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

/// The life of a shard's thread.
fn run<M, F>(
    info: ShardInfo,
    cpu: Option<usize>,
    ready: &std::sync::mpsc::Sender<Result<(), StartError>>,
    gate: &Gate,
    main: M,
) where
    M: FnOnce(ShardInfo) -> F,
    F: Future<Output = ()> + 'static,
{
    if let Some(cpu) = cpu {
        pin(cpu);
    }
    let outcome = match info.driver {
        Driver::Epoll => epoll_runtime().map(|mut runtime| {
            let _ = ready.send(Ok(()));
            if gate.pass() {
                runtime.block_on(main(info));
            }
        }),
        Driver::Uring | Driver::UringDeferred => uring_runtime(info.driver).map(|mut runtime| {
            let _ = ready.send(Ok(()));
            if gate.pass() {
                runtime.block_on(main(info));
            }
        }),
    };
    if let Err(source) = outcome {
        let shard = info.index;
        let _ = ready.send(Err(StartError::Shard { shard, source }));
    }
}

type Timed<D> = monoio::Runtime<monoio::time::TimeDriver<D>>;

fn epoll_runtime() -> io::Result<Timed<LegacyDriver>> {
    RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .with_blocking_strategy(BlockingStrategy::ExecuteLocal)
        .build()
}

/// Built on the thread that runs it: SINGLE_ISSUER binds the ring to it.
fn uring_runtime(driver: Driver) -> io::Result<Timed<IoUringDriver>> {
    let builder = ring_builder(driver == Driver::UringDeferred);
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(builder)
        .enable_timer()
        .with_blocking_strategy(BlockingStrategy::ExecuteLocal)
        .build()
}

fn ring_builder(deferred: bool) -> io_uring_06::Builder {
    let mut builder = IoUring::builder();
    if deferred {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    builder
}

/// Tries the drivers in order of preference; a text if the operator should know.
fn choose(choice: DriverChoice) -> Result<(Driver, Option<String>), StartError> {
    if choice == DriverChoice::Epoll {
        let warning = "epoll is used instead of io_uring because the configuration says so: \
                       disk reads and writes block their shard";
        return Ok((Driver::Epoll, Some(warning.to_owned())));
    }
    match probe() {
        Ok(driver) => Ok((driver, None)),
        Err(why) if choice == DriverChoice::Uring => Err(StartError::NoUring(why)),
        Err(why) => {
            let warning = format!(
                "io_uring is not available ({why}); falling back to epoll: slower, and disk \
                 reads and writes block their shard. In a container allow io_uring_setup, \
                 io_uring_enter and io_uring_register in the seccomp profile; on the host \
                 check the sysctl kernel.io_uring_disabled"
            );
            Ok((Driver::Epoll, Some(warning)))
        }
    }
}

/// Which kind of ring the kernel gives us.
///
/// # Errors
/// None, and why.
pub fn probe() -> Result<Driver, String> {
    // On a thread of its own: tearing a ring down interrupts the system calls of
    // the thread that made it.
    match std::thread::Builder::new()
        .spawn(probe_here)
        .map(JoinHandle::join)
    {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("the probe panicked".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn probe_here() -> Result<Driver, String> {
    let driver = match ring_builder(true).build(PROBE_ENTRIES) {
        Ok(_) => Driver::UringDeferred,
        // EINVAL: a kernel before 6.1 does not know the flags.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            match ring_builder(false).build(PROBE_ENTRIES) {
                Ok(_) => Driver::Uring,
                Err(error) => return Err(explain(&error)),
            }
        }
        Err(error) => return Err(explain(&error)),
    };
    if monoio::utils::detect_uring() {
        Ok(driver)
    } else {
        Err("the kernel lacks operations that are needed".to_owned())
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring, or a seccomp profile hides it".into(),
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp profile or kernel.io_uring_disabled forbids it".into()
        }
        Some(libc::ENOMEM) => "not enough lockable memory (RLIMIT_MEMLOCK)".into(),
        _ => error.to_string(),
    }
}

fn allowed_cpus(pin: bool) -> Vec<usize> {
    if !pin {
        return Vec::new();
    }
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot read the CPU affinity: shards are not pinned");
            Vec::new()
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(%error, cpu, "cannot pin a shard to its CPU");
    }
}

/// Asks shards to stop, from any thread. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    inner: Arc<StopInner>,
}

#[derive(Debug, Default)]
struct StopInner {
    requested: AtomicBool,
    /// One per task that waits, so a few per shard.
    wakers: Mutex<Vec<Waker>>,
}

impl Stop {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Stop::default()
    }

    /// Requests it; a second time changes nothing.
    pub fn request(&self) {
        let mut wakers = self.wakers();
        self.inner.requested.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *wakers);
        drop(wakers);
        for waker in waiting {
            waker.wake();
        }
    }

    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Waits until it is requested: the one wait without a deadline.
    pub async fn requested(&self) {
        std::future::poll_fn(|context| {
            let mut wakers = self.wakers();
            if self.is_requested() {
                return Poll::Ready(());
            }
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.inner
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
