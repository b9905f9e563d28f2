//! Rows of the cluster: fences, members, the placement table.

use quickwater_proto::{NodeId, SlotTable};
use quickwater_rpc::records as wire;

use super::{RecordError, damaged, decode, encode};

const FENCE: &str = "fence";
const MEMBER: &str = "member";
const TABLE: &str = "placement table";

/// Whose commits are taken for a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fence {
    /// Only those of this session.
    pub session: u64,
    /// Only those judged by this table or a later one.
    pub epoch: u64,
}

/// A worker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Where other workers reach it, `host:port`.
    pub advertise: String,
    /// Where it stands; empty = nobody said.
    pub zone: String,
    /// Bytes of its cache.
    pub capacity_bytes: u64,
    /// Where its S3 endpoint listens.
    pub s3_address: String,
    /// Its cache store.
    pub store: Vec<u8>,
    /// Its data-plane threads.
    pub shards: u32,
    /// Version of its program.
    pub version: String,
    /// It has said goodbye, or was removed.
    pub gone: bool,
    /// It is to have no slots.
    pub draining: bool,
    /// An operator said that it is lost, with what only it had.
    pub removed: bool,
    /// The longest lease that may have been granted to it and not be over,
    /// milliseconds.
    pub lease_ms: u64,
}

/// Makes a fence row.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_fence(fence: Fence) -> Result<Vec<u8>, RecordError> {
    let Fence { session, epoch } = fence;
    encode(FENCE, &wire::FenceRow { session, epoch })
}

/// Reads a fence row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_fence(value: &[u8]) -> Result<Fence, RecordError> {
    let wire::FenceRow { session, epoch } = decode(FENCE, value)?;
    Ok(Fence { session, epoch })
}

/// Makes a member row.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_member(member: &Member) -> Result<Vec<u8>, RecordError> {
    let member = member.clone();
    let row = wire::MemberRow {
        node: member.node.to_string(),
        advertise: member.advertise,
        zone: member.zone,
        capacity_bytes: member.capacity_bytes,
        s3_address: member.s3_address,
        store: member.store,
        shards: member.shards,
        gone: member.gone,
        version: member.version,
        draining: member.draining,
        removed: member.removed,
        lease_ms: member.lease_ms,
    };
    encode(MEMBER, &row)
}

/// Reads a member row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_member(value: &[u8]) -> Result<Member, RecordError> {
    let row: wire::MemberRow = decode(MEMBER, value)?;
    Ok(Member {
        node: NodeId::new(&row.node).map_err(|error| damaged(MEMBER, error))?,
        advertise: row.advertise,
        zone: row.zone,
        capacity_bytes: row.capacity_bytes,
        s3_address: row.s3_address,
        store: row.store,
        shards: row.shards,
        version: row.version,
        gone: row.gone,
        draining: row.draining,
        removed: row.removed,
        lease_ms: row.lease_ms,
    })
}

/// Makes the row of a placement table. It fits one row: who still holds a slot is
/// left out when nobody does.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_slot_table(table: &SlotTable) -> Result<Vec<u8>, RecordError> {
    let (members, owners, yielding) = table.to_parts();
    let moving = yielding.iter().any(|byte| *byte != u8::MAX);
    let row = wire::SlotTableRow {
        epoch: table.epoch,
        members,
        owners,
        yielding: if moving { yielding } else { Vec::new() },
    };
    let value = super::with_head(&[super::SCHEMA], &row);
    super::check_size(TABLE, value.len(), TABLE_BYTES_MAX)?;
    Ok(value)
}

/// Largest table: two numbers per slot and some hundred names of members;
/// `FoundationDB` takes values of 100,000.
const TABLE_BYTES_MAX: usize = 95_000;

/// Reads the row of a placement table.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_slot_table(value: &[u8]) -> Result<SlotTable, RecordError> {
    let row: wire::SlotTableRow = decode(TABLE, value)?;
    let nobody = vec![u8::MAX; row.owners.len()];
    let yielding = match row.yielding.is_empty() {
        true => &nobody,
        false => &row.yielding,
    };
    SlotTable::from_parts(row.epoch, &row.members, &row.owners, yielding)
        .map_err(|error| damaged(TABLE, error))
}
