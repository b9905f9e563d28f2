//! The clock: is it set, is it kept in step, and does it agree with those that judge our
//! requests by theirs: the S3 stores and the control plane.

use std::time::{Duration, SystemTime};

use quickwater_s3::date::parse_http_date;
use quickwater_ufs::StoreClock;

use super::kernel_clock::{Discipline, discipline};
use super::{Check, Verdict};
use crate::date;

/// A wall clock before this (2026-01-01) was never set.
const CLOCK_LEAST: Duration = Duration::from_secs(1_767_225_600);
/// A wall clock after this (2100-01-01) is set wrong.
const CLOCK_MOST: Duration = Duration::from_secs(4_102_444_800);
/// Clocks that are kept in step are never so far apart.
const APART_WARN: Duration = Duration::from_secs(5);
/// A third of what S3 allows, and more than a minute, beyond which a control plane takes no
/// changes of a worker.
const APART_FAIL: Duration = Duration::from_secs(300);
/// The same for a control plane.
const APART_FAIL_CONTROL: Duration = Duration::from_secs(45);
/// A `Date` tells whole seconds.
const DATE_STEP: Duration = Duration::from_secs(1);
const SET: &str = "set the clock and keep it in step (chrony, systemd-timesyncd): requests are refused when client and server differ by more than 15 minutes";

/// This machine's clock by itself.
pub(super) fn own() -> Check {
    judge(SystemTime::now(), discipline())
}

pub(super) fn judge(now: SystemTime, kernel: Option<Discipline>) -> Check {
    let Ok(since) = now.duration_since(SystemTime::UNIX_EPOCH) else {
        return Check::fail("clock", "before 1970", SET);
    };
    let found = date::readable(now);
    if since < CLOCK_LEAST || since > CLOCK_MOST {
        return Check::fail("clock", found, SET);
    }
    let kept = match kernel {
        None => "the kernel does not say whether it is kept in step".to_owned(),
        Some(kernel) if kernel.synchronized => format!(
            "kept in step, estimated error {:.1?}, {:.1?} at most",
            kernel.estimated_error, kernel.largest_error
        ),
        // Who else keeps it (a hypervisor, say) is not known to the kernel: what counts is
        // whether it agrees with others.
        Some(_) => {
            "the kernel knows of nobody who keeps it in step (adjtimex: unsynchronized)".into()
        }
    };
    Check::ok("clock", format!("{found}; {kept}"))
}

/// Beside the clock of an S3 store.
pub(super) fn beside_store(label: &str, told: &StoreClock) -> Check {
    beside(
        "clock of the UFS",
        label,
        told.date,
        told.at,
        told.took,
        APART_FAIL,
    )
}

/// Beside that of the control plane: what it said, at `at` by our clock, `took` after it was
/// asked. `None`: that is no date.
pub(super) fn beside_control(
    address: &str,
    date: &str,
    at: SystemTime,
    took: Duration,
) -> Option<Check> {
    let name = "clock of the control plane";
    let date = http_date(date)?;
    Some(beside(name, address, date, at, took, APART_FAIL_CONTROL))
}

fn http_date(text: &str) -> Option<SystemTime> {
    let ms = u64::try_from(parse_http_date(text)?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))
}

/// `date`: what the other one said, at `at` by our clock, `took` after it was asked.
pub(super) fn beside(
    name: &str,
    label: &str,
    date: SystemTime,
    at: SystemTime,
    took: Duration,
    fail: Duration,
) -> Check {
    let (apart, word) = match at.duration_since(date) {
        Ok(apart) => (apart, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    // What is certain of it: the answer was on its way, and begun seconds are not told.
    let certain = apart.saturating_sub(took + DATE_STEP);
    let verdict = match certain {
        _ if certain > fail => Verdict::Fail,
        _ if certain > APART_WARN => Verdict::Warn,
        _ => return Check::ok(name, format!("{label}: the same as here, to a few seconds")),
    };
    let found = format!(
        "this machine's clock is {} s {word} that of {label}",
        apart.as_secs()
    );
    Check::new(
        name,
        verdict,
        found,
        "set the clock that is wrong and keep both in step (chrony, systemd-timesyncd): an S3 store refuses requests that are 15 minutes off (RequestTimeTooSkewed), and a control plane takes no changes of a worker that is a minute off",
    )
}
