//! Object rows: one small row that serves HEAD, GET and LIST, and a detail in
//! rows of its own for what is large (user metadata, tags, long manifests).

use prost::Message;
use quickwater_proto::{
    Extent, ObjectHeaders, ObjectRecord, PartRecord, PersistState, UfsIdentity, Version,
};
use quickwater_rpc::records as wire;

use super::parts::{part, part_to_wire};
use super::shared::{
    checksums, checksums_to_wire, etag, etag_to_wire, extents, extents_to_wire, headers,
    headers_to_wire, id, identity, identity_to_wire, pairs, pairs_to_wire,
};
use super::{
    RecordError, check_schema, check_size, damaged, decode_versioned, encode_at, encode_versioned,
};

const ROW: &str = "object";
const DETAIL: &str = "object detail";

/// A detail up to this many bytes stays in the object row, so that a listing of
/// 1,000 objects reads a few hundred kilobytes at most.
const INLINE_BYTES_MAX: usize = 256;
/// Bytes of a detail in one row, without its schema byte.
const PIECE_BYTES_MAX: usize = super::ROW_BYTES_MAX - 1;
/// Largest detail: far above 10,000 parts, far below a transaction's 10 MB.
const DETAIL_BYTES_MAX: usize = 4 << 20;

/// An object as it is stored, and what of it the rules of other rows need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedObject {
    /// The object row; the commit fills in the version at
    /// [`super::VERSION_OFFSET`].
    pub row: Vec<u8>,
    /// The rows of its detail, if it has any.
    pub pieces: Vec<Vec<u8>>,
    /// Bytes of the object.
    pub size: u64,
    /// Where they are safe.
    pub persist: PersistState,
}

/// Where the detail of an object row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetailRef {
    /// In the keys of its rows.
    pub id: u128,
    /// How many rows.
    pub pieces: u32,
    bytes: u32,
}

/// An object row as read.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectRow {
    version: Version,
    row: wire::ObjectRow,
    detail: Option<DetailRef>,
}

/// Makes the rows of an object; a detail in rows of its own goes under
/// `detail_id`, which must be new. The record's version is not looked at.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_object(record: &ObjectRecord, detail_id: u128) -> Result<EncodedObject, RecordError> {
    let detail = detail_to_wire(record);
    let mut row = wire::ObjectRow {
        size: record.size,
        etag: Some(etag_to_wire(&record.etag)),
        modified_ms: record.modified_ms,
        checksums: checksums_to_wire(&record.checksums),
        ufs: record.ufs.as_ref().map(identity_to_wire),
        persist: persist_to_wire(record.persist).into(),
        partial: record.partial,
        detail: None,
        detail_ref: None,
    };
    let bytes = detail.encoded_len();
    check_size("headers, tags and parts", bytes, DETAIL_BYTES_MAX)?;
    let mut pieces = Vec::new();
    if bytes <= INLINE_BYTES_MAX {
        row.detail = (bytes > 0).then_some(detail);
    } else {
        pieces = detail
            .encode_to_vec()
            .chunks(PIECE_BYTES_MAX)
            .map(piece)
            .collect();
        row.detail_ref = Some(wire::DetailRef {
            id: detail_id.to_be_bytes().to_vec(),
            pieces: pieces.len() as u32,
            bytes: bytes as u32,
        });
    }
    Ok(EncodedObject {
        row: encode_versioned(ROW, &row)?,
        pieces,
        size: record.size,
        persist: record.persist,
    })
}

/// What a listing shows of an object row: no headers, tags, extents and parts.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_summary(value: &[u8]) -> Result<ObjectRecord, RecordError> {
    let (version, row): (_, wire::ObjectRowSummary) = decode_versioned(ROW, value)?;
    Ok(ObjectRecord {
        version,
        size: row.size,
        etag: etag(ROW, row.etag)?,
        modified_ms: row.modified_ms,
        headers: ObjectHeaders::default(),
        checksums: checksums(ROW, row.checksums)?,
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: row.ufs.map(identity),
        persist: persist(row.persist)?,
        partial: row.partial,
    })
}

fn piece(bytes: &[u8]) -> Vec<u8> {
    [&[super::SCHEMA], bytes].concat()
}

impl ObjectRow {
    /// Reads an object row.
    ///
    /// # Errors
    /// Another schema, or damaged.
    pub fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let (version, row): (_, wire::ObjectRow) = decode_versioned(ROW, value)?;
        let detail = row.detail_ref.as_ref().map(detail_ref).transpose()?;
        Ok(Self {
            version,
            row,
            detail,
        })
    }

    /// The commit that made it current.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The same row, of the same version and detail, once the UFS holds it.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`].
    pub fn into_persisted(self, ufs: Option<&UfsIdentity>) -> Result<Vec<u8>, RecordError> {
        let row = wire::ObjectRow {
            ufs: ufs.map(identity_to_wire),
            persist: wire::Persist::Persisted.into(),
            ..self.row
        };
        encode_at(ROW, self.version, &row)
    }

    /// Where the rest of the record is.
    #[must_use]
    pub fn detail(&self) -> Option<DetailRef> {
        self.detail
    }

    /// The record without what is in rows of its own.
    ///
    /// # Errors
    /// Damaged.
    pub fn into_summary(self) -> Result<ObjectRecord, RecordError> {
        let row = self.row;
        let base_ms = row.modified_ms;
        let detail = Detail::read(row.detail.unwrap_or_default(), base_ms)?;
        Ok(ObjectRecord {
            version: self.version,
            size: row.size,
            etag: etag(ROW, row.etag)?,
            modified_ms: base_ms,
            headers: headers(detail.headers),
            checksums: checksums(ROW, row.checksums)?,
            tags: detail.tags,
            extents: detail.extents,
            parts: detail.parts,
            ufs: row.ufs.map(identity),
            persist: persist(row.persist)?,
            partial: row.partial,
        })
    }

    /// The whole record from this row and the rows of its detail, in order
    /// (none when [`ObjectRow::detail`] says so).
    ///
    /// # Errors
    /// Damaged, or not the rows that belong to it.
    pub fn into_record(mut self, pieces: &[impl AsRef<[u8]>]) -> Result<ObjectRecord, RecordError> {
        if let Some(detail) = self.detail {
            let bytes = join(detail, pieces)?;
            let detail = wire::Detail::decode(bytes.as_slice());
            self.row.detail = Some(detail.map_err(|error| damaged(DETAIL, error))?);
        }
        self.into_summary()
    }
}

fn join(detail: DetailRef, pieces: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, RecordError> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(check_schema(DETAIL, piece.as_ref())?);
    }
    match pieces.len() == detail.pieces as usize && bytes.len() == detail.bytes as usize {
        true => Ok(bytes),
        false => Err(damaged(DETAIL, "rows are missing")),
    }
}

fn detail_ref(wire: &wire::DetailRef) -> Result<DetailRef, RecordError> {
    if wire.bytes as usize > DETAIL_BYTES_MAX || wire.pieces > wire.bytes {
        return Err(damaged(ROW, "detail beyond its limit"));
    }
    Ok(DetailRef {
        id: id(ROW, &wire.id)?,
        pieces: wire.pieces,
        bytes: wire.bytes,
    })
}

fn detail_to_wire(record: &ObjectRecord) -> wire::Detail {
    let extents_are_parts =
        !record.parts.is_empty() && part_extents(&record.parts).eq(record.extents.iter().cloned());
    let explicit = !extents_are_parts && !record.extents.is_empty();
    wire::Detail {
        headers: headers_to_wire(&record.headers),
        tags: pairs_to_wire(&record.tags),
        extents: explicit.then(|| extents_to_wire(&record.extents)),
        parts: record
            .parts
            .iter()
            .map(|part| part_to_wire(part, record.modified_ms))
            .collect(),
        extents_are_parts,
    }
}

/// The extents of an object that consists of these parts; empty ones have none.
fn part_extents(parts: &[PartRecord]) -> impl Iterator<Item = Extent> + '_ {
    let sized = parts.iter().filter(|part| part.size > 0);
    sized.map(|part| Extent {
        blob: part.blob,
        size: part.size,
    })
}

struct Detail {
    headers: Option<wire::Headers>,
    tags: Vec<(String, String)>,
    extents: Vec<Extent>,
    parts: Vec<PartRecord>,
}

impl Detail {
    fn read(wire: wire::Detail, base_ms: i64) -> Result<Self, RecordError> {
        let parts = wire.parts.into_iter().map(|one| part(DETAIL, one, base_ms));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let extents = match wire.extents {
            _ if wire.extents_are_parts => part_extents(&parts).collect(),
            Some(wire) => extents(DETAIL, &wire)?,
            None => Vec::new(),
        };
        Ok(Self {
            headers: wire.headers,
            tags: pairs(wire.tags),
            extents,
            parts,
        })
    }
}

pub(super) fn persist_to_wire(state: PersistState) -> wire::Persist {
    match state {
        PersistState::Persisted => wire::Persist::Persisted,
        PersistState::NotPersisted => wire::Persist::NotPersisted,
        PersistState::Persisting => wire::Persist::Persisting,
        PersistState::Transient => wire::Persist::Transient,
    }
}

pub(super) fn persist(number: i32) -> Result<PersistState, RecordError> {
    match wire::Persist::try_from(number) {
        Ok(wire::Persist::Persisted) => Ok(PersistState::Persisted),
        Ok(wire::Persist::NotPersisted) => Ok(PersistState::NotPersisted),
        Ok(wire::Persist::Persisting) => Ok(PersistState::Persisting),
        Ok(wire::Persist::Transient) => Ok(PersistState::Transient),
        Ok(wire::Persist::Unspecified) | Err(_) => Err(damaged(ROW, "unknown persist state")),
    }
}
