//! The cluster as the control plane runs it: members, leases, placement, and the
//! metadata calls of workers behind their fences. Absent: the wire (`rpc`).

mod answers;
mod arrival;
mod calls;
mod clock;
mod copies;
mod fate;
mod leaving;
mod membership;
mod memo;
pub mod orders;
pub mod placement;
mod rebuilt;
mod rows;
#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod simulation;
mod tenures;
mod terms;
#[cfg(test)]
mod tests;
mod traffic;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{MetadataError, Neighbour, NodeId, SlotTable};
use tokio::sync::{Notify, watch};

use arrival::RefusedWorkers;
pub use arrival::{Admission, Past, Reason, RefusedWorker, RegisterError};
use clock::LeaseClock;
pub use clock::boottime;
pub use fate::Fate;
pub use leaving::{ClusterError, Leaving, LeavingPage, SILENCE_MAX};
pub use membership::{Beat, Membership, Move, Part, Seat};
pub use rebuilt::Rebuilt;
pub use terms::Position;
pub use traffic::{History, Moved, Rates};

use crate::Namespace;
use crate::records::{Terms, Witness};
use crate::store::Store;
use memo::Memo;
use orders::Orders;
use tenures::Tenures;
use traffic::Traffic;

/// Longest pause between two looks at who owns what.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Pause after the table could not be written.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two looks how far the metadata are, while they change.
const OBSERVE_PAUSE: Duration = Duration::from_secs(1);

/// What changed of what every worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// Another number whenever a bucket changed.
    pub buckets: u64,
    /// Version of the path policies in force.
    pub policies: u64,
}

/// What workers need to talk to each other.
#[derive(Clone, PartialEq, Eq)]
pub struct Peers {
    /// What capabilities are signed with.
    pub key: [u8; 32],
    /// All that did not leave, by name.
    pub members: Vec<Neighbour>,
    /// Of every node the last session that may have lost slots without having let go of
    /// them: what it or an earlier one asked a UFS for must not be applied any more.
    pub over: Vec<(NodeId, u64)>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// A cluster. Clones are the same.
pub struct Cluster<S>(Arc<Inner<S>>);

struct Inner<S> {
    namespace: Namespace<S>,
    name: String,
    lease: Duration,
    clock: LeaseClock,
    members: Mutex<Membership>,
    table: watch::Sender<Arc<SlotTable>>,
    /// Never behind the table.
    tenures: Mutex<Tenures>,
    wake: Notify,
    memo: Memo,
    orders: Orders,
    news: watch::Sender<News>,
    /// Held while the row of a member or the table is changed: none is written from
    /// what another change has made old.
    changing: tokio::sync::Mutex<TableRow>,
    peers: watch::Sender<Arc<Peers>>,
    /// Which control processes wrote the metadata; this one is the last.
    terms: Mutex<Terms>,
    /// Whose stores told what was in the metadata, if these were lost once.
    witnesses: Vec<Witness>,
    /// Everything up to this version is on disk.
    version: AtomicU64,
    /// Something was committed since the version was looked at.
    changed: AtomicBool,
    /// Processes of workers, by name of the worker.
    processes: Mutex<BTreeMap<NodeId, Vec<u8>>>,
    refused: Mutex<RefusedWorkers>,
    traffic: Mutex<Traffic>,
}

/// What is in the table's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableRow {
    /// The table in force.
    InForce,
    /// That, or one whose write ended nobody knows how: whoever lost slots by it commits
    /// nothing any more.
    Unknown,
}

impl<S> Clone for Cluster<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Store> Cluster<S> {
    /// The cluster kept in `namespace`; a heartbeat is good for `lease`.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn open(namespace: Namespace<S>, lease: Duration) -> Result<Self, MetadataError> {
        Self::open_by(namespace, lease, LeaseClock::boottime()).await
    }

    async fn open_by(
        namespace: Namespace<S>,
        lease: Duration,
        clock: LeaseClock,
    ) -> Result<Self, MetadataError> {
        let name = rows::name(namespace.store()).await?;
        // A table that a process of before was writing comes now or never.
        rows::settle(namespace.store()).await?;
        let (terms, version) = begin_term(namespace.store()).await?;
        let witnesses = rows::witnesses(namespace.store()).await?;
        let (table, members) = rows::load(namespace.store()).await?;
        let tenures = Mutex::new(Tenures::load(&table));
        let members = Membership::load(lease, table, members, clock.now());
        let (table, _) = watch::channel(Arc::new(members.table().clone()));
        let policies = namespace.policy_version().await?;
        let mut key = [0; 32];
        // Two ids are as many random bytes.
        for half in key.chunks_exact_mut(16) {
            half.copy_from_slice(&wire::random_id()?.to_be_bytes());
        }
        let peers = Arc::new(Peers {
            key,
            members: reached(&members, clock.now()),
            over: members.over(clock.now()),
        });
        Ok(Self(Arc::new(Inner {
            namespace,
            name,
            lease,
            clock,
            members: Mutex::new(members),
            table,
            tenures,
            wake: Notify::new(),
            memo: Memo::default(),
            orders: Orders::default(),
            news: watch::channel(News {
                // Anything: no two processes count alike.
                buckets: boottime().as_nanos() as u64,
                policies,
            })
            .0,
            changing: tokio::sync::Mutex::new(TableRow::InForce),
            peers: watch::channel(peers).0,
            terms: Mutex::new(terms),
            witnesses,
            version: AtomicU64::new(version),
            changed: AtomicBool::new(false),
            processes: Mutex::default(),
            refused: Mutex::default(),
            traffic: Mutex::default(),
        })))
    }

    /// Random name of the metadata.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How long a heartbeat is good for.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.0.lease
    }

    /// Tables, the one in force first.
    #[must_use]
    pub fn tables(&self) -> watch::Receiver<Arc<SlotTable>> {
        self.0.table.subscribe()
    }

    /// All members with what is left of their leases.
    #[must_use]
    pub fn nodes(&self) -> Vec<(Seat, Duration)> {
        let now = self.0.clock.now();
        let left = |seat: &Seat| (seat.clone(), seat.lease_until.saturating_sub(now));
        self.members().seats().map(left).collect()
    }

    /// How long ago a member told anything; none: not since this process began.
    #[must_use]
    pub fn unheard_for(&self, seat: &Seat) -> Option<Duration> {
        let now = self.0.clock.now();
        seat.heard.map(|at| now.saturating_sub(at))
    }

    /// Keeps the table as the members want it, for ever.
    pub async fn keep(self) {
        loop {
            // Either way it is time to look.
            let _ = tokio::time::timeout(LOOK_PAUSE, self.0.wake.notified()).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the placement table cannot be written; tried again");
                tokio::time::sleep(TROUBLE_PAUSE).await;
            }
        }
    }

    /// Looks how far the metadata are whenever they change, for ever: workers are told.
    pub async fn watch_position(self) {
        loop {
            tokio::time::sleep(OBSERVE_PAUSE).await;
            if self.0.changed.swap(false, Ordering::AcqRel)
                && let Err(error) = self.observe().await
            {
                self.0.changed.store(true, Ordering::Release);
                tracing::warn!(%error, "how far the metadata are is not known; looked again");
            }
        }
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.0.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the next table in force, if there is one.
    async fn look(&self) -> Result<(), MetadataError> {
        // Who registers meanwhile would be told the table of before as if it were in
        // force: it may have been dead when this one was planned.
        let mut row = self.0.changing.lock().await;
        self.settle(&mut row).await?;
        // A lease ended, or a drain began.
        self.tell_peers();
        let planned = self.members().plan(self.0.clock.now());
        let Some(planned) = planned else {
            return Ok(());
        };
        // Whose lease it found to be over is known before anybody gets its slots.
        self.tell_peers();
        *row = TableRow::Unknown;
        match rows::publish(self.0.namespace.store(), &planned).await {
            Ok(()) => *row = TableRow::InForce,
            Err(rows::RowError::Changed) => return self.settle(&mut row).await,
            Err(error) => return Err(error.into()),
        }
        tracing::info!(
            epoch = planned.table.epoch,
            losers = planned.losers.len(),
            "placement"
        );
        self.set_table(planned.table);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Puts the table in force that the row has, if that is not known. By the plan alone it
    /// might stay unknown for ever: what asked for the table may be over by now.
    async fn settle(&self, row: &mut TableRow) -> Result<(), MetadataError> {
        if *row == TableRow::InForce {
            return Ok(());
        }
        let table = rows::settle(self.0.namespace.store()).await?;
        *row = TableRow::InForce;
        if table.epoch != self.0.table.borrow().epoch {
            tracing::info!(
                epoch = table.epoch,
                "placement, of an attempt whose end was not known"
            );
            self.set_table(table);
            self.0.wake.notify_one();
        }
        Ok(())
    }

    fn set_table(&self, table: SlotTable) {
        self.0.changed.store(true, Ordering::Release);
        let shared = Arc::new(table.clone());
        self.tenures().go_by(&table);
        self.members().set_table(table);
        self.0.table.send_replace(shared);
    }

    /// Takes a heartbeat; `false`: its session has ended.
    #[must_use]
    pub fn beat(&self, node: &NodeId, session: u64, beat: Beat) -> bool {
        let (now, moved) = (self.0.clock.now(), beat.moved);
        let taken = self.members().beat(node, session, beat, now);
        if let (true, Some(moved)) = (taken, moved) {
            self.traffic().told(node, session, moved, now);
        }
        self.0.wake.notify_one();
        taken
    }

    /// What workers moved in the last ten minutes.
    #[must_use]
    pub fn history(&self) -> History {
        self.traffic().history(self.0.clock.now())
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        let traffic = self.0.traffic.lock();
        traffic.unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots of a worker that others should have: it is asked for them.
    #[must_use]
    pub fn wanted(&self, node: &NodeId) -> Vec<usize> {
        self.members().elsewhere(node)
    }

    /// A worker says goodbye, or is removed: its session ends.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn leave(&self, node: &NodeId, session: u64) -> Result<(), MetadataError> {
        let _changing = self.0.changing.lock().await;
        let member = match self.members().seat(node) {
            Some(seat) if seat.session == session => seat.member.clone(),
            _ => return Ok(()),
        };
        rows::leave(self.0.namespace.store(), &member).await?;
        self.members().leave(node, session);
        self.0.wake.notify_one();
        tracing::info!(%node, "a worker left");
        Ok(())
    }

    /// Whether this is the session that counts.
    #[must_use]
    pub fn attends(&self, node: &NodeId, session: u64) -> bool {
        let members = self.members();
        let seat = members.seat(node);
        seat.is_some_and(|seat| seat.attends(session))
    }

    /// A bucket was made, changed or removed: workers read what they know of buckets
    /// again.
    pub fn bucket_changed(&self) {
        self.0.changed.store(true, Ordering::Release);
        self.0.news.send_modify(|news| {
            news.buckets = news.buckets.wrapping_add(1);
        });
    }

    /// Path policies were set: workers read them.
    pub fn policies_changed(&self, version: u64) {
        self.0.changed.store(true, Ordering::Release);
        self.0.news.send_modify(|news| {
            news.policies = news.policies.max(version);
        });
    }

    /// What every worker has to know, the latest first.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<News> {
        self.0.news.subscribe()
    }

    /// Where workers reach each other, the latest first.
    #[must_use]
    pub fn peers(&self) -> watch::Receiver<Arc<Peers>> {
        self.0.peers.subscribe()
    }

    fn tell_peers(&self) {
        let (members, over) = {
            let (members, now) = (self.members(), self.0.clock.now());
            (reached(&members, now), members.over(now))
        };
        self.0.peers.send_if_modified(|peers| {
            let changed = peers.members != members || peers.over != over;
            if changed {
                let key = peers.key;
                *peers = Arc::new(Peers { key, members, over });
            }
            changed
        });
    }

    /// Orders to workers.
    #[must_use]
    pub fn orders(&self) -> &Orders {
        &self.0.orders
    }

    fn tenures(&self) -> MutexGuard<'_, Tenures> {
        let tenures = self.0.tenures.lock();
        tenures.unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> MutexGuard<'_, Membership> {
        self.0
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that another control process goes on with the metadata; from which version on.
async fn begin_term<S: Store>(store: &S) -> Result<(Terms, u64), MetadataError> {
    let id = wire::random_id()?;
    let before = rows::version(store).await?;
    rows::change_terms(store, |terms| terms.begin(id, before)).await?;
    // A process of before may have gone on until just now.
    let version = rows::version(store).await?;
    let terms = rows::change_terms(store, |terms| terms.begins_at(id, version)).await?;
    Ok((terms, version))
}

/// Where members that did not leave are reached.
fn reached(members: &Membership, now: Duration) -> Vec<Neighbour> {
    let there = members.seats().filter(|seat| !seat.member.gone);
    let reached = there.map(|seat| Neighbour {
        node: seat.member.node.clone(),
        address: seat.member.advertise.clone(),
        zone: seat.member.zone.clone(),
        capacity_bytes: seat.member.capacity_bytes,
        session: seat.session,
        live: now < seat.lease_until,
        draining: seat.goes(),
    });
    reached.collect()
}
