//! Key selectors: "the offset-th key after the last one up to here".

use bytes::Bytes;
use quickwater_controlplane::store::{KeyRange, Scan, successor};

use crate::session::Session;

/// First key that a selector can stand for, and the one after the last.
const FIRST: &[u8] = b"\x00";
const BEHIND_LAST: &[u8] = b"\xff";

/// A selector of the C API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) key: Bytes,
    pub(crate) or_equal: bool,
    pub(crate) offset: i32,
}

impl Selector {
    /// The border that it names without looking at rows, if it can be: it is the
    /// border of a range for "first key greater (or equal)".
    pub(crate) fn border(&self) -> Option<Bytes> {
        (self.offset == 1).then(|| self.start())
    }

    /// Keys from here on are behind the selector's own key.
    fn start(&self) -> Bytes {
        match self.or_equal {
            true => successor(&self.key),
            false => self.key.clone(),
        }
    }

    /// The key it stands for: at most the one behind the last, at least none.
    pub(crate) fn resolve(&self, session: &mut Session, snapshot: bool) -> Result<Bytes, i32> {
        let start = self.start();
        let forward = self.offset > 0;
        let count = match forward {
            true => self.offset.unsigned_abs() as usize,
            false => self.offset.unsigned_abs() as usize + 1,
        };
        let range = match forward {
            true => KeyRange::new(start, BEHIND_LAST),
            false => KeyRange::new(FIRST, start.min(Bytes::from_static(BEHIND_LAST))),
        };
        let scan = Scan {
            reverse: !forward,
            snapshot,
            ..Scan::new(range, count)
        };
        let page = session.scan(scan)?;
        Ok(match page.rows.get(count - 1) {
            Some(row) => row.key.clone(),
            None if forward => Bytes::from_static(BEHIND_LAST),
            None => Bytes::new(),
        })
    }
}
