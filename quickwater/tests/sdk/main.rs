//! The real binary, used through the AWS SDK for Rust. Absent: what the SDK
//! cannot send; the black-box tests send that.

#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is how a test fails"
)]

mod plain;
mod service;

mod listings;
mod multipart;
mod objects;
mod presigned;
mod round_trips;
