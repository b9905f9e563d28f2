//! Loads the programs of `ebpf/programs`, attaches them and shares memory with them.
//! Whatever goes wrong is one [`Unavailable`]; the caller goes on without. Absent on
//! purpose: when a program is wanted, and what is told of it.

mod balancer;
mod ledger;
mod object;
mod page;
mod unavailable;

pub use balancer::{Balancer, SETTLE_PERIOD, ShardLoad, Visit};
pub use object::is_built;
pub use quickwater_ebpf_shapes::{DOORS_MAX, SHARDS_MAX};
pub use unavailable::Unavailable;
