//! What becomes of what is here and has an entry in the journal, by the metadata of a
//! cluster, which are never replayed from it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::records::JournalEntry;
use quickwater_engine::Shared;
use quickwater_proto::{BlobId, CopyOf, slot_of};
use quickwater_worker::store::{Fate, JournalError, Store};
use tokio::task::{JoinError, JoinSet};

use super::fate_of;
use crate::serve::names::Rows;

/// Entries of the journal that the metadata are asked about at a time.
const ASKED_MAX: usize = 256;

/// What becomes of blobs that have an entry, by the metadata of a cluster: an entry
/// whose commit was acked is in them, and no other is committed any more. The largest
/// sequence seen.
///
/// What is of keys that are not ours is kept for their owners.
pub(super) async fn judge(
    rows: &impl Rows,
    store: &Store,
    (shared, mine): (&Shared, &(dyn Fn(usize) -> bool + Sync)),
    fates: &mut HashMap<BlobId, Fate>,
) -> Result<u64> {
    let mut last = 0;
    let mut asked = JoinSet::new();
    for entry in store.journal().context("no memory to read the journal")? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error @ JournalError::Damaged { .. }) => {
                tracing::error!(%error, "a commit that was flushed cannot be read");
                continue;
            }
            Err(error) => bail!("the journal cannot be read: {error}"),
        };
        fates.insert(entry.blob, Fate::Forget);
        if entry.data.is_empty() {
            continue;
        }
        let commit = JournalEntry::decode(&entry.data)
            .with_context(|| format!("the journal entry of blob {}", entry.blob))?;
        last = last.max(commit.sequence);
        if asked.len() >= ASKED_MAX {
            take_fate(asked.join_next().await, shared, fates)?;
        }
        let (rows, blob) = (rows.clone(), entry.blob);
        let foreign = !mine(slot_of(commit.bucket, &commit.key));
        asked.spawn(async move {
            let fate = fate_of(&rows, commit.bucket, &commit.key, blob).await?;
            let copy = CopyOf {
                bucket: commit.bucket,
                key: commit.key,
                blob,
                part: None,
                // Its session names ours, which has ended: it commits nothing any more.
                owner: None,
            };
            let copy = foreign.then_some((copy, commit.object.size));
            Ok::<_, anyhow::Error>((blob, fate, copy))
        });
    }
    while !asked.is_empty() {
        take_fate(asked.join_next().await, shared, fates)?;
    }
    Ok(last)
}

/// A blob, what becomes of it, and, if the key is another worker's, what it is a copy of.
type Judged = (BlobId, Fate, Option<(CopyOf, u64)>);

fn take_fate(
    asked: Option<Result<Result<Judged>, JoinError>>,
    shared: &Shared,
    fates: &mut HashMap<BlobId, Fate>,
) -> Result<()> {
    if let Some(answer) = asked {
        let (blob, fate, copy) = answer??;
        fates.insert(blob, fate);
        if let (Fate::Keep, Some((copy, bytes))) = (fate, copy) {
            shared.kept.keep(copy, bytes, true, Duration::ZERO);
        }
    }
    Ok(())
}
