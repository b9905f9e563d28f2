//! A request body fed through a bounded channel, with a watch over who stalls.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use quickwater_proto::{UfsError, UfsErrorKind};
use tokio::sync::mpsc;

/// Pieces between the feeder and the connection.
const QUEUE: usize = 1;

/// The connection's end.
#[derive(Debug)]
pub(super) struct ChannelBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    watch: Arc<Progress>,
}

/// What the watch looks at.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Counts whatever moves.
    steps: AtomicU64,
    /// The connection waits for bytes of ours.
    starved: AtomicBool,
}

/// A body of exactly `length` bytes and the end to feed it.
pub(super) fn channel(length: u64) -> (mpsc::Sender<Bytes>, ChannelBody, Arc<Progress>) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let watch = Arc::<Progress>::default();
    let body = ChannelBody {
        pieces,
        left: length,
        watch: Arc::clone(&watch),
    };
    (sender, body, watch)
}

impl Body for ChannelBody {
    type Data = Bytes;
    // A feeder that goes away early leaves a short body: hyper breaks the
    // connection, as the length was announced.
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let polled = self.pieces.poll_recv(cx);
        self.watch.steps.fetch_add(1, Ordering::Relaxed);
        self.watch
            .starved
            .store(polled.is_pending(), Ordering::Relaxed);
        polled.map(|piece| {
            let piece = piece?;
            self.left = self.left.saturating_sub(piece.len() as u64);
            Some(Ok(Frame::data(piece)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Ends with an error when the store takes nothing for `idle`, or has had more
/// than `total` to itself. Time in which it waits for our bytes does not count.
pub(super) async fn stall(watch: &Progress, idle: Duration, total: Duration) -> UfsError {
    let tick = (idle / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
    let (mut quiet, mut used) = (Duration::ZERO, Duration::ZERO);
    let mut last = watch.steps.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(tick).await;
        let steps = watch.steps.load(Ordering::Relaxed);
        if watch.starved.load(Ordering::Relaxed) {
            quiet = Duration::ZERO;
        } else {
            used += tick;
            quiet = if steps == last {
                quiet + tick
            } else {
                Duration::ZERO
            };
        }
        last = steps;
        if quiet >= idle || used >= total {
            let message = "the store did not take the bytes in time";
            return UfsError::new(UfsErrorKind::Timeout, message);
        }
    }
}
