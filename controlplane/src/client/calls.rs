//! Every metadata call by name, as the namespace has it: arguments into a message,
//! the answer out of one.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Committed, CopyAt, CopyOf, CopyState, ETag, Holders,
    MetadataError, NodeId, ObjectKey, ObjectRecord, OpenedUpload, PartOf, PartRecord, PendingPage,
    PendingRecord, PutCondition, ScanPage, UfsIdentity, UploadId, UploadRecord, Version,
};
use quickwater_rpc::cluster::{Answer, Call, Operation as O};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::ControlClient;
use super::queue::Queued;
use crate::cluster::wire::{
    Mistaken, about, about_part, changes, condition_to_wire, copy_to_wire, identity_to_wire, key,
    line, number, number_to_wire, object, object_to_wire, pairs_to_wire, random_id,
};
use crate::namespace::{SystemClock, WallClock as _, commit_note, journal_entry};
use crate::records::{
    RecordError, decode_bucket, decode_holders, decode_journal_entry, decode_opened, decode_part,
    decode_part_holders, decode_pending, decode_upload, encode_bucket, encode_opened, encode_part,
    encode_upload,
};

type Got<T> = Result<T, MetadataError>;

fn too_large(error: RecordError) -> MetadataError {
    MetadataError::TooLarge(error.to_string())
}

fn unread(error: RecordError) -> MetadataError {
    Mistaken::from(error).into()
}

fn of_bucket(operation: O, bucket: BucketId) -> Call {
    Call {
        operation: operation.into(),
        bucket: bucket.0,
        ..Call::default()
    }
}

fn of_upload(operation: O, bucket: BucketId, key: &ObjectKey, id: UploadId) -> Call {
    Call {
        upload: number_to_wire(id.0),
        ..about(operation, bucket, key)
    }
}

fn with_row(operation: O, bucket: BucketId, row: Result<Vec<u8>, RecordError>) -> Got<Call> {
    Ok(Call {
        row: row.map_err(too_large)?,
        ..of_bucket(operation, bucket)
    })
}

/// The rows of an answer.
fn rows<T>(answer: &Answer, decode: impl Fn(&[u8]) -> Result<T, RecordError>) -> Got<Vec<T>> {
    let rows = answer.entries.iter().map(|entry| decode(&entry.row));
    rows.collect::<Result<_, _>>().map_err(unread)
}

fn first<T>(answer: &Answer, decode: impl Fn(&[u8]) -> Result<T, RecordError>) -> Got<Option<T>> {
    let first = answer.entries.first().map(|entry| decode(&entry.row));
    first.transpose().map_err(unread)
}

fn record(answer: &Answer) -> Got<Option<ObjectRecord>> {
    Ok(answer.object.as_ref().map(object).transpose()?)
}

/// A change that was made, but whose answer is not understood.
fn lost(error: impl ToString) -> MetadataError {
    MetadataError::Unknown(error.to_string())
}

fn committed(answer: &Answer) -> Got<Committed> {
    Ok(Committed {
        version: Version(number(&answer.version).map_err(lost)?),
        replaced: record(answer).map_err(lost)?,
    })
}

fn page(answer: &Answer) -> Got<ScanPage> {
    let entries = answer.entries.iter().map(line);
    Ok(ScanPage {
        entries: entries.collect::<Result<_, _>>()?,
        more: answer.more,
    })
}

/// Rows that no object tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptNames {
    /// Keys and values.
    pub rows: Vec<(Bytes, Bytes)>,
    /// The version of the store after them.
    pub version: u64,
    /// What the control plane calls this state of them.
    pub mark: Option<u64>,
}

impl ControlClient {
    /// Makes a call and waits for its answer; the wait is bounded by the link.
    async fn ask(&self, call: Call) -> Got<Answer> {
        self.ask_in(call, None).await
    }

    /// The same of a change that was begun in the session `begun`, and is not to be made if
    /// others may have had the key since.
    async fn ask_in(&self, mut call: Call, begun: Option<CopyAt>) -> Got<Answer> {
        let operation = O::try_from(call.operation);
        if operation.is_ok_and(changes) {
            if call.once.is_empty() {
                call.once = number_to_wire(random_id()?);
            }
            call.began_ms = SystemClock.wall_ms();
            call.epoch = self.epoch()?;
        }
        let (reply, answer) = oneshot::channel();
        let queued = Queued {
            call,
            begun,
            asked: Instant::now(),
            reply,
        };
        self.stats().calls.made(queued.call.operation);
        match self.shared.queue.try_send(queued) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let why = "too many calls of the metadata wait";
                return Err(MetadataError::Unavailable(why.into()));
            }
            Err(TrySendError::Closed(_)) => {
                return Err(MetadataError::Unavailable("the link has ended".into()));
            }
        }
        match answer.await {
            Ok(answer) => {
                if let Ok(answer) = &answer {
                    self.shared.known.fetch_max(answer.known, Ordering::Relaxed);
                }
                answer
            }
            Err(_gone) => Err(MetadataError::Unknown("the link has ended".into())),
        }
    }

    /// As [`crate::Namespace::bucket`].
    ///
    /// # Errors
    /// As there; so for all calls, and when the control plane is out of reach
    /// [`MetadataError::Unavailable`] or, of a change that was sent,
    /// [`MetadataError::Unknown`].
    pub async fn bucket(&self, name: &BucketName) -> Got<Option<Bucket>> {
        let call = Call {
            text: name.as_str().to_owned(),
            ..of_bucket(O::Bucket, BucketId(0))
        };
        first(&self.ask(call).await?, decode_bucket)
    }

    /// As [`crate::Namespace::buckets`].
    pub async fn buckets(&self) -> Got<Vec<Bucket>> {
        rows(
            &self.ask(of_bucket(O::Buckets, BucketId(0))).await?,
            decode_bucket,
        )
    }

    /// As [`crate::Namespace::create_bucket`].
    pub async fn create_bucket(&self, bucket: &Bucket) -> Got<Bucket> {
        let call = with_row(O::CreateBucket, BucketId(0), encode_bucket(bucket))?;
        let made = first(&self.ask(call).await?, decode_bucket).map_err(lost)?;
        made.ok_or_else(|| lost("no bucket in the answer"))
    }

    /// As [`crate::Namespace::delete_bucket`].
    pub async fn delete_bucket(&self, bucket: BucketId, only_empty: bool) -> Got<()> {
        let call = Call {
            flag: only_empty,
            ..of_bucket(O::DeleteBucket, bucket)
        };
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::set_bucket_tags`].
    pub async fn set_bucket_tags(&self, bucket: BucketId, tags: &[(String, String)]) -> Got<()> {
        let call = Call {
            pairs: pairs_to_wire(tags),
            ..of_bucket(O::SetBucketTags, bucket)
        };
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::object`].
    pub async fn object(&self, bucket: BucketId, key: &ObjectKey) -> Got<Option<ObjectRecord>> {
        record(&self.ask(about(O::Object, bucket, key)).await?)
    }

    /// As [`crate::Namespace::commit_object`].
    pub async fn commit_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Got<Committed> {
        let call = Call {
            object: Some(object_to_wire(record).map_err(too_large)?),
            condition: Some(condition_to_wire(condition)),
            ..about(O::CommitObject, bucket, key)
        };
        committed(&self.ask(call).await?)
    }

    /// As [`crate::Namespace::remove_object`].
    pub async fn remove_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Got<Option<ObjectRecord>> {
        let call = Call {
            condition: Some(condition_to_wire(condition)),
            ..about(O::RemoveObject, bucket, key)
        };
        record(&self.ask(call).await?).map_err(lost)
    }

    /// As [`crate::Namespace::journal_entry`]; nobody is asked.
    ///
    /// # Errors
    /// As there.
    pub fn journal_entry(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        sequence: u64,
    ) -> Got<Bytes> {
        let now_ms = SystemClock.wall_ms();
        let after = self.shared.known.load(Ordering::Relaxed);
        journal_entry((bucket, key), record, sequence, now_ms, after)
    }

    /// As [`crate::Namespace::commit_note`]; nobody is asked.
    ///
    /// # Errors
    /// As there.
    pub fn commit_note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
        sequence: u64,
    ) -> Got<Bytes> {
        let now_ms = SystemClock.wall_ms();
        commit_note((bucket, key), record, version, sequence, now_ms)
    }

    /// What no object tells (buckets, mounts, policies), all rows in order of keys; `None`:
    /// it is as it was when it had the mark `known`.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn names(&self, known: Option<u64>) -> Got<Option<KeptNames>> {
        let mut kept: Option<KeptNames> = None;
        loop {
            let last = kept.as_ref().and_then(|kept| kept.rows.last());
            let call = Call {
                row: last.map_or_else(Vec::new, |(key, _)| key.to_vec()),
                limit: known.unwrap_or(0),
                ..of_bucket(O::Names, BucketId(0))
            };
            let answer = self.ask(call).await?;
            if answer.flag {
                return Ok(None);
            }
            let rows = answer.entries.into_iter();
            let rows = rows.map(|entry| (entry.raw_key.into(), entry.row.into()));
            // That of the first page: what changed since shows the next time.
            let mark = || answer.text.as_deref().and_then(|mark| mark.parse().ok());
            let all = kept.get_or_insert_with(|| KeptNames {
                mark: mark(),
                ..KeptNames::default()
            });
            let before = all.rows.len();
            all.rows.extend(rows);
            all.version = answer.number;
            if !answer.more || all.rows.len() == before {
                return Ok(kept);
            }
        }
    }

    /// As [`crate::Namespace::commit_entry`]; the entry's operation is the call's. `begun`:
    /// the session of this worker in which it was begun. Refused if others may have had the
    /// key since; sessions between which nothing was lost count as one.
    pub async fn commit_entry(&self, entry: &[u8], begun: Option<CopyAt>) -> Got<Committed> {
        let operation = decode_journal_entry(entry).map_err(unread)?.operation;
        let call = Call {
            row: entry.to_vec(),
            once: number_to_wire(operation),
            ..of_bucket(O::CommitEntry, BucketId(0))
        };
        committed(&self.ask_in(call, begun).await?)
    }

    /// The same, when other workers have flushed copies: refused if one of them was
    /// started anew.
    pub async fn commit_copied(&self, entry: &[u8], copies: &[CopyAt]) -> Got<Committed> {
        let operation = decode_journal_entry(entry).map_err(unread)?.operation;
        let call = Call {
            row: entry.to_vec(),
            once: number_to_wire(operation),
            copies: copies.iter().map(copy_to_wire).collect(),
            ..of_bucket(O::CommitEntry, BucketId(0))
        };
        committed(&self.ask(call).await?)
    }

    /// Whether a copy that is kept here is still needed.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn copy_state(&self, copy: &CopyOf) -> Got<CopyState> {
        let call = Call {
            copies: copy.owner.iter().map(copy_to_wire).collect(),
            blob: number_to_wire(copy.blob.0),
            ..about(O::CopyState, copy.bucket, &copy.key)
        };
        let call = about_part(call, copy.part);
        let answer = self.ask(call).await?;
        Ok(match answer.flag {
            true => CopyState::Named,
            false => CopyState::Unnamed { over: !answer.more },
        })
    }

    /// Who has the bytes of what is pending of a key.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn holders(&self, bucket: BucketId, key: &ObjectKey) -> Got<Vec<NodeId>> {
        let answer = self.ask(about(O::Pending, bucket, key)).await?;
        Ok(first(&answer, decode_holders)?.unwrap_or_default().nodes)
    }

    /// As [`crate::Namespace::set_holders`], with the sessions of those who have copies, of
    /// which there should be `wanted`, the caller's included.
    pub async fn set_holders(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        version: Version,
        itself: bool,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Got<bool> {
        let call = Call {
            version: number_to_wire(version.0),
            flag: itself,
            copies: copies.iter().map(copy_to_wire).collect(),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            ..about(O::SetHolders, bucket, key)
        };
        Ok(self.ask(call).await?.flag)
    }

    /// As [`crate::Namespace::set_part_holders`], with the sessions of those who have copies,
    /// of which there should be `wanted`, the caller's included.
    pub async fn set_part_holders(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        (part, blob): (PartOf, BlobId),
        (copies, wanted): (&[CopyAt], usize),
    ) -> Got<bool> {
        let call = Call {
            blob: number_to_wire(blob.0),
            copies: copies.iter().map(copy_to_wire).collect(),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            ..about(O::SetHolders, bucket, key)
        };
        Ok(self.ask(about_part(call, Some(part))).await?.flag)
    }

    /// As [`crate::Namespace::remove_object_pending`].
    pub async fn remove_object_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Got<(Version, Option<ObjectRecord>)> {
        let call = Call {
            condition: Some(condition_to_wire(condition)),
            ..about(O::RemoveObjectPending, bucket, key)
        };
        let done = committed(&self.ask(call).await?)?;
        Ok((done.version, done.replaced))
    }

    /// As [`crate::Namespace::pending`].
    pub async fn pending(&self, bucket: BucketId, key: &ObjectKey) -> Got<Option<PendingRecord>> {
        first(
            &self.ask(about(O::Pending, bucket, key)).await?,
            decode_pending,
        )
    }

    /// Whether what is pending of a key went with workers that were removed. Those `without`
    /// do not have it, in these sessions.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn lost(&self, bucket: BucketId, key: &ObjectKey, without: &[CopyAt]) -> Got<bool> {
        let call = Call {
            copies: without.iter().map(copy_to_wire).collect(),
            ..about(O::Lost, bucket, key)
        };
        Ok(self.ask(call).await?.flag)
    }

    /// The same of the bytes of a part that no UFS has.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn lost_part(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        (part, blob): (PartOf, BlobId),
        without: &[CopyAt],
    ) -> Got<bool> {
        let call = Call {
            blob: number_to_wire(blob.0),
            copies: without.iter().map(copy_to_wire).collect(),
            ..about(O::Lost, bucket, key)
        };
        let answer = self.ask(about_part(call, Some(part))).await?;
        // A control plane of before this speaks of the key, and does not say `more`.
        Ok(answer.flag && answer.more)
    }

    /// As [`crate::Namespace::pending_changes`].
    pub async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Got<PendingPage> {
        let mut call = match after {
            Some((bucket, key)) => about(O::PendingChanges, bucket, key),
            None => of_bucket(O::PendingChanges, BucketId(0)),
        };
        call.positioned = after.is_some();
        call.limit = limit as u64;
        let answer = self.ask(call).await?;
        let mut entries = Vec::with_capacity(answer.entries.len());
        let mut holders = Vec::with_capacity(answer.entries.len());
        for entry in &answer.entries {
            let pending = decode_pending(&entry.row).map_err(unread)?;
            entries.push((BucketId(entry.bucket), key(&entry.key)?, pending));
            holders.push(decode_holders(&entry.row).map_err(unread)?);
        }
        Ok(PendingPage {
            entries,
            copies: holders.iter().map(|held: &Holders| held.copies).collect(),
            holders: holders.into_iter().map(|held| held.nodes).collect(),
            more: answer.more,
        })
    }

    /// As [`crate::Namespace::end_pending`].
    pub async fn end_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Got<bool> {
        let call = Call {
            version: number_to_wire(version.0),
            ufs: ufs.map(identity_to_wire),
            time_ms: settling,
            ..about(O::EndPending, bucket, key)
        };
        Ok(self.ask(call).await?.flag)
    }

    /// As [`crate::Namespace::flush`].
    pub async fn flush(&self) -> Got<()> {
        let call = of_bucket(O::Flush, BucketId(0));
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::note_request`].
    pub async fn note_request(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        until_ms: i64,
    ) -> Got<Version> {
        let call = Call {
            time_ms: Some(until_ms),
            ..about(O::NoteRequest, bucket, key)
        };
        Ok(committed(&self.ask(call).await?)?.version)
    }

    /// As [`crate::Namespace::scan`].
    pub async fn scan(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Got<ScanPage> {
        let call = Call {
            text: prefix.to_owned(),
            from: from.to_owned(),
            limit: limit as u64,
            ..of_bucket(O::Scan, bucket)
        };
        page(&self.ask(call).await?)
    }

    /// As [`crate::Namespace::scan_folded`].
    pub async fn scan_folded(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        delimiter: &str,
        limit: usize,
    ) -> Got<ScanPage> {
        let call = Call {
            text: prefix.to_owned(),
            from: from.to_owned(),
            delimiter: delimiter.to_owned(),
            limit: limit as u64,
            ..of_bucket(O::ScanFolded, bucket)
        };
        page(&self.ask(call).await?)
    }

    /// As [`crate::Namespace::note_opened`].
    pub async fn note_opened(&self, bucket: BucketId, opened: &OpenedUpload) -> Got<()> {
        let call = with_row(O::NoteOpened, bucket, encode_opened(opened))?;
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::forget_opened`].
    pub async fn forget_opened(&self, bucket: BucketId, key: &ObjectKey, id: UploadId) -> Got<()> {
        let call = of_upload(O::ForgetOpened, bucket, key, id);
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::opened`].
    pub async fn opened(
        &self,
        after: Option<(BucketId, &ObjectKey, UploadId)>,
        limit: usize,
    ) -> Got<Vec<(BucketId, OpenedUpload)>> {
        let mut call = match after {
            Some((bucket, key, id)) => of_upload(O::Opened, bucket, key, id),
            None => of_bucket(O::Opened, BucketId(0)),
        };
        call.positioned = after.is_some();
        call.limit = limit as u64;
        let answer = self.ask(call).await?;
        let buckets = answer.entries.iter().map(|entry| BucketId(entry.bucket));
        Ok(buckets.zip(rows(&answer, decode_opened)?).collect())
    }

    /// As [`crate::Namespace::create_upload`].
    pub async fn create_upload(&self, bucket: BucketId, upload: &UploadRecord) -> Got<()> {
        let call = with_row(O::CreateUpload, bucket, encode_upload(upload))?;
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::upload`].
    pub async fn upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Got<Option<UploadRecord>> {
        let answer = self.ask(of_upload(O::Upload, bucket, key, id)).await?;
        first(&answer, decode_upload)
    }

    /// As [`crate::Namespace::put_part`], when these others have flushed copies: refused if
    /// one of them was started anew.
    pub async fn put_part(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
        copies: &[CopyAt],
    ) -> Got<Option<PartRecord>> {
        let call = Call {
            part: encode_part(part).map_err(too_large)?,
            copies: copies.iter().map(copy_to_wire).collect(),
            ..with_row(O::PutPart, bucket, encode_upload(upload))?
        };
        first(&self.ask(call).await?, decode_part).map_err(lost)
    }

    /// As [`crate::Namespace::hand_over`].
    pub async fn hand_over(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Got<()> {
        let call = Call {
            opened: number_to_wire(opened.0),
            ..with_row(O::HandOver, bucket, encode_upload(upload))?
        };
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::parts`].
    pub async fn parts(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Got<Vec<PartRecord>> {
        let call = Call {
            from: after.to_string(),
            limit: limit as u64,
            ..of_upload(O::Parts, bucket, key, id)
        };
        rows(&self.ask(call).await?, decode_part)
    }

    /// As [`crate::Namespace::parts_held`].
    pub async fn parts_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Got<Vec<(PartRecord, Holders)>> {
        let call = Call {
            from: after.to_string(),
            limit: limit as u64,
            ..of_upload(O::Parts, bucket, key, id)
        };
        let both = |row: &[u8]| Ok((decode_part(row)?, decode_part_holders(row)?));
        rows(&self.ask(call).await?, both)
    }

    /// As [`crate::Namespace::uploads`].
    pub async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Got<Vec<UploadRecord>> {
        let (from, id) = after.unwrap_or_default();
        let call = Call {
            text: prefix.to_owned(),
            from: from.to_owned(),
            upload: id.map_or_else(Vec::new, |id| number_to_wire(id.0)),
            positioned: after.is_some(),
            limit: limit as u64,
            ..of_bucket(O::Uploads, bucket)
        };
        rows(&self.ask(call).await?, decode_upload)
    }

    /// As [`crate::Namespace::complete_upload`], when these others have the bytes of parts,
    /// and `wanted` workers are to have each: refused if one of them was started anew, or if
    /// the rows of the parts name fewer.
    pub async fn complete_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        condition: &PutCondition,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Got<Committed> {
        let call = Call {
            copies: copies.iter().map(copy_to_wire).collect(),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            object: Some(object_to_wire(record).map_err(too_large)?),
            condition: Some(condition_to_wire(condition)),
            ..with_row(O::CompleteUpload, bucket, encode_upload(upload))?
        };
        committed(&self.ask(call).await?)
    }

    /// As [`crate::Namespace::completed`].
    pub async fn completed(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Got<Option<ETag>> {
        let answer = self.ask(of_upload(O::Completed, bucket, key, id)).await?;
        Ok(answer.text.map(|text| ETag::new(&text)))
    }

    /// As [`crate::Namespace::abort_upload`].
    pub async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Got<Vec<PartRecord>> {
        let call = of_upload(O::AbortUpload, bucket, key, id);
        rows(&self.ask(call).await?, decode_part).map_err(lost)
    }

    /// The path policies in force: their version and text.
    pub async fn policies(&self) -> Got<(u64, String)> {
        let answer = self.ask(of_bucket(O::Policies, BucketId(0))).await?;
        Ok((answer.number, answer.text.unwrap_or_default()))
    }

    /// As [`crate::Namespace::directory`].
    pub async fn directory(&self, bucket: BucketId) -> Got<Option<String>> {
        Ok(self.ask(of_bucket(O::Directory, bucket)).await?.text)
    }

    /// As [`crate::Namespace::set_directory`].
    pub async fn set_directory(&self, bucket: BucketId, identity: Option<&str>) -> Got<()> {
        let call = Call {
            flag: identity.is_some(),
            text: identity.unwrap_or_default().to_owned(),
            ..of_bucket(O::SetDirectory, bucket)
        };
        self.ask(call).await.map(drop)
    }
}
