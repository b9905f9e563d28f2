//! The body of DeleteObjects.

use quickwater_proto::{ETag, ObjectKey, PutCondition};

use super::walk::{Step, malformed, walk};
use crate::error::S3Error;

/// Most keys of one request.
pub const DELETED_KEYS_MAX: usize = 1000;

/// One key to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteEntry {
    /// Exactly as sent.
    pub key: ObjectKey,
    /// `ETag`: only while the object has it.
    pub condition: PutCondition,
}

/// What to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// 1 to 1,000 keys in order; a key may come twice.
    pub entries: Vec<DeleteEntry>,
    /// The answer shows errors only.
    pub quiet: bool,
}

/// Reads a `Delete`.
///
/// # Errors
/// `MalformedXML`, `KeyTooLongError`; `NotImplemented` for versions other than
/// `null` and for conditions on time or size.
pub fn parse_delete(body: &[u8]) -> Result<DeleteRequest, S3Error> {
    let mut request = DeleteRequest {
        entries: Vec::new(),
        quiet: false,
    };
    let mut key = None;
    let mut condition = PutCondition::None;
    walk(body, |path, step| {
        match (path, step) {
            ("Delete" | "Delete/Object", Step::Open) | ("Delete", Step::Close(_)) => {}
            ("Delete/Quiet", Step::Close(text)) => request.quiet = boolean(text)?,
            ("Delete/Object/Key", Step::Close(text)) => {
                key = Some(crate::request::object_key(text)?);
            }
            ("Delete/Object/ETag", Step::Close(text)) => condition = etag_condition(text),
            ("Delete/Object/VersionId", Step::Close(text)) => {
                if !matches!(text.trim(), "" | "null") {
                    return Err(S3Error::not_implemented("VersionId"));
                }
            }
            ("Delete/Object/LastModifiedTime" | "Delete/Object/Size", Step::Open) => {
                return Err(S3Error::not_implemented("conditional delete"));
            }
            ("Delete/Object", Step::Close(_)) => {
                if request.entries.len() == DELETED_KEYS_MAX {
                    return Err(malformed());
                }
                request.entries.push(DeleteEntry {
                    key: key.take().ok_or_else(malformed)?,
                    condition: std::mem::take(&mut condition),
                });
            }
            (
                "Delete/Quiet"
                | "Delete/Object/Key"
                | "Delete/Object/ETag"
                | "Delete/Object/VersionId",
                Step::Open,
            ) => {}
            _ => return Err(malformed()),
        }
        Ok(())
    })?;
    if request.entries.is_empty() {
        return Err(malformed());
    }
    Ok(request)
}

fn etag_condition(text: &str) -> PutCondition {
    match text.trim() {
        "" => PutCondition::None,
        "*" => PutCondition::Present,
        tag => PutCondition::Match(ETag::new(tag)),
    }
}

fn boolean(text: &str) -> Result<bool, S3Error> {
    match text.trim() {
        t if t.eq_ignore_ascii_case("true") => Ok(true),
        t if t.eq_ignore_ascii_case("false") || t.is_empty() => Ok(false),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::S3ErrorCode;

    fn code(body: &str) -> S3ErrorCode {
        parse_delete(body.as_bytes()).unwrap_err().code
    }

    #[test]
    fn keys_are_kept_exactly() {
        let body = "<Delete><Object><Key> a&amp;b </Key></Object><Object><Key>c</Key><VersionId>null</VersionId><ETag>\"e\"</ETag></Object><Quiet>true</Quiet></Delete>";
        let request = parse_delete(body.as_bytes()).unwrap();
        assert!(request.quiet);
        assert_eq!(request.entries[0].key.as_str(), " a&b ");
        assert_eq!(request.entries[0].condition, PutCondition::None);
        assert_eq!(
            request.entries[1].condition,
            PutCondition::Match(ETag::new("e"))
        );
    }

    #[test]
    fn the_limits() {
        let entries = |n: usize| "<Object><Key>k</Key></Object>".repeat(n);
        let body = |n: usize| format!("<Delete>{}</Delete>", entries(n));
        assert_eq!(
            parse_delete(body(1000).as_bytes()).unwrap().entries.len(),
            1000
        );
        assert_eq!(code(&body(1001)), S3ErrorCode::MalformedXml);
        assert_eq!(code(&body(0)), S3ErrorCode::MalformedXml);
        assert_eq!(
            code("<Delete><Object></Object></Delete>"),
            S3ErrorCode::MalformedXml
        );
        assert_eq!(
            code("<Delete><Object><Other/></Object></Delete>"),
            S3ErrorCode::MalformedXml
        );
        assert_eq!(code("<Remove/>"), S3ErrorCode::MalformedXml);
        let long = format!(
            "<Delete><Object><Key>{}</Key></Object></Delete>",
            "k".repeat(1025)
        );
        assert_eq!(code(&long), S3ErrorCode::KeyTooLong);
        let version = "<Delete><Object><Key>k</Key><VersionId>1</VersionId></Object></Delete>";
        assert_eq!(code(version), S3ErrorCode::NotImplemented);
        let size = "<Delete><Object><Key>k</Key><Size>1</Size></Object></Delete>";
        assert_eq!(code(size), S3ErrorCode::NotImplemented);
    }
}
