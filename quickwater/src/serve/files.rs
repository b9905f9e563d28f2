//! Objects as admins see them: the UFS is asked, because objects nobody has
//! touched through us are there only. What the UFS does not have yet is laid over it.

use std::collections::BTreeMap;

use quickwater_controlplane::Namespace;
use quickwater_controlplane::namespace::{Listed, Listing, ListingMarker};
use quickwater_controlplane::rpc::FileView;
use quickwater_engine::io::{Ufs as _, UfsListing as _};
use quickwater_proto::{
    Bucket, BucketId, ETag, KEY_BYTES_MAX, MetadataError, ObjectKey, ObjectRecord, PendingChange,
    PersistState, UfsEntry, UfsError, UfsErrorKind, UfsIdentity, UfsObject, Version,
};
use quickwater_ufs::UfsClient;

use crate::store::MetadataStore;

/// Pending changes looked at for one page.
const OVERLAY_ROWS: usize = 1_000;

/// The view of one service.
pub(super) struct Files {
    namespace: Namespace<MetadataStore>,
    ufs: UfsClient,
}

impl Files {
    pub(super) fn new(namespace: Namespace<MetadataStore>, ufs: UfsClient) -> Self {
        Self { namespace, ufs }
    }

    /// The first changes after `start` that the UFS does not have.
    async fn overlay(
        &self,
        bucket: &Bucket,
        prefix: &str,
        start: &str,
    ) -> Result<Overlay, MetadataError> {
        let mut overlay = Overlay::default();
        // No key is before "\0".
        let first = match start.max(prefix) {
            "" => "\0",
            first => first,
        };
        // What is too long for a key is before the same keys when it is cut.
        let cut = &first[..first.floor_char_boundary(KEY_BYTES_MAX)];
        let from = ObjectKey::new(cut).map_err(|e| MetadataError::Unavailable(e.0))?;
        // Rows follow a key: that key itself may be meant too.
        if from.as_str() > start {
            let pending = self.namespace.pending(bucket.id, &from).await?;
            let change = pending.map(|pending| (from.clone(), pending.change));
            overlay.changes.extend(change);
        }
        let place = Some((bucket.id, &from));
        let rows = self.namespace.pending_changes(place, OVERLAY_ROWS).await?;
        let more = rows.more;
        let last = rows.entries.last().map(|(of, key, _)| (*of, key.clone()));
        let inside =
            |of: BucketId, key: &ObjectKey| of == bucket.id && key.as_str().starts_with(prefix);
        let found = rows.entries.into_iter();
        let found = found.filter(|(of, key, _)| inside(*of, key) && key.as_str() > start);
        overlay
            .changes
            .extend(found.map(|(_, key, row)| (key, row.change)));
        overlay.end = last
            .filter(|(of, key)| more && inside(*of, key))
            .map(|(_, key)| key.as_str().to_owned());
        Ok(overlay)
    }
}

/// Changes that the UFS does not have, in order.
#[derive(Default)]
struct Overlay {
    changes: Vec<(ObjectKey, PendingChange)>,
    /// They are known up to this key; `None`: to the end.
    end: Option<String>,
}

/// A page of a listing under construction. A common prefix stays in it although all
/// keys below may be pending deletes.
struct Page {
    lines: BTreeMap<String, Listed>,
    /// Last line of the page before.
    shown: Option<ListingMarker>,
    /// What follows this and a `/` is one line.
    roll_up: Option<String>,
    /// Names after this are for another page.
    end: Option<String>,
}

impl Page {
    /// Takes in what the UFS has; `false`: that is enough.
    fn take_in(&mut self, entries: Vec<UfsEntry>, limit: usize) -> bool {
        for entry in entries {
            if was_shown(&entry, self.shown.as_ref()) {
                continue;
            }
            let Some(line) = listed(entry) else { continue };
            let name = name_of(&line);
            if self.end.as_ref().is_some_and(|end| name > end.as_str()) {
                return false;
            }
            if self.lines.len() > limit {
                self.end = self.lines.keys().next_back().cloned();
                return false;
            }
            self.lines.insert(name.to_owned(), line);
        }
        true
    }

    /// Lays over it what the UFS does not have: an object, or that there is none.
    fn overlay(&mut self, key: ObjectKey, record: Option<ObjectRecord>) {
        if self
            .end
            .as_ref()
            .is_some_and(|end| key.as_str() > end.as_str())
        {
            return;
        }
        match (record, self.rolled_up(key.as_str())) {
            (None, _) => drop(self.lines.remove(key.as_str())),
            (Some(_), Some(prefix)) => {
                let shown = matches!(&self.shown, Some(ListingMarker::Prefix(p)) if *p == prefix);
                if !shown {
                    self.lines.insert(prefix.clone(), Listed::Prefix(prefix));
                }
            }
            (Some(record), None) => {
                let line = Listed::Object(key.clone(), Box::new(record));
                self.lines.insert(key.as_str().to_owned(), line);
            }
        }
    }

    /// The common prefix a key is shown as, if it is.
    fn rolled_up(&self, name: &str) -> Option<String> {
        let prefix = self.roll_up.as_ref()?;
        let rest = name.strip_prefix(prefix.as_str())?;
        let (folder, _) = rest.split_once('/')?;
        Some(format!("{prefix}{folder}/"))
    }

    fn finish(self, limit: usize) -> Listing {
        let end = self.end.as_ref().map(|end| match self.rolled_up(end) {
            Some(prefix) => ListingMarker::Prefix(prefix),
            None => ListingMarker::Key(end.clone()),
        });
        let cut = self.lines.len() > limit;
        let entries: Vec<_> = self.lines.into_values().take(limit).collect();
        let next = match cut {
            true => entries.last().map(marker),
            false => end,
        };
        Listing { entries, next }
    }
}

fn name_of(line: &Listed) -> &str {
    match line {
        Listed::Object(key, _) => key.as_str(),
        Listed::Prefix(prefix) => prefix,
    }
}

#[tonic::async_trait]
impl FileView for Files {
    async fn list(
        &self,
        bucket: &Bucket,
        prefix: &str,
        delimiter: &str,
        after: Option<&ListingMarker>,
        limit: usize,
    ) -> Result<Listing, MetadataError> {
        if !delimiter.is_empty() && delimiter != "/" {
            // UFSs roll up at '/' only.
            return self
                .namespace
                .list(bucket.id, prefix, delimiter, after, limit)
                .await;
        }
        let start = start_after(after);
        // Before the UFS is asked: what is persisted between both is in one of them.
        let overlay = self.overlay(bucket, prefix, &start).await?;
        let recursive = delimiter.is_empty();
        let listing = self.ufs.list(bucket, prefix, &start, recursive).await;
        let mut listing = listing.map_err(unavailable)?;
        let mut page = Page {
            lines: BTreeMap::new(),
            shown: after.cloned(),
            roll_up: (!recursive).then(|| prefix.to_owned()),
            end: overlay.end,
        };
        while let Some(entries) = listing.next().await.map_err(unavailable)? {
            if !page.take_in(entries, limit) {
                break;
            }
        }
        for (key, change) in overlay.changes {
            let record = match change {
                PendingChange::Settling { .. } => continue,
                PendingChange::Delete => None,
                PendingChange::Put { .. } | PendingChange::Hold { .. } => {
                    self.namespace.object(bucket.id, &key).await?
                }
            };
            page.overlay(key, record);
        }
        Ok(page.finish(limit))
    }

    async fn stat(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        let known = self.namespace.object(bucket.id, key).await?;
        let pending = self.namespace.pending(bucket.id, key).await?;
        match pending.map(|pending| pending.change) {
            // What the UFS shows is older.
            Some(PendingChange::Delete) => return Ok(None),
            Some(PendingChange::Put { .. } | PendingChange::Hold { .. }) => return Ok(known),
            Some(PendingChange::Settling { .. }) | None => {}
        }
        match self.ufs.head(bucket, key).await {
            Ok(object) => Ok(Some(merge(known, object))),
            Err(error) if error.kind == UfsErrorKind::NotFound => Ok(None),
            // Better what was true a while ago than nothing.
            Err(error) => known.map(Some).ok_or_else(|| unavailable(error)),
        }
    }
}

fn unavailable(error: UfsError) -> MetadataError {
    MetadataError::Unavailable(error.to_string())
}

/// No key below a prefix is greater than the prefix and the last character.
fn start_after(after: Option<&ListingMarker>) -> String {
    match after {
        None => String::new(),
        Some(ListingMarker::Key(key)) => key.clone(),
        Some(ListingMarker::Prefix(prefix)) => format!("{prefix}\u{10FFFF}"),
    }
}

fn was_shown(entry: &UfsEntry, after: Option<&ListingMarker>) -> bool {
    match (entry, after) {
        (UfsEntry::Prefix(prefix), Some(ListingMarker::Prefix(shown))) => prefix == shown,
        _ => false,
    }
}

fn marker(line: &Listed) -> ListingMarker {
    match line {
        Listed::Object(key, _) => ListingMarker::Key(key.as_str().to_owned()),
        Listed::Prefix(prefix) => ListingMarker::Prefix(prefix.clone()),
    }
}

/// `None` for names that are no S3 key (too long).
fn listed(entry: UfsEntry) -> Option<Listed> {
    match entry {
        UfsEntry::Prefix(prefix) => Some(Listed::Prefix(prefix)),
        UfsEntry::Object {
            key,
            identity,
            etag,
        } => {
            let key = ObjectKey::new(&key).ok()?;
            let record = record(identity, etag.unwrap_or_else(|| ETag::new("")));
            Some(Listed::Object(key, Box::new(record)))
        }
    }
}

/// Our record while it describes what the UFS holds, else what the UFS says.
fn merge(known: Option<ObjectRecord>, object: UfsObject) -> ObjectRecord {
    let current = |r: &ObjectRecord| r.ufs.as_ref() == Some(&object.identity) && !r.partial;
    match known.filter(current) {
        Some(record) => record,
        None => ObjectRecord {
            headers: object.headers,
            checksums: object.checksums,
            ..record(object.identity, object.etag)
        },
    }
}

fn record(identity: UfsIdentity, etag: ETag) -> ObjectRecord {
    ObjectRecord {
        version: Version::default(),
        size: identity.size,
        etag,
        modified_ms: identity.modified_ns / 1_000_000,
        headers: Default::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: Some(identity),
        persist: PersistState::Persisted,
        partial: false,
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::{BucketName, PutCondition};

    use super::*;

    fn world(dir: &std::path::Path) -> (Files, Bucket) {
        let ufs = UfsClient::new(tokio::runtime::Handle::current(), Default::default());
        let namespace = Namespace::new(MetadataStore::in_memory().unwrap());
        let bucket = Bucket {
            id: BucketId(1),
            name: BucketName::new("photos").unwrap(),
            ufs: format!("file://{}", dir.display()),
            created_ms: 0,
            metadata_ttl_ms: 0,
            options: Vec::new(),
            tags: Vec::new(),
            owned: false,
        };
        (Files::new(namespace, ufs), bucket)
    }

    async fn all(files: &Files, bucket: &Bucket, delimiter: &str, limit: usize) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = files
                .list(bucket, "", delimiter, after.as_ref(), limit)
                .await
                .unwrap();
            assert!(page.entries.len() <= limit);
            names.extend(page.entries.iter().map(|line| match line {
                Listed::Object(key, _) => key.as_str().to_owned(),
                Listed::Prefix(prefix) => prefix.clone(),
            }));
            after = page.next;
            if after.is_none() {
                return names;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_lies_in_the_ufs_is_listed_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/1", "a/2", "b", "c/d/e", "z"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let (files, bucket) = world(dir.path());
        for limit in [1, 2, 100] {
            let deep = all(&files, &bucket, "", limit).await;
            assert_eq!(deep, ["a/1", "a/2", "b", "c/d/e", "z"], "{limit}");
            let flat = all(&files, &bucket, "/", limit).await;
            assert_eq!(flat, ["a/", "b", "c/", "z"], "{limit}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_object_of_the_ufs_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "12345").unwrap();
        let (files, bucket) = world(dir.path());
        let key = ObjectKey::new("key").unwrap();
        let found = files.stat(&bucket, &key).await.unwrap().unwrap();
        assert_eq!(found.size, 5);
        assert!(found.modified_ms > 0 && !found.etag.as_str().is_empty());
        let gone = files.stat(&bucket, &ObjectKey::new("gone").unwrap()).await;
        assert_eq!(gone, Ok(None));
    }

    fn dirty(name: &str, persist: PersistState) -> ObjectRecord {
        let identity = UfsIdentity {
            size: 77,
            modified_ns: 0,
            token: String::new(),
        };
        ObjectRecord {
            ufs: None,
            persist,
            ..record(identity, ETag::new(name))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_the_ufs_does_not_have_yet_is_laid_over_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/gone", "a/old", "b", "gone", "z"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let (files, mut bucket) = world(dir.path());
        bucket.id = files.namespace.create_bucket(&bucket).await.unwrap().id;
        for (name, persist) in [
            ("a/new", PersistState::NotPersisted),
            ("b", PersistState::NotPersisted),
            ("c/deep/er", PersistState::NotPersisted),
            ("held", PersistState::Transient),
        ] {
            let key = ObjectKey::new(name).unwrap();
            let made = dirty(name, persist);
            let made = files
                .namespace
                .commit_object(bucket.id, &key, &made, &PutCondition::None);
            made.await.unwrap();
        }
        for name in ["a/gone", "gone"] {
            let key = ObjectKey::new(name).unwrap();
            let removed =
                files
                    .namespace
                    .remove_object_pending(bucket.id, &key, &PutCondition::None);
            removed.await.unwrap();
            assert_eq!(files.stat(&bucket, &key).await, Ok(None));
        }
        for limit in [1, 2, 3, 100] {
            let deep = all(&files, &bucket, "", limit).await;
            let expected = ["a/new", "a/old", "b", "c/deep/er", "held", "z"];
            assert_eq!(deep, expected, "{limit}");
            let flat = all(&files, &bucket, "/", limit).await;
            assert_eq!(flat, ["a/", "b", "c/", "held", "z"], "{limit}");
        }
        let key = ObjectKey::new("b").unwrap();
        let found = files.stat(&bucket, &key).await.unwrap().unwrap();
        assert_eq!(
            (found.size, found.persist),
            (77, PersistState::NotPersisted)
        );
        let below = files
            .list(&bucket, "c/deep/er", "/", None, 9)
            .await
            .unwrap();
        assert_eq!(below.entries.len(), 1, "the prefix is a key itself");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn more_changes_than_one_look_takes_are_all_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("zz"), "x").unwrap();
        let (files, mut bucket) = world(dir.path());
        bucket.id = files.namespace.create_bucket(&bucket).await.unwrap().id;
        for number in 0..OVERLAY_ROWS + 20 {
            let key = ObjectKey::new(&format!("d/{number:05}")).unwrap();
            let made = dirty("x", PersistState::NotPersisted);
            let made = files
                .namespace
                .commit_object(bucket.id, &key, &made, &PutCondition::None);
            made.await.unwrap();
        }
        let deep = all(&files, &bucket, "", 5_000).await;
        assert_eq!(deep.len(), OVERLAY_ROWS + 21);
        assert!(deep.is_sorted());
        assert_eq!(all(&files, &bucket, "/", 5_000).await, ["d/", "zz"]);
    }
}
