//! Commits that only the journal has are made again, in metadata that are this process's own.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::namespace::{Namespace, Replayed};
use quickwater_controlplane::records::JournalEntry;
use quickwater_proto::BlobId;
use quickwater_worker::store::{FactError, Fate, JournalError, Store};

use super::fate_of;
use crate::store::MetadataStore;

/// What a start found.
#[derive(Debug, Default)]
struct Found {
    replayed: u64,
    known: u64,
    torn: u64,
    damaged: u64,
}

/// Refuses a journal that was written with other metadata: its buckets go by
/// numbers, which the metadata gives, and what of it the UFS has, was replaced or
/// deleted since, only that metadata knew. Replayed, it would bring all of it back.
pub(super) async fn claim(namespace: &Namespace<MetadataStore>, store: &Store) -> Result<()> {
    let known = namespace.journal_of().await?;
    if known.as_deref() == Some(store.identity().as_slice()) {
        return Ok(());
    }
    // Nobody noted whose it is before this version did.
    let unsaid = known.is_none() && namespace.journal_through().await? > 0;
    let acked = match unsaid {
        true => 0,
        false => count_acked(store)?,
    };
    if acked > 0 {
        bail!(
            "the metadata is not the one that the cache store was written with, and the store \
             holds {acked} writes that were acked before their UFS had them. Put the old \
             `metadata` directory back. If it is lost, empty the metadata and run `quickwater \
             metadata rebuild`, which finds out which of them the UFS has not. Without a \
             rebuild, move the `store` directory away: what the UFS has is then served from \
             there, what it has not is lost"
        );
    }
    namespace.set_journal_of(&store.identity()).await?;
    Ok(())
}

/// Entries of the journal that stand for an object, and notes that have not ended.
fn count_acked(store: &Store) -> Result<u64> {
    let mut count = 0;
    for fact in store.facts().context("no memory to read the journal")? {
        match fact {
            Ok(fact) if fact.is_note => count += u64::from(!fact.has_ended),
            Ok(fact) => count += u64::from(!fact.data.is_empty()),
            Err(FactError { cause: None, .. }) => count += 1,
            Err(error) => bail!("the journal cannot be read: {error}"),
        }
    }
    Ok(count)
}

/// Makes commits again that a power cut took from the metadata, in their order;
/// the largest sequence seen. `fates` learns of every blob that has an entry.
pub(super) async fn replay(
    namespace: &Namespace<MetadataStore>,
    store: &Store,
    fates: &mut HashMap<BlobId, Fate>,
) -> Result<u64> {
    let through = namespace.journal_through().await?;
    let mut found = Found::default();
    let mut last = through;
    let mut later = Vec::new();
    let mut settled = Vec::new();
    for entry in store.journal().context("no memory to read the journal")? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error @ JournalError::Damaged { .. }) => {
                tracing::error!(%error, "a commit that was flushed cannot be read");
                found.damaged += 1;
                continue;
            }
            Err(error) => bail!("the journal cannot be read: {error}"),
        };
        // Says that its commit must never be made.
        if entry.data.is_empty() {
            fates.insert(entry.blob, Fate::Forget);
            continue;
        }
        let commit = JournalEntry::decode(&entry.data)
            .with_context(|| format!("the journal entry of blob {}", entry.blob))?;
        last = last.max(commit.sequence);
        if commit.sequence > through {
            later.push((commit.sequence, entry));
        } else {
            found.known += 1;
            settled.push((commit.bucket, commit.key, entry.blob));
        }
    }
    later.sort_unstable_by_key(|(sequence, _)| *sequence);
    for (_, entry) in later {
        let commit = JournalEntry::decode(&entry.data)?;
        if store.holds(entry.blob, commit.object.size) {
            match namespace.replay(&entry.data).await? {
                Replayed::Committed(_) => found.replayed += 1,
                Replayed::Known => found.known += 1,
                Replayed::BucketGone => {}
            }
            settled.push((commit.bucket, commit.key, entry.blob));
        } else {
            // Never acked: the flush that would have covered both did not end.
            found.torn += 1;
        }
    }
    // Not before: a later entry may have replaced what an earlier one made.
    for (bucket, key, blob) in settled {
        fates.insert(blob, fate_of(namespace, bucket, &key, blob).await?);
    }
    if found.replayed + found.torn + found.damaged > 0 {
        let Found {
            replayed,
            known,
            torn,
            damaged,
        } = found;
        tracing::info!(replayed, known, torn, damaged, "the journal was replayed");
    }
    Ok(last)
}
