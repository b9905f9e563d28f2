//! What is not in the UFS yet, for admins: list, stat, retry, sum. Absent: the
//! queue itself, which the data plane owns, and any change of its order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use quickwater_proto::{BucketId, ObjectKey, PendingChange, PendingRecord, PersistState};
use quickwater_rpc::admin::{
    PersistChange as Change, PersistListReply, PersistListRequest, PersistRetryReply,
    PersistRetryRequest, PersistStatReply, PersistStatRequest, PersistSumReply, PersistSumRequest,
};
use tonic::Status;

use super::admin::{PAGE_LINES_MAX, bounded, unknown_token};
use super::views::{PersistChange, PersistFilter, PersistPlace};
use super::{AdminService, convert, status};
use crate::namespace::Listed;
use crate::store::Store;

/// Rows of a path that are looked through for TRANSIENT objects, at most.
const BELOW_ROWS_MAX: usize = 100_000;
/// Of them at a time.
const BELOW_PAGE: usize = 1_000;

/// Changes being sent that a listing asks for at a time, at most, and how often.
const RUNNING_MAX: usize = 1_000;
const RUNNING_PAGES_MAX: usize = 16;

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
