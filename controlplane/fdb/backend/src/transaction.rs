//! A transaction: one of the client library's, and the checks before it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foundationdb::future::FdbSlice;
use foundationdb::options::{ConflictRangeType, MutationType};
use foundationdb::{FdbError, FdbResult};
use quickwater_controlplane::store::limits::{COMMIT_WAIT_MAX, VERSION_BYTES};
use quickwater_controlplane::store::{
    CommitError, CommitVersion, KeyRange, Rows, Scan, StoreError, Transaction, check,
};
use tokio::time::timeout;

use crate::claim::OWNER_KEY;
use crate::errors::{commit_error, not_sent, read_error};
use crate::open::TRANSACTION_TIMEOUT;
use crate::scan::scan;
use crate::store::Shared;

/// Longest a read waits for the library, which ends it sooner unless its network
/// thread stands still.
const READ_WAIT_MAX: Duration = TRANSACTION_TIMEOUT.saturating_add(Duration::from_secs(5));
/// The order a version has when nothing was written, as in the embedded store.
const READ_ONLY_ORDER: u16 = u16::MAX;
const STALLED: &str = "the FoundationDB client library does not answer";

/// Dropping it would take the question back.
type ReadVersion = Box<dyn Future<Output = FdbResult<i64>> + Send + Sync + Unpin>;

type Owner = Box<dyn Future<Output = FdbResult<Option<FdbSlice>>> + Send + Sync + Unpin>;

/// A transaction of a [`crate::FoundationStore`].
pub struct FoundationTransaction {
    shared: Arc<Shared>,
    inner: Result<foundationdb::Transaction, FdbError>,
    /// The first mistake made.
    error: Option<CommitError>,
    writes: bool,
    /// The version to read at, asked for before the first read.
    pinned: Option<ReadVersion>,
    /// Who has the store, asked for with the first write.
    owner: Option<Owner>,
}

impl FoundationTransaction {
    pub(crate) fn begin(shared: Arc<Shared>) -> Self {
        let inner = shared.database.create_trx();
        Self {
            shared,
            inner,
            error: None,
            writes: false,
            pinned: None,
            owner: None,
        }
    }

    fn inner(&self) -> Result<&foundationdb::Transaction, StoreError> {
        self.inner.as_ref().map_err(|error| read_error(*error))
    }

    async fn read(&self, key: &[u8], snapshot: bool) -> Result<Option<Bytes>, StoreError> {
        check::readable(key)?;
        let value = self.inner()?.get(&self.shared.prefix.put(key), snapshot);
        let value = answered(value).await?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Writes through `write`, unless a mistake was made.
    fn write(
        &mut self,
        checked: Result<(), CommitError>,
        write: impl FnOnce(&foundationdb::Transaction, &Shared),
    ) {
        if let Err(error) = checked {
            self.error.get_or_insert(error);
        }
        if self.error.is_some() {
            return;
        }
        self.begin_writes();
        if let Ok(inner) = &self.inner {
            write(inner, &self.shared);
        }
    }

    /// Asks for the owner of a store that has one, while the rest goes on.
    fn begin_writes(&mut self) {
        self.writes = true;
        if let (Some(_), Ok(inner)) = (self.shared.claim.get(), &self.inner) {
            let key = self.shared.prefix.put(OWNER_KEY);
            self.owner
                .get_or_insert_with(|| Box::new(inner.get(&key, false)));
        }
    }

    /// The same for a range that may be empty.
    fn write_range(
        &mut self,
        range: &KeyRange,
        write: impl FnOnce(&foundationdb::Transaction, (Vec<u8>, Vec<u8>)),
    ) {
        let checked = check::writable_range(range);
        if checked.is_err() || !range.is_empty() {
            self.write(checked, |inner, shared| {
                write(inner, shared.prefix.put_range(range));
            });
        }
    }

    fn conflict(&mut self, range: &KeyRange, kind: ConflictRangeType) {
        if range.is_empty() {
            return;
        }
        let (start, end) = self.shared.prefix.put_range(range);
        if let Ok(inner) = &self.inner
            && let Err(error) = inner.add_conflict_range(&start, &end, kind)
        {
            self.error.get_or_insert(not_sent(error));
        }
    }
}

impl FoundationTransaction {
    /// Commits whoever has the store.
    pub(crate) async fn commit_unfenced(mut self) -> Result<CommitVersion, CommitError> {
        self.owner = None;
        self.commit().await
    }
}

/// Waits for an answer of the library, for a limited time.
async fn answered<T>(answer: impl Future<Output = FdbResult<T>>) -> Result<T, StoreError> {
    match timeout(READ_WAIT_MAX, answer).await {
        Ok(answer) => answer.map_err(read_error),
        Err(_elapsed) => Err(StoreError::Unavailable(STALLED.into())),
    }
}

impl Transaction for FoundationTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(key, false).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(key, true).await
    }

    async fn scan(&mut self, wanted: Scan) -> Result<Rows, StoreError> {
        check::readable_range(&wanted.range)?;
        let rows = scan(self.inner()?, &self.shared.prefix, &wanted);
        match timeout(READ_WAIT_MAX, rows).await {
            Ok(rows) => rows,
            Err(_elapsed) => Err(StoreError::Unavailable(STALLED.into())),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.write(check::writable(key, value.len()), |inner, shared| {
            inner.set(&shared.prefix.put(key), value);
        });
    }

    fn clear(&mut self, key: &[u8]) {
        self.write(check::writable(key, 0), |inner, shared| {
            inner.clear(&shared.prefix.put(key));
        });
    }

    fn clear_range(&mut self, range: KeyRange) {
        self.write_range(&range, |inner, (start, end)| {
            inner.clear_range(&start, &end)
        });
    }

    fn add(&mut self, key: &[u8], delta: i64) {
        self.write(check::writable(key, size_of::<i64>()), |inner, shared| {
            let key = shared.prefix.put(key);
            inner.atomic_op(&key, &delta.to_le_bytes(), MutationType::Add);
        });
    }

    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize) {
        let checked = check::stampable(template.len(), offset)
            .and_then(|()| check::writable(key, template.len()));
        self.write(checked, |inner, shared| {
            // The library takes the offset from the last four bytes.
            let offset = u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes();
            let value = [template, &offset].concat();
            let key = shared.prefix.put(key);
            inner.atomic_op(&key, &value, MutationType::SetVersionstampedValue);
        });
    }

    /// From now on the version to read at is fixed, also when nothing is read:
    /// else the library would ask for it only with the commit, and one of two
    /// attempts that must exclude each other could begin after the other ended.
    fn add_read_conflict(&mut self, range: KeyRange) {
        if let Ok(inner) = &self.inner {
            // Asked for now, waited for at commit.
            self.pinned
                .get_or_insert_with(|| Box::new(inner.get_read_version()));
        }
        self.conflict(&range, ConflictRangeType::Read);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        if let Err(error) = check::writable_range(&range) {
            self.error.get_or_insert(error);
        } else if !range.is_empty() {
            self.begin_writes();
            self.conflict(&range, ConflictRangeType::Write);
        }
    }

    async fn commit(self) -> Result<CommitVersion, CommitError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let inner = self.inner.map_err(not_sent)?;
        if !self.writes {
            let version = read_version(inner.get_read_version()).await?;
            return Ok(CommitVersion::new(version, READ_ONLY_ORDER));
        }
        // A task of its own: whoever stops waiting does not stop the commit, or
        // leave it with the library unwatched.
        let (shared, pinned, owner) = (self.shared, self.pinned, self.owner);
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let outcome = match fence(&shared, owner).await {
                Ok(()) => commit(inner, pinned).await,
                Err(error) => Err(error),
            };
            shared.counters.count(&outcome, began.elapsed());
            outcome
        });
        task.await.unwrap_or(Err(CommitError::Unknown))
    }
}

/// Whether the store is still this process's: what was read of that conflicts with
/// whoever takes it.
async fn fence(shared: &Shared, owner: Option<Owner>) -> Result<(), CommitError> {
    let (Some(claim), Some(owner)) = (shared.claim.get(), owner) else {
        return Ok(());
    };
    let owner = timeout(READ_WAIT_MAX, owner).await;
    let owner = owner.map_err(|_elapsed| CommitError::Unavailable(STALLED))?;
    if owner.map_err(not_sent)?.as_deref() == Some(claim.token.as_slice()) {
        return Ok(());
    }
    Err(claim.lose())
}

/// Commits, and says in which place.
async fn commit(
    transaction: foundationdb::Transaction,
    pinned: Option<ReadVersion>,
) -> Result<CommitVersion, CommitError> {
    if let Some(pinned) = pinned {
        read_version(pinned).await?;
    }
    let stamp = transaction.get_versionstamp();
    match timeout(COMMIT_WAIT_MAX, transaction.commit()).await {
        Ok(Ok(_committed)) => {}
        Ok(Err(error)) => return Err(commit_error(*error)),
        Err(_elapsed) => return Err(CommitError::Unknown),
    }
    // Known with the commit. Without it the commit is there, but nobody can say where.
    let stamp = timeout(COMMIT_WAIT_MAX, stamp).await;
    let stamp = stamp.map_err(|_elapsed| CommitError::Unknown)?;
    let stamp = stamp.map_err(|_| CommitError::Unknown)?;
    let bytes: [u8; VERSION_BYTES] = stamp[..].try_into().map_err(|_| CommitError::Unknown)?;
    Ok(CommitVersion(bytes))
}

/// The version it reads at; nothing has been sent to be committed.
async fn read_version(version: impl Future<Output = FdbResult<i64>>) -> Result<u64, CommitError> {
    match timeout(READ_WAIT_MAX, version).await {
        Ok(version) => version
            .map(|version| u64::try_from(version).unwrap_or(0))
            .map_err(not_sent),
        Err(_elapsed) => Err(CommitError::Unavailable(STALLED)),
    }
}
