//! One request of a workload, which may take several HTTP calls.

/// An object of a key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) index: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Where its content begins in the pattern.
    pub(crate) content: u64,
}

/// What is measured as one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Get(Object),
    GetRange {
        object: Object,
        offset: u64,
        length: u64,
    },
    Head(Object),
    /// One PUT, or parts when the object is larger than a part.
    Put(Object),
    /// Always in parts.
    PutParts(Object),
    /// PUT, then GET; the time of the GET counts.
    WriteThenRead(Object),
    /// A page of keys after the one of index `after`.
    List {
        after: u64,
        /// Keys the page must have at least.
        expected: u64,
    },
    Delete(Object),
    /// HEAD; PUT when the right object is not there.
    Ensure(Object),
    /// HEAD of the bucket; PUT when it is not there.
    Bucket,
}
