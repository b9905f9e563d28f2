//! Reads who claims to have signed, from the header or the query. Believes
//! nothing yet.

use crate::date::{AmzDate, parse_amz_date, parse_http_date};
use crate::error::{S3Error, S3ErrorCode};
use crate::uri::Query;
use crate::view::RequestView;

use super::{CLOCK_SKEW_MAX_MS, PRESIGNED_SECONDS_MAX};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSUPPORTED: &str =
    "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";

/// What a request says about its signature.
pub(super) struct Claim<'a> {
    pub(super) access_key: &'a str,
    /// `YYYYMMDD` of the scope.
    pub(super) date: &'a str,
    pub(super) region: &'a str,
    /// Lowercase names separated by `;`, as signed.
    pub(super) signed_headers: &'a str,
    /// 64 hex digits, not yet looked at.
    pub(super) signature: &'a str,
    /// `YYYYMMDDTHHMMSSZ`, part of the string to sign.
    pub(super) timestamp: AmzDate,
    timestamp_ms: i64,
    /// Life of a presigned request; none for header authentication.
    pub(super) expires_seconds: Option<i64>,
    /// `X-Amz-Content-Sha256` of the query.
    pub(super) query_sha256: Option<&'a str>,
}

impl<'a> Claim<'a> {
    /// The claim of a request, `None` when there is none at all.
    pub(super) fn read(view: &RequestView<'a>, query: &'a Query) -> Result<Option<Self>, S3Error> {
        let mut headers = view.all("authorization");
        let header = headers.next();
        let presigned = query.iter().any(|(n, _)| n == "X-Amz-Algorithm");
        let v2 = query.iter().any(|(n, _)| n == "AWSAccessKeyId");
        if usize::from(header.is_some()) + usize::from(presigned) + usize::from(v2) > 1 {
            return Err(S3Error::new(
                S3ErrorCode::InvalidArgument,
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified",
            ));
        }
        if v2 {
            return Err(S3Error::request(UNSUPPORTED));
        }
        if headers.next().is_some() {
            return Err(malformed("There is more than one Authorization header."));
        }
        match header {
            Some(value) => Self::of_header(view, value).map(Some),
            None if presigned => Self::of_query(query).map(Some),
            None => Ok(None),
        }
    }

    fn of_header(view: &RequestView<'a>, value: &'a [u8]) -> Result<Self, S3Error> {
        let text = std::str::from_utf8(value).map_err(|_| malformed("It is not text."))?;
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme != ALGORITHM {
            return Err(S3Error::request(UNSUPPORTED));
        }
        let mut parts: [Option<&str>; 3] = [None; 3];
        for field in rest.split(',').map(str::trim).filter(|f| !f.is_empty()) {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| malformed("A field has no '='."))?;
            let slot = match name.trim() {
                "Credential" => &mut parts[0],
                "SignedHeaders" => &mut parts[1],
                "Signature" => &mut parts[2],
                _ => return Err(malformed("It has an unknown field.")),
            };
            if slot.replace(value.trim()).is_some() {
                return Err(malformed("A field is given twice."));
            }
        }
        let [Some(credential), Some(signed_headers), Some(signature)] = parts else {
            return Err(malformed(
                "It needs Credential, SignedHeaders and Signature.",
            ));
        };
        let scope = Scope::parse(credential).map_err(malformed)?;
        let timestamp_ms = header_time(view)?;
        let timestamp = AmzDate::new(timestamp_ms);
        if !timestamp.as_str().starts_with(scope.date) {
            return Err(malformed(
                "The date of the credential is not the date of the request.",
            ));
        }
        Ok(Self {
            access_key: scope.access_key,
            date: scope.date,
            region: scope.region,
            signed_headers,
            signature,
            timestamp,
            timestamp_ms,
            expires_seconds: None,
            query_sha256: None,
        })
    }

    fn of_query(query: &'a Query) -> Result<Self, S3Error> {
        let get = |name: &str| parameter(query, name);
        let need = |name: &'static str| {
            get(name)?.ok_or_else(|| {
                bad_query(
                    "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
                )
            })
        };
        if need("X-Amz-Algorithm")? != ALGORITHM {
            return Err(bad_query(
                "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
            ));
        }
        let scope = Scope::parse(need("X-Amz-Credential")?).map_err(bad_query)?;
        let text = need("X-Amz-Date")?;
        let times = parse_amz_date(text).zip(AmzDate::verbatim(text));
        let (timestamp_ms, timestamp) = times.ok_or_else(|| {
            bad_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        })?;
        if !text.starts_with(scope.date) {
            return Err(bad_query(
                "The date of the credential is not the date of the request.",
            ));
        }
        Ok(Self {
            access_key: scope.access_key,
            date: scope.date,
            region: scope.region,
            signed_headers: need("X-Amz-SignedHeaders")?,
            signature: need("X-Amz-Signature")?,
            timestamp,
            timestamp_ms,
            expires_seconds: Some(parse_expires(need("X-Amz-Expires")?)?),
            query_sha256: get("X-Amz-Content-Sha256")?,
        })
    }

    /// Whether a header of this name (any case) is among the signed ones.
    pub(super) fn signs(&self, name: &str) -> bool {
        self.signed_headers
            .split(';')
            .any(|h| h.eq_ignore_ascii_case(name))
    }

    /// Compares the time of the signature with ours.
    pub(super) fn check_time(&self, now_ms: i64) -> Result<(), S3Error> {
        let ahead = self.timestamp_ms.saturating_sub(now_ms);
        let denied = |text: &'static str| {
            S3Error::new(S3ErrorCode::AccessDenied, text)
                .with("ServerTime", &*crate::date::iso8601(now_ms))
        };
        match self.expires_seconds {
            Some(_) if ahead > CLOCK_SKEW_MAX_MS => Err(denied("Request is not yet valid")),
            Some(seconds) if ahead < seconds.saturating_mul(-1000) => {
                Err(denied("Request has expired"))
            }
            None if ahead.saturating_abs() > CLOCK_SKEW_MAX_MS => {
                Err(S3Error::from(S3ErrorCode::RequestTimeTooSkewed)
                    .with("RequestTime", self.timestamp.as_str())
                    .with("ServerTime", &*crate::date::iso8601(now_ms))
                    .with("MaxAllowedSkewMilliseconds", CLOCK_SKEW_MAX_MS.to_string()))
            }
            _ => Ok(()),
        }
    }
}

struct Scope<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
}

impl<'a> Scope<'a> {
    /// `<access key>/<date>/<region>/s3/aws4_request`; the key may hold `/`.
    fn parse(credential: &'a str) -> Result<Self, &'static str> {
        let mut parts = credential.rsplitn(5, '/');
        let mut next = || parts.next().unwrap_or_default();
        let (terminator, service, region, date, access_key) =
            (next(), next(), next(), next(), next());
        if access_key.is_empty() || region.is_empty() {
            return Err(
                "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            );
        }
        if terminator != "aws4_request" {
            return Err("incorrect terminal. This endpoint uses 'aws4_request'.");
        }
        if service != "s3" {
            return Err("incorrect service. This endpoint belongs to \"s3\".");
        }
        if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
            return Err(
                "incorrect date format. This date in the credential must be in the format \"yyyyMMdd\".",
            );
        }
        Ok(Self {
            access_key,
            date,
            region,
        })
    }
}

fn header_time(view: &RequestView<'_>) -> Result<i64, S3Error> {
    let refuse = || {
        S3Error::new(
            S3ErrorCode::AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header",
        )
    };
    let text = match view.header("x-amz-date")? {
        Some(text) => text,
        None => view.header("date")?.ok_or_else(refuse)?,
    };
    parse_amz_date(text)
        .or_else(|| parse_http_date(text))
        .ok_or_else(refuse)
}

fn parse_expires(text: &str) -> Result<i64, S3Error> {
    let seconds: i64 = text
        .parse()
        .map_err(|_| bad_query("X-Amz-Expires should be a number"))?;
    if seconds < 0 {
        return Err(bad_query("X-Amz-Expires must be non-negative"));
    }
    if seconds > PRESIGNED_SECONDS_MAX {
        return Err(bad_query(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds",
        ));
    }
    Ok(seconds)
}

/// The one value of a parameter; two are refused.
fn parameter<'a>(query: &'a Query, name: &str) -> Result<Option<&'a str>, S3Error> {
    let mut all = query.iter().filter(|(n, _)| n == name);
    let first = all.next().map(|(_, v)| v.as_str());
    if all.next().is_some() {
        return Err(bad_query("A query parameter is given twice."));
    }
    Ok(first)
}

fn malformed(why: &'static str) -> S3Error {
    S3Error::new(
        S3ErrorCode::AuthorizationHeaderMalformed,
        format!("The authorization header is malformed; {why}"),
    )
}

fn bad_query(why: &'static str) -> S3Error {
    S3Error::new(S3ErrorCode::AuthorizationQueryParametersError, why)
}
