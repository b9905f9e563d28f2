//! Records as messages, and page tokens.

use quickwater_proto::{Bucket, ETag, ObjectKey, ObjectRecord, PersistState, Version};
use quickwater_rpc::admin::{FsEntry, FsStatReply, Mount};

use crate::namespace::{Listed, ListingMarker};

pub(super) fn mount(bucket: Bucket, trouble: Option<String>) -> Mount {
    Mount {
        bucket: bucket.name.as_str().to_owned(),
        uri: bucket.ufs,
        options: bucket.options.into_iter().collect(),
        metadata_ttl_ms: bucket.metadata_ttl_ms,
        created_ms: bucket.created_ms,
        owned: bucket.owned,
        trouble: trouble.unwrap_or_default(),
    }
}

pub(super) fn line(line: Listed) -> FsEntry {
    match line {
        Listed::Object(key, record) => object(&key, &record),
        Listed::Prefix(name) => FsEntry {
            name,
            is_prefix: true,
            ..FsEntry::default()
        },
    }
}

fn object(key: &ObjectKey, record: &ObjectRecord) -> FsEntry {
    FsEntry {
        name: key.as_str().to_owned(),
        is_prefix: false,
        size: record.size,
        etag: ETag::as_str(&record.etag).to_owned(),
        modified_ms: record.modified_ms,
        persist_state: persist_state(record.persist).to_owned(),
    }
}

pub(super) fn stat(key: &ObjectKey, record: ObjectRecord) -> FsStatReply {
    let checksum = |checksum: &quickwater_proto::Checksum| {
        (
            checksum.algorithm.name().to_owned(),
            hex::encode(&checksum.value),
        )
    };
    FsStatReply {
        entry: Some(object(key, &record)),
        checksums: record.checksums.iter().map(checksum).collect(),
        parts: u32::try_from(record.parts.len()).unwrap_or(u32::MAX),
        version: version(record.version),
        persist_state: persist_state(record.persist).to_owned(),
        content_type: record.headers.content_type.unwrap_or_default(),
        user_metadata: record.headers.user.into_iter().collect(),
    }
}

pub(super) fn version(version: Version) -> String {
    format!("{:024x}", version.0)
}

pub(super) const fn persist_state(state: PersistState) -> &'static str {
    match state {
        PersistState::Persisted => "PERSISTED",
        PersistState::NotPersisted => "NOT_PERSISTED",
        PersistState::Persisting => "PERSISTING",
        PersistState::Transient => "TRANSIENT",
    }
}

/// The marker as opaque text: its kind, then its name.
pub(super) fn page_token(marker: Option<ListingMarker>) -> String {
    match marker {
        None => String::new(),
        Some(ListingMarker::Key(key)) => format!("k{key}"),
        Some(ListingMarker::Prefix(prefix)) => format!("p{prefix}"),
    }
}

/// `None`: not one of ours.
pub(super) fn marker(token: &str) -> Option<ListingMarker> {
    let (kind, name) = token.split_at_checked(1)?;
    match kind {
        "k" => Some(ListingMarker::Key(name.to_owned())),
        "p" => Some(ListingMarker::Prefix(name.to_owned())),
        _ => None,
    }
}
