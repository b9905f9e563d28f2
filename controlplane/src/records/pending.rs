//! Rows of what the UFS has still to be told about a key.

use quickwater_proto::{Holders, NodeId, PendingChange, PendingRecord};
use quickwater_rpc::records as wire;

use super::shared::node_ids;
use super::{RecordError, damaged, decode_versioned, encode_at};

const ROW: &str = "pending change";

/// Makes the row of a pending change, with the version it says. For a change that
/// is new, the commit fills it in at [`super::VERSION_OFFSET`].
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_pending(pending: &PendingRecord) -> Result<Vec<u8>, RecordError> {
    encode_held(pending, &Holders::default())
}

/// The same of a change whose bytes these workers have.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_held(pending: &PendingRecord, holders: &Holders) -> Result<Vec<u8>, RecordError> {
    // As rows were written before they could say it.
    let copies = match holders.copies == holders.nodes.len() {
        true => 0,
        false => u32::try_from(holders.copies).unwrap_or(u32::MAX),
    };
    let (kind, size, until_ms) = match pending.change {
        PendingChange::Put { size } => (wire::PendingKind::PendingPut, size, 0),
        PendingChange::Delete => (wire::PendingKind::PendingDelete, 0, 0),
        PendingChange::Hold { size } => (wire::PendingKind::PendingHold, size, 0),
        PendingChange::Settling { until_ms } => (wire::PendingKind::PendingSettling, 0, until_ms),
    };
    let row = wire::PendingRow {
        kind: kind.into(),
        size,
        since_ms: pending.since_ms,
        superseded: pending.superseded,
        until_ms,
        holders: holders.nodes.iter().map(NodeId::to_string).collect(),
        copies,
    };
    encode_at(ROW, pending.version, &row)
}

/// Reads the row of a pending change.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_pending(value: &[u8]) -> Result<PendingRecord, RecordError> {
    let (version, row): (_, wire::PendingRow) = decode_versioned(ROW, value)?;
    let change = match wire::PendingKind::try_from(row.kind) {
        Ok(wire::PendingKind::PendingPut) => PendingChange::Put { size: row.size },
        Ok(wire::PendingKind::PendingDelete) => PendingChange::Delete,
        Ok(wire::PendingKind::PendingHold) => PendingChange::Hold { size: row.size },
        Ok(wire::PendingKind::PendingSettling) => PendingChange::Settling {
            until_ms: row.until_ms,
        },
        Ok(wire::PendingKind::PendingUnspecified) | Err(_) => {
            return Err(damaged(ROW, "unknown kind"));
        }
    };
    Ok(PendingRecord {
        version,
        change,
        since_ms: row.since_ms,
        superseded: row.superseded,
    })
}

/// Who has the bytes of a pending change; nobody: whoever has the metadata.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_holders(value: &[u8]) -> Result<Holders, RecordError> {
    let (_, row): (_, wire::PendingRow) = decode_versioned(ROW, value)?;
    let nodes = node_ids(ROW, &row.holders)?;
    let copies = match row.copies {
        0 => nodes.len(),
        copies => copies as usize,
    };
    Ok(Holders { nodes, copies })
}
