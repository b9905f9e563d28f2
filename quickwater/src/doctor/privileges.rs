//! What the kernel lets this process do: the seccomp filter, eBPF.

use std::path::PathBuf;

use quickwater_ebpf::Forwarding;

use super::Check;
use crate::settings::Settings;

/// Bits of `CapEff` in `/proc/self/status` (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

pub(super) fn checks(settings: &Settings, is_running: bool) -> Vec<Check> {
    let uring = io_uring_06::IoUring::new(1).err();
    vec![
        seccomp(
            status_field("Seccomp").as_deref(),
            uring.and_then(|error| error.raw_os_error()),
        ),
        ebpf(
            status_field("CapEff").as_deref(),
            quickwater_ebpf::is_built(),
        ),
    ]
    .into_iter()
    .chain(left_behind(settings, is_running))
    .collect()
}

/// What a worker left in the kernel that hands connections over, and nobody uses, or is used and
/// hangs on nothing.
pub(super) fn left_behind(settings: &Settings, is_running: bool) -> Option<Check> {
    let name = "ebpf.handoff";
    let root = settings.ebpf.pins.as_deref()?;
    let found = Forwarding::left_behind(root, settings.s3.listen.port());
    // Who may not look has left nothing there.
    let mut found = found.ok()?;
    let on_no_device = |pins: &PathBuf| {
        let used = Forwarding::is_used(pins).unwrap_or(false);
        used && Forwarding::hangs(pins).is_ok_and(|hangs| !hangs)
    };
    if let Some(pins) = found.iter().find(|pins| on_no_device(pins)) {
        return Some(Check::warn(
            name,
            format!("the program of {} is on no device", pins.display()),
            "somebody took it off, or the device is gone: the worker attaches it again within \
             five seconds, or `quickwater status` says why not",
        ));
    }
    found.retain(|pins| Forwarding::is_used(pins).is_ok_and(|used| !used));
    let pins = found.first()?.display();
    Some(match (settings.ebpf.handoff, is_running) {
        (true, false) => Check::ok(
            name,
            format!("{pins} sends connections on until the next start"),
        ),
        _ => Check::warn(
            name,
            format!("{pins} is in the kernel, and no worker uses it"),
            "a start with ebpf.handoff off takes it away, and so does rm -r of that directory: \
             connections that it sends on break",
        ),
    })
}

/// A line of `/proc/self/status`.
pub(super) fn status_field(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// `mode` as in proc_pid_status(5); `refused`: the error number of a ring.
pub(super) fn seccomp(mode: Option<&str>, refused: Option<i32>) -> Check {
    let name = "seccomp";
    let is_refusal = [rustix::io::Errno::PERM, rustix::io::Errno::NOSYS]
        .iter()
        .any(|errno| Some(errno.raw_os_error()) == refused);
    match (mode, is_refusal) {
        (Some("0"), _) => Check::ok(name, "off"),
        (Some(_), false) => Check::ok(name, "a filter is set; io_uring passes it"),
        (Some(_), true) => Check::warn(
            name,
            "a filter is set, and io_uring is refused",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the profile (Docker: --security-opt seccomp=FILE, Kubernetes: securityContext.seccompProfile of type Localhost)",
        ),
        (None, _) => Check::ok(name, "the kernel does not tell"),
    }
}

/// Everything works without: what is there is told, and no more.
pub(super) fn ebpf(effective: Option<&str>, is_built: bool) -> Check {
    let bits = effective.and_then(|text| u64::from_str_radix(text, 16).ok());
    let bits = bits.unwrap_or(0);
    let has = |bit: u32| bits >> bit & 1 == 1;
    let may = match (has(CAP_SYS_ADMIN), has(CAP_BPF), has(CAP_PERFMON)) {
        (true, ..) | (_, true, true) => "may be loaded",
        (_, true, false) => "may not be loaded (no CAP_PERFMON)",
        (_, false, _) => "may not be loaded (no CAP_BPF)",
    };
    let built = if is_built {
        "programs are built in"
    } else {
        "not built (this binary has no programs)"
    };
    Check::ok("eBPF", format!("{built}; they {may}"))
}
