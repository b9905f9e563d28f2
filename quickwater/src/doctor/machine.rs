//! Kernel, io_uring, limits and memory.

use quickwater_worker::runtime::{Driver, probe};
use rustix::process::{Resource, getrlimit};

use super::clock;
use super::privileges::status_field;
use super::service::Role;
use super::{Check, Verdict};
use crate::settings::{IoDriver, Settings};

/// First kernel with SINGLE_ISSUER and DEFER_TASKRUN together.
const KERNEL_WANTED: (u32, u32) = (6, 1);
/// First kernel the epoll driver and O_DIRECT paths are meant for.
const KERNEL_LEAST: (u32, u32) = (5, 10);
/// Entries of the ring we try; the smallest that is useful.
const RING_ENTRIES: u32 = 8;
/// Descriptors besides connections: segments, metadata, UFS.
const OTHER_FILES: u64 = 1024;

pub(super) fn checks(settings: &Settings, role: Role, is_running: bool) -> Vec<Check> {
    let mut checks = vec![kernel()];
    checks.extend(rings(settings, role, is_running));
    checks.extend([
        files(settings.s3.connections_max as u64),
        memory(settings.memory_bytes),
        clock::own(),
    ]);
    checks
}

fn kernel() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let Some(version) = version_of(&release) else {
        return Check::warn(
            "kernel",
            release,
            "the version cannot be read; Linux 6.1 or later is best",
        );
    };
    if version < KERNEL_LEAST {
        return Check::fail(
            "kernel",
            release,
            "use Linux 5.10 or later; 6.1 or later is best",
        );
    }
    if version < KERNEL_WANTED {
        return Check::warn(
            "kernel",
            release,
            "Linux 6.1 or later has the faster io_uring modes",
        );
    }
    Check::ok("kernel", release)
}

/// Major and minor of a kernel release.
pub(super) fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes the rings that the service makes, all at once: a single one does not show the
/// limit of locked memory, which counts them over all processes of the user.
fn rings(settings: &Settings, role: Role, is_running: bool) -> Vec<Check> {
    if role == Role::Control {
        return vec![Check::ok("io_uring", "a control plane uses none")];
    }
    if settings.io_driver == IoDriver::Epoll {
        return vec![Check::ok("io_uring", "not used (io.driver = epoll)")];
    }
    // One for each shard, and that of the persister.
    let count = settings.store.threads + 1;
    let limit = getrlimit(Resource::Memlock).current;
    match probe(count) {
        Ok(driver) => {
            let found = format!("{}, enough for {count} rings", limit_text(limit));
            vec![uring(driver), Check::ok("locked memory", found)]
        }
        Err(why) => {
            let single = io_uring_06::IoUring::new(RING_ENTRIES).err();
            let single = single.and_then(|error| error.raw_os_error());
            let forced = settings.io_driver == IoDriver::Uring;
            no_rings(&why, (limit, single), forced, is_running)
        }
    }
}

fn uring(driver: Driver) -> Check {
    match driver {
        Driver::UringDeferred => {
            Check::ok("io_uring", "available with SINGLE_ISSUER and DEFER_TASKRUN")
        }
        Driver::Uring | Driver::Epoll => Check::warn(
            "io_uring",
            "available, without DEFER_TASKRUN",
            "Linux 6.1 or later has it",
        ),
    }
}

/// `limit` of locked memory, bytes; `single`: the error number of one small ring, none:
/// it was made.
pub(super) fn no_rings(
    why: &str,
    (limit, single): (Option<u64>, Option<i32>),
    forced: bool,
    is_running: bool,
) -> Vec<Check> {
    let verdict = match forced {
        true => Verdict::Fail,
        false => Verdict::Warn,
    };
    let lacks_memory = match single {
        Some(errno) => errno == rustix::io::Errno::NOMEM.raw_os_error(),
        None => limit.is_some(),
    };
    if !lacks_memory {
        let found = format!("refused: {why}{}", refusal_hints());
        let advice = "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile (container runtimes block them by default), and set sysctl kernel.io_uring_disabled=0; until then the slower epoll driver is used";
        let limit = Check::ok("locked memory", limit_text(limit));
        return vec![Check::new("io_uring", verdict, found, advice), limit];
    }
    let beside = match is_running {
        true => " (beside those of the running service)",
        false => "",
    };
    let advice = "raise it to 8 MiB or more (LimitMEMLOCK= of the unit or of the container runtime's unit, `ulimit -l`): it is counted over all processes of the user; until then the slower epoll driver is used";
    vec![
        Check::new("io_uring", verdict, format!("{why}{beside}"), advice),
        Check::new("locked memory", verdict, limit_text(limit), advice),
    ]
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |bytes| {
        format!("{} KiB", bytes >> 10)
    })
}

/// What the system says about why a ring is refused.
fn refusal_hints() -> String {
    let mut hints = String::new();
    if let Ok(value) = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        hints.push_str(&format!("; kernel.io_uring_disabled = {}", value.trim()));
    }
    if let Some(mode) = status_field("Seccomp") {
        let word = match mode.as_str() {
            "0" => "off",
            "1" => "strict",
            _ => "filtering",
        };
        hints.push_str(&format!("; seccomp is {word}"));
    }
    hints
}

fn files(connections_max: u64) -> Check {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections_max + OTHER_FILES;
    // The service raises its soft limit to the hard one.
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let found = format!("up to {hard} open files, {wanted} wanted");
    if hard < wanted {
        return Check::fail(
            "open files",
            found,
            "raise the hard limit (LimitNOFILE= of the unit, `ulimit -Hn`), or lower s3.max_connections",
        );
    }
    Check::ok("open files", found)
}

fn memory(budget: u64) -> Check {
    let total = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
    let limits = [total.map(|kib| kib << 10), cgroup_limit()];
    let Some(limit) = limits.into_iter().flatten().min() else {
        return Check::warn(
            "memory",
            "the size of memory cannot be read",
            "is /proc mounted?",
        );
    };
    let found = format!("{} MiB planned of {} MiB", budget >> 20, limit >> 20);
    // The budget is kept within 10 %; the rest of the machine needs some as well.
    if budget.saturating_add(budget / 10) > limit {
        return Check::fail("memory", found, "lower `memory` or raise the memory limit");
    }
    Check::ok("memory", found)
}

/// Memory limit of our cgroup (v2, then v1), if it has one.
fn cgroup_limit() -> Option<u64> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    files.into_iter().find_map(read)
}
