//! Checksum values as text (`base64`, `base64-parts`) and their combination over
//! the parts of a multipart upload. Nothing is hashed incrementally here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use quickwater_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, ETag};
use sha2::Digest;

/// The text of a value: base64, and `-<parts>` for a composite one.
#[must_use]
pub fn encode(checksum: &Checksum) -> String {
    let text = STANDARD.encode(&checksum.value);
    match checksum.kind {
        ChecksumKind::FullObject => text,
        ChecksumKind::Composite { parts } => format!("{text}-{parts}"),
    }
}

/// Reads the text of a value; `None` when it is not one of this algorithm.
#[must_use]
pub fn parse(algorithm: ChecksumAlgorithm, text: &str) -> Option<Checksum> {
    // `-` is no base64 digit, so the first one ends the value.
    let (digits, kind) = match text.split_once('-') {
        None => (text, ChecksumKind::FullObject),
        Some((digits, parts)) => {
            let ok = !parts.is_empty() && parts.bytes().all(|b| b.is_ascii_digit());
            let parts = ok.then(|| parts.parse().ok())??;
            (digits, ChecksumKind::Composite { parts })
        }
    };
    let value = STANDARD.decode(digits).ok()?;
    (value.len() == algorithm.value_bytes()).then_some(Checksum {
        algorithm,
        kind,
        value,
    })
}

/// The text of `<ChecksumType>` and `x-amz-checksum-type`.
#[must_use]
pub const fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite { .. } => "COMPOSITE",
    }
}

/// The checksum of the whole object from those of its parts, in order, with
/// their sizes in bytes. `None` for algorithms that cannot be combined (SHA), for
/// values of the wrong length and for no parts at all.
#[must_use]
pub fn full_object<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = (&'a [u8], u64)>,
) -> Option<Checksum> {
    let crc = crc_algorithm(algorithm)?;
    let mut total = None;
    for (value, bytes) in parts {
        if value.len() != algorithm.value_bytes() {
            return None;
        }
        let next = value.iter().fold(0, |sum, b| sum << 8 | u64::from(*b));
        total = Some(match total {
            None => next,
            Some(sum) => crc_fast::checksum_combine(crc, sum, next, bytes),
        });
    }
    Some(Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value: crc_bytes(algorithm, total?),
    })
}

/// The checksum of the parts' checksums, in order. `None` for no parts, too many
/// or values of the wrong length.
#[must_use]
pub fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Option<Checksum> {
    let mut values = Vec::new();
    let mut count = 0u16;
    for value in parts {
        if value.len() != algorithm.value_bytes() {
            return None;
        }
        values.extend_from_slice(value);
        count = count.checked_add(1)?;
    }
    (count > 0).then(|| Checksum {
        algorithm,
        kind: ChecksumKind::Composite { parts: count },
        value: of_bytes(algorithm, &values),
    })
}

/// The ETag of a multipart object: MD5 of the parts' MD5s, `-`, their count.
#[must_use]
pub fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a [u8; 16]>) -> ETag {
    let mut hash = quickwater_hash::Md5::new();
    let mut count = 0usize;
    for part in parts {
        hash.update(part);
        count += 1;
    }
    ETag::new(&format!("{}-{count}", hex::encode(hash.finish())))
}

/// The checksum of bytes that are all there.
#[must_use]
pub fn of_bytes(algorithm: ChecksumAlgorithm, data: &[u8]) -> Vec<u8> {
    match (algorithm, crc_algorithm(algorithm)) {
        (_, Some(crc)) => crc_bytes(algorithm, crc_fast::checksum(crc, data)),
        (ChecksumAlgorithm::Sha1, None) => sha1::Sha1::digest(data).to_vec(),
        (_, None) => sha2::Sha256::digest(data).to_vec(),
    }
}

pub(crate) const fn crc_algorithm(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

/// The value's bytes, big-endian.
pub(crate) fn crc_bytes(algorithm: ChecksumAlgorithm, value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    bytes[bytes.len() - algorithm.value_bytes().min(8)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn check_values_of_the_catalogues() {
        // "123456789": the check value every CRC catalogue lists.
        for (algorithm, expect) in [
            (ChecksumAlgorithm::Crc32, "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
            (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
            (
                ChecksumAlgorithm::Sha1,
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            ),
        ] {
            assert_eq!(hex::encode(of_bytes(algorithm, b"123456789")), expect);
        }
        let empty = of_bytes(ChecksumAlgorithm::Crc32, b"");
        assert_eq!(STANDARD.encode(empty), "AAAAAA==");
    }

    #[test]
    fn text_round_trips_and_wrong_lengths_are_refused() {
        for algorithm in ChecksumAlgorithm::ALL {
            for kind in [
                ChecksumKind::FullObject,
                ChecksumKind::Composite { parts: 10_000 },
            ] {
                let checksum = Checksum {
                    algorithm,
                    kind,
                    value: of_bytes(algorithm, b"abc"),
                };
                assert_eq!(parse(algorithm, &encode(&checksum)), Some(checksum));
            }
            for bad in ["", "AAA=", "AAAAAA==-", "AAAAAA==-x", "AAAAAA==-70000", "!"] {
                assert_eq!(parse(algorithm, bad), None, "{bad}");
            }
        }
    }

    #[test]
    fn multipart_etags_are_those_of_s3() {
        let parts: [[u8; 16]; 2] = [md5::Md5::digest(b"a").into(), md5::Md5::digest(b"b").into()];
        let mut both = Vec::new();
        both.extend_from_slice(&parts[0]);
        both.extend_from_slice(&parts[1]);
        let expect = format!("{}-2", hex::encode(md5::Md5::digest(&both)));
        assert_eq!(multipart_etag(&parts).as_str(), expect);
    }

    #[test]
    fn nothing_combines_to_nothing() {
        assert_eq!(full_object(ChecksumAlgorithm::Crc32, []), None);
        assert_eq!(composite(ChecksumAlgorithm::Crc32, []), None);
        assert_eq!(
            full_object(ChecksumAlgorithm::Sha1, [(&[0; 20][..], 1)]),
            None
        );
        assert_eq!(
            full_object(ChecksumAlgorithm::Crc32, [(&[0; 5][..], 1)]),
            None
        );
    }

    proptest! {
        #[test]
        fn combining_parts_equals_hashing_the_whole(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..8)) {
            let whole = parts.concat();
            for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
                let values: Vec<_> = parts.iter().map(|p| (of_bytes(algorithm, p), p.len() as u64)).collect();
                let combined = full_object(algorithm, values.iter().map(|(v, n)| (v.as_slice(), *n))).unwrap();
                prop_assert_eq!(combined.value, of_bytes(algorithm, &whole));
                let composed = composite(algorithm, values.iter().map(|(v, _)| v.as_slice())).unwrap();
                let joined: Vec<u8> = values.iter().flat_map(|(v, _)| v.clone()).collect();
                prop_assert_eq!(composed.value, of_bytes(algorithm, &joined));
            }
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            for algorithm in ChecksumAlgorithm::ALL {
                let _ = parse(algorithm, &text);
            }
        }
    }
}
