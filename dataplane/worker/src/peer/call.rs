//! A call to another worker, from its first byte to its answer. Absent: what is asked
//! for, and what is done with the answer.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use quickwater_peer::{
    Answer, Call, Cancel, Capability, Frame, Grant, Kind, Promise, Refusal, RefusalKind, Task,
};
use quickwater_proto::NodeId;

use super::connect::{Peers, Taken};
use super::limit::ANSWER_WAIT;
use super::stats::{Failure, bump, task_number};
use super::wire::{Wire, WireError, head};
use crate::buffers::PoolBuf;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct CallFailure {
    pub(crate) failure: Failure,
    /// It may have been begun, or even done.
    pub(crate) begun: bool,
    pub(crate) why: Cow<'static, str>,
}

impl CallFailure {
    /// One before anything began.
    pub(crate) fn new(failure: Failure, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            failure,
            begun: false,
            why: why.into(),
        }
    }

    fn broken(error: &WireError) -> Self {
        let failure = match error.is_protocol() {
            true => Failure::Protocol,
            false => Failure::Broken,
        };
        Self {
            failure,
            begun: true,
            why: error.to_string().into(),
        }
    }
}

/// What the called worker wants next.
#[derive(Debug)]
pub(crate) enum Reply {
    /// So many pieces of the body more.
    More(u32),
    /// It is done. The body follows, if there is one.
    Answer(Box<Answer>),
}

/// A call under way. Dropping it closes the connection, which ends it there.
pub(crate) struct Outgoing {
    peers: Peers,
    taken: Taken,
    /// The body of the request began, and has not ended yet.
    sending: bool,
}

impl Peers {
    /// Calls `node`. Of `right` only bucket, key, operation and slot count.
    pub(crate) async fn call(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        body: &[u8],
    ) -> Result<Outgoing, CallFailure> {
        let called = self.try_call(node, task, right, body).await;
        match &called {
            Ok(_) => {
                if let Some(at) = task_number(task) {
                    bump(&self.stats().made[at]);
                }
            }
            Err(failed) => self.stats().fail(failed.failure),
        }
        called
    }

    async fn try_call(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        body: &[u8],
    ) -> Result<Outgoing, CallFailure> {
        let right = self.directory().allow(node, right);
        let no_key = || CallFailure::new(Failure::Unreached, "no key of the cluster yet");
        let call = Call {
            capability: Some(right.ok_or_else(no_key)?),
            task: task.into(),
        };
        loop {
            let mut taken = self.take(node).await?;
            taken.wire.begin();
            let sent = taken.wire.send(Kind::Call, &call, body, ANSWER_WAIT).await;
            match sent {
                Ok(()) => {
                    return Ok(Outgoing {
                        peers: self.clone(),
                        taken,
                        sending: false,
                    });
                }
                // It was closed while it was idle: what is not whole is not begun.
                Err(WireError::Transport(_)) if taken.used => {}
                Err(error) => {
                    let failed = CallFailure::broken(&error);
                    return Err(CallFailure {
                        begun: false,
                        ..failed
                    });
                }
            }
        }
    }
}

impl Outgoing {
    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.taken.wire
    }

    /// Waits for what comes next.
    pub(crate) async fn reply(&mut self) -> Result<Reply, CallFailure> {
        self.reply_within(ANSWER_WAIT).await
    }

    /// The same within a shorter time.
    pub(crate) async fn reply_within(&mut self, wait: Duration) -> Result<Reply, CallFailure> {
        let reply = self.try_reply(wait).await;
        reply.inspect_err(|failed| self.peers.stats().fail(failed.failure))
    }

    async fn try_reply(&mut self, wait: Duration) -> Result<Reply, CallFailure> {
        let received = self.wire().receive(wait).await;
        let (frame, bytes) = received.map_err(|error| CallFailure::broken(&error))?;
        self.understand(frame, &bytes).await
    }

    async fn understand(&mut self, frame: Frame, bytes: &[u8]) -> Result<Reply, CallFailure> {
        let broken = |error: WireError| CallFailure::broken(&error);
        match frame.kind {
            Kind::Grant => {
                let grant: Grant = head(bytes).map_err(broken)?;
                Ok(Reply::More(grant.pieces))
            }
            Kind::Answer => {
                let answer: Answer = head(bytes).map_err(broken)?;
                if std::mem::take(&mut self.sending) {
                    self.cancel(Promise::Gone).await?;
                }
                Ok(Reply::Answer(Box::new(answer)))
            }
            Kind::Refused => {
                let refusal: Refusal = head(bytes).map_err(broken)?;
                let failure = match refusal.kind() {
                    RefusalKind::NotHere | RefusalKind::NotAllowed => Failure::NotHere,
                    RefusalKind::Busy => Failure::Busy,
                    RefusalKind::Mistaken => Failure::Protocol,
                };
                Err(CallFailure::new(failure, refusal.text))
            }
            kind => Err(broken(WireError::Unexpected(kind))),
        }
    }

    /// Waits for the answer to a call without a body.
    pub(crate) async fn answer(&mut self) -> Result<Box<Answer>, CallFailure> {
        match self.reply().await? {
            Reply::Answer(answer) => Ok(answer),
            Reply::More(_) => Err(CallFailure::broken(&WireError::Unexpected(Kind::Grant))),
        }
    }

    /// Sends a piece of the request's body that was asked for.
    pub(crate) async fn send(&mut self, piece: PoolBuf, last: bool) -> Result<(), CallFailure> {
        self.sending = !last;
        let sent = self.wire().send_piece(Vec::new(), piece, last).await;
        sent.map_err(|error| CallFailure::broken(&error))
    }

    /// The same of bytes that others are sent, too.
    pub(crate) async fn send_shared(
        &mut self,
        piece: Bytes,
        last: bool,
    ) -> Result<(), CallFailure> {
        self.sending = !last;
        let sent = self.wire().send_shared(piece, last).await;
        sent.map_err(|error| CallFailure::broken(&error))
    }

    /// Says that the rest of the body will not come. What the called worker makes of it
    /// is its answer.
    pub(crate) async fn cancel(&mut self, why: Promise) -> Result<(), CallFailure> {
        self.sending = false;
        let cancel = Cancel { why: why.into() };
        let sent = self
            .wire()
            .send(Kind::Cancel, &cancel, &[], Duration::ZERO)
            .await;
        sent.map_err(|error| CallFailure::broken(&error))
    }

    /// The answer was taken whole: its connection serves the next call.
    pub(crate) fn done(self) {
        self.peers.clone().give_back(self.taken);
    }
}
