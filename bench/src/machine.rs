//! The machine the client runs on, and the client's own place and cost there.

use std::fs::read_to_string;
use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::model::Machine;

/// Describes this machine; what cannot be read is left empty.
pub(crate) fn describe(client_cpus: &[u32]) -> Machine {
    let line = |path: &str| read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = line("/proc/cpuinfo");
    let memory = field(&line("/proc/meminfo"), "MemTotal")
        .and_then(|kib| kib.split(' ').next().and_then(|n| n.parse::<u64>().ok()));
    Machine {
        host: line("/proc/sys/kernel/hostname"),
        kernel: line("/proc/sys/kernel/osrelease"),
        cpu: field(&cpuinfo, "model name").unwrap_or_default(),
        cpus: cpuinfo
            .lines()
            .filter(|l| l.starts_with("processor"))
            .count() as u32,
        memory_bytes: memory.unwrap_or(0) * 1024,
        client_cpus: client_cpus.to_vec(),
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Binds the calling thread to its CPU of the list, in turns; nothing without a
/// list.
pub(crate) fn bind(cpus: &[u32], thread: u32) -> io::Result<()> {
    let Some(cpu) = cpus.get(thread as usize % cpus.len().max(1)) else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    if (*cpu as usize) < CpuSet::MAX_CPU {
        set.set(*cpu as usize);
    }
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("binding to CPU {cpu}: {error}")))
}

/// CPU time of this process, seconds.
pub(crate) fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
