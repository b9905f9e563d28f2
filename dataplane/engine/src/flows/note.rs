//! Notes for the day the metadata are lost: what a commit made of a key that no
//! entry of the journal tells, such as a delete the UFS has not been told of yet.
//!
//! An entry of the journal lies beside the bytes of a PUT and was flushed with
//! them. A delete, an empty object, a completed upload and a change of tags have no
//! such bytes; their commit is flushed by the metadata. The note is written after
//! it and before the answer, without a flush of its own, so a power cut may take
//! the last ones; the next start with the metadata writes them again. It is never
//! replayed, and nothing is answered by it while the metadata are there: a note that
//! cannot be written fails nothing, and is tried again. Absent: the rebuild.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use quickwater_proto::{BucketId, ObjectKey, ObjectRecord, PendingChange, Version, slot_of};

use crate::decisions::notes::{Due, note_blob};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{
    Buffer, ChunkId, Disk, Durability, Environment, Metadata, NOTE_CHUNK, StripePeers,
};

/// Pause between two looks at what is due.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// The longest, while there is room for nothing.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(4);
/// Notes looked at in one go.
const LOOKS_MAX: usize = 256;
/// Of these, at a time: each asks the metadata.
const LOOKS_AT_ONCE: usize = 16;

impl<W: World> Engine<W> {
    /// Notes what the commit `version` made of a key: this record, or nothing. Under
    /// the key's slot, before the answer.
    pub(crate) async fn keep_note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
    ) {
        if !self.renew_note(bucket, key, record, version).await {
            self.has_no_room(bucket, key);
        }
    }

    /// Whether a key has the note it needs.
    async fn renew_note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
    ) -> bool {
        match self.try_note(bucket, key, record, version).await {
            Some(true) => self.shared().notes.written(bucket, key),
            Some(false) => {}
            None => {
                // An older one must not be taken for the newest.
                self.forget_note(bucket, key);
                return false;
            }
        }
        true
    }

    fn has_no_room(&self, bucket: BucketId, key: &ObjectKey) {
        let stats = &self.shared().stats;
        stats.notes_failed.fetch_add(1, Ordering::Relaxed);
        self.shared().notes.no_room(bucket, key);
    }

    /// Whether there is one: nobody may want any. `None`: there is none, for want of room or
    /// a buffer, or the disk failed.
    async fn try_note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
    ) -> Option<bool> {
        let sequence = self.shared().journal.begin();
        // Nothing is replayed of it.
        self.shared().journal.settle(sequence);
        let note = self.metadata().note(bucket, key, record, version, sequence);
        let Some(note) = note.ok()? else {
            return Some(false);
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
            blob: note_blob(bucket, key),
            index: NOTE_CHUNK,
        };
        let (_, written) = disk.write(place, buffer, Durability::Pinned).await;
        written.ok().map(|()| true)
    }

    /// The note of a key says nothing any more: the UFS was told, or an entry of the
    /// journal is newer.
    pub(crate) fn drop_note(&self, bucket: BucketId, key: &ObjectKey) {
        self.disk().release(note_blob(bucket, key), 0);
        self.shared().notes.dropped(bucket, key);
    }

    /// The note of a key says nothing any more, and the change it is of has not ended by that.
    fn forget_note(&self, bucket: BucketId, key: &ObjectKey) {
        self.disk().forget(note_blob(bucket, key), 0);
        self.shared().notes.dropped(bucket, key);
    }

    /// Has the notes agree with what is pending: in slots that came and went, what a start
    /// found, and what had no room before. One shard does it for all.
    pub async fn run_note_keeper(&self, stop: impl Fn() -> bool) {
        let mut pause = LOOK_PAUSE;
        while !stop() {
            let notes = &self.shared().notes;
            let is_others = |slot| self.peers().owner_elsewhere(slot).is_some();
            notes.let_go(self.environment().monotonic(), is_others);
            let due = notes.take(LOOKS_MAX);
            let more = due.len() == LOOKS_MAX;
            let mut failed = 0;
            for some in due.chunks(LOOKS_AT_ONCE) {
                let looks = join_all(some.iter().map(|one| self.look_at_note(one))).await;
                for (one, look) in some.iter().zip(looks) {
                    let (bucket, key) = (one.place.0, &one.place.1);
                    match look {
                        Ok(true) => continue,
                        Ok(false) if one.again => notes.no_room(bucket, key),
                        Ok(false) => self.has_no_room(bucket, key),
                        Err(_) => notes.again(one.clone()),
                    }
                    failed += 1;
                }
            }
            notes.looked();
            pause = match failed > 0 && failed == due.len() {
                true => LOOK_PAUSE_MAX.min(pause * 2),
                false => LOOK_PAUSE,
            };
            if !more || failed > 0 {
                self.environment().sleep(pause).await;
            }
        }
    }

    /// Notes what is pending of a key, if it is ours. Of one that was given away what is noted
    /// says nothing any more. `false`: there is no room for the note.
    async fn look_at_note(&self, due: &Due) -> Result<bool, FlowError> {
        let (bucket, key) = (due.place.0, &due.place.1);
        let rights = &self.shared().rights;
        let is_foreign = || rights.is_foreign(slot_of(bucket, key));
        if due.given && is_foreign() {
            // Without them the next owner may not have noted anything.
            if self.metadata().pending(bucket, key).await.is_err() {
                self.shared().notes.keep_given(bucket, key);
                return Ok(true);
            }
            self.forget_note(bucket, key);
        }
        // Unless it became ours just now. Its slot may have gone while it was looked at.
        if is_foreign() {
            return Ok(true);
        }
        let _guard = self.lock_key(bucket, key).await?;
        let pending = self.metadata().pending(bucket, key).await?;
        let pending = pending.filter(|pending| match pending.change {
            PendingChange::Put { .. } | PendingChange::Hold { .. } | PendingChange::Delete => true,
            PendingChange::Settling { .. } => false,
        });
        let Some(pending) = pending else {
            self.drop_note(bucket, key);
            return Ok(true);
        };
        let record = match pending.change {
            PendingChange::Delete => None,
            _ => self.metadata().object(bucket, key).await?,
        };
        let renewed = self.renew_note(bucket, key, record.as_ref(), pending.version);
        Ok(renewed.await)
    }
}
