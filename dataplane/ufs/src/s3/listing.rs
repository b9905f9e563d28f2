//! Listings by ListObjectsV2, page by page.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;
use quickwater_proto::{ETag, KEY_BYTES_MAX, UfsEntry, UfsError, UfsErrorKind};

use super::S3;
use super::errors::failed;
use super::objects::identity;
use crate::mailbox::Pages;
use crate::stats::count;

/// Keys of one page (S3: at most 1,000).
const PAGE_KEYS: i32 = 1_000;
/// Most locations found under a root.
const LOCATIONS_MAX: usize = 100_000;

/// What is asked of the store, with the location's prefix.
struct Query<'a> {
    prefix: String,
    start_after: Option<String>,
    delimiter: Option<&'a str>,
    keys_max: i32,
}

impl S3 {
    pub(crate) async fn list(
        &self,
        prefix: &str,
        start_after: &str,
        recursive: bool,
        pages: &Pages,
    ) -> Result<(), UfsError> {
        let rolled = rolled_up(prefix, start_after).filter(|_| !recursive);
        // Stores differ in whether a prefix that start-after lies in is shown:
        // begin before it and decide by looking.
        let begin = rolled.map_or(start_after, |p| p.trim_end_matches('/'));
        let query = Query {
            prefix: format!("{}{prefix}", self.prefix),
            start_after: (!begin.is_empty()).then(|| format!("{}{begin}", self.prefix)),
            delimiter: (!recursive).then_some("/"),
            keys_max: PAGE_KEYS,
        };
        let shown = match rolled {
            Some(prefix) => self.holds_more(prefix, start_after).await?,
            None => true,
        };
        let wanted = |entry: &UfsEntry| match entry {
            UfsEntry::Object { key, .. } => key.as_str() > start_after,
            UfsEntry::Prefix(prefix) => match rolled {
                Some(rolled) if prefix == rolled => shown,
                Some(rolled) => prefix.as_str() > rolled,
                None => prefix.as_str() > start_after,
            },
        };
        let mut token = None;
        let mut last = String::new();
        loop {
            let page = self.page(&query, token).await?;
            let mut entries = self.entries(&page)?;
            entries.retain(wanted);
            if let Some(end) = in_order(&entries, &last)? {
                last = end;
                if !pages.send(Ok(Some(entries))).await {
                    return Ok(());
                }
            }
            token = next_token(&page)?;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether a key greater than `start_after` lies below `prefix`.
    async fn holds_more(&self, prefix: &str, start_after: &str) -> Result<bool, UfsError> {
        let query = Query {
            prefix: format!("{}{prefix}", self.prefix),
            start_after: Some(format!("{}{start_after}", self.prefix)),
            delimiter: None,
            keys_max: 1,
        };
        let page = self.page(&query, None).await?;
        Ok(!self.entries(&page)?.is_empty())
    }

    /// Whether no key lies under the location.
    pub(super) async fn is_empty(&self) -> Result<bool, UfsError> {
        let query = Query {
            prefix: self.prefix.clone(),
            start_after: None,
            delimiter: None,
            // Two: the first may be the object named like the prefix itself.
            keys_max: 2,
        };
        let page = self.page(&query, None).await?;
        Ok(self.entries(&page)?.is_empty())
    }

    pub(crate) async fn list_locations(&self) -> Result<Vec<String>, UfsError> {
        let query = Query {
            prefix: self.prefix.clone(),
            start_after: None,
            delimiter: Some("/"),
            keys_max: PAGE_KEYS,
        };
        let mut names = Vec::new();
        let mut token = None;
        loop {
            let page = self.page(&query, token).await?;
            for entry in self.entries(&page)? {
                if let UfsEntry::Prefix(prefix) = entry {
                    names.push(prefix.trim_end_matches('/').to_owned());
                }
            }
            token = next_token(&page)?;
            if token.is_none() || names.len() >= LOCATIONS_MAX {
                return Ok(names);
            }
        }
    }

    async fn page(
        &self,
        query: &Query<'_>,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output, UfsError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&query.prefix)
            .set_start_after(query.start_after.clone().filter(|_| token.is_none()))
            .set_delimiter(query.delimiter.map(str::to_owned))
            .set_continuation_token(token)
            .max_keys(query.keys_max)
            .encoding_type(EncodingType::Url)
            .customize()
            .config_override(self.repeatable());
        self.request("list", async {
            request.send().await.map_err(|e| failed("list", false, &e))
        })
        .await
    }

    /// The lines of a page in key order.
    fn entries(&self, page: &ListObjectsV2Output) -> Result<Vec<UfsEntry>, UfsError> {
        let encoded = page.encoding_type() == Some(&EncodingType::Url);
        let mut entries = Vec::new();
        for object in page.contents() {
            let Some(key) = self.key(object.key(), encoded)? else {
                continue;
            };
            let identity = identity(object.size(), object.e_tag(), object.last_modified())?;
            let etag = Some(ETag::new(&identity.token));
            entries.push(UfsEntry::Object {
                key,
                identity,
                etag,
            });
        }
        for prefix in page.common_prefixes() {
            if let Some(prefix) = self.key(prefix.prefix(), encoded)? {
                entries.push(UfsEntry::Prefix(prefix));
            }
        }
        entries.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(entries)
    }

    /// A key without the location's prefix; `None`: the prefix itself, or a name
    /// no S3 key can have.
    fn key(&self, text: Option<&str>, encoded: bool) -> Result<Option<String>, UfsError> {
        let full = match (text, encoded) {
            (None, _) => return Err(odd("a line without a key")),
            (Some(text), false) => text.to_owned(),
            (Some(text), true) => percent_decode_str(&text.replace('+', " "))
                .decode_utf8()
                .map_err(|_| odd("a key that is not UTF-8"))?
                .into_owned(),
        };
        let Some(key) = full.strip_prefix(&self.prefix) else {
            return Err(odd("a key without the prefix asked for"));
        };
        if key.len() > KEY_BYTES_MAX {
            count(&self.context.stats.skipped_names, 1);
        }
        Ok((!key.is_empty() && key.len() <= KEY_BYTES_MAX).then(|| key.to_owned()))
    }
}

/// The common prefix that `start_after` itself would be rolled up into.
fn rolled_up<'a>(prefix: &str, start_after: &'a str) -> Option<&'a str> {
    let at = start_after.strip_prefix(prefix)?.find('/')?;
    start_after.get(..=prefix.len() + at)
}

fn odd(what: &str) -> UfsError {
    UfsError::new(
        UfsErrorKind::Corrupt,
        format!("list: the store sent {what}"),
    )
}

fn name(entry: &UfsEntry) -> &str {
    match entry {
        UfsEntry::Object { key, .. } => key,
        UfsEntry::Prefix(prefix) => prefix,
    }
}

/// The last name of a page; an error if the names do not rise: our callers merge.
fn in_order(entries: &[UfsEntry], last: &str) -> Result<Option<String>, UfsError> {
    let mut last = last;
    for entry in entries {
        if name(entry) <= last {
            let message = "list: the store does not list in key order";
            return Err(UfsError::new(UfsErrorKind::Unsupported, message));
        }
        last = name(entry);
    }
    Ok((!entries.is_empty()).then(|| last.to_owned()))
}

fn next_token(page: &ListObjectsV2Output) -> Result<Option<String>, UfsError> {
    if page.is_truncated() != Some(true) {
        return Ok(None);
    }
    match page.next_continuation_token() {
        Some(token) => Ok(Some(token.to_owned())),
        None => Err(odd("a part of a listing without the token for the rest")),
    }
}
