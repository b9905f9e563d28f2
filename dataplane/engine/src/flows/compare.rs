//! Comparing a part of the namespace with the UFS: what appeared there is
//! imported, what vanished is dropped, what changed gets a new version.
//!
//! Writes go on meanwhile. Nothing is changed but under the key's slot, and a
//! listing that is older than the slot's last write decides nothing: the UFS is
//! asked about that key again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, TryStreamExt};
use quickwater_proto::{
    Bucket, ETag, ObjectKey, ObjectRecord, PutCondition, UfsEntry, UfsErrorKind, UfsIdentity,
    UfsObject,
};

use crate::decisions::freshness::{PREFIXES_MAX, Scan};
use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::list::{comparable, successor};
use crate::flows::resolve::{is_content_of, is_out_of_reach};
use crate::io::{Environment, Metadata, Peers, Ufs, UfsListing};

/// Rows of the metadata read at a time.
const ROWS: usize = 1_000;
/// Rows read first after a folder that was passed over.
const ROWS_BEHIND_FOLDER: usize = 16;

/// A difference between the UFS's listing and the metadata.
enum Difference {
    /// In the UFS: new or changed.
    Here(ObjectKey, UfsIdentity, Option<ETag>),
    /// In the metadata only.
    Gone(ObjectKey),
}

impl Difference {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Here(key, ..) | Self::Gone(key) => key,
        }
    }

    fn into_key(self) -> ObjectKey {
        match self {
            Self::Here(key, ..) | Self::Gone(key) => key,
        }
    }
}

/// Why a comparison ended early.
struct Failed {
    error: FlowError,
    /// The UFS could not be asked.
    out_of_reach: bool,
}

impl From<FlowError> for Failed {
    fn from(error: FlowError) -> Self {
        Self {
            error,
            out_of_reach: false,
        }
    }
}

impl<W: World> Engine<W> {
    /// Runs a comparison to its end; the result is in the scan.
    pub(crate) async fn compare(&self, bucket: &Arc<Bucket>, scan: &Scan) {
        let result = self.compare_scope(bucket, scan).await;
        let took = self.environment().monotonic().saturating_sub(scan.begun);
        scan.update(|p| {
            p.took = took;
            p.out_of_reach = result.as_ref().is_err_and(|failed| failed.out_of_reach);
            p.done = Some(result.map_err(|failed| failed.error));
        });
    }

    async fn compare_scope(&self, bucket: &Arc<Bucket>, scan: &Scan) -> Result<(), Failed> {
        let scope = &scan.scope;
        let sequence = self.shared().slots.sequence();
        let recursive = !scope.one_level;
        let listing = self
            .ufs()
            .list(bucket, &scope.prefix, &scope.from, recursive)
            .await;
        let mut listing = listing.map_err(unlisted)?;
        let mut from = match scope.from.as_str() {
            "" => String::new(),
            after => past(after, scope.one_level),
        };
        loop {
            let batch = listing.next().await.map_err(unlisted)?;
            let last = batch
                .as_ref()
                .and_then(|b| b.last())
                .map(|e| name(e).to_owned());
            let entries = batch.unwrap_or_default();
            self.note_prefixes(scan, &entries);
            let differences = self
                .differences(bucket, scan, &from, last.as_deref(), entries)
                .await?;
            self.settle(bucket, differences, sequence).await?;
            let Some(last) = last else { return Ok(()) };
            scan.update(|p| p.through.clone_from(&last));
            from = past(&last, scope.one_level);
        }
    }

    fn note_prefixes(&self, scan: &Scan, entries: &[UfsEntry]) {
        let prefixes = entries.iter().filter_map(|entry| match entry {
            UfsEntry::Prefix(prefix) => Some(prefix.clone()),
            UfsEntry::Object { .. } => None,
        });
        scan.update(|p| {
            p.prefixes.extend(prefixes);
            p.overflow |= p.prefixes.len() > PREFIXES_MAX;
        });
    }

    /// Differences between `entries` and the rows from `from` through `last`
    /// (`None`: to the end of the prefix).
    async fn differences(
        &self,
        bucket: &Bucket,
        scan: &Scan,
        from: &str,
        last: Option<&str>,
        entries: Vec<UfsEntry>,
    ) -> Result<Vec<Difference>, FlowError> {
        let scope = &scan.scope;
        let mut listed = BTreeMap::new();
        let mut prefixes = Vec::new();
        for entry in entries {
            match entry {
                UfsEntry::Object {
                    key,
                    identity,
                    etag,
                } => {
                    listed.insert(key, (identity, etag));
                }
                UfsEntry::Prefix(prefix) => prefixes.push(prefix),
            }
        }
        let mut found = Vec::new();
        let mut from = from.to_owned();
        let mut rows_max = ROWS;
        loop {
            let rows = self
                .metadata()
                .scan(bucket.id, &scope.prefix, &from, rows_max)
                .await?;
            rows_max = (rows_max * 4).min(ROWS);
            let mut at_end = !rows.more;
            let mut next = rows
                .entries
                .last()
                .map(|(k, _)| format!("{}\0", k.as_str()));
            for (key, record) in rows.entries {
                if last.is_some_and(|last| key.as_str() > last && !below(key.as_str(), last)) {
                    at_end = true;
                    break;
                }
                if scope.one_level
                    && let Some(folder) = sub_folder(key.as_str(), &scope.prefix)
                    && prefixes.iter().any(|p| p == folder)
                {
                    // Compared when that level is listed; go past all of it.
                    next = Some(successor(folder));
                    // Where one is, the next one is likely to follow.
                    rows_max = ROWS_BEHIND_FOLDER;
                    at_end = false;
                    break;
                }
                let in_ufs = listed.remove(key.as_str());
                if !comparable(&record) {
                    continue;
                }
                match in_ufs {
                    Some((identity, _)) if record.ufs.as_ref() == Some(&identity) => {}
                    Some((identity, etag)) => found.push(Difference::Here(key, identity, etag)),
                    None => found.push(Difference::Gone(key)),
                }
            }
            match next {
                Some(next) if !at_end => from = next,
                _ => break,
            }
        }
        found.extend(listed.into_iter().filter_map(|(key, (identity, etag))| {
            Some(Difference::Here(ObjectKey::new(&key).ok()?, identity, etag))
        }));
        Ok(found)
    }

    /// Brings the metadata in line. What the UFS shows of a key is judged by its owner.
    async fn settle(
        &self,
        bucket: &Arc<Bucket>,
        differences: Vec<Difference>,
        sequence: u64,
    ) -> Result<(), Failed> {
        let rights = &self.shared().rights;
        let owned = |found: &Difference| rights.owns(Slots::of_key(bucket.id, found.key()));
        let (ours, others): (Vec<_>, Vec<_>) = differences.into_iter().partition(owned);
        self.settle_ours(bucket, ours, sequence).await?;
        if others.is_empty() {
            return Ok(());
        }
        let keys = others.into_iter().map(Difference::into_key).collect();
        Ok(self.peers().look_again(bucket, keys).await?)
    }

    /// The same of keys of our own, many at a time so that commits group.
    async fn settle_ours(
        &self,
        bucket: &Arc<Bucket>,
        differences: Vec<Difference>,
        sequence: u64,
    ) -> Result<(), Failed> {
        let width = self.config().import_concurrency.max(1);
        stream::iter(differences.into_iter().map(Ok))
            .try_for_each_concurrent(width, |difference| async move {
                match difference {
                    Difference::Here(key, identity, etag) => {
                        let settled = self.settle_here(bucket, &key, identity, etag, sequence);
                        Ok(settled.await?)
                    }
                    Difference::Gone(key) => self.settle_gone(bucket, &key).await,
                }
            })
            .await
    }

    async fn settle_here(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        identity: UfsIdentity,
        etag: Option<ETag>,
        sequence: u64,
    ) -> Result<(), FlowError> {
        let guard = self.lock_key(bucket.id, key).await?;
        if self.shared().persist.pending(bucket.id, key).is_some() {
            // The UFS is behind for this key.
            return Ok(());
        }
        let row = self.metadata().object(bucket.id, key).await?;
        if row
            .as_ref()
            .is_some_and(|r| !comparable(r) || r.ufs.as_ref() == Some(&identity))
        {
            return Ok(());
        }
        let (Some(etag), true) = (etag, guard.unchanged_since(sequence)) else {
            // Written since the listing began, or the listing says too little.
            self.shared().objects.remove(bucket.id, key);
            self.check(bucket, key, true, &guard).await?;
            return Ok(());
        };
        let kept = row.filter(|row| is_content_of(row, &identity, &etag));
        let same_bytes = kept.is_some();
        let record = match kept {
            Some(row) => ObjectRecord {
                ufs: Some(identity),
                ..row
            },
            None => self.import_partly(identity, etag),
        };
        guard.mark_changed();
        self.distrust(bucket.id, key);
        let committed = self
            .changes(bucket.id, key)
            .commit_object(bucket.id, key, &record, &PutCondition::None)
            .await?;
        if let Some(old) = committed.replaced.filter(|_| !same_bytes) {
            self.forget_bytes(&old);
        }
        Ok(())
    }

    /// A record for what a listing shows: headers are still to be read.
    fn import_partly(&self, identity: UfsIdentity, etag: ETag) -> ObjectRecord {
        let changes = &self.shared().stats.external_changes;
        changes.fetch_add(1, Ordering::Relaxed);
        let object = UfsObject {
            identity,
            etag,
            headers: Default::default(),
            checksums: Vec::new(),
        };
        ObjectRecord {
            partial: true,
            ..self.import(&object)
        }
    }

    async fn settle_gone(&self, bucket: &Arc<Bucket>, key: &ObjectKey) -> Result<(), Failed> {
        let guard = self.lock_key(bucket.id, key).await?;
        let row = self.metadata().object(bucket.id, key).await;
        let row = row.map_err(FlowError::from)?;
        let Some(row) = row.filter(comparable) else {
            return Ok(());
        };
        match self.ufs().head(bucket, key).await {
            Err(error) if error.kind == UfsErrorKind::NotFound => {
                self.drop_missing(bucket, key, Some(Arc::new(row)), &guard)
                    .await?;
                Ok(())
            }
            // It is there: written since the listing began.
            Ok(_) => Ok(()),
            Err(error) => Err(unlisted(error)),
        }
    }
}

/// A listing that cannot be had is an unavailable UFS, never a missing key.
fn unlisted(error: quickwater_proto::UfsError) -> Failed {
    let out_of_reach = is_out_of_reach(error.kind);
    let error = match error.kind {
        UfsErrorKind::AccessDenied => FlowError::Denied(error.message),
        UfsErrorKind::Throttled => FlowError::SlowDown(error.message),
        _ => FlowError::Unavailable(error.message),
    };
    Failed {
        error,
        out_of_reach,
    }
}

fn name(entry: &UfsEntry) -> &str {
    match entry {
        UfsEntry::Object { key, .. } => key,
        UfsEntry::Prefix(prefix) => prefix,
    }
}

/// Where the rows after a listed entry begin.
fn past(entry: &str, one_level: bool) -> String {
    match one_level && entry.ends_with('/') {
        true => successor(entry),
        false => format!("{entry}\0"),
    }
}

/// Whether `key` lies under the common prefix `last`.
fn below(key: &str, last: &str) -> bool {
    last.ends_with('/') && key.starts_with(last)
}

/// The folder right below `prefix` that `key` lies in.
fn sub_folder<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    let at = key.get(prefix.len()..)?.find('/')?;
    key.get(..=prefix.len() + at)
}
