//! What people see on stderr while it runs: one line that is written over at a
//! terminal, a line every few seconds elsewhere.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::endpoint::Site;
use crate::client::Live;
use crate::model::Round;

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Wipes the rest of a terminal's line.
const WIPE: &str = "\r\x1b[K";

/// Counts at some time.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    requests: u64,
    errors: u64,
    bytes: u64,
}

/// Shows how far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    quiet: bool,
    terminal: bool,
    title: RefCell<String>,
    /// The last warning: the same is not said at every glance.
    warned: RefCell<String>,
    began: Cell<Option<Seen>>,
    last: Cell<Option<Seen>>,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            title: RefCell::default(),
            warned: RefCell::default(),
            began: Cell::default(),
            last: Cell::default(),
        }
    }

    /// Something begins.
    pub(super) fn begin(&self, title: &str, live: &Live) {
        title.clone_into(&mut self.title.borrow_mut());
        let now = Some(seen(live));
        self.began.set(now);
        self.last.set(now);
    }

    /// It goes on.
    pub(super) fn show(&self, live: &Live) {
        let (Some(began), Some(last)) = (self.began.get(), self.last.get()) else {
            return;
        };
        let now = seen(live);
        let since = now.at - last.at;
        if self.quiet || (!self.terminal && since < LINE_EVERY) {
            return;
        }
        self.last.set(Some(now));
        let text = line(&self.title.borrow(), began, last, now);
        if self.terminal {
            self.write(&format!("{WIPE}{text}"));
        } else {
            self.write(&format!("{text}\n"));
        }
    }

    /// A round has ended.
    pub(super) fn round(&self, scenario: &str, site: &Site, round: &Round) {
        if self.quiet {
            return;
        }
        let rate = round.requests_per_second().unwrap_or(0.0);
        let mb = round.bytes_per_second().unwrap_or(0.0) / 1e6;
        let failed = match round.failures() {
            0 => String::new(),
            n => format!("  {n} FAILED"),
        };
        self.write(&format!(
            "{}{scenario} {} round {}: {:.0} requests/s  {mb:.1} MB/s  p50 {:.3} ms  p99 {:.3} ms{failed}\n",
            self.wipe(),
            site.label,
            round.number,
            rate,
            round.latency.p50_us / 1e3,
            round.latency.p99_us / 1e3,
        ));
    }

    /// Something is not as it should be; said even when quiet.
    pub(super) fn warn(&self, text: &str) {
        if *self.warned.borrow() == text {
            return;
        }
        text.clone_into(&mut self.warned.borrow_mut());
        self.write(&format!("{}quickwater bench: {text}\n", self.wipe()));
    }

    /// Nothing more will be shown.
    pub(super) fn end(&self) {
        if !self.quiet {
            self.write(self.wipe());
        }
    }

    const fn wipe(&self) -> &'static str {
        if self.terminal { WIPE } else { "" }
    }

    fn write(&self, text: &str) {
        // A terminal that went away is no reason to stop measuring.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

fn seen(live: &Live) -> Seen {
    Seen {
        at: Instant::now(),
        requests: live.requests.load(Ordering::Relaxed),
        errors: live.errors.load(Ordering::Relaxed),
        bytes: live.bytes.load(Ordering::Relaxed),
    }
}

fn line(title: &str, began: Seen, last: Seen, now: Seen) -> String {
    let seconds = (now.at - last.at).as_secs_f64().max(1e-3);
    let rate = (now.requests - last.requests) as f64 / seconds;
    let mb = (now.bytes - last.bytes) as f64 / 1e6 / seconds;
    let errors = match now.errors - began.errors {
        0 => String::new(),
        n => format!("  {n} failed"),
    };
    format!(
        "{title}: {:.0} s  {} requests  {rate:.0}/s  {mb:.1} MB/s{errors}",
        (now.at - began.at).as_secs_f64(),
        now.requests - began.requests,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_rate_since_the_last_one() {
        let at = Instant::now();
        let began = Seen {
            at,
            requests: 10,
            errors: 0,
            bytes: 0,
        };
        let last = Seen {
            at: at + Duration::from_secs(2),
            requests: 110,
            errors: 1,
            bytes: 1_000_000,
        };
        let now = Seen {
            at: at + Duration::from_secs(4),
            requests: 510,
            errors: 3,
            bytes: 5_000_000,
        };
        assert_eq!(
            line("put a", began, last, now),
            "put a: 4 s  500 requests  200/s  2.0 MB/s  3 failed"
        );
    }
}
