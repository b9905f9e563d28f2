//! Answers: header lines appended to a buffer, XML bodies as bytes. The HTTP layer
//! adds the status line, Date, Content-Length, Connection and the request id.

mod bucket;
mod header;
mod listing;
mod multipart;
mod object;
#[cfg(test)]
mod tests;
mod write;

pub use bucket::{
    BucketEntry, bucket_default, copy_object, copy_part, create_bucket_head, delete_objects,
    error_body, error_head, head_bucket_head, list_buckets, location, owner_acl, tagging,
    versioning,
};
pub use header::{HeaderList, reason};
pub use listing::{ListPage, ListedObject, list_objects, list_objects_v2};
pub use multipart::{
    PartsPage, UploadsPage, complete_upload, create_upload, create_upload_head, list_parts,
    list_uploads,
};
pub use object::{
    AttributesView, ObjectView, attributes, attributes_head, durability, not_modified_head,
    object_head, persist_state, put_head, put_part_head,
};

/// `Content-Type` of every XML answer.
pub const XML_CONTENT_TYPE: &str = "application/xml";
