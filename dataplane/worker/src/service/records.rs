//! Records of objects as workers tell each other of them, for copies. Absent: where
//! the bytes are, which is the owner's business.

use quickwater_peer::{Record, StoredHeaders, Sum, Tag};
use quickwater_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectHeaders, ObjectRecord, PersistState,
    Version,
};

pub(super) fn record_to_wire(record: &ObjectRecord) -> Record {
    let headers = record.headers.clone();
    Record {
        size: record.size,
        etag: record.etag.as_str().to_owned(),
        modified_ms: record.modified_ms,
        headers: Some(StoredHeaders {
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_disposition: headers.content_disposition,
            content_language: headers.content_language,
            cache_control: headers.cache_control,
            expires: headers.expires,
            user: tags_to_wire(&headers.user),
        }),
        sums: record.checksums.iter().map(sum_to_wire).collect(),
        tags: tags_to_wire(&record.tags),
    }
}

/// What a copy needs of a record; `None`: it cannot be one.
pub(super) fn record_from_wire(record: Record) -> Option<ObjectRecord> {
    let headers = record.headers.unwrap_or_default();
    if record.etag.is_empty() {
        return None;
    }
    Some(ObjectRecord {
        version: Version::default(),
        size: record.size,
        etag: ETag::new(&record.etag),
        modified_ms: record.modified_ms,
        headers: ObjectHeaders {
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_disposition: headers.content_disposition,
            content_language: headers.content_language,
            cache_control: headers.cache_control,
            expires: headers.expires,
            user: tags_from_wire(headers.user),
        },
        checksums: record
            .sums
            .into_iter()
            .map(sum_from_wire)
            .collect::<Option<_>>()?,
        tags: tags_from_wire(record.tags),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    })
}

fn tags_to_wire(tags: &[(String, String)]) -> Vec<Tag> {
    let tag = |(name, value): &(String, String)| Tag {
        name: name.clone(),
        value: value.clone(),
    };
    tags.iter().map(tag).collect()
}

fn tags_from_wire(tags: Vec<Tag>) -> Vec<(String, String)> {
    tags.into_iter().map(|tag| (tag.name, tag.value)).collect()
}

fn sum_to_wire(sum: &Checksum) -> Sum {
    Sum {
        algorithm: sum.algorithm.name().to_owned(),
        parts: match sum.kind {
            ChecksumKind::FullObject => 0,
            ChecksumKind::Composite { parts } => parts.into(),
        },
        value: sum.value.clone(),
    }
}

fn sum_from_wire(sum: Sum) -> Option<Checksum> {
    let algorithm = ChecksumAlgorithm::parse(&sum.algorithm)?;
    if sum.value.len() != algorithm.value_bytes() {
        return None;
    }
    Some(Checksum {
        algorithm,
        kind: match u16::try_from(sum.parts).ok()? {
            0 => ChecksumKind::FullObject,
            parts => ChecksumKind::Composite { parts },
        },
        value: sum.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ObjectRecord {
        let pair = |name: &str| (name.to_owned(), format!("{name} value"));
        ObjectRecord {
            version: Version::default(),
            size: 77,
            etag: ETag::new("900150983cd24fb0d6963f7d28e17f72-3"),
            modified_ms: -5,
            headers: ObjectHeaders {
                content_type: Some("text/plain".into()),
                content_encoding: Some("gzip".into()),
                content_disposition: Some("inline".into()),
                content_language: Some("de".into()),
                cache_control: Some("no-store".into()),
                expires: Some("never".into()),
                user: vec![pair("a"), pair("b")],
            },
            checksums: vec![
                Checksum {
                    algorithm: ChecksumAlgorithm::Sha256,
                    kind: ChecksumKind::Composite { parts: 3 },
                    value: vec![7; 32],
                },
                Checksum {
                    algorithm: ChecksumAlgorithm::Crc64Nvme,
                    kind: ChecksumKind::FullObject,
                    value: vec![9; 8],
                },
            ],
            tags: vec![pair("c")],
            extents: Vec::new(),
            parts: Vec::new(),
            ufs: None,
            persist: PersistState::Persisted,
            partial: false,
        }
    }

    #[test]
    fn a_record_survives_the_wire() {
        assert_eq!(record_from_wire(record_to_wire(&record())), Some(record()));
    }

    #[test]
    fn what_cannot_be_a_record_is_none() {
        let mut nameless = record_to_wire(&record());
        nameless.etag.clear();
        assert_eq!(record_from_wire(nameless), None);
        let mut short = record_to_wire(&record());
        short.sums[0].value.pop();
        assert_eq!(record_from_wire(short), None);
        let mut strange = record_to_wire(&record());
        strange.sums[1].algorithm = "CRC8".into();
        assert_eq!(record_from_wire(strange), None);
    }
}
