//! Where in a UFS a bucket lies, and whether two such places overlap. Pure.

use quickwater_proto::Bucket;

/// Why a UFS URI was refused; the text says what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LocationError(String);

/// A place in a UFS: a host, and names from the outside in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Scheme and, for S3, the endpoint.
    host: String,
    /// S3: the bucket and the segments of the prefix. File: the path.
    path: Vec<String>,
}

impl Location {
    /// Reads `file:///path` or `s3://bucket/prefix`. The `endpoint` option tells
    /// S3 stores apart.
    ///
    /// # Errors
    /// Another scheme, or not such a URI.
    pub fn parse(uri: &str, options: &[(String, String)]) -> Result<Self, LocationError> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(LocationError(format!(
                "'{uri}' is not a UFS URI: use file:///path or s3://bucket/prefix"
            )));
        };
        match scheme {
            "file" => Self::file(uri, rest),
            "s3" => Self::s3(uri, rest, options),
            _ => Err(LocationError(format!(
                "UFS scheme '{scheme}' is not supported: use file:// or s3://"
            ))),
        }
    }

    fn file(uri: &str, path: &str) -> Result<Self, LocationError> {
        if !path.starts_with('/') {
            return Err(LocationError(format!(
                "'{uri}' must name an absolute path: file:///path"
            )));
        }
        Ok(Self {
            host: "file".into(),
            path: segments(uri, path)?,
        })
    }

    fn s3(uri: &str, path: &str, options: &[(String, String)]) -> Result<Self, LocationError> {
        let path = segments(uri, path)?;
        if path.is_empty() || uri.starts_with("s3:///") {
            return Err(LocationError(format!(
                "'{uri}' names no bucket: s3://bucket/prefix"
            )));
        }
        let endpoint = options.iter().find(|(name, _)| name == "endpoint");
        let endpoint = endpoint.map_or("", |(_, value)| value.trim_end_matches('/'));
        Ok(Self {
            host: format!("s3 {}", endpoint.to_ascii_lowercase()),
            path,
        })
    }

    /// The place of a bucket. A URI that cannot be read, as older versions may
    /// have left, is a place of its own; no URI is none.
    #[must_use]
    pub fn of(bucket: &Bucket) -> Option<Self> {
        if bucket.ufs.is_empty() {
            return None;
        }
        let opaque = |_| Self {
            host: bucket.ufs.clone(),
            path: Vec::new(),
        };
        Some(Self::parse(&bucket.ufs, &bucket.options).unwrap_or_else(opaque))
    }

    /// Whether one is the other or lies within it.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let both = self.path.iter().zip(&other.path);
        self.host == other.host && both.fold(true, |same, (a, b)| same && a == b)
    }
}

/// Empty segments mean nothing to a file system and are left out.
fn segments(uri: &str, path: &str) -> Result<Vec<String>, LocationError> {
    let segments: Vec<_> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    if segments
        .iter()
        .any(|segment| matches!(*segment, "." | ".."))
        || path.contains('\0')
    {
        return Err(LocationError(format!(
            "'{uri}' must not hold '.', '..' or NUL"
        )));
    }
    Ok(segments.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uri: &str) -> Location {
        Location::parse(uri, &[]).unwrap()
    }

    #[test]
    fn only_known_schemes_are_read() {
        let error = |uri| Location::parse(uri, &[]).unwrap_err().to_string();
        assert!(error("gs://b/p").contains("use file:// or s3://"));
        assert!(error("/data").contains("not a UFS URI"));
        assert!(error("file://data/b").contains("absolute"));
        assert!(error("file:///a/../b").contains("'..'"));
        assert!(error("s3://").contains("names no bucket"));
        assert!(error("s3:///prefix").contains("names no bucket"));
    }

    #[test]
    fn a_place_overlaps_itself_and_what_is_inside() {
        assert!(at("file:///a/b").overlaps(&at("file:///a//b/")));
        assert!(at("file:///a/b").overlaps(&at("file:///a/b/c")));
        assert!(at("file:///a/b/c").overlaps(&at("file:///a/b")));
        assert!(at("file:///").overlaps(&at("file:///x")));
        assert!(at("s3://b").overlaps(&at("s3://b/p/q")));
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!at("file:///a/b").overlaps(&at("file:///a/bc")));
        assert!(!at("s3://b/p").overlaps(&at("s3://c/p")));
        assert!(!at("s3://b").overlaps(&at("file:///b")));
        let option = |endpoint: &str| [("endpoint".to_owned(), endpoint.to_owned())];
        let one = Location::parse("s3://b", &option("http://one:9000/")).unwrap();
        let same = Location::parse("s3://b/p", &option("http://ONE:9000")).unwrap();
        let two = Location::parse("s3://b", &option("http://two:9000")).unwrap();
        assert!(one.overlaps(&same));
        assert!(!one.overlaps(&two));
    }
}
