//! Every metadata call by name, as the namespace has it: arguments into a message,
//! the answer out of one.

mod copies;
mod uploads;

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use quickwater_proto::{
    Bucket, BucketId, BucketName, Committed, CopyAt, Holders, MetadataError, ObjectKey,
    ObjectRecord, PendingPage, PendingRecord, PutCondition, ScanPage, UfsIdentity, UploadId,
    Version,
};
use quickwater_rpc::cluster::{Answer, Call, Operation as O};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::ControlClient;
use super::queue::Queued;
use crate::cluster::wire::{
    Mistaken, about, changes, condition_to_wire, identity_to_wire, key, line, number,
    number_to_wire, object, object_to_wire, pairs_to_wire, random_id,
};
use crate::namespace::{SystemClock, WallClock as _, commit_note, journal_entry};
use crate::records::{
    RecordError, decode_bucket, decode_holders, decode_journal_entry, decode_pending, encode_bucket,
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
