//! What S3 says of an object, translated both ways.

use std::collections::HashMap;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ChecksumType;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quickwater_engine::io::BodyDigests;
use quickwater_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectHeaders, UfsError, UfsErrorKind,
    UfsIdentity, UfsObject,
};

/// `Content-Type` S3 shows when none was stored.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Identity of an object. Listings may have a finer time than headers: both are
/// cut to whole seconds so that they can be compared.
pub(super) fn identity(
    size: Option<i64>,
    etag: Option<&str>,
    modified: Option<&DateTime>,
) -> Result<UfsIdentity, UfsError> {
    let size = size.and_then(|s| u64::try_from(s).ok());
    let (Some(size), Some(etag)) = (size, etag) else {
        let message = "the store told no length or no ETag";
        return Err(UfsError::new(UfsErrorKind::Corrupt, message));
    };
    Ok(UfsIdentity {
        size,
        modified_ns: modified.map_or(0, |m| m.secs().saturating_mul(1_000_000_000)),
        token: ETag::new(etag).as_str().to_owned(),
    })
}

/// The object a HEAD describes.
pub(super) fn object(head: &HeadObjectOutput) -> Result<UfsObject, UfsError> {
    let identity = identity(head.content_length(), head.e_tag(), head.last_modified())?;
    // Encrypted with a key service or a customer's key, the ETag is shaped like an
    // MD5 and is none: it must not be taken for one.
    let etag = match is_opaque(head) && ETag::new(&identity.token).as_md5().is_some() {
        true => ETag::new(&format!("{}-1", identity.token)),
        false => ETag::new(&identity.token),
    };
    Ok(UfsObject {
        etag,
        identity,
        headers: headers(head),
        checksums: checksums(head),
    })
}

fn is_opaque(head: &HeadObjectOutput) -> bool {
    let by_service = head
        .server_side_encryption()
        .is_some_and(|kind| kind.as_str().starts_with("aws:kms"));
    by_service || head.sse_customer_algorithm().is_some()
}

fn headers(head: &HeadObjectOutput) -> ObjectHeaders {
    let owned = |value: Option<&str>| value.map(str::to_owned);
    ObjectHeaders {
        content_type: owned(head.content_type().filter(|t| *t != DEFAULT_CONTENT_TYPE)),
        content_encoding: owned(head.content_encoding()),
        content_disposition: owned(head.content_disposition()),
        content_language: owned(head.content_language()),
        cache_control: owned(head.cache_control()),
        expires: owned(head.expires_string()),
        user: user_metadata(head.metadata()),
    }
}

/// In order of name: S3 keeps no order.
fn user_metadata(metadata: Option<&HashMap<String, String>>) -> Vec<(String, String)> {
    let mut user: Vec<_> = metadata
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    user.sort_unstable();
    user
}

fn checksums(head: &HeadObjectOutput) -> Vec<Checksum> {
    let composite = head.checksum_type() == Some(&ChecksumType::Composite);
    [
        (ChecksumAlgorithm::Crc32, head.checksum_crc32()),
        (ChecksumAlgorithm::Crc32c, head.checksum_crc32_c()),
        (ChecksumAlgorithm::Crc64Nvme, head.checksum_crc64_nvme()),
        (ChecksumAlgorithm::Sha1, head.checksum_sha1()),
        (ChecksumAlgorithm::Sha256, head.checksum_sha256()),
    ]
    .into_iter()
    .filter_map(|(algorithm, text)| checksum(algorithm, text?, composite))
    .collect()
}

/// `<base64>` or, of the parts, `<base64>-<parts>`.
pub(super) fn checksum(
    algorithm: ChecksumAlgorithm,
    text: &str,
    composite: bool,
) -> Option<Checksum> {
    let (value, kind) = match text.rsplit_once('-') {
        Some((value, parts)) => (
            value,
            ChecksumKind::Composite {
                parts: parts.parse().ok()?,
            },
        ),
        // Said to be of the parts, but of how many is not told.
        None if composite => return None,
        None => (text, ChecksumKind::FullObject),
    };
    let value = BASE64.decode(value).ok()?;
    (value.len() == algorithm.value_bytes()).then_some(Checksum {
        algorithm,
        kind,
        value,
    })
}

/// User metadata for a request; values of one name are joined as S3 does.
pub(super) fn metadata(headers: &ObjectHeaders) -> Option<HashMap<String, String>> {
    let mut map: HashMap<String, String> = HashMap::new();
    for (name, value) in &headers.user {
        map.entry(name.clone())
            .and_modify(|known| {
                known.push(',');
                known.push_str(value);
            })
            .or_insert_with(|| value.clone());
    }
    (!map.is_empty()).then_some(map)
}

/// Whether an object shows the headers that a request for it had. What a store only
/// writes differently counts as different: who doubts sends again.
pub(super) fn is_shown(sent: &ObjectHeaders, seen: &ObjectHeaders) -> bool {
    let sent = sent.clone();
    let expected = ObjectHeaders {
        user: user_metadata(metadata(&sent).as_ref()),
        content_type: sent.content_type.filter(|t| t != DEFAULT_CONTENT_TYPE),
        ..sent
    };
    expected == *seen
}

/// What a store answered to a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) etag: Option<&'a str>,
    /// Encrypted with a key service or the client's key: the ETag is no MD5.
    pub(super) opaque: bool,
    pub(super) checksums: [(ChecksumAlgorithm, Option<&'a str>); 5],
}

/// How far a write was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmed {
    Content,
    LengthOnly,
}

/// Compares what a store says it has with what was sent.
///
/// # Errors
/// [`UfsErrorKind::Corrupt`]: it has something else.
pub(super) fn confirm(answer: &Answer<'_>, digests: &BodyDigests) -> Result<Confirmed, UfsError> {
    let corrupt = |what: &str| {
        let message = format!("the store has other bytes than were sent ({what} differs)");
        Err(UfsError::new(UfsErrorKind::Corrupt, message))
    };
    let mut confirmed = Confirmed::LengthOnly;
    for (algorithm, text) in answer.checksums {
        let theirs = text.and_then(|t| checksum(algorithm, t, false));
        let ours = digests
            .checksums
            .iter()
            .find(|c| c.algorithm == algorithm && c.kind == ChecksumKind::FullObject);
        if let (Some(theirs), Some(ours)) = (theirs, ours) {
            if theirs.value != ours.value {
                return corrupt(algorithm.name());
            }
            confirmed = Confirmed::Content;
        }
    }
    let md5 = answer.etag.and_then(|tag| ETag::new(tag).as_md5());
    match md5 {
        Some(md5) if !answer.opaque && md5 != digests.md5 => corrupt("ETag"),
        Some(_) if !answer.opaque => Ok(Confirmed::Content),
        _ => Ok(confirmed),
    }
}

/// The base64 text of a value.
pub(super) fn base64(value: &[u8]) -> String {
    BASE64.encode(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(etag: &str, opaque: bool) -> Answer<'_> {
        Answer {
            etag: Some(etag),
            opaque,
            checksums: ChecksumAlgorithm::ALL.map(|a| (a, None)),
        }
    }

    #[test]
    fn the_etag_of_an_encrypted_object_is_no_md5() {
        use aws_sdk_s3::types::ServerSideEncryption;
        let head = |kind| {
            let tag = "\"abababababababababababababababab\"";
            let head = HeadObjectOutput::builder().content_length(1).e_tag(tag);
            object(&head.set_server_side_encryption(kind).build()).unwrap()
        };
        assert!(head(None).etag.as_md5().is_some());
        assert!(
            head(Some(ServerSideEncryption::Aes256))
                .etag
                .as_md5()
                .is_some()
        );
        let sealed = head(Some(ServerSideEncryption::AwsKms));
        assert_eq!(sealed.etag.as_md5(), None);
        assert_eq!(sealed.identity, head(None).identity);
    }

    #[test]
    fn writes_are_confirmed_by_md5_or_checksum() {
        let crc = Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            value: vec![1, 2, 3, 4],
        };
        let digests = BodyDigests {
            md5: [0xab; 16],
            checksums: vec![crc],
        };
        let good = "\"abababababababababababababababab\"";
        let bad = "\"cdababababababababababababababab\"";
        assert_eq!(
            confirm(&answer(good, false), &digests),
            Ok(Confirmed::Content)
        );
        assert_eq!(
            confirm(&answer(bad, true), &digests),
            Ok(Confirmed::LengthOnly)
        );
        assert_eq!(
            confirm(&answer("0x8D", false), &digests),
            Ok(Confirmed::LengthOnly)
        );
        let error = confirm(&answer(bad, false), &digests).unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Corrupt);
        let mut opaque = answer(bad, true);
        opaque.checksums[0].1 = Some("AQIDBA==");
        assert_eq!(confirm(&opaque, &digests), Ok(Confirmed::Content));
        opaque.checksums[0].1 = Some("AQIDBQ==");
        assert!(confirm(&opaque, &digests).is_err());
    }

    #[test]
    fn headers_sent_are_compared_with_what_is_shown() {
        let user = |pairs: &[(&str, &str)]| ObjectHeaders {
            user: pairs
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect(),
            ..ObjectHeaders::default()
        };
        let sent = ObjectHeaders {
            content_type: Some(DEFAULT_CONTENT_TYPE.into()),
            ..user(&[("v", "2"), ("a", "x"), ("v", "3")])
        };
        assert!(is_shown(&sent, &user(&[("a", "x"), ("v", "2,3")])));
        assert!(!is_shown(&sent, &user(&[("a", "x"), ("v", "1")])));
        assert!(!is_shown(&sent, &user(&[])));
        assert!(!is_shown(&user(&[]), &sent));
        let typed = ObjectHeaders {
            content_type: Some("text/x".into()),
            ..ObjectHeaders::default()
        };
        assert!(!is_shown(&user(&[]), &typed) && !is_shown(&typed, &user(&[])));
        assert!(is_shown(&typed, &typed));
    }

    #[test]
    fn checksums_of_objects_and_parts() {
        let parsed = checksum(ChecksumAlgorithm::Crc32, "AQIDBA==-3", true).unwrap();
        assert_eq!(parsed.kind, ChecksumKind::Composite { parts: 3 });
        assert!(checksum(ChecksumAlgorithm::Crc32, "AQID", false).is_none());
        assert!(checksum(ChecksumAlgorithm::Crc32, "!", false).is_none());
    }
}
