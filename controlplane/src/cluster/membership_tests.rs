//! Members come, go, freeze and come back; no slot ever has two that may answer.

use proptest::prelude::*;
use quickwater_proto::SLOTS;

use super::*;

const LEASE: Duration = Duration::from_secs(10);

fn node(at: usize) -> NodeId {
    NodeId::new(&format!("n{at}")).unwrap()
}

fn member(at: usize) -> Member {
    Member {
        node: node(at),
        advertise: String::new(),
        zone: String::new(),
        capacity_bytes: 1 << 30,
        s3_address: String::new(),
        store: vec![at as u8; 16],
        shards: 2,
        version: String::new(),
        gone: false,
        draining: false,
        removed: false,
        lease_ms: 0,
    }
}

fn empty() -> Membership {
    Membership::load(LEASE, SlotTable::default(), [], Duration::ZERO)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn beat(epoch: u64) -> Beat {
    Beat {
        epoch,
        ..Beat::default()
    }
}

/// Registers a worker, which says at once that it has nothing.
fn register(members: &mut Membership, member: Member, session: u64, now: Duration) {
    let node = member.node.clone();
    members.register(member, session, now);
    members.beat(&node, session, beat(0), now);
}

#[test]
fn when_a_worker_was_heard_last_is_known() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(1));
    let heard = |members: &Membership| members.seats().next().unwrap().heard;
    assert_eq!(heard(&members), Some(at(1)));
    assert!(members.beat(&node(1), 1, beat(0), at(4)));
    assert!(
        !members.beat(&node(1), 7, beat(0), at(5)),
        "another session"
    );
    assert_eq!(heard(&members), Some(at(4)));
    // A control plane that begins anew has not heard it yet.
    let table = SlotTable::default();
    let loaded = Membership::load(LEASE, table, [(member(1), 1)], at(9));
    assert_eq!(heard(&loaded), None);
}

#[test]
fn nothing_is_moved_from_under_a_worker_that_has_not_looked_yet() {
    let mut members = empty();
    members.register(member(1), 1, at(0));
    step(&mut members, at(0));
    register(&mut members, member(2), 1, at(0));
    assert!(!step(&mut members, at(0)), "what n1 has is not known");
    assert!(members.beat(&node(1), 1, beat(1), at(1)));
    assert!(step(&mut members, at(1)));
}

/// Puts the next table in force and answers whether there was one.
fn step(members: &mut Membership, now: Duration) -> bool {
    let planned = members.plan(now);
    let moved = planned.is_some();
    if let Some(planned) = planned {
        assert_eq!(planned.table.epoch, members.table().epoch + 1);
        members.set_table(planned.table);
    }
    moved
}

#[test]
fn the_first_worker_gets_all_slots_at_once() {
    let mut members = empty();
    assert!(!step(&mut members, at(0)));
    register(&mut members, member(1), 1, at(0));
    assert!(step(&mut members, at(0)));
    assert_eq!(members.table().owned_by(&node(1)), SLOTS);
    assert!(!step(&mut members, at(0)));
}

#[test]
fn a_session_is_over_when_others_may_have_what_it_held() {
    let mut members = empty();
    register(&mut members, member(1), 4, at(0));
    register(&mut members, member(2), 1, at(0));
    step(&mut members, at(0));
    let over = |members: &Membership, now| members.over(now);
    let of = |first, second| vec![(node(1), first), (node(2), second)];
    assert_eq!(over(&members, at(9)), of(0, 0));
    // Another session within the lease goes on with what the one before held.
    register(&mut members, member(1), 5, at(9));
    assert!(members.beat(&node(2), 1, beat(1), at(9)));
    assert_eq!(over(&members, at(18)), of(0, 0));
    assert!(members.beat(&node(2), 1, beat(1), at(18)));
    assert_eq!(over(&members, at(19)), of(5, 0), "its lease ended");
    register(&mut members, member(1), 6, at(20));
    assert_eq!(over(&members, at(20)), of(5, 0), "and that stays so");
    members.remove(&node(2), 2);
    assert_eq!(over(&members, at(20)), of(5, 2));
    // After a start: who holds nothing may have lost it by its lease.
    let table = members.table().clone();
    let stored = [(member(1), 6), (member(3), 8)];
    let members = Membership::load(LEASE, table, stored, at(20));
    assert_eq!(members.over(at(21)), vec![(node(1), 0), (node(3), 8)]);
}

#[test]
fn a_drained_worker_loses_its_slots_once_nothing_is_only_there() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    register(&mut members, member(2), 1, at(0));
    members.drain(&node(1), true);
    assert!(members.others(&node(1), at(0)) && !members.others(&node(2), at(0)));
    // Nothing moves while it has something that no UFS has.
    let holds = |epoch| Beat {
        holds: true,
        ..beat(epoch)
    };
    assert!(members.beat(&node(1), 1, holds(1), at(1)));
    assert!(!step(&mut members, at(1)));
    assert!(members.beat(&node(1), 1, beat(1), at(2)));
    assert!(step(&mut members, at(2)));
    assert!(!members.table().is_clear_of(&node(1)), "it has not let go");
    assert!(members.beat(&node(1), 1, beat(2), at(2)));
    assert!(step(&mut members, at(2)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
    assert!(members.table().is_clear_of(&node(1)));
    members.drain(&node(1), false);
    assert!(step(&mut members, at(2)), "it may have slots again");
}

/// Slots of the first worker that the second should have.
fn wanted(members: &Membership) -> BTreeSet<usize> {
    members.elsewhere(&node(1)).into_iter().collect()
}

#[test]
fn of_a_worker_that_holds_something_only_the_slots_it_can_give_move() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    assert!(wanted(&members).is_empty(), "nobody has looked yet");
    step(&mut members, at(0));
    assert!(wanted(&members).is_empty());
    let holds = |epoch, ready: &[usize]| Beat {
        holds: true,
        ready: ready.iter().copied().collect(),
        ..beat(epoch)
    };
    members.beat(&node(1), 1, holds(1, &[]), at(1));
    register(&mut members, member(2), 1, at(1));
    assert!(
        !step(&mut members, at(1)),
        "it has not said what it can give"
    );
    let asked = wanted(&members);
    assert!((7_000..9_400).contains(&asked.len()), "{}", asked.len());
    assert!(members.elsewhere(&node(2)).is_empty());
    // One that it was not asked for does not go.
    let own = (0..SLOTS).find(|slot| !asked.contains(slot)).unwrap();
    let some: Vec<usize> = asked.iter().copied().take(3).chain([own]).collect();
    members.beat(&node(1), 1, holds(1, &some), at(2));
    assert!(step(&mut members, at(2)));
    members.beat(&node(1), 1, holds(2, &some), at(2));
    assert!(step(&mut members, at(2)));
    assert_eq!(members.table().owned_by(&node(2)), 3);
    assert_eq!(members.table().owner(own), Some(&node(1)));
    assert_eq!(wanted(&members).len(), asked.len() - 3);
    assert!(!step(&mut members, at(3)));
}

#[test]
fn what_was_kept_is_asked_for_again_after_a_while() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    register(&mut members, member(2), 1, at(0));
    step(&mut members, at(0));
    let kept = (0..SLOTS).filter(|slot| members.table().yielding(*slot).is_some());
    let kept: BTreeSet<usize> = kept.collect();
    // All of them became dirty meanwhile.
    let keeps = |epoch| Beat {
        kept: kept.clone(),
        ..beat(epoch)
    };
    members.beat(&node(1), 1, keeps(2), at(1));
    assert!(step(&mut members, at(1)));
    assert_eq!(members.table().owned_by(&node(1)), SLOTS);
    // It repeats its answer until it goes by the next table, and says nothing after.
    members.beat(&node(1), 1, keeps(2), at(5));
    members.beat(&node(1), 1, beat(3), at(6));
    members.beat(&node(2), 1, beat(3), at(6));
    assert!(!step(&mut members, at(10)));
    assert!(step(&mut members, at(11)));
}

#[test]
fn a_worker_that_stops_has_no_slots_if_there_are_others() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    let stops = |epoch| Beat {
        stopping: true,
        ..beat(epoch)
    };
    members.beat(&node(1), 1, stops(1), at(1));
    assert!(!step(&mut members, at(1)), "there is nobody else");
    register(&mut members, member(2), 1, at(1));
    assert!(step(&mut members, at(1)));
    assert!(members.others(&node(1), at(1)) && !members.others(&node(2), at(1)));
    members.beat(&node(1), 1, stops(2), at(1));
    assert!(step(&mut members, at(1)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
    // It begins anew: what it said before does not count.
    register(&mut members, member(1), 2, at(2));
    assert!(step(&mut members, at(2)));
}

#[test]
fn when_all_are_drained_they_keep_serving() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    members.drain(&node(1), true);
    assert!(!members.others(&node(1), at(0)));
    assert!(step(&mut members, at(0)));
    assert_eq!(members.table().owned_by(&node(1)), SLOTS);
}

#[test]
fn the_slots_of_a_removed_worker_move_at_once() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    register(&mut members, member(2), 1, at(0));
    members.remove(&node(1), 2);
    assert!(!members.beat(&node(1), 1, beat(1), at(1)));
    assert!(step(&mut members, at(1)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
}

#[test]
fn a_second_worker_gets_slots_when_the_first_has_let_go() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    register(&mut members, member(2), 1, at(1));
    let planned = members.plan(at(1)).unwrap();
    assert_eq!(planned.losers, BTreeSet::from([node(1)]));
    members.set_table(planned.table);
    let kept = members.table().owned_by(&node(1));
    assert!((7_000..9_400).contains(&kept), "{kept}");
    assert_eq!(members.table().owned_by(&node(2)), 0);
    // An old heartbeat is no promise to have let go.
    assert!(members.beat(&node(1), 1, beat(1), at(2)));
    assert!(!step(&mut members, at(2)));
    assert!(members.beat(&node(1), 1, beat(2), at(2)));
    assert!(step(&mut members, at(2)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS - kept);
    assert!(!step(&mut members, at(2)));
}

#[test]
fn slots_that_cannot_be_given_away_go_back_and_are_asked_for_later() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    register(&mut members, member(2), 1, at(0));
    step(&mut members, at(0));
    let taken = (0..SLOTS).filter(|slot| members.table().yielding(*slot).is_some());
    let kept: BTreeSet<usize> = taken.take(3).collect();
    let holding = Beat {
        epoch: 2,
        kept: kept.clone(),
        ..Beat::default()
    };
    members.beat(&node(1), 1, holding, at(1));
    step(&mut members, at(1));
    for slot in &kept {
        assert_eq!(members.table().owner(*slot), Some(&node(1)));
    }
    assert!(!step(&mut members, at(5)));
    // Later it is asked again.
    assert!(step(&mut members, at(11)) || !kept.is_empty());
}

#[test]
fn a_silent_worker_keeps_its_slots_until_its_lease_ends() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    register(&mut members, member(2), 1, at(0));
    step(&mut members, at(0));
    let owned = members.table().owned_by(&node(1));
    for second in 1..10 {
        members.beat(&node(2), 1, beat(1), at(second));
        assert!(!step(&mut members, at(second)), "{second}");
    }
    members.beat(&node(2), 1, beat(1), at(10));
    assert!(owned > 0 && step(&mut members, at(10)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
    // It wakes up: it has to register again, and gets back what the other lets go.
    assert!(!members.beat(&node(1), 1, beat(1), at(11)));
    register(&mut members, member(1), 2, at(11));
    step(&mut members, at(11));
    members.beat(&node(2), 1, beat(3), at(11));
    step(&mut members, at(11));
    assert_eq!(members.table().owned_by(&node(1)), owned);
}

#[test]
fn who_says_goodbye_is_not_waited_for() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    register(&mut members, member(2), 1, at(0));
    step(&mut members, at(0));
    members.leave(&node(1), 1);
    assert!(step(&mut members, at(0)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
    assert!(!members.beat(&node(1), 1, beat(1), at(0)));
}

#[test]
fn a_new_session_ends_the_old_and_another_store_waits_for_it() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    let same = members.other_lives(&node(1), &[1; 16], at(1));
    assert_eq!(same, None);
    assert_eq!(members.other_lives(&node(1), &[9; 16], at(1)), Some(at(9)));
    assert_eq!(members.other_lives(&node(1), &[9; 16], at(10)), None);
    register(&mut members, member(1), 2, at(1));
    assert!(!members.beat(&node(1), 1, beat(0), at(2)));
    assert!(members.beat(&node(1), 2, beat(0), at(2)));
}

#[test]
fn after_a_restart_everybody_is_taken_to_hold_a_lease() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    step(&mut members, at(0));
    let table = members.table().clone();
    let mut again = Membership::load(LEASE, table, [(member(1), 1)], at(100));
    register(&mut again, member(2), 1, at(100));
    step(&mut again, at(100));
    assert!(again.table().owned_by(&node(2)) == 0);
    assert!(!step(&mut again, at(109)));
    assert!(step(&mut again, at(110)));
}

/// What a process finds that starts after another one: `table`, and these members.
fn restarted(table: SlotTable, stored: &[usize], now: Duration) -> Membership {
    let stored = stored.iter().map(|at| (member(*at), 1));
    Membership::load(LEASE, table, stored, now)
}

/// All have seen the tables so far, and nobody wants another one.
fn settle(members: &mut Membership, heard: &[usize], session: u64, now: Duration) {
    while step(members, now) {
        let epoch = members.table().epoch;
        for at in heard {
            members.beat(&node(*at), session, beat(epoch), now);
        }
    }
}

#[test]
fn who_was_not_heard_since_a_start_gets_no_slot() {
    let mut members = restarted(SlotTable::default(), &[1], at(100));
    assert!(!step(&mut members, at(100)), "nobody is known to be there");
    register(&mut members, member(2), 1, at(101));
    assert!(step(&mut members, at(101)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
    assert!(!step(&mut members, at(102)) && members.elsewhere(&node(2)).is_empty());
    // A drain of it does not end for want of others: that one may come.
    assert!(members.others(&node(2), at(102)) && !members.others(&node(2), at(110)));
    // As soon as it registers it gets its share.
    register(&mut members, member(1), 2, at(103));
    assert!(step(&mut members, at(103)));
    members.beat(&node(2), 1, beat(2), at(103));
    assert!(step(&mut members, at(103)));
    let share = members.table().owned_by(&node(1));
    assert!((7_000..9_400).contains(&share), "{share}");
}

#[test]
fn who_was_not_heard_since_a_start_keeps_what_it_has() {
    let mut members = empty();
    for number in 1..4 {
        register(&mut members, member(number), 1, at(0));
    }
    settle(&mut members, &[1, 2, 3], 1, at(0));
    let table = members.table().clone();
    let mut members = restarted(table.clone(), &[1, 2, 3], at(5));
    register(&mut members, member(2), 2, at(5));
    assert!(!step(&mut members, at(5)), "all is as it should be");
    // One is lost for good: only who was heard gets what it had.
    members.remove(&node(3), 2);
    assert!(step(&mut members, at(6)));
    for slot in 0..SLOTS {
        let before = table.owner(slot).cloned().unwrap();
        let after = if before == node(3) { node(2) } else { before };
        assert_eq!(members.table().owner(slot), Some(&after), "{slot}");
    }
    // Its lease may last as long as this one's.
    assert!(members.beat(&node(2), 2, beat(members.table().epoch), at(14)));
    assert!(!step(&mut members, at(14)));
    assert!(members.table().owned_by(&node(1)) > 0);
    assert!(step(&mut members, at(15)));
    assert_eq!(members.table().owned_by(&node(2)), SLOTS);
}

#[test]
fn a_cluster_that_starts_as_a_whole_waits_for_nobody() {
    let mut members = empty();
    for number in 1..4 {
        register(&mut members, member(number), 1, at(0));
    }
    settle(&mut members, &[1, 2, 3], 1, at(0));
    let before = members.table().clone();
    // Of one the metadata knows that it is gone, so its slots are nobody's.
    let stored = (1..4).map(|number| {
        let gone = number == 3;
        (
            Member {
                gone,
                ..member(number)
            },
            1,
        )
    });
    let mut members = Membership::load(LEASE, before.clone(), stored, at(5));
    let unheard = members.plan(at(5));
    assert!(unheard.is_none_or(|planned| planned.table.owned_by(&node(3)) == 0));
    // The first word of one is enough for all of them.
    register(&mut members, member(2), 2, at(6));
    settle(&mut members, &[2], 2, at(6));
    let first = members.table().clone();
    assert!((0..SLOTS).all(|slot| first.owner(slot).is_some()));
    assert_eq!(first.owned_by(&node(1)), before.owned_by(&node(1)));
    // The others get theirs as soon as they tell something.
    register(&mut members, member(1), 2, at(6));
    settle(&mut members, &[1, 2], 2, at(6));
    register(&mut members, member(3), 2, at(6));
    settle(&mut members, &[1, 2, 3], 2, at(6));
    let same = |slot| members.table().owner(slot) == before.owner(slot);
    assert!((0..SLOTS).all(same));
}

#[test]
fn a_worker_that_goes_gives_its_slots_to_who_was_heard() {
    let mut members = empty();
    for number in 1..4 {
        register(&mut members, member(number), 1, at(0));
    }
    settle(&mut members, &[1, 2, 3], 1, at(0));
    let table = members.table().clone();
    let owned = table.owned_by(&node(1));
    let mut members = restarted(table, &[1, 2, 3], at(5));
    register(&mut members, member(2), 2, at(5));
    members.drain(&node(2), true);
    settle(&mut members, &[2], 2, at(5));
    assert!(members.table().owned_by(&node(2)) > 0 && members.elsewhere(&node(2)).is_empty());
    register(&mut members, member(3), 2, at(6));
    settle(&mut members, &[2, 3], 2, at(6));
    assert!(members.table().is_clear_of(&node(2)));
    assert_eq!(members.table().owned_by(&node(1)), owned);
    assert_eq!(members.table().owned_by(&node(3)), SLOTS - owned);
}

#[test]
fn a_slot_on_its_way_to_who_was_not_heard_goes_to_another() {
    let mut members = empty();
    register(&mut members, member(2), 1, at(0));
    settle(&mut members, &[2], 1, at(0));
    register(&mut members, member(1), 1, at(1));
    assert!(step(&mut members, at(1)), "half of them begin to move");
    let table = members.table().clone();
    let moving = (0..SLOTS).filter(|slot| table.yielding(*slot).is_some());
    let moving: Vec<usize> = moving.collect();
    let mut members = restarted(table, &[1, 2], at(2));
    register(&mut members, member(2), 2, at(2));
    assert!(!step(&mut members, at(2)), "it has not let go");
    members.beat(&node(2), 2, beat(members.table().epoch), at(2));
    settle(&mut members, &[2], 2, at(2));
    assert!(!moving.is_empty() && members.table().owned_by(&node(2)) == SLOTS);
}

/// A worker as it understands the tables it has seen.
#[derive(Debug, Clone, Default)]
struct Believer {
    seen: SlotTable,
    /// By its own clock, which is never ahead of what it was granted.
    until: Duration,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Tables arrive late or never, workers freeze, control starts anew: nobody believes in a
    /// slot that another one believes in.
    #[test]
    fn no_slot_has_two_believers(steps in prop::collection::vec((0usize..7, 1usize..4, 0u64..6), 1..60)) {
        let mut members = empty();
        let mut believers: BTreeMap<NodeId, Believer> = BTreeMap::new();
        let mut now = at(0);
        for (what, who, pause) in steps {
            now += at(pause);
            let name = node(who);
            match what {
                0 => {
                    register(&mut members, member(who), 1, now);
                    // The table comes with the session, before the lease.
                    believers.insert(name, Believer { seen: members.table().clone(), until: now + LEASE });
                }
                1 | 2 => if let Some(believer) = believers.get_mut(&name)
                    && members.beat(&name, 1, beat(believer.seen.epoch), now)
                {
                    believer.until = now + LEASE;
                },
                3 => if let Some(believer) = believers.get_mut(&name) {
                    believer.seen = members.table().clone();
                },
                4 => {
                    let stored = members.seats().map(|seat| (seat.member.clone(), seat.session));
                    let stored: Vec<(Member, u64)> = stored.collect();
                    members = Membership::load(LEASE, members.table().clone(), stored, now);
                },
                _ => {
                    step(&mut members, now);
                }
            }
            for slot in [0, 1, 77, 8_000, SLOTS - 1] {
                let believing = believers.iter().filter(|(name, believer)| {
                    now < believer.until && believer.seen.owner(slot) == Some(*name)
                });
                prop_assert!(believing.count() <= 1, "slot {slot} at {now:?}");
            }
        }
    }
}

#[test]
fn a_shorter_lease_does_not_end_a_longer_one_granted_before() {
    let mut members = empty();
    register(&mut members, member(1), 1, at(0));
    while step(&mut members, at(0)) {}
    // Another process grants shorter leases; the worker is cut off from it.
    let stored = Member {
        lease_ms: 10_000,
        ..member(1)
    };
    let table = members.table().clone();
    let short = Duration::from_secs(2);
    let mut members = Membership::load(short, table, [(stored.clone(), 1)], at(20));
    register(&mut members, member(2), 1, at(20));
    while step(&mut members, at(29)) {}
    assert!(members.table().owned_by(&node(1)) > 0);
    // One that comes back goes by the longer lease until that is over.
    assert_eq!(members.longest_lease(&node(1), at(21)), LEASE);
    register(&mut members, stored, 2, at(21));
    assert_eq!(members.seat(&node(1)).unwrap().lease_until, at(30));
    assert_eq!(members.longest_lease(&node(1), at(30)), short);
    members.beat(&node(2), 1, beat(members.table().epoch), at(29));
    while step(&mut members, at(30)) {}
    assert_eq!(members.table().owned_by(&node(1)), 0);
}

#[test]
fn a_session_of_an_earlier_process_does_not_count() {
    let mut members = empty();
    register(&mut members, member(1), 7, at(0));
    while step(&mut members, at(0)) {}
    let table = members.table().clone();
    let mut members = Membership::load(LEASE, table, [(member(1), 7)], at(1));
    // Its worker goes by leases of another length, maybe.
    assert!(!members.seat(&node(1)).unwrap().attends(7));
    assert!(!members.beat(&node(1), 7, beat(1), at(2)));
    assert_eq!(members.seat(&node(1)).unwrap().lease_until, at(1) + LEASE);
    // The slots are still its own, and stay so when it has registered.
    register(&mut members, member(1), 8, at(3));
    assert!(members.beat(&node(1), 8, beat(1), at(4)));
    while step(&mut members, at(4)) {}
    assert_eq!(members.table().owned_by(&node(1)), SLOTS);
}
