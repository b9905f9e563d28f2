//! What is asked of an endpoint: which request is number n, of which object, of
//! which size and content, due when. Pure: no IO, no clock, no shared randomness;
//! the same seed and number always give the same request. `versions` alone remembers.

mod action;
mod content;
mod keys;
mod plan;
mod random;
mod schedule;
mod shuffle;
mod sizes;
mod versions;

pub(crate) use action::{Action, Object};
pub(crate) use content::Content;
pub(crate) use keys::KeySpace;
pub(crate) use plan::{Pattern, Workload};
pub(crate) use schedule::{Feed, Schedule, Take};
pub(crate) use shuffle::Shuffle;
pub(crate) use sizes::Sizes;
pub(crate) use versions::{VERSIONED_OBJECTS_MAX, Versions, content};
