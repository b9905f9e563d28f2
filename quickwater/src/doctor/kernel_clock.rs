//! Whether the kernel's clock is kept in step, by adjtimex(2). The only `unsafe` of the crate.
#![expect(unsafe_code, reason = "a system call that no crate has a function for")]

use std::time::Duration;

/// `TIME_ERROR`: not synchronized, or a disagreement of the kernel with itself.
const TIME_ERROR: i32 = 5;

/// What the kernel says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Discipline {
    /// Somebody (chrony, systemd-timesyncd, the hypervisor's agent) keeps it in step.
    pub(super) synchronized: bool,
    /// How wrong it is estimated to be.
    pub(super) estimated_error: Duration,
    /// How wrong it may be at most.
    pub(super) largest_error: Duration,
}

/// Asks the kernel; `None`: it does not say.
pub(super) fn discipline() -> Option<Discipline> {
    // SAFETY: all fields are integers, for which zeros are values; no mode is set, so
    // nothing is changed.
    let mut told: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `told` is a timex of ours that lives until the call returns.
    let state = unsafe { libc::adjtimex(&raw mut told) };
    let micros = |count: libc::c_long| Duration::from_micros(u64::try_from(count).unwrap_or(0));
    (state >= 0).then(|| Discipline {
        synchronized: state != TIME_ERROR && told.status & libc::STA_UNSYNC == 0,
        estimated_error: micros(told.esterror),
        largest_error: micros(told.maxerror),
    })
}
