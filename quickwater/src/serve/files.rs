//! Objects as admins see them: the UFS is asked, because objects nobody has
//! touched through us are there only. What only the metadata knows is added.

use quickwater_controlplane::Namespace;
use quickwater_controlplane::namespace::{Listed, Listing, ListingMarker};
use quickwater_controlplane::rpc::FileView;
use quickwater_controlplane::store::EmbeddedStore;
use quickwater_engine::io::{Ufs as _, UfsListing as _};
use quickwater_proto::{
    Bucket, ETag, MetadataError, ObjectKey, ObjectRecord, PersistState, UfsEntry, UfsError,
    UfsErrorKind, UfsIdentity, UfsObject, Version,
};
use quickwater_ufs::UfsClient;

/// The view of one service.
pub(super) struct Files {
    namespace: Namespace<EmbeddedStore>,
    ufs: UfsClient,
}

impl Files {
    pub(super) fn new(namespace: Namespace<EmbeddedStore>, ufs: UfsClient) -> Self {
        Self { namespace, ufs }
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
        let recursive = delimiter.is_empty();
        let start = start_after(after);
        let listing = self.ufs.list(bucket, prefix, &start, recursive).await;
        let mut listing = listing.map_err(unavailable)?;
        let mut page = Listing::default();
        while let Some(entries) = listing.next().await.map_err(unavailable)? {
            for entry in entries {
                if was_shown(&entry, after) {
                    continue;
                }
                if page.entries.len() == limit {
                    page.next = page.entries.last().map(marker);
                    return Ok(page);
                }
                page.entries.extend(listed(entry));
            }
        }
        Ok(page)
    }

    async fn stat(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        let known = self.namespace.object(bucket.id, key).await?;
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
    use quickwater_proto::{BucketId, BucketName};

    use super::*;

    fn world(dir: &std::path::Path) -> (Files, Bucket) {
        let ufs = UfsClient::new(tokio::runtime::Handle::current(), Default::default());
        let namespace = Namespace::new(EmbeddedStore::in_memory().unwrap());
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
}
