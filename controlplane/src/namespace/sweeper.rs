//! Removes rows that have served their time: operations, completed uploads, the
//! rows of removed buckets. Called again and again; no timer here.
//!
//! Nothing that is swept is read by a rule any more, so a sweep that fails or
//! runs twice does no harm.

use quickwater_proto::{BucketId, MetadataError};

use super::mutate::{MINUTE_MS, Step};
use super::note::Note;
use super::read::Page;
use super::{Namespace, Stop};
use crate::keyspace::{self, SHARDS};
use crate::store::{KeyRange, Row, Scan, Store, Transaction, successor};

/// How long operations are remembered, minutes: a change is attempted for 10 s
/// and its last commit takes 30 s at most; the rest is for clocks that differ.
const OPERATIONS_KEEP_MINUTES: i64 = 3;
/// Rows removed in one transaction.
const PAGE_ROWS: usize = 1_000;
/// Most transactions per shard (and per removed bucket) in one sweep.
const PAGES_MAX: usize = 100;
/// Most removed buckets looked at in one sweep.
const TRASHES_MAX: usize = 100;

/// What one sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Operations, rows.
    pub operations: usize,
    /// Completed uploads.
    pub completed: usize,
    /// Rows of removed buckets.
    pub trash: usize,
    /// A bound was reached: sweep again soon.
    pub more: bool,
}

impl<S: Store> Namespace<S> {
    /// One bounded round. Call it every few seconds to minutes, and again at
    /// once while it says `more`.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`]; what was removed stays removed.
    pub async fn sweep(&self) -> Result<Swept, MetadataError> {
        let mut swept = Swept::default();
        let now_ms = self.clock.wall_ms();
        let through = self.journal_through().await?;
        for shard in 0..SHARDS {
            self.sweep_operations(shard, now_ms, &mut swept).await?;
            self.sweep_journaled(shard, through, &mut swept).await?;
            self.sweep_completed(shard, now_ms, &mut swept).await?;
        }
        self.sweep_trash(&mut swept).await?;
        Ok(swept)
    }

    async fn sweep_operations(
        &self,
        shard: u8,
        now_ms: i64,
        swept: &mut Swept,
    ) -> Result<(), MetadataError> {
        let minute = u64::try_from(now_ms / MINUTE_MS - OPERATIONS_KEEP_MINUTES).unwrap_or(0);
        let range = keyspace::operations_before(shard, minute);
        swept.operations += self.clear_rows(range, &mut swept.more).await?;
        Ok(())
    }

    /// The note of `through` was committed before these removals, so no power cut
    /// keeps them and takes the note.
    async fn sweep_journaled(
        &self,
        shard: u8,
        through: u64,
        swept: &mut Swept,
    ) -> Result<(), MetadataError> {
        let range = keyspace::journaled_through(shard, through);
        swept.operations += self.clear_rows(range, &mut swept.more).await?;
        Ok(())
    }

    async fn sweep_completed(
        &self,
        shard: u8,
        now_ms: i64,
        swept: &mut Swept,
    ) -> Result<(), MetadataError> {
        for _ in 0..PAGES_MAX {
            let range = keyspace::completed_expired(shard, now_ms);
            let page = self.read(&Page(Scan::new(range, PAGE_ROWS))).await?;
            let Some(expired) = span(&page.rows) else {
                return Ok(());
            };
            // A key that cannot be read has no row that it could point to.
            let pointed_to = page.rows.iter().filter_map(|row| {
                let (bucket, upload) = keyspace::parse_completed_expiry(&row.key)?;
                Some(KeyRange::point(&keyspace::completed(bucket, upload)))
            });
            let ranges = pointed_to.chain([expired]).collect();
            self.note(&Clear(ranges)).await?;
            swept.completed += page.rows.len();
            if !page.more {
                return Ok(());
            }
        }
        swept.more = true;
        Ok(())
    }

    async fn sweep_trash(&self, swept: &mut Swept) -> Result<(), MetadataError> {
        let (trashes, more) = self.rows(keyspace::trashes(), TRASHES_MAX).await?;
        swept.more |= more;
        for row in trashes {
            match keyspace::parse_trash(&row.key) {
                Some(bucket) => self.sweep_bucket(bucket, swept).await?,
                None => tracing::error!(key = ?row.key, "unreadable trash key"),
            }
        }
        Ok(())
    }

    /// Nothing can be added meanwhile: every change reads the row of the bucket,
    /// which is gone.
    async fn sweep_bucket(&self, bucket: BucketId, swept: &mut Swept) -> Result<(), MetadataError> {
        let mut unfinished = false;
        for range in keyspace::bucket_rows(bucket) {
            swept.trash += self.clear_rows(range, &mut unfinished).await?;
        }
        if unfinished {
            swept.more = true;
            return Ok(());
        }
        let row = KeyRange::point(&keyspace::trash(bucket));
        self.note(&Clear(vec![row])).await.map(drop)
    }

    /// Removes the rows of a range page by page; how many.
    async fn clear_rows(
        &self,
        mut range: KeyRange,
        unfinished: &mut bool,
    ) -> Result<usize, MetadataError> {
        let mut cleared = 0;
        for _ in 0..PAGES_MAX {
            let page = self
                .read(&Page(Scan::new(range.clone(), PAGE_ROWS)))
                .await?;
            let Some(rows) = span(&page.rows) else {
                return Ok(cleared);
            };
            range.start = rows.end.clone();
            self.note(&Clear(vec![rows])).await?;
            cleared += page.rows.len();
            if !page.more {
                return Ok(cleared);
            }
        }
        *unfinished = true;
        Ok(cleared)
    }
}

/// From the first row to the last.
fn span(rows: &[Row]) -> Option<KeyRange> {
    let (first, last) = (rows.first()?, rows.last()?);
    Some(KeyRange::new(first.key.clone(), successor(&last.key)))
}

/// The rows of some ranges. Nothing is written there any more, so clearing them
/// again, or late, is harmless.
struct Clear(Vec<KeyRange>);

impl Note for Clear {
    type Answer = ();
    const RELAXED: bool = false;

    async fn write<T: Transaction>(&self, transaction: &mut T) -> Result<Step<()>, Stop> {
        for range in &self.0 {
            transaction.clear_range(range.clone());
        }
        Ok(Step::Commit(()))
    }
}
