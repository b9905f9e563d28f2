//! Parts of uploads that are not complete: those that are here are kept, and of those that
//! are ours to see to it is noted who else has them.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use quickwater_engine::{Copied, Shared};
use quickwater_proto::{
    BlobId, Bucket, CopyOf, Holders, MetadataError, NodeId, ObjectKey, PartOf, PartRecord,
    UploadId, UploadRecord, slot_of,
};
use quickwater_worker::store::{Fate, Store};

use super::{ROWS, others_of};
use crate::serve::names::Rows;

/// A part of an upload of a bucket, and who has its bytes.
type Part<'a> = (&'a Bucket, &'a UploadRecord, PartRecord, Holders);

/// Sees to the parts of uploads that are not complete.
pub(super) struct UploadParts<'a, R> {
    pub(super) rows: &'a R,
    pub(super) store: &'a Store,
    /// This worker, if there are others.
    pub(super) node: Option<&'a NodeId>,
    pub(super) shared: &'a Shared,
    /// By the shards' clock.
    pub(super) now: Duration,
}

impl<R: Rows> UploadParts<'_, R> {
    /// Keeps the parts that are here; those held of uploads that their UFS knows are sent
    /// there.
    pub(super) async fn keep(
        &self,
        buckets: &[Bucket],
        fates: &mut HashMap<BlobId, Fate>,
    ) -> Result<()> {
        let seen = |(bucket, upload, part, holders): Part<'_>| {
            let here = self.store.holds(part.blob, part.size);
            match holders.nodes.is_empty() {
                true => {
                    fates.insert(part.blob, fate_of_part(upload, &part));
                    if here {
                        let slot = slot_of(bucket.id, &upload.key);
                        self.shared.anchor(part.blob, slot);
                    }
                }
                // Whom its row does not name has a copy that nobody counts on.
                false if here && self.node.is_some_and(|node| holders.nodes.contains(node)) => {
                    fates.insert(part.blob, Fate::Keep);
                    let (copy, bytes) = (copy_of(bucket, upload, &part), part.size);
                    self.shared.kept.keep(copy, bytes, true, self.now);
                }
                false => {}
            }
            if part.held && !upload.is_held() {
                self.shared.load_handed_over(bucket.id, upload);
            }
        };
        self.for_each(buckets, &|_| true, seen).await
    }

    /// Notes who else has the parts of uploads whose keys are ours from now on: they are copied
    /// again when one of those is lost. Those held of uploads that their UFS knows are sent
    /// there: nobody else does it any more.
    pub(super) async fn take(
        &self,
        buckets: &[Bucket],
        mine: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<()> {
        let Some(node) = self.node else {
            return Ok(());
        };
        let seen = |(bucket, upload, part, holders): Part<'_>| {
            if part.held && !upload.is_held() {
                self.shared.load_handed_over(bucket.id, upload);
            }
            if holders.nodes.is_empty() {
                return;
            }
            self.shared.kept.own(part.blob);
            if self.store.holds(part.blob, part.size) {
                let slot = slot_of(bucket.id, &upload.key);
                self.shared.anchor(part.blob, slot);
            }
            let CopyOf {
                bucket,
                key,
                part: of,
                ..
            } = copy_of(bucket, upload, &part);
            let copied = Copied {
                bucket,
                key,
                part: of,
                bytes: part.size,
                copies: holders.copies,
                others: others_of(node, &holders),
            };
            let named = holders.nodes.contains(node);
            self.shared.holders.note_row(part.blob, copied, named);
        };
        self.for_each(buckets, mine, seen).await
    }

    async fn for_each(
        &self,
        buckets: &[Bucket],
        mine: &(dyn Fn(usize) -> bool + Sync),
        mut seen: impl FnMut(Part<'_>),
    ) -> Result<()> {
        for bucket in buckets {
            let mut after: Option<(ObjectKey, UploadId)> = None;
            loop {
                let from = after.as_ref().map(|(key, id)| (key.as_str(), Some(*id)));
                let uploads = self.rows.uploads(bucket.id, "", from, ROWS).await?;
                after = uploads.last().map(|u| (u.key.clone(), u.id));
                let whole = uploads.len() < ROWS;
                for upload in uploads.iter().filter(|u| mine(slot_of(bucket.id, &u.key))) {
                    self.of_upload(bucket, upload, &mut seen).await?;
                }
                if whole {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn of_upload(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        seen: &mut impl FnMut(Part<'_>),
    ) -> Result<()> {
        let mut number = 0;
        loop {
            let (key, id) = (&upload.key, upload.id);
            let rows = self.rows.parts_held(bucket.id, key, id, number, ROWS);
            let parts = match rows.await {
                Ok(parts) => parts,
                // Another worker ended it meanwhile.
                Err(MetadataError::NoSuchUpload) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let more = parts.len() == ROWS;
            for (part, holders) in parts {
                number = part.number;
                seen((bucket, upload, part, holders));
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// A part as its owner has others keep it. Nothing of an earlier session is committed.
fn copy_of(bucket: &Bucket, upload: &UploadRecord, part: &PartRecord) -> CopyOf {
    CopyOf {
        bucket: bucket.id,
        key: upload.key.clone(),
        blob: part.blob,
        part: Some(PartOf {
            upload: upload.id,
            number: part.number,
        }),
        owner: None,
    }
}

/// The UFS has the parts of an upload it knows, but for those held when it was told.
fn fate_of_part(upload: &UploadRecord, part: &PartRecord) -> Fate {
    match upload.is_held() || part.held {
        true => Fate::Keep,
        false => Fate::Release,
    }
}

#[cfg(test)]
mod tests {
    use quickwater_controlplane::Namespace;
    use quickwater_controlplane::store::EmbeddedStore;
    use quickwater_engine::EngineConfig;
    use quickwater_proto::{BucketId, BucketName, ETag};
    use quickwater_worker::store::StoreConfig;

    use super::*;
    use crate::store::MetadataStore;

    fn shared() -> std::sync::Arc<Shared> {
        Shared::leased(EngineConfig {
            object_cache_bytes: 0,
            read_depth: 1,
            fill_run_chunks: 1,
            wait_max: Duration::from_secs(1),
            import_concurrency: 1,
            persist: Default::default(),
            stripe_bytes: None,
            hot_copies_bytes: None,
            content_matches: |_, _| true,
        })
    }

    fn bucket() -> Bucket {
        Bucket {
            id: BucketId(0),
            name: BucketName::new("abc").unwrap(),
            ufs: "file:///nowhere".into(),
            created_ms: 0,
            metadata_ttl_ms: 0,
            options: Vec::new(),
            tags: Vec::new(),
            owned: false,
        }
    }

    fn upload(key: &str, id: u128) -> UploadRecord {
        UploadRecord {
            id: UploadId(id),
            key: ObjectKey::new(key).unwrap(),
            initiated_ms: 5,
            headers: Default::default(),
            tags: Vec::new(),
            checksum: None,
            ufs_upload: UploadRecord::HELD_BACK.into(),
        }
    }

    /// What an owner of before left: some went to others, of which it had no time to send the
    /// parts.
    #[tokio::test]
    async fn held_parts_of_slots_that_are_taken_are_sent_by_who_takes_them() {
        let embedded = EmbeddedStore::in_memory().unwrap();
        let rows = Namespace::new(MetadataStore::Embedded(embedded));
        let bucket = rows.create_bucket(&bucket()).await.unwrap();
        for (key, id) in [("over", 1), ("kept", 2), ("sent", 3)] {
            let begun = upload(key, id);
            rows.create_upload(bucket.id, &begun).await.unwrap();
            let part = PartRecord {
                number: 1,
                size: 3,
                etag: ETag::new("0cc175b9c0f1b6a831c399e269772661"),
                modified_ms: 9,
                checksums: Vec::new(),
                blob: BlobId(id),
                held: true,
            };
            rows.put_part(bucket.id, &begun, &part).await.unwrap();
            let through = UploadRecord {
                ufs_upload: "theirs".into(),
                ..begun
            };
            if key != "kept" {
                let over = rows.hand_over(bucket.id, &through, UploadId(9));
                over.await.unwrap();
            }
            if key == "sent" {
                let sent = PartRecord {
                    held: false,
                    ..part
                };
                rows.put_part(bucket.id, &through, &sent).await.unwrap();
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig {
            zero_ahead: false,
            ..StoreConfig::new(dir.path(), 1 << 30, 1)
        });
        let (store, node) = (store.unwrap(), NodeId::new("n1").unwrap());
        let over = slot_of(bucket.id, &ObjectKey::new("over").unwrap());
        for (gained, count) in [(false, 0), (true, 1)] {
            let shared = shared();
            let parts = UploadParts {
                rows: &rows,
                store: &store,
                node: Some(&node),
                shared: &shared,
                now: Duration::ZERO,
            };
            let mine = |slot| (slot == over) == gained;
            let buckets = std::slice::from_ref(&bucket);
            parts.take(buckets, &mine).await.unwrap();
            assert_eq!(shared.handed_over(), count);
        }
    }
}
