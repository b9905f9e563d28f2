//! Workers that know more than the metadata, and those that are there twice.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::mpsc;

use super::super::clock::LeaseClock;
use super::*;
use crate::Namespace;
use crate::records::Member;
use crate::store::EmbeddedStore;

const LEASE: Duration = Duration::from_secs(30);

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn member(name: &str) -> Member {
    Member {
        node: node(name),
        advertise: format!("{name}:1"),
        zone: String::new(),
        capacity_bytes: 1 << 30,
        s3_address: format!("{name}:2"),
        store: name.as_bytes().to_vec(),
        shards: 1,
        version: "0".into(),
        gone: false,
        draining: false,
        removed: false,
        lease_ms: 0,
    }
}

async fn open(store: &EmbeddedStore) -> Cluster<EmbeddedStore> {
    let namespace = Namespace::new(store.clone());
    Cluster::open(namespace, LEASE).await.unwrap()
}

/// The metadata of a store as another one: what a copy of its directory is.
async fn copied(store: &EmbeddedStore) -> EmbeddedStore {
    let mut file = Vec::new();
    let namespace = Namespace::new(store.clone());
    namespace.check_format().await.unwrap();
    crate::dump::export(store, &mut file).await.unwrap();
    let version = crate::dump::verify(file.as_slice()).unwrap();
    let engine = crate::store::MemoryEngine::default();
    let copy = EmbeddedStore::new_at_least(engine, version + 1).unwrap();
    crate::dump::import(&copy, file.as_slice()).await.unwrap();
    copy
}

fn seen(position: Position, begins: bool) -> Past {
    Past {
        seen: Some(position),
        begins,
        ..Past::default()
    }
}

/// Metadata, an older copy of them, and how far a worker has seen them.
async fn backup() -> (EmbeddedStore, EmbeddedStore, Position) {
    let store = EmbeddedStore::in_memory().unwrap();
    let cluster = open(&store).await;
    cluster
        .register(member("n1"), &Past::default())
        .await
        .unwrap();
    // A copy that was read in elsewhere has versions of its own: another process goes on.
    let copy = copied(&store).await;
    let cluster = open(&store).await;
    let admitted = cluster.register(member("n1"), &Past::default()).await;
    (store, copy, admitted.unwrap().position)
}

#[tokio::test]
async fn a_worker_is_not_taken_in_by_older_metadata_whatever_they_become() {
    let (store, copy, position) = backup().await;
    let older = open(&copy).await;
    let refused = older.register(member("n1"), &seen(position, true)).await;
    let Err(error @ RegisterError::Older { .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.to_string().contains("accept-older"), "{error}");
    assert_eq!(older.refused_workers()[0].reason, Reason::Older);
    // They go on past it, with others and other processes.
    for _ in 0..20 {
        older
            .register(member("n2"), &Past::default())
            .await
            .unwrap();
    }
    let older = open(&copy).await;
    assert!(older.position().version > position.version);
    let refused = older.register(member("n1"), &seen(position, true)).await;
    assert!(matches!(refused, Err(RegisterError::Older { .. })));
    // The newer ones put back are as good as they were, process after process.
    for _ in 0..2 {
        let newer = open(&store).await;
        let taken = newer.register(member("n1"), &seen(position, false)).await;
        assert!(!taken.unwrap().undone);
        assert!(newer.refused_workers().is_empty());
        // Who was taken in by the older ones meanwhile has seen something else.
        let other = seen(older.position(), true);
        let refused = newer.register(member("n2"), &other).await;
        assert!(matches!(refused, Err(RegisterError::Older { .. })));
    }
}

#[tokio::test]
async fn an_export_that_is_the_newest_is_no_older_one() {
    let store = EmbeddedStore::in_memory().unwrap();
    let cluster = open(&store).await;
    let admitted = cluster.register(member("n1"), &Past::default()).await;
    let position = admitted.unwrap().position;
    let moved = open(&copied(&store).await).await;
    let taken = moved.register(member("n1"), &seen(position, false)).await;
    assert!(!taken.unwrap().undone);
}

#[tokio::test]
async fn what_is_given_up_is_set_aside_by_who_starts_anew() {
    let (_, copy, position) = backup().await;
    let older = open(&copy).await;
    assert!(older.accept_older(false).await.unwrap().is_empty());
    older
        .register(member("n1"), &seen(position, false))
        .await
        .unwrap_err();
    assert_eq!(older.accept_older(true).await.unwrap().len(), 1);
    let refused = older.register(member("n1"), &seen(position, true)).await;
    assert!(matches!(refused, Err(RegisterError::Older { .. })));
    assert_eq!(older.accept_older(false).await.unwrap().len(), 1);
    assert!(older.refused_workers().is_empty());
    // Its process remembers what is no more.
    let refused = older.register(member("n1"), &seen(position, false)).await;
    assert!(matches!(refused, Err(RegisterError::Restart { .. })));
    // Another control process finds it so.
    let older = open(&copy).await;
    let taken = older.register(member("n1"), &seen(position, true)).await;
    let taken = taken.unwrap();
    assert!(taken.undone);
    let past = seen(taken.position, true);
    let again = older.register(member("n1"), &past).await;
    assert!(!again.unwrap().undone);
}

#[tokio::test]
async fn slots_of_a_worker_that_has_seen_more_are_nobody_elses() {
    let seconds = Arc::new(AtomicU64::new(1));
    let clock = {
        let seconds = Arc::clone(&seconds);
        LeaseClock::of(move || Duration::from_secs(seconds.load(Ordering::Relaxed)))
    };
    let (_, copy, position) = backup().await;
    let older = Cluster::open_by(Namespace::new(copy), LEASE, clock)
        .await
        .unwrap();
    let owned = |name: &str| older.tables().borrow().owned_by(&node(name));
    older
        .register(member("n1"), &Past::default())
        .await
        .unwrap();
    older.look().await.unwrap();
    assert!(owned("n1") > 0);
    older
        .register(member("n1"), &seen(position, true))
        .await
        .unwrap_err();
    seconds.store(1 + 3 * LEASE.as_secs(), Ordering::Relaxed);
    older
        .register(member("n2"), &Past::default())
        .await
        .unwrap();
    older.look().await.unwrap();
    older.look().await.unwrap();
    assert_eq!(owned("n2"), 0);
    older.accept_older(false).await.unwrap();
    older.look().await.unwrap();
    older.look().await.unwrap();
    assert_eq!(owned("n1"), 0);
    assert!(owned("n2") > 0);
}

fn process(name: &str) -> Past {
    Past {
        process: name.as_bytes().to_vec(),
        ..Past::default()
    }
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_one_answers() {
    let cluster = open(&EmbeddedStore::in_memory().unwrap()).await;
    cluster
        .register(member("n1"), &process("one"))
        .await
        .unwrap();
    let (outbox, mut orders) = mpsc::channel(4);
    let stream = cluster.orders().attend(&node("n1"), outbox);
    let answering = {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let order = orders.recv().await.unwrap().unwrap().order.unwrap();
            let answer = quickwater_rpc::cluster::OrderAnswer {
                id: order.id,
                ..Default::default()
            };
            cluster.orders().answered(&node("n1"), answer);
            orders
        })
    };
    let copy = Member {
        advertise: "copy:1".into(),
        ..member("n1")
    };
    // From here on time is virtual: how long it is waited for an answer is seen exactly.
    tokio::time::pause();
    let refused = cluster.register(copy.clone(), &process("two")).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, RegisterError::Twin { .. }), "{error}");
    assert!(error.to_string().contains("n1:1"), "{error}");
    assert_eq!(cluster.refused_workers()[0].reason, Reason::Name);
    // The same process may always begin anew: it is not asked.
    let _orders = answering.await.unwrap();
    let waited = async |member: &Member, past: &Past| {
        let begun = tokio::time::Instant::now();
        cluster.no_twin(member, past).await.unwrap();
        begun.elapsed()
    };
    assert!(waited(&member("n1"), &process("one")).await.is_zero());
    // The one that is there froze: it does not answer.
    let frozen = waited(&copy, &process("two")).await;
    assert!(
        frozen >= PROOF_WAIT && frozen < 2 * PROOF_WAIT,
        "{frozen:?}"
    );
    // Or it ended: its connection is closed, and nobody is asked.
    cluster.orders().part(&node("n1"), stream);
    assert!(waited(&copy, &process("two")).await.is_zero());
    tokio::time::resume();
    cluster.register(copy, &process("two")).await.unwrap();
    // When it wakes up it is the second one.
    assert_eq!(cluster.processes().get(&node("n1")).unwrap(), b"two");
}
