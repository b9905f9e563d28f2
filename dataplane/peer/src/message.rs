//! Heads and bodies of frames, as protobuf: field numbers are never reused. Absent:
//! what they are made from and turned into.

use prost::Message;

use crate::capability::Capability;
use crate::frame::BODY_BYTES_MAX;

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No protobuf, or not of this message.
    #[error("a message that cannot be read: {0}")]
    Unreadable(String),
    /// More than one frame holds.
    #[error("a message longer than allowed")]
    TooLong,
}

/// Reads a message.
///
/// # Errors
/// [`MessageError::Unreadable`].
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, MessageError> {
    M::decode(bytes).map_err(|error| MessageError::Unreadable(error.to_string()))
}

/// Writes a message that fits into the body of a frame.
///
/// # Errors
/// [`MessageError::TooLong`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, MessageError> {
    match message.encoded_len() <= BODY_BYTES_MAX {
        true => Ok(message.encode_to_vec()),
        false => Err(MessageError::TooLong),
    }
}

/// Head of a call. What a task consists of besides stands in the frame's body.
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    /// The right to it.
    #[prost(message, optional, tag = "1")]
    pub capability: Option<Capability>,
    /// What is to be done.
    #[prost(enumeration = "Task", tag = "2")]
    pub task: i32,
}

/// What may be asked of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Task {
    /// Nothing.
    Unspecified = 0,
    /// Answer a request of a client: [`Relay`].
    Relay = 1,
    /// Compare keys with the UFS: [`LookAgain`].
    LookAgain = 2,
    /// Say whether deletes wait below a prefix: [`HidesBelow`].
    HidesBelow = 3,
    /// Wait until the UFS has all of a bucket: [`SettleBucket`].
    SettleBucket = 4,
    /// Delete keys: [`DeleteKeys`], answered by [`DeleteResults`].
    DeleteKeys = 5,
    /// Give an object to be copied: [`CopySource`], answered by a [`Record`] and the
    /// bytes.
    CopySource = 6,
    /// Keep a copy of bytes that no UFS has: [`StoreCopy`]; the body is these bytes and
    /// then their commit; answered by a [`StoredCopy`].
    StoreCopy = 7,
    /// Give a part of a chunk that is kept: [`FetchCopy`], answered by the bytes.
    FetchCopy = 8,
    /// No commit of these copies is under way: a [`CopyList`].
    LookAtCopies = 9,
    /// Say which of these are kept whole: a [`CopyList`], answered by another.
    HasCopies = 10,
    /// Give a piece of a large object out of the store, or through it: [`ReadStripe`](crate::ReadStripe),
    /// answered by the bytes.
    ReadStripe = 11,
    /// Say how many of these chunks are in the store: [`ChunkRuns`](crate::ChunkRuns), answered by
    /// [`Counts`](crate::Counts).
    CountChunks = 12,
    /// Forget clean copies of these chunks: [`ChunkRuns`](crate::ChunkRuns), answered by
    /// [`Counts`](crate::Counts).
    ForgetChunks = 13,
    /// Continue a client's connection: [`TakeConnection`], answered by yes or no. A no is a
    /// promise not to.
    TakeConnection = 14,
    /// Send the packets of a client's connection on to another worker than before:
    /// [`SendOn`], answered by yes or no.
    SendOn = 15,
    /// Connections of clients, whose packets the worker that is asked sends on to the
    /// caller, have ended there: [`ConnectionsEnded`], answered by yes.
    ConnectionsEnded = 16,
}

/// A request of a client, let in and not yet begun.
#[derive(Clone, PartialEq, Message)]
pub struct Relay {
    /// Method, as sent.
    #[prost(string, tag = "1")]
    pub method: String,
    /// Path and query, as sent.
    #[prost(string, tag = "2")]
    pub target: String,
    /// Fields that matter, in order.
    #[prost(message, repeated, tag = "3")]
    pub headers: Vec<Header>,
    /// Who asks; none: nobody said.
    #[prost(string, optional, tag = "4")]
    pub access_key: Option<String>,
    /// The credential stood in the query.
    #[prost(bool, tag = "5")]
    pub presigned: bool,
    /// What the client's signature says of the body.
    #[prost(message, optional, tag = "6")]
    pub payload: Option<Payload>,
    /// Bytes of the body, if known.
    #[prost(uint64, optional, tag = "7")]
    pub body_bytes: Option<u64>,
    /// `x-amz-request-id`, given by who let it in.
    #[prost(string, tag = "8")]
    pub request_id: String,
    /// `x-amz-id-2`, likewise.
    #[prost(string, tag = "9")]
    pub host_id: String,
    /// The client's address.
    #[prost(string, tag = "10")]
    pub client: String,
    /// Of a GET: who let it in can read stripes, if it is told of them: [`Layout`](crate::Layout).
    #[prost(bool, tag = "11")]
    pub reads_stripes: bool,
    /// Compare the object with the UFS first.
    #[prost(bool, tag = "12")]
    pub revalidate: bool,
    /// Of a GET by a connection that may be handed over: the address its client connected
    /// to. Empty: it may not.
    #[prost(string, tag = "13")]
    pub service: String,
    /// Of a GET by a connection that was handed over to who asks, and may be handed over
    /// again.
    #[prost(message, optional, tag = "14")]
    pub held: Option<Held>,
}

/// A connection that is at another worker than the one it came to.
#[derive(Clone, PartialEq, Message)]
pub struct Held {
    /// The address its client connected to.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The worker whose host the client's packets reach.
    #[prost(string, tag = "2")]
    pub entry: String,
}

/// A header field.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Name, as sent.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value, as sent.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// What was promised of a body besides its headers.
#[derive(Clone, PartialEq, Message)]
pub struct Payload {
    /// How it comes.
    #[prost(enumeration = "PayloadKind", tag = "1")]
    pub kind: i32,
    /// SHA-256 of all of it, if promised.
    #[prost(bytes = "vec", tag = "2")]
    pub sha256: Vec<u8>,
    /// Of chunks: they carry signatures, which who let it in checks as they pass.
    #[prost(bool, tag = "3")]
    pub signed: bool,
    /// Of chunks: trailers follow.
    #[prost(bool, tag = "4")]
    pub trailer: bool,
}

/// How the bytes of a body come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PayloadKind {
    /// As they are.
    Plain = 0,
    /// aws-chunked.
    Chunked = 1,
}

/// Head of a grant.
#[derive(Clone, PartialEq, Message)]
pub struct Grant {
    /// So many pieces more.
    #[prost(uint32, tag = "1")]
    pub pieces: u32,
}

/// Head of a cancellation.
#[derive(Clone, PartialEq, Message)]
pub struct Cancel {
    /// Why the body will not come: what the client did.
    #[prost(enumeration = "Promise", tag = "1")]
    pub why: i32,
}

/// How a client failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Promise {
    /// It is gone, or the caller gives up.
    Gone = 0,
    /// It was too slow.
    TimedOut = 1,
    /// It sent what is no body.
    Malformed = 2,
}

/// Head of an answer. Its body comes in pieces; the frame's own is what a task answers
/// besides.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// HTTP status.
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// Header lines, as they go to the client.
    #[prost(bytes = "vec", tag = "2")]
    pub headers: Vec<u8>,
    /// S3 error code; empty: none.
    #[prost(string, tag = "3")]
    pub code: String,
    /// What a client is told besides the code.
    #[prost(string, tag = "4")]
    pub text: String,
    /// Bytes of the body, sent or not.
    #[prost(uint64, tag = "5")]
    pub length: u64,
    /// The body follows in pieces.
    #[prost(bool, tag = "6")]
    pub streams: bool,
    /// 304: without a length.
    #[prost(bool, tag = "7")]
    pub not_modified: bool,
    /// `length` is what GET would send, and nothing follows.
    #[prost(bool, tag = "8")]
    pub head_of: bool,
    /// Where the bytes come from: 0 not said, 1 cache, 2 UFS, 3 both.
    #[prost(uint32, tag = "9")]
    pub cache: u32,
    /// The client's connection is to be closed.
    #[prost(bool, tag = "10")]
    pub close: bool,
    /// Of a question: yes.
    #[prost(bool, tag = "11")]
    pub yes: bool,
    /// In place of the body of a GET, a [`Layout`](crate::Layout) that says where it is.
    #[prost(bool, tag = "12")]
    pub layout: bool,
    /// Nothing is given: the UFS holds another content than the one asked for.
    #[prost(bool, tag = "13")]
    pub changed: bool,
    /// In place of the body of a GET: hand the client's connection over, and have its
    /// packets sent on to this Ethernet address.
    #[prost(bytes = "vec", tag = "14")]
    pub hand_over: Vec<u8>,
}

/// A client's connection that was frozen for who is called.
#[derive(Clone, PartialEq, Message)]
pub struct TakeConnection {
    /// As `quickwater-handoff` encodes it; the bytes that wait are the request.
    #[prost(bytes = "vec", tag = "1")]
    pub state: Vec<u8>,
    /// By which the worker that sends its packets on tells it from others of the same ends;
    /// 0: that is not said.
    #[prost(uint64, tag = "2")]
    pub mark: u64,
}

/// Connections that have ended where their packets go.
#[derive(Clone, PartialEq, Message)]
pub struct ConnectionsEnded {
    /// Ethernet address that they go to.
    #[prost(bytes = "vec", tag = "1")]
    pub at: Vec<u8>,
    /// One by one.
    #[prost(message, repeated, tag = "2")]
    pub connections: Vec<EndedConnection>,
}

/// One of them.
#[derive(Clone, PartialEq, Message)]
pub struct EndedConnection {
    /// The client's address.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The address it connected to.
    #[prost(string, tag = "2")]
    pub service: String,
    /// As it came with the connection.
    #[prost(uint64, tag = "3")]
    pub mark: u64,
}

/// A connection whose packets the worker that is asked sends on to who has it.
#[derive(Clone, PartialEq, Message)]
pub struct SendOn {
    /// The client's address.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The address it connected to.
    #[prost(string, tag = "2")]
    pub service: String,
    /// Ethernet address that they go to now; if it is another one, nothing changes.
    #[prost(bytes = "vec", tag = "3")]
    pub from: Vec<u8>,
    /// Ethernet address that they go to from now on.
    #[prost(bytes = "vec", tag = "4")]
    pub to: Vec<u8>,
    /// The connection was reset: they go where they go now, whichever of the two that is,
    /// for a moment only.
    #[prost(bool, tag = "5")]
    pub last: bool,
}

/// Head of a refusal: nothing was begun, no byte of a body was asked for.
#[derive(Clone, PartialEq, Message)]
pub struct Refusal {
    /// What kind.
    #[prost(enumeration = "RefusalKind", tag = "1")]
    pub kind: i32,
    /// For logs.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// Why nothing was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RefusalKind {
    /// A mistake: the same call is refused again.
    Mistaken = 0,
    /// The key is not this worker's, or not yet.
    NotHere = 1,
    /// The capability does not hold, or not yet.
    NotAllowed = 2,
    /// Too much to do.
    Busy = 3,
}

/// Keys a listing of the UFS shows otherwise than the metadata.
#[derive(Clone, PartialEq, Message)]
pub struct LookAgain {
    /// The keys, all of the owner.
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
}

/// Are there deletes that the UFS does not know of, and which did it apply? The second is
/// told as a [`DeletedBelow`] behind the answer.
#[derive(Clone, PartialEq, Message)]
pub struct HidesBelow {
    /// Keys begin with this.
    #[prost(string, tag = "1")]
    pub prefix: String,
}

/// Folders right below a prefix that lost keys in the UFS. A worker of an older version
/// sends none of it, which reads as: nothing is known.
#[derive(Clone, PartialEq, Message)]
pub struct DeletedBelow {
    /// All deletes of so many microseconds are told of.
    #[prost(uint64, tag = "1")]
    pub known_for_us: u64,
    /// The folders, with their last `/`.
    #[prost(string, repeated, tag = "2")]
    pub folders: Vec<String>,
    /// How long ago each lost the last one, microseconds.
    #[prost(uint64, repeated, tag = "3")]
    pub ages_us: Vec<u64>,
}

/// Nothing of the bucket may be on its way to the UFS.
#[derive(Clone, PartialEq, Message)]
pub struct SettleBucket {}

/// Keys to delete.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteKeys {
    /// One by one.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<DeleteEntry>,
}

/// A key to delete.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteEntry {
    /// Which.
    #[prost(string, tag = "1")]
    pub key: String,
    /// 0 always, 1 if an object is there, 2 if its ETag is this.
    #[prost(uint32, tag = "2")]
    pub condition: u32,
    /// See above.
    #[prost(string, tag = "3")]
    pub etag: String,
}

/// What came of them, in the same order.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteResults {
    /// One for each.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<Deleted>,
}

/// What came of one.
#[derive(Clone, PartialEq, Message)]
pub struct Deleted {
    /// S3 error code; empty: it is gone.
    #[prost(string, tag = "1")]
    pub code: String,
    /// For the client.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// An object that is to be copied.
#[derive(Clone, PartialEq, Message)]
pub struct CopySource {
    /// Compare it with the UFS first.
    #[prost(bool, tag = "1")]
    pub revalidate: bool,
    /// Only the bytes of a range, if it lies within the object: else only the record.
    #[prost(bool, tag = "2")]
    pub ranged: bool,
    /// First byte.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// Last byte.
    #[prost(uint64, tag = "4")]
    pub last: u64,
    /// Largest source whose bytes are wanted: of a larger one only the record.
    #[prost(uint64, tag = "5")]
    pub bytes_max: u64,
}

/// Bytes that are to be kept for the caller.
#[derive(Clone, PartialEq, Message)]
pub struct StoreCopy {
    /// Bucket by number.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// Sixteen bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub blob: Vec<u8>,
    /// How many.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Session of the caller.
    #[prost(uint64, tag = "4")]
    pub session: u64,
    /// Sixteen bytes: the upload that they are a part of; none: they are no part.
    #[prost(bytes = "vec", tag = "5")]
    pub upload: Vec<u8>,
    /// Number of the part.
    #[prost(uint32, tag = "6")]
    pub part_number: u32,
    /// No commit follows them.
    #[prost(bool, tag = "7")]
    pub bare: bool,
}

/// Proof that they are flushed.
#[derive(Clone, PartialEq, Message)]
pub struct StoredCopy {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// CRC-32C of them, computed before they were written.
    #[prost(uint32, tag = "2")]
    pub crc32c: u32,
    /// Session of who keeps them.
    #[prost(uint64, tag = "3")]
    pub session: u64,
}

/// A part of a chunk.
#[derive(Clone, PartialEq, Message)]
pub struct FetchCopy {
    /// Sixteen bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub blob: Vec<u8>,
    /// Number of the chunk.
    #[prost(uint32, tag = "2")]
    pub chunk: u32,
    /// First byte in it.
    #[prost(uint32, tag = "3")]
    pub first: u32,
    /// Byte after the last.
    #[prost(uint32, tag = "4")]
    pub end: u32,
}

/// Copies, by sixteen bytes each.
#[derive(Clone, PartialEq, Message)]
pub struct CopyList {
    /// Which.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub blobs: Vec<Vec<u8>>,
    /// Bytes of each, where that matters.
    #[prost(uint64, repeated, tag = "2")]
    pub bytes: Vec<u64>,
}

/// What a copy takes over.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Bytes of the object.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Its ETag.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// `Last-Modified`, milliseconds since the Unix epoch.
    #[prost(sint64, tag = "3")]
    pub modified_ms: i64,
    /// What it is stored with.
    #[prost(message, optional, tag = "4")]
    pub headers: Option<StoredHeaders>,
    /// Its checksums.
    #[prost(message, repeated, tag = "5")]
    pub sums: Vec<Sum>,
    /// Its tags.
    #[prost(message, repeated, tag = "6")]
    pub tags: Vec<Tag>,
}

/// Headers stored with an object.
#[derive(Clone, PartialEq, Message)]
pub struct StoredHeaders {
    /// `Content-Type`.
    #[prost(string, optional, tag = "1")]
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    #[prost(string, optional, tag = "2")]
    pub content_encoding: Option<String>,
    /// `Content-Disposition`.
    #[prost(string, optional, tag = "3")]
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    #[prost(string, optional, tag = "4")]
    pub content_language: Option<String>,
    /// `Cache-Control`.
    #[prost(string, optional, tag = "5")]
    pub cache_control: Option<String>,
    /// `Expires`.
    #[prost(string, optional, tag = "6")]
    pub expires: Option<String>,
    /// User metadata.
    #[prost(message, repeated, tag = "7")]
    pub user: Vec<Tag>,
}

/// A checksum.
#[derive(Clone, PartialEq, Message)]
pub struct Sum {
    /// Its name in S3.
    #[prost(string, tag = "1")]
    pub algorithm: String,
    /// Of so many parts; 0: of all bytes.
    #[prost(uint32, tag = "2")]
    pub parts: u32,
    /// Raw.
    #[prost(bytes = "vec", tag = "3")]
    pub value: Vec<u8>,
}

/// A name and its value.
#[derive(Clone, PartialEq, Message)]
pub struct Tag {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}
