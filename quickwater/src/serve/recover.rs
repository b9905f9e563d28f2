//! What a start does before the first request: commits that only the journal has
//! are made again, pinned data that nobody needs is let go, and what the UFS has
//! still to be told is queued.
//!
//! May be killed at any point: every step can be done again.

mod judge;
mod notes;
mod parts;
mod queue;
mod replay;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use quickwater_controlplane::namespace::Namespace;
use quickwater_engine::Shared;
use quickwater_proto::{
    BlobId, BucketId, CopyAt, Holders, NodeId, ObjectKey, PersistState, UploadId, slot_of,
};
use quickwater_worker::store::{Fate, Store};

use self::judge::judge;
pub(super) use self::notes::search_untold;
use self::parts::UploadParts;
use self::queue::Queue;
use self::replay::{claim, replay};
use super::names::{Names, Rows};
use super::set_aside::set_aside;
use crate::store::MetadataStore;

/// Rows read from the metadata at a time.
const ROWS: usize = 1_000;
/// How often it is noted how far the journal is settled.
const NOTE_PERIOD: Duration = Duration::from_secs(1);

/// Brings metadata, store and queue together. `fence`: how long a request that
/// the last process sent may still be applied by a UFS that outlives us. `mine`: the
/// slots whose keys are ours to see to. `aside`: where to write what no row names, before
/// it is let go.
///
/// # Errors
/// The metadata or the store cannot be read, or nothing be set aside; nothing was lost by
/// it.
pub(super) async fn recover<M: Names>(
    metadata: &M,
    store: &Store,
    shared: &Arc<Shared>,
    fence: Duration,
    (node, mine): (Option<&NodeId>, &(dyn Fn(usize) -> bool + Sync)),
    aside: Option<&Path>,
) -> Result<()> {
    let rows = metadata.rows();
    let mut fates = HashMap::new();
    match metadata.here() {
        // Until `search_untold` has ended.
        Some(_) => shared.notes.begin_search(),
        None => shared.notes.follow(),
    }
    let last = match metadata.here() {
        Some(namespace) => {
            claim(namespace, store).await?;
            replay(namespace, store, &mut fates).await?
        }
        None => judge(rows, store, (shared, mine), &mut fates).await?,
    };
    shared.journal.resume(last);
    let buckets = rows.buckets().await?;
    let queue = Queue {
        rows,
        store: metadata.here().is_none().then_some(store),
        node,
        shared,
        fence,
        now: Duration::ZERO,
        taken: false,
    };
    // Before what is pending is read: Complete moves a part from its own row to that of its
    // key, in one transaction.
    let parts = UploadParts {
        rows,
        store,
        node,
        shared,
        now: Duration::ZERO,
    };
    parts.keep(&buckets, &mut fates).await?;
    parts.take(&buckets, mine).await?;
    let pending = queue.load(&buckets, mine, &mut fates).await?;
    let opened = load_opened(rows, shared, mine).await?;
    // What the metadata says may be in memory only, if no power cut ended the last
    // process; bytes of what is persisted must not go before that is on disk.
    rows.flush().await?;
    if let Some(dir) = aside {
        let aside = set_aside(store, &fates, &buckets, dir)?;
        if aside.files > 0 {
            tracing::warn!(
                dir = %dir.display(),
                files = aside.files,
                bytes = aside.bytes,
                damaged = aside.damaged,
                "the metadata are older than what is here: what they do not name was set aside"
            );
        }
    }
    // What has neither entry nor row is a part: of an object that its UFS has, and
    // then worth keeping, or of nothing, and then the first to be evicted.
    let reconciled = store.reconcile(|blob| fates.get(&blob).copied().unwrap_or(Fate::Release));
    // From here on the store can tell what has ended, should the metadata be lost.
    store.note_settled(last);
    store.trust_marks();
    tracing::info!(
        pending,
        opened,
        kept = reconciled.kept,
        released = reconciled.released,
        forgotten = reconciled.forgotten,
        "data that is not in its UFS was looked through"
    );
    Ok(())
}

/// Queues what the UFSs have still to be told of keys that became ours, and takes in what
/// was opened there for them.
///
/// # Errors
/// The metadata cannot be read: nothing must be answered for these keys yet.
pub(super) async fn take_in<R: Rows>(
    rows: &R,
    store: &Store,
    shared: &Shared,
    (fence, now): (Duration, Duration),
    (node, mine): (&NodeId, &(dyn Fn(usize) -> bool + Sync)),
) -> Result<u64> {
    let buckets = rows.buckets().await?;
    let queue = Queue {
        rows,
        store: Some(store),
        node: Some(node),
        shared,
        fence,
        now,
        taken: true,
    };
    // Before anything is judged by them: what memory has of these keys is of an earlier time.
    let of = |bucket, key: &ObjectKey| mine(slot_of(bucket, key));
    shared.opened.forget(of);
    load_opened(rows, shared, mine).await?;
    let parts = UploadParts {
        rows,
        store,
        node: Some(node),
        shared,
        now,
    };
    parts.take(&buckets, mine).await?;
    queue.load(&buckets, mine, &mut HashMap::new()).await
}

/// Notes how far the journal is settled, for ever.
pub(super) async fn note_settled(
    namespace: Namespace<MetadataStore>,
    store: Store,
    shared: Arc<Shared>,
) {
    let mut noted = 0;
    loop {
        tokio::time::sleep(NOTE_PERIOD).await;
        let through = shared.journal.through();
        if through == noted {
            continue;
        }
        store.note_settled(through);
        match namespace.set_journal_through(through).await {
            Ok(()) => noted = through,
            Err(error) => tracing::warn!(%error, "how far the journal is settled cannot be noted"),
        }
    }
}

/// The same in a cluster, whose metadata ask for no journal.
pub(super) async fn note_settled_here(store: Store, shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(NOTE_PERIOD).await;
        store.note_settled(shared.journal.through());
    }
}

/// What becomes of a blob that was written for a key.
async fn fate_of(
    rows: &impl Rows,
    bucket: BucketId,
    key: &ObjectKey,
    blob: BlobId,
) -> Result<Fate> {
    let record = rows.object(bucket, key).await?;
    let current = record.filter(|record| record.extents.iter().any(|e| e.blob == blob));
    Ok(match current {
        None => Fate::Forget,
        Some(record) if record.persist == PersistState::Persisted => Fate::Release,
        Some(_) => Fate::Keep,
    })
}

/// The holders but for this worker. A row does not say in which session: they are asked.
fn others_of(node: &NodeId, holders: &Holders) -> Arc<[CopyAt]> {
    let others = holders.nodes.iter().filter(|holder| *holder != node);
    let others = others.map(|node| CopyAt {
        node: node.clone(),
        session: 0,
    });
    others.collect()
}

/// Takes in what the last process, or the last owner, had opened in UFSs.
async fn load_opened(
    rows: &impl Rows,
    shared: &Shared,
    mine: &(dyn Fn(usize) -> bool + Sync),
) -> Result<u64> {
    let mut count = 0;
    let mut after: Option<(BucketId, ObjectKey, UploadId)> = None;
    loop {
        let from = after.as_ref().map(|(bucket, key, id)| (*bucket, key, *id));
        let page = rows.opened(from, ROWS).await?;
        after = page.last().map(|(b, o)| (*b, o.key.clone(), o.id));
        let whole = page.len() < ROWS;
        for (bucket, opened) in page {
            if !mine(slot_of(bucket, &opened.key)) {
                continue;
            }
            count += 1;
            shared.opened.load(bucket, opened);
        }
        if whole {
            return Ok(count);
        }
    }
}

fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
