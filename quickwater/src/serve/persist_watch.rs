//! Says in the log when objects do not reach their UFS, and when they do again.
//! Absent: a line for every attempt; `async-persist list` shows each change.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quickwater_engine::{QueueScope, QueuedState, Shared};

/// How often the counters are looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Looks between two lines that say the same.
const REPEAT_LOOKS: u32 = 150;

/// What is known at one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Look {
    failures: u64,
    lost: u64,
    failing: u64,
}

/// What is worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Bytes only this worker had are missing: so many attempts found that.
    Lost(u64),
    /// So many attempts failed since the last line.
    Failing(u64),
    /// Nothing fails any more.
    Well,
}

/// What was said last, and when.
#[derive(Debug, Default)]
struct Watch {
    said: Look,
    failing: bool,
    looks_since_failing: u32,
    looks_since_lost: u32,
    lost_said: bool,
}

impl Watch {
    fn next(&mut self, look: Look) -> Vec<Line> {
        let mut lines = Vec::new();
        self.looks_since_failing = self.looks_since_failing.saturating_add(1);
        self.looks_since_lost = self.looks_since_lost.saturating_add(1);
        let lost = look.lost.saturating_sub(self.said.lost);
        if lost > 0 && (!self.lost_said || self.looks_since_lost >= REPEAT_LOOKS) {
            lines.push(Line::Lost(lost));
            self.said.lost = look.lost;
            self.lost_said = true;
            self.looks_since_lost = 0;
        }
        let failures = look.failures.saturating_sub(self.said.failures);
        // What failed and got through before anybody looked is in the metrics only.
        let still = failures > 0 && look.failing > 0;
        if still && (!self.failing || self.looks_since_failing >= REPEAT_LOOKS) {
            lines.push(Line::Failing(failures));
            self.said.failures = look.failures;
            self.failing = true;
            self.looks_since_failing = 0;
        } else if self.failing && look.failing == 0 && failures == 0 {
            lines.push(Line::Well);
            self.failing = false;
        } else if self.failing && look.failing == 0 {
            // Failed again since, and got through: said with the next line.
            self.said.failures = look.failures;
        }
        lines
    }
}

/// Looks for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let look = Look {
            failures: shared.stats.persist_failures.load(Relaxed),
            lost: shared.stats.persist_lost.load(Relaxed),
            failing: shared.persist.totals().failing,
        };
        for line in watch.next(look) {
            say(line, &shared);
        }
    }
}

fn say(line: Line, shared: &Shared) {
    let totals = shared.persist.totals();
    match line {
        Line::Lost(attempts) => tracing::error!(
            attempts,
            "bytes of acked objects that no UFS has are missing from the store; `quickwater async-persist list --state failing` names the objects"
        ),
        Line::Failing(attempts) => {
            let (key, error) = example(shared);
            tracing::warn!(
                attempts,
                failing = totals.failing,
                dirty_objects = totals.puts,
                dirty_bytes = totals.bytes,
                pending_deletes = totals.deletes,
                key,
                error,
                "changes do not reach their UFS and are tried again"
            );
        }
        Line::Well => tracing::info!(
            dirty_objects = totals.puts,
            pending_deletes = totals.deletes,
            "changes reach their UFS again"
        ),
    }
}

/// A key that fails among the first of the queue, and why.
fn example(shared: &Shared) -> (String, String) {
    let (scope, state) = (QueueScope::everything(), Some(QueuedState::Failing));
    let page = shared.persist.page(&scope, None, state, 1, Duration::ZERO);
    let first = page.changes.into_iter().next();
    first.map_or_else(Default::default, |change| {
        (
            change.key.as_str().to_owned(),
            change.error.unwrap_or_default(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(failures: u64, lost: u64, failing: u64) -> Look {
        Look {
            failures,
            lost,
            failing,
        }
    }

    #[test]
    fn failures_are_said_once_then_rarely_then_that_they_ended() {
        let mut watch = Watch::default();
        assert_eq!(watch.next(look(0, 0, 0)), []);
        assert_eq!(watch.next(look(3, 0, 2)), [Line::Failing(3)]);
        for more in 1..REPEAT_LOOKS {
            assert_eq!(watch.next(look(3 + u64::from(more), 0, 2)), [], "{more}");
        }
        let all = u64::from(REPEAT_LOOKS) + 3;
        let expected = [Line::Failing(u64::from(REPEAT_LOOKS))];
        assert_eq!(watch.next(look(all, 0, 2)), expected);
        assert_eq!(watch.next(look(all, 0, 0)), [Line::Well]);
        assert_eq!(watch.next(look(all, 0, 0)), []);
        assert_eq!(watch.next(look(all + 1, 0, 1)), [Line::Failing(1)]);
        // It failed once more and got through between two looks.
        assert_eq!(watch.next(look(all + 2, 0, 0)), []);
        assert_eq!(watch.next(look(all + 2, 0, 0)), [Line::Well]);
        // One that got through at its second attempt is nobody's trouble.
        assert_eq!(watch.next(look(all + 3, 0, 0)), []);
        assert_eq!(watch.next(look(all + 4, 0, 1)), [Line::Failing(2)]);
    }

    #[test]
    fn lost_bytes_are_said_beside_failures() {
        let mut watch = Watch::default();
        let first = watch.next(look(1, 1, 1));
        assert_eq!(first, [Line::Lost(1), Line::Failing(1)]);
        for _ in 1..REPEAT_LOOKS {
            assert_eq!(watch.next(look(2, 2, 1)), []);
        }
        let again = watch.next(look(5, 4, 1));
        assert_eq!(again, [Line::Lost(3), Line::Failing(4)]);
        // Nothing new: nothing said.
        for _ in 0..2 * REPEAT_LOOKS {
            assert_eq!(watch.next(look(5, 4, 1)), []);
        }
    }
}
