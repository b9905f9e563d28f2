//! The whole service in this process, over its wire: what a hit allocates, and
//! that both ways of answering give the same.

mod allocations;
mod client;
mod hits;
