use super::*;

const NOW: Duration = Duration::from_secs(100);

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn at(name: &str, session: u64) -> CopyAt {
    CopyAt {
        node: node(name),
        session,
    }
}

fn copied(others: &[CopyAt]) -> Copied {
    Copied {
        bucket: BucketId(1),
        key: ObjectKey::new("k").unwrap(),
        part: None,
        bytes: 10,
        copies: others.len() + 1,
        others: others.into(),
    }
}

fn member(name: &str, session: u64, live: bool) -> Neighbour {
    Neighbour {
        node: node(name),
        address: String::new(),
        zone: String::new(),
        capacity_bytes: 1,
        session,
        live,
        draining: false,
    }
}

fn meet(holders: &CopyHolders, others: &[Neighbour]) -> bool {
    holders.meet(others, Some(""))
}

/// Slots that never came from others.
fn since(_: &Copied) -> Duration {
    Duration::ZERO
}

fn walk_all(holders: &CopyHolders, hurry: bool) {
    let mut after = None;
    loop {
        after = holders.walk(after, 2, hurry, |_, _| Own::Here);
        if after.is_none() {
            return;
        }
    }
}

#[test]
fn who_has_what_ended_is_told_once() {
    let holders = CopyHolders::default();
    let (b, c) = (at("b", 1), at("c", 1));
    holders.note(BlobId(1), copied(&[b.clone(), c.clone()]));
    holders.note(BlobId(2), copied(std::slice::from_ref(&b)));
    holders.note(BlobId(3), copied(&[]));
    assert_eq!(&*holders.of(BlobId(1)), [b.clone(), c.clone()]);
    assert_eq!(holders.blobs(), 2);
    holders.end(BlobId(1));
    holders.end(BlobId(2));
    assert!(holders.of(BlobId(1)).is_empty());
    let ended = holders.take_ended();
    assert_eq!(ended[&b.node], [BlobId(1), BlobId(2)]);
    assert_eq!(ended[&c.node], [BlobId(1)]);
    assert!(holders.take_ended().is_empty());
    holders.end(BlobId(3));
    assert!(holders.take_ended().is_empty(), "nobody has it");
    holders.tell(BlobId(4), std::slice::from_ref(&c.node));
    assert_eq!(holders.take_ended()[&c.node], [BlobId(4)]);
    assert_eq!(holders.missing(), (0, 0));
}

#[test]
fn what_only_another_worker_has_is_kept_account_of_and_due() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 5, true)]);
    let only_there = Copied {
        copies: 1,
        ..copied(&[at("b", 0)])
    };
    holders.note(BlobId(1), only_there);
    assert_eq!(holders.readers(BlobId(1)), [node("b")]);
    let missing_here = |_: BlobId, _: &Copied| Own::Missing;
    assert!(holders.walk(None, 2, false, missing_here).is_none());
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!(due.ask, [at("b", 5)]);
    holders.asked(BlobId(1), &at("b", 5), true);
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Missing);
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!((due.have, due.ask), (vec![at("b", 5)], vec![]));
    // It was made here.
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing(), (0, 0));
    assert!(holders.take(NOW, None, since, |_| true).is_none());
    holders.end(BlobId(1));
    assert_eq!(holders.take_ended()[&node("b")], [BlobId(1)]);
}

#[test]
fn a_copy_of_an_earlier_session_is_asked_for_whenever_it_is_noted() {
    let holders = CopyHolders::default();
    assert!(meet(
        &holders,
        &[member("b", 5, true), member("c", 1, true)]
    ));
    assert!(!meet(
        &holders,
        &[member("b", 5, true), member("c", 1, true)]
    ));
    holders.note(BlobId(1), copied(&[at("b", 5), at("c", 1)]));
    assert_eq!(holders.missing(), (0, 0));
    // It comes back with an empty disk, and was looked at: nothing of it was noted then.
    assert!(meet(
        &holders,
        &[member("b", 6, true), member("c", 1, true)]
    ));
    walk_all(&holders, true);
    assert_eq!(holders.missing(), (1, 10));
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!((due.have, due.ask), (vec![at("c", 1)], vec![at("b", 6)]));
    holders.asked(BlobId(1), &at("b", 6), true);
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing(), (0, 0));
    // An answer of before comes late.
    holders.note(BlobId(2), copied(&[at("b", 5), at("c", 1)]));
    assert_eq!(holders.missing(), (1, 10));
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!((due.blob, due.ask), (BlobId(2), vec![at("b", 6)]));
    holders.asked(BlobId(2), &at("b", 6), false);
    holders.looked(BlobId(2), Looked::Learnt(NOW), Own::Here);
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!((due.have, due.ask), (vec![at("c", 1)], vec![]));
}

#[test]
fn what_a_row_says_is_asked_for() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 5, true)]);
    holders.note(BlobId(1), copied(&[at("b", 0)]));
    assert_eq!(holders.missing(), (1, 10));
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!(due.ask, [at("b", 5)]);
}

#[test]
fn the_oldest_comes_first_and_what_failed_waits() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 1, true)]);
    for blob in [9, 3, 7, 5] {
        holders.note(BlobId(blob), copied(&[at("b", 1)]));
    }
    meet(&holders, &[member("b", 1, false), member("c", 1, true)]);
    walk_all(&holders, true);
    assert_eq!(holders.missing(), (4, 40));
    let take = || {
        holders
            .take(NOW, None, since, |_| true)
            .map(|due| due.blob.0)
    };
    assert_eq!(take(), Some(9));
    let late = NOW + Duration::from_secs(60);
    holders.looked(BlobId(9), Looked::Failed(late), Own::Here);
    assert_eq!(
        [take(), take(), take(), take()],
        [Some(3), Some(7), Some(5), None]
    );
    assert_eq!(holders.missing(), (4, 40), "looked at is not back");
    holders.looked(BlobId(3), Looked::Stuck(late), Own::Here);
    assert_eq!(take(), None);
    // Others come: nothing waits any longer.
    meet(&holders, &[member("b", 1, false), member("d", 1, true)]);
    walk_all(&holders, true);
    assert_eq!([take(), take(), take()], [Some(9), Some(3), None]);
    assert!(holders.renew(BlobId(9), [at("d", 1)].into(), None));
    holders.looked(BlobId(9), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing(), (3, 30));
    holders.end(BlobId(3));
    assert!(!holders.renew(BlobId(3), [at("d", 1)].into(), None));
    holders.looked(BlobId(3), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing(), (2, 20));
}

#[test]
fn what_does_not_fit_stays_and_a_member_that_comes_back_ends_the_wait() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 1, false)]);
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    assert!(holders.take(NOW, None, since, |_| false).is_none());
    assert_eq!(holders.missing(), (1, 10));
    meet(&holders, &[member("b", 1, true)]);
    walk_all(&holders, false);
    assert_eq!(holders.missing(), (0, 0), "it is there as it was");
    assert!(holders.take(NOW, None, since, |_| true).is_none());
}

#[test]
fn our_own_copy_is_missed_and_foreign_keys_are_forgotten() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 1, true)]);
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    holders.note(BlobId(2), copied(&[at("b", 1)]));
    holders.suspect(BlobId(1));
    holders.suspect(BlobId(7));
    assert_eq!(holders.missing(), (1, 10));
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    holders.looked(due.blob, Looked::Failed(NOW), Own::Missing);
    assert_eq!(holders.missing(), (1, 10));
    let own = |blob, _: &Copied| match blob {
        BlobId(1) => Own::Foreign,
        _ => Own::Missing,
    };
    assert_eq!(holders.walk(None, 9, false, own), None);
    assert_eq!((holders.blobs(), holders.missing()), (1, (1, 10)));
    assert!(holders.take_ended().is_empty(), "its new owner tells");
}

#[test]
fn who_is_there_is_read_first() {
    let holders = CopyHolders::default();
    holders.note(BlobId(1), copied(&[at("b", 1), at("c", 1)]));
    meet(&holders, &[member("b", 1, false), member("c", 1, true)]);
    assert_eq!(holders.readers(BlobId(1)), [node("c"), node("b")]);
    assert!(holders.readers(BlobId(2)).is_empty());
}

#[test]
fn what_is_let_go_is_neither_due_nor_told() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 1, true), member("c", 1, false)]);
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    holders.note(BlobId(2), copied(&[at("c", 1)]));
    holders.note(BlobId(3), copied(&[at("b", 2)]));
    // The second is with a dead worker, the third of a session of which nothing is known.
    let elsewhere = |blob| holders.is_elsewhere(BlobId(blob));
    assert_eq!([1, 2, 3, 4].map(elsewhere), [true, false, false, false]);
    assert_eq!(holders.missing().0, 2);
    assert!(holders.let_go(|copied| copied.others.len() > 1).is_empty());
    let taken = holders.let_go(|copied| copied.key.as_str() == "k");
    assert_eq!(taken.len(), 3);
    assert_eq!(taken[0], (BlobId(1), copied(&[at("b", 1)])));
    assert_eq!((holders.blobs(), holders.missing()), (0, (0, 0)));
    assert!(holders.take(NOW, None, since, |_| true).is_none() && holders.take_ended().is_empty());
}

#[test]
fn what_no_row_names_counts_only_in_the_session_it_was_given_in() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 1, true), member("c", 1, true)]);
    holders.note(
        BlobId(1),
        Copied {
            copies: 2,
            ..copied(&[at("b", 9)])
        },
    );
    assert_eq!(holders.missing().0, 1);
    let unnamed = Unnamed {
        session: 5,
        named: [].into(),
    };
    // It was copied to c, and nothing says so yet.
    assert!(holders.renew(BlobId(1), [at("c", 1)].into(), Some(unnamed)));
    let due = holders.take(NOW, Some(5), since, |_| true).unwrap();
    assert_eq!((due.have.len(), due.unnamed.is_some()), (1, true));
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing().0, 1, "its row is to be written");
    // A row that does not name c is not that row.
    holders.named(BlobId(1), &[at("b", 1)]);
    assert_eq!(holders.missing().0, 1);
    // In a later session of ours c may have let go of it.
    let due = holders.take(NOW, Some(6), since, |_| true).unwrap();
    let unnamed = Unnamed {
        session: 6,
        named: [].into(),
    };
    assert!(due.have.is_empty() && due.unnamed.as_ref() == Some(&unnamed));
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert!(holders.renew(BlobId(1), [at("c", 1)].into(), Some(unnamed)));
    holders.named(BlobId(1), &[at("c", 1), at("b", 1)]);
    assert_eq!(holders.missing().0, 0);
    // More are promised than there are.
    holders.promise(BlobId(1), 3);
    assert_eq!(holders.missing().0, 1);
    assert_eq!(holders.sessions(BlobId(1)).unwrap().copies, 3);
}

#[test]
fn bodies_of_others_keys_are_handed_out() {
    let holders = CopyHolders::default();
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    assert!(holders.walk(None, 9, false, |_, _| Own::Foreign).is_none());
    let left = holders.take_left();
    assert_eq!(left, [(BlobId(1), copied(&[at("b", 1)]))]);
    assert!(holders.take_left().is_empty() && holders.blobs() == 0);
}

#[test]
fn whom_a_row_names_no_more_is_counted_on_no_more() {
    let holders = CopyHolders::default();
    let (b, c, d) = (at("b", 1), at("c", 1), at("d", 1));
    meet(
        &holders,
        &[
            member("b", 1, true),
            member("c", 1, true),
            member("d", 1, true),
        ],
    );
    let two = Copied {
        copies: 2,
        ..copied(&[b.clone(), c.clone()])
    };
    holders.note(BlobId(1), two);
    holders.named(BlobId(1), std::slice::from_ref(&b));
    assert_eq!(&*holders.of(BlobId(1)), std::slice::from_ref(&b));
    assert_eq!(holders.missing().0, 0);
    // It was copied on to d meanwhile: the row that names only b is not the last.
    let unnamed = Unnamed {
        session: 5,
        named: [b.clone(), c].into(),
    };
    holders.renew(BlobId(1), [b.clone(), d].into(), Some(unnamed));
    holders.named(BlobId(1), std::slice::from_ref(&b));
    let of = holders.sessions(BlobId(1)).unwrap();
    assert_eq!(of.have.len(), 2);
    assert_eq!(*of.unnamed.unwrap().named, [b]);
}

#[test]
fn our_own_copy_counts_once_the_row_names_us() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 1, true)]);
    holders.note_row(BlobId(1), copied(&[at("b", 1)]), false);
    holders.note_row(BlobId(2), copied(&[at("b", 1)]), true);
    assert_eq!(holders.missing(), (1, 10));
    let due = holders.take(NOW, Some(3), since, |_| true).unwrap();
    let unnamed = due.unnamed.unwrap();
    assert_eq!((due.blob, unnamed.session), (BlobId(1), 3));
    assert!(holders.renew(BlobId(1), [at("b", 1)].into(), None));
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing(), (0, 0));
    // One that was another's for a moment, and is noted anew since, stays as it is.
    holders.take_back(BlobId(1), copied(&[at("c", 1)]));
    assert_eq!(*holders.of(BlobId(1)), [at("b", 1)]);
    holders.take_back(BlobId(3), copied(&[at("b", 1)]));
    assert_eq!(holders.blobs(), 3);
}

#[test]
fn who_was_named_just_now_is_asked_before_it_counts() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 3, true)]);
    holders.note(BlobId(1), copied(&[at("b", 3)]));
    assert_eq!(holders.missing(), (0, 0));
    holders.doubt(BlobId(1), &[]);
    holders.doubt(BlobId(7), &[]);
    assert_eq!(holders.missing(), (1, 10));
    let when = |_: &Copied| Duration::from_secs(9);
    let due = holders.take(NOW, None, when, |_| true).unwrap();
    assert_eq!((due.ask, due.since), (vec![at("b", 3)], when(&due.copied)));
    // It had let go of it: another copy is made.
    holders.asked(BlobId(1), &at("b", 3), false);
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert!(due.ask.is_empty() && due.have.is_empty());
    assert!(holders.renew(BlobId(1), [at("b", 3)].into(), None));
    holders.doubt(BlobId(1), &[]);
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    holders.take(NOW, None, since, |_| true).unwrap();
    holders.asked(BlobId(1), &at("b", 3), true);
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert_eq!(holders.missing(), (0, 0));
}

#[test]
fn who_was_dropped_from_a_row_is_told() {
    let holders = CopyHolders::default();
    let (b, c, d) = (at("b", 1), at("c", 1), at("d", 1));
    meet(&holders, &[member("b", 1, true), member("c", 1, true)]);
    holders.note(BlobId(1), copied(&[b.clone(), c.clone()]));
    assert!(holders.renew(BlobId(1), [c.clone(), d.clone()].into(), None));
    assert_eq!(holders.take_ended(), [(b.node, vec![BlobId(1)])].into());
    // In another session it is the same one.
    assert!(holders.renew(BlobId(1), [at("c", 2), d.clone()].into(), None));
    assert!(holders.take_ended().is_empty());
    holders.named(BlobId(1), &[d]);
    assert_eq!(holders.take_ended(), [(c.node, vec![BlobId(1)])].into());
}

#[test]
fn who_has_not_all_of_a_body_is_told_once_it_is_found() {
    let holders = CopyHolders::default();
    meet(&holders, &[member("b", 2, true)]);
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    holders.take(NOW, None, since, |_| true).unwrap();
    holders.asked(BlobId(1), &at("b", 2), false);
    assert!(holders.take_ended().is_empty(), "others may lack it, too");
    holders.found(BlobId(1));
    assert_eq!(holders.take_ended(), [(node("b"), vec![BlobId(1)])].into());
}

#[test]
fn who_could_not_be_told_is_told_when_it_is_there() {
    let holders = CopyHolders::default();
    let told = || {
        holders.tell_again();
        holders.take_ended()
    };
    meet(&holders, &[member("b", 1, false), member("c", 1, true)]);
    for name in ["b", "c", "gone"] {
        holders.untold(&node(name), &[BlobId(1), BlobId(2)]);
    }
    assert!(holders.take_ended().is_empty(), "not at once");
    let both = vec![BlobId(1), BlobId(2)];
    assert_eq!(told(), [(node("c"), both.clone())].into());
    meet(&holders, &[member("b", 1, true)]);
    assert_eq!(told(), [(node("b"), both)].into());
    assert!(told().is_empty());
    // They do not grow for ever.
    let many: Vec<BlobId> = (0..40_000).map(BlobId).collect();
    for _ in 0..3 {
        holders.untold(&node("b"), &many);
    }
    assert_eq!(told()[&node("b")].len(), 50_000);
    holders.untold(&node("b"), &many);
    assert_eq!(told()[&node("b")].len(), 40_000);
}

fn in_zone(zone: &str, member: Neighbour) -> Neighbour {
    Neighbour {
        zone: zone.into(),
        ..member
    }
}

#[test]
fn a_body_in_too_few_zones_is_due_and_not_missing() {
    let holders = CopyHolders::default();
    let (b, c) = (
        in_zone("1", member("b", 1, true)),
        in_zone("2", member("c", 1, true)),
    );
    holders.meet(std::slice::from_ref(&b), Some("1"));
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    assert_eq!((holders.missing().0, holders.misplaced()), (0, 0));
    assert!(holders.take(NOW, None, since, |_| true).is_none());
    assert!(holders.meet(&[b.clone(), c.clone()], Some("1")));
    walk_all(&holders, true);
    assert_eq!((holders.missing().0, holders.misplaced()), (0, 1));
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!((due.lack, due.have.len()), (Lack::Zones, 1));
    let beside = holders.beside(2, &due.have);
    assert_eq!(beside, Some(vec![node("b")]));
    // It refused.
    let late = NOW + Duration::from_secs(1);
    holders.looked(BlobId(1), Looked::Failed(late), Own::Here);
    assert_eq!((holders.missing().0, holders.misplaced()), (0, 1));
    assert!(holders.take(NOW, None, since, |_| true).is_none());
    let due = holders.take(late, None, since, |_| true).unwrap();
    assert_eq!(due.failures, 1);
    assert!(holders.renew(BlobId(1), [at("b", 1), at("c", 1)].into(), None));
    // Only who came is asked.
    holders.doubt(BlobId(1), &due.have);
    holders.looked(BlobId(1), Looked::Learnt(late), Own::Here);
    assert_eq!((holders.missing().0, holders.misplaced()), (0, 1));
    let due = holders.take(late, None, since, |_| true).unwrap();
    assert_eq!(due.ask, [at("c", 1)]);
    holders.asked(BlobId(1), &at("c", 1), true);
    holders.looked(BlobId(1), Looked::Learnt(late), Own::Here);
    assert_eq!((holders.missing().0, holders.misplaced()), (0, 0));
    assert_eq!(holders.beside(2, &[at("b", 1), at("c", 1)]), None);
}

#[test]
fn copies_come_before_zones() {
    let holders = CopyHolders::default();
    let b = in_zone("1", member("b", 1, true));
    let c = in_zone("2", member("c", 1, true));
    holders.meet(&[b, c], Some("1"));
    holders.note(BlobId(1), copied(&[at("b", 1)]));
    holders.note(BlobId(2), copied(&[at("b", 1)]));
    holders.note(BlobId(3), copied(&[at("c", 9)]));
    assert_eq!((holders.missing().0, holders.misplaced()), (1, 2));
    let take = || holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!((take().blob, take().blob), (BlobId(3), BlobId(1)));
    // It is found to lack more while it is looked at, or waits.
    holders.suspect(BlobId(1));
    holders.suspect(BlobId(2));
    assert_eq!((holders.missing().0, holders.misplaced()), (3, 0));
    assert_eq!(take().lack, Lack::Copies);
    holders.looked(BlobId(1), Looked::Learnt(NOW), Own::Here);
    assert_eq!((holders.missing().0, holders.misplaced()), (2, 1));
    for blob in [1, 2, 3] {
        holders.end(BlobId(blob));
    }
    assert_eq!((holders.missing(), holders.misplaced()), ((0, 0), 0));
}

#[test]
fn who_was_named_all_the_time_is_not_doubted() {
    let holders = CopyHolders::default();
    let (b, c) = (at("b", 1), at("c", 1));
    meet(&holders, &[member("b", 1, true), member("c", 1, true)]);
    let three = Copied {
        copies: 3,
        ..copied(&[b.clone(), c.clone()])
    };
    holders.note(BlobId(1), three);
    holders.suspect(BlobId(1));
    let due = holders.take(NOW, None, since, |_| true).unwrap();
    assert_eq!(*holders.named_still(&due), [b.clone(), c.clone()]);
    // A row without c was written since: it may have let go of the body.
    holders.named(BlobId(1), std::slice::from_ref(&b));
    assert_eq!(&*holders.named_still(&due), std::slice::from_ref(&b));
    holders.renew(BlobId(1), [b.clone(), c].into(), None);
    holders.doubt(BlobId(1), std::slice::from_ref(&b));
    assert_eq!(*holders.of(BlobId(1)), [b, at("c", 0)]);
}
