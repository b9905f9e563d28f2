//! LIST: an ordered scan of the metadata, after the part of the namespace it
//! covers was compared with the UFS.

mod page;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_proto::{Bucket, ObjectRecord, PersistState};

pub(crate) use self::page::successor;
use self::page::{Entry, PageBuilder, just_after, rolled_up};
pub use self::page::{ListPage, ListQuery};
use crate::decisions::freshness::{Scan, Scope};
use crate::decisions::recent_deletes::DeletesBelow;
use crate::decisions::scan_pace::ScanPace;
use crate::engine::{Engine, World, ttl_of};
use crate::error::FlowError;
use crate::flows::resolve::RETRY_CHECK_AFTER;
use crate::io::{Environment, Metadata, Peers};

impl<W: World> Engine<W> {
    /// Lists a page.
    ///
    /// # Errors
    /// The metadata is unavailable, or the UFS while nobody has listed this before
    /// or the query wants it compared.
    pub async fn list(
        &self,
        bucket: &Arc<Bucket>,
        query: &ListQuery,
    ) -> Result<ListPage, FlowError> {
        let listed = self.list_within(bucket, query, async || Ok(())).await;
        listed.map(|(page, ())| page)
    }

    /// As [`Engine::list`], with memory for a page from `room`, which is asked only
    /// when a page can be put together: who waits for the UFS holds none.
    ///
    /// # Errors
    /// Those of [`Engine::list`] and of `room`.
    pub async fn list_within<R, E: From<FlowError>>(
        &self,
        bucket: &Arc<Bucket>,
        query: &ListQuery,
        room: impl AsyncFn() -> Result<R, E>,
    ) -> Result<(ListPage, R), E> {
        // Without a lease nothing is known to be current.
        self.permit_lease()?;
        if query.limit == 0 {
            return Ok((ListPage::default(), room().await?));
        }
        let deletes = match query.delimiter == "/" {
            true => self.all_deletes_below(bucket, &query.prefix).await,
            false => DeletesBelow::none(),
        };
        let asked_at = self.environment().monotonic();
        let one_level = query.delimiter == "/" && !deletes.unsent;
        let (mut scan, is_new) = self.fresh_scan(bucket, query, one_level);
        // A comparison that began after the deletes were asked for, and why one failed.
        let mut since = is_new.then(|| Arc::clone(&scan));
        let mut failed = None;
        loop {
            let is_since = since
                .as_ref()
                .is_some_and(|since| Arc::ptr_eq(since, &scan));
            let touched = |folder: &str| {
                let within = asked_at.checked_sub(scan.begun).filter(|_| !is_since);
                within.is_some_and(|within| deletes.touched(folder, within))
            };
            let through = scan.with(|p| (p.through.clone(), p.done.clone(), p.overflow));
            let changed = scan.listen();
            match through {
                (_, Some(Err(error)), _) => match self.known_before(&scan, query) {
                    Some(before) => {
                        failed = Some(error);
                        scan = before;
                    }
                    None => return Err(error.into()),
                },
                (_, _, true) => scan = self.fresh_scan(bucket, query, false).0,
                (_, Some(Ok(())), _) => {
                    self.count_stale(bucket, &scan);
                    let held = room().await?;
                    if let Some(page) = self.page(bucket, query, &scan, touched).await? {
                        return Ok((page, held));
                    }
                    drop(held);
                    if let Some(error) = failed {
                        return Err(error.into());
                    }
                    scan = self.scan_since(bucket, &scan.scope, asked_at);
                    since = Some(Arc::clone(&scan));
                }
                (through, None, false) => {
                    if scan.scope.one_level {
                        self.wait_for(changed, &scan).await?;
                        continue;
                    }
                    let room = room().await?;
                    let page = self.page(bucket, query, &scan, touched).await?;
                    let is_covered = |page: &ListPage| {
                        let last = page.last.as_deref();
                        page.truncated && last.is_some_and(|last| last < through.as_str())
                    };
                    if let Some(page) = page.filter(is_covered) {
                        return Ok((page, room));
                    }
                    drop(room);
                    self.wait_for(changed, &scan).await?;
                }
            }
        }
    }

    /// What deletes did below the prefix, here and elsewhere: a folder of the UFS may hold
    /// nothing but keys that are deleted, or hold none any more.
    async fn all_deletes_below(&self, bucket: &Bucket, prefix: &str) -> DeletesBelow {
        if self.shared().persist.deletes_below(bucket.id, prefix) {
            return DeletesBelow::unknown();
        }
        let others = self.peers().deletes_below(bucket, prefix).await;
        let now = self.environment().monotonic();
        // Only now: those who were asked are of this table, or of one that is noted.
        let recent = &self.shared().recent_deletes;
        recent.note_table(self.peers().table(), now);
        self.deletes_below(bucket, prefix).and(others)
    }

    /// What deletes of this worker did below a prefix.
    #[must_use]
    pub fn deletes_below(&self, bucket: &Bucket, prefix: &str) -> DeletesBelow {
        // One that ends in between is in the second answer.
        let unsent = self.shared().persist.deletes_below(bucket.id, prefix);
        let now = self.environment().monotonic();
        let recent = &self.shared().recent_deletes;
        DeletesBelow {
            unsent,
            ..recent.below(bucket.id, folder_of(prefix), now)
        }
    }

    /// What answers when the UFS is out of reach: the last comparison that saw all of
    /// it, with all that was committed here since.
    fn known_before(&self, failed: &Scan, query: &ListQuery) -> Option<Arc<Scan>> {
        if query.revalidate || !failed.with(|p| p.out_of_reach) {
            return None;
        }
        let again_at = self.environment().monotonic() + RETRY_CHECK_AFTER;
        self.shared().freshness.last_whole(&failed.scope, again_at)
    }

    /// Counts an answer from a comparison that is older than the TTL allows.
    fn count_stale(&self, bucket: &Bucket, scan: &Scan) {
        let age = self.environment().monotonic().saturating_sub(scan.begun);
        let took = scan.with(|p| p.took);
        if age > ttl_of(bucket).saturating_add(took) {
            let stats = &self.shared().stats;
            stats.stale_answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn wait_for(
        &self,
        changed: event_listener::EventListener,
        scan: &Scan,
    ) -> Result<(), FlowError> {
        // It may have moved between our look and `listen`.
        if scan.with(|p| p.done.is_some()) {
            return Ok(());
        }
        let waited = self.within(changed).await;
        waited.ok_or_else(|| FlowError::SlowDown("the UFS is slow to list".into()))
    }

    /// A comparison with the UFS that answers for the query, begun if needed (`true`).
    fn fresh_scan(
        &self,
        bucket: &Arc<Bucket>,
        query: &ListQuery,
        one_level: bool,
    ) -> (Arc<Scan>, bool) {
        let scope = Scope {
            bucket: bucket.id,
            prefix: if one_level {
                folder_of(&query.prefix).to_owned()
            } else {
                query.prefix.clone()
            },
            from: query.after.clone(),
            one_level,
        };
        let now = self.environment().monotonic();
        let freshness = &self.shared().freshness;
        let (scan, run) = match query.revalidate {
            true => (freshness.begin(&scope, now), true),
            false => freshness.find_or_begin(&scope, now, ttl_of(bucket)),
        };
        if run {
            self.run_scan(bucket, &scan);
        }
        (scan, run)
    }

    /// A comparison of `scope` that began after `asked_at`, shared by all who ask meanwhile.
    fn scan_since(&self, bucket: &Arc<Bucket>, scope: &Scope, asked_at: Duration) -> Arc<Scan> {
        let now = self.environment().monotonic();
        let freshness = &self.shared().freshness;
        let (scan, run) = freshness.find_or_begin_since(scope, now, asked_at);
        if run {
            self.run_scan(bucket, &scan);
        }
        scan
    }

    fn run_scan(&self, bucket: &Arc<Bucket>, scan: &Arc<Scan>) {
        let engine = self.clone();
        let (bucket, running) = (Arc::clone(bucket), Arc::clone(scan));
        self.environment()
            .spawn(async move { engine.compare(&bucket, &running).await });
    }

    /// Builds a page from the metadata and the sub-prefixes the comparison saw. `None`: it
    /// would show one of those that was `touched` since, and no row says that it is there.
    async fn page(
        &self,
        bucket: &Bucket,
        query: &ListQuery,
        scan: &Scan,
        touched: impl Fn(&str) -> bool,
    ) -> Result<Option<ListPage>, FlowError> {
        let mut page = PageBuilder::new(query, scan, touched);
        let mut pace = ScanPace::new();
        let mut from = query.after.clone();
        if !from.is_empty() {
            from = just_after(&from, &query.delimiter, &query.prefix);
        }
        loop {
            let missing = page.missing();
            let (prefix, delimiter) = (&query.prefix, &query.delimiter);
            let rows = self
                .metadata()
                .scan_folded(bucket.id, prefix, &from, delimiter, pace.rows(missing))
                .await?;
            let read = rows.entries.len();
            let last = rows.entries.last().map(|(key, _)| key.as_str().to_owned());
            let mut skip_to = None;
            for (key, record) in rows.entries {
                if skip_to.as_deref().is_some_and(|to: &str| key.as_str() < to) {
                    continue;
                }
                match rolled_up(key.as_str(), query) {
                    Some(prefix) => {
                        skip_to = Some(successor(prefix));
                        page.add(Entry::Prefix(prefix));
                    }
                    None => {
                        page.add_folders(&key, &record);
                        page.add(Entry::Object(key, record));
                    }
                }
                if page.full() {
                    return Ok(page.finish());
                }
            }
            if !rows.more {
                return Ok(page.finish());
            }
            let Some(last) = last else {
                return Ok(page.finish());
            };
            pace.note(read, missing - page.missing());
            from = match skip_to {
                Some(to) if to > last => to,
                _ => format!("{last}\0"),
            };
        }
    }

    /// Compares all of a bucket with the UFS and waits for the end.
    pub(crate) async fn compare_whole(&self, bucket: &Arc<Bucket>) -> Result<(), FlowError> {
        self.compare_below(bucket, "").await
    }

    /// Compares all keys that begin with a prefix with the UFS and waits for the end.
    pub(crate) async fn compare_below(
        &self,
        bucket: &Arc<Bucket>,
        prefix: &str,
    ) -> Result<(), FlowError> {
        let scope = Scope {
            bucket: bucket.id,
            prefix: prefix.to_owned(),
            from: String::new(),
            one_level: false,
        };
        let now = self.environment().monotonic();
        let (scan, run) = self
            .shared()
            .freshness
            .find_or_begin(&scope, now, Duration::ZERO);
        if run {
            self.compare(bucket, &scan).await;
        }
        loop {
            let changed = scan.listen();
            if let Some(result) = scan.with(|p| p.done.clone()) {
                return result;
            }
            self.wait_for(changed, &scan).await?;
        }
    }
}

/// The folder that the last name of a prefix is in, with its `/`; empty: the bucket.
fn folder_of(prefix: &str) -> &str {
    &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)]
}

/// Whether a row is compared with the UFS at all: what the UFS does not have yet
/// is none of its business.
pub(crate) fn comparable(record: &ObjectRecord) -> bool {
    record.persist == PersistState::Persisted
}
