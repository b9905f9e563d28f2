//! A scan that passes over what a listing rolls up: of the keys of a common prefix
//! only the first is read. Absent: pages of S3, the comparison with the UFS.

use quickwater_proto::{BucketId, MetadataError, ScanPage};

use super::listing::common_prefix;
use super::objects::entry;
use super::read::Reading;
use super::{Namespace, SCAN_ROWS_MAX, Stop};
use crate::keyspace;
use crate::store::{KeyRange, Scan, Store, Transaction, successor};

/// Rows read first: most levels of a tree have few names or many.
const ROWS_FIRST: usize = 16;
/// To look for a key anew costs about as much as reading this many rows on.
const SEEK_ROWS: usize = 8;

impl<S: Store> Namespace<S> {
    /// As [`Namespace::scan`], but where `delimiter` follows the prefix in a key, the
    /// keys after it that are the same up to there are left out.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn scan_folded(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        delimiter: &str,
        limit: usize,
    ) -> Result<ScanPage, MetadataError> {
        if delimiter.is_empty() {
            return self.scan(bucket, prefix, from, limit).await;
        }
        self.read(&Folded {
            bucket,
            prefix,
            delimiter,
            range: keyspace::objects(bucket, prefix, from),
            limit: limit.min(SCAN_ROWS_MAX),
        })
        .await
    }
}

struct Folded<'a> {
    bucket: BucketId,
    prefix: &'a str,
    delimiter: &'a str,
    range: KeyRange,
    limit: usize,
}

impl Reading for Folded<'_> {
    type Answer = ScanPage;

    async fn read<T: Transaction>(&self, transaction: &mut T) -> Result<ScanPage, Stop> {
        let mut page = ScanPage {
            entries: Vec::new(),
            more: false,
        };
        let mut range = self.range.clone();
        let mut wanted = ROWS_FIRST;
        loop {
            // One row beyond the limit tells whether there are more.
            let missing = self.limit - page.entries.len() + 1;
            let scan = Scan::new(range.clone(), wanted.min(missing)).snapshot();
            let rows = transaction.scan(scan).await?;
            let (read, before) = (rows.rows.len(), page.entries.len());
            for row in rows.rows {
                if row.key < range.start {
                    continue;
                }
                if page.entries.len() == self.limit {
                    page.more = true;
                    return Ok(page);
                }
                let (key, record) = entry(&row)?;
                range.start = match common_prefix(key.as_str(), self.prefix, self.delimiter) {
                    Some(common) => keyspace::objects(self.bucket, common, "").end,
                    None => successor(&row.key),
                };
                page.entries.push((key, record));
            }
            if !rows.more {
                return Ok(page);
            }
            wanted = pace(wanted, read, page.entries.len() - before);
        }
    }
}

/// Rows to read after `read` rows of which `used` were entries.
fn pace(wanted: usize, read: usize, used: usize) -> usize {
    match read < used.max(1) * SEEK_ROWS {
        true => (wanted * 4).min(SCAN_ROWS_MAX),
        false => SEEK_ROWS,
    }
}
