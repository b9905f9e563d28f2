//! Path policies as they are kept: the version in force, and those before it.
//!
//! Absent: what a document may say (`policies`) and who is told of a new one.

use quickwater_proto::MetadataError;

use super::mutate::{Mutation, Operation, Step};
use super::read::{Get, Reading, all_rows};
use super::{Namespace, Stop, record_error};
use crate::keyspace;
use crate::policies::{DOCUMENT_BYTES_MAX, Document, InvalidDocument};
use crate::records::{POLICY_PIECE_BYTES, PolicyVersion, decode_policy, encode_policy};
use crate::store::{Store, Transaction};

/// Most versions kept; older ones are removed.
pub const POLICY_VERSIONS_MAX: u64 = 100;
/// Longest text kept of who set a version, bytes; the rest is cut off.
pub const POLICY_BY_BYTES_MAX: usize = 256;

/// Why policies were not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The document cannot be used.
    #[error(transparent)]
    Document(#[from] InvalidDocument),
    /// Another version is in force than the one the change was made from.
    #[error("version {current} is in force, the change was made from version {expected}")]
    Stale {
        /// The version the change was made from.
        expected: u64,
        /// The version in force.
        current: u64,
    },
    /// It never was, or is no longer kept.
    #[error("there is no version {0}; the last {POLICY_VERSIONS_MAX} are kept")]
    NoSuchVersion(u64),
    /// The metadata cannot be read or written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// A wish to set policies.
#[derive(Debug, Clone, Copy)]
pub struct PolicyChange<'a> {
    /// Who wishes it and how, as told.
    pub by: &'a str,
    /// Only if this version is in force.
    pub expected: Option<u64>,
    /// How many workers there are to hold copies.
    pub workers: u8,
}

/// A version of the path policies with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicies {
    /// From 1; 0 is what holds while nobody has set anything.
    pub version: u64,
    /// How it came to be; none for version 0.
    pub origin: Option<PolicyVersion>,
    /// The document.
    pub text: String,
}

impl<S: Store> Namespace<S> {
    /// The version in force.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn policy_version(&self) -> Result<u64, MetadataError> {
        let value = self.read(&Get(&keyspace::policy_version())).await?;
        number(value.as_deref())
    }

    /// A version of the policies; without one, that in force.
    ///
    /// # Errors
    /// [`PolicyError::NoSuchVersion`], [`PolicyError::Metadata`].
    pub async fn policies(&self, version: Option<u64>) -> Result<StoredPolicies, PolicyError> {
        if version == Some(0) {
            return Ok(built_in()?);
        }
        let found = self.read(&Stored { version }).await?;
        found.ok_or(PolicyError::NoSuchVersion(version.unwrap_or(0)))
    }

    /// Sets the policies: checks the document, keeps it as a new version and
    /// answers that version with the document as it is kept. Telling the data
    /// plane is the caller's business.
    ///
    /// # Errors
    /// [`PolicyError::Document`], [`PolicyError::Stale`], or as any change.
    pub async fn set_policies(
        &self,
        text: &str,
        change: PolicyChange<'_>,
    ) -> Result<(u64, Document), PolicyError> {
        let document = Document::parse(text, Some(change.workers))?;
        let version = self.commit_policies(&document, change, None).await?;
        Ok((version, document))
    }

    /// Sets the content of an earlier version again, as a new version.
    ///
    /// # Errors
    /// As [`Self::set_policies`], and [`PolicyError::NoSuchVersion`].
    pub async fn rollback_policies(
        &self,
        version: u64,
        change: PolicyChange<'_>,
    ) -> Result<(u64, Document), PolicyError> {
        let stored = self.policies(Some(version)).await?;
        let document = Document::parse(&stored.text, Some(change.workers))?;
        let new = self.commit_policies(&document, change, Some(version));
        Ok((new.await?, document))
    }

    /// The versions that are kept, newest first.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn policy_history(&self) -> Result<Vec<(u64, PolicyVersion)>, MetadataError> {
        let most = usize::try_from(POLICY_VERSIONS_MAX).unwrap_or(usize::MAX);
        let (rows, _) = self.rows(keyspace::policies(), most).await?;
        let mut versions = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            let version = keyspace::parse_policy(&row.key)
                .ok_or_else(|| MetadataError::Unavailable("unreadable policy key".into()))?;
            versions.push((version, decode_policy(&row.value).map_err(record_error)?));
        }
        Ok(versions)
    }

    async fn commit_policies(
        &self,
        document: &Document,
        change: PolicyChange<'_>,
        rollback_of: Option<u64>,
    ) -> Result<u64, PolicyError> {
        let text = text_of(document)?;
        let set = SetPolicies {
            row: PolicyVersion {
                set_ms: self.clock.wall_ms(),
                by: cut(change.by).to_owned(),
                rollback_of,
                rules: u32::try_from(document.path_rules.len()).unwrap_or(u32::MAX),
                bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
            },
            text: &text,
            expected: change.expected,
        };
        match (self.rename(&set).await?.0, change.expected) {
            (Outcome::Set(version), _) => Ok(version),
            (Outcome::Stale(current), expected) => Err(PolicyError::Stale {
                expected: expected.unwrap_or(current),
                current,
            }),
        }
    }
}

fn text_of(document: &Document) -> Result<String, MetadataError> {
    let text = document.to_text();
    text.map_err(|error| MetadataError::Unavailable(error.to_string()))
}

fn built_in() -> Result<StoredPolicies, MetadataError> {
    Ok(StoredPolicies {
        version: 0,
        origin: None,
        text: text_of(&Document::default())?,
    })
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(POLICY_BY_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn number(value: Option<&[u8]>) -> Result<u64, MetadataError> {
    let Some(value) = value else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(value);
    bytes.map(u64::from_be_bytes).map_err(|_| {
        tracing::error!("the row of the policy version is damaged");
        MetadataError::Unavailable("the row of the policy version is damaged".into())
    })
}

/// A version with its text, all of one moment.
struct Stored {
    version: Option<u64>,
}

impl Reading for Stored {
    type Answer = Option<StoredPolicies>;

    async fn read<T: Transaction>(&self, transaction: &mut T) -> Result<Self::Answer, Stop> {
        let version = match self.version {
            Some(version) => version,
            None => {
                let key = keyspace::policy_version();
                number(transaction.get_snapshot(&key).await?.as_deref())?
            }
        };
        if version == 0 {
            return Ok(Some(built_in()?));
        }
        let row = transaction.get_snapshot(&keyspace::policy(version)).await?;
        let Some(row) = row else { return Ok(None) };
        let origin = decode_policy(&row)?;
        let range = keyspace::policy_texts(version);
        let pieces = DOCUMENT_BYTES_MAX.div_ceil(POLICY_PIECE_BYTES);
        let rows = all_rows(transaction, range, pieces, true).await?;
        let text: Vec<u8> = rows.iter().flat_map(|row| row.value.to_vec()).collect();
        let damaged = |why: &str| {
            tracing::error!(version, why, "the text of the policies is damaged");
            MetadataError::Unavailable(format!("the text of policy version {version} is damaged"))
        };
        if text.len() != origin.bytes as usize {
            return Err(damaged("length").into());
        }
        Ok(Some(StoredPolicies {
            version,
            origin: Some(origin),
            text: String::from_utf8(text).map_err(|_| damaged("encoding"))?,
        }))
    }
}

struct SetPolicies<'a> {
    row: PolicyVersion,
    text: &'a str,
    expected: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// As this version.
    Set(u64),
    /// This one is in force.
    Stale(u64),
}

impl Mutation for SetPolicies<'_> {
    type Answer = Outcome;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Outcome>, Stop> {
        let key = keyspace::policy_version();
        let current = number(transaction.get(&key).await?.as_deref())?;
        if self.expected.is_some_and(|expected| expected != current) {
            return Ok(Step::Nothing(Outcome::Stale(current)));
        }
        let Some(version) = current.checked_add(1) else {
            return Err(MetadataError::TooLarge("no version number is left".into()).into());
        };
        transaction.set(&key, &version.to_be_bytes());
        transaction.set(&keyspace::policy(version), &encode_policy(&self.row)?);
        for (piece, bytes) in (0..).zip(self.text.as_bytes().chunks(POLICY_PIECE_BYTES)) {
            transaction.set(&keyspace::policy_text(version, piece), bytes);
        }
        if let Some(old) = version.checked_sub(POLICY_VERSIONS_MAX) {
            transaction.clear(&keyspace::policy(old));
            transaction.clear_range(keyspace::policy_texts(old));
        }
        Ok(Step::Commit(Outcome::Set(version)))
    }
}
