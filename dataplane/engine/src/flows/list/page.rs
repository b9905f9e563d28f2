//! A page of a listing: what is asked for, what is put into it, and where the next one begins.

use quickwater_proto::{ObjectKey, ObjectRecord, PersistState};

use crate::decisions::freshness::Scan;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Keys begin with this.
    pub prefix: String,
    /// Roll up what follows the prefix up to this; empty = no roll-up.
    pub delimiter: String,
    /// Keys (and common prefixes) greater than this only.
    pub after: String,
    /// Entries at most.
    pub limit: usize,
    /// Show each folder as an empty object `folder/`, as the AWS console does.
    pub folders: bool,
    /// Compare with the UFS now, whatever was seen before.
    pub revalidate: bool,
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Objects in byte order of their keys.
    pub objects: Vec<(ObjectKey, ObjectRecord)>,
    /// Common prefixes in byte order.
    pub prefixes: Vec<String>,
    /// More follows.
    pub truncated: bool,
    /// Last entry of the page (key or common prefix): pass it as `after`.
    pub last: Option<String>,
}

/// One entry of a page under construction.
#[expect(
    clippy::large_enum_variant,
    reason = "on its way into a page; a box would be an allocation per key"
)]
pub(super) enum Entry<'e> {
    Object(ObjectKey, ObjectRecord),
    Prefix(&'e str),
}

impl Entry<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Object(key, _) => key.as_str(),
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// Merges rows and remembered sub-prefixes, both in order, into a page.
pub(super) struct PageBuilder<'a, T> {
    query: &'a ListQuery,
    /// Sub-prefixes the UFS has, in order, not yet merged.
    known: std::collections::VecDeque<String>,
    /// The key before the one being added.
    previous: String,
    page: ListPage,
    /// Whether a key was deleted below a sub-prefix since the UFS was seen to have it.
    touched: T,
    /// The page has such a sub-prefix, and no row below it.
    unsure: bool,
}

impl<'a, T: Fn(&str) -> bool> PageBuilder<'a, T> {
    pub(super) fn new(query: &'a ListQuery, scan: &Scan, touched: T) -> Self {
        let after = query.after.as_str();
        let wanted =
            |prefix: &&String| prefix.starts_with(&query.prefix) && prefix.as_str() > after;
        let known = match scan.scope.one_level {
            true => scan.with(|p| {
                p.prefixes
                    .range(query.prefix.clone()..)
                    .filter(wanted)
                    .take(query.limit + 1)
                    .cloned()
                    .collect()
            }),
            false => Default::default(),
        };
        Self {
            query,
            known,
            previous: query.after.clone(),
            page: ListPage::default(),
            touched,
            unsure: false,
        }
    }

    pub(super) fn add(&mut self, entry: Entry<'_>) {
        while let Some(prefix) = self.known.pop_front_if(|p| p.as_str() <= entry.name()) {
            if prefix != entry.name() {
                self.push_known(&prefix);
            }
        }
        self.push(entry);
    }

    /// Adds a sub-prefix that no row is below, or none that was read.
    fn push_known(&mut self, prefix: &str) {
        let is_there = self.page.prefixes.last().is_some_and(|last| last == prefix);
        self.unsure |= !is_there && !self.full() && (self.touched)(prefix);
        self.push(Entry::Prefix(prefix));
    }

    /// Adds the folders that begin with `key`, if the query wants them.
    pub(super) fn add_folders(&mut self, key: &ObjectKey, child: &ObjectRecord) {
        if !self.query.folders {
            return;
        }
        let name = key.as_str();
        for (at, _) in name.match_indices('/') {
            let folder = &name[..=at];
            let fresh = !self.previous.starts_with(folder) && folder != name;
            if fresh
                && folder.starts_with(&self.query.prefix)
                && let Ok(folder) = ObjectKey::new(folder)
            {
                self.add(Entry::Object(folder, folder_record(child)));
            }
        }
        name.clone_into(&mut self.previous);
    }

    /// Entries come in order: one that is there already is the last of its kind.
    fn push(&mut self, entry: Entry<'_>) {
        let page = &mut self.page;
        let name = entry.name();
        let object = page.objects.last().map(|(key, _)| key.as_str());
        let prefix = page.prefixes.last().map(String::as_str);
        if object == Some(name) || prefix == Some(name) {
            return;
        }
        // One beyond the limit tells that more follows.
        if page.objects.len() + page.prefixes.len() == self.query.limit {
            page.truncated = true;
            return;
        }
        match entry {
            Entry::Object(key, record) => page.objects.push((key, record)),
            Entry::Prefix(prefix) => page.prefixes.push(prefix.to_owned()),
        }
    }

    /// Entries until it is full: the limit and one more.
    pub(super) fn missing(&self) -> usize {
        let held = self.page.objects.len() + self.page.prefixes.len();
        let held = held + usize::from(self.page.truncated);
        (self.query.limit + 1).saturating_sub(held)
    }

    pub(super) fn full(&self) -> bool {
        self.page.truncated
    }

    /// The page; `None`: whether all of it is there is not known.
    pub(super) fn finish(mut self) -> Option<ListPage> {
        while !self.full()
            && let Some(prefix) = self.known.pop_front()
        {
            self.push_known(&prefix);
        }
        if self.unsure {
            return None;
        }
        let mut page = self.page;
        let object = page.objects.last().map(|(key, _)| key.as_str());
        let prefix = page.prefixes.last().map(String::as_str);
        page.last = object.max(prefix).map(str::to_owned);
        Some(page)
    }
}

/// What a folder shows: no bytes, the time of its first child.
fn folder_record(child: &ObjectRecord) -> ObjectRecord {
    ObjectRecord {
        version: child.version,
        size: 0,
        // MD5 of nothing.
        etag: quickwater_proto::ETag::new("d41d8cd98f00b204e9800998ecf8427e"),
        modified_ms: child.modified_ms,
        headers: quickwater_proto::ObjectHeaders::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    }
}

/// The common prefix a key is rolled up into, if it is.
pub(super) fn rolled_up<'k>(key: &'k str, query: &ListQuery) -> Option<&'k str> {
    if query.delimiter.is_empty() {
        return None;
    }
    let rest = &key[query.prefix.len()..];
    let at = rest.find(&query.delimiter)?;
    Some(&key[..query.prefix.len() + at + query.delimiter.len()])
}

/// The first key after all that begin with `prefix`.
pub(crate) fn successor(prefix: &str) -> String {
    // Keys are UTF-8: raise the last character; U+10FFFF has no next one and is
    // dropped together with its like.
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            c => char::from_u32(c as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return chars.into_iter().collect();
        }
    }
    "\u{10FFFF}".repeat(quickwater_proto::KEY_BYTES_MAX / 4 + 1)
}

/// Where a page that continues after `after` begins: past a whole common prefix
/// when `after` is one.
pub(super) fn just_after(after: &str, delimiter: &str, prefix: &str) -> String {
    // The delimiter may reach into the prefix (`a/` and `//` after `a//`).
    let rolled_up = after.len().checked_sub(prefix.len() + delimiter.len());
    let is_prefix = !delimiter.is_empty()
        && after.starts_with(prefix)
        && after.ends_with(delimiter)
        && rolled_up.is_some_and(|at| after[prefix.len()..].find(delimiter) == Some(at));
    if is_prefix {
        successor(after)
    } else {
        format!("{after}\0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_is_the_tightest_upper_bound() {
        assert_eq!(successor("a/"), "a0");
        assert_eq!(successor("a\u{10FFFF}"), "b");
        assert_eq!(successor("\u{D7FF}"), "\u{E000}");
        assert!(successor("\u{10FFFF}").as_str() > "\u{10FFFF}zzz");
    }

    #[test]
    fn a_page_goes_on_after_a_whole_common_prefix() {
        assert_eq!(just_after("a/b/", "/", "a/"), "a/b0");
        assert_eq!(just_after("a/b", "/", "a/"), "a/b\0");
        assert_eq!(
            just_after("a/b/c/", "/", "a/"),
            "a/b/c/\0",
            "a key, not a common prefix"
        );
        assert_eq!(just_after("zz", "", ""), "zz\0");
    }

    #[test]
    fn keys_roll_up_at_the_first_delimiter() {
        let query = ListQuery {
            prefix: "a/".into(),
            delimiter: "/".into(),
            ..ListQuery::default()
        };
        assert_eq!(rolled_up("a/b/c", &query), Some("a/b/"));
        assert_eq!(rolled_up("a/b", &query), None);
        assert_eq!(rolled_up("a//x", &query), Some("a//"));
    }
}
