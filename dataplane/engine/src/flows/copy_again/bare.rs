//! Bodies beside which no commit is kept, parts of uploads and of objects of several: back
//! to their number, and named by the row that says who has them.

use std::sync::Arc;

use quickwater_proto::{BlobId, Bucket, BucketId, CopyAt, NodeId, ObjectKey, ObjectRecord, PartOf};

use super::Made;
use super::bytes::gone;
use super::named::again;
use crate::decisions::copy_holders::{Due, Unnamed};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Metadata, MetadataError, Peers};

/// A body that has its copies, beside which no commit is kept.
struct Bare {
    /// Others that have it.
    all: Vec<CopyAt>,
    /// Those of them that got it just now.
    made: Vec<NodeId>,
    /// This worker, in the session that was named to them.
    owner: CopyAt,
}

impl Bare {
    /// What a row that names these is behind: nothing that was given in an earlier session
    /// of ours is named in this one.
    fn sessions(&self, named: &[CopyAt]) -> Vec<CopyAt> {
        named.iter().chain([&self.owner]).cloned().collect()
    }

    fn unnamed(&self, named: Arc<[CopyAt]>) -> Unnamed {
        Unnamed {
            session: self.owner.session,
            named,
        }
    }
}

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// Whether a body is a part of an upload that is not complete, and no UFS has it.
    pub(super) async fn is_part(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        of: PartOf,
        blob: BlobId,
    ) -> Result<bool, FlowError> {
        let before = of.number.saturating_sub(1);
        let rows = self.metadata().parts(bucket, key, of.upload, before, 1);
        match rows.await {
            Ok(rows) => Ok(rows.iter().any(|row| row.blob == blob && row.held)),
            Err(MetadataError::NoSuchUpload) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings a body back here and to as many others as it should be on, without a commit
    /// beside it.
    async fn copy_bare(&self, bucket: &Bucket, due: &Due) -> Result<Bare, FlowError> {
        let Due { blob, copied, .. } = due;
        if !self.has_copy(*blob, copied.bytes) {
            self.copy_here(*blob, copied.bytes, None).await?;
            self.copied_here(*blob, copied);
        }
        self.shared().holders.found(*blob);
        let itself = self.peers().itself().ok_or_else(gone)?;
        let mut bare = Bare {
            all: due.have.clone(),
            made: Vec::new(),
            owner: itself,
        };
        let (made, owner) = self.copy_apart(bucket, due, None).await?;
        bare.made = made.iter().map(|copy| copy.node.clone()).collect();
        bare.all.extend(made);
        bare.owner = owner.unwrap_or(bare.owner);
        // What others got in an earlier session of ours they may have let go of.
        if let Some(unnamed) = &due.unnamed
            && unnamed.session != bare.owner.session
        {
            self.shared().holders.tell(*blob, &bare.made);
            return Err(gone());
        }
        Ok(bare)
    }

    /// Brings a part of an upload back to its number of copies.
    pub(super) async fn copy_part_again(
        &self,
        bucket: &Bucket,
        due: &Due,
        part: PartOf,
    ) -> Result<Made, FlowError> {
        let Due { blob, copied, .. } = due;
        let bare = self.copy_bare(bucket, due).await?;
        let holders = &self.shared().holders;
        let locked = self.lock_since(due).await;
        let _guard = locked.inspect_err(|_| holders.tell(*blob, &bare.made))?;
        // No Complete names others between the row and what is noted of it.
        let entered = self.enter_upload(part.upload).await;
        let _gate = entered.inspect_err(|_| holders.tell(*blob, &bare.made))?;
        let sessions = bare.sessions(&bare.all);
        let set = again(async || {
            let place = (copied.bucket, &copied.key);
            let named = (&*sessions, copied.copies);
            let metadata = self.changes(copied.bucket, &copied.key);
            metadata.set_part_holders(place, (part, *blob), named).await
        });
        let set = set.await;
        let before = holders.named_still(due);
        match set {
            Ok(true) => {
                match holders.renew(*blob, Arc::from(bare.all), None) {
                    true => holders.doubt(*blob, &before),
                    false => holders.tell(*blob, &bare.made),
                }
                Ok(Made::Enough)
            }
            // It ended meanwhile, or is an object's by now: that is looked at next.
            Ok(false) => {
                holders.tell(*blob, &bare.made);
                Ok(Made::Enough)
            }
            // They may be named, or those whose names this drops be let go of.
            Err(error @ MetadataError::Unknown(_)) => {
                let unnamed = bare.unnamed(before);
                holders.renew(*blob, Arc::from(bare.all), Some(unnamed));
                Err(error.into())
            }
            Err(error) => {
                holders.tell(*blob, &bare.made);
                Err(error.into())
            }
        }
    }

    /// Brings one of the bodies of an object back to its number of copies. The row of the
    /// object names who has any of them, so it is written once all of them have theirs: a name
    /// dropped earlier would let go of what a worker that is merely away has.
    pub(super) async fn copy_one_again(
        &self,
        bucket: &Bucket,
        due: &Due,
        record: &ObjectRecord,
    ) -> Result<Made, FlowError> {
        let Due { blob, copied, .. } = due;
        let bare = self.copy_bare(bucket, due).await?;
        let holders = &self.shared().holders;
        // One at a time: each says who has all of it by then.
        let locked = self.lock_since(due).await;
        let _guard = locked.inspect_err(|_| holders.tell(*blob, &bare.made))?;
        let unnamed = bare.unnamed(holders.named_still(due));
        if !holders.renew(*blob, Arc::from(&*bare.all), Some(unnamed)) {
            holders.tell(*blob, &bare.made);
            return Ok(Made::Enough);
        }
        let mut named: Vec<CopyAt> = Vec::new();
        let mut named_before = Vec::new();
        for extent in &record.extents {
            let Some(held) = holders.sessions(extent.blob) else {
                return Ok(Made::Waiting);
            };
            let stale = |of: &Unnamed| of.session != bare.owner.session;
            if held.have.len() + 1 < held.copies
                || held.unnamed.as_ref().is_some_and(stale)
                || !self.has_copy(extent.blob, extent.size)
            {
                return Ok(Made::Waiting);
            }
            if let Some(unnamed) = held.unnamed {
                named_before.push((extent.blob, unnamed.named));
            }
            let new = held.have.into_iter().filter(|at| !named.contains(at));
            let new: Vec<CopyAt> = new.collect();
            named.extend(new);
        }
        let place = (copied.bucket, &copied.key);
        let sessions = bare.sessions(&named);
        let wanted = (&*sessions, copied.copies);
        if !self.name_holders(place, record.version, wanted).await? {
            // Replaced, or described anew: the next look tells.
            return Ok(Made::Waiting);
        }
        for extent in &record.extents {
            holders.named(extent.blob, &named);
        }
        for (blob, before) in named_before {
            holders.doubt(blob, &before);
        }
        Ok(Made::Enough)
    }

    /// Names only ourselves for an object of several bodies that is to be in one place, once
    /// all of it is here. Until then its row goes on naming who has all of it.
    pub(super) async fn take_whole(
        &self,
        place: (BucketId, &ObjectKey),
        record: &ObjectRecord,
    ) -> Result<Made, FlowError> {
        let mut extents = record.extents.iter();
        if !extents.all(|extent| self.has_copy(extent.blob, extent.size)) {
            return Ok(Made::Enough);
        }
        // If that is not known to be said, who is named keeps what it has.
        if self.name_holders(place, record.version, (&[], 1)).await? {
            for extent in &record.extents {
                self.shared().holders.end(extent.blob);
            }
        }
        Ok(Made::Over)
    }
}
