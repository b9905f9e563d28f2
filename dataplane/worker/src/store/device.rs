//! Single reads, writes and flushes of segment files on a shard's ring.
//!
//! A write or flush runs in a task of its own, which owns the buffer and keeps
//! the file open, and hands the outcome over: a caller may be dropped at any
//! time without dropping a pending operation. A read is kept by `reads` for the
//! same end. Absent: what the bytes mean.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use monoio::fs::File;

use super::local::{Receiver, oneshot};
use super::segment::Pin;
#[cfg(test)]
use super::trace;
use crate::buffers::{PoolBuf, Window};

/// A transfer and its outcome.
pub(super) type Transferred = (PoolBuf, io::Result<()>);

/// Fills `range` of the buffer's memory from `offset` of a file. `pin` is held
/// until the operation has ended. Ending early is an error of kind
/// `UnexpectedEof`. Not to be dropped once polled: see `reads`.
pub(super) async fn read(
    file: Rc<File>,
    pin: Pin,
    buf: PoolBuf,
    range: std::ops::Range<usize>,
    offset: u64,
) -> Transferred {
    let wanted = range.len();
    let (outcome, window) = file.read_at(Window::new(buf, range), offset).await;
    let outcome = match outcome {
        Ok(got) if got == wanted => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(cause) => Err(cause),
    };
    drop(pin);
    (window.into_inner(), outcome)
}

/// Starts to write `range` of the buffer's memory to `offset` of a file.
pub(super) fn write(
    file: Rc<File>,
    buf: PoolBuf,
    range: std::ops::Range<usize>,
    offset: u64,
) -> Receiver<Transferred> {
    let (sender, receiver) = oneshot();
    monoio::spawn(async move {
        #[cfg(test)]
        let (fd, span) = (trace::name(&file), offset..offset + range.len() as u64);
        #[cfg(test)]
        trace::note(trace::Event::WriteBegun(fd, span.clone()));
        let (mut buf, mut done) = (buf, 0);
        let outcome = loop {
            let rest = range.start + done..range.end;
            if rest.is_empty() {
                break Ok(());
            }
            let window = Window::new(buf, rest);
            let (written, window) = file.write_at(window, offset + done as u64).await;
            buf = window.into_inner();
            match written {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(cause) => break Err(cause),
            }
        };
        #[cfg(test)]
        trace::note(trace::Event::WriteEnded(fd, span));
        sender.send((buf, outcome));
    });
    receiver
}

/// Starts to flush a file's data, and what is needed to find it, to the device.
#[cfg(not(feature = "unsafe-no-flush"))]
pub(super) fn flush(file: Rc<File>) -> Receiver<io::Result<()>> {
    let (sender, receiver) = oneshot();
    monoio::spawn(async move {
        #[cfg(test)]
        trace::note(trace::Event::FlushBegun(trace::name(&file)));
        let outcome = file.sync_data().await;
        #[cfg(test)]
        trace::note(trace::Event::FlushEnded(trace::name(&file)));
        sender.send(outcome);
    });
    receiver
}

/// The negative control of the power-cut test: says it flushed and did not.
#[cfg(feature = "unsafe-no-flush")]
pub(super) fn flush(_file: Rc<File>) -> Receiver<io::Result<()>> {
    let (sender, receiver) = oneshot();
    sender.send(Ok(()));
    receiver
}

/// Waits for an operation, at most `timeout`. `None`: it did not end in time and
/// goes on without us; its buffer comes back to the pool when it ends.
pub(super) async fn within<T>(timeout: Duration, operation: Receiver<T>) -> Option<T> {
    monoio::time::timeout(timeout, operation)
        .await
        .ok()
        .flatten()
}
