//! Calls on their way: one that waits, is sent, and perhaps sent again. Pure but for
//! the channel that takes its answer.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use quickwater_proto::{CopyAt, MetadataError};
use quickwater_rpc::cluster::{Answer, Call, Operation};
use tokio::sync::oneshot;

use crate::cluster::wire;

/// Longest wait of a call from its asking to its answer, every repetition included.
pub const CALL_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for the answer to one sending: then the session is given up.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(14);
/// Longest wait of a call for a session, if it was never sent.
pub const UNREACHED_WAIT: Duration = Duration::from_secs(5);
/// Calls without an answer at a time.
pub(super) const FLYING_MAX: usize = 2_048;

/// A call and who waits for it.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) call: Call,
    /// The session in which the change was begun, if it must not be made once others may
    /// have had the slot since.
    pub(super) begun: Option<CopyAt>,
    pub(super) asked: Instant,
    pub(super) reply: oneshot::Sender<Result<Answer, MetadataError>>,
}

impl Queued {
    fn changes(&self) -> bool {
        let operation = Operation::try_from(self.call.operation);
        operation.is_ok_and(wire::changes)
    }

    /// When it is no use any more.
    fn is_late(&self, now: Instant) -> bool {
        let wait = match self.call.again {
            true => CALL_WAIT,
            false => UNREACHED_WAIT,
        };
        now.saturating_duration_since(self.asked) >= wait
    }

    /// Who asked may be gone: then nobody hears it.
    fn answer(self, answer: Result<Answer, MetadataError>) {
        let _ = self.reply.send(answer);
    }

    /// It was not answered and will not be. `true`: nobody knows what became of it.
    fn give_up(self) -> bool {
        let unknown = self.call.again && self.changes();
        let why = "the control plane does not answer".to_owned();
        self.answer(Err(match unknown {
            true => MetadataError::Unknown(why),
            false => MetadataError::Unavailable(why),
        }));
        unknown
    }
}

/// How calls ended that were given up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) unknown: u64,
    pub(super) unreached: u64,
}

/// All calls of a link.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// To be sent, or sent again, in this order.
    waiting: VecDeque<Queued>,
    flying: HashMap<u64, (Queued, Instant)>,
    last: u64,
    /// Since this session nothing was lost.
    unbroken: u64,
}

impl Calls {
    /// Takes in a call.
    pub(super) fn push(&mut self, call: Queued) {
        self.waiting.push_back(call);
    }

    /// Whether more calls may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.flying.len() + self.waiting.len() < FLYING_MAX
    }

    /// Whether there is something to be sent.
    pub(super) fn any_wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next calls to be sent, at most `most`.
    pub(super) fn take(&mut self, most: usize, now: Instant) -> Vec<Call> {
        let mut calls = Vec::new();
        while calls.len() < most
            && let Some(mut queued) = self.waiting.pop_front()
        {
            self.last += 1;
            queued.call.id = self.last;
            if let Some(begun) = queued.begun.take_if(|begun| begun.session < self.unbroken) {
                // Unless it was made in time, the control plane refuses it, for good.
                queued.call.copies = vec![wire::copy_to_wire(&begun)];
            }
            calls.push(queued.call.clone());
            // Whatever happens from here on, it may have been made.
            queued.call.again = true;
            self.flying.insert(self.last, (queued, now));
        }
        calls
    }

    /// An answer came.
    pub(super) fn answered(&mut self, answer: Answer) {
        if let Some((queued, _)) = self.flying.remove(&answer.id) {
            let result = wire::error(&answer).map_or(Ok(answer), Err);
            queued.answer(result);
        }
    }

    /// Whether an answer is so late that the session must be given up.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let mut sent = self.flying.values().map(|(_, sent)| *sent);
        sent.any(|sent| now.saturating_duration_since(sent) >= ANSWER_WAIT)
    }

    /// Slots may have been lost before this session began: what was begun earlier is not
    /// made any more.
    pub(super) fn begin_anew(&mut self, session: u64) {
        self.unbroken = session;
    }

    /// The session is over: what had no answer is sent again by the next.
    pub(super) fn session_ended(&mut self) {
        let mut unanswered: Vec<(u64, Queued)> = self
            .flying
            .drain()
            .map(|(id, (queued, _))| (id, queued))
            .collect();
        unanswered.sort_unstable_by_key(|(id, _)| *id);
        for (_, queued) in unanswered.into_iter().rev() {
            self.waiting.push_front(queued);
        }
    }

    /// Gives up what waited too long for a session.
    pub(super) fn expire(&mut self, now: Instant) -> GivenUp {
        let mut given_up = GivenUp::default();
        for queued in std::mem::take(&mut self.waiting) {
            match queued.is_late(now) {
                false => self.waiting.push_back(queued),
                true if queued.give_up() => given_up.unknown += 1,
                true => given_up.unreached += 1,
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::NodeId;

    use super::*;

    type Reply = oneshot::Receiver<Result<Answer, MetadataError>>;

    fn queued(operation: Operation, asked: Instant) -> (Queued, Reply) {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            operation: operation.into(),
            ..Call::default()
        };
        let queued = Queued {
            call,
            begun: None,
            asked,
            reply,
        };
        (queued, answer)
    }

    /// The sessions that the calls sent next have to be of.
    fn bound(calls: &mut Calls) -> Vec<Vec<u64>> {
        let sent = calls.take(9, Instant::now());
        let of = |call: &Call| call.copies.iter().map(|copy| copy.session).collect();
        sent.iter().map(of).collect()
    }

    #[test]
    fn what_was_begun_before_slots_may_have_been_lost_is_of_its_session_only() {
        let now = Instant::now();
        let mut calls = Calls::default();
        calls.begin_anew(4);
        let begun = |session| {
            let (mut queued, reply) = queued(Operation::CommitEntry, now);
            let node = NodeId::new("n1").unwrap();
            queued.begun = Some(CopyAt { node, session });
            (queued, reply)
        };
        let (sent, _sent) = begun(4);
        let (waits, _waits) = begun(5);
        let (free, _free) = queued(Operation::CommitObject, now);
        calls.push(sent);
        assert_eq!(bound(&mut calls), [[0; 0]]);
        // The control plane was started anew, and nobody got anything: all are made.
        calls.session_ended();
        assert_eq!(bound(&mut calls), [[0; 0]]);
        calls.push(waits);
        calls.push(free);
        calls.session_ended();
        calls.begin_anew(6);
        let (later, _later) = begun(6);
        calls.push(later);
        assert_eq!(bound(&mut calls), [vec![4], vec![5], vec![], vec![]]);
        // However often it is sent.
        calls.session_ended();
        calls.begin_anew(9);
        assert_eq!(bound(&mut calls), [vec![4], vec![5], vec![], vec![6]]);
    }

    #[test]
    fn a_call_without_an_answer_is_sent_again_before_later_ones() {
        let now = Instant::now();
        let mut calls = Calls::default();
        for operation in [Operation::Object, Operation::CommitObject] {
            calls.push(queued(operation, now).0);
        }
        let sent = calls.take(2, now);
        assert_eq!((sent.len(), sent[0].again), (2, false));
        calls.push(queued(Operation::Flush, now).0);
        calls.session_ended();
        let sent: Vec<_> = calls
            .take(9, now)
            .iter()
            .map(|c| (c.operation, c.again))
            .collect();
        let again = |operation: Operation, again| (i32::from(operation), again);
        let wanted = [
            again(Operation::Object, true),
            again(Operation::CommitObject, true),
            again(Operation::Flush, false),
        ];
        assert_eq!(sent, wanted);
    }

    #[test]
    fn what_was_sent_ends_unknown_and_what_was_not_changed_nothing() {
        let now = Instant::now();
        let mut calls = Calls::default();
        let (change, mut changed) = queued(Operation::CommitObject, now);
        let (look, mut looked) = queued(Operation::Object, now);
        calls.push(change);
        calls.push(look);
        calls.take(2, now);
        calls.session_ended();
        let (never, mut unsent) = queued(Operation::CommitObject, now);
        calls.push(never);
        let first = calls.expire(now + UNREACHED_WAIT);
        assert_eq!(
            first,
            GivenUp {
                unknown: 0,
                unreached: 1
            }
        );
        let told = unsent.try_recv().unwrap();
        assert!(matches!(told, Err(MetadataError::Unavailable(_))));
        let second = calls.expire(now + CALL_WAIT);
        assert_eq!(
            second,
            GivenUp {
                unknown: 1,
                unreached: 1
            }
        );
        assert!(matches!(
            changed.try_recv().unwrap(),
            Err(MetadataError::Unknown(_))
        ));
        assert!(matches!(
            looked.try_recv().unwrap(),
            Err(MetadataError::Unavailable(_))
        ));
    }

    #[test]
    fn an_answer_goes_to_who_asked() {
        let now = Instant::now();
        let mut calls = Calls::default();
        let (call, mut reply) = queued(Operation::Object, now);
        calls.push(call);
        let id = calls.take(1, now)[0].id;
        assert!(!calls.is_overdue(now) && calls.is_overdue(now + ANSWER_WAIT));
        calls.answered(Answer {
            id: id + 1,
            ..Answer::default()
        });
        assert!(reply.try_recv().is_err());
        calls.answered(Answer {
            id,
            ..Answer::default()
        });
        assert!(reply.try_recv().unwrap().is_ok());
        assert!(!calls.is_overdue(now + ANSWER_WAIT));
    }
}
