//! What a worker among others may still do to under file systems, and which sessions'
//! requests must not be applied any more. Absent: who says so, and slots: whoever lost
//! one has let go of it, or its session is over.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{NodeId, UfsError, UfsErrorKind};

/// The standing of a worker: its session, its lease, and who has none any more.
pub struct Standing {
    node: NodeId,
    /// The clock of leases.
    clock: fn() -> Duration,
    /// 0: none yet.
    session: AtomicU64,
    /// When the lease ends, nanoseconds by that clock.
    until: AtomicU64,
    /// How often there was a time without a lease.
    lapses: AtomicU64,
    /// The last session of each node that is over.
    over: Mutex<HashMap<NodeId, u64>>,
    /// Grows with what is over.
    news: AtomicU64,
    /// Changes that were given up and may still be applied by the operating system.
    stragglers: AtomicUsize,
    /// Somebody took the session for over.
    ousted: AtomicBool,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing")
            .field("node", &self.node)
            .field("session", &self.session())
            .finish_non_exhaustive()
    }
}

impl Standing {
    /// Of a worker that has no session and no lease yet. `clock`: the one of leases; it
    /// runs on while the machine is suspended.
    #[must_use]
    pub fn new(node: NodeId, clock: fn() -> Duration) -> Arc<Self> {
        Arc::new(Self {
            node,
            clock,
            session: AtomicU64::new(0),
            until: AtomicU64::new(0),
            lapses: AtomicU64::new(0),
            over: Mutex::default(),
            news: AtomicU64::new(1),
            stragglers: AtomicUsize::new(0),
            ousted: AtomicBool::new(false),
        })
    }

    /// A session began. `lapsed`: after a time without a lease, in which others may have
    /// got what the one before held.
    pub fn opened(&self, session: u64, lapsed: bool) {
        if lapsed {
            self.lapses.fetch_add(1, Ordering::AcqRel);
            self.heard([(self.node.clone(), session.saturating_sub(1))]);
        }
        self.session.store(session, Ordering::Release);
        self.ousted.store(false, Ordering::Release);
    }

    /// The lease lasts until then; never shortens it.
    pub fn granted(&self, until: Duration) {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.until.fetch_max(nanos, Ordering::AcqRel);
    }

    /// These sessions are over, and all before them of the same nodes. To be told before
    /// anything is taken that they held.
    pub fn heard(&self, over: impl IntoIterator<Item = (NodeId, u64)>) {
        let mut known = self.over();
        for (node, session) in over {
            let last = known.entry(node).or_default();
            if *last < session {
                *last = session;
                self.news.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Whether another session is needed to write: this one was taken for over.
    #[must_use]
    pub fn is_ousted(&self) -> bool {
        self.ousted.load(Ordering::Acquire)
    }

    /// Changes that were given up, and that nothing can keep from being applied as long
    /// as the session is not over.
    #[must_use]
    pub fn stragglers(&self) -> usize {
        self.stragglers.load(Ordering::Acquire)
    }

    pub(crate) fn oust(&self) {
        self.ousted.store(true, Ordering::Release);
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    pub(crate) fn session(&self) -> u64 {
        self.session.load(Ordering::Acquire)
    }

    pub(crate) fn is_over(&self, node: &NodeId, session: u64) -> bool {
        self.over().get(node).is_some_and(|last| session <= *last)
    }

    /// A number that changes whenever more is over.
    pub(crate) fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// Counts a change that was given up until it is dropped.
    pub(crate) fn straggling(self: &Arc<Self>) -> Straggler {
        self.stragglers.fetch_add(1, Ordering::AcqRel);
        Straggler(Arc::clone(self))
    }

    fn over(&self) -> MutexGuard<'_, HashMap<NodeId, u64>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that was given up and has not ended.
#[derive(Debug)]
pub(crate) struct Straggler(Arc<Standing>);

impl Drop for Straggler {
    fn drop(&mut self) {
        self.0.stragglers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to make one change, as of when its call began.
#[derive(Debug, Clone)]
pub(crate) struct Permit(Option<(Arc<Standing>, u64)>);

impl Permit {
    /// To be taken when a call begins; the only process there is may always.
    pub(crate) fn taken(standing: Option<&Arc<Standing>>) -> Self {
        let taken = |standing: &Arc<Standing>| {
            let lapses = standing.lapses.load(Ordering::Acquire);
            (Arc::clone(standing), lapses)
        };
        Self(standing.map(taken))
    }

    /// To be looked at right before what cannot be taken back.
    ///
    /// # Errors
    /// [`UfsErrorKind::Throttled`]: there is no lease, or there was none for a while
    /// since the call began. It must not be made; nothing changed.
    pub(crate) fn check(&self) -> Result<(), UfsError> {
        let Some((standing, lapses)) = &self.0 else {
            return Ok(());
        };
        let until = Duration::from_nanos(standing.until.load(Ordering::Acquire));
        // The lease first: one that was granted since is of another session.
        let live = (standing.clock)() < until;
        match live && standing.lapses.load(Ordering::Acquire) == *lapses {
            true => Ok(()),
            false => Err(refused("the lease of this worker has ended")),
        }
    }
}

/// Nothing was changed, because another worker may.
pub(crate) fn refused(why: &str) -> UfsError {
    UfsError::new(UfsErrorKind::Throttled, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> Duration {
        Duration::from_secs(12 * 3600)
    }

    fn standing() -> Arc<Standing> {
        Standing::new(NodeId::new("n1").unwrap(), noon)
    }

    #[test]
    fn a_change_needs_the_lease_it_began_with() {
        let standing = standing();
        assert!(Permit::taken(None).check().is_ok(), "alone");
        let early = Permit::taken(Some(&standing));
        assert!(early.check().is_err(), "no lease yet");
        standing.opened(1, true);
        standing.granted(noon());
        let permit = Permit::taken(Some(&standing));
        assert_eq!(
            permit.check().unwrap_err().kind,
            UfsErrorKind::Throttled,
            "its last instant is over"
        );
        standing.granted(noon() + Duration::from_secs(1));
        assert!(permit.check().is_ok());
        assert!(early.check().is_err(), "it began before the lapse");
        standing.opened(2, false);
        assert!(permit.check().is_ok(), "the lease went on");
        standing.opened(3, true);
        assert!(permit.check().is_err(), "others had the slot meanwhile");
        assert!(Permit::taken(Some(&standing)).check().is_ok());
    }

    #[test]
    fn what_is_over_stays_over() {
        let standing = standing();
        let other = NodeId::new("n2").unwrap();
        let first = standing.news();
        standing.heard([(other.clone(), 4)]);
        let second = standing.news();
        assert_ne!(first, second);
        standing.heard([(other.clone(), 3)]);
        assert_eq!(second, standing.news(), "known");
        assert!(standing.is_over(&other, 3) && standing.is_over(&other, 4));
        assert!(!standing.is_over(&other, 5));
        assert!(!standing.is_over(standing.node(), 0));
        standing.opened(7, false);
        assert!(!standing.is_over(standing.node(), 6), "it goes on");
        standing.opened(8, true);
        assert!(standing.is_over(standing.node(), 7) && !standing.is_over(standing.node(), 8));
    }

    #[test]
    fn another_session_ends_the_ousting() {
        let standing = standing();
        standing.oust();
        assert!(standing.is_ousted());
        standing.opened(2, true);
        assert!(!standing.is_ousted());
        let straggler = standing.straggling();
        assert_eq!(standing.stragglers(), 1);
        drop(straggler);
        assert_eq!(standing.stragglers(), 0);
    }
}
