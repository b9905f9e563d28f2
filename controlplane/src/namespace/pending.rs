//! Pending changes: what the UFS has still to be told. Written in the commit of
//! the change, one row per key, a newer change in place of the older one. Absent:
//! when the UFS is told, and by whom.

use quickwater_proto::{
    BlobId, BucketId, ChangeOf, Holders, MetadataError, NodeId, ObjectKey, ObjectRecord, PartOf,
    PendingChange, PendingPage, PendingRecord, PersistState, PutCondition, UfsIdentity, Version,
};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step};
use super::objects::{clear_object, current_if};
use super::read::Get;
use super::{Namespace, SCAN_ROWS_MAX, Stop, record_error};
use crate::keyspace;
use crate::records::{
    EncodedObject, ObjectRow, RecordError, VERSION_OFFSET, decode_holders, decode_pending,
    encode_held, encode_pending,
};
use crate::store::{Row, Store, Transaction};

/// A bucket and a key in it.
pub(super) type Place<'a> = (BucketId, &'a ObjectKey);

/// What is pending of keys, with those who have the bytes.
#[derive(Debug, Default)]
pub struct HeldPage {
    /// By bucket, then key.
    pub rows: Vec<((BucketId, ObjectKey), PendingRecord, Holders)>,
    /// After which key more may follow.
    pub next: Option<(BucketId, ObjectKey)>,
}

impl<S: Store> Namespace<S> {
    /// Removes an object that the UFS may still have: a pending
    /// [`PendingChange::Delete`] in the same commit, whose version is answered.
    /// `None`: there was no object; the change is pending all the same.
    ///
    /// # Errors
    /// As [`Namespace::commit_object`].
    pub async fn remove_object_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<(Version, Option<ObjectRecord>), MetadataError> {
        let place = (bucket, key);
        let (removed, version) = self.mutate(&RemovePending { place, condition }).await?;
        // Never answered with a version that was not given: it would order writes.
        let version =
            version.ok_or_else(|| MetadataError::Unknown("no version was given".into()))?;
        Ok((version, removed))
    }

    /// The change of a key that the UFS does not have yet.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<PendingRecord>, MetadataError> {
        let value = self.read(&Get(&keyspace::pending(bucket, key))).await?;
        value
            .map(|value| decode_pending(&value).map_err(record_error))
            .transpose()
    }

    /// Pending changes in order of bucket and key, after one, at most `limit` and
    /// [`SCAN_ROWS_MAX`]. Those of a bucket that was removed show until they are
    /// swept.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Result<PendingPage, MetadataError> {
        let range = keyspace::pendings(after);
        let (rows, more) = self.rows(range, limit.min(SCAN_ROWS_MAX)).await?;
        let entries = rows.iter().map(entry).collect::<Result<_, _>>()?;
        let holders = rows.iter().map(|row| holders_of(&row.value));
        let holders: Vec<Holders> = holders.collect::<Result<_, _>>()?;
        Ok(PendingPage {
            entries,
            copies: holders.iter().map(|held| held.copies).collect(),
            holders: holders.into_iter().map(|held| held.nodes).collect(),
            more,
        })
    }

    /// Who has the bytes of the pending put, or of the object held, of a key: none when
    /// nothing of that kind is pending, or when it was not a worker who put it.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn holders(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Vec<NodeId>, MetadataError> {
        let value = self.read(&Get(&keyspace::pending(bucket, key))).await?;
        let held = value.map(|value| holders_of(&value)).transpose()?;
        Ok(held.unwrap_or_default().nodes)
    }

    /// The change of a key that the UFS does not have yet, with those who have its bytes.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn pending_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<(PendingRecord, Holders)>, MetadataError> {
        let value = self.read(&Get(&keyspace::pending(bucket, key))).await?;
        let held = value.map(|value| {
            let pending = decode_pending(&value).map_err(record_error)?;
            Ok((pending, holders_of(&value)?))
        });
        held.transpose()
    }

    /// Nothing if the current version of a key consists of this blob, is in no UFS, and the
    /// row of it names `node`, or if the row of `part` names `node` and this blob. Otherwise
    /// what became of the change.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn unnamed_copy(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        (blob, node): (BlobId, &NodeId),
        part: Option<PartOf>,
    ) -> Result<Option<ChangeOf>, MetadataError> {
        // The part first: Complete takes its row away and names the same workers in the
        // other one in the same transaction.
        if let Some(of) = part
            && self.names_part(bucket, of, (blob, node)).await?
        {
            return Ok(None);
        }
        // The row first: it is written with the object, and ended before it is replaced.
        let named = self.holders(bucket, key).await?.contains(node);
        let record = self.object(bucket, key).await?;
        let of = record.filter(|record| record.extents.iter().any(|e| e.blob == blob));
        Ok(match of.map(|record| record.persist) {
            None => Some(ChangeOf::Unknown),
            Some(PersistState::Persisted) => Some(ChangeOf::Ended),
            Some(_) => (!named).then_some(ChangeOf::Pending),
        })
    }

    /// From now on the workers of the ticket have the bytes of the pending change
    /// `version` (the one that calls only if `itself`), and nobody else. `false`: that
    /// change is not pending any more.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`].
    pub async fn set_holders(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        itself: bool,
    ) -> Result<bool, MetadataError> {
        let mut operation = self.operation().await?;
        if !itself && !operation.holders.is_empty() {
            operation.holders.remove(0);
        }
        let place = (bucket, key);
        let set = SetHolders { place, version };
        Ok(self.mutate_as(&set, &operation).await?.0)
    }

    /// A page of the pending puts and objects held whose bytes `node` has, alone or with
    /// others, as [`Namespace::pending_changes`] pages them; after which key more may follow.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn pending_held_by(
        &self,
        node: &NodeId,
        after: Option<(BucketId, &ObjectKey)>,
    ) -> Result<HeldPage, MetadataError> {
        let (rows, more) = self.rows(keyspace::pendings(after), SCAN_ROWS_MAX).await?;
        let mut page = HeldPage::default();
        for row in &rows {
            let (bucket, key, pending) = entry(row)?;
            page.next = more.then(|| (bucket, key.clone()));
            let holders = holders_of(&row.value)?;
            if holders.nodes.contains(node) {
                let place = (bucket, key);
                page.rows.push((place, pending, holders));
            }
        }
        Ok(page)
    }

    /// The UFS has acked the change `version`: ends it and, for a put, notes in
    /// the object, whose version stays, that it is persisted as `ufs`. With
    /// `settling` (milliseconds since the Unix epoch) the key stays pending as
    /// [`PendingChange::Settling`] of the same version, until it is ended again.
    /// `false`: this change is not pending any more, and nothing was done.
    ///
    /// Visible on return, on disk some time later (see [`Namespace::flush`]): a
    /// power cut before may bring the pending change back, and the UFS is told
    /// once more.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::TooLarge`].
    pub async fn end_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Result<bool, MetadataError> {
        let place = (bucket, key);
        let end = EndPending {
            place,
            version,
            ufs,
            settling,
        };
        let operation = Operation {
            relaxed: true,
            ..self.operation().await?
        };
        Ok(self.mutate_as(&end, &operation).await?.0)
    }

    /// Returns when every change that had returned before the call is on disk.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`]: it may not be.
    pub async fn flush(&self) -> Result<(), MetadataError> {
        let flushed = self.store.flush().await;
        flushed.map_err(|error| MetadataError::Unavailable(error.to_string()))
    }
}

/// Of a row of a change that has bytes.
pub(super) fn holders_of(value: &[u8]) -> Result<Holders, MetadataError> {
    let pending = decode_pending(value).map_err(record_error)?;
    match pending.change {
        PendingChange::Put { .. } | PendingChange::Hold { .. } => {
            decode_holders(value).map_err(record_error)
        }
        PendingChange::Delete | PendingChange::Settling { .. } => Ok(Holders::default()),
    }
}

pub(super) fn entry(row: &Row) -> Result<(BucketId, ObjectKey, PendingRecord), MetadataError> {
    let Some((bucket, key)) = keyspace::parse_pending(&row.key) else {
        tracing::error!(key = ?row.key, "unreadable key of a pending change");
        return Err(MetadataError::Unavailable("unreadable pending key".into()));
    };
    let pending = decode_pending(&row.value).map_err(record_error)?;
    Ok((bucket, key, pending))
}

/// Makes the pending row of a key agree with a new current version of it.
pub(super) async fn follow_object<T: Transaction>(
    transaction: &mut T,
    operation: &Operation,
    place: Place<'_>,
    object: &EncodedObject,
) -> Result<(), Stop> {
    match object.persist {
        PersistState::NotPersisted | PersistState::Persisting => {
            let change = PendingChange::Put { size: object.size };
            begin_pending(transaction, operation, place, change).await
        }
        PersistState::Transient => {
            let change = PendingChange::Hold { size: object.size };
            begin_pending(transaction, operation, place, change).await
        }
        PersistState::Persisted => {
            let pending = current_pending(transaction, place).await?;
            if pending.is_some_and(|pending| !is_unanswered(pending.change)) {
                transaction.clear(&keyspace::pending(place.0, place.1));
            }
            Ok(())
        }
    }
}

/// The object of a key is removed without the UFS being told later: a put of it is
/// not pending any more, nor is the request that the UFS has answered. Whether
/// there was something to forget.
pub(super) async fn follow_removal<T: Transaction>(
    transaction: &mut T,
    place: Place<'_>,
) -> Result<bool, Stop> {
    let pending = current_pending(transaction, place).await?;
    let ended = pending.is_some_and(|pending| {
        pending.change != PendingChange::Delete && !is_unanswered(pending.change)
    });
    if ended {
        transaction.clear(&keyspace::pending(place.0, place.1));
    }
    Ok(ended)
}

/// Whether a request may still be applied although nobody waits for its answer: it
/// stays noted, whatever is committed.
fn is_unanswered(change: PendingChange) -> bool {
    change != PendingChange::UNDER_WAY && matches!(change, PendingChange::Settling { .. })
}

pub(super) async fn begin_pending<T: Transaction>(
    transaction: &mut T,
    operation: &Operation,
    place: Place<'_>,
    change: PendingChange,
) -> Result<(), Stop> {
    let older = current_pending(transaction, place).await?;
    let pending = PendingRecord {
        version: Version(0),
        change,
        since_ms: match &older {
            Some(older) if is_untold(older.change) => older.since_ms,
            _ => operation.now_ms,
        },
        superseded: operation.replayed
            || older.is_some_and(|older| match older.change {
                // Of what is held here no request was ever sent, but one of the change
                // that it replaced may be.
                PendingChange::Hold { .. } => older.superseded,
                _ => true,
            }),
    };
    let row = keyspace::pending(place.0, place.1);
    let value = encode_held(&pending, &operation.held())?;
    transaction.set_versionstamped_value(&row, &value, VERSION_OFFSET);
    Ok(())
}

/// Whether the UFS is behind: not while a request settles, or the object is held.
fn is_untold(change: PendingChange) -> bool {
    matches!(change, PendingChange::Put { .. } | PendingChange::Delete)
}

pub(super) async fn current_pending<T: Transaction>(
    transaction: &mut T,
    (bucket, key): Place<'_>,
) -> Result<Option<PendingRecord>, Stop> {
    let row = transaction.get(&keyspace::pending(bucket, key)).await?;
    Ok(row.map(|row| decode_pending(&row)).transpose()?)
}

/// The same with those who have its bytes.
pub(super) async fn current_held<T: Transaction>(
    transaction: &mut T,
    (bucket, key): Place<'_>,
) -> Result<Option<(PendingRecord, Holders)>, Stop> {
    let row = transaction.get(&keyspace::pending(bucket, key)).await?;
    let held = |row: &[u8]| Ok::<_, RecordError>((decode_pending(row)?, decode_holders(row)?));
    Ok(row.map(|row| held(&row)).transpose()?)
}

struct SetHolders<'a> {
    place: Place<'a>,
    version: Version,
}

impl Mutation for SetHolders<'_> {
    type Answer = bool;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<bool>, Stop> {
        let (bucket, key) = self.place;
        require_bucket(transaction, bucket).await?;
        let pending = match current_held(transaction, self.place).await? {
            // Bytes that nobody has would be lost: that is not noted.
            Some((pending, _))
                if pending.version == self.version
                    && !operation.holders.is_empty()
                    && matches!(
                        pending.change,
                        PendingChange::Put { .. } | PendingChange::Hold { .. }
                    ) =>
            {
                pending
            }
            _ => return Ok(Step::Nothing(false)),
        };
        let value = encode_held(&pending, &operation.held())?;
        transaction.set(&keyspace::pending(bucket, key), &value);
        Ok(Step::Commit(true))
    }
}

struct RemovePending<'a> {
    place: Place<'a>,
    condition: &'a PutCondition,
}

impl Mutation for RemovePending<'_> {
    type Answer = Option<ObjectRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        require_bucket(transaction, self.place.0).await?;
        let current = current_if(transaction, self.place, self.condition).await?;
        begin_pending(transaction, operation, self.place, PendingChange::Delete).await?;
        if let Some(current) = &current {
            clear_object(transaction, operation, self.place, current);
        }
        Ok(Step::Commit(current.map(|current| current.record)))
    }
}

struct EndPending<'a> {
    place: Place<'a>,
    version: Version,
    ufs: Option<&'a UfsIdentity>,
    settling: Option<i64>,
}

impl Mutation for EndPending<'_> {
    type Answer = bool;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<bool>, Stop> {
        let (bucket, key) = self.place;
        require_bucket(transaction, bucket).await?;
        let pending = match current_pending(transaction, self.place).await? {
            // What no UFS has acked stays as it is: whoever ends it has only ended a request.
            Some(pending)
                if pending.version == self.version
                    && match pending.change {
                        PendingChange::Put { .. } => self.ufs.is_some(),
                        PendingChange::Hold { .. } => false,
                        PendingChange::Delete | PendingChange::Settling { .. } => true,
                    } =>
            {
                pending
            }
            _ => return Ok(Step::Nothing(false)),
        };
        if matches!(pending.change, PendingChange::Put { .. }) {
            self.note_persisted(transaction).await?;
        }
        let row = keyspace::pending(bucket, key);
        match self.settling {
            None => transaction.clear(&row),
            Some(until_ms) => {
                let change = PendingChange::Settling { until_ms };
                let settling = PendingRecord { change, ..pending };
                transaction.set(&row, &encode_pending(&settling)?);
            }
        }
        Ok(Step::Commit(true))
    }
}

impl EndPending<'_> {
    async fn note_persisted<T: Transaction>(&self, transaction: &mut T) -> Result<(), Stop> {
        let key = keyspace::object(self.place.0, self.place.1);
        let Some(row) = transaction.get(&key).await? else {
            return Ok(());
        };
        let row = ObjectRow::decode(&row)?;
        if row.version() == self.version {
            transaction.set(&key, &row.into_persisted(self.ufs)?);
        }
        Ok(())
    }
}
