//! Orders to workers on their way: given by the control plane, answered in the session
//! that they were given in, or not at all. Absent: what they ask for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{BucketId, MetadataError, NodeId};
use quickwater_rpc::cluster as wire;
use quickwater_rpc::cluster::order::What;
use quickwater_rpc::cluster::{FromControl, Order, OrderAnswer};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::wire::Mistaken;
use crate::records::{RecordError, decode_pending, encode_pending};
use crate::rpc::PersistChange;

/// Orders of one worker without an answer at a time.
pub const ORDERS_MAX: usize = 4_096;

/// The way to a worker.
type Outbox = mpsc::Sender<Result<FromControl, Status>>;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It has no session now.
    #[error("worker {0} is not there now")]
    Absent(NodeId),
    /// The session ended; the order may have been carried out.
    #[error("worker {0} went away before it answered")]
    Gone(NodeId),
    /// Too many orders wait.
    #[error("worker {0} has too many orders to carry out")]
    Busy(NodeId),
}

/// All orders.
#[derive(Debug, Default)]
pub struct Orders(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    workers: HashMap<NodeId, Attended>,
}

#[derive(Debug)]
struct Attended {
    /// Names the stream: a later one of the same worker takes its place.
    stream: u64,
    outbox: Outbox,
    waiting: HashMap<u64, oneshot::Sender<OrderAnswer>>,
}

impl Orders {
    /// From now on a worker is reached by this stream; its name is answered.
    pub(crate) fn attend(&self, node: &NodeId, outbox: Outbox) -> u64 {
        let mut inner = self.lock();
        inner.last += 1;
        let attended = Attended {
            stream: inner.last,
            outbox,
            waiting: HashMap::new(),
        };
        let stream = attended.stream;
        inner.workers.insert(node.clone(), attended);
        stream
    }

    /// A stream ended; whoever waits for its answers is told.
    pub(crate) fn part(&self, node: &NodeId, stream: u64) {
        let mut inner = self.lock();
        if inner.workers.get(node).is_some_and(|a| a.stream == stream) {
            inner.workers.remove(node);
        }
    }

    /// Whether a worker is there to be given orders.
    pub(crate) fn attends(&self, node: &NodeId) -> bool {
        self.lock().workers.contains_key(node)
    }

    /// An answer came.
    pub(crate) fn answered(&self, node: &NodeId, answer: OrderAnswer) {
        let mut inner = self.lock();
        let waiting = inner.workers.get_mut(node);
        if let Some(waiter) = waiting.and_then(|a| a.waiting.remove(&answer.id)) {
            // Who gave the order may not care any more.
            let _ = waiter.send(answer);
        }
    }

    /// Gives an order and waits for its answer, for as long as the session lasts: the
    /// caller has a deadline.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn give(&self, node: &NodeId, what: What) -> Result<OrderAnswer, OrderError> {
        let (outbox, order, answer) = {
            let mut inner = self.lock();
            inner.last += 1;
            let id = inner.last;
            let Some(attended) = inner.workers.get_mut(node) else {
                return Err(OrderError::Absent(node.clone()));
            };
            // Those that nobody waits for any more do not count.
            attended.waiting.retain(|_, waiter| !waiter.is_closed());
            if attended.waiting.len() >= ORDERS_MAX {
                return Err(OrderError::Busy(node.clone()));
            }
            let (waiter, answer) = oneshot::channel();
            attended.waiting.insert(id, waiter);
            let what = Some(what);
            (attended.outbox.clone(), Order { id, what }, answer)
        };
        let message = FromControl {
            order: Some(order),
            ..FromControl::default()
        };
        let gone = || OrderError::Gone(node.clone());
        outbox.send(Ok(message)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The scope that a message says.
#[must_use]
pub fn scope_of(scope: &wire::Scope) -> Option<(BucketId, &str)> {
    (!scope.all).then_some((BucketId(scope.bucket), scope.path.as_str()))
}

/// A queued change as a message.
///
/// # Errors
/// It does not fit a row.
pub fn change_to_wire(change: &PersistChange) -> Result<wire::Change, RecordError> {
    Ok(wire::Change {
        bucket: change.bucket.0,
        key: change.key.as_str().to_owned(),
        row: encode_pending(&change.pending)?,
        running: change.running,
        attempts: change.attempts,
        error: change.error.clone(),
        due_in_ms: u64::try_from(change.due_in.as_millis()).unwrap_or(u64::MAX),
    })
}

/// A queued change from a message.
///
/// # Errors
/// It says none.
pub fn change_of(change: &wire::Change) -> Result<PersistChange, MetadataError> {
    let pending = decode_pending(&change.row).map_err(Mistaken::from)?;
    Ok(PersistChange {
        bucket: BucketId(change.bucket),
        key: super::wire::key(&change.key)?,
        pending,
        running: change.running,
        attempts: change.attempts,
        error: change.error.clone(),
        due_in: Duration::from_millis(change.due_in_ms),
        worker: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::new("n1").unwrap()
    }

    fn anything() -> What {
        What::Totals(Default::default())
    }

    #[tokio::test]
    async fn an_answer_goes_to_who_gave_the_order() {
        let orders = Orders::default();
        let absent = orders.give(&node(), anything()).await;
        assert_eq!(absent, Err(OrderError::Absent(node())));
        let (outbox, mut sent) = mpsc::channel(4);
        orders.attend(&node(), outbox);
        let answering = async {
            let id = sent.recv().await.unwrap().unwrap().order.unwrap().id;
            let answer = OrderAnswer {
                id,
                number: 7,
                ..OrderAnswer::default()
            };
            orders.answered(&node(), answer);
        };
        let node = node();
        let (given, ()) = tokio::join!(orders.give(&node, anything()), answering);
        assert_eq!(given.unwrap().number, 7);
    }

    #[tokio::test]
    async fn a_session_that_ends_answers_nothing() {
        let orders = Orders::default();
        let (outbox, mut sent) = mpsc::channel(4);
        let node = node();
        let stream = orders.attend(&node, outbox);
        let ending = async {
            sent.recv().await.unwrap().unwrap();
            orders.part(&node, stream + 1);
            orders.part(&node, stream);
        };
        let (given, ()) = tokio::join!(orders.give(&node, anything()), ending);
        assert_eq!(given, Err(OrderError::Gone(node.clone())));
    }
}
