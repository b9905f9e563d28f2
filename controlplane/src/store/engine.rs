//! What the core needs from an engine: ordered scans over a snapshot and one
//! durable atomic batch. No versions, conflicts or limits here.

use std::sync::Arc;

use bytes::Bytes;

use super::transaction::{KeyRange, Row};

/// An ordered key-value engine. The core has one thread that applies; snapshots
/// are read from any thread.
pub trait Engine: Send + Sync + 'static {
    /// The rows as of now: all of every batch applied before, nothing of later
    /// ones.
    ///
    /// # Errors
    /// [`EngineError`] when it cannot be read.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError>;

    /// Applies all of a batch, durable as asked before it returns. Batches become
    /// durable in the order in which they were applied. After an error it may be
    /// applied, durable, both or neither, but never in part.
    ///
    /// # Errors
    /// [`EngineError`]; the core then applies nothing more.
    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), EngineError>;

    /// Makes every batch applied so far durable.
    ///
    /// # Errors
    /// [`EngineError`]; the core then applies nothing more.
    fn flush(&self) -> Result<(), EngineError>;
}

/// What a batch survives once it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut only after a later flush, and for redb the end of the process
    /// too.
    Relaxed,
    /// A power cut.
    Flushed,
}

/// Rows of one moment. Held for seconds at most.
pub trait Snapshot: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`EngineError`] when it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows of a range in key order, or from the last down.
    fn scan<'a>(&'a self, range: &KeyRange, reverse: bool) -> RowIterator<'a>;
}

/// Rows as they are read; after an error there are no more.
pub type RowIterator<'a> = Box<dyn Iterator<Item = Result<Row, EngineError>> + 'a>;

/// One atomic batch: new values, or `None` to remove, each key once, in key
/// order.
pub type Batch = Vec<(Bytes, Option<Bytes>)>;

/// An engine could not read or write. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);
