//! Signature Version 4 in headers, after the S3 page "Authenticating Requests:
//! Using the Authorization Header". The signing key is derived once a day, the
//! date line once a second.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::target::Keys;

/// The payload hash that leaves the body unsigned.
pub(crate) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Bytes of an HMAC-SHA256 key block.
const BLOCK_BYTES: usize = 64;

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// Percent-encoded path.
    pub(crate) path: &'a str,
    /// Percent-encoded query, sorted by name.
    pub(crate) query: &'a str,
    pub(crate) host: &'a str,
    /// Hexadecimal SHA-256, or [`UNSIGNED_PAYLOAD`].
    pub(crate) payload: &'a str,
    /// More headers that are sent and signed: lower-case names, sorted, and each
    /// name between `host` and `x-amz-content-sha256` or after `x-amz-date`.
    pub(crate) before: &'a [(&'a str, &'a str)],
    pub(crate) after: &'a [(&'a str, &'a str)],
}

/// Signs for one key pair and region.
pub(crate) struct Signer {
    keys: Keys,
    region: String,
    second: i64,
    /// `YYYYMMDDTHHMMSSZ`.
    date: String,
    /// `YYYYMMDD/REGION/s3/aws4_request`.
    scope: String,
    key: Hmac<Sha256>,
    /// Reused for the texts that are hashed.
    text: String,
}

impl Signer {
    pub(crate) fn new(keys: Keys, region: &str) -> Self {
        Self {
            key: Hmac::new(&[0; BLOCK_BYTES].into()),
            keys,
            region: region.to_owned(),
            second: i64::MIN,
            date: String::new(),
            scope: String::new(),
            text: String::with_capacity(1024),
        }
    }

    /// Sets the time requests are signed for, seconds since 1970.
    pub(crate) fn set_time(&mut self, second: i64) {
        if self.second == second {
            return;
        }
        self.second = second;
        let day = self.date.get(..8).map(str::to_owned);
        self.date = amz_date(second);
        let today = self.date.get(..8).unwrap_or_default().to_owned();
        if day.as_ref() != Some(&today) {
            self.scope = format!("{today}/{}/s3/aws4_request", self.region);
            self.key = signing_key(&self.keys.secret_access_key, &today, &self.region);
        }
    }

    /// Appends the `x-amz-date`, `x-amz-content-sha256` and `Authorization` lines.
    /// `before` and `after` are not written.
    pub(crate) fn write_headers(&mut self, request: &Signed<'_>, out: &mut Vec<u8>) {
        let names = signed_names(request);
        let signature = self.signature(request, &names);
        let authorization = format_args!(
            "x-amz-content-sha256: {}\r\nx-amz-date: {}\r\nAuthorization: AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={signature}\r\n",
            request.payload, self.date, self.keys.access_key_id, self.scope,
        );
        // Writing to a Vec cannot fail.
        let _ = std::io::Write::write_fmt(out, authorization);
    }

    fn signature(&mut self, request: &Signed<'_>, names: &str) -> String {
        self.canonical(request, names);
        let canonical = Sha256::digest(self.text.as_bytes());
        self.text.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            self.text,
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.date,
            self.scope,
            hex::encode(canonical)
        );
        let mut mac = self.key.clone();
        mac.update(self.text.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    fn canonical(&mut self, request: &Signed<'_>, names: &str) {
        let text = &mut self.text;
        text.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{}\n{}\n{}\nhost:{}\n",
            request.method, request.path, request.query, request.host
        );
        for (name, value) in request.before {
            let _ = writeln!(text, "{name}:{value}");
        }
        let _ = write!(
            text,
            "x-amz-content-sha256:{}\nx-amz-date:{}\n",
            request.payload, self.date
        );
        for (name, value) in request.after {
            let _ = writeln!(text, "{name}:{value}");
        }
        let _ = write!(text, "\n{names}\n{}", request.payload);
    }
}

fn signed_names(request: &Signed<'_>) -> String {
    let mut names = "host".to_owned();
    let before = request.before.iter().map(|h| h.0);
    let after = request.after.iter().map(|h| h.0);
    for name in before
        .chain(["x-amz-content-sha256", "x-amz-date"])
        .chain(after)
    {
        names.push(';');
        names.push_str(name);
    }
    names
}

/// `YYYYMMDDTHHMMSSZ`; 1970 for times no calendar has.
fn amz_date(second: i64) -> String {
    let t = OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// "Calculating a signature": a chain of four HMACs.
fn signing_key(secret: &str, day: &str, region: &str) -> Hmac<Sha256> {
    let first = format!("AWS4{secret}");
    let day = sign(first.as_bytes(), day);
    let region = sign(&day, region);
    let service = sign(&region, "s3");
    keyed(&sign(&service, "aws4_request"))
}

fn sign(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = keyed(key);
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// HMAC of any key length (RFC 2104): longer than a block is hashed first.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0u8; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    Hmac::new(&block.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys and the time of the examples on the S3 page.
    fn signer() -> Signer {
        let keys = Keys {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        };
        let mut signer = Signer::new(keys, "us-east-1");
        signer.set_time(1_369_353_600); // Fri, 24 May 2013 00:00:00 GMT
        signer
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const HOST: &str = "examplebucket.s3.amazonaws.com";

    fn headers(request: &Signed<'_>) -> String {
        let mut out = Vec::new();
        signer().write_headers(request, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn get_object_of_the_s3_page() {
        let text = headers(&Signed {
            method: "GET",
            path: "/test.txt",
            query: "",
            host: HOST,
            payload: EMPTY,
            before: &[("range", "bytes=0-9")],
            after: &[],
        });
        assert!(text.contains("x-amz-date: 20130524T000000Z\r\n"));
        assert!(text.ends_with("Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41\r\n"), "{text}");
    }

    #[test]
    fn list_objects_of_the_s3_page() {
        let text = headers(&Signed {
            method: "GET",
            path: "/",
            query: "max-keys=2&prefix=J",
            host: HOST,
            payload: EMPTY,
            before: &[],
            after: &[],
        });
        assert!(
            text.contains(
                "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7\r\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_key_follows_the_day() {
        let request = Signed {
            method: "GET",
            path: "/",
            query: "",
            host: HOST,
            payload: EMPTY,
            before: &[],
            after: &[],
        };
        let mut signer = signer();
        let mut sign_at = |second| {
            signer.set_time(second);
            let mut out = Vec::new();
            signer.write_headers(&request, &mut out);
            out
        };
        let first = sign_at(1_369_353_600);
        let next_day = sign_at(1_369_353_600 + 86_400);
        assert!(String::from_utf8_lossy(&next_day).contains("/20130525/"));
        assert_ne!(first, next_day);
        assert_eq!(sign_at(1_369_353_600), first);
    }
}
