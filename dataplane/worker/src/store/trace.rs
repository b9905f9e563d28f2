//! What a shard did to its files, in order; for tests, and absent otherwise.

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use monoio::fs::File;
use quickwater_engine::io::ChunkId;

use super::index::Location;

/// One step. Files by descriptor, ranges in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    WriteBegun(RawFd, Range<u64>),
    WriteEnded(RawFd, Range<u64>),
    FlushBegun(RawFd),
    FlushEnded(RawFd),
    /// A record was entered into the index.
    Placed(ChunkId, Location),
    /// The test queued its write of this number ...
    Queued(usize),
    /// ... got its answer ...
    Acked(usize),
    /// ... and released it.
    Released(usize),
}

thread_local! {
    static EVENTS: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// Begins to keep events of this thread.
pub(super) fn start() {
    EVENTS.with_borrow_mut(|events| *events = Some(Vec::new()));
}

/// The events since.
pub(super) fn take() -> Vec<Event> {
    EVENTS.take().unwrap_or_default()
}

/// Keeps an event.
pub(super) fn note(event: Event) {
    EVENTS.with_borrow_mut(|events| {
        if let Some(events) = events {
            events.push(event);
        }
    });
}

/// Name of a file.
pub(super) fn name(file: &File) -> RawFd {
    file.as_raw_fd()
}
