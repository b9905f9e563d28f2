//! Where the identities of directories are kept between two starts. Absent: the
//! metadata, which whoever assembles the service supplies.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use quickwater_proto::BucketId;

/// Keeps, for each bucket, the identity of the directory it was written to. Called
/// on threads that may block; every call has a deadline inside.
pub trait Identities: Debug + Send + Sync + 'static {
    /// The identity kept; `None`: the directory was never marked.
    ///
    /// # Errors
    /// It cannot be told now; the text says why.
    fn identity(&self, bucket: BucketId) -> Result<Option<String>, String>;

    /// Keeps an identity, durably on return; `None` forgets it.
    ///
    /// # Errors
    /// It may not be kept; the text says why.
    fn keep(&self, bucket: BucketId, identity: Option<&str>) -> Result<(), String>;
}

/// Keeps them as long as the client lives: for tools and tests.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<HashMap<BucketId, String>>);

impl Identities for Remembered {
    fn identity(&self, bucket: BucketId) -> Result<Option<String>, String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.get(&bucket).cloned())
    }

    fn keep(&self, bucket: BucketId, identity: Option<&str>) -> Result<(), String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match identity {
            Some(identity) => known.insert(bucket, identity.to_owned()),
            None => known.remove(&bucket),
        };
        Ok(())
    }
}
