//! Loads the programs of `ebpf/programs`, attaches them and shares memory with them.
//! Whatever goes wrong is one [`Unavailable`]; the caller goes on without. Absent on
//! purpose: when a program is wanted, and what is told of it.

mod attached;
mod balancer;
mod bypass;
mod call;
mod cgroup;
mod device;
mod forwarding;
mod kernel_types;
mod ledger;
mod netns;
mod object;
mod page;
mod pinned;
mod proof;
mod steer;
mod unavailable;

pub use balancer::{Balancer, SETTLE_PERIOD, ShardLoad, Visit};
pub use bypass::{Bypass, BypassTotals, QUEUED_MAX, Shortcut};
pub use cgroup::cgroup_root;
pub use device::{Device, own_addresses};
pub use forwarding::{Ends, Forwarding, Full, PacketCounts, WINDOW, pins_of};
pub use object::is_built;
pub use pinned::{Pinned, Pins};
pub use quickwater_ebpf_shapes::{DOORS_MAX, SHARDS_MAX};
pub use steer::{SteerCounts, Steering};
pub use unavailable::Unavailable;
