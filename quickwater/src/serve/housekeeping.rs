//! Sweeps abandoned uploads again and again and says what came of it. Absent: what
//! counts as abandoned (the engine's `sweep`).

use std::time::Duration;

use quickwater_engine::io::Environment as _;
use quickwater_engine::{Engine, Swept};
use quickwater_worker::runtime::Stop;

use super::names::Names;
use super::shard::Local;

/// Longest sleep at a time, so that a stop is noticed.
const STEP: Duration = Duration::from_secs(1);

/// When to sweep, and what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Housekeeping {
    /// Pause between two sweeps.
    pub(super) period: Duration,
    /// Age of an abandoned upload.
    pub(super) orphan_timeout: Duration,
}

/// Sweeps until the stop. One shard does it for all.
pub(super) async fn run<M: Names>(engine: Engine<Local<M>>, when: Housekeeping, stop: Stop) {
    let started = engine.environment().monotonic();
    let mut next = started.saturating_add(when.period);
    while !stop.is_requested() {
        let now = engine.environment().monotonic();
        if now < next {
            let left = next.saturating_sub(now);
            engine.environment().sleep(left.min(STEP)).await;
            continue;
        }
        let swept = engine.sweep(when.orphan_timeout, started).await;
        let took = engine.environment().monotonic().saturating_sub(now);
        say(swept, took);
        next = engine.environment().monotonic().saturating_add(when.period);
    }
}

/// One line for every sweep: of one that did nothing only when asked for details.
fn say(swept: Swept, took: Duration) {
    let Swept {
        uploads,
        bytes,
        ufs_uploads,
        parts,
        unclear,
        failures,
    } = swept;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if failures + unclear > 0 {
        tracing::warn!(
            uploads,
            bytes,
            ufs_uploads,
            parts,
            unclear,
            failures,
            took_ms,
            "a sweep of abandoned uploads is not complete; failures are tried again, unclear uploads in a UFS are left alone"
        );
    } else if swept == Swept::default() {
        tracing::debug!(took_ms, "nothing abandoned was found");
    } else {
        tracing::info!(
            uploads,
            bytes,
            ufs_uploads,
            parts,
            took_ms,
            "abandoned uploads were swept"
        );
    }
}
