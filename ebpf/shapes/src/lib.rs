//! Layouts that programs in the kernel and their loader share. Every field is one
//! atomic word that is valid whatever its bits; who writes it is said beside it.
//! Absent on purpose: anything that reads or writes.
#![no_std]

mod balance;
mod bypass;
mod handoff;
mod steer;

pub use balance::{ABSENT, Balance, DOORS_MAX, SHARDS_MAX, Share, socket_index};
pub use bypass::{BYPASSED_MAX, BypassCounts, MEETING_AT, Meeting, NO_CLIENT, Ways};
pub use handoff::{
    AHEAD_MAX, ARRIVAL_NS, CLOSING_NS, FLOWS_MAX, Flow, Forward, HandoffCounts, SILENCE_NS,
    Segment, WINDOW_NS, is_expected,
};
pub use steer::{BEAT_NS_MAX, Endpoint, Steer};
