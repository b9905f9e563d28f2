//! Names that are valid by construction.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a name was refused; the text is fit for an S3 error message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(pub String);

/// A bucket name after the S3 rules: 3 to 63 of `a-z 0-9 . -`, begins and ends
/// with a letter or digit, no `..`, not shaped like an IPv4 address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketName(Arc<str>);

impl BucketName {
    /// Checks `name` against the S3 bucket naming rules.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let refuse = |why: &str| Err(InvalidName(format!("bucket name '{name}' {why}")));
        if !(3..=63).contains(&name.len()) {
            return refuse("must have 3 to 63 characters");
        }
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if !name.bytes().all(ok) {
            return refuse("may hold only lowercase letters, digits, '.' and '-'");
        }
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if !edge(name.bytes().next()) || !edge(name.bytes().last()) {
            return refuse("must begin and end with a letter or digit");
        }
        if name.contains("..") {
            return refuse("must not hold two dots in a row");
        }
        if name.parse::<std::net::Ipv4Addr>().is_ok() {
            return refuse("must not look like an IP address");
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maps keyed by names are searched by text: hash and order are the text's.
impl Borrow<str> for BucketName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An object key: 1 to 1,024 bytes of UTF-8. Any character is allowed; what a
/// UFS cannot hold is encoded by that UFS.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// Checks the length of `key`.
    pub fn new(key: &str) -> Result<Self, InvalidName> {
        if key.is_empty() {
            return Err(InvalidName("object key must not be empty".into()));
        }
        if key.len() > super::KEY_BYTES_MAX {
            return Err(InvalidName(format!(
                "object key is longer than {} bytes",
                super::KEY_BYTES_MAX
            )));
        }
        Ok(Self(key.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maps keyed by names are searched by text: hash and order are the text's.
impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Number of a bucket, unique for the life of the namespace. A bucket that is
/// deleted and made again gets a new one, so old rows never come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketId(pub u64);

/// Order of commits: the 10-byte commit versionstamp plus 2 bytes of our own,
/// big-endian in the low 96 bits. Larger is later; no wall clock is involved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version(pub u128);

/// Names one immutable run of bytes in the store. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(pub u128);

impl BlobId {
    /// A fresh random id (122+ bits of entropy from the operating system).
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Id of a multipart upload: shown to clients as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UploadId(pub u128);

impl UploadId {
    /// Parses the 32 hex digits a client sends back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// An entity tag without its quotes: `<32 hex>` only when it is the MD5 of the
/// object, `<32 hex>-<parts>` otherwise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Takes an entity tag, with or without the surrounding quotes.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        Self(tag.trim_matches('"').into())
    }

    /// The tag of an object whose MD5 is `digest`.
    #[must_use]
    pub fn from_md5(digest: &[u8; 16]) -> Self {
        Self(hex::encode(digest).into())
    }

    /// The text without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The MD5 this tag states, if it is one.
    #[must_use]
    pub fn as_md5(&self) -> Option<[u8; 16]> {
        let mut digest = [0u8; 16];
        hex::decode_to_slice(self.0.as_bytes(), &mut digest).ok()?;
        Some(digest)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_s3_rules() {
        for good in ["abc", "a-b.c", "123", "my-data"] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        for bad in ["ab", "Abc", "-abc", "abc-", "a..b", "10.0.0.1", "a_b", ""] {
            assert!(BucketName::new(bad).is_err(), "{bad}");
        }
        assert!(BucketName::new(&"a".repeat(64)).is_err());
    }

    #[test]
    fn keys_are_bounded() {
        assert!(ObjectKey::new("").is_err());
        assert!(ObjectKey::new(&"k".repeat(1024)).is_ok());
        assert!(ObjectKey::new(&"k".repeat(1025)).is_err());
    }

    #[test]
    fn etag_knows_whether_it_is_an_md5() {
        assert_eq!(ETag::from_md5(&[0xab; 16]).as_md5(), Some([0xab; 16]));
        assert_eq!(
            ETag::new("\"abababababababababababababababab-2\"").as_md5(),
            None
        );
    }

    #[test]
    fn upload_ids_round_trip() {
        let id = UploadId(0x1234);
        assert_eq!(UploadId::parse(&id.to_string()), Some(id));
        assert_eq!(UploadId::parse("xyz"), None);
    }
}
