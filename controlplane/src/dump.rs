//! All metadata as one file, to move it between stores: written from a store that
//! nobody else writes to, read into an empty one. Absent: what the rows mean.
//!
//! The file: [`MAGIC`]; the version of the store (64 bits); for each row the lengths
//! of key and value (32 bits each) and both; a key length of 0; the number of rows
//! (64 bits); xxh3 of all bytes before (64 bits). Numbers have their highest byte
//! first.
//!
//! The format row is the last to be written, and until then says that the import is
//! unfinished: no service takes half of the metadata for all of it.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::keyspace;
use crate::store::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::store::{CommitVersion, KeyRange, Row, Scan, Store, StoreError, Transaction, successor};

/// What a file begins with; the number is that of the layout.
const MAGIC: &[u8] = b"quickwater-metadata 1\n";
/// The format row of a store that is being written.
const UNFINISHED: &[u8] = b"unfinished import";
/// First key of the namespace; those before are a store's own.
const FIRST_KEY: &[u8] = b"\x01";
const END_KEY: &[u8] = b"\xff";
/// Rows read at a time.
const PAGE_ROWS: usize = 1_000;
/// Bytes written in one transaction, last row apart.
const BATCH_BYTES: usize = 400_000;
/// Attempts at each transaction.
const ATTEMPTS_MAX: u32 = 100;
/// Wait before the second attempt; doubled before each later one.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// Longest wait before an attempt.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Why metadata was not moved.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be read or written.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The file is none of ours, cut off, or damaged.
    #[error("the file is damaged or no export of metadata: {0}")]
    Damaged(&'static str),
    /// The store has rows already.
    #[error("the metadata to import into is not empty")]
    NotEmpty,
    /// Rows would be newer than commits to come.
    #[error(
        "the store gives out versions from {has} on, the metadata has some up to {needs}: with \
         FoundationDB advance it by `fdbcli --exec 'advanceversion {needs}'`"
    )]
    Behind {
        /// The store's version.
        has: u64,
        /// That of the file.
        needs: u64,
    },
    /// The store does not answer as it should.
    #[error("the metadata store: {0}")]
    Store(String),
}

/// Writes all rows; how many.
///
/// # Errors
/// See [`DumpError`]; what was written is of no use.
pub async fn export<S: Store>(store: &S, to: impl Write) -> Result<u64, DumpError> {
    let all = KeyRange::new(FIRST_KEY, END_KEY);
    export_ranges(store, to, vec![all]).await
}

/// Writes what no object tells, buckets, mounts and policies, for [`Rows`] to be read
/// by a rebuild; how many rows.
///
/// # Errors
/// See [`DumpError`]; what was written is of no use.
pub async fn export_names<S: Store>(store: &S, to: impl Write) -> Result<u64, DumpError> {
    export_ranges(store, to, keyspace::names()).await
}

/// Writes rows that were read elsewhere, of a store at `version`, as [`export_names`] does.
///
/// # Errors
/// [`DumpError::File`], [`DumpError::Damaged`] (a row is too long).
pub fn write_names<'r>(
    to: impl Write,
    version: u64,
    rows: impl IntoIterator<Item = &'r (Bytes, Bytes)>,
) -> Result<(), DumpError> {
    let mut to = Summing::new(to);
    to.write_all(MAGIC)?;
    to.write_all(&version.to_be_bytes())?;
    let mut count = 0_u64;
    for (key, value) in rows {
        to.write_all(&length(key)?.to_be_bytes())?;
        to.write_all(&length(value)?.to_be_bytes())?;
        to.write_all(key)?;
        to.write_all(value)?;
        count += 1;
    }
    end(to, count)
}

fn end(mut to: Summing<impl Write>, rows: u64) -> Result<(), DumpError> {
    to.write_all(&0_u32.to_be_bytes())?;
    to.write_all(&rows.to_be_bytes())?;
    let sum = to.sum.digest();
    to.inner.write_all(&sum.to_be_bytes())?;
    to.inner.flush()?;
    Ok(())
}

async fn export_ranges<S: Store>(
    store: &S,
    to: impl Write,
    ranges: Vec<KeyRange>,
) -> Result<u64, DumpError> {
    let mut to = Summing::new(to);
    to.write_all(MAGIC)?;
    to.write_all(&version(store).await?.to_be_bytes())?;
    let mut rows = 0_u64;
    for range in ranges {
        rows += export_range(store, &mut to, range).await?;
    }
    end(to, rows)?;
    Ok(rows)
}

async fn export_range<S: Store>(
    store: &S,
    to: &mut Summing<impl Write>,
    mut range: KeyRange,
) -> Result<u64, DumpError> {
    let mut rows = 0_u64;
    loop {
        let page = page(store, &range, PAGE_ROWS).await?;
        for Row { key, value } in &page.0 {
            to.write_all(&length(key)?.to_be_bytes())?;
            to.write_all(&length(value)?.to_be_bytes())?;
            to.write_all(key)?;
            to.write_all(value)?;
            rows += 1;
        }
        match page.0.last() {
            Some(last) if page.1 => range.start = successor(&last.key),
            _ => return Ok(rows),
        }
    }
}

/// Looks whether a file is whole; the version that commits after it must exceed.
///
/// # Errors
/// [`DumpError::File`], [`DumpError::Damaged`].
pub fn verify(from: impl Read) -> Result<u64, DumpError> {
    let mut from = Rows::open(from)?;
    while from.next()?.is_some() {}
    Ok(from.version)
}

/// Reads all rows of a file that [`verify`] found whole into an empty store; how many.
///
/// # Errors
/// See [`DumpError`]; after some of them the store has to be emptied, and says that
/// it is unfinished until then.
pub async fn import<S: Store>(store: &S, from: impl Read) -> Result<u64, DumpError> {
    let mut from = Rows::open(from)?;
    let empty = KeyRange::new(FIRST_KEY, END_KEY);
    if !page(store, &empty, 1).await?.0.is_empty() {
        return Err(DumpError::NotEmpty);
    }
    let format_key = keyspace::format();
    let unfinished = Row {
        key: format_key.clone().into(),
        value: Bytes::from_static(UNFINISHED),
    };
    write(store, &[unfinished]).await?;
    let has = version(store).await?;
    if has <= from.version {
        return Err(DumpError::Behind {
            has,
            needs: from.version,
        });
    }
    let (mut batch, mut bytes, mut format) = (Vec::new(), 0, None);
    while let Some(row) = from.next()? {
        if *row.key == *format_key {
            format = Some(row);
            continue;
        }
        bytes += row.key.len() + row.value.len();
        batch.push(row);
        if bytes >= BATCH_BYTES || batch.len() >= PAGE_ROWS {
            write(store, &batch).await?;
            batch.clear();
            bytes = 0;
        }
    }
    write(store, &batch).await?;
    let format = format.ok_or(DumpError::Damaged("it says no format"))?;
    write(store, &[format]).await?;
    store
        .flush()
        .await
        .map_err(|error| DumpError::Store(error.to_string()))?;
    Ok(from.rows)
}

/// The newest version of a store.
///
/// # Errors
/// [`DumpError::Store`].
pub async fn version<S: Store>(store: &S) -> Result<u64, DumpError> {
    let committed = commit(|| store.begin()).await?;
    let (version, _) = committed.as_bytes().split_at(8);
    Ok(version
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

pub(crate) async fn page<S: Store>(
    store: &S,
    range: &KeyRange,
    rows: usize,
) -> Result<(Vec<Row>, bool), DumpError> {
    let mut attempt = 1;
    loop {
        let scan = Scan::new(range.clone(), rows).snapshot();
        match store.begin().scan(scan).await {
            Ok(page) => return Ok((page.rows, page.more)),
            Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(failed(&error)),
        }
        tokio::time::sleep(pause(attempt)).await;
    }
}

fn failed(error: &StoreError) -> DumpError {
    DumpError::Store(error.to_string())
}

/// Writes rows for certain: writing them twice does no harm.
pub(crate) async fn write<S: Store>(store: &S, rows: &[Row]) -> Result<(), DumpError> {
    let fill = || {
        let mut transaction = store.begin();
        for row in rows {
            transaction.set(&row.key, &row.value);
        }
        transaction
    };
    commit(fill).await.map(drop)
}

/// Commits what `fill` makes, again after errors that pass, also unknown outcomes.
async fn commit<T: Transaction>(fill: impl Fn() -> T) -> Result<CommitVersion, DumpError> {
    let mut attempt = 1;
    loop {
        match fill().commit().await {
            Ok(version) => return Ok(version),
            Err(error)
                if (error.is_retryable() || error.maybe_committed()) && attempt < ATTEMPTS_MAX =>
            {
                attempt += 1;
            }
            Err(error) => return Err(DumpError::Store(error.to_string())),
        }
        tokio::time::sleep(pause(attempt)).await;
    }
}

/// How long to wait before this attempt, the second or later.
fn pause(attempt: u32) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << attempt.saturating_sub(2).min(16));
    doubled.min(PAUSE_MAX)
}

fn length(bytes: &[u8]) -> Result<u32, DumpError> {
    u32::try_from(bytes.len()).map_err(|_| DumpError::Damaged("a row too long"))
}

/// A file whose bytes are summed up as they pass.
struct Summing<F> {
    inner: F,
    sum: Xxh3,
}

impl<F> Summing<F> {
    fn new(inner: F) -> Self {
        Self {
            inner,
            sum: Xxh3::new(),
        }
    }
}

impl<F: Write> Write for Summing<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// The rows of a file.
pub(crate) struct Rows<F> {
    from: Summing<F>,
    pub(crate) version: u64,
    rows: u64,
}

impl<F: Read> Rows<F> {
    pub(crate) fn open(from: F) -> Result<Self, DumpError> {
        let mut own = Self {
            from: Summing::new(from),
            version: 0,
            rows: 0,
        };
        if own.take(MAGIC.len())? != MAGIC {
            return Err(DumpError::Damaged("it does not begin as one"));
        }
        own.version = own.number(8)?;
        Ok(own)
    }

    /// The next row; none after the last, once the sum was compared.
    pub(crate) fn next(&mut self) -> Result<Option<Row>, DumpError> {
        let key = self.number(4)?;
        if key == 0 {
            return self.end();
        }
        let value = self.number(4)?;
        let (Ok(key), Ok(value)) = (usize::try_from(key), usize::try_from(value)) else {
            return Err(DumpError::Damaged("a row too long"));
        };
        if key > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(DumpError::Damaged("a row too long"));
        }
        self.rows += 1;
        Ok(Some(Row {
            key: self.take(key)?.into(),
            value: self.take(value)?.into(),
        }))
    }

    fn end(&mut self) -> Result<Option<Row>, DumpError> {
        let rows = self.number(8)?;
        let sum = self.from.sum.digest();
        if rows != self.rows || self.number(8)? != sum {
            return Err(DumpError::Damaged("its sum is another"));
        }
        Ok(None)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, DumpError> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, DumpError> {
        let mut taken = vec![0; bytes];
        match self.from.inner.read_exact(&mut taken) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(DumpError::Damaged("it is cut off"));
            }
            Err(error) => return Err(error.into()),
        }
        self.from.sum.update(&taken);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
