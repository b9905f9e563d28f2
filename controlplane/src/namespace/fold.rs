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
const SEEK_ROWS: usize = 12;
/// Of so many jumps one reads on, to see whether the prefixes have few keys by now.
const JUMPS_PER_LOOK: usize = 16;

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
        let mut pace = Pace::new();
        loop {
            // One row beyond the limit tells whether there are more.
            let missing = self.limit - page.entries.len() + 1;
            let scan = Scan::new(range.clone(), pace.rows.min(missing)).snapshot();
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
            pace.note(read, page.entries.len() - before);
        }
    }
}

/// How many rows to read at a time. While the rows of a read make few entries, each
/// read jumps to the next entry and takes it alone: the engine finds a key by a block
/// of every one of its levels, and rows that are read along cost further blocks.
struct Pace {
    rows: usize,
    jumps: usize,
}

impl Pace {
    fn new() -> Self {
        Self {
            rows: ROWS_FIRST,
            jumps: 0,
        }
    }

    /// `read` rows were read and `used` of them were entries.
    fn note(&mut self, read: usize, used: usize) {
        let jumped = self.rows == 1;
        if !jumped && read < used.max(1) * SEEK_ROWS {
            self.rows = (self.rows * 4).min(SCAN_ROWS_MAX);
            self.jumps = 0;
            return;
        }
        self.jumps += 1;
        self.rows = match self.jumps.is_multiple_of(JUMPS_PER_LOOK) {
            true => SEEK_ROWS,
            false => 1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a page of common prefixes of `keys` keys each costs, in rows.
    fn cost(prefixes: usize, keys: usize) -> usize {
        let (mut pace, mut entries, mut cost) = (Pace::new(), 0, 0);
        while entries < prefixes {
            // As the scan: no more rows than entries are missing.
            let read = pace.rows.min(prefixes - entries);
            let used = read.div_ceil(keys);
            cost += SEEK_ROWS + read;
            pace.note(read, used);
            entries += used;
        }
        cost
    }

    #[test]
    fn a_page_costs_little_more_than_the_better_way() {
        for keys in [1, 2, 3, 5, 8, 12, 13, 20, 100, 1_000, 100_000] {
            let best = (1_000 * keys).min(1_000 * (SEEK_ROWS + 1));
            let cost = cost(1_000, keys);
            assert!(
                cost < best * 5 / 4 + 1_000,
                "{keys}: {cost} rows, best {best}"
            );
        }
    }

    #[test]
    fn prefixes_that_become_small_are_read_on() {
        let mut pace = Pace::new();
        for _ in 0..1_000 {
            pace.note(pace.rows, 1);
        }
        let mut reads = 0;
        while pace.rows < SCAN_ROWS_MAX {
            pace.note(pace.rows, pace.rows);
            reads += 1;
        }
        assert!(reads < 2 * JUMPS_PER_LOOK, "{reads}");
    }
}
