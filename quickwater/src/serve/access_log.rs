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
    lines: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

/// What the thread is given.
#[derive(Debug)]
enum Entry {
    Line(String),
    /// Nothing more is wanted, although writing ends may still be around.
    End,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct AccessLogThread {
    thread: JoinHandle<()>,
    lines: SyncSender<Entry>,
}

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
        let end = AccessLogThread {
            thread,
            lines: lines.clone(),
        };
        Ok((Self { lines, dropped }, end))
    }

    /// Hands over a line (without the newline); never waits.
    pub(crate) fn put(&self, line: String) {
        if self.lines.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AccessLogThread {
    /// Writes what was handed over so far and ends.
    pub(crate) fn finish(self) {
        // Fails only when the thread is gone, which the join below tells.
        let _ = self.lines.send(Entry::End);
        if self.thread.join().is_err() {
            tracing::error!("the access log thread ended early");
        }
    }
}

fn write(file: File, waiting: &Receiver<Entry>, dropped: &AtomicU64) {
    let mut out = BufWriter::with_capacity(64 << 10, file);
    let mut failing = false;
    while let Ok(Entry::Line(first)) = waiting.recv() {
        let (outcome, ended) = write_burst(&mut out, first, waiting);
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
        if ended {
            return;
        }
    }
}

/// Writes what waits by now; whether the end was among it.
fn write_burst(
    out: &mut BufWriter<File>,
    first: String,
    waiting: &Receiver<Entry>,
) -> (std::io::Result<()>, bool) {
    let mut outcome = writeln!(out, "{first}");
    for entry in waiting.try_iter().take(LINES_WAITING_MAX) {
        match entry {
            Entry::Line(line) => outcome = outcome.and_then(|()| writeln!(out, "{line}")),
            Entry::End => return (outcome.and_then(|()| out.flush()), true),
        }
    }
    (outcome.and_then(|()| out.flush()), false)
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
        // A writing end that is still around does not keep the thread.
        thread.finish();
        log.put("too late".into());
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
