//! Room for what the UFS does not have yet, and what a write does that finds none.

use std::sync::atomic::Ordering;

use quickwater_proto::{Bucket, ObjectKey, PathPolicy, PolicyMode};

use crate::decisions::dirty_space::{self, Instead};
use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{DirtyAmount, DirtySpace, Disk, DiskError};

/// Seconds after which a write without room is to be tried again: something is being
/// persisted.
const ROOM_SOON_SECONDS: u64 = 1;
/// The same while nothing is: the UFS is away, or somebody has to delete or complete
/// something first.
const ROOM_LATER_SECONDS: u64 = 5;

/// Space kept for dirty data.
pub(crate) type Space<W> = <<W as World>::Disk as Disk>::Reservation;

/// What a write-back may do about its space.
pub(crate) enum Room<S> {
    /// Here it is.
    Kept(S),
    /// There is none; write through instead.
    Through,
}

impl<W: World> Engine<W> {
    /// Keeps room for an object of `bytes` that the UFS will not have yet.
    pub(crate) fn dirty_room(
        &self,
        policy: &PathPolicy,
        bytes: u64,
    ) -> Result<Room<Space<W>>, FlowError> {
        match self.reserve_dirty(bytes) {
            Ok(space) => Ok(Room::Kept(space)),
            Err(DiskError::DirtyFull) => {
                let (frees, space) = self.dirty_prospect();
                if dirty_space::is_blocked(bytes, (frees, space)) {
                    self.shared().held.want_room();
                }
                let instead = dirty_space::of_object(policy, bytes, frees, space);
                self.without_room(instead, "the object", bytes)
            }
            Err(error) => Err(self.no_room(error)),
        }
    }

    /// Space for `bytes` that only this store will have.
    pub(crate) fn reserve_dirty(&self, bytes: u64) -> Result<Space<W>, DiskError> {
        match self.shared().persist.has_room() {
            true => self.disk().reserve(bytes, chunks_of(bytes) + 1),
            false => Err(DiskError::DirtyFull),
        }
    }

    /// What will come free of the space for dirty data, and what is taken of it.
    pub(crate) fn dirty_prospect(&self) -> (DirtyAmount, DirtySpace) {
        // What moves on meanwhile counts twice, and never as what stays for good: the
        // queue is left for the releases, and these for free space.
        let waiting = self.shared().persist.totals();
        let frees = dirty_space::comes_free(&waiting, self.shared().releases.frees());
        (frees, self.disk().dirty_space())
    }

    /// What a write does for which there is no room.
    pub(crate) fn without_room(
        &self,
        instead: Instead,
        what: &'static str,
        bytes: u64,
    ) -> Result<Room<Space<W>>, FlowError> {
        let stats = &self.shared().stats;
        match instead {
            Instead::SlowDown => Err(self.no_room(DiskError::DirtyFull)),
            Instead::Through => {
                stats.dirty_through.fetch_add(1, Ordering::Relaxed);
                Ok(Room::Through)
            }
            Instead::Oversize => {
                stats.dirty_oversize.fetch_add(1, Ordering::Relaxed);
                Ok(Room::Through)
            }
            Instead::TooLarge => {
                stats.dirty_too_large.fetch_add(1, Ordering::Relaxed);
                let limit = dirty_space::most_bytes(self.disk().dirty_space());
                Err(FlowError::NeverFits { what, bytes, limit })
            }
        }
    }

    pub(crate) fn no_room(&self, error: DiskError) -> FlowError {
        let refused = &self.shared().stats.dirty_refused;
        refused.fetch_add(1, Ordering::Relaxed);
        match error {
            DiskError::DirtyFull => FlowError::NoRoom(self.room_after()),
            error => error.into(),
        }
    }

    /// Seconds after which it makes sense to ask for room again.
    fn room_after(&self) -> u64 {
        let shared = self.shared();
        let moving = shared.persist.totals().running > 0 || shared.held.is_moving();
        match moving || shared.releases.frees() != DirtyAmount::default() {
            true => ROOM_SOON_SECONDS,
            false => ROOM_LATER_SECONDS,
        }
    }

    /// Whether an object of `bytes` under a WRITE_BACK path goes through to the UFS,
    /// because the space for what the UFS does not have can never hold it; that space.
    #[must_use]
    pub fn outgrows(&self, bucket: &Bucket, key: &ObjectKey, bytes: u64) -> Option<u64> {
        let limit = dirty_space::most_bytes(self.disk().dirty_space());
        let back = self.policy(bucket, key).mode == PolicyMode::WriteBack;
        (back && DirtyAmount::needed_for(bytes).bytes > limit).then_some(limit)
    }
}
