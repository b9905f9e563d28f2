//! Parts of uploads that several workers have: who their rows name, and what may be made
//! of them.

use super::*;
use messages::Operation as O;

const ID: UploadId = UploadId(7);

fn upload() -> UploadRecord {
    UploadRecord {
        id: ID,
        key: key(),
        initiated_ms: 5,
        headers: Default::default(),
        tags: Vec::new(),
        checksum: None,
        ufs_upload: UploadRecord::HELD_BACK.into(),
    }
}

fn part(number: u16, blob: u128) -> PartRecord {
    PartRecord {
        number,
        size: 3,
        etag: ETag::new("0cc175b9c0f1b6a831c399e269772661"),
        modified_ms: 9,
        checksums: Vec::new(),
        blob: BlobId(blob),
        held: true,
    }
}

fn at(name: &str, session: u64) -> messages::CopyAt {
    messages::CopyAt {
        node: name.into(),
        session,
    }
}

fn of(number: u16) -> PartOf {
    PartOf { upload: ID, number }
}

/// A cluster of three, the first of which owns all keys, and their sessions.
async fn three() -> (World, [u64; 3]) {
    let world = world().await;
    let one = world.register("n1").await;
    let mut sessions = [one, 0, 0];
    for (name, session) in [("n2", 1), ("n3", 2)] {
        // Nobody looks who is to have which slots.
        let past = Past::default();
        let registered = world.cluster.register(member(name), &past);
        sessions[session] = registered.await.unwrap().session;
    }
    let begun = upload();
    let made = world.namespace.create_upload(world.bucket, &begun);
    made.await.unwrap();
    (world, sessions)
}

impl World {
    fn put_part(
        &self,
        once: u128,
        part: &PartRecord,
        copies: &[messages::CopyAt],
    ) -> messages::Call {
        messages::Call {
            row: crate::records::encode_upload(&upload()).unwrap(),
            part: crate::records::encode_part(part).unwrap(),
            operation: O::PutPart.into(),
            copies: copies.to_vec(),
            ..self.put(once, "")
        }
    }

    fn complete(
        &self,
        once: u128,
        parts: Vec<PartRecord>,
        copies: &[messages::CopyAt],
    ) -> messages::Call {
        let extents = parts.iter().map(|part| Extent {
            blob: part.blob,
            size: part.size,
        });
        let object = ObjectRecord {
            size: 3 * parts.len() as u64,
            persist: PersistState::NotPersisted,
            extents: extents.collect(),
            parts,
            ..record("whole")
        };
        messages::Call {
            row: crate::records::encode_upload(&upload()).unwrap(),
            object: Some(wire::object_to_wire(&object).unwrap()),
            operation: O::CompleteUpload.into(),
            copies: copies.to_vec(),
            wanted: 2,
            ..self.put(once, "")
        }
    }

    fn hold(&self, once: u128, part: &PartRecord, copies: &[messages::CopyAt]) -> messages::Call {
        let call = messages::Call {
            blob: wire::number_to_wire(part.blob.0),
            copies: copies.to_vec(),
            wanted: 2,
            operation: O::SetHolders.into(),
            key: key().as_str().into(),
            ..self.put(once, "")
        };
        wire::about_part(call, Some(of(part.number)))
    }

    /// Whether a copy of a part on `name` is needed.
    async fn needs(&self, at: (&str, u64), part: &PartRecord) -> bool {
        self.copy_state(at, part).await.flag
    }

    async fn copy_state(
        &self,
        (name, session): (&str, u64),
        part: &PartRecord,
    ) -> messages::Answer {
        let call = messages::Call {
            blob: wire::number_to_wire(part.blob.0),
            ..wire::about(O::CopyState, self.bucket, &key())
        };
        let call = wire::about_part(call, Some(of(part.number)));
        self.send(name, session, call).await.unwrap()
    }
}

#[tokio::test]
async fn the_row_of_a_part_names_who_has_it_and_complete_names_them_all() {
    let (world, [one, two, three]) = three().await;
    let (own, b, c) = (("n1", one), ("n2", two), ("n3", three));
    let (first, second) = (part(1, 11), part(2, 12));
    // A session that does not count names nobody.
    let stale = world.put_part(1, &first, &[at(b.0, b.1 + 100)]);
    world.send(own.0, own.1, stale).await.unwrap_err();
    assert!(!world.needs(b, &first).await);
    for (once, part, holder) in [(2, &first, b), (3, &second, c)] {
        let call = world.put_part(once, part, &[at(holder.0, holder.1), at(own.0, own.1)]);
        world.send(own.0, own.1, call).await.unwrap();
    }
    assert!(world.needs(b, &first).await && !world.needs(b, &second).await);
    assert!(world.needs(c, &second).await && !world.needs(c, &first).await);
    // Named by the commit, but not by the row of the part: it may have let go of it.
    let parts = vec![first.clone(), second.clone()];
    let call = world.complete(4, parts.clone(), &[at(b.0, b.1)]);
    let few = world.send(own.0, own.1, call).await.unwrap_err();
    assert!(matches!(few, MetadataError::Unavailable(_)), "{few}");
    // It moves to another worker; bytes that are no more are not named.
    let moved = world.hold(5, &second, &[at(b.0, b.1)]);
    assert!(world.send(own.0, own.1, moved).await.unwrap().flag);
    let gone = world.hold(6, &part(2, 99), &[at(c.0, c.1)]);
    assert!(!world.send(own.0, own.1, gone).await.unwrap().flag);
    assert!(world.needs(b, &second).await && !world.needs(c, &second).await);
    // A worker of before parts had copies does not know of them.
    let unaware = messages::Call {
        wanted: 0,
        ..world.complete(8, parts.clone(), &[])
    };
    let few = world.send(own.0, own.1, unaware).await.unwrap_err();
    assert!(matches!(few, MetadataError::Unavailable(_)), "{few}");
    let call = world.complete(7, parts, &[at(b.0, b.1)]);
    world.send(own.0, own.1, call).await.unwrap();
    let holders = world.namespace.holders(world.bucket, &key()).await.unwrap();
    assert_eq!(holders, [node(own.0), node(b.0)]);
    // The same workers by the row of the key, and nobody else.
    assert!(world.needs(b, &first).await && world.needs(b, &second).await);
    let state = world.copy_state(c, &second).await;
    assert!(!state.flag && state.change() == messages::ChangeOf::Pending);
    // Of another version.
    let state = world.copy_state(b, &part(1, 99)).await;
    assert!(!state.flag && state.change() == messages::ChangeOf::Unspecified);
    let page = world.namespace.pending_changes(None, 9).await.unwrap();
    assert_eq!(page.copies, [2]);
}

/// The owner lost the key while its Complete was on its way, another one had copies made
/// elsewhere, and let it go of its own; then the key came back.
#[tokio::test]
async fn who_completes_counts_only_if_the_part_s_row_names_it() {
    let (world, [one, two, three]) = three().await;
    let (own, b, c) = (("n1", one), ("n2", two), ("n3", three));
    let part = part(1, 11);
    let call = world.put_part(1, &part, &[at(b.0, b.1)]);
    world.send(own.0, own.1, call).await.unwrap();
    let between = Ticket {
        id: 2,
        began_ms: SystemClock.wall_ms(),
        again: false,
        holders: vec![node(c.0), node(b.0)],
        copies: 2,
    };
    let store = world.namespace.store().clone();
    let names = world.namespace.over(store, Some(between));
    let named = names.set_part_holders(world.bucket, of(1), part.blob);
    assert!(named.await.unwrap());
    assert!(!world.needs(own, &part).await, "it lets go of it");
    let late = world.complete(3, vec![part.clone()], &[at(b.0, b.1)]);
    let few = world.send(own.0, own.1, late).await.unwrap_err();
    assert!(matches!(few, MetadataError::Unavailable(_)), "{few}");
    // Once it has the bytes again, its row says so.
    let held = world.hold(4, &part, &[at(b.0, b.1)]);
    assert!(world.send(own.0, own.1, held).await.unwrap().flag);
    let call = world.complete(5, vec![part], &[at(b.0, b.1)]);
    world.send(own.0, own.1, call).await.unwrap();
    let holders = world.namespace.holders(world.bucket, &key()).await.unwrap();
    assert_eq!(holders, [node(own.0), node(b.0)]);
}

#[tokio::test]
async fn a_body_is_lost_with_its_holders_whoever_has_others_of_its_object() {
    let (world, [one, two, three]) = three().await;
    let (own, b, c) = (("n1", one), ("n2", two), ("n3", three));
    let parts = vec![part(1, 11), part(2, 12)];
    for (once, part, holder) in [(1, &parts[0], b), (2, &parts[1], c)] {
        let call = world.put_part(once, part, &[at(holder.0, holder.1)]);
        world.send(own.0, own.1, call).await.unwrap();
    }
    let call = world.complete(3, parts, &[at(b.0, b.1), at(c.0, c.1)]);
    world.send(own.0, own.1, call).await.unwrap();
    let past = Past::default();
    let registered = world.cluster.register(member("n4"), &past);
    let asking = ("n4", registered.await.unwrap().session);
    for name in ["n1", "n2"] {
        assert!(
            !world.lost_without(asking, &[c]).await,
            "{name} may have it"
        );
        world.cluster.remove(&node(name)).await.unwrap();
    }
    assert!(
        !world.lost(asking.0, asking.1).await,
        "it may be the other body"
    );
    assert!(world.lost_without(asking, &[c]).await);
    assert!(!world.lost_without(asking, &[(c.0, c.1 + 1)]).await);
    // It may come back with another disk.
    let again = world.cluster.register(member(c.0), &past);
    let again = (c.0, again.await.unwrap().session);
    assert!(!world.lost_without(asking, &[c]).await);
    assert!(world.lost_without(asking, &[again]).await);
}

#[tokio::test]
async fn a_part_is_lost_once_all_that_its_row_names_are_removed() {
    let (world, [one, two, three]) = three().await;
    let (own, b, asking) = (("n1", one), ("n2", two), ("n3", three));
    let (shared, alone) = (part(1, 11), part(2, 12));
    let call = world.put_part(1, &shared, &[at(b.0, b.1)]);
    world.send(own.0, own.1, call).await.unwrap();
    let call = world.put_part(2, &alone, &[]);
    world.send(own.0, own.1, call).await.unwrap();
    let lost = async |part: &PartRecord, without: &[messages::CopyAt]| {
        let call = messages::Call {
            blob: wire::number_to_wire(part.blob.0),
            copies: without.to_vec(),
            ..wire::about(O::Lost, world.bucket, &key())
        };
        let call = wire::about_part(call, Some(of(part.number)));
        let answer = world.send(asking.0, asking.1, call).await.unwrap();
        assert!(answer.more, "it was asked for a part");
        answer.flag
    };
    assert!(!lost(&shared, &[]).await);
    world.cluster.remove(&node(own.0)).await.unwrap();
    assert!(!lost(&shared, &[]).await, "the other one may have it");
    assert!(lost(&shared, &[at(b.0, b.1)]).await);
    assert!(!lost(&shared, &[at(b.0, b.1 + 1)]).await);
    world.cluster.remove(&node(b.0)).await.unwrap();
    assert!(lost(&shared, &[]).await);
    assert!(!lost(&part(1, 99), &[]).await, "another one was uploaded");
    // Nobody knows who had it.
    assert!(!lost(&alone, &[]).await);
}

#[tokio::test]
async fn what_ends_a_part_ends_its_copies() {
    let (world, [one, two, _]) = three().await;
    let (own, other) = (("n1", one), ("n2", two));
    let copies = [at(other.0, other.1)];
    let (first, again, sent) = (
        part(1, 11),
        part(1, 12),
        PartRecord {
            held: false,
            ..part(2, 13)
        },
    );
    for (once, part) in [(1, &first), (2, &again)] {
        let call = world.put_part(once, part, &copies);
        world.send(own.0, own.1, call).await.unwrap();
    }
    assert!(world.needs(other, &again).await);
    assert!(!world.needs(other, &first).await, "it was sent again");
    // One that its UFS has is kept by nobody.
    let call = world.put_part(3, &sent, &copies);
    world.send(own.0, own.1, call).await.unwrap();
    assert!(!world.needs(other, &sent).await);
    // An upload that is handed over keeps saying who has what it holds.
    let opened = UploadId(8);
    let through = UploadRecord {
        ufs_upload: "theirs".into(),
        ..upload()
    };
    let over = world.namespace.hand_over(world.bucket, &through, opened);
    over.await.unwrap();
    assert!(world.needs(other, &again).await);
    let key = key();
    let aborted = world.namespace.abort_upload(world.bucket, &key, ID);
    assert_eq!(aborted.await.unwrap().len(), 2);
    assert!(!world.needs(other, &again).await);
}
