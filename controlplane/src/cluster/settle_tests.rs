//! Tables whose write ended nobody knows how.

use futures_util::FutureExt as _;

use super::tests::{member, node};
use super::*;
use crate::store::{EmbeddedStore, Fault, FaultPlan, FaultyStore};

const LEASE: Duration = Duration::from_secs(30);
const ALL: usize = quickwater_proto::SLOTS;

struct World {
    inner: EmbeddedStore,
    store: FaultyStore<EmbeddedStore>,
    cluster: Cluster<FaultyStore<EmbeddedStore>>,
}

async fn world() -> World {
    let inner = EmbeddedStore::in_memory().unwrap();
    let store = FaultyStore::new(inner.clone(), FaultPlan::default(), 1);
    let cluster = Cluster::open(Namespace::new(store.clone()), LEASE);
    World {
        cluster: cluster.await.unwrap(),
        inner,
        store,
    }
}

impl World {
    async fn register(&self, name: &str) -> u64 {
        let admission = self.cluster.register(member(name), &Past::default()).await;
        admission.unwrap().session
    }

    /// n1 has all, and half of it is asked of it for n2: of the table that says so
    /// nobody knows whether it was written.
    async fn in_doubt(&self, how: Fault) -> (u64, u64) {
        let one = self.register("n1").await;
        self.cluster.look().await.unwrap();
        // It has nothing that would have to stay.
        let taken = self.cluster.beat(&node("n1"), one, Beat::default());
        assert!(taken);
        let two = self.register("n2").await;
        self.store.script([how]);
        self.cluster.look().await.unwrap_err();
        assert_eq!(self.cluster.tables().borrow().owned_by(&node("n1")), ALL);
        (one, two)
    }

    /// Whether the table in force is the one of the store, whose losers are fenced.
    async fn is_in_force(&self) -> bool {
        let (stored, _) = rows::load(&self.inner).await.unwrap();
        let table = self.cluster.tables().borrow().clone();
        *table == stored
    }
}

#[tokio::test]
async fn what_was_written_is_in_force_though_nobody_wants_it_any_more() {
    let world = world().await;
    let (one, two) = world.in_doubt(Fault::UnknownApplied).await;
    assert!(!world.is_in_force().await);
    world.cluster.leave(&node("n2"), two).await.unwrap();
    // All is as n1 alone would have it; but it may commit nothing in half of it.
    world.cluster.look().await.unwrap();
    assert!(world.is_in_force().await);
    // It goes by that table, and gets the rest back.
    let epoch = world.cluster.tables().borrow().epoch;
    let beat = Beat {
        epoch,
        ..Beat::default()
    };
    assert!(world.cluster.beat(&node("n1"), one, beat));
    world.cluster.look().await.unwrap();
    assert_eq!(world.cluster.tables().borrow().owned_by(&node("n1")), ALL);
    assert!(world.is_in_force().await);
}

#[tokio::test]
async fn what_was_not_written_comes_to_nothing() {
    let world = world().await;
    let (_, two) = world.in_doubt(Fault::UnknownLost).await;
    world.cluster.leave(&node("n2"), two).await.unwrap();
    world.cluster.look().await.unwrap();
    assert!(world.is_in_force().await);
    assert_eq!(world.cluster.tables().borrow().owned_by(&node("n1")), ALL);
}

#[tokio::test]
async fn an_attempt_that_is_late_finds_the_row_written_again() {
    let world = world().await;
    let later = Duration::from_millis(200);
    let (_, two) = world.in_doubt(Fault::UnknownAppliedLater(later)).await;
    world.cluster.leave(&node("n2"), two).await.unwrap();
    world.cluster.look().await.unwrap();
    tokio::time::sleep(2 * later).await;
    assert!(world.is_in_force().await);
}

#[tokio::test]
async fn who_registers_is_told_the_table_that_may_have_been_written() {
    let world = world().await;
    world.in_doubt(Fault::UnknownApplied).await;
    world.register("n1").await;
    assert!(world.is_in_force().await);
}

#[tokio::test]
async fn nobody_registers_while_the_table_is_not_known() {
    let world = world().await;
    world.in_doubt(Fault::UnknownApplied).await;
    world.store.script([Fault::Unavailable]);
    let refused = world.cluster.look().await;
    assert!(refused.is_err(), "{refused:?}");
    let row = world.cluster.0.changing.lock().now_or_never().unwrap();
    assert_eq!(*row, TableRow::Unknown);
}

#[tokio::test]
async fn a_process_begins_with_the_table_that_was_being_written() {
    let world = world().await;
    let later = Duration::from_millis(200);
    world.in_doubt(Fault::UnknownAppliedLater(later)).await;
    let next = Cluster::open(Namespace::new(world.store.clone()), LEASE);
    let world = World {
        cluster: next.await.unwrap(),
        ..world
    };
    tokio::time::sleep(2 * later).await;
    assert!(world.is_in_force().await);
}
