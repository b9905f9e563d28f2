//! The access log: one JSON line per request, written by a thread of its own so
//! that no shard ever waits for it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

/// Lines that may wait; more are dropped and counted.
const LINES_WAITING_MAX: usize = 8192;

/// The writing end, one clone per shard.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

/// The thread; ends when all writing ends are gone.
#[derive(Debug)]
pub(crate) struct AccessLogThread(JoinHandle<()>);

impl AccessLog {
    /// Opens the file for appending and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn start(path: &Path) -> Result<(Self, AccessLogThread)> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| {
                format!(
                    "cannot open the access log {}; check s3.access_log",
                    path.display()
                )
            })?;
        let (lines, waiting) = sync_channel(LINES_WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(file, &waiting, &counted))?;
        Ok((Self { lines, dropped }, AccessLogThread(thread)))
    }

    /// Hands over a line (without the newline); never waits.
    pub(crate) fn put(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AccessLogThread {
    /// Waits until what was handed over is written.
    pub(crate) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the access log thread ended early");
        }
    }
}

fn write(file: File, waiting: &Receiver<String>, dropped: &AtomicU64) {
    let mut out = BufWriter::with_capacity(64 << 10, file);
    let mut failing = false;
    while let Ok(first) = waiting.recv() {
        let mut burst = std::iter::once(first).chain(waiting.try_iter().take(LINES_WAITING_MAX));
        let written = burst.try_for_each(|line| writeln!(out, "{line}"));
        let outcome = written.and_then(|()| out.flush());
        // Told once when it begins to fail and once when it works again.
        if let (Err(error), false) = (&outcome, failing) {
            tracing::error!(%error, "the access log cannot be written");
        } else if outcome.is_ok() && failing {
            tracing::info!("the access log is written again");
        }
        failing = outcome.is_err();
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                lines = lost,
                "the access log is too slow; lines were dropped"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "old\n").unwrap();
        let (log, thread) = AccessLog::start(&path).unwrap();
        for i in 0..1000 {
            log.put(format!("line {i}"));
        }
        drop(log);
        thread.join();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "old");
        assert_eq!(lines.len(), 1001);
        assert_eq!(lines[1000], "line 999");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_refused() {
        let error = AccessLog::start(Path::new("/no/such/dir/log")).unwrap_err();
        assert!(format!("{error:#}").contains("s3.access_log"));
    }
}
