//! What several records have in common: tags, checksums, headers, identities.

use quickwater_proto::{
    BlobId, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Extent, NodeId, ObjectHeaders,
    UfsIdentity,
};
use quickwater_rpc::records as wire;

use super::{RecordError, damaged};

pub(super) fn pairs_to_wire(pairs: &[(String, String)]) -> Vec<wire::Pair> {
    let pair = |(name, value): &(String, String)| wire::Pair {
        name: name.clone(),
        value: value.clone(),
    };
    pairs.iter().map(pair).collect()
}

pub(super) fn pairs(pairs: Vec<wire::Pair>) -> Vec<(String, String)> {
    pairs
        .into_iter()
        .map(|pair| (pair.name, pair.value))
        .collect()
}

/// None when there is nothing to say.
pub(super) fn headers_to_wire(headers: &ObjectHeaders) -> Option<wire::Headers> {
    (*headers != ObjectHeaders::default()).then(|| wire::Headers {
        content_type: headers.content_type.clone(),
        content_encoding: headers.content_encoding.clone(),
        content_disposition: headers.content_disposition.clone(),
        content_language: headers.content_language.clone(),
        cache_control: headers.cache_control.clone(),
        expires: headers.expires.clone(),
        user: pairs_to_wire(&headers.user),
    })
}

pub(super) fn headers(headers: Option<wire::Headers>) -> ObjectHeaders {
    let headers = headers.unwrap_or_default();
    ObjectHeaders {
        content_type: headers.content_type,
        content_encoding: headers.content_encoding,
        content_disposition: headers.content_disposition,
        content_language: headers.content_language,
        cache_control: headers.cache_control,
        expires: headers.expires,
        user: pairs(headers.user),
    }
}

pub(super) fn algorithm_to_wire(algorithm: ChecksumAlgorithm) -> wire::Algorithm {
    match algorithm {
        ChecksumAlgorithm::Crc32 => wire::Algorithm::Crc32,
        ChecksumAlgorithm::Crc32c => wire::Algorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme => wire::Algorithm::Crc64nvme,
        ChecksumAlgorithm::Sha1 => wire::Algorithm::Sha1,
        ChecksumAlgorithm::Sha256 => wire::Algorithm::Sha256,
    }
}

/// `None`: none was given.
pub(super) fn algorithm(
    row: &'static str,
    number: i32,
) -> Result<Option<ChecksumAlgorithm>, RecordError> {
    let known = wire::Algorithm::try_from(number);
    Ok(
        match known.map_err(|_| damaged(row, "unknown checksum algorithm"))? {
            wire::Algorithm::Unspecified => None,
            wire::Algorithm::Crc32 => Some(ChecksumAlgorithm::Crc32),
            wire::Algorithm::Crc32c => Some(ChecksumAlgorithm::Crc32c),
            wire::Algorithm::Crc64nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            wire::Algorithm::Sha1 => Some(ChecksumAlgorithm::Sha1),
            wire::Algorithm::Sha256 => Some(ChecksumAlgorithm::Sha256),
        },
    )
}

pub(super) fn checksums_to_wire(checksums: &[Checksum]) -> Vec<wire::Checksum> {
    let one = |checksum: &Checksum| wire::Checksum {
        algorithm: algorithm_to_wire(checksum.algorithm).into(),
        value: checksum.value.clone(),
        composite_parts: match checksum.kind {
            ChecksumKind::FullObject => 0,
            ChecksumKind::Composite { parts } => parts.into(),
        },
    };
    checksums.iter().map(one).collect()
}

pub(super) fn checksums(
    row: &'static str,
    checksums: Vec<wire::Checksum>,
) -> Result<Vec<Checksum>, RecordError> {
    checksums
        .into_iter()
        .map(|one| checksum(row, one))
        .collect()
}

fn checksum(row: &'static str, checksum: wire::Checksum) -> Result<Checksum, RecordError> {
    let algorithm = algorithm(row, checksum.algorithm)?
        .ok_or_else(|| damaged(row, "checksum without algorithm"))?;
    if checksum.value.len() != algorithm.value_bytes() {
        return Err(damaged(row, "checksum of the wrong length"));
    }
    let parts = u16::try_from(checksum.composite_parts)
        .map_err(|_| damaged(row, "checksum of too many parts"))?;
    let kind = match parts {
        0 => ChecksumKind::FullObject,
        parts => ChecksumKind::Composite { parts },
    };
    Ok(Checksum {
        algorithm,
        kind,
        value: checksum.value,
    })
}

/// An MD5 in lowercase takes half the bytes of its text.
pub(super) fn etag_to_wire(etag: &ETag) -> wire::ETag {
    match etag.as_md5().filter(|md5| ETag::from_md5(md5) == *etag) {
        Some(md5) => wire::ETag {
            md5: md5.to_vec(),
            text: String::new(),
        },
        None => wire::ETag {
            md5: Vec::new(),
            text: etag.as_str().to_owned(),
        },
    }
}

pub(super) fn etag(row: &'static str, etag: Option<wire::ETag>) -> Result<ETag, RecordError> {
    let etag = etag.ok_or_else(|| damaged(row, "no ETag"))?;
    if etag.md5.is_empty() {
        return Ok(ETag::new(&etag.text));
    }
    let md5 = <[u8; 16]>::try_from(etag.md5.as_slice());
    Ok(ETag::from_md5(
        &md5.map_err(|_| damaged(row, "MD5 of the wrong length"))?,
    ))
}

pub(super) fn identity_to_wire(identity: &UfsIdentity) -> wire::UfsIdentity {
    wire::UfsIdentity {
        size: identity.size,
        modified_ns: identity.modified_ns,
        token: identity.token.clone(),
    }
}

pub(super) fn identity(identity: wire::UfsIdentity) -> UfsIdentity {
    UfsIdentity {
        size: identity.size,
        modified_ns: identity.modified_ns,
        token: identity.token,
    }
}

pub(super) fn id(row: &'static str, bytes: &[u8]) -> Result<u128, RecordError> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| damaged(row, "id of the wrong length"))?;
    Ok(u128::from_be_bytes(bytes))
}

pub(super) fn node_ids(row: &'static str, names: &[String]) -> Result<Vec<NodeId>, RecordError> {
    let names = names.iter();
    names
        .map(|name| NodeId::new(name).map_err(|error| damaged(row, error)))
        .collect()
}

pub(super) fn extents_to_wire(extents: &[Extent]) -> wire::Extents {
    wire::Extents {
        blobs: extents
            .iter()
            .flat_map(|extent| extent.blob.0.to_be_bytes())
            .collect(),
        sizes: extents.iter().map(|extent| extent.size).collect(),
    }
}

pub(super) fn extents(
    row: &'static str,
    extents: &wire::Extents,
) -> Result<Vec<Extent>, RecordError> {
    let (blobs, rest) = extents.blobs.as_chunks::<16>();
    if !rest.is_empty() || blobs.len() != extents.sizes.len() {
        return Err(damaged(row, "as many blobs as sizes are needed"));
    }
    let extent = |(blob, &size): (&[u8; 16], &u64)| Extent {
        blob: BlobId(u128::from_be_bytes(*blob)),
        size,
    };
    Ok(blobs.iter().zip(&extents.sizes).map(extent).collect())
}
