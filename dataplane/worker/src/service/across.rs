//! A batch of deletes, each key at its owner. Absent: the batch as clients send it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt};
use quickwater_engine::World;
use quickwater_engine::io::Disk;
use quickwater_peer::{DeleteEntry as WireEntry, DeleteKeys, DeleteResults, Task, decode};
use quickwater_proto::{Bucket, ETag, NodeId, ObjectKey, PutCondition, slot_of};
use quickwater_s3::xml::DeleteEntry;
use quickwater_s3::{S3Error, S3ErrorCode};

use super::dispatch::slow_down;
use super::place::Neighbours;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::peer::{CallFailure, Failure, KEYS_PER_CALL, RELAY_WAIT, RETRY_PAUSE, Where, right_to};

/// Keys of one DeleteObjects worked on at the same time.
const DELETES_AT_ONCE: usize = 16;

/// What came of an entry, by its place in the batch.
type Numbered = (usize, Result<(), S3Error>);

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Deletes keys, wherever they are; results in the order of the entries.
    ///
    /// # Errors
    /// No worker answered for some of the keys. Clients repeat a request that failed, not
    /// single keys of one that did not: s3fs does not even look at these. Where an entry has
    /// a condition, which deletes that were made would change, each key says it for itself.
    pub(super) async fn delete_entries(
        &self,
        bucket: &Arc<Bucket>,
        entries: Vec<DeleteEntry>,
    ) -> Result<Vec<(ObjectKey, Result<(), S3Error>)>, S3Error> {
        let mut results: Vec<Option<Result<(), S3Error>>> = vec![None; entries.len()];
        let mut broke_off = false;
        let until = Instant::now() + RELAY_WAIT;
        loop {
            let open = (0..entries.len()).filter(|at| results[*at].is_none());
            let places = self.places_of(bucket, &entries, open);
            let ours = self.delete_ours(bucket, &entries, &places.ours);
            let others = places.others.iter().map(async |(node, numbers)| {
                self.delete_at(bucket, &entries, (node, numbers)).await
            });
            let (ours, others) = join(ours, join_all(others)).await;
            broke_off |= others.iter().any(|other| other.broke_off);
            let others = others.into_iter().flat_map(|other| other.done);
            for (at, result) in ours.into_iter().chain(others) {
                results[at] = Some(result);
            }
            if results.iter().all(Option::is_some) || Instant::now() >= until {
                break;
            }
            monoio::time::sleep(RETRY_PAUSE).await;
        }
        let repeatable = entries
            .iter()
            .all(|entry| entry.condition == PutCondition::None);
        if repeatable && broke_off {
            let text = "A worker that owns some of the keys gave no answer: these may be deleted \
                        or not. Try again.";
            return Err(S3Error::new(S3ErrorCode::ServiceUnavailable, text));
        }
        if repeatable && results.iter().any(Option::is_none) {
            return Err(slow_down());
        }
        let keys = entries.into_iter().map(|entry| entry.key);
        let results = results.into_iter();
        let results = results.map(|result| result.unwrap_or_else(|| Err(slow_down())));
        Ok(keys.zip(results).collect())
    }

    /// Whose the entries are; those of nobody are left out.
    fn places_of(
        &self,
        bucket: &Bucket,
        entries: &[DeleteEntry],
        open: impl Iterator<Item = usize>,
    ) -> Places {
        let mut places = Places::default();
        for at in open {
            let place = match &self.neighbours {
                None => Ok(Where::Here),
                Some(neighbours) => self.place(neighbours, slot_of(bucket.id, &entries[at].key)),
            };
            match place {
                Ok(Where::There(node)) => places.others.entry(node).or_default().push(at),
                Ok(_) => places.ours.push(at),
                // Without a lease it does not come: that is said at once.
                Err(_) if self.engine.permit_lease().is_err() => places.ours.push(at),
                Err(_) => {}
            }
        }
        places
    }

    async fn delete_ours(
        &self,
        bucket: &Arc<Bucket>,
        entries: &[DeleteEntry],
        numbers: &[usize],
    ) -> Vec<Numbered> {
        stream::iter(numbers)
            .map(async |at| (*at, self.delete_entry(bucket, &entries[*at]).await))
            .buffered(DELETES_AT_ONCE)
            .collect()
            .await
    }

    /// Has another worker delete its keys. What it did not begin is left out.
    async fn delete_at(
        &self,
        bucket: &Bucket,
        entries: &[DeleteEntry],
        (node, numbers): (&NodeId, &[usize]),
    ) -> DoneThere {
        let mut there = DoneThere::default();
        let Some(neighbours) = &self.neighbours else {
            return there;
        };
        for numbers in numbers.chunks(KEYS_PER_CALL) {
            match delete_there(neighbours, bucket, entries, (node, numbers)).await {
                Ok(done) => there.done.extend(numbers.iter().copied().zip(done)),
                Err(failed) if failed.begun => {
                    tracing::warn!(%node, error = %failed, "a batch of deletes broke off");
                    let unknown: S3Error = S3ErrorCode::ServiceUnavailable.into();
                    let unknown = numbers.iter().map(|at| (*at, Err(unknown.clone())));
                    there.done.extend(unknown);
                    there.broke_off = true;
                }
                Err(_) => {}
            }
        }
        there
    }
}

/// What came of entries at another worker.
#[derive(Default)]
struct DoneThere {
    done: Vec<Numbered>,
    /// Of some it is not known.
    broke_off: bool,
}

/// Entries of a batch by who owns their keys.
#[derive(Default)]
struct Places {
    ours: Vec<usize>,
    others: BTreeMap<NodeId, Vec<usize>>,
}

async fn delete_there(
    neighbours: &Neighbours,
    bucket: &Bucket,
    entries: &[DeleteEntry],
    (node, numbers): (&NodeId, &[usize]),
) -> Result<Vec<Result<(), S3Error>>, CallFailure> {
    let message = DeleteKeys {
        entries: numbers
            .iter()
            .map(|at| entry_to_wire(&entries[*at]))
            .collect(),
    };
    let right = right_to(bucket, "DeleteObjects");
    let peers = &neighbours.peers;
    let (answer, body) = peers.ask(node, Task::DeleteKeys, right, &message).await?;
    let broken = |why: &'static str| CallFailure {
        begun: true,
        ..CallFailure::new(Failure::Protocol, why)
    };
    if !answer.code.is_empty() {
        let error = S3Error::new(code_named(&answer.code), answer.text);
        return Ok(vec![Err(error); numbers.len()]);
    }
    let done: DeleteResults = decode(&body).map_err(|_| broken("not the results of deletes"))?;
    if done.results.len() != numbers.len() {
        return Err(broken("not a result for every delete"));
    }
    let results = done.results.into_iter().map(|result| match result.code {
        code if code.is_empty() => Ok(()),
        code => Err(S3Error::new(code_named(&code), result.text)),
    });
    Ok(results.collect())
}

/// A code this version knows.
pub(super) fn code_named(code: &str) -> S3ErrorCode {
    S3ErrorCode::named(code).unwrap_or(S3ErrorCode::InternalError)
}

fn entry_to_wire(entry: &DeleteEntry) -> WireEntry {
    let (condition, etag) = match &entry.condition {
        PutCondition::Present => (1, String::new()),
        PutCondition::Match(etag) => (2, etag.as_str().to_owned()),
        // A batch has no others.
        PutCondition::None | PutCondition::Absent | PutCondition::Version(_) => (0, String::new()),
    };
    WireEntry {
        key: entry.key.as_str().to_owned(),
        condition,
        etag,
    }
}

pub(super) fn entry_from_wire(entry: WireEntry) -> Result<DeleteEntry, S3Error> {
    let key = ObjectKey::new(&entry.key);
    let key = key.map_err(|error| S3Error::request(error.to_string()))?;
    let condition = match entry.condition {
        0 => PutCondition::None,
        1 => PutCondition::Present,
        2 if !entry.etag.is_empty() => PutCondition::Match(ETag::new(&entry.etag)),
        _ => return Err(S3Error::request("a condition this version does not know")),
    };
    Ok(DeleteEntry { key, condition })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_the_wire() {
        let key = ObjectKey::new("a/b").unwrap();
        let conditions = [
            PutCondition::None,
            PutCondition::Present,
            PutCondition::Match(ETag::new("900150983cd24fb0d6963f7d28e17f72")),
        ];
        for condition in conditions {
            let entry = DeleteEntry {
                key: key.clone(),
                condition,
            };
            assert_eq!(entry_from_wire(entry_to_wire(&entry)).unwrap(), entry);
        }
        let strange = |condition, etag: &str| WireEntry {
            key: "a".into(),
            condition,
            etag: etag.into(),
        };
        entry_from_wire(strange(3, "")).unwrap_err();
        entry_from_wire(strange(2, "")).unwrap_err();
    }
}
