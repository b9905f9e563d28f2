//! LIST: an ordered scan of the metadata, after the part of the namespace it
//! covers was compared with the UFS.

mod page;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quickwater_proto::{Bucket, ObjectRecord, PersistState};

pub(crate) use self::page::successor;
use self::page::{Entry, PageBuilder, just_after, rolled_up};
pub use self::page::{ListPage, ListQuery};
use crate::decisions::freshness::{Scan, Scope};
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
        let one_level = query.delimiter == "/" && !self.hides_any_below(bucket, query).await;
        let mut scan = self.fresh_scan(bucket, query, one_level)?;
        loop {
            let through = scan.with(|p| (p.through.clone(), p.done.clone(), p.overflow));
            let changed = scan.listen();
            match through {
                (_, Some(Err(error)), _) => match self.known_before(&scan, query) {
                    Some(before) => scan = before,
                    None => return Err(error.into()),
                },
                (_, _, true) => scan = self.fresh_scan(bucket, query, false)?,
                (_, Some(Ok(())), _) => {
                    self.count_stale(bucket, &scan);
                    let room = room().await?;
                    return Ok((self.page(bucket, query, &scan).await?, room));
                }
                (through, None, false) => {
                    if scan.scope.one_level {
                        self.wait_for(changed, &scan).await?;
                        continue;
                    }
                    let room = room().await?;
                    let page = self.page(bucket, query, &scan).await?;
                    let covered = page.truncated
                        && page
                            .last
                            .as_deref()
                            .is_some_and(|last| last < through.as_str());
                    if covered {
                        return Ok((page, room));
                    }
                    drop((page, room));
                    self.wait_for(changed, &scan).await?;
                }
            }
        }
    }

    /// Whether deletes wait below the prefix, here or elsewhere: a folder of the UFS may
    /// hold nothing but keys that are deleted.
    async fn hides_any_below(&self, bucket: &Bucket, query: &ListQuery) -> bool {
        self.hides_below(bucket, &query.prefix)
            || self.peers().hides_below(bucket, &query.prefix).await
    }

    /// Whether deletes that the UFS does not know of yet wait here below a prefix.
    #[must_use]
    pub fn hides_below(&self, bucket: &Bucket, prefix: &str) -> bool {
        self.shared().persist.deletes_below(bucket.id, prefix)
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

    /// A comparison with the UFS that answers for the query, begun if needed.
    fn fresh_scan(
        &self,
        bucket: &Arc<Bucket>,
        query: &ListQuery,
        one_level: bool,
    ) -> Result<Arc<Scan>, FlowError> {
        let folder = query.prefix.rfind('/').map_or(0, |at| at + 1);
        let scope = Scope {
            bucket: bucket.id,
            prefix: if one_level {
                query.prefix[..folder].to_owned()
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
            let engine = self.clone();
            let (bucket, running) = (Arc::clone(bucket), Arc::clone(&scan));
            self.environment()
                .spawn(async move { engine.compare(&bucket, &running).await });
        }
        Ok(scan)
    }

    /// Builds a page from the metadata and the sub-prefixes the comparison saw.
    async fn page(
        &self,
        bucket: &Bucket,
        query: &ListQuery,
        scan: &Scan,
    ) -> Result<ListPage, FlowError> {
        let mut page = PageBuilder::new(query, scan);
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
        let (scan, run) =
            self.shared()
                .freshness
                .find_or_begin(&scope, now, std::time::Duration::ZERO);
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

/// Whether a row is compared with the UFS at all: what the UFS does not have yet
/// is none of its business.
pub(crate) fn comparable(record: &ObjectRecord) -> bool {
    record.persist == PersistState::Persisted
}
