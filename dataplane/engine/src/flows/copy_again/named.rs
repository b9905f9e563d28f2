//! Rows are told who has copies that were made again, until it is known that they say so.

use quickwater_proto::{BucketId, CopyAt, ObjectKey, Version, slot_of};

use crate::decisions::copy_holders::{Copied, Due};
use crate::decisions::slots::SlotGuard;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Metadata, MetadataError};

/// How often it is said again who has a body, when nobody knows whether that was heard.
const SET_AGAIN_MAX: usize = 2;

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// The lock of a body's key, if the slot was nobody else's since it was noted who has the
    /// body: the row may name others by now, and who was named then have let go of it.
    pub(super) async fn lock_since(&self, due: &Due) -> Result<SlotGuard<'_>, FlowError> {
        let Copied { bucket, key, .. } = &due.copied;
        let guard = self.lock_key(*bucket, key).await?;
        match self.shared().rights.taken_at(slot_of(*bucket, key)) == due.since {
            true => Ok(guard),
            false => Err(FlowError::NotHere("the key was another worker's meanwhile")),
        }
    }

    /// Says in the row of what is pending who has it.
    pub(super) async fn name_holders(
        &self,
        place: (BucketId, &ObjectKey),
        version: Version,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Result<bool, MetadataError> {
        again(async || {
            let metadata = self.changes(place.0, place.1);
            let named = (copies, wanted);
            metadata.set_holders(place, version, true, named).await
        })
        .await
    }
}

/// Says in a row who has it. After an unknown outcome the same is said again: what it
/// answers then settles the first, and is needed before anybody is told to look. A refusal
/// settles nothing.
pub(super) async fn again(
    set: impl AsyncFn() -> Result<bool, MetadataError>,
) -> Result<bool, MetadataError> {
    let mut unknown = 0;
    loop {
        match set().await {
            Err(MetadataError::Unknown(_)) if unknown < SET_AGAIN_MAX => unknown += 1,
            Ok(set) => return Ok(set),
            Err(error @ MetadataError::Unknown(_)) => return Err(error),
            Err(error) if unknown > 0 => return Err(MetadataError::Unknown(error.to_string())),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;

    use super::*;

    fn unknown() -> MetadataError {
        MetadataError::Unknown("no answer".into())
    }

    /// What comes of the answers `said`, the last one first, and how many are left.
    fn asked(said: Vec<Result<bool, MetadataError>>) -> (Result<bool, MetadataError>, usize) {
        let said = RefCell::new(said);
        let set = again(async || said.borrow_mut().pop().unwrap());
        let answer = set.now_or_never().unwrap();
        (answer, said.into_inner().len())
    }

    #[test]
    fn only_an_answer_settles_what_was_not_answered() {
        let refused = || MetadataError::Unavailable("another session".into());
        assert_eq!(asked(vec![Ok(true), Err(unknown())]), (Ok(true), 0));
        assert_eq!(asked(vec![Err(refused())]), (Err(refused()), 0));
        // The first may have been heard.
        let (answer, _) = asked(vec![Err(refused()), Err(unknown())]);
        assert!(
            matches!(answer, Err(MetadataError::Unknown(_))),
            "{answer:?}"
        );
        let (answer, left) = asked(vec![Err(unknown()), Err(unknown()), Err(unknown())]);
        assert_eq!((answer, left), (Err(unknown()), 0));
    }
}
