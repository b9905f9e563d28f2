//! The order of hashing: who waits, who is finished, and that nothing is lost.

use md5::Digest;
use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;

fn scheduler() -> Scheduler<Vec<u8>> {
    Scheduler::new(Kernel::detect())
}

/// Lets other work have its turns and runs until nothing is to be done.
fn settle(scheduler: &mut Scheduler<Vec<u8>>) -> (usize, usize, usize) {
    let (mut turns, mut slices, mut woken) = (0, 0, Vec::new());
    loop {
        match scheduler.decide() {
            Decision::Rest => return (turns, slices, woken.len()),
            Decision::Gather => {
                scheduler.gathered();
                turns += 1;
            }
            Decision::Run => {
                scheduler.run(&mut woken);
                slices += 1;
            }
        }
    }
}

fn waits(scheduler: &mut Scheduler<Vec<u8>>, ticket: &Ticket) -> bool {
    scheduler.collect(ticket, Waker::noop()).is_pending()
}

#[test]
fn a_lone_stream_is_hashed_at_once() {
    let mut scheduler = scheduler();
    let lone = scheduler.join(true);
    assert_eq!(scheduler.decide(), Decision::Rest);
    scheduler.submit(&lone, vec![7; KIB], true).unwrap();
    assert_eq!(scheduler.decide(), Decision::Run, "nobody else may come");
    assert_eq!(settle(&mut scheduler), (0, 1, 0));
    assert_eq!(
        scheduler.collect(&lone, Waker::noop()),
        Poll::Ready(Some(vec![7; KIB]))
    );
    assert_eq!(scheduler.collect(&lone, Waker::noop()), Poll::Ready(None));
    let expect: [u8; 16] = md5::Md5::digest(vec![7; KIB]).into();
    assert_eq!(scheduler.leave(&lone).finish(), expect);
}

#[test]
fn a_stream_nobody_waits_for_rests_until_company_comes() {
    let mut scheduler = scheduler();
    let (a, b) = (scheduler.join(true), scheduler.join(true));
    scheduler.submit(&a, vec![1; KIB], true).unwrap();
    assert_eq!(scheduler.decide(), Decision::Rest);
    scheduler.submit(&b, vec![2; KIB], true).unwrap();
    assert_eq!(scheduler.decide(), Decision::Run);
    assert_eq!(settle(&mut scheduler), (0, 1, 0), "both in one slice");
}

#[test]
fn a_stream_somebody_waits_for_is_patient_but_not_long() {
    let mut scheduler = scheduler();
    let (small, large) = (scheduler.join(true), scheduler.join(true));
    let idle = scheduler.join(true);
    scheduler.submit(&small, vec![1; 10 * KIB], false).unwrap();
    assert!(waits(&mut scheduler, &small));
    assert_eq!(settle(&mut scheduler), (1, 1, 1));
    scheduler
        .submit(&large, vec![2; 1024 * KIB], false)
        .unwrap();
    assert!(waits(&mut scheduler, &large));
    let slices = 1024 * KIB / SLICE_BYTES;
    assert_eq!(settle(&mut scheduler), (GATHER_TURNS_MAX, slices, 1));
    // The end of the one that might have come makes waiting pointless.
    let other = scheduler.join(true);
    scheduler.submit(&other, vec![3; KIB], false).unwrap();
    assert!(waits(&mut scheduler, &other));
    assert_eq!(scheduler.decide(), Decision::Gather);
    scheduler.leave(&idle);
    assert_eq!(scheduler.decide(), Decision::Run);
}

#[test]
fn small_ones_do_not_wait_for_all_large_ones() {
    let mut scheduler = scheduler();
    let large: Vec<_> = (0..2 * LANES_MAX)
        .map(|_| {
            let ticket = scheduler.join(true);
            scheduler
                .submit(&ticket, vec![0; 16 * SLICE_BYTES], false)
                .unwrap();
            ticket
        })
        .collect();
    let small = scheduler.join(true);
    scheduler.submit(&small, vec![0; KIB], false).unwrap();
    assert!(waits(&mut scheduler, &small));
    let mut woken = Vec::new();
    let rounds = large.len().div_ceil(scheduler.kernel.lanes()) + 1;
    for _ in 0..rounds {
        scheduler.run(&mut woken);
    }
    assert_eq!(woken.len(), 1);
}

#[test]
fn one_buffer_at_a_time() {
    let mut scheduler = scheduler();
    let ticket = scheduler.join(true);
    scheduler.submit(&ticket, vec![1], true).unwrap();
    assert_eq!(scheduler.submit(&ticket, vec![2], true), Err(vec![2]));
    settle(&mut scheduler);
    assert_eq!(scheduler.submit(&ticket, vec![2], true), Err(vec![2]));
}

#[test]
fn who_leaves_early_is_missing_bytes() {
    let mut scheduler = scheduler();
    let (a, b) = (scheduler.join(true), scheduler.join(true));
    scheduler.submit(&a, vec![1; 10], true).unwrap();
    assert!(waits(&mut scheduler, &a));
    assert_eq!(scheduler.leave(&a).length(), 0);
    assert_eq!(settle(&mut scheduler), (0, 0, 0));
    scheduler.leave(&b);
    assert_eq!((scheduler.coming, scheduler.awaited), (0, 0));
    assert_eq!(scheduler.free.len(), 2, "places are used again");
}

#[derive(Debug, Clone)]
enum Act {
    Join,
    Submit(usize, usize, bool),
    Collect(usize),
    Work,
    Leave(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => Just(Act::Join),
        6 => (any::<usize>(), 0_usize..3 * SLICE_BYTES, any::<bool>())
            .prop_map(|(who, len, more)| Act::Submit(who, len, more)),
        6 => any::<usize>().prop_map(Act::Collect),
        8 => Just(Act::Work),
        1 => any::<usize>().prop_map(Act::Leave),
    ];
    proptest::collection::vec(act, 1..80)
}

struct Modelled {
    ticket: Ticket,
    hash: md5::Md5,
    bytes: u64,
    busy: bool,
}

fn check_counters(scheduler: &Scheduler<Vec<u8>>) {
    let streams = || scheduler.streams.iter().flatten();
    let queued = |s: &&Stream<_>| matches!(s.work, Work::Queued { .. });
    let awaited =
        |s: &&Stream<_>| matches!(&s.work, Work::Queued { waiter, .. } if waiter.is_some());
    assert_eq!(scheduler.queue.len(), streams().filter(queued).count());
    assert_eq!(scheduler.awaited, streams().filter(awaited).count());
    let coming = streams().filter(|s| s.more && !queued(s)).count();
    assert_eq!(scheduler.coming, coming);
    if scheduler.awaited > 0 {
        assert_ne!(scheduler.decide(), Decision::Rest, "somebody waits");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_order_of_events_gives_the_md5_of_every_stream(acts in acts(), scalar in any::<bool>()) {
        let kernels = Kernel::available();
        let kernel = if scalar { kernels[kernels.len() - 1] } else { kernels[0] };
        let mut scheduler = Scheduler::new(kernel);
        let mut streams: Vec<Modelled> = Vec::new();
        let (mut woken, mut fill) = (Vec::new(), 0_u8);
        for act in acts {
            match act {
                Act::Join => streams.push(Modelled {
                    ticket: scheduler.join(true),
                    hash: md5::Md5::new(),
                    bytes: 0,
                    busy: false,
                }),
                Act::Work => match scheduler.decide() {
                    Decision::Rest => {}
                    Decision::Gather => scheduler.gathered(),
                    Decision::Run => scheduler.run(&mut woken),
                },
                _ if streams.is_empty() => {}
                Act::Submit(who, len, more) => {
                    let index = who % streams.len();
                    let stream = &mut streams[index];
                    fill = fill.wrapping_add(1);
                    let taken = scheduler.submit(&stream.ticket, vec![fill; len], more);
                    prop_assert_eq!(taken.is_err(), stream.busy);
                    if !stream.busy {
                        stream.hash.update(vec![fill; len]);
                        stream.bytes += len as u64;
                        stream.busy = true;
                    }
                }
                Act::Collect(who) => {
                    let index = who % streams.len();
                    let stream = &mut streams[index];
                    match scheduler.collect(&stream.ticket, Waker::noop()) {
                        Poll::Pending => prop_assert!(stream.busy),
                        Poll::Ready(buffer) => {
                            prop_assert_eq!(buffer.is_some(), stream.busy);
                            stream.busy = false;
                        }
                    }
                }
                Act::Leave(who) => {
                    let stream = streams.swap_remove(who % streams.len());
                    let md5 = scheduler.leave(&stream.ticket);
                    if md5.length() == stream.bytes {
                        prop_assert_eq!(md5.finish(), <[u8; 16]>::from(stream.hash.finalize()));
                    }
                }
            }
            check_counters(&scheduler);
        }
        for stream in &streams {
            let _ = scheduler.collect(&stream.ticket, Waker::noop());
        }
        settle(&mut scheduler);
        for stream in streams {
            let md5 = scheduler.leave(&stream.ticket);
            prop_assert_eq!(md5.length(), stream.bytes);
            prop_assert_eq!(md5.finish(), <[u8; 16]>::from(stream.hash.finalize()));
        }
        check_counters(&scheduler);
    }
}
