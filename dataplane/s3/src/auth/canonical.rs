//! Writes the canonical request and the string to sign, and compares. Exactly as
//! S3 wants it: the path is encoded once and never normalised. A request whose
//! signature holds is hashed as it is written; texts are made for refusals only.

use hmac::Mac;
use hmac::digest::CtOutput;
use sha2::{Digest, Sha256};

use super::claim::Claim;
use super::key::SigningKey;
use crate::error::{S3Error, S3ErrorCode};
use crate::uri::{Sink, decode_bytes, encode_into, raw_pairs, split_target};
use crate::view::RequestView;

/// Bytes gathered before they are hashed: the hash is called seldom, and with
/// whole blocks.
const GATHER_BYTES: usize = 512;

/// Writes the canonical request (S3: "Create a canonical request").
pub(super) fn write(
    view: &RequestView<'_>,
    claim: &Claim<'_>,
    payload_hash: &str,
    out: &mut impl Sink,
) -> Result<(), S3Error> {
    let (path, query) = split_target(view.target)?;
    out.put(view.method.as_bytes());
    out.put(b"\n");
    encode_into(&decode_bytes(path, false)?, true, out);
    out.put(b"\n");
    canonical_query(query, claim.expires_seconds.is_some(), out)?;
    out.put(b"\n");
    for name in claim.signed_headers.split(';') {
        lowercase(name, out);
        out.put(b":");
        for (i, value) in view.all(name).enumerate() {
            if i > 0 {
                out.put(b",");
            }
            collapse_spaces(value, out);
        }
        out.put(b"\n");
    }
    out.put(b"\n");
    out.put(claim.signed_headers.as_bytes());
    out.put(b"\n");
    out.put(payload_hash.as_bytes());
    Ok(())
}

fn canonical_query(query: &str, presigned: bool, out: &mut impl Sink) -> Result<(), S3Error> {
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
            out.put(b"&");
        }
        out.put(name);
        out.put(b"=");
        out.put(value);
    }
    Ok(())
}

fn lowercase(name: &str, out: &mut impl Sink) {
    if !name.bytes().any(|b| b.is_ascii_uppercase()) {
        return out.put(name.as_bytes());
    }
    for byte in name.bytes() {
        out.put(&[byte.to_ascii_lowercase()]);
    }
}

/// Runs of blanks inside a value count as one.
fn collapse_spaces(value: &[u8], out: &mut impl Sink) {
    let words = value.trim_ascii().split(|b| matches!(b, b' ' | b'\t'));
    for (i, word) in words.filter(|word| !word.is_empty()).enumerate() {
        if i > 0 {
            out.put(b" ");
        }
        out.put(word);
    }
}

/// Hashes what is put into it.
struct Hashing {
    hash: Sha256,
    gathered: [u8; GATHER_BYTES],
    len: usize,
}

impl Hashing {
    fn new() -> Self {
        Self {
            hash: Sha256::new(),
            gathered: [0; GATHER_BYTES],
            len: 0,
        }
    }

    fn finish(mut self) -> [u8; 32] {
        self.hash.update(&self.gathered[..self.len]);
        self.hash.finalize().into()
    }
}

impl Sink for Hashing {
    fn put(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() > GATHER_BYTES {
            self.hash.update(&self.gathered[..self.len]);
            self.len = 0;
            if bytes.len() > GATHER_BYTES {
                return self.hash.update(bytes);
            }
        }
        self.gathered[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// Signs the canonical request and compares in constant time; the signature is
/// the seed of chunk signatures.
pub(super) fn check(
    view: &RequestView<'_>,
    claim: &Claim<'_>,
    key: &SigningKey,
    payload_hash: &str,
) -> Result<[u8; 32], S3Error> {
    let mut hashing = Hashing::new();
    write(view, claim, payload_hash, &mut hashing)?;
    let mut hash = [0u8; 64];
    // 32 bytes are 64 digits.
    let written = hex::encode_to_slice(hashing.finish(), &mut hash);
    debug_assert!(written.is_ok());
    let mut mac = key.0.clone();
    to_sign(claim, &hash, |piece| mac.update(piece));
    let ours = mac.finalize();
    let mut theirs = [0u8; 32];
    let readable = hex::decode_to_slice(claim.signature, &mut theirs).is_ok();
    if readable && ours == CtOutput::new(theirs.into()) {
        return Ok(ours.into_bytes().into());
    }
    let (mut canonical, mut text) = (Vec::new(), Vec::new());
    write(view, claim, payload_hash, &mut canonical)?;
    to_sign(claim, &hash, |piece| text.extend_from_slice(piece));
    Err(S3Error::from(S3ErrorCode::SignatureDoesNotMatch)
        .with("AWSAccessKeyId", claim.access_key)
        .with("StringToSign", String::from_utf8_lossy(&text))
        .with("SignatureProvided", claim.signature)
        .with("CanonicalRequest", String::from_utf8_lossy(&canonical)))
}

/// The string to sign, piece by piece.
fn to_sign(claim: &Claim<'_>, hash: &[u8; 64], mut put: impl FnMut(&[u8])) {
    put(b"AWS4-HMAC-SHA256\n");
    put(claim.timestamp.as_str().as_bytes());
    put(b"\n");
    put(claim.date.as_bytes());
    put(b"/");
    put(claim.region.as_bytes());
    put(b"/s3/aws4_request\n");
    put(hash);
}
