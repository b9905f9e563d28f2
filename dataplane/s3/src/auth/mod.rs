//! Signature Version 4 after the S3 page "Authenticating Requests": header,
//! presigned query, signed and unsigned payloads, chunk signatures. Knows no
//! users and no permissions beyond "this key signed this request".

mod canonical;
mod chunk;
mod claim;
mod key;
#[cfg(test)]
mod tests;

pub use chunk::ChunkSigner;
pub use key::SigningKeyCache;

use crate::error::{S3Error, S3ErrorCode};
use crate::uri::{Query, parse_query};
use crate::view::RequestView;
use claim::Claim;

/// Largest difference between our clock and the client's, milliseconds.
pub const CLOCK_SKEW_MAX_MS: i64 = 15 * 60 * 1000;
/// Longest life of a presigned request, seconds.
pub const PRESIGNED_SECONDS_MAX: i64 = 7 * 24 * 3600;

const SHA256_HEADER: &str = "x-amz-content-sha256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// Finds the secret of an access key.
pub trait Credentials {
    /// The secret, if the key exists.
    fn secret(&self, access_key: &str) -> Option<&str>;
}

/// What is done with signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// Signatures are checked.
    #[default]
    Verify,
    /// Any well-formed credential is believed; the user is its access key.
    Simple,
}

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuthPolicy {
    /// What is done with signatures that are there.
    pub mode: AuthMode,
    /// Requests without any credential are let in. A credential that is there
    /// is still judged by `mode`.
    pub anonymous: bool,
}

/// What the client promised about the payload's bytes.
#[derive(Debug, Clone)]
pub enum PayloadAuth {
    /// Nothing.
    Unsigned,
    /// The payload's SHA-256.
    Sha256([u8; 32]),
    /// aws-chunked framing (`STREAMING-*`).
    Chunked {
        /// Chunks carry signatures.
        signed: bool,
        /// Trailers follow the last chunk.
        trailer: bool,
        /// Checks the signatures; none when signatures are not checked at all.
        signer: Option<Box<ChunkSigner>>,
    },
}

/// Who asks, and what that means for the payload.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The access key; none for an anonymous request.
    pub access_key: Option<String>,
    /// The credential stood in the query.
    pub presigned: bool,
    /// What the payload must match.
    pub payload: PayloadAuth,
}

impl Identity {
    /// No credential was given.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.access_key.is_none()
    }
}

/// Says who sent a request. `now_ms` is wall time, milliseconds since the Unix
/// epoch. Any region is accepted, the service must be `s3`.
///
/// # Errors
/// The S3 codes of a refused request: `AccessDenied`, `InvalidAccessKeyId`,
/// `SignatureDoesNotMatch`, `RequestTimeTooSkewed`, `AuthorizationHeaderMalformed`,
/// `AuthorizationQueryParametersError`, `InvalidRequest`, `InvalidArgument`,
/// `InvalidURI`.
pub fn authenticate(
    view: &RequestView<'_>,
    policy: AuthPolicy,
    credentials: &impl Credentials,
    now_ms: i64,
    cache: &mut SigningKeyCache,
) -> Result<Identity, S3Error> {
    let (_, query_text) = crate::uri::split_target(view.target)?;
    let query = parse_query(query_text)?;
    let caller = judge(view, &query, policy, credentials, now_ms, cache)?;
    Ok(Identity {
        access_key: caller.access_key.map(str::to_owned),
        presigned: caller.presigned,
        payload: caller.payload,
    })
}

/// As [`authenticate`] for a request without query and without signed chunks:
/// the access key, if one was given; nothing is allocated when it is let in.
/// `None`: it is another kind of request, or refused; [`authenticate`] says why.
pub(crate) fn authenticate_plain<'a>(
    view: &RequestView<'a>,
    policy: AuthPolicy,
    credentials: &impl Credentials,
    now_ms: i64,
    cache: &mut SigningKeyCache,
) -> Option<Option<&'a str>> {
    const NO_QUERY: &Query = &Vec::new();
    if view.target.contains('?') {
        return None;
    }
    let caller = judge(view, NO_QUERY, policy, credentials, now_ms, cache).ok()?;
    match caller.payload {
        PayloadAuth::Unsigned | PayloadAuth::Sha256(_) => Some(caller.access_key),
        PayloadAuth::Chunked { .. } => None,
    }
}

/// An [`Identity`] that borrows from its request.
struct Caller<'a> {
    access_key: Option<&'a str>,
    presigned: bool,
    payload: PayloadAuth,
}

fn judge<'a>(
    view: &RequestView<'a>,
    query: &'a Query,
    policy: AuthPolicy,
    credentials: &impl Credentials,
    now_ms: i64,
    cache: &mut SigningKeyCache,
) -> Result<Caller<'a>, S3Error> {
    let Some(claim) = Claim::read(view, query)? else {
        return anonymous(view, policy);
    };
    let hash = payload_hash(view, &claim)?;
    let mut payload = parse_payload(hash.effective)?;
    if policy.mode == AuthMode::Simple {
        return Ok(caller(&claim, payload));
    }
    let secret = credentials.secret(claim.access_key).ok_or_else(|| {
        S3Error::from(S3ErrorCode::InvalidAccessKeyId).with("AWSAccessKeyId", claim.access_key)
    })?;
    claim.check_time(now_ms)?;
    check_signed_headers(view, &claim)?;
    let key = cache.key(&claim, secret);
    let seed = canonical::check(view, &claim, &key, hash.canonical)?;
    cache.remember(&claim, secret, &key);
    if let PayloadAuth::Chunked {
        signed: true,
        signer,
        ..
    } = &mut payload
    {
        *signer = Some(Box::new(ChunkSigner::new(key, &claim, seed)));
    }
    Ok(caller(&claim, payload))
}

const fn caller<'a>(claim: &Claim<'a>, payload: PayloadAuth) -> Caller<'a> {
    Caller {
        access_key: Some(claim.access_key),
        presigned: claim.expires_seconds.is_some(),
        payload,
    }
}

fn anonymous<'a>(view: &RequestView<'a>, policy: AuthPolicy) -> Result<Caller<'a>, S3Error> {
    if !policy.anonymous {
        return Err(S3Error::from(S3ErrorCode::AccessDenied));
    }
    let hash = view.header(SHA256_HEADER)?.unwrap_or(UNSIGNED_PAYLOAD);
    Ok(Caller {
        access_key: None,
        presigned: false,
        payload: parse_payload(hash)?,
    })
}

struct PayloadHash<'a> {
    /// Last line of the canonical request.
    canonical: &'a str,
    /// What the payload is held to.
    effective: &'a str,
}

/// A presigned request signs `UNSIGNED-PAYLOAD` unless it says otherwise in the
/// query or in a signed header. An unsigned header may add a hash to check, but
/// never choose the framing.
fn payload_hash<'a>(view: &RequestView<'a>, claim: &Claim<'a>) -> Result<PayloadHash<'a>, S3Error> {
    let header = view.header(SHA256_HEADER)?;
    if claim.expires_seconds.is_none() {
        let value = header.ok_or(S3Error::request(
            "Missing required header for this request: x-amz-content-sha256",
        ))?;
        return Ok(PayloadHash {
            canonical: value,
            effective: value,
        });
    }
    let signed = header.filter(|_| claim.signs(SHA256_HEADER));
    let canonical = claim.query_sha256.or(signed).unwrap_or(UNSIGNED_PAYLOAD);
    let effective = match header {
        Some(text) if canonical == UNSIGNED_PAYLOAD && text.len() == 64 => text,
        Some(text) if signed.is_none() && text != canonical => {
            return Err(unsigned_header(SHA256_HEADER));
        }
        _ => canonical,
    };
    Ok(PayloadHash {
        canonical,
        effective,
    })
}

fn parse_payload(text: &str) -> Result<PayloadAuth, S3Error> {
    let chunked = |signed, trailer| {
        Ok(PayloadAuth::Chunked {
            signed,
            trailer,
            signer: None,
        })
    };
    match text {
        UNSIGNED_PAYLOAD => Ok(PayloadAuth::Unsigned),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => chunked(true, false),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => chunked(true, true),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => chunked(false, true),
        other => {
            let mut hash = [0u8; 32];
            match hex::decode_to_slice(other, &mut hash) {
                Ok(()) => Ok(PayloadAuth::Sha256(hash)),
                Err(_) => Err(S3Error::argument(
                    SHA256_HEADER,
                    other,
                    "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
                )),
            }
        }
    }
}

/// `host` and every `x-amz-*` header must be signed, or a stranger could add
/// meaning to a signed request.
fn check_signed_headers(view: &RequestView<'_>, claim: &Claim<'_>) -> Result<(), S3Error> {
    if !claim.signs("host") {
        return Err(unsigned_header("host"));
    }
    for header in view.headers {
        let amz = header
            .name
            .get(..6)
            .is_some_and(|p| p.eq_ignore_ascii_case("x-amz-"));
        let bound = header.name.eq_ignore_ascii_case(SHA256_HEADER);
        if amz && !bound && !claim.signs(header.name) {
            return Err(unsigned_header(header.name));
        }
    }
    Ok(())
}

fn unsigned_header(name: &str) -> S3Error {
    S3Error::new(
        S3ErrorCode::AccessDenied,
        "There were headers present in the request which were not signed",
    )
    .with("HeadersNotSigned", name)
}
