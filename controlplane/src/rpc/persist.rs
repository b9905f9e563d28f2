//! What is not in the UFS yet, for admins: list, stat, retry, sum. Absent: the
//! queue itself, which the data plane owns, and any change of its order.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use quickwater_proto::{BucketId, ObjectKey, PendingChange, PendingRecord, PersistState};
use quickwater_rpc::admin::{
    PersistChange as Change, PersistListReply, PersistListRequest, PersistRetryReply,
    PersistRetryRequest, PersistStatReply, PersistStatRequest, PersistSumReply, PersistSumRequest,
    PersistTotals,
};
use tonic::Status;

use super::admin::{PAGE_LINES_MAX, bounded, unknown_token};
use super::views::{PersistChange, PersistFilter, PersistPlace};
use super::{AdminService, convert, status};
use crate::namespace::{Listed, PendingSum, SUM_ROWS_MAX};
use crate::store::Store;

/// Rows of a path that are looked through for TRANSIENT objects, at most.
const BELOW_ROWS_MAX: usize = 100_000;
/// Of them at a time.
const BELOW_PAGE: usize = 1_000;

/// A sum over rows that took a while is kept for so many times as long.
const SUM_KEPT_SHARE: u32 = 9;
/// Changes being sent that a listing asks for at a time, at most, and how often.
const RUNNING_MAX: usize = 1_000;
const RUNNING_PAGES_MAX: usize = 16;

/// A sum over the rows of all buckets, and how long it is good for.
#[derive(Debug)]
pub(super) struct RowSum {
    rows: PendingSum,
    until: Instant,
}

/// Objects below a path.
#[derive(Default)]
struct Below {
    transient: u64,
    others: u64,
}

impl Below {
    fn nothing_goes_there(&self) -> bool {
        self.transient > 0 && self.others == 0
    }
}

impl<S: Store> AdminService<S> {
    pub(super) async fn list_pending(
        &self,
        request: PersistListRequest,
    ) -> Result<PersistListReply, Status> {
        let only = self.worker(&request.worker)?;
        let filter = filter(&request.state)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(place(token).ok_or_else(unknown_token)?),
        };
        let limit = match request.page_size {
            0 => PAGE_LINES_MAX,
            size => size.min(PAGE_LINES_MAX),
        };
        let scope = self.scope(&request.bucket, &request.prefix).await?;
        let queue = &self.views.persist;
        let worker = Some(request.worker.as_str()).filter(|worker| !worker.is_empty());
        let (changes, next) = queue.page(scope, after.as_ref(), filter, worker, limit as usize);
        let names = self.bucket_names().await?;
        let mut shown = Vec::with_capacity(changes.len());
        for change in changes {
            // The changes of a bucket that was removed go with it.
            if let Some(name) = names.get(&change.bucket) {
                shown.push(self.show(change, name, &only).await?);
            }
        }
        Ok(PersistListReply {
            changes: shown,
            next_page_token: next.as_ref().map(token).unwrap_or_default(),
            totals: Some(self.all_pending().await?),
        })
    }

    pub(super) async fn stat_pending(
        &self,
        request: PersistStatRequest,
    ) -> Result<PersistStatReply, Status> {
        let bucket = self.bucket(&request.bucket).await?;
        let key = ObjectKey::new(&request.key).map_err(status::invalid_name)?;
        if let Some(change) = self.views.persist.stat(bucket.id, &key) {
            let only = self.worker("")?;
            let change = self.show(change, &request.bucket, &only).await?;
            return Ok(PersistStatReply {
                state: change.state.clone(),
                bytes: change.bytes,
                version: change.version.clone(),
                change: Some(change),
            });
        }
        if let Some(change) = self.unheard_change(bucket.id, &key).await? {
            let holders = self.namespace.holders(bucket.id, &key).await;
            let holders = holders.map_err(status::metadata)?;
            let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
            let change = Change {
                worker: names.join(", "),
                holders: names,
                ..wire(change, &request.bucket, "")
            };
            return Ok(PersistStatReply {
                state: change.state.clone(),
                bytes: change.bytes,
                version: change.version.clone(),
                change: Some(change),
            });
        }
        let found = self.views.files.stat(&bucket, &key).await;
        let record = found.map_err(status::metadata)?.ok_or_else(|| {
            let path = format!("/{}/{key}", request.bucket);
            Status::not_found(format!(
                "no object '{path}', and no delete of one is pending"
            ))
        })?;
        Ok(PersistStatReply {
            state: convert::persist_state(record.persist).to_owned(),
            bytes: record.size,
            version: convert::version(record.version),
            change: None,
        })
    }

    pub(super) async fn retry_pending(
        &self,
        request: PersistRetryRequest,
    ) -> Result<PersistRetryReply, Status> {
        let scope = self.scope(&request.bucket, &request.path).await?;
        let (hurried, unheard) = self.views.persist.retry(scope);
        Ok(PersistRetryReply { hurried, unheard })
    }

    pub(super) async fn sum_pending(
        &self,
        request: PersistSumRequest,
    ) -> Result<PersistSumReply, Status> {
        let scope = self.scope(&request.bucket, &request.path).await?;
        let queue = &self.views.persist;
        let (pending, until_ms) = match request.until_ms {
            0 => self.all_now(scope).await?,
            given => {
                let told = queue.sum(scope, given);
                (self.by_rows(told, scope, given).await?, given)
            }
        };
        let (found, transient) = match scope {
            Some((_, path)) if !path.is_empty() && pending.puts + pending.deletes == 0 => {
                match self.known_state(&request.bucket, path).await? {
                    Some(state) => (true, state == PersistState::Transient),
                    None => (self.lies_there(&request.bucket, path).await?, false),
                }
            }
            _ => (true, false),
        };
        let below = match scope {
            _ if pending.puts + pending.deletes > 0 => Below::default(),
            // Nothing but a look through the rows tells them, and most have none.
            _ if queue.totals().transient_objects == 0 => Below::default(),
            Some((bucket, path)) => self.below(bucket, path).await?,
            None => Below::default(),
        };
        Ok(PersistSumReply {
            pending: Some(pending),
            until_ms,
            found,
            transient: transient || below.nothing_goes_there(),
            transient_objects: below.transient + u64::from(transient),
        })
    }

    /// All that is pending now in a scope, and a time that none of it is younger than:
    /// changes are dated by the workers that took them in, whose clocks may be ahead of
    /// ours.
    async fn all_now(
        &self,
        scope: Option<(BucketId, &str)>,
    ) -> Result<(PersistTotals, i64), Status> {
        let queue = &self.views.persist;
        let (now_ms, told) = (queue.now_ms(), queue.sum(scope, i64::MAX));
        if self.views.cluster.is_none() {
            let until_ms = now_ms.max(told.newest_ms);
            return Ok((told, until_ms));
        }
        // Whatever the queues told: one that says little may have yet to hear of more.
        let rows = self.sum_rows(scope, i64::MAX).await?;
        let until_ms = match rows.more {
            // Nobody has seen the newest.
            true => i64::MAX,
            false => now_ms.max(told.newest_ms).max(rows.newest_ms.unwrap_or(0)),
        };
        match is_told(&told) {
            true => Ok((told, until_ms)),
            false => Ok((self.merge(told, rows)?, until_ms)),
        }
    }

    /// Sums over all. Where rows were summed up for them, the sum is kept for some times as
    /// long as that took: whoever looks again and again, as pages do, must not keep the
    /// metadata store busy.
    async fn all_pending(&self) -> Result<PersistTotals, Status> {
        let told = self.views.persist.totals();
        if self.views.cluster.is_none() || is_told(&told) {
            return Ok(told);
        }
        let mut kept = self.row_sum.lock().await;
        let rows = match kept.as_ref() {
            Some(sum) if Instant::now() < sum.until => sum.rows.clone(),
            _ => {
                let begun = Instant::now();
                let rows = self.sum_rows(None, i64::MAX).await?;
                let until = Instant::now() + begun.elapsed() * SUM_KEPT_SHARE;
                let rows_kept = rows.clone();
                *kept = Some(RowSum {
                    rows: rows_kept,
                    until,
                });
                rows
            }
        };
        drop(kept);
        self.merge(told, rows)
    }

    /// What queues told, or what the metadata says where that may be more: in a cluster,
    /// what a worker has queued that does not answer, and what nobody has queued yet
    /// because its slot moves, is in the metadata all the same.
    async fn by_rows(
        &self,
        told: PersistTotals,
        scope: Option<(BucketId, &str)>,
        until_ms: i64,
    ) -> Result<PersistTotals, Status> {
        if self.views.cluster.is_none() || is_told(&told) {
            return Ok(told);
        }
        let rows = self.sum_rows(scope, until_ms).await?;
        self.merge(told, rows)
    }

    async fn sum_rows(
        &self,
        scope: Option<(BucketId, &str)>,
        until_ms: i64,
    ) -> Result<PendingSum, Status> {
        let summed = bounded(self.namespace.pending_sum(scope, until_ms)).await?;
        summed.map_err(status::metadata)
    }

    /// What rows say in place of what queues told.
    fn merge(&self, told: PersistTotals, rows: PendingSum) -> Result<PersistTotals, Status> {
        let found = rows.puts + rows.deletes;
        if rows.more && found == 0 && !told.unheard.is_empty() {
            let names = told.unheard.join(", ");
            return Err(Status::unavailable(format!(
                "no answer from {names}, and the first {SUM_ROWS_MAX} rows are all of TRANSIENT \
                 objects: ask for a narrower path"
            )));
        }
        let nodes = self.views.node.nodes();
        // A worker that is gone and has nothing that is counted is not missed.
        let missed = |name: &String| {
            let lives = nodes.iter().any(|n| n.name == *name && n.lease_ms > 0);
            lives || rows.holders.iter().any(|holder| holder.as_str() == name)
        };
        Ok(PersistTotals {
            puts: rows.puts,
            deletes: rows.deletes,
            bytes: rows.bytes,
            oldest_ms: rows.oldest_ms.unwrap_or(0),
            newest_ms: rows.newest_ms.unwrap_or(0),
            unheard: told.unheard.into_iter().filter(missed).collect(),
            ..told
        })
    }

    /// The change of a key that no queue shows, although the metadata has it.
    async fn unheard_change(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<PersistChange>, Status> {
        if self.views.cluster.is_none() {
            return Ok(None);
        }
        let row = self.namespace.pending(bucket, key).await;
        let row = row.map_err(status::metadata)?;
        let lacking = |row: &PendingRecord| {
            matches!(
                row.change,
                PendingChange::Put { .. } | PendingChange::Delete
            )
        };
        Ok(row.filter(lacking).map(|pending| PersistChange {
            bucket,
            key: key.clone(),
            pending,
            running: false,
            attempts: 0,
            error: Some("no worker shows it in its queue: the metadata does".into()),
            due_in: Duration::ZERO,
            worker: None,
        }))
    }

    /// Where the object at exactly this path is safe, if the metadata know it.
    async fn known_state(&self, bucket: &str, path: &str) -> Result<Option<PersistState>, Status> {
        let Ok(key) = ObjectKey::new(path) else {
            return Ok(None);
        };
        let bucket = self.bucket(bucket).await?;
        let known = self.namespace.object(bucket.id, &key).await;
        Ok(known.map_err(status::metadata)?.map(|known| known.persist))
    }

    /// Objects below a path by where they go, those of the first [`BELOW_ROWS_MAX`] rows.
    async fn below(&self, bucket: BucketId, path: &str) -> Result<Below, Status> {
        let prefix = match path.is_empty() || path.ends_with('/') {
            true => path.to_owned(),
            false => format!("{path}/"),
        };
        let (mut below, mut rows, mut after) = (Below::default(), 0, None);
        while rows < BELOW_ROWS_MAX {
            let page = self
                .namespace
                .list(bucket, &prefix, "", after.as_ref(), BELOW_PAGE);
            let page = bounded(page).await?.map_err(status::metadata)?;
            for line in &page.entries {
                match line {
                    Listed::Object(_, row) if row.persist == PersistState::Transient => {
                        below.transient += 1;
                    }
                    _ => below.others += 1,
                }
            }
            rows += page.entries.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(below)
    }

    /// Whether there is an object below a path that is none in the metadata: as these
    /// know, else, there or below, as the UFS says.
    async fn lies_there(&self, bucket: &str, path: &str) -> Result<bool, Status> {
        let bucket = self.bucket(bucket).await?;
        let below = match path.ends_with('/') {
            true => path.to_owned(),
            false => format!("{path}/"),
        };
        let known = self.namespace.list(bucket.id, &below, "", None, 1).await;
        if !known.map_err(status::metadata)?.entries.is_empty() {
            return Ok(true);
        }
        if let Ok(key) = ObjectKey::new(path) {
            let seen = bounded(self.views.files.stat(&bucket, &key)).await?;
            if seen.map_err(status::metadata)?.is_some() {
                return Ok(true);
            }
        }
        let seen = bounded(self.views.files.list(&bucket, &below, "", None, 1)).await?;
        Ok(!seen.map_err(status::metadata)?.entries.is_empty())
    }

    /// Shows of a page of a listing, which is in order, what is being sent. All at once: in
    /// a cluster every question goes to all workers.
    pub(super) fn show_running(&self, bucket: BucketId, lines: &mut [Listed]) {
        let mut waiting = lines.iter_mut().filter_map(|line| match line {
            Listed::Object(key, row) if row.persist == PersistState::NotPersisted => {
                Some((&*key, &mut row.persist))
            }
            _ => None,
        });
        let Some((first, state)) = waiting.next() else {
            return;
        };
        *state = self.persist_state(bucket, first, *state);
        let waiting: Vec<_> = waiting.collect();
        let Some((last, _)) = waiting.last() else {
            return;
        };
        let sent = self.running_between(bucket, first, last);
        for (key, state) in waiting {
            if sent.contains(key) {
                *state = PersistState::Persisting;
            }
        }
    }

    /// Keys after one, up to another, that are being sent.
    fn running_between(
        &self,
        bucket: BucketId,
        first: &ObjectKey,
        last: &ObjectKey,
    ) -> HashSet<ObjectKey> {
        let (queue, running) = (&self.views.persist, Some(PersistFilter::Running));
        let (mut sent, mut after) = (HashSet::new(), (bucket, first.clone()));
        // Each looks at more changes than a listing has lines; deletes are not among those.
        for _ in 0..RUNNING_PAGES_MAX {
            let scope = Some((bucket, ""));
            let (changes, next) = queue.page(scope, Some(&after), running, None, RUNNING_MAX);
            let running = changes.into_iter().filter(|change| change.running);
            sent.extend(running.map(|change| change.key));
            match next {
                Some(next) if next.0 == bucket && next.1 < *last => after = next,
                _ => break,
            }
        }
        sent
    }

    /// The state of a version as of now: what is being sent is known to the queue only.
    pub(super) fn persist_state(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        stored: PersistState,
    ) -> PersistState {
        if stored != PersistState::NotPersisted {
            return stored;
        }
        match self.views.persist.stat(bucket, key) {
            Some(change) if change.running => PersistState::Persisting,
            _ => stored,
        }
    }

    /// The bucket that is meant, and the path in it; none for all buckets.
    async fn scope<'a>(
        &self,
        bucket: &str,
        path: &'a str,
    ) -> Result<Option<(BucketId, &'a str)>, Status> {
        match (bucket, path) {
            ("", "") => Ok(None),
            ("", _) => Err(Status::invalid_argument("a path needs a bucket")),
            (name, path) => Ok(Some((self.bucket(name).await?.id, path))),
        }
    }

    /// A change with who has its bytes. `only`: whose queue it is in, if there is one.
    async fn show(
        &self,
        change: PersistChange,
        bucket: &str,
        only: &str,
    ) -> Result<Change, Status> {
        let holders = match change.pending.change {
            PendingChange::Put { .. } | PendingChange::Hold { .. } => {
                let held = self.namespace.holders(change.bucket, &change.key).await;
                held.map_err(status::metadata)?
            }
            PendingChange::Delete | PendingChange::Settling { .. } => Vec::new(),
        };
        let worker = change.worker.as_ref().map(ToString::to_string);
        let worker = worker.unwrap_or_else(|| only.to_owned());
        let holders = holders.iter().map(ToString::to_string).collect();
        Ok(Change {
            holders,
            ..wire(change, bucket, &worker)
        })
    }

    /// The worker that is meant, or the first: they have names.
    fn worker(&self, asked: &str) -> Result<String, Status> {
        let nodes = self.views.node.nodes();
        let names: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
        let found = names.iter().find(|name| asked.is_empty() || *name == asked);
        found.cloned().ok_or_else(|| {
            let names = names.join(", ");
            Status::not_found(format!("no worker '{asked}'; there is: {names}"))
        })
    }

    async fn bucket_names(&self) -> Result<HashMap<BucketId, String>, Status> {
        let buckets = self.namespace.buckets().await.map_err(status::metadata)?;
        let name = |bucket: quickwater_proto::Bucket| (bucket.id, bucket.name.as_str().to_owned());
        Ok(buckets.into_iter().map(name).collect())
    }
}

/// Whether queues told all there may be: everybody answered, and something is queued.
fn is_told(told: &PersistTotals) -> bool {
    told.puts + told.deletes > 0 && told.unheard.is_empty()
}

fn filter(state: &str) -> Result<Option<PersistFilter>, Status> {
    match state {
        "" => Ok(None),
        "waiting" => Ok(Some(PersistFilter::Waiting)),
        "running" => Ok(Some(PersistFilter::Running)),
        "failing" => Ok(Some(PersistFilter::Failing)),
        other => Err(Status::invalid_argument(format!(
            "no state '{other}'; waiting, running or failing"
        ))),
    }
}

fn wire(change: PersistChange, bucket: &str, worker: &str) -> Change {
    let pending = &change.pending;
    let (state, bytes) = match pending.change {
        PendingChange::Put { size } if change.running => ("PERSISTING", size),
        PendingChange::Put { size } => ("NOT_PERSISTED", size),
        PendingChange::Hold { size } => ("TRANSIENT", size),
        PendingChange::Delete => ("DELETING", 0),
        PendingChange::Settling { .. } => ("SETTLING", 0),
    };
    Change {
        bucket: bucket.to_owned(),
        key: change.key.as_str().to_owned(),
        state: state.to_owned(),
        bytes,
        since_ms: pending.since_ms,
        running: change.running,
        attempts: change.attempts,
        due_in_ms: u64::try_from(change.due_in.as_millis()).unwrap_or(u64::MAX),
        error: change.error.unwrap_or_default(),
        version: convert::version(pending.version),
        worker: worker.to_owned(),
        holders: Vec::new(),
    }
}

/// A place as opaque text: the number of its bucket, then the key.
fn token((bucket, key): &PersistPlace) -> String {
    format!("{}/{key}", bucket.0)
}

/// `None`: not one of ours.
fn place(token: &str) -> Option<PersistPlace> {
    let (bucket, key) = token.split_once('/')?;
    Some((BucketId(bucket.parse().ok()?), ObjectKey::new(key).ok()?))
}
