//! Where a bucket's objects lie: URIs and options parsed and checked. No IO.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use quickwater_proto::{Bucket, UfsError, UfsErrorKind};

/// A UFS location, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A directory.
    Posix {
        /// Absolute path.
        root: PathBuf,
    },
    /// A bucket of an S3 store, or a prefix in one.
    S3(S3Location),
}

/// A bucket of an S3 store, or a prefix in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Location {
    /// Bucket name in the store.
    pub(crate) bucket: String,
    /// Empty, or ends with `/`.
    pub(crate) prefix: String,
    /// Base URL; none: AWS.
    pub(crate) endpoint: Option<String>,
    /// Region; none: from the environment.
    pub(crate) region: Option<String>,
    /// Bucket in the path instead of the host name.
    pub(crate) path_style: bool,
    /// Where the credentials are.
    pub(crate) credentials: CredentialsRef,
    /// Smallest part but for the last that the store takes, bytes.
    pub(crate) part_bytes_min: u64,
}

/// Where credentials are; never the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialsRef {
    /// `env:PREFIX`: `PREFIX_ACCESS_KEY_ID`, `PREFIX_SECRET_ACCESS_KEY` and
    /// optionally `PREFIX_SESSION_TOKEN`.
    Env(String),
    /// `file:/path`: two lines, or an AWS credentials file (profile `default`).
    File(PathBuf),
    /// `profile:name` of the AWS configuration files.
    Profile(String),
    /// The AWS default chain.
    Default,
    /// Unsigned requests.
    Anonymous,
}

/// Names of options an S3 location understands.
const S3_OPTIONS: [&str; 5] = [
    "endpoint",
    "region",
    "path_style",
    "credentials",
    "min_part_size",
];

/// S3 User Guide, "Amazon S3 multipart upload limits": a part is 5 MiB to 5 GiB, the
/// last one may be smaller.
const S3_PART_BYTES_MIN: u64 = 5 << 20;
const S3_PART_BYTES_MAX: u64 = 5 << 30;

fn invalid(message: impl fmt::Display) -> UfsError {
    UfsError::new(UfsErrorKind::Invalid, message.to_string())
}

impl Location {
    /// Parses and checks the location of a bucket.
    pub(crate) fn of(bucket: &Bucket) -> Result<Self, UfsError> {
        Self::parse(&bucket.ufs, &bucket.options)
    }

    /// Parses and checks a URI with its options.
    pub(crate) fn parse(uri: &str, options: &[(String, String)]) -> Result<Self, UfsError> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(invalid(format_args!(
                "'{uri}' is not a UFS URI: file:///path or s3://bucket/prefix"
            )));
        };
        match scheme {
            "file" => posix(uri, rest, options),
            "s3" => s3(uri, rest, options),
            _ => Err(invalid(format_args!(
                "UFS scheme '{scheme}' is not supported: use file:// or s3://"
            ))),
        }
    }
}

fn posix(uri: &str, path: &str, options: &[(String, String)]) -> Result<Location, UfsError> {
    if let Some((name, _)) = options.first() {
        return Err(invalid(format_args!(
            "a file:// UFS has no option '{name}'"
        )));
    }
    let odd = |s: &str| s == "." || s == ".." || s.contains('\0');
    if !path.starts_with('/') || path.split('/').any(odd) {
        return Err(invalid(format_args!(
            "'{uri}' must name an absolute path without '.' and '..' (file:///path)"
        )));
    }
    let root = PathBuf::from(path);
    Ok(Location::Posix { root })
}

fn s3(uri: &str, rest: &str, options: &[(String, String)]) -> Result<Location, UfsError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains('@') || bucket.contains('?') {
        return Err(invalid(format_args!(
            "'{uri}' does not name a bucket (s3://bucket/prefix)"
        )));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.starts_with('/') {
        return Err(invalid(format_args!(
            "the prefix of '{uri}' begins with '/'"
        )));
    }
    let options = option_map(options)?;
    let endpoint = options
        .get("endpoint")
        .map(|e| checked_endpoint(e))
        .transpose()?;
    Ok(Location::S3(S3Location {
        bucket: bucket.to_owned(),
        prefix: if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        },
        path_style: match options.get("path_style").map(String::as_str) {
            None => endpoint.is_some(),
            Some("true") => true,
            Some("false") => false,
            Some(_) => return Err(invalid("option 'path_style' must be true or false")),
        },
        endpoint,
        region: options.get("region").cloned(),
        credentials: match options.get("credentials") {
            None => CredentialsRef::Default,
            Some(reference) => CredentialsRef::parse(reference)?,
        },
        part_bytes_min: match options.get("min_part_size") {
            None => S3_PART_BYTES_MIN,
            Some(size) => checked_part_size(size)?,
        },
    }))
}

fn option_map(options: &[(String, String)]) -> Result<HashMap<String, String>, UfsError> {
    let mut map = HashMap::new();
    for (name, value) in options {
        if !S3_OPTIONS.contains(&name.as_str()) {
            return Err(invalid(format_args!(
                "an s3:// UFS has no option '{name}'; it has {}",
                S3_OPTIONS.join(", ")
            )));
        }
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(invalid(format_args!("option '{name}' is given twice")));
        }
    }
    Ok(map)
}

fn checked_endpoint(url: &str) -> Result<String, UfsError> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    // Not echoed: it may hold a password.
    if url.contains('@') {
        return Err(invalid("option 'endpoint' must not hold credentials"));
    }
    match rest.map(|r| r.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && !host.contains(['?', '#', ' ']) => Ok(url.to_owned()),
        _ => Err(invalid(format_args!(
            "endpoint '{url}' must be http(s)://host[:port]"
        ))),
    }
}

/// A smallest part as bytes, written as `1048576`, `1024KiB` or `1MiB`.
fn checked_part_size(text: &str) -> Result<u64, UfsError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    let bytes = bytes.filter(|bytes| *bytes <= S3_PART_BYTES_MAX);
    bytes.ok_or_else(|| {
        invalid(format_args!(
            "option 'min_part_size' is '{text}': write 0 to 5GiB, for example 5MiB or 4096"
        ))
    })
}

impl CredentialsRef {
    fn parse(reference: &str) -> Result<Self, UfsError> {
        match reference.split_once(':') {
            Some(("env", prefix)) if !prefix.is_empty() => Ok(Self::Env(prefix.to_owned())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some(("profile", name)) if !name.is_empty() => Ok(Self::Profile(name.to_owned())),
            None if reference == "default" => Ok(Self::Default),
            None if reference == "anonymous" => Ok(Self::Anonymous),
            // The value is not echoed: it might be a secret given by mistake.
            _ => Err(invalid(
                "option 'credentials' must be a reference: env:PREFIX, file:/path, \
                 profile:name, default or anonymous",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn posix_uris() {
        let parsed = Location::parse("file:///a/b", &[]).unwrap();
        assert_eq!(
            parsed,
            Location::Posix {
                root: "/a/b".into()
            }
        );
        for bad in ["/a", "file://a/b", "file:///a/../b", "hdfs://x", ""] {
            assert!(Location::parse(bad, &[]).is_err(), "{bad}");
        }
        assert!(Location::parse("file:///a", &options(&[("region", "x")])).is_err());
    }

    #[test]
    fn s3_uris_and_options() {
        let given = options(&[("endpoint", "http://127.0.0.1:1"), ("credentials", "env:X")]);
        let Location::S3(s3) = Location::parse("s3://bkt/pre/fix/", &given).unwrap() else {
            panic!("not s3");
        };
        assert_eq!(
            (s3.bucket.as_str(), s3.prefix.as_str()),
            ("bkt", "pre/fix/")
        );
        assert!(s3.path_style, "default with an endpoint");
        assert_eq!(s3.credentials, CredentialsRef::Env("X".into()));
        let Location::S3(s3) = Location::parse("s3://bkt", &[]).unwrap() else {
            panic!("not s3");
        };
        assert_eq!((s3.prefix.as_str(), s3.path_style), ("", false));
    }

    #[test]
    fn the_smallest_part_of_a_store() {
        let of = |size: &str| match Location::parse("s3://b", &options(&[("min_part_size", size)]))
        {
            Ok(Location::S3(s3)) => Some(s3.part_bytes_min),
            _ => None,
        };
        assert_eq!(
            ["0", "4096", "1KiB", "8MiB", "5GiB"].map(of),
            [0, 4096, 1 << 10, 8 << 20, 5 << 30].map(Some)
        );
        let huge = u64::MAX.to_string() + "KiB";
        for bad in ["", "MiB", "-1", "5 MiB", "5M", "6GiB", "1e6", &huge] {
            assert_eq!(of(bad), None, "{bad}");
        }
        let Ok(Location::S3(s3)) = Location::parse("s3://b", &[]) else {
            panic!("not s3");
        };
        assert_eq!(s3.part_bytes_min, 5 << 20);
    }

    #[test]
    fn a_secret_given_as_reference_is_not_repeated() {
        let secret = "wJalrXUtnFEMI/K7MDENG";
        for given in [
            options(&[("credentials", secret)]),
            options(&[("endpoint", &format!("http://user:{secret}@host"))]),
        ] {
            let error = Location::parse("s3://b", &given).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(secret));
        }
    }
}
