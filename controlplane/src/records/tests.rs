use proptest::prelude::*;
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Extent,
    ObjectHeaders, ObjectKey, ObjectRecord, OpenedUpload, PartRecord, PendingChange, PendingRecord,
    PersistState, UfsIdentity, UploadId, UploadRecord, Version,
};

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,12}", any::<String>()]
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((text(), text()), 0..4)
}

fn etag() -> impl Strategy<Value = ETag> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|md5| ETag::from_md5(&md5)),
        "[0-9A-Fa-f]{32}".prop_map(|tag| ETag::new(&tag)),
        "[0-9a-f]{32}-[0-9]{1,5}".prop_map(|tag| ETag::new(&tag)),
        text().prop_map(|tag| ETag::new(&tag)),
    ]
}

fn checksum() -> impl Strategy<Value = Checksum> {
    let algorithm = prop::sample::select(ChecksumAlgorithm::ALL.as_slice());
    (algorithm, any::<[u8; 32]>(), 0u16..).prop_map(|(algorithm, value, parts)| Checksum {
        algorithm,
        kind: match parts {
            0 => ChecksumKind::FullObject,
            parts => ChecksumKind::Composite { parts },
        },
        value: value[..algorithm.value_bytes()].to_vec(),
    })
}

fn checksums() -> impl Strategy<Value = Vec<Checksum>> {
    prop::collection::vec(checksum(), 0..3)
}

fn headers() -> impl Strategy<Value = ObjectHeaders> {
    let option = || proptest::option::of(text());
    (
        option(),
        option(),
        option(),
        option(),
        option(),
        option(),
        pairs(),
    )
        .prop_map(|all| ObjectHeaders {
            content_type: all.0,
            content_encoding: all.1,
            content_disposition: all.2,
            content_language: all.3,
            cache_control: all.4,
            expires: all.5,
            user: all.6,
        })
}

fn part() -> impl Strategy<Value = PartRecord> {
    (
        1..=10_000u16,
        any::<u64>(),
        etag(),
        any::<i64>(),
        checksums(),
        any::<u128>(),
    )
        .prop_map(
            |(number, size, etag, modified_ms, checksums, blob)| PartRecord {
                number,
                size,
                etag,
                modified_ms,
                checksums,
                blob: BlobId(blob),
                held: false,
            },
        )
}

fn extent() -> impl Strategy<Value = Extent> {
    (any::<u128>(), any::<u64>()).prop_map(|(blob, size)| Extent {
        blob: BlobId(blob),
        size,
    })
}

fn identity() -> impl Strategy<Value = UfsIdentity> {
    (any::<u64>(), any::<i64>(), text()).prop_map(|(size, modified_ns, token)| UfsIdentity {
        size,
        modified_ns,
        token,
    })
}

fn persist() -> impl Strategy<Value = PersistState> {
    prop::sample::select(vec![
        PersistState::Persisted,
        PersistState::NotPersisted,
        PersistState::Persisting,
        PersistState::Transient,
    ])
}

fn object() -> impl Strategy<Value = ObjectRecord> {
    let content = (
        prop::collection::vec(part(), 0..5),
        prop::collection::vec(extent(), 0..5),
        any::<bool>(),
    );
    let plain = (
        any::<u64>(),
        etag(),
        any::<i64>(),
        headers(),
        checksums(),
        pairs(),
    );
    let state = (proptest::option::of(identity()), persist(), any::<bool>());
    (plain, content, state).prop_map(|(plain, (parts, extents, of_parts), state)| ObjectRecord {
        version: Version(0),
        size: plain.0,
        etag: plain.1,
        modified_ms: plain.2,
        headers: plain.3,
        checksums: plain.4,
        tags: plain.5,
        extents: match of_parts {
            true => parts
                .iter()
                .map(|p| Extent {
                    blob: p.blob,
                    size: p.size,
                })
                .collect(),
            false => extents,
        },
        parts,
        ufs: state.0,
        persist: state.1,
        partial: state.2,
    })
}

fn read(object: &EncodedObject) -> ObjectRecord {
    ObjectRow::decode(&object.row)
        .unwrap()
        .into_record(&object.pieces)
        .unwrap()
}

proptest! {
    #[test]
    fn objects_round_trip(record in object(), id in any::<u128>(), stamp in any::<[u8; 10]>()) {
        let mut encoded = encode_object(&record, id).unwrap();
        encoded.row[VERSION_OFFSET..VERSION_OFFSET + 10].copy_from_slice(&stamp);
        let version = version_of(CommitVersion(stamp));
        prop_assert_eq!(read(&encoded), ObjectRecord { version, ..record.clone() });

        let summary = ObjectRow::decode(&encoded.row).unwrap().into_summary().unwrap();
        prop_assert_eq!((summary.version, summary.size), (version, record.size));
        prop_assert_eq!((summary.etag, summary.ufs), (record.etag, record.ufs));
        prop_assert_eq!(summary.checksums, record.checksums);
    }

    #[test]
    fn pending_changes_round_trip(
        size in any::<u64>(), since_ms in any::<i64>(), until_ms in any::<i64>(),
        superseded in any::<bool>(), version in 0u128..1 << 96,
    ) {
        for change in [
            PendingChange::Put { size },
            PendingChange::Delete,
            PendingChange::Settling { until_ms },
        ] {
            let version = Version(version);
            let pending = PendingRecord { version, change, since_ms, superseded };
            let row = encode_pending(&pending).unwrap();
            prop_assert_eq!(decode_pending(&row), Ok(pending));
        }
    }

    #[test]
    fn a_persisted_row_keeps_version_and_detail(
        record in object(), id in any::<u128>(), stamp in any::<[u8; 10]>(),
        ufs in proptest::option::of(identity()),
    ) {
        let mut encoded = encode_object(&record, id).unwrap();
        encoded.row[VERSION_OFFSET..VERSION_OFFSET + 10].copy_from_slice(&stamp);
        let before = ObjectRow::decode(&encoded.row).unwrap();
        let version = before.version();
        encoded.row = before.into_persisted(ufs.as_ref()).unwrap();
        let expected = ObjectRecord { version, ufs, persist: PersistState::Persisted, ..record };
        prop_assert_eq!(read(&encoded), expected);
    }

    #[test]
    fn journal_entries_round_trip(
        record in object(), sequence in any::<u64>(), operation in any::<u128>(),
        now_ms in any::<i64>(), bucket in any::<u64>(), name in "[a-z/]{1,40}",
        after in any::<u64>(), removed in any::<bool>(),
    ) {
        let object = encode_object(&record, operation).unwrap();
        let key = ObjectKey::new(&name).unwrap();
        let bucket = BucketId(bucket);
        let entry = JournalEntry {
            sequence, operation, now_ms, bucket, key, object, after, removed,
        };
        let bytes = encode_journal_entry(entry.clone()).unwrap();
        prop_assert_eq!(&decode_journal_entry(&bytes).unwrap(), &entry);
        prop_assert_eq!(encode_note(entry).unwrap(), bytes);
    }

    #[test]
    fn known_changes_round_trip(
        after in any::<u64>(), sequence in any::<u64>(), has_ended in any::<bool>(),
        source in any::<u32>(), blob in any::<u128>(), is_note in any::<bool>(),
    ) {
        let blob = BlobId(blob);
        let known = Known { after, sequence, has_ended, source, blob, is_note, at: after };
        prop_assert_eq!(decode_known(&encode_known(&known).unwrap()), Ok(known));
    }

    #[test]
    fn parts_round_trip(part in part(), held in any::<bool>()) {
        let part = PartRecord { held, ..part };
        prop_assert_eq!(decode_part(&encode_part(&part).unwrap()).unwrap(), part);
    }

    #[test]
    fn opened_uploads_round_trip(
        id in any::<u128>(), version in proptest::option::of(any::<u128>()),
        name in proptest::option::of(text()), times in any::<(i64, i64)>(), asked in any::<u32>(),
    ) {
        let opened = OpenedUpload {
            id: UploadId(id),
            key: ObjectKey::new("a/b").unwrap(),
            version: version.map(Version),
            ufs_upload: name,
            begun_ms: times.0,
            asked_ms: times.1,
            asked,
        };
        prop_assert_eq!(decode_opened(&encode_opened(&opened).unwrap()), Ok(opened));
    }

    #[test]
    fn uploads_round_trip(
        headers in headers(), tags in pairs(), ufs_upload in text(), id in any::<u128>(),
        initiated_ms in any::<i64>(), full in any::<bool>(),
        algorithm in proptest::option::of(prop::sample::select(ChecksumAlgorithm::ALL.as_slice())),
    ) {
        let upload = UploadRecord {
            id: UploadId(id),
            key: ObjectKey::new("k\0/\u{10ffff}").unwrap(),
            initiated_ms,
            headers,
            tags,
            checksum: algorithm.map(|algorithm| (algorithm, full)),
            ufs_upload,
        };
        prop_assert_eq!(decode_upload(&encode_upload(&upload).unwrap()).unwrap(), upload);
    }

    #[test]
    fn buckets_round_trip(
        id in any::<u64>(), ufs in text(), created_ms in any::<i64>(), metadata_ttl_ms in any::<u64>(),
        options in pairs(), tags in pairs(), owned in any::<bool>(),
    ) {
        let name = BucketName::new("abc").unwrap();
        let id = BucketId(id);
        let bucket = Bucket { id, name, ufs, created_ms, metadata_ttl_ms, options, tags, owned };
        prop_assert_eq!(decode_bucket(&encode_bucket(&bucket).unwrap()).unwrap(), bucket);
    }

    #[test]
    fn any_bytes_decode_or_fail(schema in 0u8..3, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let value = [&[schema], bytes.as_slice()].concat();
        let _ = (decode_pending(&value), decode_opened(&value));
        let _ = decode_journal_entry(&value);
        if let Ok(row) = ObjectRow::decode(&value) {
            let _ = row.clone().into_record(&[&value]);
            let _ = row.into_summary();
        }
        let _ = (decode_part(&value), decode_upload(&value), decode_bucket(&value));
        let _ = (decode_bucket_id(&value), decode_operation(&value), decode_completed(&value));
    }
}

#[test]
fn outcomes_round_trip() {
    let mut row = encode_operation(7).unwrap();
    row[VERSION_OFFSET..VERSION_OFFSET + 10].copy_from_slice(&[9; 10]);
    assert_eq!(
        decode_operation(&row).unwrap(),
        (7, version_of(CommitVersion([9; 10])))
    );
    let completed = Completed {
        key: ObjectKey::new("k").unwrap(),
        etag: ETag::new("abc-2"),
        expires_ms: 12,
    };
    assert_eq!(
        decode_completed(&encode_completed(&completed).unwrap()).unwrap(),
        completed
    );
}

#[test]
fn versions_order_as_commits() {
    let earlier = version_of(CommitVersion::new(1, u16::MAX));
    let later = version_of(CommitVersion::new(2, 0));
    assert!(earlier < later);
    assert_eq!(later.0, (2u128 << 16) << 16);
}

#[test]
fn another_schema_is_named() {
    let error = decode_bucket(&[9, 1, 2]).unwrap_err();
    assert_eq!(
        error,
        RecordError::UnknownSchema {
            row: "bucket",
            found: 9
        }
    );
    let mut row = encode_object(&small(), 1).unwrap().row;
    row[0] = 0;
    assert_eq!(
        ObjectRow::decode(&row).unwrap_err(),
        RecordError::UnknownSchema {
            row: "object",
            found: 0
        }
    );
    assert!(matches!(
        decode_bucket(&[]),
        Err(RecordError::Damaged { .. })
    ));
}

#[test]
fn lost_pieces_are_noticed() {
    let encoded = encode_object(&with_parts(2_000), 1).unwrap();
    assert!(encoded.pieces.len() > 1);
    let row = ObjectRow::decode(&encoded.row).unwrap();
    let error = row.into_record(&encoded.pieces[1..]).unwrap_err();
    assert!(matches!(
        error,
        RecordError::Damaged {
            row: "object detail",
            ..
        }
    ));
}

#[test]
fn common_objects_are_small_rows() {
    let encoded = encode_object(&small(), 1).unwrap();
    assert!(encoded.pieces.is_empty());
    assert!(encoded.row.len() <= 200, "{} bytes", encoded.row.len());
}

#[test]
fn large_user_metadata_leaves_the_row_small() {
    let mut record = small();
    record.headers.user = vec![("m".repeat(1_000), "v".repeat(1_000))];
    let encoded = encode_object(&record, 1).unwrap();
    assert_eq!(encoded.pieces.len(), 1);
    assert!(encoded.row.len() <= 200);
    assert_eq!(read(&encoded), record);
}

#[test]
fn ten_thousand_parts_stay_below_a_megabyte() {
    let record = with_parts(10_000);
    let encoded = encode_object(&record, 1).unwrap();
    let bytes: usize = encoded.pieces.iter().map(Vec::len).sum();
    assert!(bytes < 1_000_000, "{bytes} bytes");
    assert!(
        encoded
            .pieces
            .iter()
            .all(|piece| piece.len() <= ROW_BYTES_MAX)
    );
    assert!(encoded.row.len() <= 300);
    assert_eq!(read(&encoded), record);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut record = small();
    record.headers.content_type = Some("x".repeat(5 << 20));
    assert!(matches!(
        encode_object(&record, 1),
        Err(RecordError::TooLarge { .. })
    ));
    let mut record = small();
    record.etag = ETag::new(&"x".repeat(ROW_BYTES_MAX));
    assert!(matches!(
        encode_object(&record, 1),
        Err(RecordError::TooLarge { .. })
    ));
}

fn small() -> ObjectRecord {
    ObjectRecord {
        version: Version(0),
        size: 10_240,
        etag: ETag::from_md5(&[7; 16]),
        modified_ms: 1_790_000_000_000,
        headers: ObjectHeaders {
            content_type: Some("application/octet-stream".into()),
            ..ObjectHeaders::default()
        },
        checksums: vec![crc64(1)],
        tags: Vec::new(),
        extents: vec![Extent {
            blob: BlobId(u128::MAX),
            size: 10_240,
        }],
        parts: Vec::new(),
        ufs: Some(UfsIdentity {
            size: 10_240,
            modified_ns: 1_790_000_000_000_000_000,
            token: "18446744073709551615".into(),
        }),
        persist: PersistState::Persisted,
        partial: false,
    }
}

fn crc64(seed: u8) -> Checksum {
    Checksum {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        kind: ChecksumKind::FullObject,
        value: vec![seed; 8],
    }
}

/// As large as parts get: SHA-256 each.
fn with_parts(count: u16) -> ObjectRecord {
    let sha256 = |seed: u8| Checksum {
        algorithm: ChecksumAlgorithm::Sha256,
        kind: ChecksumKind::FullObject,
        value: vec![seed; 32],
    };
    let parts: Vec<_> = (1..=count)
        .map(|number| PartRecord {
            number,
            size: 5 << 30,
            etag: ETag::from_md5(&[number as u8; 16]),
            modified_ms: 1_790_000_000_000 - i64::from(number) * 60_000,
            checksums: vec![sha256(number as u8)],
            blob: BlobId(u128::from(number) << 64),
            held: false,
        })
        .collect();
    let extents = parts
        .iter()
        .map(|p| Extent {
            blob: p.blob,
            size: p.size,
        })
        .collect();
    ObjectRecord {
        parts,
        extents,
        etag: ETag::new("0123-9"),
        ..small()
    }
}
