//! HTTP/1.1 on monoio, with or without TLS: heads by httparse, bodies into pooled
//! buffers. Absent: HTTP/2, and every S3 rule.
//!
//! A [`Server`] accepts on one shard and calls its [`Service`] for each request.
//! Deadlines end IO by `shutdown(2)`, never by dropping a future. What two readers
//! could frame differently is refused (RFC 9112 §11.2), what a client can make us
//! hold or wait for has a limit in `limit.rs`.

mod converse;
mod count;
mod date;
mod documents;
mod frame;
mod identify;
mod intake;
mod limit;
mod parse;
mod quick;
mod receive;
mod respond;
mod secure;
mod serve;
mod service;
mod shortcut;
pub(crate) mod transfer;
pub(crate) mod watch;

pub use count::HttpStats;
pub use documents::{DOCUMENT_BYTES_FREE, DocumentCharge, DocumentMemory};
pub use identify::{HostId, RequestId};
pub use intake::{Arrival, Intake, Place};
pub(crate) use limit::INLINE_BODY_BYTES_MAX;
pub use limit::{ConnectionLimit, FRAMING_READ_BYTES, HEAD_BYTES_MAX, HEADERS_MAX, HttpConfig};
pub(crate) use parse::is_head;
pub use quickwater_s3::RequestView;
pub use receive::RequestBody;
pub use serve::{Door, ServeError, Server, Stopped, TlsDoor};
pub use service::{
    BodyAborted, ConnectionInfo, NoBody, NoQuick, Payload, QuickAnswer, Response, ResponseBody,
    Service,
};
pub use shortcut::{BypassGate, BypassNews};
pub use transfer::TransportError;
pub use watch::Starved;
