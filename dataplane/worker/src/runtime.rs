//! Shards: one thread each, with its own monoio runtime. Absent: what they do.

use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::CpuSet;

mod driver;
mod stop;

pub use driver::{Driver, DriverChoice, probe};
pub use stop::Stop;

use driver::{choose, epoll_runtime, uring_runtime};

/// How to start shards.
#[derive(Debug, Clone, Copy)]
pub struct RuntimeConfig {
    /// Which driver.
    pub driver: DriverChoice,
    /// Bind shard `i` to the `i`-th CPU this process may use (wrapping).
    pub pin: bool,
    /// What the threads are called, before their number.
    pub name: &'static str,
    /// How far below the process they run: 0 to 19, see `nice(2)`.
    pub nice: u8,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            driver: DriverChoice::default(),
            pin: false,
            name: "shard",
            nice: 0,
        }
    }
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
    let (driver, warning) = choose(config.driver, mains.len())?;
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
        let nice = config.nice;
        let body = move || {
            lower_priority(nice);
            run(info, cpu, &ready, &barrier, main);
            // Fails only when nobody waits for the end.
            let _ = ended.send(index);
        };
        let thread = std::thread::Builder::new()
            .name(format!("{}-{index}", config.name))
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
    changed: Condvar,
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

/// Lowers the priority of the calling thread (of it alone: Linux has priorities per
/// thread) by `nice` steps.
pub fn lower_priority(nice: u8) {
    if nice > 0
        && let Err(error) = rustix::process::nice(nice.into())
    {
        tracing::warn!(%error, nice, "cannot lower the priority of a background thread");
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(%error, cpu, "cannot pin a shard to its CPU");
    }
}
