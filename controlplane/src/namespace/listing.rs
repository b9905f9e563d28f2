//! A listing with common prefixes, for the admin's eyes: what the metadata
//! knows. The S3 listing, which also looks at the UFS, is the data plane's.

use quickwater_proto::{BucketId, MetadataError, ObjectKey, ObjectRecord};

use super::Namespace;
use crate::keyspace;
use crate::store::{Store, successor};

/// Most scans for one page: each gives a line or ends it.
const SCANS_MAX: usize = 1_000;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// An object; see [`Namespace::scan`] for what its record lacks.
    Object(ObjectKey, Box<ObjectRecord>),
    /// All keys that begin with it, the delimiter at its end.
    Prefix(String),
}

/// Where a listing went on or goes on: after this line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListingMarker {
    /// After a key.
    Key(String),
    /// After all keys that begin with this.
    Prefix(String),
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// In byte order.
    pub entries: Vec<Listed>,
    /// More may follow after this.
    pub next: Option<ListingMarker>,
}

impl<S: Store> Namespace<S> {
    /// Keys that begin with `prefix`, those with `delimiter` (unless empty) after
    /// it rolled up; at most `limit` lines, which must not be 0.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn list(
        &self,
        bucket: BucketId,
        prefix: &str,
        delimiter: &str,
        after: Option<&ListingMarker>,
        limit: usize,
    ) -> Result<Listing, MetadataError> {
        let mut range = keyspace::objects(bucket, prefix, "");
        if let Some(after) = after {
            range.start = range.start.max(start_after(bucket, after));
        }
        let mut page = Listing::default();
        for _ in 0..SCANS_MAX {
            let wanted = limit - page.entries.len();
            let rows = self.scan_range(range.clone(), wanted).await?;
            let mut more = rows.more;
            for (key, record) in rows.entries {
                let rolled_up = common_prefix(key.as_str(), prefix, delimiter).map(str::to_owned);
                let ends_scan = rolled_up.is_some();
                let (line, marker) = match rolled_up {
                    Some(common) => (
                        Listed::Prefix(common.clone()),
                        ListingMarker::Prefix(common),
                    ),
                    None => {
                        let marker = ListingMarker::Key(key.as_str().to_owned());
                        (Listed::Object(key, Box::new(record)), marker)
                    }
                };
                page.entries.push(line);
                range.start = start_after(bucket, &marker);
                page.next = Some(marker);
                if ends_scan {
                    // The rows behind it are rolled up too: jump past them.
                    more = true;
                    break;
                }
            }
            if !more {
                page.next = None;
            }
            if !more || page.entries.len() >= limit {
                break;
            }
        }
        Ok(page)
    }
}

/// `key` up to and with the first delimiter after `prefix`.
pub(super) fn common_prefix<'k>(key: &'k str, prefix: &str, delimiter: &str) -> Option<&'k str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

fn start_after(bucket: BucketId, marker: &ListingMarker) -> bytes::Bytes {
    match marker {
        ListingMarker::Prefix(prefix) => keyspace::objects(bucket, prefix, "").end,
        ListingMarker::Key(key) => successor(&keyspace::objects(bucket, "", key).start),
    }
}
