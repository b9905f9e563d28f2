//! What a job does to one object, and what came of it. Absent: jobs themselves.

use crate::Version;

/// What is done to every object of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobAction {
    /// Brings the bytes of the current version into the cache.
    Load {
        /// Compare the object with the UFS now, and its bytes with what the record
        /// promises; what does not hold is fetched again.
        verify: bool,
        /// Pass over objects whose bytes are all in the cache.
        skip_cached: bool,
    },
    /// Drops cached bytes that the UFS has too.
    Free,
    /// Removes the object, as its path policy says.
    Delete {
        /// Only a version that was committed up to here; `None`: any.
        through: Option<Version>,
    },
}

/// What came of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    /// It was done. Bytes of the object; of a free, bytes that were dropped.
    Done {
        /// How many.
        bytes: u64,
    },
    /// There was nothing to do, or it must not be done.
    Left(LeftAlone),
    /// It was told to stop before it was done; nothing is half done that matters.
    Stopped,
}

/// Why an object was left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeftAlone {
    /// It was not there any more.
    Gone,
    /// All its bytes were in the cache.
    Cached,
    /// None of its bytes were in the cache.
    NotCached,
    /// The policy of its path is NO_CACHE.
    NoCache,
    /// Only this service has its bytes: not persisted yet, TRANSIENT, or the UFS
    /// may still change its mind.
    OnlyHere,
    /// It was written after the job began.
    Newer,
}

impl LeftAlone {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Gone,
        Self::Cached,
        Self::NotCached,
        Self::NoCache,
        Self::OnlyHere,
        Self::Newer,
    ];

    /// Its name on wires and disks.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Cached => "cached",
            Self::NotCached => "not_cached",
            Self::NoCache => "no_cache",
            Self::OnlyHere => "only_here",
            Self::Newer => "newer",
        }
    }

    /// The reason of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.as_str() == name)
    }
}
