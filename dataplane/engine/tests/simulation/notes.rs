//! Notes beside the store that find no room, or whose key becomes another worker's.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_engine::io::{Alone, ChunkId, NOTE_CHUNK};
use quickwater_engine::{Engine, Shared, note_blob};
use quickwater_proto::*;

use crate::bypass::set;
use crate::scenarios::*;
use crate::world::*;

/// A worker among others that has all slots, whose disk has no room for dirty data.
fn full(setup: &Setup) -> SimEngine {
    let shared = Shared::leased(config());
    shared.rights.grant(Duration::from_secs(1_000_000));
    (0..SLOTS).for_each(|slot| shared.rights.set(slot, true));
    shared.rights.started();
    shared.notes.follow();
    set(&shared, PolicyMode::WriteBack);
    setup.metadata.noted.set(true);
    setup.disk.dirty_full.set(true);
    let row = (setup.bucket.name.clone(), (*setup.bucket).clone());
    setup.metadata.buckets.borrow_mut().extend([row]);
    let environment = SimEnvironment(setup.sim.clone());
    let (ufs, metadata) = (setup.ufs.clone(), setup.metadata.clone());
    Engine::new(
        shared,
        setup.disk.clone(),
        ufs,
        metadata,
        environment,
        Alone,
    )
}

/// With the keeper of the notes, until the story ends.
fn play<F: Future<Output = ()> + 'static>(story: impl FnOnce(Rc<Setup>, SimEngine) -> F) {
    let setup = Rc::new(setup(1, Faults::default(), 10_000));
    let engine = full(&setup);
    let ended = Rc::new(Cell::new(false));
    let (stop, end) = (Rc::clone(&ended), Rc::clone(&ended));
    let story = story(Rc::clone(&setup), engine.clone());
    setup
        .sim
        .spawn(async move { engine.run_note_keeper(|| stop.get()).await });
    setup.sim.spawn(async move {
        story.await;
        end.set(true);
    });
    setup.sim.run_while(|| !ended.get());
    assert!(ended.get(), "to its end");
}

fn has_note(setup: &Setup, name: &str) -> bool {
    let blob = note_blob(setup.bucket.id, &key(name));
    let index = NOTE_CHUNK;
    setup
        .disk
        .chunks
        .borrow()
        .contains_key(&ChunkId { blob, index })
}

async fn delete(setup: &Setup, engine: &SimEngine, name: &str) {
    let key = key(name);
    let deleted = engine.delete(&setup.bucket, &key, &PutCondition::None);
    deleted.await.unwrap();
}

#[test]
fn a_note_without_room_is_written_when_there_is_some() {
    play(|setup, engine| async move {
        let shared: &Arc<Shared> = engine.shared();
        let failed = || shared.stats.notes_failed.load(Ordering::Relaxed);
        delete(&setup, &engine, "a").await;
        // Of a slot that was taken.
        setup.metadata.pending.borrow_mut().insert(
            key("b"),
            PendingRecord {
                version: Version(1_000),
                change: PendingChange::Delete,
                since_ms: 0,
                superseded: false,
            },
        );
        shared.notes.look_at(setup.bucket.id, &key("b"));
        setup.sim.sleep(Duration::from_secs(60)).await;
        assert_eq!(failed(), 2, "each was told once");
        assert_eq!(shared.notes.waiting(), 2);
        assert!(!has_note(&setup, "a") && !has_note(&setup, "b"));
        setup.disk.dirty_full.set(false);
        setup.sim.sleep(Duration::from_secs(5)).await;
        assert!(has_note(&setup, "a") && has_note(&setup, "b"));
        assert_eq!((shared.notes.waiting(), failed()), (0, 2));
    });
}

#[test]
fn what_has_ended_waits_for_no_room() {
    play(|setup, engine| async move {
        let notes = &engine.shared().notes;
        delete(&setup, &engine, "a").await;
        setup.metadata.pending.borrow_mut().clear();
        setup.sim.sleep(Duration::from_secs(5)).await;
        assert_eq!(notes.waiting(), 0);
    });
}

#[test]
fn a_key_that_is_anothers_is_not_waited_for() {
    play(|setup, engine| async move {
        let shared = engine.shared();
        delete(&setup, &engine, "a").await;
        // It was being looked at when its slot went.
        let slot = slot_of(setup.bucket.id, &key("a"));
        shared.rights.set(slot, false);
        setup.sim.sleep(Duration::from_secs(5)).await;
        assert_eq!(shared.notes.waiting(), 0);
    });
}
