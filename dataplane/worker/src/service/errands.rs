//! What other workers ask for in the course of their own work, done. Absent: asking
//! (`across.rs`, `copy.rs`, `peer/ask.rs`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quickwater_engine::io::Disk;
use quickwater_engine::{FlowError, World};
use quickwater_peer::{
    Answer, CopySource, DeleteKeys, DeleteResults, Deleted, FrameError, HidesBelow, Kind,
    LookAgain, Message, RefusalKind, Task, decode,
};
use quickwater_proto::{Bucket, BucketName, ObjectKey, ObjectRecord};
use quickwater_s3::S3Error;

use super::across::entry_from_wire;
use super::answer::flow_error;
use super::host::{Hosting, NOT_OURS, send_stream};
use super::read::ObjectBytes;
use super::records::record_to_wire;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::peer::{Wire, WireError, deletes_to_wire};

/// Most bytes of a message: so many keys of the longest, and what goes with each.
const ERRAND_BYTES_MAX: usize = 512 << 10;
/// What a message is read into takes more than its bytes.
const ERRAND_FACTOR: usize = 3;
/// Keys of one message deleted at the same time.
const DELETES_AT_ONCE: usize = 16;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn host_errand(
        &self,
        hosting: &Hosting<'_>,
        task: Task,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        if wire.left() > ERRAND_BYTES_MAX {
            return Err(FrameError::TooLong.into());
        }
        let charge = self.documents.charge(wire.left() * ERRAND_FACTOR).await;
        let Some(_charge) = charge else {
            wire.skip().await?;
            let text = "no memory for it now";
            return hosting.refuse(wire, RefusalKind::Busy, text).await;
        };
        let message = wire.take_all().await?;
        let bucket = match self.bucket_named(&hosting.right.bucket).await {
            Ok(bucket) => bucket,
            Err(error) => return send_error(wire, &error).await,
        };
        match task {
            Task::LookAgain => {
                let done = self.look_again(&bucket, &decode(&message)?).await;
                send_done(wire, done, Vec::new()).await
            }
            Task::HidesBelow => {
                let asked: HidesBelow = decode(&message)?;
                let deletes = self.engine.deletes_below(&bucket, &asked.prefix);
                let answer = Answer {
                    status: 200,
                    yes: deletes.unsent,
                    ..Answer::default()
                };
                let body = deletes_to_wire(deletes).encode_to_vec();
                wire.send(Kind::Answer, &answer, &body, Duration::ZERO)
                    .await
            }
            Task::SettleBucket => {
                let done = self.engine.settle_bucket(&bucket).await;
                send_done(wire, done.map_err(flow_error), Vec::new()).await
            }
            Task::DeleteKeys => {
                let asked: DeleteKeys = decode(&message)?;
                let keys = asked.entries.iter().map(|entry| entry.key.as_str());
                if !self.owns_all(&bucket, keys) {
                    return hosting.refuse(wire, RefusalKind::NotHere, NOT_OURS).await;
                }
                let results = self.delete_keys(&bucket, asked).await;
                send_done(wire, Ok(()), results.encode_to_vec()).await
            }
            Task::CopySource => {
                if !self.owns_all(&bucket, [hosting.right.key.as_str()]) {
                    return hosting.refuse(wire, RefusalKind::NotHere, NOT_OURS).await;
                }
                self.give_source(hosting, &bucket, decode(&message)?, wire)
                    .await
            }
            Task::Unspecified
            | Task::Relay
            | Task::StoreCopy
            | Task::FetchCopy
            | Task::LookAtCopies
            | Task::HasCopies
            | Task::ReadStripe
            | Task::CountChunks
            | Task::ForgetChunks
            | Task::TakeConnection
            | Task::SendOn
            | Task::ConnectionsEnded => Err(WireError::Unexpected(Kind::Call)),
        }
    }

    /// Whether all of it is for this worker: who asks looks for the owner again if not, as
    /// long as nothing has begun.
    fn owns_all<'k>(&self, bucket: &Bucket, keys: impl IntoIterator<Item = &'k str>) -> bool {
        keys.into_iter()
            .all(|key| self.engine.permit(bucket.id, key).is_ok())
    }

    async fn bucket_named(&self, name: &str) -> Result<Arc<Bucket>, S3Error> {
        let name = BucketName::new(name);
        let name = name.map_err(|error| S3Error::request(error.to_string()))?;
        self.engine.bucket(&name).await.map_err(flow_error)
    }

    async fn look_again(&self, bucket: &Bucket, asked: &LookAgain) -> Result<(), S3Error> {
        let keys = asked.keys.iter().map(|key| ObjectKey::new(key));
        let keys: Vec<ObjectKey> = keys
            .collect::<Result<_, _>>()
            .map_err(|error| S3Error::request(error.to_string()))?;
        let looked = self.engine.look_again(bucket, &keys).await;
        looked.map_err(flow_error)
    }

    async fn delete_keys(&self, bucket: &Arc<Bucket>, asked: DeleteKeys) -> DeleteResults {
        let results = stream::iter(asked.entries)
            .map(async |entry| {
                let done = match entry_from_wire(entry) {
                    Ok(entry) => self.delete_entry(bucket, &entry).await,
                    Err(error) => Err(error),
                };
                match done {
                    Ok(()) => Deleted::default(),
                    Err(error) => Deleted {
                        code: error.code.as_str().to_owned(),
                        text: error.message.into_owned(),
                    },
                }
            })
            .buffered(DELETES_AT_ONCE)
            .collect()
            .await;
        DeleteResults { results }
    }

    /// Gives the record of an object and the bytes that are to be copied.
    async fn give_source(
        &self,
        hosting: &Hosting<'_>,
        bucket: &Arc<Bucket>,
        asked: CopySource,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        let key = match ObjectKey::new(&hosting.right.key) {
            Ok(key) => key,
            Err(error) => return send_error(wire, &S3Error::request(error.to_string())).await,
        };
        let mut revalidate = asked.revalidate;
        loop {
            let opened = self.open_source(hosting, bucket, &key, (&asked, revalidate));
            match opened.await {
                // It was another one by then: give what is there now.
                Err(Unopened::Changed) if !revalidate => revalidate = true,
                Err(Unopened::Changed) => {
                    return send_error(wire, &flow_error(FlowError::Changed)).await;
                }
                Err(Unopened::Failed(error)) => return send_error(wire, &error).await,
                Ok((record, length, body)) => {
                    let answer = Answer {
                        status: 200,
                        length,
                        streams: body.is_some(),
                        ..Answer::default()
                    };
                    let record = record_to_wire(&record).encode_to_vec();
                    wire.send(Kind::Answer, &answer, &record, Duration::ZERO)
                        .await?;
                    return match body {
                        Some(body) => send_stream(wire, Vec::new(), length, body).await,
                        None => Ok(()),
                    };
                }
            }
        }
    }

    async fn open_source(
        &self,
        hosting: &Hosting<'_>,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        (asked, revalidate): (&CopySource, bool),
    ) -> Result<(Arc<ObjectRecord>, u64, Option<ObjectBytes<W>>), Unopened> {
        let record = self.engine.resolve(bucket, key, revalidate).await?;
        let range = wanted(asked, record.size);
        let length = range.end - range.start;
        if length == 0 || length > asked.bytes_max {
            return Ok((record, 0, None));
        }
        let permit = hosting.neighbours.sources.enter().await;
        let permit = permit.ok_or_else(|| Unopened::Failed(super::dispatch::slow_down()))?;
        let reader = self.engine.read(bucket, key, &record, range);
        let mut reader = reader.with_depth(1);
        let first = reader.next().await?;
        let first = first.ok_or_else(|| {
            FlowError::Damaged("the object has fewer bytes than its record says".into())
        })?;
        let body = ObjectBytes::new(first, reader, Some(permit));
        Ok((record, length, Some(body)))
    }
}

/// Why a source cannot be given.
enum Unopened {
    Changed,
    Failed(S3Error),
}

impl From<FlowError> for Unopened {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Changed => Self::Changed,
            error => Self::Failed(flow_error(error)),
        }
    }
}

/// The bytes that are wanted: none if the range does not lie within the object.
fn wanted(asked: &CopySource, size: u64) -> Range<u64> {
    match asked.ranged {
        false => 0..size,
        true if asked.first <= asked.last && asked.last < size => asked.first..asked.last + 1,
        true => 0..0,
    }
}

async fn send_done(
    wire: &mut Wire,
    done: Result<(), S3Error>,
    body: Vec<u8>,
) -> Result<(), WireError> {
    if let Err(error) = done {
        return send_error(wire, &error).await;
    }
    let answer = Answer {
        status: 200,
        ..Answer::default()
    };
    wire.send(Kind::Answer, &answer, &body, Duration::ZERO)
        .await
}

async fn send_error(wire: &mut Wire, error: &S3Error) -> Result<(), WireError> {
    let answer = Answer {
        status: error.status().into(),
        code: error.code.as_str().to_owned(),
        text: error.message.clone().into_owned(),
        ..Answer::default()
    };
    wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
}
