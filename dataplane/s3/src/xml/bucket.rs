//! The body of CreateBucket.

use super::walk::{Step, malformed, walk};
use crate::error::S3Error;

/// Reads a `CreateBucketConfiguration`: its `LocationConstraint`, any region.
/// An empty body is fine.
///
/// # Errors
/// `MalformedXML`; `NotImplemented` for elements of directory buckets.
pub fn parse_create_bucket(body: &[u8]) -> Result<Option<String>, S3Error> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut location = None;
    walk(body, |path, step| match (path, step) {
        ("CreateBucketConfiguration", _)
        | ("CreateBucketConfiguration/LocationConstraint", Step::Open) => Ok(()),
        ("CreateBucketConfiguration/LocationConstraint", Step::Close(text)) => {
            location = Some(text.trim().to_owned()).filter(|t| !t.is_empty());
            Ok(())
        }
        (
            "CreateBucketConfiguration/Location"
            | "CreateBucketConfiguration/Bucket"
            | "CreateBucketConfiguration/Tags",
            Step::Open,
        ) => Err(S3Error::not_implemented("CreateBucketConfiguration")),
        _ => Err(malformed()),
    })?;
    Ok(location)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::S3ErrorCode;

    #[test]
    fn locations() {
        let body = b"<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
        assert_eq!(parse_create_bucket(body).unwrap().unwrap(), "eu-west-1");
        assert_eq!(parse_create_bucket(b"").unwrap(), None);
        assert_eq!(
            parse_create_bucket(b"<CreateBucketConfiguration/>").unwrap(),
            None
        );
        let tags = b"<CreateBucketConfiguration><Tags/></CreateBucketConfiguration>";
        let code = parse_create_bucket(tags).unwrap_err().code;
        assert_eq!(code, S3ErrorCode::NotImplemented);
        assert!(parse_create_bucket(b"<Other/>").is_err());
    }
}
