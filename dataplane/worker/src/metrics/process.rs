//! The process as the kernel sees it, from /proc.

use super::{Metric, Samples};

/// Fields of `/proc/self/stat` after the command name: utime, stime, threads
/// (proc_pid_stat(5), fields 14, 15 and 20).
const UTIME: usize = 14 - 3;
const STIME: usize = 15 - 3;
const THREADS: usize = 20 - 3;

/// What cannot be read is left out.
pub(super) fn read(samples: &mut Samples) {
    samples.count(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1);
    if let Ok(text) = std::fs::read_to_string("/proc/self/statm")
        && let Some(pages) = text.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok())
    {
        let bytes = pages * rustix::param::page_size() as u64;
        samples.count(Metric::ProcessResidentBytes, &[], bytes);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        samples.count(Metric::ProcessOpenFds, &[], entries.count() as u64);
    }
    if let Ok(text) = std::fs::read_to_string("/proc/self/stat") {
        read_stat(&text, samples);
    }
}

fn read_stat(text: &str, samples: &mut Samples) {
    // The command name may hold spaces and parentheses.
    let Some((_, rest)) = text.rsplit_once(") ") else {
        return;
    };
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
    if let (Some(user), Some(system)) = (number(UTIME), number(STIME)) {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let seconds = (user + system) as f64 / ticks;
        samples.number(Metric::ProcessCpuSeconds, &[], seconds);
    }
    if let Some(threads) = number(THREADS) {
        samples.count(Metric::ProcessThreads, &[], threads);
    }
}
