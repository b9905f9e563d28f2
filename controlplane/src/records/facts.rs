//! What a worker's store tells when the metadata are lost, as messages of a file; and the
//! row of those whose files metadata were rebuilt from.

use quickwater_proto::{BlobId, NodeId};
use quickwater_rpc::records as wire;

use super::shared::id;
use super::{
    NOTE_BYTES_MAX, RecordError, damaged, decode, decode_slot_table, encode, encode_slot_table,
    encode_within,
};
use crate::cluster::Position;
use quickwater_proto::SlotTable;

const HEAD: &str = "head of facts";
const FACT: &str = "fact";
const END: &str = "end of facts";
const REBUILT: &str = "rebuilt";
/// Largest message of a file: a note, and the names of its blobs.
pub const FACT_BYTES_MAX: usize = NOTE_BYTES_MAX + (1 << 20);

/// A worker, and how far it had seen the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name.
    pub node: NodeId,
    /// Random name of its directory.
    pub directory: Vec<u8>,
    /// How far the metadata were that it had seen.
    pub seen: Option<Position>,
}

/// Whose store tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactsHead {
    /// The worker.
    pub witness: Witness,
    /// The cluster it belonged to.
    pub cluster: String,
    /// A session of it, not before its last by much.
    pub session: u64,
    /// The placement it went by.
    pub table: SlotTable,
    /// By which table it took each slot last, 0 = never.
    pub epochs: Vec<u64>,
    /// From this table on what was pending of slots that it took may not have been noted.
    pub untold_since: Option<u64>,
}

/// An entry of a journal, or a note, with what is known of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactRow {
    /// The blob it lies beside.
    pub blob: BlobId,
    /// A note; otherwise an entry of the journal.
    pub is_note: bool,
    /// It has ended, or is void.
    pub has_ended: bool,
    /// Not even that what is older of its key has ended: its commit was never made, or others
    /// tell of it.
    pub is_void: bool,
    /// Its bytes were not flushed when a crash came, or are lost.
    pub torn: bool,
    /// A [`super::JournalEntry`]; empty: of a write that is never applied.
    pub data: Vec<u8>,
    /// Blobs of it that the store has as a whole.
    pub whole: Vec<BlobId>,
}

/// What all of it comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FactsEnd {
    /// The largest order of a commit that an entry knew of.
    pub after: u64,
    /// Entries and notes that cannot be read.
    pub unreadable: u64,
    /// Segments that are missing or older than they were.
    pub gaps: u64,
    /// How many facts there are.
    pub facts: u64,
}

fn term_to_wire(seen: Option<Position>) -> (Vec<u8>, u64) {
    match seen {
        Some(seen) => (seen.term.to_be_bytes().to_vec(), seen.version),
        None => (Vec::new(), 0),
    }
}

fn witness(row: &'static str, worker: wire::RebuiltWorker) -> Result<Witness, RecordError> {
    let seen = match worker.term.is_empty() {
        true => None,
        false => Some(Position {
            term: id(row, &worker.term)?,
            version: worker.version,
        }),
    };
    Ok(Witness {
        node: NodeId::new(&worker.node).map_err(|error| damaged(row, error))?,
        directory: worker.directory,
        seen,
    })
}

/// Makes the head of a file.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_facts_head(head: &FactsHead) -> Result<Vec<u8>, RecordError> {
    let (term, version) = term_to_wire(head.witness.seen);
    let message = wire::FactsHead {
        node: head.witness.node.to_string(),
        directory: head.witness.directory.clone(),
        cluster: head.cluster.clone(),
        term,
        version,
        session: head.session,
        table: encode_slot_table(&head.table)?,
        epochs: head.epochs.clone(),
        untold_since: head.untold_since,
    };
    encode_within(HEAD, &message, FACT_BYTES_MAX)
}

/// Reads the head of a file.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_facts_head(bytes: &[u8]) -> Result<FactsHead, RecordError> {
    let message: wire::FactsHead = decode(HEAD, bytes)?;
    let worker = wire::RebuiltWorker {
        node: message.node,
        directory: message.directory,
        term: message.term,
        version: message.version,
    };
    Ok(FactsHead {
        witness: witness(HEAD, worker)?,
        cluster: message.cluster,
        session: message.session,
        table: decode_slot_table(&message.table)?,
        epochs: message.epochs,
        untold_since: message.untold_since,
    })
}

/// Makes the message of a fact.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_fact(fact: &FactRow) -> Result<Vec<u8>, RecordError> {
    let bytes = |blob: &BlobId| blob.0.to_be_bytes().to_vec();
    let message = wire::FactRow {
        blob: bytes(&fact.blob),
        is_note: fact.is_note,
        has_ended: fact.has_ended,
        is_void: fact.is_void,
        torn: fact.torn,
        data: fact.data.clone(),
        whole: fact.whole.iter().map(bytes).collect(),
    };
    encode_within(FACT, &message, FACT_BYTES_MAX)
}

/// Reads the message of a fact.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_fact(bytes: &[u8]) -> Result<FactRow, RecordError> {
    let message: wire::FactRow = decode(FACT, bytes)?;
    let whole = message.whole.iter().map(|blob| id(FACT, blob).map(BlobId));
    Ok(FactRow {
        blob: BlobId(id(FACT, &message.blob)?),
        is_note: message.is_note,
        has_ended: message.has_ended,
        is_void: message.is_void,
        torn: message.torn,
        data: message.data,
        whole: whole.collect::<Result<_, _>>()?,
    })
}

/// Makes the end of a file.
///
/// # Errors
/// None that a message of this size can have.
pub fn encode_facts_end(end: &FactsEnd) -> Result<Vec<u8>, RecordError> {
    let message = wire::FactsEnd {
        after: end.after,
        unreadable: end.unreadable,
        gaps: end.gaps,
        facts: end.facts,
    };
    encode(END, &message)
}

/// Reads the end of a file.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_facts_end(bytes: &[u8]) -> Result<FactsEnd, RecordError> {
    let message: wire::FactsEnd = decode(END, bytes)?;
    Ok(FactsEnd {
        after: message.after,
        unreadable: message.unreadable,
        gaps: message.gaps,
        facts: message.facts,
    })
}

/// Makes the row of those whose files metadata were rebuilt from.
///
/// # Errors
/// [`RecordError::TooLarge`]: more than some hundred workers.
pub fn encode_rebuilt(witnesses: &[Witness]) -> Result<Vec<u8>, RecordError> {
    let worker = |witness: &Witness| {
        let (term, version) = term_to_wire(witness.seen);
        wire::RebuiltWorker {
            node: witness.node.to_string(),
            directory: witness.directory.clone(),
            term,
            version,
        }
    };
    let workers = witnesses.iter().map(worker).collect();
    encode(REBUILT, &wire::RebuiltRow { workers })
}

/// Reads that row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_rebuilt(value: &[u8]) -> Result<Vec<Witness>, RecordError> {
    let row: wire::RebuiltRow = decode(REBUILT, value)?;
    let workers = row.workers.into_iter();
    workers.map(|worker| witness(REBUILT, worker)).collect()
}
