//! What is not in a UFS, counted by its rows: whoever has it, and whether they answer or
//! not. Absent: what is being sent, or failed; workers know that.

use std::collections::BTreeSet;

use quickwater_proto::{BucketId, MetadataError, NodeId, PendingChange};

use super::pending::{entry, holders_of};
use super::{Namespace, SCAN_ROWS_MAX};
use crate::keyspace;
use crate::store::{Store, successor};

/// Rows that are looked at for one sum, at most; those of TRANSIENT objects are among them.
pub const SUM_ROWS_MAX: usize = 1_000_000;

/// A sum over rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingSum {
    /// Objects to be put.
    pub puts: u64,
    /// Keys to be deleted.
    pub deletes: u64,
    /// Bytes of the objects to be put.
    pub bytes: u64,
    /// Since when the oldest of them is pending, milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// Since when the newest.
    pub newest_ms: Option<i64>,
    /// Who has the bytes of the objects to be put.
    pub holders: BTreeSet<NodeId>,
    /// There are more rows than were looked at.
    pub more: bool,
}

impl<S: Store> Namespace<S> {
    /// Sums over a path of a bucket (the key itself and all below it; with `/` at its end,
    /// or empty, all that begins with it), or all buckets, of what was pending at
    /// `until_ms` (milliseconds since the Unix epoch) and is still.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn pending_sum(
        &self,
        scope: Option<(BucketId, &str)>,
        until_ms: i64,
    ) -> Result<PendingSum, MetadataError> {
        let (mut sum, mut rows) = (PendingSum::default(), 0);
        let buckets = match scope {
            Some((bucket, _)) => vec![bucket],
            // Rows of a bucket that was removed are not looked for.
            None => self.buckets().await?.iter().map(|one| one.id).collect(),
        };
        let path = scope.map_or("", |(_, path)| path);
        for bucket in buckets {
            self.add_bucket(&mut sum, &mut rows, (bucket, path), until_ms)
                .await?;
        }
        Ok(sum)
    }

    async fn add_bucket(
        &self,
        sum: &mut PendingSum,
        looked: &mut usize,
        (bucket, path): (BucketId, &str),
        until_ms: i64,
    ) -> Result<(), MetadataError> {
        let mut range = keyspace::pendings_below(bucket, path);
        loop {
            let limit = SCAN_ROWS_MAX.min(SUM_ROWS_MAX - *looked);
            if limit == 0 {
                sum.more = true;
                return Ok(());
            }
            let (rows, more) = self.rows(range.clone(), limit).await?;
            *looked += rows.len();
            for row in &rows {
                let (_, key, pending) = entry(row)?;
                if is_within(key.as_str(), path) && pending.since_ms <= until_ms {
                    let holders = holders_of(&row.value)?.nodes;
                    sum.add(pending.change, pending.since_ms, holders);
                }
            }
            match rows.last() {
                Some(last) if more => range.start = successor(&last.key),
                _ => return Ok(()),
            }
        }
    }
}

impl PendingSum {
    fn add(&mut self, change: PendingChange, since_ms: i64, holders: Vec<NodeId>) {
        match change {
            PendingChange::Put { size } => {
                self.puts += 1;
                self.bytes += size;
                self.holders.extend(holders);
            }
            PendingChange::Delete => self.deletes += 1,
            // The UFS has it, or never gets it.
            PendingChange::Settling { .. } | PendingChange::Hold { .. } => return,
        }
        let oldest = self
            .oldest_ms
            .map_or(since_ms, |oldest| oldest.min(since_ms));
        self.oldest_ms = Some(oldest);
        self.newest_ms = self.newest_ms.max(Some(since_ms));
    }
}

/// Of keys that begin with the path.
fn is_within(key: &str, path: &str) -> bool {
    let rest = key.get(path.len()..).unwrap_or_default();
    path.is_empty() || path.ends_with('/') || rest.is_empty() || rest.starts_with('/')
}
