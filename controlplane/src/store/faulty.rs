//! A store that misbehaves on purpose, seeded: for the tests of what is built on
//! a store. Every fault is one that `FoundationDB` clients really see.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::around::{Around, Surrounded};
use super::transaction::{CommitError, CommitVersion, Store, StoreError, Transaction};

/// What goes wrong with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not applied, [`CommitError::Conflict`].
    Conflict,
    /// Applied, [`CommitError::Unknown`].
    UnknownApplied,
    /// Applied after this time, [`CommitError::Unknown`] at once: a retry may
    /// come before it.
    UnknownAppliedLater(Duration),
    /// Not applied, [`CommitError::Unknown`].
    UnknownLost,
    /// Not applied, [`CommitError::Unavailable`].
    Unavailable,
    /// None: the commit goes through.
    Nothing,
}

/// How often things go wrong, each in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultPlan {
    /// Commits that end as [`Fault::Conflict`].
    pub conflict: u32,
    /// Commits that end as [`Fault::UnknownApplied`].
    pub unknown_applied: u32,
    /// Commits that end as [`Fault::UnknownLost`].
    pub unknown_lost: u32,
    /// Commits that end as [`Fault::Unavailable`].
    pub unavailable: u32,
    /// Reads that end as [`StoreError::Unavailable`].
    pub read_unavailable: u32,
    /// Reads and commits, also of nothing, that end as [`StoreError::Again`] and
    /// [`CommitError::Again`].
    pub again: u32,
    /// Reads and commits that are delayed first.
    pub delayed: u32,
    /// Longest such delay.
    pub delay_max: Duration,
}

/// A store with faults.
#[derive(Debug, Clone)]
pub struct FaultyStore<S> {
    inner: S,
    faults: Injector,
}

/// What goes wrong with all transactions of a [`FaultyStore`].
#[derive(Debug, Clone)]
pub struct Injector(Arc<Mutex<Faults>>);

#[derive(Debug)]
struct Faults {
    plan: FaultPlan,
    /// What happens to the next commits, before the plan is asked.
    script: VecDeque<Fault>,
    random: u64,
    injected: u64,
}

impl Faults {
    /// A number below `limit` (splitmix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.below(1_000) < u64::from(thousandths)
    }

    fn next_commit(&mut self) -> Fault {
        if let Some(fault) = self.script.pop_front() {
            return fault;
        }
        let plan = self.plan;
        let choices = [
            (plan.conflict, Fault::Conflict),
            (plan.unknown_applied, Fault::UnknownApplied),
            (plan.unknown_lost, Fault::UnknownLost),
            (plan.unavailable, Fault::Unavailable),
        ];
        let chosen = choices
            .into_iter()
            .find(|(thousandths, _)| self.happens(*thousandths));
        chosen.map_or(Fault::Nothing, |(_, fault)| fault)
    }

    fn is_again(&mut self) -> bool {
        let again = self.plan.again > 0 && self.happens(self.plan.again);
        self.injected += u64::from(again);
        again
    }

    fn delay(&mut self) -> Option<Duration> {
        let plan = self.plan;
        let nanos = u64::try_from(plan.delay_max.as_nanos()).unwrap_or(u64::MAX);
        self.happens(plan.delayed)
            .then(|| Duration::from_nanos(self.below(nanos.saturating_add(1))))
    }
}

impl<S: Store> FaultyStore<S> {
    /// `inner` with the faults that `plan` and `seed` say.
    #[must_use]
    pub fn new(inner: S, plan: FaultPlan, seed: u64) -> Self {
        let faults = Faults {
            plan,
            script: VecDeque::new(),
            random: seed,
            injected: 0,
        };
        Self {
            inner,
            faults: Injector(Arc::new(Mutex::new(faults))),
        }
    }

    /// Decides the next commits with writes, in order; the plan goes on after.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().script.extend(faults);
    }

    /// How many faults there were, delays apart.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.faults.lock().injected
    }
}

impl Injector {
    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn delay(&self) {
        let delay = self.lock().delay();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }
}

impl<S: Store> Store for FaultyStore<S> {
    type Transaction = Surrounded<S::Transaction, Injector>;

    fn begin(&self) -> Self::Transaction {
        Surrounded::new(self.inner.begin(), self.faults.clone())
    }

    async fn flush(&self) -> Result<(), CommitError> {
        self.faults.delay().await;
        self.inner.flush().await
    }
}

impl<T: Transaction> Around<T> for Injector {
    async fn before_read(&mut self) -> Result<(), StoreError> {
        self.delay().await;
        let mut faults = self.lock();
        let thousandths = faults.plan.read_unavailable;
        if faults.happens(thousandths) {
            faults.injected += 1;
            return Err(StoreError::Unavailable("injected".into()));
        }
        if faults.is_again() {
            return Err(StoreError::Again("injected"));
        }
        Ok(())
    }

    async fn commit(self, inner: T, wrote: bool) -> Result<CommitVersion, CommitError> {
        if self.lock().is_again() {
            return Err(CommitError::Again("injected"));
        }
        if !wrote {
            return inner.commit().await;
        }
        self.delay().await;
        let fault = {
            let mut faults = self.lock();
            let fault = faults.next_commit();
            faults.injected += u64::from(fault != Fault::Nothing);
            fault
        };
        match fault {
            Fault::Nothing => inner.commit().await,
            Fault::Conflict => Err(CommitError::Conflict),
            Fault::UnknownLost => Err(CommitError::Unknown),
            Fault::Unavailable => Err(CommitError::Unavailable("injected")),
            // A commit that fails by itself keeps its own answer.
            Fault::UnknownApplied => {
                inner.commit().await?;
                Err(CommitError::Unknown)
            }
            Fault::UnknownAppliedLater(delay) => {
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let late = inner.commit().await;
                    tracing::debug!(?late, "a commit called unknown before");
                });
                Err(CommitError::Unknown)
            }
        }
    }
}
