//! Listings: the two trees walked side by side and merged in key order.

use std::cmp::Ordering;
use std::collections::VecDeque;

use quickwater_proto::{UfsEntry, UfsError};

use super::errors::failed;
use super::keys::Tree;
use super::root::Root;
use super::walk::{Query, Walk};
use super::{Core, Posix};
use crate::mailbox::Pages;

/// Entries of one page.
const PAGE_ENTRIES: usize = 1_000;

/// A listing in progress.
#[derive(Debug)]
pub(super) struct Merge {
    plain: Side,
    side: Side,
}

#[derive(Debug)]
struct Side {
    walk: Walk,
    next: VecDeque<UfsEntry>,
    ended: bool,
}

impl Merge {
    pub(super) fn new(query: &Query) -> Self {
        let side = |tree| Side {
            walk: Walk::new(tree, query.clone()),
            next: VecDeque::with_capacity(1),
            ended: false,
        };
        Self {
            plain: side(Tree::Plain),
            side: side(Tree::Side),
        }
    }

    /// The next page; empty at the end.
    pub(super) fn page(&mut self, core: &Core, limit: usize) -> Result<Vec<UfsEntry>, UfsError> {
        let root = core.root()?;
        let mut page = Vec::new();
        while page.len() < limit {
            let Some(entry) = self.next(core, &root)? else {
                break;
            };
            page.push(entry);
        }
        Ok(page)
    }

    fn next(&mut self, core: &Core, root: &Root) -> Result<Option<UfsEntry>, UfsError> {
        self.plain.fill(core, root)?;
        self.side.fill(core, root)?;
        let order = match (self.plain.next.front(), self.side.next.front()) {
            (Some(plain), Some(side)) => name(plain).cmp(name(side)),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order == Ordering::Equal {
            // In both trees: a prefix, or an object of which the plain one counts.
            self.side.next.pop_front();
        }
        Ok(match order {
            Ordering::Less | Ordering::Equal => self.plain.next.pop_front(),
            Ordering::Greater => self.side.next.pop_front(),
        })
    }
}

impl Side {
    fn fill(&mut self, core: &Core, root: &Root) -> Result<(), UfsError> {
        if self.ended || !self.next.is_empty() {
            return Ok(());
        }
        let found = self.walk.next(root, &core.context.stats.skipped_names);
        match found.map_err(|e| failed("list", root.path.display(), e))? {
            Some(entry) => self.next.push_back(entry),
            None => self.ended = true,
        }
        Ok(())
    }
}

fn name(entry: &UfsEntry) -> &str {
    match entry {
        UfsEntry::Object { key, .. } => key,
        UfsEntry::Prefix(prefix) => prefix,
    }
}

impl Posix {
    pub(crate) async fn list(
        &self,
        prefix: String,
        start_after: String,
        recursive: bool,
        pages: &Pages,
    ) -> Result<(), UfsError> {
        let limit = self.core.context.config.request_timeout;
        let mut merge = Merge::new(&Query {
            prefix,
            start_after,
            recursive,
        });
        loop {
            let (page, rest) = self
                .blocking(limit, "list", move |core, _| {
                    let page = merge.page(core, PAGE_ENTRIES)?;
                    Ok((page, merge))
                })
                .await?;
            merge = rest;
            if page.is_empty() || !pages.send(Ok(Some(page))).await {
                return Ok(());
            }
        }
    }
}
