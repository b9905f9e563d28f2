//! The flows in a simulated world: virtual time, seeded order, faults, and a
//! checker that knows what a linearizable key looks like.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is how a test fails"
)]

mod bypass;
mod checker;
mod crash;
mod folders;
mod listing;
mod moved;
mod notes;
mod relief;
mod replicas;
mod world;

mod scenarios;
