//! A session's heartbeats: they renew the lease, say which table the worker goes by,
//! and bring new ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_proto::SlotTable;
use quickwater_rpc::cluster::cluster_client::ClusterClient;
use quickwater_rpc::cluster::{
    FromControl, FromWorker, Moved as WireMoved, Order, OrderAnswer, Part as WirePart,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::link::LinkError;
use super::{Attendant, Shared};
use crate::cluster::{Moved, Part, boottime};
use crate::rpc::{bits, peers_from_wire, position_from_wire, slots, table_from_wire};

/// Longest pause between two heartbeats.
const BEAT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Heartbeats in a lease, at least.
const BEATS_PER_LEASE: u32 = 10;
/// Heartbeats without an answer before the session is given up.
const UNANSWERED_MAX: usize = 6;
/// Heartbeats that wait to be sent.
const OUTBOX: usize = 64;
/// Part of a lease that is not relied upon: clocks drift, and the control plane counts
/// from when it got the heartbeat.
const MARGIN: u32 = 10;
/// How often it is looked whether going by a table is held up while a newer one waits.
const HELD_UP_LOOK: Duration = Duration::from_millis(100);

/// A session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub(super) number: u64,
    /// How long the control plane waits before it gives slots to others.
    pub(super) lease: Duration,
}

fn parts_to_wire(parts: Vec<Part>) -> Vec<WirePart> {
    let told = parts.into_iter().map(|part| WirePart {
        name: part.name,
        state: part.state,
        detail: part.detail,
    });
    told.collect()
}

fn moved_to_wire(moved: Moved) -> WireMoved {
    WireMoved {
        sent_bytes: moved.sent_bytes,
        received_bytes: moved.received_bytes,
        requests: moved.requests,
        persisted_bytes: moved.persisted_bytes,
    }
}

impl Session {
    /// How long after a heartbeat was sent the worker may answer for its slots.
    pub(super) fn trusted(&self) -> Duration {
        self.lease - self.lease / MARGIN
    }

    fn pause(&self) -> Duration {
        (self.lease / BEATS_PER_LEASE).min(BEAT_PAUSE_MAX)
    }
}

/// By which table the worker goes, and what it cannot give away by it.
pub(super) type Went = (u64, Vec<usize>);

/// Attends a session until it ends. Tables that come go to `tables`; `gone_by` tells what
/// became of them ([`follow`]).
pub(super) async fn attend(
    mut client: ClusterClient<Channel>,
    session: Session,
    tables: watch::Sender<Arc<SlotTable>>,
    mut gone_by: watch::Receiver<Went>,
    attendant: Arc<dyn Attendant>,
    shared: Arc<Shared>,
) -> Result<(), LinkError> {
    let broken = |status: tonic::Status| LinkError::Ended(status.message().to_owned());
    let mut leave = shared.leave.subscribe();
    let (out, outgoing) = mpsc::channel(OUTBOX);
    let mut beats = Beats::new(session, out);
    // The answer begins only when something was sent.
    beats.send(&attendant, &gone_by.borrow_and_update(), false)?;
    let mut incoming = client
        .attend(ReceiverStream::new(outgoing))
        .await
        .map_err(broken)?
        .into_inner();
    let mut pauses = tokio::time::interval(session.pause());
    loop {
        tokio::select! {
            _ = pauses.tick() => {
                if attendant.is_stuck() {
                    let why = "what became of a change is not known: the next session asks";
                    return Err(LinkError::Ended(why.into()));
                }
                beats.send(&attendant, &gone_by.borrow(), false)?;
            }
            Ok(()) = gone_by.changed() => beats.send(&attendant, &gone_by.borrow_and_update(), false)?,
            () = shared.beat.notified() => beats.send(&attendant, &gone_by.borrow(), false)?,
            Ok(()) = leave.changed() => beats.send(&attendant, &gone_by.borrow(), true)?,
            message = incoming.message() => match message {
                Ok(Some(message)) => {
                    if beats.answered(&attendant, &message) {
                        return Ok(());
                    }
                    if let Some(news) = &message.news {
                        shared.news(news, &attendant);
                    }
                    if let Some(position) = message.position.as_ref().and_then(position_from_wire) {
                        shared.saw(position);
                    }
                    if let Some(peers) = message.peers.as_ref().and_then(peers_from_wire) {
                        attendant.met(peers);
                    }
                    if let Some(order) = message.order {
                        beats.obey(&attendant, order);
                    }
                    if let Some(table) = &message.table {
                        let table = table_from_wire(table);
                        let table = table.map_err(|error| LinkError::Ended(error.to_string()))?;
                        shared.epoch.store(table.epoch, Ordering::Release);
                        tables.send_replace(Arc::new(table));
                    }
                }
                Ok(None) => return Err(LinkError::Ended("it was closed".into())),
                Err(status) => return Err(broken(status)),
            },
        }
    }
}

/// Goes by one table after the other; heartbeats do not wait for it. Is
/// ended with the session.
///
/// A table is gone by to its end before the next one is looked at, unless it meets errors:
/// a slot that another has by the newer table can never be taken by the older one.
pub(super) async fn follow(
    mut tables: watch::Receiver<Arc<SlotTable>>,
    attendant: Arc<dyn Attendant>,
    went: watch::Sender<Went>,
) -> Result<(), LinkError> {
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        let epoch = table.epoch;
        let newer = tables.clone();
        let kept = tokio::select! {
            kept = attendant.go_by(table) => kept,
            () = overtaken(newer, &attendant) => {
                tracing::info!(epoch, "going by a table is broken off: it met errors, and there is a newer one");
                continue;
            }
        };
        went.send_replace((epoch, kept));
        if tables.changed().await.is_err() {
            // How the session ended is for `attend` to tell.
            return std::future::pending().await;
        }
    }
}

/// Returns when there is a newer table than the one that was seen last, and going by that
/// one is held up.
async fn overtaken(mut tables: watch::Receiver<Arc<SlotTable>>, attendant: &Arc<dyn Attendant>) {
    if tables.changed().await.is_err() {
        return std::future::pending().await;
    }
    while !attendant.is_held_up() {
        tokio::time::sleep(HELD_UP_LOOK).await;
    }
}

/// Heartbeats of a session, sent and not answered yet.
struct Beats {
    session: Session,
    out: mpsc::Sender<FromWorker>,
    last: u64,
    unanswered: VecDeque<(u64, Duration)>,
    /// The heartbeat that said goodbye.
    goodbye: Option<u64>,
}

impl Beats {
    fn new(session: Session, out: mpsc::Sender<FromWorker>) -> Self {
        Self {
            session,
            out,
            last: 0,
            unanswered: VecDeque::new(),
            goodbye: None,
        }
    }

    fn send(
        &mut self,
        attendant: &Arc<dyn Attendant>,
        (epoch, kept): &Went,
        leaving: bool,
    ) -> Result<(), LinkError> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            return Err(LinkError::Ended("heartbeats are not answered".into()));
        }
        let condition = attendant.condition();
        self.last += 1;
        let beat = FromWorker {
            session: self.session.number,
            beat: self.last,
            epoch: *epoch,
            kept: bits(kept),
            state: condition.state,
            used_bytes: condition.used_bytes,
            dirty_bytes: condition.dirty_bytes,
            leaving,
            answer: None,
            holds: condition.holds,
            changes: condition.changes,
            transient_objects: condition.transient_objects,
            copies_kept: condition.copies_kept,
            parts_held: condition.parts_held,
            draining: condition.draining,
            parts: parts_to_wire(condition.parts),
            ready: bits(&condition.ready),
            stopping: condition.stopping,
            moved: condition.moved.map(moved_to_wire),
        };
        let sent = boottime();
        if self.out.try_send(beat).is_err() {
            return Err(LinkError::Ended("heartbeats are not taken".into()));
        }
        self.unanswered.push_back((self.last, sent));
        if leaving {
            self.goodbye = Some(self.last);
        }
        Ok(())
    }

    /// Carries out an order beside everything else; how many there are at a time is
    /// bounded by who gives them.
    fn obey(&self, attendant: &Arc<dyn Attendant>, order: Order) {
        let (attendant, out) = (Arc::clone(attendant), self.out.clone());
        tokio::spawn(async move {
            let answer = match order.what {
                Some(what) => attendant.obey(what).await,
                None => OrderAnswer {
                    error: "an order this version does not know".into(),
                    ..OrderAnswer::default()
                },
            };
            let answer = FromWorker {
                answer: Some(OrderAnswer {
                    id: order.id,
                    ..answer
                }),
                ..FromWorker::default()
            };
            // The session may have ended meanwhile: then nobody waits for it.
            let _ = out.send(answer).await;
        });
    }

    /// Takes an answer; `true`: it was the last one.
    fn answered(&mut self, attendant: &Arc<dyn Attendant>, message: &FromControl) -> bool {
        while let Some((beat, sent)) = self.unanswered.front().copied() {
            if beat > message.beat {
                break;
            }
            self.unanswered.pop_front();
            if beat == message.beat && self.goodbye.is_none() {
                attendant.granted(sent + self.session.trusted());
            }
        }
        if message.beat != 0 {
            attendant.draining(message.draining);
            attendant.wanted(slots(&message.wanted).into_iter().collect());
        }
        message.beat != 0 && self.goodbye == Some(message.beat)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Condition, Peers};
    use super::*;
    use quickwater_rpc::cluster::order::What;

    /// Goes by tables of an odd epoch at once; those of an even one never come to an end.
    #[derive(Default)]
    struct Stubborn {
        began: Mutex<Vec<u64>>,
        held_up: AtomicBool,
    }

    #[tonic::async_trait]
    impl Attendant for Stubborn {
        fn condition(&self) -> Condition {
            Condition::default()
        }

        fn opened(&self, _: u64, _: &SlotTable) -> bool {
            true
        }

        fn is_stuck(&self) -> bool {
            false
        }

        fn granted(&self, _: Duration) {}

        async fn go_by(&self, table: Arc<SlotTable>) -> Vec<usize> {
            self.began.lock().unwrap().push(table.epoch);
            if table.epoch.is_multiple_of(2) {
                std::future::pending::<()>().await;
            }
            vec![7]
        }

        fn is_held_up(&self) -> bool {
            self.held_up.load(Ordering::Relaxed)
        }

        fn buckets_changed(&self) {}

        fn draining(&self, _: bool) {}

        fn wanted(&self, _: Vec<usize>) {}

        fn met(&self, _: Peers) {}

        async fn obey(&self, _: What) -> OrderAnswer {
            OrderAnswer::default()
        }
    }

    fn table(epoch: u64) -> Arc<SlotTable> {
        let mut table = SlotTable::default();
        table.epoch = epoch;
        Arc::new(table)
    }

    /// Long: time stands still but for what sleeps.
    const AGES: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn a_table_that_is_held_up_is_left_for_a_newer_one() {
        let stubborn = Arc::new(Stubborn::default());
        let (tables, seen) = watch::channel(table(2));
        let (went, mut gone_by) = watch::channel((0, Vec::new()));
        let attendant = Arc::clone(&stubborn) as Arc<dyn Attendant>;
        let following = tokio::spawn(follow(seen, attendant, went));
        // Without an error it is waited for, whatever comes.
        tokio::time::sleep(AGES).await;
        tables.send_replace(table(3));
        tokio::time::sleep(AGES).await;
        assert_eq!(*stubborn.began.lock().unwrap(), [2]);
        assert!(!gone_by.has_changed().unwrap());
        stubborn.held_up.store(true, Ordering::Relaxed);
        gone_by.changed().await.unwrap();
        assert_eq!(*gone_by.borrow_and_update(), (3, vec![7]));
        // With one, until there is a newer table: the newest of those that came.
        tables.send_replace(table(4));
        tokio::time::sleep(AGES).await;
        assert_eq!(*stubborn.began.lock().unwrap(), [2, 3, 4]);
        tables.send_replace(table(6));
        tables.send_replace(table(7));
        gone_by.changed().await.unwrap();
        assert_eq!(*gone_by.borrow_and_update(), (7, vec![7]));
        assert_eq!(*stubborn.began.lock().unwrap(), [2, 3, 4, 7]);
        assert!(!following.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_session_does_not_break_a_table_off_by_itself() {
        let stubborn = Arc::new(Stubborn::default());
        stubborn.held_up.store(true, Ordering::Relaxed);
        let (tables, seen) = watch::channel(table(2));
        let (went, gone_by) = watch::channel((0, Vec::new()));
        let attendant = Arc::clone(&stubborn) as Arc<dyn Attendant>;
        let following = tokio::spawn(follow(seen, attendant, went));
        tokio::time::sleep(AGES).await;
        drop(tables);
        tokio::time::sleep(AGES).await;
        assert!(!following.is_finished());
        assert!(!gone_by.has_changed().unwrap());
        assert_eq!(*stubborn.began.lock().unwrap(), [2]);
    }
}
