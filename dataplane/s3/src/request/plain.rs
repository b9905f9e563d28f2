//! Recognises the plainest of all requests, a GET or HEAD of a whole object,
//! without an allocation. Says "none of mine" to everything it does not fully
//! know, and never refuses: what it leaves goes through [`super::Request::parse`].

use super::{Dialect, address};
use crate::auth::{AuthPolicy, Credentials, SigningKeyCache, authenticate_plain};
use crate::view::RequestView;

/// Headers that change nothing of what a plain read means. All others, known or
/// not, make it another kind of request.
const WITHOUT_MEANING: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "authorization",
    "connection",
    "content-type",
    "date",
    "host",
    "user-agent",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-user-agent",
];
const CHECKSUM_MODE: &str = "x-amz-checksum-mode";

/// A GET or HEAD of a whole object by its path, from somebody who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainRead<'a> {
    /// Name of the bucket, as sent: it may be none.
    pub bucket: &'a str,
    /// The key, as sent: it may be none.
    pub key: &'a str,
    /// It was HEAD.
    pub head: bool,
    /// The client asked for checksums (`x-amz-checksum-mode`).
    pub checksums: bool,
    /// The access key, when one was given.
    pub access_key: Option<&'a str>,
}

impl<'a> PlainRead<'a> {
    /// Recognises the request and checks its signature, if it has one. `None`: it
    /// is anything else, or refused; nothing is decided then.
    #[must_use]
    pub fn recognise(
        view: &RequestView<'a>,
        dialect: &Dialect,
        policy: AuthPolicy,
        credentials: &impl Credentials,
        now_ms: i64,
        cache: &mut SigningKeyCache,
    ) -> Option<Self> {
        let head = match view.method {
            "GET" => false,
            "HEAD" => true,
            _ => return None,
        };
        let path = view.target.strip_prefix('/')?;
        // A query means more; an escape means a key that has to be decoded.
        if path.bytes().any(|b| matches!(b, b'?' | b'%')) {
            return None;
        }
        let (bucket, key) = path.split_once('/')?;
        if bucket.is_empty() || key.is_empty() {
            return None;
        }
        let checksums = only_plain_headers(view)?;
        if !address::is_path_style(view, dialect) {
            return None;
        }
        let access_key = authenticate_plain(view, policy, credentials, now_ms, cache)?;
        Some(Self {
            bucket,
            key,
            head,
            checksums,
            access_key,
        })
    }
}

/// `None` when a header may change the meaning; else whether checksums are wanted.
fn only_plain_headers(view: &RequestView<'_>) -> Option<bool> {
    let mut checksums = None;
    for header in view.headers {
        if is(header.name, "content-length") {
            if header.value.trim_ascii() != b"0" {
                return None;
            }
        } else if is(header.name, CHECKSUM_MODE) {
            let enabled = header.value.trim_ascii().eq_ignore_ascii_case(b"enabled");
            if checksums.replace(enabled).is_some() {
                return None;
            }
        } else if !WITHOUT_MEANING.iter().any(|known| is(header.name, known)) {
            return None;
        }
    }
    Some(checksums.unwrap_or(false))
}

fn is(name: &str, known: &str) -> bool {
    name.len() == known.len() && name.eq_ignore_ascii_case(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::authenticate;
    use crate::request::{Operation, Request};

    struct NoKeys;

    impl Credentials for NoKeys {
        fn secret(&self, _: &str) -> Option<&str> {
            None
        }
    }

    const OPEN: AuthPolicy = AuthPolicy {
        mode: crate::auth::AuthMode::Verify,
        anonymous: true,
    };

    fn headers<'a>(list: &'a [(String, String)]) -> Vec<httparse::Header<'a>> {
        let header = |(name, value): &'a (String, String)| httparse::Header {
            name,
            value: value.as_bytes(),
        };
        list.iter().map(header).collect()
    }

    fn any_header() -> impl Strategy<Value = (String, String)> {
        let names: Vec<&'static str> = WITHOUT_MEANING
            .iter()
            .copied()
            .filter(|name| *name != "authorization")
            .chain([
                CHECKSUM_MODE,
                "Content-Length",
                "X-Amz-Checksum-Mode",
                "Range",
                "If-Match",
                "if-none-match",
                "Cache-Control",
                "x-amz-acl",
                "x-amz-expected-bucket-owner",
                "x-custom",
                "User-Agent",
            ])
            .collect();
        let values = prop_oneof![
            Just("ENABLED".to_owned()),
            Just("0".to_owned()),
            Just("UNSIGNED-PAYLOAD".to_owned()),
            Just("no-cache".to_owned()),
            Just("bytes=0-1".to_owned()),
            "[ -~]{0,12}",
        ];
        (prop::sample::select(names), values).prop_map(|(n, v)| (n.to_owned(), v))
    }

    proptest! {
        /// Whatever is recognised means the same to the full parser: a whole read
        /// of that bucket and key with nothing special about it.
        #[test]
        fn the_full_parser_agrees(
            method in prop::sample::select(vec!["GET", "HEAD", "PUT", "get"]),
            target in "/[a-z]{0,4}(/[-a-z0-9.+~!*'()@ /]{0,12})?(%2[0-9f])?([?][a-z=&]{0,6})?",
            list in prop::collection::vec(any_header(), 0..5),
            domain in any::<bool>(),
        ) {
            let fields = headers(&list);
            let view = RequestView { method, target: &target, headers: &fields };
            let dialect = Dialect {
                domain: domain.then(|| "example.com".to_owned()),
                ..Dialect::default()
            };
            let mut cache = SigningKeyCache::new();
            if let Some(plain) = PlainRead::recognise(&view, &dialect, OPEN, &NoKeys, 0, &mut cache) {
                let identity = authenticate(&view, OPEN, &NoKeys, 0, &mut cache).unwrap();
                prop_assert_eq!(identity.access_key.as_deref(), plain.access_key);
                // A name that is no bucket's is found in no memory either.
                if let Ok(request) = Request::parse(&view, &dialect) {
                    prop_assert_eq!(request.bucket().unwrap().as_str(), plain.bucket);
                    prop_assert_eq!(request.key().unwrap().as_str(), plain.key);
                    prop_assert!(!request.revalidate);
                    let (read, head) = match request.operation {
                        Operation::GetObject(read) => (read, false),
                        Operation::HeadObject(read) => (read, true),
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!((head, read.checksums), (plain.head, plain.checksums));
                    prop_assert!(read.conditions.is_empty() && read.range.is_none());
                    prop_assert!(read.part_number.is_none() && read.overrides.is_none());
                } else {
                    prop_assert!(quickwater_proto::BucketName::new(plain.bucket).is_err());
                }
            }
        }
    }

    #[test]
    fn what_clients_send_is_recognised_and_the_rest_is_not() {
        let own = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
            list.iter().map(owned).collect()
        };
        let recognise = |target: &str, list: &[(&str, &str)]| {
            let list = own(list);
            let fields = headers(&list);
            let view = RequestView {
                method: "GET",
                target,
                headers: &fields,
            };
            let mut cache = SigningKeyCache::new();
            PlainRead::recognise(&view, &Dialect::default(), OPEN, &NoKeys, 0, &mut cache)
                .map(|plain| (plain.bucket.to_owned(), plain.key.to_owned()))
        };
        let boto = [
            ("Host", "h"),
            ("x-amz-checksum-mode", "ENABLED"),
            ("User-Agent", "Boto3"),
            ("amz-sdk-invocation-id", "1"),
            ("Accept-Encoding", "identity"),
        ];
        let found = recognise("/bucket/a//b+c", &boto).unwrap();
        assert_eq!(found, ("bucket".to_owned(), "a//b+c".to_owned()));
        for target in ["/bucket/", "/bucket", "//key", "/", "/b/k?x=1", "/b/k%20"] {
            assert_eq!(recognise(target, &boto), None, "{target}");
        }
        for header in ["Range", "If-Match", "Cache-Control", "x-amz-acl", "Expect"] {
            assert_eq!(recognise("/bucket/k", &[(header, "x")]), None, "{header}");
        }
        let bad = [("Authorization", "AWS4-HMAC-SHA256 nonsense")];
        assert_eq!(recognise("/bucket/k", &bad), None, "left to the refusal");
    }
}
