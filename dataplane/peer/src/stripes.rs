//! Messages about large objects that are spread over the workers by stripe, as protobuf:
//! field numbers are never reused. Absent: who holds which stripe.

use prost::Message;

/// Where the bytes of a GET are: in stripes of a version that the UFS has.
#[derive(Clone, PartialEq, Message)]
pub struct Layout {
    /// The version's content.
    #[prost(message, optional, tag = "1")]
    pub content: Option<Content>,
    /// Where it lies, in order.
    #[prost(message, repeated, tag = "2")]
    pub extents: Vec<ExtentAt>,
    /// First byte that is wanted.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// Byte after the last.
    #[prost(uint64, tag = "4")]
    pub end: u64,
    /// How much of them is in the store of who answers: 1 all, 2 nothing, 3 some.
    #[prost(uint32, tag = "5")]
    pub stored: u32,
}

/// Content of an object, as the UFS knows it.
#[derive(Clone, PartialEq, Message)]
pub struct Content {
    /// Bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// ETag of the object.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// Modification time in the UFS, nanoseconds since the Unix epoch.
    #[prost(sint64, tag = "3")]
    pub modified_ns: i64,
    /// What else identifies it there.
    #[prost(string, tag = "4")]
    pub token: String,
}

/// An extent of an object.
#[derive(Clone, PartialEq, Message)]
pub struct ExtentAt {
    /// Its blob, sixteen bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub blob: Vec<u8>,
    /// Its bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// A piece of a large object; bucket and key are those of the capability.
#[derive(Clone, PartialEq, Message)]
pub struct ReadStripe {
    /// Bucket by number.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// What the object is.
    #[prost(message, optional, tag = "2")]
    pub content: Option<Content>,
    /// The extent that the piece lies in.
    #[prost(message, optional, tag = "3")]
    pub extent: Option<ExtentAt>,
    /// Where the extent begins in the object.
    #[prost(uint64, tag = "4")]
    pub extent_start: u64,
    /// First byte, in the object. The piece ends with its chunk, or with `until`.
    #[prost(uint64, tag = "5")]
    pub first: u64,
    /// Byte after the last that will be asked for next.
    #[prost(uint64, tag = "6")]
    pub until: u64,
    /// A worker whose store may have the chunk; empty: nobody is known.
    #[prost(string, tag = "7")]
    pub source: String,
    /// The bytes are not wanted, only that they are in the store.
    #[prost(bool, tag = "8")]
    pub unseen: bool,
}

/// Chunks of blobs.
#[derive(Clone, PartialEq, Message)]
pub struct ChunkRuns {
    /// One by one.
    #[prost(message, repeated, tag = "1")]
    pub runs: Vec<Run>,
}

/// Chunks of a blob.
#[derive(Clone, PartialEq, Message)]
pub struct Run {
    /// Sixteen bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub blob: Vec<u8>,
    /// The first.
    #[prost(uint32, tag = "2")]
    pub first: u32,
    /// The one after the last.
    #[prost(uint32, tag = "3")]
    pub end: u32,
}

/// How many there were of each.
#[derive(Clone, PartialEq, Message)]
pub struct Counts {
    /// In the same order.
    #[prost(uint64, repeated, tag = "1")]
    pub counts: Vec<u64>,
}
