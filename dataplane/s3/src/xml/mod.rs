//! Reads the XML bodies of S3 requests: bounded in size and depth, without
//! entities or DTDs, strict about elements.

mod bucket;
mod complete;
mod delete;
mod tagging;
mod walk;

pub use bucket::parse_create_bucket;
pub use complete::{COMPLETED_PARTS_MAX, CompletedPart, parse_complete};
pub use delete::{DELETED_KEYS_MAX, DeleteEntry, DeleteRequest, parse_delete};
pub use tagging::parse_tagging;

/// Largest XML body, bytes; a full CompleteMultipartUpload fits.
pub const BODY_BYTES_MAX: usize = 2 << 20;
