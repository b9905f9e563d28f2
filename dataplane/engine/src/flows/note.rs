//! Notes for the day the metadata are lost: what a commit made of a key that no
//! entry of the journal tells, such as a delete the UFS has not been told of yet.
//!
//! An entry of the journal lies beside the bytes of a PUT and was flushed with
//! them. A delete, an empty object, a completed upload and a change of tags have no
//! such bytes; their commit is flushed by the metadata. The note is written after
//! it and before the answer, without a flush of its own, so a power cut may take
//! the last ones. It is never replayed and never read while the metadata are there:
//! a note that cannot be written fails nothing. Absent: the rebuild.

use std::sync::atomic::Ordering;

use quickwater_hash::Md5;
use quickwater_proto::{BlobId, Bucket, BucketId, ObjectKey, ObjectRecord, Version};

use crate::engine::{Engine, World};
use crate::io::{Buffer, ChunkId, Disk, Durability, Metadata, NOTE_CHUNK};

/// The blob beside which the note of a key lies; it has no bytes.
#[must_use]
pub fn note_blob(bucket: BucketId, key: &ObjectKey) -> BlobId {
    let mut digest = Md5::new();
    digest.update(b"note");
    digest.update(&bucket.0.to_be_bytes());
    digest.update(key.as_str().as_bytes());
    BlobId(u128::from_be_bytes(digest.finish()))
}

impl<W: World> Engine<W> {
    /// Notes what the commit `version` made of a key: this record, or nothing. Under
    /// the key's slot, before the answer.
    pub(crate) async fn keep_note(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
    ) {
        if self.try_note(bucket, key, record, version).await.is_none() {
            let stats = &self.shared().stats;
            stats.notes_failed.fetch_add(1, Ordering::Relaxed);
            // An older one must not be taken for the newest.
            self.drop_note(bucket.id, key);
        }
    }

    /// `None`: there is none, for want of room or a buffer, or the disk failed.
    async fn try_note(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
    ) -> Option<()> {
        let sequence = self.shared().journal.begin();
        // Nothing is replayed of it.
        self.shared().journal.settle(sequence);
        let note = self
            .metadata()
            .note(bucket.id, key, record, version, sequence);
        let Some(note) = note.ok()? else {
            return Some(());
        };
        let disk = self.disk();
        let _space = disk.reserve(note.len() as u64, 1).ok()?;
        let mut buffer = disk.buffer(note.len()).await.ok()?;
        if buffer.capacity() < note.len() {
            return None;
        }
        buffer.set_len(note.len());
        buffer.as_mut_slice().copy_from_slice(&note);
        let place = ChunkId {
            blob: note_blob(bucket.id, key),
            index: NOTE_CHUNK,
        };
        let (_, written) = disk.write(place, buffer, Durability::Pinned).await;
        written.ok()
    }

    /// The note of a key says nothing any more: the UFS was told, or an entry of the
    /// journal is newer.
    pub(crate) fn drop_note(&self, bucket: BucketId, key: &ObjectKey) {
        self.disk().forget(note_blob(bucket, key), 0);
    }
}
