//! Calls about copies on other workers: who has them, and whether anybody still does.

use quickwater_proto::{
    BlobId, BucketId, Committed, CopyAt, CopyOf, CopyState, NodeId, ObjectKey, PartOf, Version,
};
use quickwater_rpc::cluster::{Call, Operation as O};

use super::{Got, committed, first, of_bucket, unread};
use crate::client::ControlClient;
use crate::cluster::wire::{about, about_part, change_of, copy_to_wire, number_to_wire};
use crate::records::{decode_holders, decode_journal_entry};

impl ControlClient {
    /// The same, when other workers have flushed copies: refused if one of them was
    /// started anew.
    pub async fn commit_copied(&self, entry: &[u8], copies: &[CopyAt]) -> Got<Committed> {
        let operation = decode_journal_entry(entry).map_err(unread)?.operation;
        let call = Call {
            row: entry.to_vec(),
            once: number_to_wire(operation),
            copies: copies.iter().map(copy_to_wire).collect(),
            ..of_bucket(O::CommitEntry, BucketId(0))
        };
        committed(&self.ask(call).await?)
    }

    /// Whether a copy that is kept here is still needed.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn copy_state(&self, copy: &CopyOf) -> Got<CopyState> {
        let call = Call {
            copies: copy.owner.iter().map(copy_to_wire).collect(),
            blob: number_to_wire(copy.blob.0),
            ..about(O::CopyState, copy.bucket, &copy.key)
        };
        let call = about_part(call, copy.part);
        let answer = self.ask(call).await?;
        Ok(match answer.flag {
            true => CopyState::Named,
            false => CopyState::Unnamed {
                over: !answer.more,
                change: change_of(answer.change()),
            },
        })
    }

    /// Who has the bytes of what is pending of a key.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn holders(&self, bucket: BucketId, key: &ObjectKey) -> Got<Vec<NodeId>> {
        let answer = self.ask(about(O::Pending, bucket, key)).await?;
        Ok(first(&answer, decode_holders)?.unwrap_or_default().nodes)
    }

    /// As [`crate::Namespace::set_holders`], with the sessions of those who have copies, of
    /// which there should be `wanted`, the caller's included.
    pub async fn set_holders(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        version: Version,
        itself: bool,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Got<bool> {
        let call = Call {
            version: number_to_wire(version.0),
            flag: itself,
            copies: copies.iter().map(copy_to_wire).collect(),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            ..about(O::SetHolders, bucket, key)
        };
        Ok(self.ask(call).await?.flag)
    }

    /// As [`crate::Namespace::set_part_holders`], with the sessions of those who have copies,
    /// of which there should be `wanted`, the caller's included.
    pub async fn set_part_holders(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        (part, blob): (PartOf, BlobId),
        (copies, wanted): (&[CopyAt], usize),
    ) -> Got<bool> {
        let call = Call {
            blob: number_to_wire(blob.0),
            copies: copies.iter().map(copy_to_wire).collect(),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            ..about(O::SetHolders, bucket, key)
        };
        Ok(self.ask(about_part(call, Some(part))).await?.flag)
    }

    /// Whether what is pending of a key went with workers that were removed. Those `without`
    /// do not have it, in these sessions.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn lost(&self, bucket: BucketId, key: &ObjectKey, without: &[CopyAt]) -> Got<bool> {
        let call = Call {
            copies: without.iter().map(copy_to_wire).collect(),
            ..about(O::Lost, bucket, key)
        };
        Ok(self.ask(call).await?.flag)
    }

    /// The same of the bytes of a part that no UFS has.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn lost_part(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        (part, blob): (PartOf, BlobId),
        without: &[CopyAt],
    ) -> Got<bool> {
        let call = Call {
            blob: number_to_wire(blob.0),
            copies: without.iter().map(copy_to_wire).collect(),
            ..about(O::Lost, bucket, key)
        };
        let answer = self.ask(about_part(call, Some(part))).await?;
        // A control plane of before this speaks of the key, and does not say `more`.
        Ok(answer.flag && answer.more)
    }
}
