//! A bucket of many objects, written as rows of the metadata alone. Absent: their
//! bytes and the UFS, which is why they are TRANSIENT: it is not asked for those.

use quickwater_controlplane::keyspace::{self, Counter};
use quickwater_controlplane::records::{VERSION_OFFSET, encode_object};
use quickwater_controlplane::store::{EmbeddedStore, Store, Transaction};
use quickwater_proto::{
    BlobId, BucketId, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Extent, ObjectHeaders,
    ObjectKey, ObjectRecord, PersistState, UfsIdentity, Version,
};

/// Objects written in one transaction.
const BATCH: u64 = 10_000;
/// Odd and no multiple of 5: multiplied by it, numbers below a power of ten come
/// out in another order, each batch spread over all keys.
const STRIDE: u64 = 6_180_339_887;
const SIZE: u64 = 150_000;

/// Objects `0..objects`, a power of ten, in mixed order, each batch over all of
/// them, so that the engine's files overlap as they do when objects come and go.
///
/// # Errors
/// The store's, or `objects` is no power of ten.
pub(crate) async fn fill(
    store: &EmbeddedStore,
    bucket: BucketId,
    objects: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    if objects.checked_ilog10().map(|e| 10_u64.pow(e)) != Some(objects) {
        return Err(format!("{objects} is no power of ten").into());
    }
    for first in (0..objects).step_by(BATCH as usize) {
        let mut transaction = store.begin();
        let numbers = first..(first + BATCH).min(objects);
        let count = (numbers.end - numbers.start).cast_signed();
        for number in numbers {
            let number = (u128::from(number) * u128::from(STRIDE) % u128::from(objects)) as u64;
            let encoded = encode_object(&record(number), u128::from(number))?;
            if !encoded.pieces.is_empty() {
                return Err("an object takes more than its row".into());
            }
            let row = keyspace::object(bucket, &key(number)?);
            transaction.set_versionstamped_value(&row, &encoded.row, VERSION_OFFSET);
        }
        let counter = |counter| keyspace::counter(bucket, counter, 0);
        transaction.add(&counter(Counter::Objects), count);
        transaction.add(&counter(Counter::Bytes), count * SIZE.cast_signed());
        transaction.commit_relaxed().await?;
    }
    Ok(())
}

/// The keys in order.
///
/// # Errors
/// None that happens.
pub(crate) fn key(number: u64) -> Result<ObjectKey, quickwater_proto::InvalidName> {
    let shard = number / 1_000;
    ObjectKey::new(&format!("train/shard-{shard:06}/sample-{number:010}.jpg"))
}

/// As long as one that a PUT left and that was persisted.
fn record(number: u64) -> ObjectRecord {
    let tag = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    ObjectRecord {
        version: Version(0),
        size: SIZE,
        etag: ETag::new(&format!("{tag:032x}")),
        modified_ms: 1_790_000_000_000,
        headers: ObjectHeaders {
            content_type: Some("image/jpeg".into()),
            ..ObjectHeaders::default()
        },
        checksums: vec![Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: number.to_be_bytes().to_vec(),
        }],
        tags: Vec::new(),
        extents: vec![Extent {
            blob: BlobId(tag),
            size: SIZE,
        }],
        parts: Vec::new(),
        ufs: Some(UfsIdentity {
            size: SIZE,
            modified_ns: 1_790_000_000_000_000_000,
            token: format!("{number:x}"),
        }),
        persist: PersistState::Transient,
        partial: false,
    }
}
