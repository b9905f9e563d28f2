//! What of the cluster is stored: its name, members, fences, the table. Each change
//! is one transaction.

use std::time::Duration;

use quickwater_proto::{BlobId, MetadataError, NodeId, SlotTable};

use tokio::time::sleep;

use super::membership::Move;
use crate::keyspace;
use crate::records::{
    Fence, Member, RecordError, Terms, Witness, decode_fence, decode_member, decode_rebuilt,
    decode_slot_table, decode_terms, encode_fence, encode_member, encode_slot_table, encode_terms,
};
use crate::store::{CommitError, CommitVersion, Scan, Store, StoreError, Transaction};

/// Attempts at a change of these rows, or at reading them.
const ATTEMPTS_MAX: u32 = 20;
/// Pause after the first; longer by as much after each, up to the longest.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// Why rows were not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Somebody else put a table in force.
    #[error("the table has changed")]
    Changed,
}

impl RowError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Commit(error) => error.is_retryable() || *error == CommitError::Unknown,
            Self::Store(error) => error.is_retryable(),
            Self::Record(_) | Self::Changed => false,
        }
    }
}

impl From<RowError> for MetadataError {
    fn from(error: RowError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

async fn pause(attempt: &mut u32) {
    sleep((PAUSE * *attempt).min(PAUSE_MAX)).await;
    *attempt += 1;
}

/// The name of these metadata, made at the first call.
pub(super) async fn name<S: Store>(store: &S) -> Result<String, RowError> {
    let mut attempt = 1;
    loop {
        match try_name(store).await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done,
        }
    }
}

async fn try_name<S: Store>(store: &S) -> Result<String, RowError> {
    let key = keyspace::cluster_name();
    let mut transaction = store.begin();
    if let Some(found) = transaction.get(&key).await? {
        return Ok(String::from_utf8_lossy(&found).into_owned());
    }
    let random = BlobId::random();
    let random = random.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let name = random.to_string();
    transaction.set(&key, name.as_bytes());
    transaction.commit().await?;
    Ok(name)
}

/// Changes which control processes wrote the metadata; what is so after it. `change` may
/// be asked more than once and says whether there is anything to do.
pub(super) async fn change_terms<S: Store>(
    store: &S,
    change: impl Fn(&mut Terms) -> bool,
) -> Result<Terms, RowError> {
    let mut attempt = 1;
    loop {
        match try_change_terms(store, &change).await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done,
        }
    }
}

async fn try_change_terms<S: Store>(
    store: &S,
    change: impl Fn(&mut Terms) -> bool,
) -> Result<Terms, RowError> {
    let key = keyspace::cluster_terms();
    let mut transaction = store.begin();
    let row = transaction.get(&key).await?;
    let mut terms = row.map(|row| decode_terms(&row)).transpose()?;
    let terms = terms.get_or_insert_default();
    if change(terms) {
        transaction.set(&key, &encode_terms(terms)?);
        transaction.commit().await?;
    }
    Ok(std::mem::take(terms))
}

/// Whose stores told what is in these metadata; nobody: they were not rebuilt.
pub(super) async fn witnesses<S: Store>(store: &S) -> Result<Vec<Witness>, RowError> {
    let mut attempt = 1;
    loop {
        let read = store
            .begin()
            .get_snapshot(&keyspace::cluster_rebuilt())
            .await;
        match read.map_err(RowError::from) {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            row => {
                let row = row?.map(|row| decode_rebuilt(&row)).transpose()?;
                return Ok(row.unwrap_or_default());
            }
        }
    }
}

/// How far the metadata are, if the term is still their last: nobody else commits then.
pub(super) async fn version_in<S: Store>(store: &S, term: u128) -> Result<Option<u64>, RowError> {
    let mut attempt = 1;
    loop {
        match try_version_in(store, term).await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done,
        }
    }
}

async fn try_version_in<S: Store>(store: &S, term: u128) -> Result<Option<u64>, RowError> {
    let mut transaction = store.begin();
    let row = transaction.get_snapshot(&keyspace::cluster_terms()).await?;
    let terms = row.map(|row| decode_terms(&row)).transpose()?;
    let version = transaction.commit().await?;
    let is_last = terms.is_some_and(|terms| terms.current() == term);
    Ok(is_last.then(|| number(version)))
}

/// The newest version of a store.
pub(super) async fn version<S: Store>(store: &S) -> Result<u64, RowError> {
    let mut attempt = 1;
    loop {
        match store.begin().commit().await.map_err(RowError::from) {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done.map(number),
        }
    }
}

/// Without the order within it.
fn number(version: CommitVersion) -> u64 {
    let (high, _) = version.as_bytes().split_at(8);
    let append = |number, byte: &u8| number << 8 | u64::from(*byte);
    high.iter().fold(0, append)
}

/// The table in force, and all members with their sessions.
pub(super) async fn load<S: Store>(store: &S) -> Result<(SlotTable, Vec<(Member, u64)>), RowError> {
    let mut attempt = 1;
    loop {
        match try_load(store).await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done,
        }
    }
}

async fn try_load<S: Store>(store: &S) -> Result<(SlotTable, Vec<(Member, u64)>), RowError> {
    let mut transaction = store.begin();
    let table = match transaction.get_snapshot(&keyspace::slot_table()).await? {
        Some(row) => decode_slot_table(&row)?,
        None => SlotTable::default(),
    };
    let scan = Scan::new(keyspace::members(), crate::store::limits::SCAN_ROWS_MAX);
    let rows = transaction.scan(scan.snapshot()).await?;
    let mut members = Vec::with_capacity(rows.rows.len());
    for row in rows.rows {
        let member = decode_member(&row.value)?;
        let fence = read_fence(&mut transaction, &member.node).await?;
        members.push((member, fence.session));
    }
    Ok((table, members))
}

/// The table that is in the row. An attempt to put one there of which nobody knows how it ended
/// has come by then, or comes to nothing: the row it read was written again.
pub(super) async fn settle<S: Store>(store: &S) -> Result<SlotTable, RowError> {
    let mut attempt = 1;
    loop {
        match try_settle(store).await {
            // Written twice it is the same.
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done,
        }
    }
}

async fn try_settle<S: Store>(store: &S) -> Result<SlotTable, RowError> {
    let mut transaction = store.begin();
    let key = keyspace::slot_table();
    let table = match transaction.get(&key).await? {
        Some(row) => {
            transaction.set(&key, &row);
            decode_slot_table(&row)?
        }
        None => {
            transaction.clear(&key);
            SlotTable::default()
        }
    };
    transaction.commit().await?;
    Ok(table)
}

/// Opens a session of a member: what an earlier one sends is void from here on.
pub(super) async fn register<S: Store>(store: &S, member: &Member) -> Result<u64, RowError> {
    let mut attempt = 1;
    loop {
        match try_register(store, member).await {
            // Opened twice is opened: only the last one counts.
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {
                pause(&mut attempt).await;
            }
            done => return done,
        }
    }
}

async fn try_register<S: Store>(store: &S, member: &Member) -> Result<u64, RowError> {
    let mut transaction = store.begin();
    let fence = read_fence(&mut transaction, &member.node).await?;
    let fence = Fence {
        session: fence.session + 1,
        ..fence
    };
    transaction.set(&keyspace::fence(&member.node), &encode_fence(fence)?);
    transaction.set(&keyspace::member(&member.node), &encode_member(member)?);
    transaction.commit().await?;
    Ok(fence.session)
}

/// Notes that a member is gone and ends its session.
pub(super) async fn leave<S: Store>(store: &S, member: &Member) -> Result<u64, RowError> {
    let gone = Member {
        gone: true,
        ..member.clone()
    };
    register(store, &gone).await
}

/// Notes whether a member is to have no slots; its session goes on.
pub(super) async fn note<S: Store>(store: &S, member: &Member) -> Result<(), RowError> {
    let mut attempt = 1;
    loop {
        let mut transaction = store.begin();
        transaction.set(&keyspace::member(&member.node), &encode_member(member)?);
        match transaction.commit().await.map_err(RowError::from) {
            // Noted twice is noted.
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// Puts a table in force: fences whoever loses by it in the same transaction.
pub(super) async fn publish<S: Store>(store: &S, planned: &Move) -> Result<(), RowError> {
    let mut transaction = store.begin();
    let key = keyspace::slot_table();
    let before = match transaction.get(&key).await? {
        Some(row) => decode_slot_table(&row)?.epoch,
        None => 0,
    };
    if before == planned.table.epoch && attempted(&mut transaction, planned).await? {
        return Ok(());
    }
    if before + 1 != planned.table.epoch {
        return Err(RowError::Changed);
    }
    transaction.set(&key, &encode_slot_table(&planned.table)?);
    for node in &planned.losers {
        let fence = Fence {
            epoch: planned.table.epoch,
            ..read_fence(&mut transaction, node).await?
        };
        transaction.set(&keyspace::fence(node), &encode_fence(fence)?);
    }
    transaction.commit().await?;
    Ok(())
}

/// Whether the table in force is this one: an earlier attempt of unknown outcome.
async fn attempted<T: Transaction>(transaction: &mut T, planned: &Move) -> Result<bool, RowError> {
    let row = transaction.get(&keyspace::slot_table()).await?;
    Ok(match row {
        Some(row) => decode_slot_table(&row)? == planned.table,
        None => false,
    })
}

async fn read_fence<T: Transaction>(transaction: &mut T, node: &NodeId) -> Result<Fence, RowError> {
    let row = transaction.get(&keyspace::fence(node)).await?;
    Ok(row
        .map(|row| decode_fence(&row))
        .transpose()?
        .unwrap_or_default())
}
