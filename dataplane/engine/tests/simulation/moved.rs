//! Slots that move while parts of an upload are on the worker that took them only: two
//! workers with a store each, one metadata.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::io::Alone;
use quickwater_engine::{CompletedUpload, Engine, FlowError, NewUpload, PutError, Shared};
use quickwater_proto::*;

use crate::bypass::set;
use crate::scenarios::*;
use crate::world::*;

/// A worker of the setup's cluster with a store of its own. It owns nothing yet.
fn worker(setup: &Setup, mode: PolicyMode) -> SimEngine {
    let shared = Shared::leased(config());
    shared.rights.grant(Duration::from_secs(1_000_000));
    set(&shared, mode);
    let disk = SimDisk {
        chunks: Rc::default(),
        ..setup.disk.clone()
    };
    let environment = SimEnvironment(setup.sim.clone());
    let (ufs, metadata) = (setup.ufs.clone(), setup.metadata.clone());
    Engine::new(shared, disk, ufs, metadata, environment, Alone)
}

fn own_all(engine: &SimEngine, owned: bool) {
    (0..SLOTS).for_each(|slot| engine.shared().rights.set(slot, owned));
}

async fn part(engine: &SimEngine, of: (&Arc<Bucket>, &UploadRecord), number: u16) -> PartRecord {
    let (bucket, upload) = of;
    // Number 2 is of several chunks.
    let mut body = body_of(engine, number.into());
    match engine.put_part(bucket, upload, number, &mut body).await {
        Ok(part) => part,
        Err(PutError::Flow(error)) => panic!("{error}"),
        Err(PutError::Body(error)) => panic!("{error}"),
    }
}

fn of_parts(parts: &[PartRecord]) -> CompletedUpload {
    CompletedUpload {
        parts: parts.to_vec(),
        etag: ETag::from_md5(&[7; 16]),
        checksums: Vec::new(),
        condition: PutCondition::None,
    }
}

async fn read(engine: &SimEngine, bucket: &Arc<Bucket>) -> Vec<u8> {
    let record = engine.resolve(bucket, &key("k"), false).await.unwrap();
    let mut reader = engine.read(bucket, &key("k"), &record, 0..record.size);
    let mut bytes = Vec::new();
    while let Some(buffer) = reader.next().await.unwrap() {
        bytes.extend_from_slice(&buffer.0);
    }
    bytes
}

fn in_a_cluster<F: Future<Output = ()> + 'static>(
    mode: PolicyMode,
    story: impl FnOnce([SimEngine; 2], Arc<Bucket>) -> F,
) {
    let setup = setup(1, Faults::default(), 10_000);
    let workers = [worker(&setup, mode), worker(&setup, mode)];
    let story = story(workers, Arc::clone(&setup.bucket));
    let told = Rc::new(Cell::new(false));
    let end = Rc::clone(&told);
    setup.sim.spawn(async move {
        story.await;
        end.set(true);
    });
    setup.sim.run();
    assert!(told.get(), "to its end");
}

#[test]
fn only_a_worker_that_has_all_parts_completes_an_upload() {
    for mode in [PolicyMode::WriteBack, PolicyMode::Transient] {
        in_a_cluster(mode, |[first, second], bucket| async move {
            own_all(&first, true);
            let new = NewUpload::default();
            let upload = first.create_upload(&bucket, &key("k"), new).await.unwrap();
            let mut parts = Vec::new();
            for number in 1..=3 {
                parts.push(part(&first, (&bucket, &upload), number).await);
            }
            // It dies; the slot moves.
            own_all(&first, false);
            own_all(&second, true);
            let done = || second.complete_upload(&bucket, &upload, of_parts(&parts));
            for _ in 0..2 {
                let refused = done().await.unwrap_err();
                let FlowError::NotHere(why) = refused else {
                    panic!("{refused}");
                };
                assert!(why.contains("another worker"), "{why}");
                let none = second.resolve(&bucket, &key("k"), true).await;
                assert_eq!(none.unwrap_err(), FlowError::NoSuchKey);
            }
            // Some of them uploaded again are not enough.
            let again = part(&second, (&bucket, &upload), 2).await;
            let mixed = [parts[0].clone(), again, parts[2].clone()];
            let refused = second.complete_upload(&bucket, &upload, of_parts(&mixed));
            assert!(matches!(refused.await, Err(FlowError::NotHere(_))));
            // What is named is what counts.
            let named = second.complete_upload(&bucket, &upload, of_parts(&mixed[1..2]));
            assert_eq!(named.await.unwrap().size, mixed[1].size);
            assert!(read(&second, &bucket).await == content_of(2));
        });
    }
}

#[test]
fn the_worker_that_took_the_parts_completes_when_it_is_back() {
    in_a_cluster(
        PolicyMode::WriteBack,
        |[first, second], bucket| async move {
            own_all(&first, true);
            let new = NewUpload::default();
            let upload = first.create_upload(&bucket, &key("k"), new).await.unwrap();
            let parts = [
                part(&first, (&bucket, &upload), 1).await,
                part(&first, (&bucket, &upload), 2).await,
            ];
            own_all(&first, false);
            own_all(&second, true);
            let refused = second.complete_upload(&bucket, &upload, of_parts(&parts));
            assert!(matches!(refused.await, Err(FlowError::NotHere(_))));
            own_all(&second, false);
            own_all(&first, true);
            let done = first.complete_upload(&bucket, &upload, of_parts(&parts));
            assert_eq!(done.await.unwrap().persist, PersistState::NotPersisted);
            let whole = [content_of(1), content_of(2)].concat();
            assert!(read(&first, &bucket).await == whole);
        },
    );
}

/// The slots of a worker are lost while it sends what is pending there, and may come back.
fn lost_while_sending(comes_back: bool) {
    let setup = setup(1, Faults::default(), 10_000);
    let engine = worker(&setup, PolicyMode::WriteBack);
    let shared = Arc::clone(engine.shared());
    shared.rights.started();
    own_all(&engine, true);
    let (sim, bucket) = (setup.sim.clone(), Arc::clone(&setup.bucket));
    let buckets = &setup.metadata.buckets;
    buckets
        .borrow_mut()
        .insert(bucket.name.clone(), (*bucket).clone());
    let ended = Rc::new(Cell::new(false));
    let (end, stop) = (Rc::clone(&ended), Rc::clone(&ended));
    let persister = engine.clone();
    let pending = Rc::clone(&setup.metadata.pending);
    let totals = move || shared.persist.totals();
    let shared = Arc::clone(engine.shared());
    setup.sim.spawn(async move {
        for number in 0..20 {
            let name = format!("k{number}");
            put(&engine, &bucket, &name, 2).await.unwrap();
        }
        sim.spawn(async move { persister.run_persister(|| stop.get()).await });
        while totals().running < 2 {
            sim.sleep(Duration::from_micros(1)).await;
            assert!(totals().puts > 0, "none was seen being sent");
        }
        own_all(&engine, false);
        shared.persist.forget(|_, _| true);
        assert_eq!(totals().puts, totals().running);
        let rows = pending.borrow().clone();
        if comes_back {
            own_all(&engine, true);
            for (key, row) in rows.clone() {
                let now = (sim.now(), 0);
                shared.persist.load(bucket.id, key, row, now, None);
            }
        }
        let patience = sim.now() + Duration::from_secs(100);
        while totals().puts > 0 {
            sim.sleep(Duration::from_millis(10)).await;
            assert!(sim.now() < patience, "{:?} is still to be sent", totals());
        }
        // Nobody else is here to send it.
        assert_eq!(pending.borrow().is_empty(), comes_back, "of {rows:?}");
        end.set(true);
    });
    setup.sim.run_while(|| !ended.get());
    assert!(ended.get(), "to its end");
}

#[test]
fn what_was_being_sent_when_its_slot_was_lost_is_left_to_who_has_the_slot() {
    lost_while_sending(false);
    lost_while_sending(true);
}

#[test]
fn an_upload_that_was_handed_over_is_left_to_who_has_its_slot() {
    let setup = setup(1, Faults::default(), 10_000);
    let engine = worker(&setup, PolicyMode::WriteBack);
    let shared = Arc::clone(engine.shared());
    shared.rights.started();
    let upload = UploadRecord {
        id: UploadId(1),
        key: key("k"),
        initiated_ms: 0,
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        checksum: None,
        ufs_upload: "theirs".into(),
    };
    setup.metadata.uploads.create(&upload);
    let bucket = (*setup.bucket).clone();
    let id = bucket.id;
    let buckets = &setup.metadata.buckets;
    buckets.borrow_mut().insert(bucket.name.clone(), bucket);
    let (sim, ended) = (setup.sim.clone(), Rc::new(Cell::new(false)));
    let (end, stop) = (Rc::clone(&ended), Rc::clone(&ended));
    setup.sim.spawn(async move {
        let persister = engine.clone();
        sim.spawn(async move { persister.run_persister(|| stop.get()).await });
        let left = async || {
            shared.load_handed_over(id, &upload);
            let patience = sim.now() + Duration::from_secs(100);
            while shared.handed_over() > 0 {
                sim.sleep(Duration::from_millis(10)).await;
                assert!(sim.now() < patience, "it is tried for ever");
            }
        };
        left().await;
        // The next owner sees to it: there is nothing to send.
        own_all(&engine, true);
        left().await;
        end.set(true);
    });
    setup.sim.run_while(|| !ended.get());
    assert!(ended.get(), "to its end");
}
