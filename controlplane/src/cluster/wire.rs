//! Metadata calls and answers as messages, both ways. Rows travel as they are
//! stored, so they carry their schema. Absent: what a call does.

use quickwater_proto::{
    BlobId, BucketId, ChangeOf, CopyAt, ETag, MetadataError, NodeId, ObjectKey, ObjectRecord,
    PartOf, PutCondition, UfsIdentity, UploadId, Version,
};
use quickwater_rpc::cluster as wire;
use wire::condition::Kind;

use crate::records::{
    EncodedObject, ObjectRow, RecordError, VERSION_OFFSET, decode_summary, encode_object,
};

/// Largest message of calls or answers, bytes: above a page of rows or an object with
/// ten thousand parts.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A call or an answer that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not understood: {0}")]
pub(crate) struct Mistaken(pub(crate) String);

impl Mistaken {
    pub(crate) fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

impl From<RecordError> for Mistaken {
    fn from(error: RecordError) -> Self {
        Self::new(error)
    }
}

impl From<Mistaken> for MetadataError {
    fn from(error: Mistaken) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Sixteen bytes.
pub(crate) fn number_to_wire(number: u128) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

pub(crate) fn number(bytes: &[u8]) -> Result<u128, Mistaken> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| Mistaken::new("sixteen bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

pub(crate) fn key(text: &str) -> Result<ObjectKey, Mistaken> {
    ObjectKey::new(text).map_err(Mistaken::new)
}

/// An object as a row of its version, and the rows of its detail.
pub(crate) fn object_to_wire(record: &ObjectRecord) -> Result<wire::Object, RecordError> {
    let EncodedObject { row, pieces, .. } = encode_object(record, 0)?;
    let row = stamped(row, record.version);
    Ok(wire::Object { row, pieces })
}

/// Fills in the version as a commit does.
fn stamped(mut row: Vec<u8>, version: Version) -> Vec<u8> {
    let bytes = version.0.to_be_bytes();
    for (place, byte) in row[VERSION_OFFSET..].iter_mut().zip(&bytes[4..]) {
        *place = *byte;
    }
    row
}

pub(crate) fn object(object: &wire::Object) -> Result<ObjectRecord, Mistaken> {
    Ok(ObjectRow::decode(&object.row)?.into_record(&object.pieces)?)
}

/// A line of a listing: what [`decode_summary`] reads.
pub(crate) fn line_to_wire(
    key: &ObjectKey,
    record: &ObjectRecord,
) -> Result<wire::Entry, RecordError> {
    Ok(wire::Entry {
        bucket: 0,
        key: key.as_str().to_owned(),
        row: stamped(encode_object(record, 0)?.row, record.version),
        ..wire::Entry::default()
    })
}

pub(crate) fn line(entry: &wire::Entry) -> Result<(ObjectKey, ObjectRecord), Mistaken> {
    Ok((key(&entry.key)?, decode_summary(&entry.row)?))
}

pub(crate) fn row_entry(row: Vec<u8>) -> wire::Entry {
    wire::Entry {
        row,
        ..wire::Entry::default()
    }
}

pub(crate) fn condition_to_wire(condition: &PutCondition) -> wire::Condition {
    let (kind, etag, version) = match condition {
        PutCondition::None => (Kind::None, "", Vec::new()),
        PutCondition::Absent => (Kind::Absent, "", Vec::new()),
        PutCondition::Match(etag) => (Kind::Match, etag.as_str(), Vec::new()),
        PutCondition::Present => (Kind::Present, "", Vec::new()),
        PutCondition::Version(version) => (Kind::Version, "", number_to_wire(version.0)),
    };
    wire::Condition {
        kind: kind.into(),
        etag: etag.to_owned(),
        version,
    }
}

pub(crate) fn condition(condition: Option<&wire::Condition>) -> Result<PutCondition, Mistaken> {
    let Some(condition) = condition else {
        return Ok(PutCondition::None);
    };
    // A condition that is not known must not be taken for none.
    let kind = Kind::try_from(condition.kind).map_err(Mistaken::new)?;
    Ok(match kind {
        Kind::None => PutCondition::None,
        Kind::Absent => PutCondition::Absent,
        Kind::Match => PutCondition::Match(ETag::new(&condition.etag)),
        Kind::Present => PutCondition::Present,
        Kind::Version => PutCondition::Version(Version(number(&condition.version)?)),
    })
}

pub(crate) fn pairs_to_wire(pairs: &[(String, String)]) -> Vec<wire::Pair> {
    let pair = |(name, value): &(String, String)| wire::Pair {
        name: name.clone(),
        value: value.clone(),
    };
    pairs.iter().map(pair).collect()
}

pub(crate) fn pairs(pairs: &[wire::Pair]) -> Vec<(String, String)> {
    let pair = |pair: &wire::Pair| (pair.name.clone(), pair.value.clone());
    pairs.iter().map(pair).collect()
}

pub(crate) fn identity_to_wire(identity: &UfsIdentity) -> wire::UfsIdentity {
    wire::UfsIdentity {
        size: identity.size,
        modified_ns: identity.modified_ns,
        token: identity.token.clone(),
    }
}

pub(crate) fn identity(identity: &wire::UfsIdentity) -> UfsIdentity {
    UfsIdentity {
        size: identity.size,
        modified_ns: identity.modified_ns,
        token: identity.token.clone(),
    }
}

pub(crate) fn error_to_wire(error: &MetadataError) -> wire::Answer {
    use wire::ErrorKind as E;
    let (kind, message) = match error {
        MetadataError::NoSuchBucket => (E::NoSuchBucket, ""),
        MetadataError::BucketExists => (E::BucketExists, ""),
        MetadataError::LocationOverlaps(text) => (E::LocationOverlaps, text.as_str()),
        MetadataError::BucketNotEmpty => (E::BucketNotEmpty, ""),
        MetadataError::NoSuchUpload => (E::NoSuchUpload, ""),
        MetadataError::ConditionFailed => (E::ConditionFailed, ""),
        MetadataError::NoSuchObject => (E::NoSuchObject, ""),
        MetadataError::InvalidPart => (E::InvalidPart, ""),
        MetadataError::TooLarge(text) => (E::TooLarge, text.as_str()),
        MetadataError::Unavailable(text) => (E::Unavailable, text.as_str()),
        MetadataError::Unknown(text) => (E::Unknown, text.as_str()),
    };
    wire::Answer {
        error: kind.into(),
        message: message.to_owned(),
        ..wire::Answer::default()
    }
}

/// What an answer says went wrong.
pub(crate) fn error(answer: &wire::Answer) -> Option<MetadataError> {
    use wire::ErrorKind as E;
    let text = || answer.message.clone();
    Some(match E::try_from(answer.error) {
        Ok(E::ErrorNone) => return None,
        Ok(E::NoSuchBucket) => MetadataError::NoSuchBucket,
        Ok(E::BucketExists) => MetadataError::BucketExists,
        Ok(E::LocationOverlaps) => MetadataError::LocationOverlaps(text()),
        Ok(E::BucketNotEmpty) => MetadataError::BucketNotEmpty,
        Ok(E::NoSuchUpload) => MetadataError::NoSuchUpload,
        Ok(E::ConditionFailed) => MetadataError::ConditionFailed,
        Ok(E::NoSuchObject) => MetadataError::NoSuchObject,
        Ok(E::InvalidPart) => MetadataError::InvalidPart,
        Ok(E::TooLarge) => MetadataError::TooLarge(text()),
        Ok(E::Unavailable) => MetadataError::Unavailable(text()),
        // Of an error nobody knows it is not known what it leaves behind.
        Ok(E::Unknown) | Err(_) => MetadataError::Unknown(text()),
    })
}

pub(crate) fn copy_to_wire(copy: &CopyAt) -> wire::CopyAt {
    wire::CopyAt {
        node: copy.node.to_string(),
        session: copy.session,
    }
}

pub(crate) fn change_of_to_wire(change: ChangeOf) -> wire::ChangeOf {
    match change {
        ChangeOf::Unknown => wire::ChangeOf::Unspecified,
        ChangeOf::Pending => wire::ChangeOf::Pending,
        ChangeOf::Ended => wire::ChangeOf::Ended,
    }
}

pub(crate) fn change_of(change: wire::ChangeOf) -> ChangeOf {
    match change {
        wire::ChangeOf::Unspecified => ChangeOf::Unknown,
        wire::ChangeOf::Pending => ChangeOf::Pending,
        wire::ChangeOf::Ended => ChangeOf::Ended,
    }
}

pub(crate) fn copies(copies: &[wire::CopyAt]) -> Result<Vec<CopyAt>, Mistaken> {
    let copy = |copy: &wire::CopyAt| {
        Ok(CopyAt {
            node: NodeId::new(&copy.node).map_err(Mistaken::new)?,
            session: copy.session,
        })
    };
    copies.iter().map(copy).collect()
}

pub(crate) fn upload_id(bytes: &[u8]) -> Result<UploadId, Mistaken> {
    Ok(UploadId(number(bytes)?))
}

/// The part that a call is about; none: it is about no part.
pub(crate) fn part_of(call: &wire::Call) -> Result<Option<PartOf>, Mistaken> {
    if call.upload.is_empty() || call.part_number == 0 {
        return Ok(None);
    }
    Ok(Some(PartOf {
        upload: upload_id(&call.upload)?,
        number: u16::try_from(call.part_number).map_err(Mistaken::new)?,
    }))
}

/// The same call about a part.
pub(crate) fn about_part(call: wire::Call, part: Option<PartOf>) -> wire::Call {
    match part {
        None => call,
        Some(part) => wire::Call {
            upload: number_to_wire(part.upload.0),
            part_number: part.number.into(),
            ..call
        },
    }
}

/// A random id for a call.
pub(crate) fn random_id() -> Result<u128, MetadataError> {
    let id = BlobId::random().map_err(|error| MetadataError::Unavailable(error.to_string()))?;
    Ok(id.0)
}

/// A call about a key.
pub(crate) fn about(operation: wire::Operation, bucket: BucketId, key: &ObjectKey) -> wire::Call {
    wire::Call {
        operation: operation.into(),
        bucket: bucket.0,
        key: key.as_str().to_owned(),
        ..wire::Call::default()
    }
}

/// Whether sending it twice could do it twice.
pub(crate) fn changes(operation: wire::Operation) -> bool {
    use wire::Operation as O;
    match operation {
        O::Unspecified
        | O::Bucket
        | O::Buckets
        | O::Object
        | O::Pending
        | O::PendingChanges
        | O::Flush
        | O::Scan
        | O::ScanFolded
        | O::Opened
        | O::Upload
        | O::Parts
        | O::Uploads
        | O::Completed
        | O::Policies
        | O::Names
        | O::Directory
        | O::CopyState
        | O::Lost => false,
        O::CreateBucket
        | O::DeleteBucket
        | O::SetBucketTags
        | O::CommitObject
        | O::RemoveObject
        | O::CommitEntry
        | O::RemoveObjectPending
        | O::EndPending
        | O::NoteRequest
        | O::NoteOpened
        | O::ForgetOpened
        | O::CreateUpload
        | O::PutPart
        | O::HandOver
        | O::CompleteUpload
        | O::AbortUpload
        | O::SetHolders
        | O::SetDirectory => true,
    }
}
