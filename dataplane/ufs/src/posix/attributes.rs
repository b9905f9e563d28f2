//! What is kept with a file beyond its bytes: one extended attribute.
//!
//! `user.quickwater.object` holds, in format version 1 (all numbers little
//! endian): version (u8), size (u64), modification time in ns (i64), ETag, six
//! headers, user metadata, checksums, and the first 4 bytes of the MD5 of all
//! that. It counts only while the file has exactly that size and time: a file
//! changed by anyone else has an opaque ETag `<32 hex>-1` and no headers. A file
//! system without extended attributes, or too small ones, is fine too: our
//! metadata has the same, only a rebuilt metadata store would not.

use std::sync::atomic::AtomicU64;

use md5::{Digest, Md5};
use quickwater_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectHeaders, UfsIdentity, UfsObject,
};
use rustix::fd::AsFd;
use rustix::fs::{Stat, XattrFlags};
use rustix::io::Errno;

use crate::stats::count;

/// Name of the attribute.
pub(super) const NAME: &str = "user.quickwater.object";
/// Version of the record's format.
const VERSION: u8 = 1;
/// Largest record read (Linux: `XATTR_SIZE_MAX`).
pub(super) const RECORD_BYTES_MAX: usize = 64 << 10;
/// Bytes of the check at the end.
const CHECK_BYTES: usize = 4;
/// Length that means "none".
const NONE: u16 = u16::MAX;

/// The record, as far as it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) etag: ETag,
    pub(super) headers: ObjectHeaders,
    pub(super) checksums: Vec<Checksum>,
}

/// Identity of the content of a file.
pub(super) fn identity(stat: &Stat) -> UfsIdentity {
    UfsIdentity {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: modified_ns(stat),
        token: stat.st_ino.to_string(),
    }
}

/// Modification time, ns since the Unix epoch. The types differ by platform.
fn modified_ns(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// ETag of a file that nobody told us the MD5 of.
pub(super) fn opaque_etag(identity: &UfsIdentity) -> ETag {
    let mut hash = Md5::new();
    hash.update(identity.size.to_le_bytes());
    hash.update(identity.modified_ns.to_le_bytes());
    hash.update(identity.token.as_bytes());
    ETag::new(&format!("{}-1", hex::encode(hash.finalize())))
}

/// The object a file is.
pub(super) fn object(identity: UfsIdentity, attributes: Option<Attributes>) -> UfsObject {
    match attributes {
        Some(known) => UfsObject {
            identity,
            etag: known.etag,
            headers: known.headers,
            checksums: known.checksums,
        },
        None => UfsObject {
            etag: opaque_etag(&identity),
            identity,
            headers: ObjectHeaders::default(),
            checksums: Vec::new(),
        },
    }
}

/// Reads a file's attributes.
///
/// # Errors
/// The device fails; a file system without attributes is `Ok(None)`.
pub(super) fn load(fd: impl AsFd, identity: &UfsIdentity) -> Result<Option<Attributes>, Errno> {
    let mut record = Vec::with_capacity(RECORD_BYTES_MAX);
    match rustix::fs::fgetxattr(fd, NAME, rustix::buffer::spare_capacity(&mut record)) {
        Ok(_) => Ok(decode(&record, identity)),
        Err(Errno::IO) => Err(Errno::IO),
        Err(_) => Ok(None),
    }
}

/// Writes a file's attributes; what does not fit is counted in `dropped`.
///
/// # Errors
/// The device fails.
pub(super) fn store(
    fd: impl AsFd,
    identity: &UfsIdentity,
    attributes: &Attributes,
    dropped: &AtomicU64,
) -> Result<(), Errno> {
    let bare = Attributes {
        etag: attributes.etag.clone(),
        headers: ObjectHeaders::default(),
        checksums: Vec::new(),
    };
    for candidate in [attributes, &bare] {
        let set = encode(candidate, identity)
            .ok_or(Errno::TOOBIG)
            .and_then(|r| rustix::fs::fsetxattr(fd.as_fd(), NAME, &r, XattrFlags::empty()));
        match set {
            Ok(()) => return Ok(()),
            Err(Errno::IO) => return Err(Errno::IO),
            Err(errno) => {
                tracing::debug!(error = %errno, "extended attribute not kept");
                count(dropped, 1);
            }
        }
    }
    Ok(())
}

/// The record; `None`: something in it is too long.
fn encode(attributes: &Attributes, identity: &UfsIdentity) -> Option<Vec<u8>> {
    let mut out = vec![VERSION];
    out.extend(identity.size.to_le_bytes());
    out.extend(identity.modified_ns.to_le_bytes());
    put_bytes(&mut out, Some(attributes.etag.as_str().as_bytes()))?;
    let headers = &attributes.headers;
    for header in [
        &headers.content_type,
        &headers.content_encoding,
        &headers.content_disposition,
        &headers.content_language,
        &headers.cache_control,
        &headers.expires,
    ] {
        put_bytes(&mut out, header.as_deref().map(str::as_bytes))?;
    }
    out.extend(u16::try_from(headers.user.len()).ok()?.to_le_bytes());
    for (name, value) in &headers.user {
        put_bytes(&mut out, Some(name.as_bytes()))?;
        put_bytes(&mut out, Some(value.as_bytes()))?;
    }
    out.push(u8::try_from(attributes.checksums.len()).ok()?);
    for checksum in &attributes.checksums {
        put_bytes(&mut out, Some(checksum.algorithm.name().as_bytes()))?;
        let parts = match checksum.kind {
            ChecksumKind::FullObject => 0,
            ChecksumKind::Composite { parts } => parts,
        };
        out.extend(parts.to_le_bytes());
        put_bytes(&mut out, Some(&checksum.value))?;
    }
    let check = Md5::digest(&out);
    out.extend(&check[..CHECK_BYTES]);
    (out.len() <= RECORD_BYTES_MAX).then_some(out)
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> Option<()> {
    let length = match bytes {
        None => NONE,
        Some(bytes) => u16::try_from(bytes.len()).ok().filter(|l| *l != NONE)?,
    };
    out.extend(length.to_le_bytes());
    out.extend(bytes.unwrap_or_default());
    Some(())
}

/// Reads a record; `None`: damaged, of another version, or not about this
/// content.
pub(super) fn decode(record: &[u8], identity: &UfsIdentity) -> Option<Attributes> {
    let (body, check) = record.split_at_checked(record.len().checked_sub(CHECK_BYTES)?)?;
    if Md5::digest(body)[..CHECK_BYTES] != *check {
        return None;
    }
    let mut rest = Fields(body);
    if rest.array::<1>()? != [VERSION]
        || u64::from_le_bytes(rest.array()?) != identity.size
        || i64::from_le_bytes(rest.array()?) != identity.modified_ns
    {
        return None;
    }
    let etag = ETag::new(&rest.text()??);
    let headers = rest.headers()?;
    let mut checksums = Vec::new();
    for _ in 0..rest.array::<1>()?[0] {
        checksums.push(rest.checksum()?);
    }
    Some(Attributes {
        etag,
        headers,
        checksums,
    })
}

/// The unread rest of a record.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*value)
    }

    fn bytes(&mut self) -> Option<Option<Vec<u8>>> {
        let length = u16::from_le_bytes(self.array()?);
        if length == NONE {
            return Some(None);
        }
        let (value, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(Some(value.to_vec()))
    }

    fn text(&mut self) -> Option<Option<String>> {
        match self.bytes()? {
            None => Some(None),
            Some(bytes) => String::from_utf8(bytes).ok().map(Some),
        }
    }

    fn headers(&mut self) -> Option<ObjectHeaders> {
        let mut headers = ObjectHeaders {
            content_type: self.text()?,
            content_encoding: self.text()?,
            content_disposition: self.text()?,
            content_language: self.text()?,
            cache_control: self.text()?,
            expires: self.text()?,
            user: Vec::new(),
        };
        for _ in 0..u16::from_le_bytes(self.array()?) {
            headers.user.push((self.text()??, self.text()??));
        }
        Some(headers)
    }

    fn checksum(&mut self) -> Option<Checksum> {
        let algorithm = ChecksumAlgorithm::parse(&self.text()??)?;
        let kind = match u16::from_le_bytes(self.array()?) {
            0 => ChecksumKind::FullObject,
            parts => ChecksumKind::Composite { parts },
        };
        let value = self.bytes()??;
        (value.len() == algorithm.value_bytes()).then_some(Checksum {
            algorithm,
            kind,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> (Attributes, UfsIdentity) {
        let attributes = Attributes {
            etag: ETag::from_md5(&[7; 16]),
            headers: ObjectHeaders {
                content_type: Some("text/plain".into()),
                expires: Some(String::new()),
                user: vec![("a".into(), "ü".into()), ("a".into(), "2".into())],
                ..ObjectHeaders::default()
            },
            checksums: vec![Checksum {
                algorithm: ChecksumAlgorithm::Crc64Nvme,
                kind: ChecksumKind::Composite { parts: 3 },
                value: vec![1; 8],
            }],
        };
        let identity = UfsIdentity {
            size: 5,
            modified_ns: -7,
            token: "1".into(),
        };
        (attributes, identity)
    }

    #[test]
    fn records_round_trip_and_count_for_their_content_only() {
        let (attributes, identity) = example();
        let record = encode(&attributes, &identity).unwrap();
        assert_eq!(decode(&record, &identity), Some(attributes));
        let other = UfsIdentity {
            modified_ns: -6,
            ..identity
        };
        assert_eq!(decode(&record, &other), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (attributes, identity) = example();
        let record = encode(&attributes, &identity).unwrap();
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged, &identity), None, "bit {bit}");
        }
        for length in 0..record.len() {
            assert_eq!(decode(&record[..length], &identity), None);
        }
    }

    #[test]
    fn too_long_a_header_is_refused() {
        let (mut attributes, identity) = example();
        attributes.headers.content_type = Some("x".repeat(usize::from(u16::MAX)));
        assert_eq!(encode(&attributes, &identity), None);
    }

    proptest! {
        #[test]
        fn no_record_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let identity = UfsIdentity { size: 0, modified_ns: 0, token: String::new() };
            let mut record = vec![VERSION];
            record.extend([0; 16]);
            record.extend(body);
            let check = Md5::digest(&record);
            record.extend(&check[..CHECK_BYTES]);
            let _ = decode(&record, &identity);
        }
    }
}
