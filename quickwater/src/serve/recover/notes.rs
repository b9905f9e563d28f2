//! What is pending and told by nothing beside the store, after a start: its commit was cut
//! before its note was written, or a power cut took the note, which has no flush of its own.
//!
//! In the background, a page of the metadata at a time. What changes meanwhile is noted by
//! its commit. Absent: writing the notes, which a shard does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quickwater_controlplane::namespace::Namespace;
use quickwater_controlplane::records::JournalEntry;
use quickwater_engine::io::{ChunkId, JOURNAL_CHUNK, NOTE_CHUNK};
use quickwater_engine::{Shared, note_blob};
use quickwater_proto::{BlobId, BucketId, ObjectKey, ObjectRecord, PendingChange, PendingRecord};
use quickwater_worker::store::{Journal, Store};

use super::ROWS;
use crate::store::MetadataStore;

/// Most notes that wait to be written before the search goes on.
const WAITING_MAX: u64 = 4_096;
/// Pause until they are looked at again.
const WAITING_PAUSE: Duration = Duration::from_millis(100);
/// Pause after an error.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Has every pending change noted that neither an entry of the journal nor a note tells.
/// Goes on after errors until it is through.
pub(in crate::serve) async fn search_untold(
    namespace: Namespace<MetadataStore>,
    store: Store,
    shared: Arc<Shared>,
) {
    let mut search = Search {
        namespace,
        store,
        shared,
        after: None,
        untold: 0,
    };
    while let Err(error) = search.go_on().await {
        tracing::warn!(%error, "which changes no note tells of cannot be looked up; tried again");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    search.shared.notes.end_search();
    if search.untold > 0 {
        let untold = search.untold;
        tracing::info!(untold, "changes that no note told of are noted");
    }
}

struct Search {
    namespace: Namespace<MetadataStore>,
    store: Store,
    shared: Arc<Shared>,
    /// The last key that was looked at.
    after: Option<(BucketId, ObjectKey)>,
    untold: u64,
}

impl Search {
    async fn go_on(&mut self) -> Result<()> {
        let mut reader = self.store.records().context("no memory to read notes")?;
        loop {
            while self.shared.notes.queued() > WAITING_MAX {
                tokio::time::sleep(WAITING_PAUSE).await;
            }
            let after = self.after.as_ref().map(|(bucket, key)| (*bucket, key));
            let page = self.namespace.pending_changes(after, ROWS).await?;
            let buckets = self.namespace.buckets().await?;
            for (bucket, key, pending) in page.entries {
                // The rows of a bucket that was removed are swept some time later.
                let is_there = buckets.iter().any(|one| one.id == bucket);
                if is_there && !self.is_told(&mut reader, bucket, &key, &pending).await? {
                    self.untold += 1;
                    self.shared.notes.look_at(bucket, &key);
                }
                self.after = Some((bucket, key));
            }
            if !page.more || self.after.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether an entry or a note tells a change, as far as a rebuild has to know it.
    async fn is_told(
        &self,
        reader: &mut Journal,
        bucket: BucketId,
        key: &ObjectKey,
        pending: &PendingRecord,
    ) -> Result<bool> {
        if matches!(pending.change, PendingChange::Settling { .. }) {
            return Ok(true);
        }
        let removed = pending.change == PendingChange::Delete;
        let note = self.read(reader, note_blob(bucket, key), NOTE_CHUNK);
        if note.is_some_and(|note| note.is_of(pending.version) && note.removed == removed) {
            return Ok(true);
        }
        if removed {
            return Ok(false);
        }
        // Without a row it was changed since, and that was noted.
        let record = self.namespace.object(bucket, key).await?;
        Ok(record.is_none_or(|record| self.is_in_its_entry(reader, &record)))
    }

    /// Whether the entry beside the bytes of an object tells of it as it is: tags may have
    /// been changed since.
    fn is_in_its_entry(&self, reader: &mut Journal, record: &ObjectRecord) -> bool {
        let [one] = &*record.extents else {
            return false;
        };
        self.store.has_entry(one.blob)
            && self
                .read(reader, one.blob, JOURNAL_CHUNK)
                .and_then(|entry| entry.record().ok())
                .is_some_and(|told| told.tags == record.tags)
    }

    /// The entry or note beside a blob; `None`: there is none that can be read.
    fn read(&self, reader: &mut Journal, blob: BlobId, index: u32) -> Option<JournalEntry> {
        let read = tokio::task::block_in_place(|| reader.chunk(ChunkId { blob, index }));
        let data = read?.ok().flatten()?;
        JournalEntry::decode(&data).ok()
    }
}
