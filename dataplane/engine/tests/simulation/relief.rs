//! A write without room, and many open uploads any of which may make some: how they are
//! looked through. None is handed over in the end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use quickwater_engine::{FlowError, NewUpload};
use quickwater_proto::*;

use crate::bypass::set;
use crate::scenarios::*;
use crate::world::*;

/// Uploads read at a time.
const PAGE: usize = 1_000;

fn name(number: usize) -> String {
    format!("e{number:05}")
}

/// Begins so many uploads, one of which has a part, and lets them be idle; what is written
/// from then on finds no room.
async fn without_room(setup: &Setup, uploads: usize, with_part: usize) -> Vec<UploadId> {
    let (engine, bucket) = (&setup.engines[0], &setup.bucket);
    let row = (bucket.name.clone(), (**bucket).clone());
    setup.metadata.buckets.borrow_mut().extend([row]);
    set(engine.shared(), PolicyMode::WriteBack);
    let mut ids = Vec::new();
    for number in 0..uploads {
        let new = NewUpload::default();
        let begun = engine.create_upload(bucket, &key(&name(number)), new).await;
        let upload = begun.unwrap();
        ids.push(upload.id);
        if number == with_part {
            let mut body = body_of(engine, 1);
            let sent = engine.put_part(bucket, &upload, 1, &mut body).await;
            assert!(sent.is_ok());
        }
    }
    setup.sim.sleep(Duration::from_secs(6)).await;
    set(engine.shared(), PolicyMode::Transient);
    setup.disk.dirty_full.set(true);
    setup.metadata.parts_read.borrow_mut().clear();
    ids
}

/// Writes again and again, in vain, until something holds; how long it took.
async fn write_until(setup: &Setup, holds: impl Fn() -> bool) -> Duration {
    let (engine, sim) = (&setup.engines[0], &setup.sim);
    let began = sim.now();
    while !holds() {
        let written = put(engine, &setup.bucket, "t", 1).await;
        assert!(matches!(written, Err(FlowError::NoRoom(_))));
        sim.sleep(Duration::from_millis(100)).await;
        assert!(sim.now() < began + Duration::from_secs(600), "never");
    }
    sim.now() - began
}

fn play<F: Future<Output = ()> + 'static>(story: impl FnOnce(Rc<Setup>) -> F) {
    let setup = Rc::new(setup(1, Faults::default(), 10_000));
    let persister = setup.engines[0].clone();
    let ended = Rc::new(Cell::new(false));
    let (stop, end) = (Rc::clone(&ended), Rc::clone(&ended));
    let story = story(Rc::clone(&setup));
    setup
        .sim
        .spawn(async move { persister.run_persister(|| stop.get()).await });
    setup.sim.spawn(async move {
        story.await;
        end.set(true);
    });
    setup.sim.run_while(|| !ended.get());
    assert!(ended.get(), "to its end");
}

#[test]
fn a_look_does_not_wait_for_one_upload_after_the_other() {
    const UPLOADS: usize = 640;
    const READ: Duration = Duration::from_millis(50);
    play(|setup| async move {
        without_room(&setup, UPLOADS, UPLOADS - 1).await;
        setup.metadata.parts_wait.set(READ);
        let opening = Rc::clone(&setup.metadata.opening);
        let took = write_until(&setup, || !opening.borrow().is_empty()).await;
        assert_eq!(opening.borrow()[0], key(&name(UPLOADS - 1)));
        let one_by_one = READ * u32::try_from(UPLOADS).unwrap();
        assert!(took < one_by_one / 8, "{took:?} of {one_by_one:?}");
    });
}

#[test]
fn a_look_that_fails_keeps_what_it_found_and_is_gone_on_with() {
    play(|setup| async move {
        let ids = without_room(&setup, PAGE + 500, 7).await;
        let metadata = &setup.metadata;
        metadata.parts_refused.set(Some(ids[PAGE + 200]));
        let opening = Rc::clone(&setup.metadata.opening);
        write_until(&setup, || !opening.borrow().is_empty()).await;
        assert_eq!(opening.borrow()[0], key(&name(7)));
        metadata.parts_refused.set(None);
        metadata.parts_read.borrow_mut().clear();
        let read = Rc::clone(&metadata.parts_read);
        write_until(&setup, || read.borrow().len() >= 500).await;
        assert!(read.borrow()[..500] == ids[PAGE..], "it began anew");
    });
}
