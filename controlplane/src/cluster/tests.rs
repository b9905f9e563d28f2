//! Calls of workers behind their fences, sent once, twice, and too late.

use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, ETag, Extent, ObjectKey, ObjectRecord, PartOf,
    PartRecord, PersistState, PutCondition, SLOTS, UploadId, UploadRecord, slot_of,
};
use quickwater_rpc::cluster as messages;

use super::answers::holders;
use super::*;
use crate::namespace::{SystemClock, Ticket, WallClock as _};
use crate::records::Member;
use crate::store::EmbeddedStore;

mod late;
mod parts;

const LEASE: Duration = Duration::from_secs(30);

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(super) fn member(name: &str) -> Member {
    Member {
        node: node(name),
        advertise: "127.0.0.1:1".into(),
        zone: "a".into(),
        capacity_bytes: 1 << 30,
        s3_address: "127.0.0.1:2".into(),
        store: name.as_bytes().to_vec(),
        shards: 2,
        version: "0".into(),
        gone: false,
        draining: false,
        removed: false,
        lease_ms: 0,
    }
}

struct World {
    namespace: Namespace<EmbeddedStore>,
    cluster: Cluster<EmbeddedStore>,
    bucket: BucketId,
}

async fn world() -> World {
    let namespace = Namespace::new(EmbeddedStore::in_memory().unwrap());
    let bucket = Bucket {
        id: BucketId(0),
        name: BucketName::new("abc").unwrap(),
        ufs: "file:///nowhere".into(),
        created_ms: 0,
        metadata_ttl_ms: 0,
        options: Vec::new(),
        tags: Vec::new(),
        owned: false,
    };
    let bucket = namespace.create_bucket(&bucket).await.unwrap().id;
    let cluster = Cluster::open(namespace.clone(), LEASE).await.unwrap();
    World {
        namespace,
        cluster,
        bucket,
    }
}

fn record(text: &str) -> ObjectRecord {
    ObjectRecord {
        version: Default::default(),
        size: 0,
        etag: ETag::new(text),
        modified_ms: 0,
        headers: Default::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    }
}

fn key() -> ObjectKey {
    ObjectKey::new("key").unwrap()
}

impl World {
    async fn register(&self, name: &str) -> u64 {
        let session = self
            .cluster
            .register(member(name), &Past::default())
            .await
            .unwrap();
        self.cluster.look().await.unwrap();
        // It has nothing.
        let taken = self
            .cluster
            .beat(&node(name), session.session, Beat::default());
        assert!(taken);
        session.session
    }

    fn put(&self, once: u128, text: &str) -> messages::Call {
        messages::Call {
            once: wire::number_to_wire(once),
            began_ms: SystemClock.wall_ms(),
            object: Some(wire::object_to_wire(&record(text)).unwrap()),
            condition: Some(wire::condition_to_wire(&PutCondition::None)),
            ..wire::about(messages::Operation::CommitObject, self.bucket, &key())
        }
    }

    async fn send(
        &self,
        name: &str,
        session: u64,
        call: messages::Call,
    ) -> Result<messages::Answer, MetadataError> {
        let answer = self.cluster.call(&node(name), session, call).await;
        wire::error(&answer).map_or(Ok(answer), Err)
    }

    async fn etag(&self) -> String {
        let record = self.namespace.object(self.bucket, &key()).await.unwrap();
        record.unwrap().etag.as_str().to_owned()
    }
}

#[tokio::test]
async fn a_call_sent_twice_is_made_once_and_answered_the_same() {
    let world = world().await;
    let session = world.register("n1").await;
    let first = world
        .send("n1", session, world.put(1, "one"))
        .await
        .unwrap();
    world
        .send("n1", session, world.put(2, "two"))
        .await
        .unwrap();
    let again = messages::Call {
        again: true,
        ..world.put(1, "one")
    };
    let repeated = world.send("n1", session, again).await.unwrap();
    assert!(repeated.known > first.known, "what was committed since");
    let repeated = messages::Answer {
        known: first.known,
        ..repeated
    };
    assert_eq!(repeated, first);
    assert_eq!(world.etag().await, "two");
}

#[tokio::test]
async fn what_another_process_answered_is_not_done_again() {
    let world = world().await;
    let session = world.register("n1").await;
    world
        .send("n1", session, world.put(1, "one"))
        .await
        .unwrap();
    world
        .send("n1", session, world.put(2, "two"))
        .await
        .unwrap();
    // The control plane starts anew and remembers nothing.
    let cluster = Cluster::open(world.namespace.clone(), LEASE).await.unwrap();
    let world = World { cluster, ..world };
    let again = |once, text| messages::Call {
        again: true,
        ..world.put(once, text)
    };
    let known = world.send("n1", session, again(1, "one")).await;
    assert!(matches!(known, Err(MetadataError::Unknown(_))), "{known:?}");
    assert_eq!(world.etag().await, "two");
    // What was never committed is made now.
    world.send("n1", session, again(3, "three")).await.unwrap();
    assert_eq!(world.etag().await, "three");
}

#[tokio::test]
async fn an_older_session_commits_nothing() {
    let world = world().await;
    let old = world.register("n1").await;
    let new = world.register("n1").await;
    assert!(new > old && !world.cluster.attends(&node("n1"), old));
    let late = world.send("n1", old, world.put(1, "late")).await;
    assert!(
        matches!(late, Err(MetadataError::Unavailable(_))),
        "{late:?}"
    );
    // It changed nothing, so the new session may make the very same call.
    world.send("n1", new, world.put(1, "late")).await.unwrap();
    assert_eq!(world.etag().await, "late");
}

#[tokio::test]
async fn only_the_owner_of_a_key_changes_it() {
    let world = world().await;
    let one = world.register("n1").await;
    let two = world.register("n2").await;
    let table = world.cluster.tables().borrow().clone();
    assert!(table.owned_by(&node("n1")) < SLOTS);
    let holder = |table: &SlotTable| table.owner(slot_of(world.bucket, &key())).cloned();
    let before = holder(&table);
    let (owner, session, other, others) = match &before {
        Some(owner) if *owner == node("n1") => ("n1", one, "n2", two),
        // It is on its way: nobody may.
        _ => ("n2", two, "n1", one),
    };
    let refused = world.send(other, others, world.put(1, "other")).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable(_))));
    // Sent before, it may have been made while the key was its own.
    let again = messages::Call {
        again: true,
        ..world.put(1, "other")
    };
    let unknown = world.send(other, others, again).await;
    assert!(
        matches!(unknown, Err(MetadataError::Unknown(_))),
        "{unknown:?}"
    );
    if before.is_none() {
        let beat = Beat {
            epoch: table.epoch,
            ..Beat::default()
        };
        assert!(world.cluster.beat(&node("n1"), one, beat));
        world.cluster.look().await.unwrap();
    }
    world
        .send(owner, session, world.put(2, "owner"))
        .await
        .unwrap();
    assert_eq!(world.etag().await, "owner");
}

#[tokio::test]
async fn a_worker_of_another_cluster_or_with_another_store_is_refused() {
    let world = world().await;
    world.register("n1").await;
    let past = |cluster: &str| Past {
        cluster: cluster.into(),
        ..Past::default()
    };
    let other = world
        .cluster
        .register(member("n1"), &past("elsewhere"))
        .await;
    assert!(matches!(other, Err(RegisterError::OtherCluster { .. })));
    let twin = Member {
        store: b"other".to_vec(),
        ..member("n1")
    };
    let refused = world.cluster.register(twin, &Past::default()).await;
    assert!(matches!(refused, Err(RegisterError::NameTaken { .. })));
    let name = world.cluster.name().to_owned();
    world
        .cluster
        .register(member("n1"), &past(&name))
        .await
        .unwrap();
}

#[tokio::test]
async fn who_left_owns_nothing_and_commits_nothing() {
    let world = world().await;
    let one = world.register("n1").await;
    world.cluster.leave(&node("n1"), one).await.unwrap();
    world.cluster.look().await.unwrap();
    assert_eq!(world.cluster.tables().borrow().owned_by(&node("n1")), 0);
    world
        .send("n1", one, world.put(1, "late"))
        .await
        .unwrap_err();
    // Another control process finds it so.
    let again = Cluster::open(world.namespace.clone(), LEASE).await.unwrap();
    assert_eq!(again.nodes().len(), 1);
    assert!(again.nodes()[0].0.member.gone);
}

/// The bytes of a part may be on the worker only; an object does not say so of its parts.
#[tokio::test]
async fn an_upload_with_held_parts_is_completed_over_the_wire() {
    let world = world().await;
    let session = world.register("n1").await;
    let upload = UploadRecord {
        id: UploadId(7),
        key: key(),
        initiated_ms: 5,
        headers: Default::default(),
        tags: Vec::new(),
        checksum: None,
        ufs_upload: UploadRecord::HELD_BACK.into(),
    };
    let part = PartRecord {
        number: 1,
        size: 3,
        etag: ETag::new("0cc175b9c0f1b6a831c399e269772661"),
        modified_ms: 9,
        checksums: Vec::new(),
        blob: BlobId(11),
        held: true,
    };
    world
        .namespace
        .create_upload(world.bucket, &upload)
        .await
        .unwrap();
    let put = world.namespace.put_part(world.bucket, &upload, &part).await;
    assert_eq!(put.unwrap(), None);
    let object = ObjectRecord {
        size: 3,
        persist: PersistState::NotPersisted,
        extents: vec![Extent {
            blob: part.blob,
            size: 3,
        }],
        parts: vec![part],
        ..record("whole")
    };
    let complete = messages::Call {
        row: crate::records::encode_upload(&upload).unwrap(),
        object: Some(wire::object_to_wire(&object).unwrap()),
        operation: messages::Operation::CompleteUpload.into(),
        ..world.put(1, "whole")
    };
    world.send("n1", session, complete).await.unwrap();
    assert_eq!(world.etag().await, "whole");
}

impl World {
    async fn put_dirty(&self, name: &str, session: u64, persist: PersistState) {
        let object = ObjectRecord {
            persist,
            size: 3,
            ..record("dirty")
        };
        let put = messages::Call {
            object: Some(wire::object_to_wire(&object).unwrap()),
            ..self.put(1, "dirty")
        };
        self.send(name, session, put).await.unwrap();
    }

    /// What becomes of objects if a worker goes.
    async fn fates(&self, name: &str) -> Vec<Fate> {
        let page = self.cluster.goes_with(&node(name), None).await.unwrap();
        assert_eq!(page.next, None);
        page.objects
            .into_iter()
            .map(|leaving| leaving.fate)
            .collect()
    }

    /// A worker is reached; its stream.
    fn attend(&self, name: &str) -> u64 {
        let (outbox, _) = tokio::sync::mpsc::channel(1);
        self.cluster.orders().attend(&node(name), outbox)
    }

    async fn lost(&self, asking: &str, session: u64) -> bool {
        self.lost_without((asking, session), &[]).await
    }

    async fn lost_without(&self, (asking, session): (&str, u64), without: &[(&str, u64)]) -> bool {
        let without = without.iter().map(|(node, session)| messages::CopyAt {
            node: (*node).into(),
            session: *session,
        });
        let call = messages::Call {
            copies: without.collect(),
            ..wire::about(messages::Operation::Lost, self.bucket, &key())
        };
        self.send(asking, session, call).await.unwrap().flag
    }
}

#[tokio::test]
async fn what_only_a_removed_worker_had_is_lost_until_it_is_back() {
    for persist in [PersistState::NotPersisted, PersistState::Transient] {
        let world = world().await;
        let one = world.register("n1").await;
        world.put_dirty("n1", one, persist).await;
        let two = world.register("n2").await;
        assert!(!world.lost("n2", two).await, "it is at the other");
        assert!(world.lost("n1", one).await, "it should have had it");
        assert_eq!(world.fates("n1").await, [Fate::Lost]);
        assert_eq!(world.fates("n2").await, []);
        // A request that is noted takes nothing of it away.
        let key = key();
        let noted = world.namespace.note_request(world.bucket, &key, 5);
        noted.await.unwrap();
        world.cluster.remove(&node("n1")).await.unwrap();
        assert!(world.lost("n2", two).await);
        world
            .send("n1", one, world.put(2, "late"))
            .await
            .unwrap_err();
        // Another control process finds it so.
        let cluster = Cluster::open(world.namespace.clone(), LEASE).await.unwrap();
        let again = World { cluster, ..world };
        assert!(again.lost("n2", two).await);
        again.register("n1").await;
        assert!(!again.lost("n2", two).await);
    }
}

#[tokio::test]
async fn what_is_written_again_is_not_lost() {
    let world = world().await;
    let one = world.register("n1").await;
    world.put_dirty("n1", one, PersistState::Transient).await;
    world.cluster.remove(&node("n1")).await.unwrap();
    let two = world.register("n2").await;
    world.send("n2", two, world.put(3, "new")).await.unwrap();
    assert!(!world.lost("n2", two).await);
    assert_eq!(world.fates("n1").await, []);
}

#[tokio::test]
async fn removal_tells_apart_who_has_it_and_does_not_answer() {
    let world = world().await;
    let one = world.register("n1").await;
    let two = world.register("n2").await;
    let object = ObjectRecord {
        persist: PersistState::NotPersisted,
        size: 3,
        ..record("twice")
    };
    let put = messages::Call {
        object: Some(wire::object_to_wire(&object).unwrap()),
        copies: vec![messages::CopyAt {
            node: "n2".into(),
            session: two,
        }],
        wanted: 2,
        ..world.put(1, "twice")
    };
    world.send("n1", one, put).await.unwrap();
    let other = |name| Fate::Unanswered([node(name)].into());
    // Its lease lasts, but nobody reaches it.
    assert_eq!(world.fates("n1").await, [other("n2")]);
    let stream = world.attend("n2");
    assert_eq!(world.fates("n1").await, []);
    world.cluster.orders().part(&node("n2"), stream);
    world.cluster.remove(&node("n1")).await.unwrap();
    assert_eq!(world.fates("n1").await, [other("n2")]);
    assert_eq!(world.fates("n2").await, [Fate::Lost]);
    world.cluster.remove(&node("n2")).await.unwrap();
    assert_eq!(world.fates("n1").await, [Fate::Lost]);
    assert_eq!(world.fates("n2").await, [Fate::Lost]);
    // Back with its data, it has everything of the other one, too.
    world.register("n1").await;
    world.attend("n1");
    assert_eq!(world.fates("n2").await, []);
}

#[tokio::test]
async fn a_drain_survives_restarts_and_is_ended_by_hand() {
    let world = world().await;
    let absent = world.cluster.drain(&node("n1"), true).await;
    assert!(matches!(absent, Err(ClusterError::NoSuchNode(_))));
    world.register("n1").await;
    assert!(
        world.cluster.drain(&node("n1"), true).await.unwrap(),
        "alone"
    );
    world.register("n1").await;
    let cluster = Cluster::open(world.namespace.clone(), LEASE).await.unwrap();
    let world = World { cluster, ..world };
    assert!(world.cluster.drains(&node("n1")));
    world.cluster.drain(&node("n1"), false).await.unwrap();
    let again = Cluster::open(world.namespace.clone(), LEASE).await.unwrap();
    assert!(!again.drains(&node("n1")));
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_told_so() {
    let world = world().await;
    let session = world.register("n1").await;
    let late = messages::Call {
        began_ms: SystemClock.wall_ms() - 120_000,
        ..world.put(1, "one")
    };
    let told = world.send("n1", session, late).await.unwrap_err();
    assert!(told.to_string().contains("clocks"), "{told}");
    assert!(matches!(told, MetadataError::Unavailable(_)));
    let again = messages::Call {
        began_ms: SystemClock.wall_ms() - 120_000,
        again: true,
        ..world.put(1, "one")
    };
    let told = world.send("n1", session, again).await.unwrap_err();
    assert!(matches!(told, MetadataError::Unknown(_)), "{told}");
}

#[tokio::test]
async fn nobody_registers_between_a_plan_and_its_table() {
    // Dead in the plan, it would be told the table of before, which calls it an owner.
    let world = world().await;
    let registering = world.cluster.0.changing.lock().await;
    assert!(futures_util::FutureExt::now_or_never(world.cluster.look()).is_none());
    drop(registering);
    world.register("n1").await;
    assert_eq!(world.cluster.tables().borrow().owned_by(&node("n1")), SLOTS);
}

#[test]
fn who_commits_names_itself_for_its_session_only() {
    let copies = ["n2", "n1"].map(|name| messages::CopyAt {
        node: name.to_owned(),
        session: 3,
    });
    let call = messages::Call {
        copies: copies.to_vec(),
        ..messages::Call::default()
    };
    assert_eq!(
        holders(&node("n1"), &call).unwrap(),
        [node("n1"), node("n2")]
    );
    assert!(holders(&node("n3"), &call).is_ok());
    let twice = messages::Call {
        copies: vec![copies[0].clone(), copies[0].clone()],
        ..messages::Call::default()
    };
    assert!(holders(&node("n1"), &twice).is_err());
}
