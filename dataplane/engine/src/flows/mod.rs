//! One story per file: what happens to a request from its first decision to its
//! answer.

pub(crate) mod bucket;
pub(crate) mod compare;
pub(crate) mod complete;
pub(crate) mod copies;
pub(crate) mod copy_again;
pub(crate) mod delete;
pub(crate) mod dirty_room;
pub(crate) mod fence;
pub(crate) mod fill;
pub(crate) mod free;
mod give_slots;
pub(crate) mod hand_over;
pub(crate) mod job;
pub(crate) mod keep_copy;
pub(crate) mod list;
pub(crate) mod load;
mod lose_slots;
pub(crate) mod multipart;
pub(crate) mod note;
pub(crate) mod opened;
pub(crate) mod persist;
pub(crate) mod persist_parts;
pub(crate) mod pinned;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod relieve;
pub(crate) mod resolve;
pub(crate) mod send_held;
pub(crate) mod send_whole;
pub(crate) mod stripe_holders;
pub(crate) mod stripes;
pub(crate) mod sweep;
pub(crate) mod tags;
mod take_slots;
pub(crate) mod write_back;
