//! One life of the process: its start, which makes what the journal and the
//! metadata say true again as `serve` does, and its background work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::io::{Metadata, Ufs};
use quickwater_engine::{Engine, EngineConfig, PersistConfig, Shared};
use quickwater_proto::*;

use super::CrashWorld;
use super::disk::Fate;
use super::run::Outside;
use crate::scenarios::config;
use crate::world::SimEnvironment;

pub type Node = Engine<CrashWorld>;

type Fates = BTreeMap<BlobId, Fate>;

/// How often it is noted how far the journal is settled.
const NOTE_PERIOD: Duration = Duration::from_secs(1);
/// When abandoned uploads are looked for, and how old they are.
pub const ORPHAN_PERIOD: Duration = Duration::from_secs(3);
pub const ORPHAN_TIMEOUT: Duration = Duration::from_secs(9);

/// Two shards of a new process.
pub fn new_shards(outside: &Outside) -> [Node; 2] {
    let shared = Shared::new(EngineConfig {
        wait_max: Duration::from_secs(5),
        persist: PersistConfig {
            retry_initial: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
            part_bytes: 600_000,
            ..PersistConfig::default()
        },
        ..config()
    });
    [(); 2].map(|()| {
        Engine::new(
            Arc::clone(&shared),
            outside.disk.clone(),
            outside.ufs.clone(),
            outside.metadata.clone(),
            SimEnvironment(outside.sim.clone()),
            quickwater_engine::io::Alone,
        )
    })
}

/// Starts what runs beside the requests.
pub fn begin_background(outside: &Outside, shards: &[Node; 2]) {
    for shard in shards {
        let shard = shard.clone();
        outside
            .sim
            .spawn(async move { shard.run_persister(|| false).await });
    }
    let (sim, keeper) = (outside.sim.clone(), shards[0].clone());
    let trace = outside.trace.clone();
    outside.sim.spawn(async move {
        let started = sim.now();
        loop {
            sim.sleep(ORPHAN_PERIOD).await;
            let swept = keeper.sweep(ORPHAN_TIMEOUT, started).await;
            if swept.uploads > 0 {
                trace.note("swept", &swept.uploads);
            }
            if swept.ufs_uploads > 0 {
                trace.note("swept in the UFS", &swept.ufs_uploads);
            }
        }
    });
    let (sim, metadata) = (outside.sim.clone(), outside.metadata.clone());
    let shared = Arc::clone(shards[0].shared());
    outside.sim.spawn(async move {
        loop {
            sim.sleep(NOTE_PERIOD).await;
            metadata.set_through(shared.journal.through());
        }
    });
}

/// Brings metadata, store and queue together. May be cut off at any point.
pub async fn recover(outside: &Outside, shared: &Shared) {
    let mut fates = Fates::new();
    replay(outside, shared, &mut fates).await;
    queue_pending(outside, shared, &mut fates).await;
    for opened in outside.metadata.opened() {
        shared.opened.load(BucketId(1), opened);
    }
    keep_uploads(outside, shared, &mut fates).await;
    // A process that cannot do this does not start; the next one does it all again.
    while outside.metadata.flush().await.is_err() {}
    let fate = |blob| fates.get(&blob).copied().unwrap_or(Fate::Forget);
    outside.disk.reconcile(fate);
    outside.trace.note("recovered", &fates.len());
}

/// Makes commits again that a crash took.
async fn replay(outside: &Outside, shared: &Shared, fates: &mut Fates) {
    let (metadata, disk) = (&outside.metadata, &outside.disk);
    let through = metadata.through();
    let mut last = through;
    let mut later = BTreeMap::new();
    let mut settled = Vec::new();
    for (blob, entry) in disk.journal() {
        // Says that its commit must never be made.
        if entry.is_empty() {
            continue;
        }
        let (sequence, key, record) = metadata.decode(&entry).unwrap();
        last = last.max(sequence);
        if sequence > through {
            later.insert((sequence, blob), (entry, key, record));
        } else {
            settled.push((key, blob));
        }
    }
    for ((_, blob), (entry, key, record)) in later {
        // Else it was never acked: the flush that covers both did not end.
        if disk.holds(blob, record.size) {
            metadata.replay(&entry).await;
            settled.push((key, blob));
        }
    }
    // Not before: a later entry may have replaced what an earlier one made.
    for (key, blob) in settled {
        fates.insert(blob, fate_of(outside, &key, blob).await);
    }
    shared.journal.resume(last);
}

async fn fate_of(outside: &Outside, key: &ObjectKey, blob: BlobId) -> Fate {
    let record = outside.metadata.object(BucketId(1), key).await.unwrap();
    let current = record.filter(|record| record.extents.iter().any(|e| e.blob == blob));
    match current {
        None => Fate::Forget,
        Some(record) if record.persist == PersistState::Persisted => Fate::Release,
        Some(_) => Fate::Keep,
    }
}

/// Queues every pending change and keeps the bytes of those that are puts.
async fn queue_pending(outside: &Outside, shared: &Shared, fates: &mut Fates) {
    let metadata = &outside.metadata;
    let mut after: Option<ObjectKey> = None;
    loop {
        let from = after.as_ref().map(|key| (BucketId(1), key));
        let page = metadata.pending_changes(from, 2).await.unwrap();
        after = page.entries.last().map(|(_, key, _)| key.clone());
        for (id, key, pending) in page.entries {
            if let PendingChange::Put { .. } | PendingChange::Hold { .. } = pending.change
                && let Some(record) = metadata.object(id, &key).await.unwrap()
            {
                fates.extend(record.extents.iter().map(|e| (e.blob, Fate::Keep)));
                let slot = quickwater_proto::slot_of(id, &key);
                shared.transient.add(&record, slot);
            }
            let late_max = outside.ufs.late_max(&outside.bucket);
            let now = outside.sim.now();
            let now = (now, now.as_millis() as i64);
            let mut pending = pending;
            if pending.change == PendingChange::UNDER_WAY {
                let until_ms = now.1 + late_max.as_millis() as i64;
                metadata.fence_request(&key, until_ms);
                pending.change = PendingChange::Settling { until_ms };
            }
            shared.persist.load(id, key, pending, now, Some(late_max));
        }
        if !page.more || after.is_none() {
            return;
        }
    }
}

/// Keeps the parts of uploads that are not complete.
async fn keep_uploads(outside: &Outside, shared: &Shared, fates: &mut Fates) {
    for upload in outside.metadata.open_uploads() {
        let parts = outside
            .metadata
            .parts(BucketId(1), &upload.key, upload.id, 0, 100);
        let parts = parts.await.unwrap();
        let fate = |part: &PartRecord| match upload.is_held() || part.held {
            true => Fate::Keep,
            false => Fate::Release,
        };
        fates.extend(parts.iter().map(|part| (part.blob, fate(part))));
        if !upload.is_held() && parts.iter().any(|part| part.held) {
            shared.load_handed_over(BucketId(1), &upload);
        }
    }
}
