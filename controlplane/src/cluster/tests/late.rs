//! Changes that arrive after their slot was another worker's: none is made, whatever it is
//! and although its worker has the slot, and the session, by then.

use super::*;
use crate::records::{encode_opened, encode_part, encode_upload};
use messages::Operation as O;
use quickwater_proto::{OpenedUpload, Version};

const ID: UploadId = UploadId(7);

/// A key whose slot went from the first worker to the second and came back.
struct Moved {
    world: World,
    session: u64,
    key: ObjectKey,
    /// The tables by which the first one had it, before and after.
    tables: [u64; 2],
}

fn keys() -> impl Iterator<Item = ObjectKey> {
    (0..).map(|number| ObjectKey::new(&format!("key-{number}")).unwrap())
}

impl World {
    fn table(&self) -> Arc<SlotTable> {
        self.cluster.tables().borrow().clone()
    }

    fn owner(&self, key: &ObjectKey) -> Option<NodeId> {
        self.table().owner(slot_of(self.bucket, key)).cloned()
    }

    /// Takes note of a worker that goes by the table in force, and has nothing.
    async fn goes_by(&self, name: &str, session: u64) {
        let beat = Beat {
            epoch: self.table().epoch,
            ..Beat::default()
        };
        assert!(self.cluster.beat(&node(name), session, beat));
        self.cluster.look().await.unwrap();
    }

    async fn moved(self) -> Moved {
        let session = self.register("n1").await;
        let before = self.table().epoch;
        let other = self.register("n2").await;
        let key = keys().find(|key| self.owner(key).is_none()).unwrap();
        self.goes_by("n1", session).await;
        assert_eq!(self.owner(&key), Some(node("n2")));
        self.cluster.leave(&node("n2"), other).await.unwrap();
        self.cluster.look().await.unwrap();
        assert_eq!(self.owner(&key), Some(node("n1")));
        let tables = [before, self.table().epoch];
        Moved {
            world: self,
            session,
            key,
            tables,
        }
    }
}

impl Moved {
    fn object(&self) -> ObjectRecord {
        ObjectRecord {
            size: 3,
            persist: PersistState::NotPersisted,
            ..record("current")
        }
    }

    fn upload(&self) -> UploadRecord {
        UploadRecord {
            id: ID,
            key: self.key.clone(),
            initiated_ms: 5,
            headers: Default::default(),
            tags: Vec::new(),
            checksum: None,
            ufs_upload: UploadRecord::HELD_BACK.into(),
        }
    }

    fn part(&self) -> PartRecord {
        PartRecord {
            number: 1,
            size: 3,
            etag: ETag::new("0cc175b9c0f1b6a831c399e269772661"),
            modified_ms: 9,
            checksums: Vec::new(),
            blob: BlobId(11),
            held: true,
        }
    }

    fn opened(&self) -> OpenedUpload {
        OpenedUpload {
            id: UploadId(9),
            key: self.key.clone(),
            version: None,
            ufs_upload: None,
            begun_ms: 1,
            asked_ms: 1,
            asked: 1,
        }
    }

    /// Every change of a key that a worker can ask for.
    fn changes(&self, version: Version) -> Vec<messages::Call> {
        let (bucket, names) = (self.world.bucket, &self.world.namespace);
        let about = |operation| wire::about(operation, bucket, &self.key);
        let object = |record: &ObjectRecord| Some(wire::object_to_wire(record).unwrap());
        let late = self.object();
        let entry = names.journal_entry(bucket, &self.key, &late, 1).unwrap();
        let operation = crate::records::decode_journal_entry(&entry)
            .unwrap()
            .operation;
        let begun = UploadRecord {
            id: UploadId(8),
            ..self.upload()
        };
        let upload = encode_upload(&self.upload()).unwrap();
        let part = PartRecord {
            blob: BlobId(12),
            ..self.part()
        };
        let whole = ObjectRecord {
            extents: vec![Extent {
                blob: BlobId(11),
                size: 3,
            }],
            parts: vec![self.part()],
            ..late.clone()
        };
        let of = PartOf {
            upload: ID,
            number: 1,
        };
        let held = messages::Call {
            blob: wire::number_to_wire(11),
            ..about(O::SetHolders)
        };
        let mut changes = vec![
            messages::Call {
                object: object(&record("late")),
                ..about(O::CommitObject)
            },
            messages::Call {
                row: entry.to_vec(),
                once: wire::number_to_wire(operation),
                ..about(O::CommitEntry)
            },
            about(O::RemoveObject),
            about(O::RemoveObjectPending),
            messages::Call {
                version: wire::number_to_wire(version.0),
                ufs: Some(messages::UfsIdentity::default()),
                ..about(O::EndPending)
            },
            messages::Call {
                version: wire::number_to_wire(version.0),
                flag: true,
                ..about(O::SetHolders)
            },
            wire::about_part(held, Some(of)),
            messages::Call {
                time_ms: Some(5),
                ..about(O::NoteRequest)
            },
            messages::Call {
                row: encode_opened(&self.opened()).unwrap(),
                ..about(O::NoteOpened)
            },
            messages::Call {
                upload: wire::number_to_wire(9),
                ..about(O::ForgetOpened)
            },
            messages::Call {
                row: encode_upload(&begun).unwrap(),
                ..about(O::CreateUpload)
            },
            messages::Call {
                row: upload.clone(),
                part: encode_part(&part).unwrap(),
                ..about(O::PutPart)
            },
            messages::Call {
                row: upload.clone(),
                opened: wire::number_to_wire(9),
                ..about(O::HandOver)
            },
            messages::Call {
                row: upload,
                object: object(&whole),
                ..about(O::CompleteUpload)
            },
            messages::Call {
                upload: wire::number_to_wire(ID.0),
                ..about(O::AbortUpload)
            },
        ];
        for call in &mut changes {
            if call.once.is_empty() {
                call.once = wire::number_to_wire(wire::random_id().unwrap());
            }
            call.began_ms = SystemClock.wall_ms();
            call.condition = Some(wire::condition_to_wire(&PutCondition::None));
        }
        changes
    }

    /// Puts there what every one of these changes would change.
    async fn fill(&self) -> Version {
        let (names, bucket) = (&self.world.namespace, self.world.bucket);
        let (put, none) = (self.object(), PutCondition::None);
        let committed = names.commit_object(bucket, &self.key, &put, &none);
        let version = committed.await.unwrap().version;
        let (upload, part) = (self.upload(), self.part());
        names.create_upload(bucket, &upload).await.unwrap();
        names.put_part(bucket, &upload, &part).await.unwrap();
        names.note_opened(bucket, &self.opened()).await.unwrap();
        version
    }

    async fn send(&self, call: messages::Call) -> Result<messages::Answer, MetadataError> {
        self.world.send("n1", self.session, call).await
    }

    /// Everything that is stored of the key.
    async fn rows(&self) -> String {
        let (names, bucket, key) = (&self.world.namespace, self.world.bucket, &self.key);
        let object = names.object(bucket, key).await.unwrap();
        let pending = names.pending_held(bucket, key).await.unwrap();
        let uploads = names.uploads(bucket, key.as_str(), None, 9).await.unwrap();
        let parts = names.parts_held(bucket, key, ID, 0, 9).await.unwrap();
        let opened = names.opened(None, 9).await.unwrap();
        format!("{object:?} {pending:?} {uploads:?} {parts:?} {opened:?}")
    }
}

#[tokio::test]
async fn no_change_that_was_begun_before_others_had_the_slot_is_made() {
    let moved = world().await.moved().await;
    let [before, now] = moved.tables;
    let version = moved.fill().await;
    let rows = moved.rows().await;
    let changes = moved.changes(version);
    let asked: std::collections::BTreeSet<i32> = changes.iter().map(|c| c.operation).collect();
    for operation in (0..64).filter_map(|number| O::try_from(number).ok()) {
        let of_bucket = matches!(
            operation,
            O::CreateBucket | O::DeleteBucket | O::SetBucketTags | O::SetDirectory
        );
        let is_asked = asked.contains(&operation.into());
        assert_eq!(
            is_asked,
            wire::changes(operation) && !of_bucket,
            "{operation:?}"
        );
    }
    for call in &changes {
        let late = |again| messages::Call {
            epoch: before,
            again,
            ..call.clone()
        };
        let refused = moved.send(late(false)).await;
        assert!(
            matches!(refused, Err(MetadataError::Unavailable(_))),
            "{call:?}: {refused:?}"
        );
        // Sent before, it may have been made when the slot was its worker's.
        let refused = moved.send(late(true)).await;
        assert!(
            matches!(refused, Err(MetadataError::Unknown(_))),
            "{call:?}: {refused:?}"
        );
        assert_eq!(moved.rows().await, rows, "{call:?}");
    }
    // What is begun from now on is made, and what ends the upload comes last.
    for call in moved.changes(version) {
        let fresh = messages::Call { epoch: now, ..call };
        if let Err(error) = moved.send(fresh).await {
            let refused = matches!(error, MetadataError::Unavailable(_));
            assert!(!refused, "{error:?}");
        }
    }
    let object = moved.world.namespace.object(moved.world.bucket, &moved.key);
    assert!(
        object
            .await
            .unwrap()
            .is_none_or(|object| object.version > version)
    );
}

#[tokio::test]
async fn a_worker_that_does_not_say_by_which_table_is_fenced_by_its_session() {
    let moved = world().await.moved().await;
    let put = || moved.changes(Default::default()).swap_remove(0);
    moved.send(put()).await.unwrap();
    let again = moved.world.register("n1").await;
    let late = messages::Call {
        once: wire::number_to_wire(1),
        ..put()
    };
    let refused = moved.send(late.clone()).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable(_))));
    moved.world.send("n1", again, late).await.unwrap();
}

#[tokio::test]
async fn after_a_restart_of_control_only_what_was_begun_by_its_table_is_made() {
    let moved = world().await.moved().await;
    let [before, now] = moved.tables;
    let cluster = Cluster::open(moved.world.namespace.clone(), LEASE).await;
    let world = World {
        cluster: cluster.unwrap(),
        ..moved.world
    };
    let session = world.register("n1").await;
    let moved = Moved {
        world,
        session,
        ..moved
    };
    let put = |epoch| messages::Call {
        epoch,
        ..moved.changes(Default::default()).swap_remove(0)
    };
    let refused = moved.send(put(before)).await;
    assert!(matches!(refused, Err(MetadataError::Unavailable(_))));
    moved.send(put(now)).await.unwrap();
}

#[tokio::test]
async fn a_removed_worker_that_wakes_up_changes_nothing() {
    let world = world().await;
    let session = world.register("n1").await;
    let key = keys().next().unwrap();
    let table = world.table().epoch;
    let moved = Moved {
        key,
        session,
        tables: [table, table],
        world,
    };
    let version = moved.fill().await;
    let rows = moved.rows().await;
    moved.world.cluster.remove(&node("n1")).await.unwrap();
    for call in calls_of(&moved, version, table) {
        let refused = moved.send(call.clone()).await;
        assert!(
            matches!(refused, Err(MetadataError::Unavailable(_))),
            "{call:?}: {refused:?}"
        );
    }
    // Nor after it has come back to slots that another had.
    let other = moved.world.register("n2").await;
    moved.world.cluster.look().await.unwrap();
    assert_eq!(moved.world.owner(&moved.key), Some(node("n2")));
    let session = moved.world.register("n1").await;
    moved.world.cluster.leave(&node("n2"), other).await.unwrap();
    moved.world.cluster.look().await.unwrap();
    assert_eq!(moved.world.owner(&moved.key), Some(node("n1")));
    let moved = Moved { session, ..moved };
    for call in calls_of(&moved, version, table) {
        let refused = moved.send(call.clone()).await;
        assert!(
            matches!(refused, Err(MetadataError::Unavailable(_))),
            "{call:?}: {refused:?}"
        );
    }
    assert_eq!(moved.rows().await, rows);
}

fn calls_of(moved: &Moved, version: Version, epoch: u64) -> Vec<messages::Call> {
    let changes = moved.changes(version).into_iter();
    let by = changes.map(|call| messages::Call { epoch, ..call });
    by.collect()
}
