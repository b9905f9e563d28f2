//! LIST: an ordered scan of the metadata, after the part of the namespace it
//! covers was compared with the UFS.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quickwater_proto::{Bucket, ObjectKey, ObjectRecord, PersistState};

use crate::decisions::freshness::{Scan, Scope};
use crate::decisions::scan_pace::ScanPace;
use crate::engine::{Engine, World, ttl_of};
use crate::error::FlowError;
use crate::flows::resolve::RETRY_CHECK_AFTER;
use crate::io::{Environment, Metadata, Peers};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Keys begin with this.
    pub prefix: String,
    /// Roll up what follows the prefix up to this; empty = no roll-up.
    pub delimiter: String,
    /// Keys (and common prefixes) greater than this only.
    pub after: String,
    /// Entries at most.
    pub limit: usize,
    /// Show each folder as an empty object `folder/`, as the AWS console does.
    pub folders: bool,
    /// Compare with the UFS now, whatever was seen before.
    pub revalidate: bool,
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Objects in byte order of their keys.
    pub objects: Vec<(ObjectKey, ObjectRecord)>,
    /// Common prefixes in byte order.
    pub prefixes: Vec<String>,
    /// More follows.
    pub truncated: bool,
    /// Last entry of the page (key or common prefix): pass it as `after`.
    pub last: Option<String>,
}

/// One entry of a page under construction.
#[expect(
    clippy::large_enum_variant,
    reason = "on its way into a page; a box would be an allocation per key"
)]
enum Entry<'e> {
    Object(ObjectKey, ObjectRecord),
    Prefix(&'e str),
}

impl Entry<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Object(key, _) => key.as_str(),
            Self::Prefix(prefix) => prefix,
        }
    }
}

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

/// Merges rows and remembered sub-prefixes, both in order, into a page.
struct PageBuilder<'a> {
    query: &'a ListQuery,
    /// Sub-prefixes the UFS has, in order, not yet merged.
    known: std::collections::VecDeque<String>,
    /// The key before the one being added.
    previous: String,
    page: ListPage,
}

impl<'a> PageBuilder<'a> {
    fn new(query: &'a ListQuery, scan: &Scan) -> Self {
        let after = query.after.as_str();
        let wanted =
            |prefix: &&String| prefix.starts_with(&query.prefix) && prefix.as_str() > after;
        let known = match scan.scope.one_level {
            true => scan.with(|p| {
                p.prefixes
                    .range(query.prefix.clone()..)
                    .filter(wanted)
                    .take(query.limit + 1)
                    .cloned()
                    .collect()
            }),
            false => Default::default(),
        };
        Self {
            query,
            known,
            previous: query.after.clone(),
            page: ListPage::default(),
        }
    }

    fn add(&mut self, entry: Entry<'_>) {
        while let Some(prefix) = self.known.pop_front_if(|p| p.as_str() <= entry.name()) {
            self.push(Entry::Prefix(&prefix));
        }
        self.push(entry);
    }

    /// Adds the folders that begin with `key`, if the query wants them.
    fn add_folders(&mut self, key: &ObjectKey, child: &ObjectRecord) {
        if !self.query.folders {
            return;
        }
        let name = key.as_str();
        for (at, _) in name.match_indices('/') {
            let folder = &name[..=at];
            let fresh = !self.previous.starts_with(folder) && folder != name;
            if fresh
                && folder.starts_with(&self.query.prefix)
                && let Ok(folder) = ObjectKey::new(folder)
            {
                self.add(Entry::Object(folder, folder_record(child)));
            }
        }
        name.clone_into(&mut self.previous);
    }

    /// Entries come in order: one that is there already is the last of its kind.
    fn push(&mut self, entry: Entry<'_>) {
        let page = &mut self.page;
        let name = entry.name();
        let object = page.objects.last().map(|(key, _)| key.as_str());
        let prefix = page.prefixes.last().map(String::as_str);
        if object == Some(name) || prefix == Some(name) {
            return;
        }
        // One beyond the limit tells that more follows.
        if page.objects.len() + page.prefixes.len() == self.query.limit {
            page.truncated = true;
            return;
        }
        match entry {
            Entry::Object(key, record) => page.objects.push((key, record)),
            Entry::Prefix(prefix) => page.prefixes.push(prefix.to_owned()),
        }
    }

    /// Entries until it is full: the limit and one more.
    fn missing(&self) -> usize {
        let held = self.page.objects.len() + self.page.prefixes.len();
        let held = held + usize::from(self.page.truncated);
        (self.query.limit + 1).saturating_sub(held)
    }

    fn full(&self) -> bool {
        self.page.truncated
    }

    fn finish(mut self) -> ListPage {
        while !self.full()
            && let Some(prefix) = self.known.pop_front()
        {
            self.push(Entry::Prefix(&prefix));
        }
        let mut page = self.page;
        let object = page.objects.last().map(|(key, _)| key.as_str());
        let prefix = page.prefixes.last().map(String::as_str);
        page.last = object.max(prefix).map(str::to_owned);
        page
    }
}

/// What a folder shows: no bytes, the time of its first child.
fn folder_record(child: &ObjectRecord) -> ObjectRecord {
    ObjectRecord {
        version: child.version,
        size: 0,
        // MD5 of nothing.
        etag: quickwater_proto::ETag::new("d41d8cd98f00b204e9800998ecf8427e"),
        modified_ms: child.modified_ms,
        headers: quickwater_proto::ObjectHeaders::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    }
}

/// The common prefix a key is rolled up into, if it is.
fn rolled_up<'k>(key: &'k str, query: &ListQuery) -> Option<&'k str> {
    if query.delimiter.is_empty() {
        return None;
    }
    let rest = &key[query.prefix.len()..];
    let at = rest.find(&query.delimiter)?;
    Some(&key[..query.prefix.len() + at + query.delimiter.len()])
}

/// The first key after all that begin with `prefix`.
pub(crate) fn successor(prefix: &str) -> String {
    // Keys are UTF-8: raise the last character; U+10FFFF has no next one and is
    // dropped together with its like.
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            c => char::from_u32(c as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return chars.into_iter().collect();
        }
    }
    "\u{10FFFF}".repeat(quickwater_proto::KEY_BYTES_MAX / 4 + 1)
}

/// Where a page that continues after `after` begins: past a whole common prefix
/// when `after` is one.
fn just_after(after: &str, delimiter: &str, prefix: &str) -> String {
    // The delimiter may reach into the prefix (`a/` and `//` after `a//`).
    let rolled_up = after.len().checked_sub(prefix.len() + delimiter.len());
    let is_prefix = !delimiter.is_empty()
        && after.starts_with(prefix)
        && after.ends_with(delimiter)
        && rolled_up.is_some_and(|at| after[prefix.len()..].find(delimiter) == Some(at));
    if is_prefix {
        successor(after)
    } else {
        format!("{after}\0")
    }
}

/// Whether a row is compared with the UFS at all: what the UFS does not have yet
/// is none of its business.
pub(crate) fn comparable(record: &ObjectRecord) -> bool {
    record.persist == PersistState::Persisted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_is_the_tightest_upper_bound() {
        assert_eq!(successor("a/"), "a0");
        assert_eq!(successor("a\u{10FFFF}"), "b");
        assert_eq!(successor("\u{D7FF}"), "\u{E000}");
        assert!(successor("\u{10FFFF}").as_str() > "\u{10FFFF}zzz");
    }

    #[test]
    fn a_page_goes_on_after_a_whole_common_prefix() {
        assert_eq!(just_after("a/b/", "/", "a/"), "a/b0");
        assert_eq!(just_after("a/b", "/", "a/"), "a/b\0");
        assert_eq!(
            just_after("a/b/c/", "/", "a/"),
            "a/b/c/\0",
            "a key, not a common prefix"
        );
        assert_eq!(just_after("zz", "", ""), "zz\0");
    }

    #[test]
    fn keys_roll_up_at_the_first_delimiter() {
        let query = ListQuery {
            prefix: "a/".into(),
            delimiter: "/".into(),
            ..ListQuery::default()
        };
        assert_eq!(rolled_up("a/b/c", &query), Some("a/b/"));
        assert_eq!(rolled_up("a/b", &query), None);
        assert_eq!(rolled_up("a//x", &query), Some("a//"));
    }
}
