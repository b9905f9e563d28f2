//! What is pending, by queues and by rows together: in a cluster the metadata knows what
//! no queue tells. Absent: what is being sent, or failed; queues know that alone.

use std::time::Instant;

use quickwater_proto::BucketId;
use quickwater_rpc::admin::PersistTotals;
use tonic::Status;

use super::admin::bounded;
use super::{AdminService, status};
use crate::namespace::{PendingSum, SUM_ROWS_MAX};
use crate::store::Store;

/// A sum over rows that took a while is kept for so many times as long.
const SUM_KEPT_SHARE: u32 = 9;

/// A sum over the rows of all buckets, and how long it is good for.
#[derive(Debug)]
pub(super) struct RowSum {
    rows: PendingSum,
    until: Instant,
}

impl<S: Store> AdminService<S> {
    /// All that is pending now in a scope, and a time that none of it is younger than:
    /// changes are dated by the workers that took them in, whose clocks may be ahead of
    /// ours.
    pub(super) async fn all_now(
        &self,
        scope: Option<(BucketId, &str)>,
    ) -> Result<(PersistTotals, i64), Status> {
        let queue = &self.views.persist;
        let (now_ms, told) = (queue.now_ms(), queue.sum(scope, i64::MAX));
        if self.views.cluster.is_none() {
            let until_ms = now_ms.max(told.newest_ms);
            return Ok((told, until_ms));
        }
        // Whatever the queues told: one that says little may have yet to hear of more.
        let rows = self.sum_rows(scope, i64::MAX).await?;
        let until_ms = youngest(now_ms, &told, &rows);
        match is_told(&told) {
            true => Ok((told, until_ms)),
            false => Ok((self.merge(told, rows)?, until_ms)),
        }
    }

    /// Sums over all. Where rows were summed up for them, the sum is kept for some times as
    /// long as that took: whoever looks again and again, as pages do, must not keep the
    /// metadata store busy.
    pub(super) async fn all_pending(&self) -> Result<PersistTotals, Status> {
        let told = self.views.persist.totals();
        if self.views.cluster.is_none() || is_told(&told) {
            return Ok(told);
        }
        let mut kept = self.row_sum.lock().await;
        let rows = match kept.as_ref() {
            Some(sum) if Instant::now() < sum.until => sum.rows.clone(),
            _ => {
                let begun = Instant::now();
                let rows = self.sum_rows(None, i64::MAX).await?;
                let until = Instant::now() + begun.elapsed() * SUM_KEPT_SHARE;
                let rows_kept = rows.clone();
                *kept = Some(RowSum {
                    rows: rows_kept,
                    until,
                });
                rows
            }
        };
        drop(kept);
        self.merge(told, rows)
    }

    /// What queues told, or what the metadata says where that may be more: in a cluster,
    /// what a worker has queued that does not answer, and what nobody has queued yet
    /// because its slot moves, is in the metadata all the same.
    pub(super) async fn by_rows(
        &self,
        told: PersistTotals,
        scope: Option<(BucketId, &str)>,
        until_ms: i64,
    ) -> Result<PersistTotals, Status> {
        if self.views.cluster.is_none() || is_told(&told) {
            return Ok(told);
        }
        let rows = self.sum_rows(scope, until_ms).await?;
        self.merge(told, rows)
    }

    async fn sum_rows(
        &self,
        scope: Option<(BucketId, &str)>,
        until_ms: i64,
    ) -> Result<PendingSum, Status> {
        let summed = bounded(self.namespace.pending_sum(scope, until_ms)).await?;
        summed.map_err(status::metadata)
    }

    /// What rows say in place of what queues told.
    fn merge(&self, told: PersistTotals, rows: PendingSum) -> Result<PersistTotals, Status> {
        let found = rows.puts + rows.deletes;
        if rows.more && found == 0 && !told.unheard.is_empty() {
            let names = told.unheard.join(", ");
            return Err(Status::unavailable(format!(
                "no answer from {names}, and the first {SUM_ROWS_MAX} rows are all of TRANSIENT \
                 objects: ask for a narrower path"
            )));
        }
        let nodes = self.views.node.nodes();
        // A worker that is gone and has nothing that is counted is not missed.
        let missed = |name: &String| {
            let lives = nodes.iter().any(|n| n.name == *name && n.lease_ms > 0);
            lives || rows.holders.iter().any(|holder| holder.as_str() == name)
        };
        Ok(PersistTotals {
            puts: rows.puts,
            deletes: rows.deletes,
            bytes: rows.bytes,
            oldest_ms: rows.oldest_ms.unwrap_or(0),
            newest_ms: rows.newest_ms.unwrap_or(0),
            unheard: told.unheard.into_iter().filter(missed).collect(),
            ..told
        })
    }
}

/// A time that nothing of what is pending is younger than.
fn youngest(now_ms: i64, told: &PersistTotals, rows: &PendingSum) -> i64 {
    if rows.more && !told.unheard.is_empty() {
        // Neither the rows nor the queues were seen to their end.
        return i64::MAX;
    }
    let newest_ms = rows.newest_ms.unwrap_or(0).max(told.newest_ms);
    now_ms.max(newest_ms)
}

/// Whether queues told all there may be: everybody answered, and something is queued.
fn is_told(told: &PersistTotals) -> bool {
    told.puts + told.deletes > 0 && told.unheard.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_pending_is_younger_than_the_end_of_a_wait() {
        let told = |newest_ms, unheard: &[&str]| PersistTotals {
            newest_ms,
            unheard: unheard.iter().map(|name| (*name).to_owned()).collect(),
            ..PersistTotals::default()
        };
        let rows = |newest_ms, more| PendingSum {
            newest_ms,
            more,
            ..PendingSum::default()
        };
        for (told, rows, expected) in [
            (told(0, &[]), rows(None, false), 100),
            (told(90, &[]), rows(Some(80), false), 100),
            (told(120, &[]), rows(Some(110), false), 120),
            (told(110, &["n2"]), rows(Some(120), false), 120),
            // The queues were seen to their end, if not the rows.
            (told(120, &[]), rows(Some(110), true), 120),
            (told(120, &["n2"]), rows(Some(110), true), i64::MAX),
        ] {
            assert_eq!(youngest(100, &told, &rows), expected, "{told:?} {rows:?}");
        }
    }
}
