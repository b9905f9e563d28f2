//! The version of the keyspace, kept in the store itself: a store shared by
//! several machines has no directory to keep it in.

use quickwater_proto::MetadataError;

use super::mutate::{Mutation, Operation, Step};
use super::{Namespace, Stop};
use crate::keyspace;
use crate::store::{Store, Transaction};

/// The version this program writes.
const FORMAT: u32 = 2;
/// The version without pending changes: its rows mean the same here. A program
/// of that version must not see pending changes: it would believe the UFS.
const FORMAT_WITHOUT_PENDING: u32 = 1;

/// The store is not for this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Another version of the program made it.
    #[error(
        "the metadata has format {found}, this program knows format {FORMAT}: use the version of \
         the program that made it"
    )]
    Unknown {
        /// Its format.
        found: String,
    },
    /// A rebuild or an import was cut.
    #[error(
        "the metadata is an {0}: run it again (`quickwater metadata rebuild` goes on by itself; \
         empty the metadata before another import)"
    )]
    Unfinished(String),
    /// It cannot be read or written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl<S: Store> Namespace<S> {
    /// Looks whether the store is of this program's format and marks a new one, or
    /// one of the format before.
    /// Call it once before anything else.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub async fn check_format(&self) -> Result<(), FormatError> {
        let (found, _) = self.mutate(&Format).await?;
        match <[u8; 4]>::try_from(found.as_slice()).map(u32::from_be_bytes) {
            Ok(FORMAT) => Ok(()),
            Ok(other) => Err(FormatError::Unknown {
                found: other.to_string(),
            }),
            Err(_) if found.starts_with(b"unfinished ") => Err(FormatError::Unfinished(
                String::from_utf8_lossy(&found).into_owned(),
            )),
            Err(_) => Err(FormatError::Unknown {
                found: format!("{found:02x?}"),
            }),
        }
    }
}

impl<S: Store> Namespace<S> {
    /// Marks metadata as whole that were [`UNFINISHED`](super::rebuild::UNFINISHED).
    pub(super) async fn finish_format(&self) -> Result<(), MetadataError> {
        self.mutate(&Finish).await.map(drop)
    }
}

struct Finish;

impl Mutation for Finish {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        transaction.set(&keyspace::format(), &FORMAT.to_be_bytes());
        Ok(Step::Commit(()))
    }
}

/// Answers the format as it is kept.
struct Format;

impl Mutation for Format {
    type Answer = Vec<u8>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Vec<u8>>, Stop> {
        let key = keyspace::format();
        match transaction.get(&key).await? {
            Some(found) if *found != FORMAT_WITHOUT_PENDING.to_be_bytes() => {
                return Ok(Step::Nothing(found.to_vec()));
            }
            _ => {}
        }
        let format = FORMAT.to_be_bytes();
        transaction.set(&key, &format);
        Ok(Step::Commit(format.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EmbeddedStore;

    #[tokio::test]
    async fn a_new_store_is_marked_and_another_format_refused() {
        let namespace = Namespace::new(EmbeddedStore::in_memory().unwrap());
        assert_eq!(namespace.check_format().await, Ok(()));
        assert_eq!(namespace.check_format().await, Ok(()));
        for (value, text) in [
            (&3u32.to_be_bytes()[..], "format 3,"),
            (b"x", "format [78]"),
        ] {
            let mut transaction = namespace.store().begin();
            transaction.set(&keyspace::format(), value);
            transaction.commit().await.unwrap();
            let error = namespace.check_format().await.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[tokio::test]
    async fn the_format_before_is_taken_over_for_good() {
        let namespace = Namespace::new(EmbeddedStore::in_memory().unwrap());
        let key = keyspace::format();
        let mut transaction = namespace.store().begin();
        transaction.set(&key, &1u32.to_be_bytes());
        transaction.commit().await.unwrap();
        assert_eq!(namespace.check_format().await, Ok(()));
        let mut transaction = namespace.store().begin();
        let found = transaction.get(&key).await.unwrap().unwrap();
        assert_eq!(*found, FORMAT.to_be_bytes());
    }
}
