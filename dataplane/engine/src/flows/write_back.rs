//! PUT, write-back: acked when the bytes and the commit are flushed here, with one
//! flush for both; the UFS is told later (`persist`). Absent: the UFS.
//!
//! The commit is written as an entry beside the data before it is applied to the
//! metadata, which flushes it later. Should we crash in between, the entry is
//! replayed. So an entry that must not be replayed is voided before the key's
//! slot is given to anybody else.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use quickwater_proto::{
    BlobId, Bucket, BucketId, CHUNK_BYTES, Committed, CopyAt, CopyOf, ETag, Extent, MetadataError,
    ObjectKey, ObjectRecord, PathPolicy, PendingChange, PendingRecord, PersistState, PutCondition,
    Version,
};

use crate::decisions::slots::{SlotGuard, Slots};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::pinned::Pinned;
use crate::flows::put::{PutError, PutObject};
use crate::flows::read::BufferOf;
use crate::io::{
    Body, BodyDigests, Buffer, ChunkId, Copies, Disk, Durability, Environment, JOURNAL_CHUNK,
    Metadata, Peers,
};

/// Attempts to learn what became of a commit before its key is given up on.
const COMMIT_ATTEMPTS_MAX: usize = 3;

impl<W: World> Engine<W> {
    pub(crate) async fn put_back<B: Body<Buffer = BufferOf<W>>>(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        put: PutObject,
        body: &mut B,
        (persist, policy): (PersistState, &PathPolicy),
    ) -> Result<Arc<ObjectRecord>, PutError<B::Error>> {
        let size = body.length();
        let mut pinned = Pinned::new(self);
        // Before the body is asked for: without room for them nothing is taken in.
        let copies = pinned.as_copy(size, None);
        let begun = self.begin_copies(bucket, key, policy, copies);
        pinned.copies = begun.await?;
        let received = self.receive_pinned(body, &mut pinned).await;
        let (last, digests) = received.inspect_err(|_| pinned.discard())?;
        let record = ObjectRecord {
            version: Version::default(),
            size,
            etag: ETag::from_md5(&digests.md5),
            modified_ms: self.environment().wall_ms(),
            headers: put.headers,
            checksums: digests.checksums,
            tags: put.tags,
            extents: Vec::new(),
            parts: Vec::new(),
            ufs: None,
            persist,
            partial: false,
        };
        let committed = self.commit_back(bucket, key, record, &put.condition, pinned, last);
        Ok(committed.await?)
    }

    /// Takes the body in: every chunk is written while the next one comes, but for
    /// the last, which is given back to be written together with the commit.
    pub(crate) async fn receive_pinned<B: Body<Buffer = BufferOf<W>>>(
        &self,
        body: &mut B,
        pinned: &mut Pinned<W>,
    ) -> Result<(Option<BufferOf<W>>, BodyDigests), PutError<B::Error>> {
        let mut held: Option<BufferOf<W>> = None;
        loop {
            let next = match held.take() {
                Some(buffer) if buffer.as_slice().len() == CHUNK_BYTES as usize => {
                    // A full chunk may be the last one: the body tells.
                    if self.is_last(body, pinned) {
                        held = Some(buffer);
                        body.next().await
                    } else {
                        let write = pinned.write_all(buffer, Durability::Pinned);
                        let (next, written) = join(body.next(), write).await;
                        written?;
                        next
                    }
                }
                None => body.next().await,
                short => {
                    held = short;
                    body.next().await
                }
            };
            match next.map_err(PutError::Body)? {
                None => break,
                // Chunks are found by their number: only the last may be short.
                Some(_) if held.is_some() => {
                    let text = "a body gave a short piece before its end";
                    return Err(FlowError::Invalid(text.into()).into());
                }
                Some(buffer) => held = Some(buffer),
            }
        }
        let digests = body.finish().map_err(PutError::Body)?;
        Ok((held, digests))
    }

    /// Whether the chunk after those written is the last of the body.
    fn is_last<B: Body>(&self, body: &B, pinned: &Pinned<W>) -> bool {
        u64::from(pinned.chunks + 1) * u64::from(CHUNK_BYTES) >= body.length()
    }

    /// Flushes the last chunk and the commit together, then makes it current.
    async fn commit_back(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        mut record: ObjectRecord,
        condition: &PutCondition,
        mut pinned: Pinned<W>,
        last: Option<BufferOf<W>>,
    ) -> Result<Arc<ObjectRecord>, FlowError> {
        let guard = self.lock_key(bucket.id, key).await;
        let guard = guard.inspect_err(|_| pinned.discard())?;
        // Before the entry is there: should the slot be lost, it is let go of as one that
        // is not committed any more.
        let begun = self.peers().itself();
        let holds = self.check_condition(bucket, key, condition, &guard).await;
        holds.inspect_err(|_| pinned.discard())?;
        guard.mark_changed();
        let Some(last) = last else {
            // Nothing beside which the commit could be written.
            let committed = self
                .changes(bucket.id, key)
                .commit_object(bucket.id, key, &record, &PutCondition::None)
                .await;
            return match committed {
                Ok(committed) => {
                    let version = committed.version;
                    self.keep_note(bucket.id, key, Some(&record), version).await;
                    Ok(self.made_current(bucket, key, record, committed, &guard))
                }
                Err(error) => Err(self.give_up_change(bucket, key, error, guard)),
            };
        };
        record.extents = vec![Extent {
            blob: pinned.blob,
            size: record.size,
        }];
        let sequence = self.shared().journal.begin();
        let entry = self
            .metadata()
            .journal_entry(bucket.id, key, &record, sequence);
        let entry = entry.inspect_err(|_| {
            self.shared().journal.settle(sequence);
            pinned.discard();
        })?;
        let owner = pinned.copies.as_ref().and_then(Copies::owner);
        let nodes = pinned.copies.as_ref().map(Copies::nodes);
        let nodes = nodes.unwrap_or_default();
        let written = self.write_entry(&mut pinned, last, &entry).await;
        let record_bytes = record.size;
        let (copies, outcome) = match written {
            Ok(copies) => {
                let slot = Slots::of_key(bucket.id, key);
                self.shared().anchor(pinned.blob, slot);
                let sessions: Vec<CopyAt> = copies.iter().cloned().chain(owner).collect();
                let place = (bucket.id, key);
                let applied = self.apply(place, entry, &sessions, begun.as_ref()).await;
                (copies, applied)
            }
            Err(error) => (Vec::new(), Err(Unapplied::Never(error))),
        };
        match outcome {
            Ok(committed) => {
                let body = pinned.as_copy(record.size, None);
                self.note_copies((bucket.id, key), body, &copies);
                self.shared().journal.settle(sequence);
                self.drop_note(bucket.id, key);
                Ok(self.made_current(bucket, key, record, committed, &guard))
            }
            Err(Unapplied::Never(error)) => {
                self.shared().holders.tell(pinned.blob, &nodes);
                if self.void(&pinned).await {
                    self.shared().journal.settle(sequence);
                    pinned.discard();
                    return Err(error);
                }
                self.leave_unsettled((bucket, key), (pinned.blob, record_bytes));
                self.distrust(bucket.id, key);
                guard.keep();
                Err(FlowError::Unknown(error.to_string()))
            }
            Err(Unapplied::Unknown(text)) => {
                self.leave_unsettled((bucket, key), (pinned.blob, record_bytes));
                self.distrust(bucket.id, key);
                guard.keep();
                Err(FlowError::Unknown(text))
            }
        }
    }

    /// Writes the last chunk and the entry so that one flush covers both, here and
    /// wherever copies are; answers these.
    async fn write_entry(
        &self,
        pinned: &mut Pinned<W>,
        last: BufferOf<W>,
        entry: &Bytes,
    ) -> Result<Vec<CopyAt>, FlowError> {
        let copies = match pinned.copies.take() {
            Some(copies) => Some((copies, self.duplicate(&last).await?)),
            None => None,
        };
        let there = async {
            let Some((mut copies, last)) = copies else {
                return Ok(Vec::new());
            };
            copies.send(last.into_bytes()).await?;
            copies.finish(entry.clone()).await
        };
        let (here, there) = join(self.write_entry_here(pinned, last, entry), there).await;
        here?;
        there
    }

    /// Writes the last chunk of a body beside which no commit is kept, and flushes all of it,
    /// here and wherever copies are; answers these.
    pub(crate) async fn write_last(
        &self,
        pinned: &mut Pinned<W>,
        last: BufferOf<W>,
    ) -> Result<Vec<CopyAt>, FlowError> {
        let copies = match pinned.copies.take() {
            Some(copies) => Some((copies, self.duplicate(&last).await?)),
            None => None,
        };
        let there = async {
            let Some((mut copies, last)) = copies else {
                return Ok(Vec::new());
            };
            copies.send(last.into_bytes()).await?;
            copies.finish(Bytes::new()).await
        };
        let (here, there) = join(pinned.write(last, Durability::Flushed), there).await;
        here?;
        there
    }

    /// The same bytes in another buffer of the store's: what is sent elsewhere while it is
    /// written here counts like everything else that is in memory.
    async fn duplicate(&self, buffer: &BufferOf<W>) -> Result<BufferOf<W>, FlowError> {
        let bytes = buffer.as_slice();
        let mut other = self.disk().buffer(bytes.len()).await?;
        other.set_len(bytes.len());
        other.as_mut_slice().copy_from_slice(bytes);
        Ok(other)
    }

    async fn write_entry_here(
        &self,
        pinned: &mut Pinned<W>,
        last: BufferOf<W>,
        entry: &Bytes,
    ) -> Result<(), FlowError> {
        let mut buffer = self.disk().buffer(entry.len()).await?;
        if buffer.capacity() < entry.len() {
            return Err(FlowError::TooLarge("headers and tags of the object".into()));
        }
        buffer.set_len(entry.len());
        buffer.as_mut_slice().copy_from_slice(entry);
        let place = ChunkId {
            blob: pinned.blob,
            index: JOURNAL_CHUNK,
        };
        let entry = self.disk().write(place, buffer, Durability::Flushed);
        // Queued first, so that the entry's flush covers it.
        let (data, (_, entry)) = join(pinned.write(last, Durability::Pinned), entry).await;
        data?;
        Ok(entry?)
    }

    /// The bytes of a commit that may be made, or not, until this session is over: among
    /// other workers they are from now on kept like copies for whoever has the key then,
    /// and go when the metadata do not name them. Alone, a restart sees to them.
    fn leave_unsettled(&self, (bucket, key): (&Bucket, &ObjectKey), (blob, bytes): (BlobId, u64)) {
        let Some(owner) = self.peers().itself() else {
            return;
        };
        let of = CopyOf {
            bucket: bucket.id,
            key: key.clone(),
            blob,
            part: None,
            owner: Some(owner),
        };
        let now = self.environment().monotonic();
        self.shared().kept.keep(of, bytes, false, now);
    }

    /// Applies a flushed entry to the metadata.
    async fn apply(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        entry: Bytes,
        copies: &[CopyAt],
        begun: Option<&CopyAt>,
    ) -> Result<Committed, Unapplied> {
        let mut why = String::new();
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let metadata = self.changes(bucket, key);
            let applied = match copies {
                [] => metadata.commit_journaled(entry.clone(), begun).await,
                copies => metadata.commit_copied(entry.clone(), copies).await,
            };
            match applied {
                Ok(committed) => return Ok(committed),
                Err(MetadataError::Unknown(text)) => why = text,
                // After an unknown outcome only the entry's own commit settles it.
                Err(_) if !why.is_empty() => {}
                Err(error) => return Err(Unapplied::Never(error.into())),
            }
        }
        Err(Unapplied::Unknown(why))
    }

    /// Makes sure that an entry is never replayed. An empty entry says so.
    async fn void(&self, pinned: &Pinned<W>) -> bool {
        let Ok(mut buffer) = self.disk().buffer(0).await else {
            return false;
        };
        buffer.set_len(0);
        let place = ChunkId {
            blob: pinned.blob,
            index: JOURNAL_CHUNK,
        };
        let (_, voided) = self.disk().write(place, buffer, Durability::Flushed).await;
        voided.is_ok()
    }

    /// After the commit of a change that the UFS must be told of has failed. If it
    /// may have been made all the same, the queue does not know what is pending, nor
    /// may the UFS be believed: the key is nobody's until the slot is taken in anew.
    pub(crate) fn give_up_change(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        error: MetadataError,
        guard: SlotGuard<'_>,
    ) -> FlowError {
        self.distrust(bucket.id, key);
        if let MetadataError::Unknown(_) = error {
            guard.keep();
        }
        error.into()
    }

    /// What follows a commit, under the key's slot: memory, the queue, old bytes.
    pub(crate) fn made_current(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        mut record: ObjectRecord,
        committed: Committed,
        guard: &SlotGuard<'_>,
    ) -> Arc<ObjectRecord> {
        record.version = committed.version;
        let slot = Slots::of_key(bucket.id, key);
        self.shared().transient.add(&record, slot);
        if let Some(old) = &committed.replaced {
            self.forget_replaced(old, &record);
        }
        let record = Arc::new(record);
        self.remember(bucket.id, key, Some(Arc::clone(&record)), guard);
        let size = record.size;
        match record.persist {
            PersistState::NotPersisted | PersistState::Persisting => {
                self.told_later(bucket, key, record.version, PendingChange::Put { size });
            }
            // An older change waits in vain now, but requests of it may live.
            PersistState::Transient if self.shared().persist.pending(bucket.id, key).is_some() => {
                let until_ms = self.environment().wall_ms();
                let change = PendingChange::Settling { until_ms };
                self.told_later(bucket, key, record.version, change);
            }
            PersistState::Persisted | PersistState::Transient => {}
        }
        record
    }

    /// Queues what the UFS must be told; committed already, the slot is held.
    pub(crate) fn told_later(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        version: Version,
        change: PendingChange,
    ) {
        let queue = &self.shared().persist;
        let before = queue.pending(bucket.id, key);
        let now_ms = self.environment().wall_ms();
        let pending = PendingRecord {
            version,
            change,
            since_ms: before.as_ref().map_or(now_ms, |p| p.since_ms.min(now_ms)),
            superseded: before.is_some(),
        };
        let now = self.environment().monotonic();
        queue.enqueue((bucket.id, key.clone()), pending, now, None);
    }

    /// Frees the bytes of a replaced version, but for those the new one kept.
    fn forget_replaced(&self, old: &ObjectRecord, new: &ObjectRecord) {
        let kept = |blob: BlobId| new.extents.iter().any(|extent| extent.blob == blob);
        match old.extents.iter().any(|extent| kept(extent.blob)) {
            true => self.shared().transient.remove(old),
            false => self.forget_bytes(old),
        }
    }
}

/// Why a flushed entry is not the current version.
enum Unapplied {
    /// It is not and will not be, once it is voided.
    Never(FlowError),
    /// It may be.
    Unknown(String),
}
