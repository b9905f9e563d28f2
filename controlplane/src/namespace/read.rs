//! Reads that decide nothing: snapshots, each page in a transaction of its own.

use std::future::Future;

use bytes::Bytes;
use quickwater_proto::MetadataError;
use tokio::time::{Instant, sleep};

use super::mutate::{ATTEMPTS_TIME_MAX, backoff};
use super::{Namespace, Stop};
use crate::store::{KeyRange, Row, Rows, Scan, Store, Transaction};

/// Something read in one transaction.
pub(super) trait Reading: Send + Sync {
    /// What it answers.
    type Answer: Send;

    /// Reads. Called once per attempt.
    fn read<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> impl Future<Output = Result<Self::Answer, Stop>> + Send;
}

/// The value of one key.
pub(super) struct Get<'a>(pub(super) &'a [u8]);

impl Reading for Get<'_> {
    type Answer = Option<Bytes>;

    async fn read<T: Transaction>(&self, transaction: &mut T) -> Result<Self::Answer, Stop> {
        Ok(transaction.get_snapshot(self.0).await?)
    }
}

/// A page of rows.
pub(super) struct Page(pub(super) Scan);

impl Reading for Page {
    type Answer = Rows;

    async fn read<T: Transaction>(&self, transaction: &mut T) -> Result<Rows, Stop> {
        Ok(transaction.scan(self.0.clone().snapshot()).await?)
    }
}

impl<S: Store> Namespace<S> {
    pub(super) async fn read<R: Reading>(&self, reading: &R) -> Result<R::Answer, MetadataError> {
        let deadline = Instant::now() + ATTEMPTS_TIME_MAX;
        let mut attempt = 1;
        loop {
            let mut transaction = self.store.begin();
            match reading.read(&mut transaction).await {
                Ok(answer) => return Ok(answer),
                // For as long as a change is attempted.
                Err(Stop::Store(error)) if error.is_retryable() && Instant::now() < deadline => {
                    sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(Stop::Store(error)) => {
                    return Err(MetadataError::Unavailable(error.to_string()));
                }
                Err(Stop::Refused(error)) => return Err(error),
            }
        }
    }

    /// The first rows of a range, at most `limit`, page by page; whether there
    /// are more. A page is a moment of its own, so this is not one snapshot.
    pub(super) async fn rows(
        &self,
        mut range: KeyRange,
        limit: usize,
    ) -> Result<(Vec<Row>, bool), MetadataError> {
        let mut rows = Vec::new();
        loop {
            // One row beyond the limit tells whether there are more.
            let wanted = limit - rows.len() + 1;
            let page = self.read(&Page(Scan::new(range.clone(), wanted))).await?;
            let last = page.rows.last().map(|row| row.key.clone());
            rows.extend(page.rows);
            if rows.len() > limit {
                rows.truncate(limit);
                return Ok((rows, true));
            }
            match last {
                Some(key) if page.more => range.start = crate::store::successor(&key),
                _ => return Ok((rows, false)),
            }
        }
    }
}

/// All rows of a range in one transaction, with read conflicts unless
/// `snapshot`; at most `limit`, then it is refused.
pub(super) async fn all_rows<T: Transaction>(
    transaction: &mut T,
    mut range: KeyRange,
    limit: usize,
    snapshot: bool,
) -> Result<Vec<Row>, Stop> {
    let mut rows = Vec::new();
    loop {
        let scan = Scan {
            snapshot,
            ..Scan::new(range.clone(), limit - rows.len() + 1)
        };
        let page = transaction.scan(scan).await?;
        let last = page.rows.last().map(|row| row.key.clone());
        rows.extend(page.rows);
        if rows.len() > limit {
            return Err(MetadataError::TooLarge(format!("more than {limit} rows")).into());
        }
        match last {
            Some(key) if page.more => range.start = crate::store::successor(&key),
            _ => return Ok(rows),
        }
    }
}
