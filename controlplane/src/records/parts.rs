//! Parts: rows of an upload, and entries in the manifest of the object it became.

use quickwater_proto::{BlobId, Holders, NodeId, PART_NUMBER_MAX, PartRecord};
use quickwater_rpc::records as wire;

use super::shared::{checksums, checksums_to_wire, etag, etag_to_wire, id, node_ids};
use super::{RecordError, damaged, decode, encode};

const ROW: &str = "part";

/// Makes a part row.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_part(part: &PartRecord) -> Result<Vec<u8>, RecordError> {
    encode_part_held(part, &Holders::default())
}

/// The same of a part whose bytes these workers have.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_part_held(part: &PartRecord, holders: &Holders) -> Result<Vec<u8>, RecordError> {
    encode(
        ROW,
        &wire::Part {
            held: part.held,
            holders: holders.nodes.iter().map(NodeId::to_string).collect(),
            copies: u32::try_from(holders.copies).unwrap_or(u32::MAX),
            ..part_to_wire(part, 0)
        },
    )
}

/// Who has the bytes of a part, as its row says; nobody: the row does not say.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_part_holders(value: &[u8]) -> Result<Holders, RecordError> {
    let part: wire::Part = decode(ROW, value)?;
    Ok(Holders {
        nodes: node_ids(ROW, &part.holders)?,
        copies: part.copies as usize,
    })
}

/// Reads a part row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_part(value: &[u8]) -> Result<PartRecord, RecordError> {
    part(ROW, decode(ROW, value)?, 0)
}

/// Times are kept relative to `base_ms`: in a manifest they are then short. Where the
/// bytes of an object are is said by the object.
pub(super) fn part_to_wire(part: &PartRecord, base_ms: i64) -> wire::Part {
    wire::Part {
        number: part.number.into(),
        size: part.size,
        etag: Some(etag_to_wire(&part.etag)),
        modified_ms: part.modified_ms.wrapping_sub(base_ms),
        checksums: checksums_to_wire(&part.checksums),
        blob: part.blob.0.to_be_bytes().to_vec(),
        held: false,
        holders: Vec::new(),
        copies: 0,
    }
}

pub(super) fn part(
    row: &'static str,
    part: wire::Part,
    base_ms: i64,
) -> Result<PartRecord, RecordError> {
    let number = u16::try_from(part.number).ok();
    let number = number.filter(|number| (1..=PART_NUMBER_MAX).contains(number));
    Ok(PartRecord {
        number: number.ok_or_else(|| damaged(row, "part number out of range"))?,
        size: part.size,
        etag: etag(row, part.etag)?,
        modified_ms: part.modified_ms.wrapping_add(base_ms),
        checksums: checksums(row, part.checksums)?,
        blob: BlobId(id(row, &part.blob)?),
        held: part.held,
    })
}
