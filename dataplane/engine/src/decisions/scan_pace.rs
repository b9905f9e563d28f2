//! How many rows a listing reads at a time. Absent: the rows, where to read on.

/// Most rows read at a time: a full S3 page and the row that tells whether more
/// follows.
pub(crate) const SCAN_ROWS_MAX: usize = 1_001;
/// To look for a key anew costs about as much as reading this many rows on.
const SEEK_ROWS: usize = 16;

/// Reads no more rows than entries are missing while each row is one, and few
/// while most of them vanish in a common prefix that a new scan jumps over.
#[derive(Debug)]
pub(crate) struct ScanPace {
    rows_max: usize,
    rows_per_entry: usize,
}

impl ScanPace {
    pub(crate) fn new() -> Self {
        Self {
            rows_max: SCAN_ROWS_MAX,
            rows_per_entry: 1,
        }
    }

    /// Rows to read while `missing` entries are wanted, at least one.
    pub(crate) fn rows(&self, missing: usize) -> usize {
        let wanted = missing.saturating_mul(self.rows_per_entry);
        wanted.clamp(1, self.rows_max)
    }

    /// `rows` rows were read and made `entries` entries.
    pub(crate) fn note(&mut self, rows: usize, entries: usize) {
        self.rows_per_entry = rows.div_ceil(entries.max(1)).max(1);
        self.rows_max = match self.rows_per_entry < SEEK_ROWS {
            true => (2 * self.rows_max).min(SCAN_ROWS_MAX),
            false => SEEK_ROWS,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and scans of a page of `limit` entries, out of common prefixes of
    /// `keys` keys each without end.
    fn cost(limit: usize, keys: usize) -> (usize, usize) {
        let (mut pace, mut entries, mut read, mut scans) = (ScanPace::new(), 0, 0, 0);
        while entries <= limit {
            let rows = pace.rows(limit + 1 - entries);
            let gained = rows.div_ceil(keys);
            pace.note(rows, gained);
            entries += gained;
            read += rows;
            scans += 1;
        }
        (read, scans)
    }

    #[test]
    fn plain_keys_are_read_once_and_no_more_of_them_than_wanted() {
        assert_eq!(cost(1_000, 1), (1_001, 1));
        assert_eq!(cost(1, 1), (2, 1));
    }

    #[test]
    fn big_prefixes_are_jumped_over() {
        let (rows, scans) = cost(1_000, 1_000_000);
        assert_eq!((rows, scans), (1_001 + 1_000 * SEEK_ROWS, 1_001));
        assert_eq!(cost(1, 1_000_000), (2 + 2, 2), "few wanted, few read");
    }

    #[test]
    fn small_prefixes_are_read_through() {
        let (rows, scans) = cost(1_000, 3);
        assert!(rows <= 3 * 1_001 + 6 && scans <= 4, "{rows} {scans}");
    }

    #[test]
    fn reads_grow_again_after_a_big_prefix() {
        let mut pace = ScanPace::new();
        pace.note(1_001, 1);
        let mut seen = Vec::new();
        for _ in 0..8 {
            let rows = pace.rows(1_000);
            seen.push(rows);
            pace.note(rows, rows);
        }
        assert_eq!(seen, [16, 32, 64, 128, 256, 512, 1_000, 1_000]);
    }

    #[test]
    fn there_is_always_a_row_to_read() {
        let mut pace = ScanPace::new();
        for (rows, entries) in [(0, 0), (1, 0), (usize::MAX, 1), (1, usize::MAX)] {
            pace.note(rows, entries);
            for missing in [0, 1, usize::MAX] {
                let rows = pace.rows(missing);
                assert!((1..=SCAN_ROWS_MAX).contains(&rows), "{rows}");
            }
        }
    }
}
