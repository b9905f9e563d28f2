//! The two ends of every stream between a caller and the task that works for it.
//!
//! The caller's end awaits bounded tokio channels only: they need no tokio
//! runtime, so a shard on another runtime can hold it. Timers run in the task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::{BodyDigests, UfsListing, UfsReader, UfsUpload};
use quickwater_proto::{CHUNK_BYTES, UfsEntry, UfsError, UfsErrorKind, UfsObject};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::standing::Permit;
use crate::stats::{UfsStats, count};

/// Pieces of a write on their way to the task: with the one it works on, at most
/// three of the caller's buffers are held.
const UPLOAD_QUEUE: usize = 2;
/// Pieces (or batches of network frames) read ahead of the caller.
const READ_QUEUE: usize = 2;
/// Listing pages read ahead of the caller.
const LISTING_QUEUE: usize = 1;

fn gone() -> UfsError {
    UfsError::new(
        UfsErrorKind::Unavailable,
        "the UFS task gave up (the caller stalled, or the service stops)",
    )
}

/// The caller's end of a write.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Sender<Sent>,
    result: oneshot::Receiver<Result<UfsObject, UfsError>>,
}

/// What the caller of a write sends.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Finish(BodyDigests),
}

/// What goes through the channel of a write.
#[derive(Debug)]
enum Sent {
    /// What the bytes will be, if that comes at all: before them.
    Expect(BodyDigests),
    Piece(Piece),
}

/// The task's end of a write: checks that exactly `size` bytes come.
#[derive(Debug)]
pub(crate) struct Incoming {
    pieces: mpsc::Receiver<Sent>,
    /// What came while the caller's expectation was waited for.
    first: Option<Piece>,
    size: u64,
    received: u64,
    caller_timeout: Duration,
    stats: Arc<UfsStats>,
    permit: Permit,
}

pub(crate) fn upload(
    size: u64,
    caller_timeout: Duration,
    stats: Arc<UfsStats>,
    permit: Permit,
) -> (
    Upload,
    Incoming,
    oneshot::Sender<Result<UfsObject, UfsError>>,
) {
    let (sender, receiver) = mpsc::channel(UPLOAD_QUEUE);
    let (reply, result) = oneshot::channel();
    let incoming = Incoming {
        pieces: receiver,
        first: None,
        size,
        received: 0,
        caller_timeout,
        stats,
        permit,
    };
    (
        Upload {
            pieces: sender,
            result,
        },
        incoming,
        reply,
    )
}

impl Incoming {
    /// Bytes the write was announced with.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The right to publish what comes.
    pub(crate) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Bytes still to come.
    pub(crate) fn remaining(&self) -> u64 {
        self.size - self.received
    }

    /// What the caller says the bytes will be, if it knows; waits for its first word.
    /// To be called before [`next`](Self::next).
    pub(crate) async fn expected(&mut self) -> Result<Option<BodyDigests>, UfsError> {
        match self.receive().await? {
            Some(Sent::Expect(digests)) => Ok(Some(digests)),
            Some(Sent::Piece(piece)) => {
                self.first = Some(piece);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The next piece; `None`: the caller gave up, nothing may be published.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, UfsError> {
        let piece = loop {
            match self.first.take() {
                Some(piece) => break Some(piece),
                None => match self.receive().await? {
                    Some(Sent::Piece(piece)) => break Some(piece),
                    // Nobody asked for it.
                    Some(Sent::Expect(_)) => {}
                    None => break None,
                },
            }
        };
        match &piece {
            None => {}
            Some(Piece::Data(data)) => self.account(data.len() as u64)?,
            Some(Piece::Finish(_)) if self.remaining() > 0 => {
                return Err(self.wrong_length("finished early"));
            }
            Some(Piece::Finish(_)) => {}
        }
        Ok(piece)
    }

    async fn receive(&mut self) -> Result<Option<Sent>, UfsError> {
        let sent = timeout(self.caller_timeout, self.pieces.recv()).await;
        sent.map_err(|_| {
            UfsError::new(
                UfsErrorKind::Timeout,
                "the writer sent nothing for too long",
            )
        })
    }

    fn account(&mut self, bytes: u64) -> Result<(), UfsError> {
        if bytes > self.remaining() {
            return Err(self.wrong_length("more bytes than announced"));
        }
        self.received += bytes;
        count(&self.stats.written_bytes, bytes);
        Ok(())
    }

    fn wrong_length(&self, why: &str) -> UfsError {
        let message = format!("{why}: {} of {} bytes", self.received, self.size);
        UfsError::new(UfsErrorKind::Invalid, message)
    }
}

impl Upload {
    /// Why the task ended although the caller was not done.
    async fn failure(result: oneshot::Receiver<Result<UfsObject, UfsError>>) -> UfsError {
        match result.await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) | Err(_) => gone(),
        }
    }

    async fn deliver(&mut self, sent: Sent) -> Result<(), UfsError> {
        if self.pieces.send(sent).await.is_ok() {
            return Ok(());
        }
        // Once its reason has been told, the answer stays "gone".
        let (_, ended) = oneshot::channel();
        Err(Self::failure(std::mem::replace(&mut self.result, ended)).await)
    }
}

impl UfsUpload for Upload {
    async fn expect(&mut self, digests: &BodyDigests) -> Result<(), UfsError> {
        self.deliver(Sent::Expect(digests.clone())).await
    }

    async fn send(&mut self, data: Bytes) -> Result<(), UfsError> {
        if data.is_empty() {
            return Ok(());
        }
        self.deliver(Sent::Piece(Piece::Data(data))).await
    }

    async fn finish(mut self, digests: &BodyDigests) -> Result<UfsObject, UfsError> {
        let finish = Piece::Finish(digests.clone());
        self.deliver(Sent::Piece(finish)).await?;
        // Nobody will say what became of it.
        let lost = |_| Err(UfsError::new(UfsErrorKind::Timeout, gone().message));
        self.result.await.unwrap_or_else(lost)
    }

    async fn abort(self) {
        drop(self.pieces);
        // Waits for the cleaning up, which has its own deadlines; how it ended is
        // in the counters.
        let _ = self.result.await;
    }
}

/// The caller's end of a read.
#[derive(Debug)]
pub struct Reader {
    batches: mpsc::Receiver<Result<Vec<Bytes>, UfsError>>,
    ready: VecDeque<Bytes>,
    remaining: u64,
}

/// The task's end of a read.
#[derive(Debug)]
pub(crate) struct Outgoing {
    batches: mpsc::Sender<Result<Vec<Bytes>, UfsError>>,
    caller_timeout: Duration,
    stats: Arc<UfsStats>,
}

pub(crate) fn reader(
    length: u64,
    caller_timeout: Duration,
    stats: Arc<UfsStats>,
) -> (Reader, Outgoing) {
    let (sender, receiver) = mpsc::channel(READ_QUEUE);
    let reader = Reader {
        batches: receiver,
        ready: VecDeque::new(),
        remaining: length,
    };
    (
        reader,
        Outgoing {
            batches: sender,
            caller_timeout,
            stats,
        },
    )
}

impl Outgoing {
    /// Hands bytes to the caller; `false`: the caller is gone or stalled.
    pub(crate) async fn send(&self, batch: Vec<Bytes>) -> bool {
        count(
            &self.stats.read_bytes,
            batch.iter().map(|b| b.len() as u64).sum(),
        );
        let sent = timeout(self.caller_timeout, self.batches.send(Ok(batch))).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Whether bytes can be handed over without waiting.
    pub(crate) fn has_room(&self) -> bool {
        self.batches.capacity() > 0
    }

    /// Resolves when the caller is gone.
    pub(crate) async fn closed(&self) {
        self.batches.closed().await;
    }

    /// Ends the read with an error.
    pub(crate) async fn fail(&self, error: UfsError) {
        // A caller that is gone needs no error.
        let _ = timeout(self.caller_timeout, self.batches.send(Err(error))).await;
    }
}

impl UfsReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, UfsError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        while self.ready.is_empty() {
            match self.batches.recv().await {
                Some(Ok(batch)) => self.ready.extend(batch),
                Some(Err(error)) => return Err(error),
                None => return Err(gone()),
            }
        }
        Ok(self.pop())
    }
}

impl Reader {
    fn pop(&mut self) -> Option<Bytes> {
        let mut piece = self.ready.pop_front()?;
        if piece.len() > CHUNK_BYTES as usize {
            let rest = piece.split_off(CHUNK_BYTES as usize);
            self.ready.push_front(rest);
        }
        self.remaining = self.remaining.saturating_sub(piece.len() as u64);
        Some(piece)
    }
}

/// A page of a listing; `None`: the end.
type Page = Result<Option<Vec<UfsEntry>>, UfsError>;

/// The caller's end of a listing.
#[derive(Debug)]
pub struct Listing {
    pages: mpsc::Receiver<Page>,
    ended: bool,
}

/// The task's end of a listing.
#[derive(Debug)]
pub(crate) struct Pages {
    pages: mpsc::Sender<Page>,
    caller_timeout: Duration,
}

pub(crate) fn listing(caller_timeout: Duration) -> (Listing, Pages) {
    let (sender, receiver) = mpsc::channel(LISTING_QUEUE);
    let listing = Listing {
        pages: receiver,
        ended: false,
    };
    (
        listing,
        Pages {
            pages: sender,
            caller_timeout,
        },
    )
}

impl Pages {
    /// Hands a page to the caller; `false`: the caller is gone or stalled.
    pub(crate) async fn send(&self, page: Page) -> bool {
        let sent = timeout(self.caller_timeout, self.pages.send(page)).await;
        matches!(sent, Ok(Ok(())))
    }
}

impl UfsListing for Listing {
    async fn next(&mut self) -> Result<Option<Vec<UfsEntry>>, UfsError> {
        if self.ended {
            return Ok(None);
        }
        let page = self.pages.recv().await.unwrap_or_else(|| Err(gone()));
        self.ended = matches!(page, Ok(None));
        page
    }
}
