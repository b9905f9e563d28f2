//! Writes request heads. Heads of calls without a body are kept and sent again
//! while their signature is of the same second: with few objects nearly every
//! head is a copy, with millions every head is signed (about 1 µs).

use std::io::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::call::{Call, Method, Piece, TAG, Upload};
use super::sign::{Signed, Signer, UNSIGNED_PAYLOAD};
use super::target::Target;
use crate::workload::{Content, KeySpace};

/// Heads kept per thread (about 0.5 KiB each).
const HEADS_MAX: usize = 4096;
/// What S3 leaves unencoded in paths.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
/// What S3 leaves unencoded in queries.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A value as S3 wants it in a query.
pub(crate) fn query_value(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Identity {
    head: bool,
    object: u64,
    range: Option<(u64, u64)>,
}

#[derive(Debug, Default, Clone)]
struct Kept {
    identity: Identity,
    /// Of the signature; any for unsigned ones.
    second: i64,
    bytes: Vec<u8>,
}

/// Writes heads for one target; one per thread.
pub(crate) struct Heads<'a> {
    target: &'a Target,
    content: &'a Content,
    signer: Option<Signer>,
    second: i64,
    kept: Vec<Kept>,
    key: String,
    path: String,
}

impl<'a> Heads<'a> {
    pub(crate) fn new(target: &'a Target, content: &'a Content) -> Self {
        let keys = target.keys.clone();
        Self {
            signer: keys.map(|keys| Signer::new(keys, &target.region)),
            target,
            content,
            second: 0,
            kept: vec![Kept::default(); HEADS_MAX],
            key: String::new(),
            path: String::new(),
        }
    }

    /// Forgets kept heads: another key space follows.
    pub(crate) fn forget(&mut self) {
        self.kept.iter_mut().for_each(|kept| kept.bytes.clear());
    }

    /// Sets the time of signatures, seconds since 1970.
    pub(crate) fn set_time(&mut self, second: i64) {
        if let Some(signer) = &mut self.signer {
            signer.set_time(second);
            self.second = second;
        }
    }

    /// Replaces `out` with the head of a call.
    pub(crate) fn write(&mut self, space: &KeySpace, call: &Call, out: &mut Vec<u8>) {
        out.clear();
        let Some(identity) = identity(call) else {
            return self.compose(space, call, out);
        };
        let slot = (identity.object ^ identity.range.map_or(0, |r| r.0 >> 9)) as usize % HEADS_MAX;
        if let Some(kept) = self.kept.get(slot)
            && kept.identity == identity
            && kept.second == self.second
            && !kept.bytes.is_empty()
        {
            return out.extend_from_slice(&kept.bytes);
        }
        self.compose(space, call, out);
        if let Some(kept) = self.kept.get_mut(slot) {
            kept.identity = identity;
            kept.second = self.second;
            kept.bytes.clone_from(out);
        }
    }

    fn compose(&mut self, space: &KeySpace, call: &Call, out: &mut Vec<u8>) {
        self.set_path(space, call);
        let method = call.method.text();
        let (path, query) = (self.path.as_str(), call.query.as_str());
        let mark = if query.is_empty() { "" } else { "?" };
        let host = &self.target.address.host;
        // Writing to a Vec cannot fail, here and below.
        let _ = write!(
            out,
            "{method} {path}{mark}{query} HTTP/1.1\r\nHost: {host}\r\n"
        );
        if let Some((first, length)) = call.range {
            let last = first + length.saturating_sub(1);
            let _ = write!(out, "Range: bytes={first}-{last}\r\n");
        }
        if matches!(call.method, Method::Put | Method::Post) {
            let _ = write!(out, "Content-Length: {}\r\n", call.upload.length());
        }
        let tags: &[(&str, &str)] = if call.tag { &[TAG] } else { &[] };
        for (name, value) in tags {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if let Some(signer) = &mut self.signer {
            let payload = payload_hash(self.target.sign_payload, self.content, &call.upload);
            let signed = Signed {
                method,
                path,
                query,
                host,
                payload: &payload,
                before: &[],
                after: tags,
            };
            signer.write_headers(&signed, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn set_path(&mut self, space: &KeySpace, call: &Call) {
        self.path.clear();
        self.path.push('/');
        self.path.push_str(&self.target.bucket);
        let Some(index) = call.object else {
            return;
        };
        self.key.clear();
        space.write_key(index, &mut self.key);
        self.path.push('/');
        self.path.extend(utf8_percent_encode(&self.key, PATH));
    }
}

/// What tells kept heads apart; none for calls whose head is not kept.
fn identity(call: &Call) -> Option<Identity> {
    let plain = call.query.is_empty() && matches!(call.method, Method::Get | Method::Head);
    Some(Identity {
        head: call.method == Method::Head,
        object: call.object.filter(|_| plain)?,
        range: call.range,
    })
}

fn payload_hash(sign: bool, content: &Content, upload: &Upload) -> String {
    match upload {
        Upload::Nothing => SHA256_OF_NOTHING.to_owned(),
        Upload::Text(text) => hex::encode(Sha256::digest(text.as_bytes())),
        Upload::Piece(_) if !sign => UNSIGNED_PAYLOAD.to_owned(),
        Upload::Piece(piece) => hex::encode(hash(content, *piece)),
    }
}

fn hash(content: &Content, piece: Piece) -> impl AsRef<[u8]> {
    let mut hash = Sha256::new();
    let mut done = 0;
    while done < piece.length {
        let bytes = content.slice(piece.content, piece.offset + done, piece.length - done);
        hash.update(bytes);
        done += bytes.len() as u64;
    }
    hash.finalize()
}

#[cfg(test)]
mod tests;
