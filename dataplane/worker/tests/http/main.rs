//! The HTTP layer over real sockets, with a toy service, on io_uring and epoll.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod bodies;
mod client;
mod deadlines;
mod elsewhere;
mod fallback;
mod framing;
mod refusals;
mod stopping;
mod toy;
