//! Plain functions and state machines: no IO, no clock, no randomness.

pub(crate) mod copy_holders;
pub(crate) mod dirty_space;
pub(crate) mod flights;
pub(crate) mod freshness;
pub(crate) mod gates;
pub(crate) mod held_copies;
pub(crate) mod held_queue;
pub(crate) mod hot_copies;
pub(crate) mod in_use;
pub(crate) mod job_tasks;
pub(crate) mod journal;
pub(crate) mod lag;
pub(crate) mod object_cache;
pub(crate) mod opened;
pub(crate) mod persist_queue;
pub(crate) mod policies;
pub(crate) mod read_plan;
pub(crate) mod releases;
pub(crate) mod relief;
pub(crate) mod retired;
pub(crate) mod rights;
pub(crate) mod scan_pace;
pub(crate) mod slots;
pub(crate) mod stripes;
pub(crate) mod transient;
