//! A transaction's reads: the store's rows with its own writes over them. Pure.

use bytes::Bytes;

use super::engine::{EngineError, RowIterator, Snapshot};
use super::limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX};
use super::transaction::{KeyRange, Row, Rows, Scan, StoreError, successor};
use super::writes::{Local, Write, WriteSet, sum};

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::Unavailable(error.0)
    }
}

/// A row as the transaction sees it, and whether the store was asked.
pub(super) fn get(
    snapshot: &dyn Snapshot,
    writes: &WriteSet,
    key: &[u8],
) -> Result<(Option<Bytes>, bool), StoreError> {
    match writes.local(key) {
        Local::Known(value) => Ok((value, false)),
        Local::Unreadable => Err(StoreError::Unreadable),
        Local::Unknown => Ok((snapshot.get(key)?, true)),
        Local::Added(delta) => Ok((Some(sum(snapshot.get(key)?.as_deref(), delta)), true)),
    }
}

/// The rows of a scan as the transaction sees them.
pub(super) fn scan(
    snapshot: &dyn Snapshot,
    writes: &WriteSet,
    scan: &Scan,
) -> Result<Rows, StoreError> {
    let rows_max = scan.rows_max.min(SCAN_ROWS_MAX);
    let bytes_max = scan.bytes_max.min(SCAN_BYTES_MAX);
    let mut page = Rows::default();
    if scan.range.is_empty() {
        return Ok(page);
    }
    if rows_max == 0 {
        return Ok(Rows { more: true, ..page });
    }
    let mut merged = Merge::new(snapshot, writes, scan);
    let mut bytes = 0;
    while let Some(row) = merged.next()? {
        bytes += row.key.len() + row.value.len();
        page.rows.push(row);
        if page.rows.len() == rows_max || bytes >= bytes_max {
            page.more = true;
            break;
        }
    }
    Ok(page)
}

/// What a scan depended on.
pub(super) fn covered(scan: &Scan, page: &Rows) -> KeyRange {
    let KeyRange { start, end } = scan.range.clone();
    match page.rows.last() {
        Some(last) if page.more && scan.reverse => KeyRange {
            start: last.key.clone(),
            end,
        },
        Some(last) if page.more => KeyRange {
            start,
            end: successor(&last.key),
        },
        None if page.more => KeyRange {
            start: start.clone(),
            end: start,
        },
        _ => KeyRange { start, end },
    }
}

type WriteIterator<'a> = Box<dyn Iterator<Item = (&'a Bytes, &'a Write)> + 'a>;

/// Two ordered streams of rows made one.
struct Merge<'a> {
    stored: std::iter::Peekable<RowIterator<'a>>,
    written: std::iter::Peekable<WriteIterator<'a>>,
    writes: &'a WriteSet,
    reverse: bool,
}

impl<'a> Merge<'a> {
    fn new(snapshot: &'a dyn Snapshot, writes: &'a WriteSet, scan: &'a Scan) -> Self {
        let keys = writes.keys_in(&scan.range);
        let written: WriteIterator<'a> = if scan.reverse {
            Box::new(keys.rev())
        } else {
            Box::new(keys)
        };
        Self {
            stored: snapshot.scan(&scan.range, scan.reverse).peekable(),
            written: written.peekable(),
            writes,
            reverse: scan.reverse,
        }
    }

    fn next(&mut self) -> Result<Option<Row>, StoreError> {
        loop {
            let stored = self.next_stored()?;
            if let Some(row) = &stored
                && !self.is_written(&row.key)
            {
                if self.writes.is_cleared(&row.key) {
                    continue;
                }
                return Ok(stored);
            }
            let Some((key, write)) = self.written.next() else {
                return Ok(None);
            };
            if let Some(value) = written(write, stored.as_ref().filter(|row| row.key == key))? {
                return Ok(Some(Row {
                    key: key.clone(),
                    value,
                }));
            }
        }
    }

    /// The next stored row, taken out unless a written key comes before it.
    fn next_stored(&mut self) -> Result<Option<Row>, StoreError> {
        let before = match (self.stored.peek(), self.written.peek()) {
            (Some(Ok(row)), Some((key, _))) if self.reverse => **key > row.key,
            (Some(Ok(row)), Some((key, _))) => **key < row.key,
            _ => false,
        };
        if before {
            Ok(None)
        } else {
            Ok(self.stored.next().transpose()?)
        }
    }

    fn is_written(&mut self, key_stored: &Bytes) -> bool {
        self.written
            .peek()
            .is_some_and(|(key, _)| *key == key_stored)
    }
}

/// The value a write gives to a row.
fn written(write: &Write, stored: Option<&Row>) -> Result<Option<Bytes>, StoreError> {
    match write {
        Write::Set(value) => Ok(Some(value.clone())),
        Write::Clear => Ok(None),
        Write::Add(delta) => Ok(Some(sum(stored.map(|row| row.value.as_ref()), *delta))),
        Write::Stamp { .. } => Err(StoreError::Unreadable),
    }
}
