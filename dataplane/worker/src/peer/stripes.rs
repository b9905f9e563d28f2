//! Clean bytes of large objects that other workers hold: asked for, counted, forgotten.
//! Absent: giving them (`service/stripes.rs`), who holds which (the engine).

use quickwater_engine::FlowError;
use quickwater_engine::io::{ChunkRun, Given, StripeError, StripeRead};
use quickwater_peer::{
    Capability, ChunkRuns, Content, Counts, ExtentAt, ReadStripe, Run, Task, decode, encode,
};
use quickwater_proto::{Extent, NodeId, ObjectRecord};

use super::ask::right_to;
use super::call::{CallFailure, Outgoing, Reply};
use super::connect::Peers;
use super::copies::{blob_of, blob_to_wire};
use super::limit::STRIPE_WAIT;
use super::stats::Failure;
use crate::buffers::PoolBuf;

impl Peers {
    /// See [`quickwater_engine::io::StripePeers::read_stripe`].
    pub(super) async fn read_stripe(
        &self,
        node: &NodeId,
        read: &StripeRead<'_>,
        into: Option<PoolBuf>,
    ) -> Result<Given<PoolBuf>, StripeError> {
        let message = ReadStripe {
            bucket: read.bucket.id.0,
            content: content_to_wire(read.record),
            extent: Some(extent_to_wire(read.extent.0)),
            extent_start: read.extent.1,
            first: read.first,
            until: read.until,
            source: read.source.map(ToString::to_string).unwrap_or_default(),
            unseen: into.is_none(),
        };
        let right = Capability {
            key: read.key.as_str().to_owned(),
            ..right_to(read.bucket, "ReadStripe")
        };
        let body = encode(&message).map_err(|error| StripeError::Refused(error.to_string()))?;
        let call = self.call(node, Task::ReadStripe, right, &body).await;
        let given = match call {
            Ok(call) => given(call, into).await,
            Err(failed) => Err(failed.into()),
        };
        if let Err(failed) = &given {
            tracing::debug!(%node, %failed, "a worker does not give a stripe");
        }
        given
    }

    /// See [`quickwater_engine::io::StripePeers::count_chunks`].
    pub(super) async fn count_chunks(
        &self,
        node: &NodeId,
        runs: &[ChunkRun],
    ) -> Result<Vec<u64>, CallFailure> {
        let asked = (Task::CountChunks, "CountChunks");
        self.ask_of_chunks(node, asked, runs).await
    }

    /// See [`quickwater_engine::io::StripePeers::forget_chunks`].
    pub(super) async fn forget_chunks(
        &self,
        node: &NodeId,
        runs: &[ChunkRun],
    ) -> Result<Vec<u64>, CallFailure> {
        let asked = (Task::ForgetChunks, "ForgetChunks");
        self.ask_of_chunks(node, asked, runs).await
    }

    async fn ask_of_chunks(
        &self,
        node: &NodeId,
        (task, operation): (Task, &str),
        runs: &[ChunkRun],
    ) -> Result<Vec<u64>, CallFailure> {
        let message = ChunkRuns {
            runs: runs.iter().map(run_to_wire).collect(),
        };
        let right = Capability {
            operation: operation.to_owned(),
            ..Capability::default()
        };
        let (answer, body) = self.ask_soon(node, task, right, &message).await?;
        let wrong = |why: String| CallFailure::new(Failure::Protocol, why);
        if !answer.code.is_empty() {
            return Err(wrong(answer.code));
        }
        let counts: Counts = decode(&body).map_err(|error| wrong(error.to_string()))?;
        match counts.counts.len() == runs.len() {
            true => Ok(counts.counts),
            false => Err(wrong("not one count for each run".into())),
        }
    }
}

/// Takes what a worker gives.
async fn given(mut call: Outgoing, into: Option<PoolBuf>) -> Result<Given<PoolBuf>, StripeError> {
    call.wire().hurry(STRIPE_WAIT);
    let answer = match call.reply_within(STRIPE_WAIT).await? {
        Reply::Answer(answer) if !answer.streams => answer,
        Reply::Answer(_) | Reply::More(_) => {
            return Err(StripeError::Refused("what was not asked for".into()));
        }
    };
    if answer.changed || !answer.code.is_empty() {
        call.wire()
            .skip()
            .await
            .map_err(|e| StripeError::Unreached(e.to_string()))?;
        call.done();
        return Err(match answer.changed {
            true => StripeError::Changed,
            false => StripeError::Refused(format!("{} {}", answer.code, answer.text)),
        });
    }
    let bytes = match into {
        None if call.wire().left() == 0 => None,
        Some(buffer) if call.wire().left() <= buffer.tail_room() => {
            let (buffer, taken) = call.wire().take_buffer(buffer).await;
            taken.map_err(|error| StripeError::Unreached(error.to_string()))?;
            Some(buffer)
        }
        None | Some(_) => return Err(StripeError::Refused("more than was asked for".into())),
    };
    call.done();
    Ok(Given {
        bytes,
        stored: answer.yes,
    })
}

impl From<CallFailure> for StripeError {
    fn from(failed: CallFailure) -> Self {
        let why = failed.why.into_owned();
        match failed.failure {
            Failure::NoOwner | Failure::Unreached | Failure::Broken => Self::Unreached(why),
            Failure::NotHere | Failure::Busy | Failure::Protocol => Self::Refused(why),
        }
    }
}

/// What a record says of its content; none of what no UFS has.
pub(crate) fn content_to_wire(record: &ObjectRecord) -> Option<Content> {
    let ufs = record.ufs.as_ref()?;
    Some(Content {
        size: record.size,
        etag: record.etag.as_str().to_owned(),
        modified_ns: ufs.modified_ns,
        token: ufs.token.clone(),
    })
}

pub(crate) fn extent_to_wire(extent: &Extent) -> ExtentAt {
    ExtentAt {
        blob: blob_to_wire(extent.blob),
        size: extent.size,
    }
}

/// An extent; none: it is not that.
pub(crate) fn extent_of(extent: &ExtentAt) -> Option<Extent> {
    let blob = blob_of(&extent.blob)?;
    let size = extent.size;
    (size > 0).then_some(Extent { blob, size })
}

fn run_to_wire(run: &ChunkRun) -> Run {
    Run {
        blob: blob_to_wire(run.blob),
        first: run.first,
        end: run.end,
    }
}

/// A run; none: it is not that.
pub(crate) fn run_of(run: &Run) -> Option<ChunkRun> {
    let blob = blob_of(&run.blob)?;
    let (first, end) = (run.first, run.end);
    (first < end).then_some(ChunkRun { blob, first, end })
}

/// What another worker says of chunks, as a flow sees it.
pub(super) fn counted(counts: Result<Vec<u64>, CallFailure>) -> Result<Vec<u64>, FlowError> {
    counts.map_err(|failed| match failed.failure {
        Failure::Busy => FlowError::SlowDown("another worker has too much to do".into()),
        Failure::NotHere | Failure::Protocol => FlowError::NotHere("another worker refuses"),
        Failure::NoOwner | Failure::Unreached | Failure::Broken => {
            FlowError::Unavailable(format!("another worker: {failed}"))
        }
    })
}
