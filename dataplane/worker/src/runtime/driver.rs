//! Which IO driver a shard runs on: io_uring if the kernel lets us, else epoll.
//! Absent: threads.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use io_uring_06::IoUring;
use monoio::blocking::BlockingStrategy;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::StartError;

/// Submission entries of a shard's ring.
const RING_ENTRIES: u32 = 1024;
/// How long rings that were made to see whether they fit may take to give back the
/// memory they lock: the kernel frees a ring some time after its last file is closed.
const TEARDOWN_WAIT: Duration = Duration::from_secs(2);
/// Pause between two looks whether it has.
const TEARDOWN_PAUSE: Duration = Duration::from_millis(10);

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

type Timed<D> = monoio::Runtime<monoio::time::TimeDriver<D>>;

pub(super) fn epoll_runtime() -> io::Result<Timed<LegacyDriver>> {
    RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .with_blocking_strategy(BlockingStrategy::ExecuteLocal)
        .build()
}

/// Built on the thread that runs it: SINGLE_ISSUER binds the ring to it.
pub(super) fn uring_runtime(driver: Driver) -> io::Result<Timed<IoUringDriver>> {
    let end = Instant::now() + TEARDOWN_WAIT;
    loop {
        match build_uring_runtime(driver) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < end => {
                std::thread::sleep(TEARDOWN_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn build_uring_runtime(driver: Driver) -> io::Result<Timed<IoUringDriver>> {
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

/// Tries the drivers in order of preference for so many shards; a text if the operator
/// should know.
pub(super) fn choose(
    choice: DriverChoice,
    shards: usize,
) -> Result<(Driver, Option<String>), StartError> {
    if choice == DriverChoice::Epoll {
        let warning = "epoll is used instead of io_uring because the configuration says so: \
                       disk reads and writes block their shard";
        return Ok((Driver::Epoll, Some(warning.to_owned())));
    }
    match probe(shards) {
        Ok(driver) => Ok((driver, None)),
        Err(why) if choice == DriverChoice::Uring => Err(StartError::NoUring(why)),
        Err(why) => {
            let warning = format!(
                "io_uring is not available ({why}); falling back to epoll: slower, and disk \
                 reads and writes block their shard. In a container allow io_uring_setup, \
                 io_uring_enter and io_uring_register in the seccomp profile; on the host \
                 check the sysctl kernel.io_uring_disabled, and LimitMEMLOCK= of the unit or \
                 container runtime"
            );
            Ok((Driver::Epoll, Some(warning)))
        }
    }
}

/// Which kind of ring the kernel gives us, one for each of so many shards.
///
/// # Errors
/// None, and why.
pub fn probe(shards: usize) -> Result<Driver, String> {
    // On a thread of its own: tearing a ring down interrupts the system calls of
    // the thread that made it.
    match std::thread::Builder::new()
        .spawn(move || probe_here(shards))
        .map(JoinHandle::join)
    {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("the probe panicked".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn probe_here(shards: usize) -> Result<Driver, String> {
    let driver = match rings(true, shards) {
        Ok(()) => Driver::UringDeferred,
        // EINVAL: a kernel before 6.1 does not know the flags.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match rings(false, shards) {
            Ok(()) => Driver::Uring,
            Err(error) => return Err(explain(&error, shards)),
        },
        Err(error) => return Err(explain(&error, shards)),
    };
    if monoio::utils::detect_uring() {
        Ok(driver)
    } else {
        Err("the kernel lacks operations that are needed".to_owned())
    }
}

/// Makes the rings of all shards at once, as they will be: what they lock is charged to
/// the user, whose limit (`RLIMIT_MEMLOCK`) a small ring or a single one does not show.
fn rings(deferred: bool, shards: usize) -> io::Result<()> {
    let made: io::Result<Vec<IoUring>> = (0..shards.max(1))
        .map(|_| ring_builder(deferred).build(RING_ENTRIES))
        .collect();
    made.map(drop)
}

fn explain(error: &io::Error, shards: usize) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring, or a seccomp profile hides it".into(),
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp profile or kernel.io_uring_disabled forbids it".into()
        }
        Some(libc::ENOMEM) => format!(
            "{shards} rings need more lockable memory than RLIMIT_MEMLOCK leaves this user, some 100 KiB each"
        ),
        _ => error.to_string(),
    }
}
