//! Writes the canonical request and the string to sign, and compares. Exactly as
//! S3 wants it: the path is encoded once and never normalised.

use hmac::Mac;
use hmac::digest::CtOutput;
use sha2::{Digest, Sha256};

use super::claim::Claim;
use super::key::SigningKey;
use crate::error::{S3Error, S3ErrorCode};
use crate::uri::{decode_bytes, encode_into, raw_pairs, split_target};
use crate::view::RequestView;

/// The canonical request (S3: "Create a canonical request").
pub(super) fn request(
    view: &RequestView<'_>,
    claim: &Claim<'_>,
    payload_hash: &str,
) -> Result<Vec<u8>, S3Error> {
    let (path, query) = split_target(view.target)?;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(view.method.as_bytes());
    out.push(b'\n');
    encode_into(&decode_bytes(path, false)?, true, &mut out);
    out.push(b'\n');
    canonical_query(query, claim.expires_seconds.is_some(), &mut out)?;
    out.push(b'\n');
    for name in claim.signed_headers.split(';') {
        out.extend_from_slice(name.to_ascii_lowercase().as_bytes());
        out.push(b':');
        for (i, value) in view.all(name).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            collapse_spaces(value, &mut out);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(claim.signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload_hash.as_bytes());
    Ok(out)
}

fn canonical_query(query: &str, presigned: bool, out: &mut Vec<u8>) -> Result<(), S3Error> {
    let mut pairs = Vec::new();
    for (name, value) in raw_pairs(query) {
        let name = decode_bytes(name, true)?;
        if presigned && name.as_ref() == b"X-Amz-Signature" {
            continue;
        }
        let (mut n, mut v) = (Vec::new(), Vec::new());
        encode_into(&name, false, &mut n);
        encode_into(&decode_bytes(value, true)?, false, &mut v);
        pairs.push((n, v));
    }
    pairs.sort_unstable();
    for (i, (name, value)) in pairs.iter().enumerate() {
        if i > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
    Ok(())
}

/// Runs of blanks inside a value count as one.
fn collapse_spaces(value: &[u8], out: &mut Vec<u8>) {
    let mut blank = false;
    for byte in value.trim_ascii() {
        if matches!(byte, b' ' | b'\t') {
            blank = true;
            continue;
        }
        if std::mem::take(&mut blank) {
            out.push(b' ');
        }
        out.push(*byte);
    }
}

/// Signs the canonical request and compares in constant time; the signature is
/// the seed of chunk signatures.
pub(super) fn check(
    claim: &Claim<'_>,
    key: &SigningKey,
    canonical: &[u8],
) -> Result<[u8; 32], S3Error> {
    let hash = hex::encode(Sha256::digest(canonical));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{}/{}/s3/aws4_request\n{hash}",
        claim.timestamp, claim.date, claim.region
    );
    let mut mac = key.0.clone();
    mac.update(to_sign.as_bytes());
    let ours = mac.finalize();
    let mut theirs = [0u8; 32];
    let readable = hex::decode_to_slice(claim.signature, &mut theirs).is_ok();
    if readable && ours == CtOutput::new(theirs.into()) {
        return Ok(ours.into_bytes().into());
    }
    Err(S3Error::from(S3ErrorCode::SignatureDoesNotMatch)
        .with("AWSAccessKeyId", claim.access_key)
        .with("StringToSign", to_sign)
        .with("SignatureProvided", claim.signature)
        .with("CanonicalRequest", String::from_utf8_lossy(canonical)))
}
