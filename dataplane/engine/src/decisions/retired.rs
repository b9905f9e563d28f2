//! Bytes of overwritten and deleted versions, kept a while for their readers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quickwater_proto::Extent;

/// How long a reader may go on with a version that is not current any more.
const GRACE: Duration = Duration::from_secs(60);
/// Extents kept at most; beyond it the oldest go at once.
const RETIRED_MAX: usize = 65_536;

/// Extents waiting to be freed, shared by all shards.
#[derive(Default)]
pub(crate) struct Retired(Mutex<VecDeque<(Duration, Gone)>>);

/// An extent of a version that is not current any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) extent: Extent,
    /// Other workers may have stripes of it.
    pub(crate) spread: bool,
}

impl Retired {
    /// Adds extents and returns those whose time has come.
    pub(crate) fn retire(&self, extents: &[Extent], spread: bool, now: Duration) -> Vec<Gone> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |extent: &Extent| Gone {
            extent: extent.clone(),
            spread,
        };
        queue.extend(extents.iter().map(|extent| (now, gone(extent))));
        let mut due = Vec::new();
        while let Some((since, _)) = queue.front() {
            if queue.len() <= RETIRED_MAX && now.saturating_sub(*since) < GRACE {
                break;
            }
            due.extend(queue.pop_front().map(|(_, gone)| gone));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::BlobId;

    use super::*;

    #[test]
    fn frees_after_the_grace_and_when_too_many() {
        let retired = Retired::default();
        let extents = |n: usize| {
            vec![
                Extent {
                    blob: BlobId(n as u128),
                    size: 1
                };
                n
            ]
        };
        assert!(retired.retire(&extents(3), true, Duration::ZERO).is_empty());
        let due = retired.retire(&extents(1), false, GRACE);
        assert!(due.len() == 3 && due.iter().all(|gone| gone.spread));
        assert_eq!(retired.retire(&extents(RETIRED_MAX), false, GRACE).len(), 1);
    }
}
