//! An HTTP/1.1 client for load: nonblocking sockets, one epoll instance per
//! thread, no allocation per request where heads can be kept. Absent: redirects,
//! pipelining.

mod answer;
mod call;
mod connection;
mod drive;
mod errors;
mod heads;
mod job;
mod poll;
mod secure;
mod sign;
mod tally;
mod target;
mod xml;

pub(crate) use answer::Source;
pub(crate) use drive::{Gate, Load, Stage, drive};
pub(crate) use job::{PARTS_MAX, PUT_BYTES_MAX};
pub(crate) use secure::Trust;
pub(crate) use tally::{Live, Tally};
pub(crate) use target::{Address, Keys, Target};
