//! What workers say to each other: frames, messages, capabilities. Absent: sockets,
//! waiting, clocks, and what is done with a message.
//!
//! A connection carries one request at a time. Who calls sends [`Kind::Call`]; who is
//! called asks for the body, if there is one, by [`Kind::Grant`]s, each for so many
//! [`Kind::Piece`]s, and gives one [`Kind::Answer`], followed by the pieces of its body.
//! Both sides only ever send what the other waits for, so nobody can block the other.

mod capability;
mod frame;
mod message;
mod stripes;
#[cfg(test)]
mod tests;

pub use capability::{Capability, CapabilityError, KEY_BYTES, Key};
pub use frame::{BODY_BYTES_MAX, Frame, FrameError, HEAD_BYTES_MAX, Kind, PREFIX_BYTES, crc32c};
pub use message::{
    Answer, Call, Cancel, ConnectionsEnded, CopyList, CopySource, DeleteEntry, DeleteKeys,
    DeleteResults, Deleted, DeletedBelow, EndedConnection, FetchCopy, Grant, Header, Held,
    HidesBelow, LookAgain, MessageError, Payload, PayloadKind, Promise, Record, Refusal,
    RefusalKind, Relay, SendOn, SettleBucket, StoreCopy, StoredCopy, StoredHeaders, Sum, Tag,
    TakeConnection, Task, decode, encode,
};
pub use prost::Message;
pub use stripes::{ChunkRuns, Content, Counts, ExtentAt, Layout, ReadStripe, Run};

/// What both sides of a connection must speak (TLS ALPN, RFC 7301). Another version of
/// the protocol has another name, so that both can be offered.
pub const PROTOCOL: &[u8] = b"quickwater-peer/1";
/// Pieces of a body that may be under way at once.
pub const PIECES_MAX: u32 = 4;
