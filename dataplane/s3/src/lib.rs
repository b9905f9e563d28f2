//! The S3 dialect, bytes in, bytes out: requests, signatures, payloads, answers.
//!
//! Absent on purpose: IO, async, clocks (time is an argument), caching rules.
//!
//! The life of a request: [`auth::authenticate`] says who asks,
//! [`request::Request::parse`] says what for, [`body::PayloadDecoder`] takes the
//! payload apart and checks it, [`conditional`] decides, [`response`] answers and
//! [`error`] refuses.

pub mod auth;
pub mod body;
pub mod checksum;
pub mod conditional;
pub mod date;
pub mod error;
pub mod request;
pub mod response;
#[cfg(test)]
mod tests;
mod uri;
mod view;
pub mod xml;

pub use error::{S3Error, S3ErrorCode};
pub use request::{Operation, Request};
pub use view::RequestView;
