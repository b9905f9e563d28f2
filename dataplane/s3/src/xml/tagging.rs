//! The body of PutObjectTagging and PutBucketTagging.

use super::walk::{Step, malformed, walk};
use crate::error::S3Error;
use crate::request::check_tags;

/// Reads a `Tagging` and checks it; `count_max` is
/// [`crate::request::OBJECT_TAGS_MAX`] or [`crate::request::BUCKET_TAGS_MAX`].
///
/// # Errors
/// `MalformedXML`, `InvalidTag`.
pub fn parse_tagging(body: &[u8], count_max: usize) -> Result<Vec<(String, String)>, S3Error> {
    const TAG: &str = "Tagging/TagSet/Tag";
    let mut tags = Vec::new();
    let (mut key, mut value, mut sets) = (None, None, 0);
    walk(body, |path, step| {
        match (path, step) {
            ("Tagging", _) | ("Tagging/TagSet", Step::Close(_)) | (TAG, Step::Open) => {}
            ("Tagging/TagSet", Step::Open) => sets += 1,
            ("Tagging/TagSet/Tag/Key" | "Tagging/TagSet/Tag/Value", Step::Open) => {}
            ("Tagging/TagSet/Tag/Key", Step::Close(text)) => key = Some(text.to_owned()),
            ("Tagging/TagSet/Tag/Value", Step::Close(text)) => value = Some(text.to_owned()),
            (TAG, Step::Close(_)) => {
                let key = key.take().ok_or_else(malformed)?;
                // One more than allowed is enough to be refused below.
                if tags.len() <= count_max {
                    tags.push((key, value.take().ok_or_else(malformed)?));
                }
            }
            _ => return Err(malformed()),
        }
        Ok(())
    })?;
    if sets != 1 {
        return Err(malformed());
    }
    check_tags(&tags, count_max)?;
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::S3ErrorCode;

    fn body(tags: &[(&str, &str)]) -> String {
        let inner: String = tags
            .iter()
            .map(|(k, v)| format!("<Tag><Key>{k}</Key><Value>{v}</Value></Tag>"))
            .collect();
        format!("<Tagging><TagSet>{inner}</TagSet></Tagging>")
    }

    fn code(body: &str) -> S3ErrorCode {
        parse_tagging(body.as_bytes(), 10).unwrap_err().code
    }

    #[test]
    fn tags_in_order() {
        let tags = parse_tagging(body(&[("b", "1"), ("a", "")]).as_bytes(), 10).unwrap();
        assert_eq!(
            tags,
            [("b", "1"), ("a", "")].map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
        assert!(parse_tagging(body(&[]).as_bytes(), 10).unwrap().is_empty());
    }

    #[test]
    fn the_limits() {
        let keys: Vec<String> = (0..11).map(|n| format!("k{n}")).collect();
        let eleven: Vec<_> = keys.iter().map(|k| (k.as_str(), "v")).collect();
        assert_eq!(code(&body(&eleven)), S3ErrorCode::InvalidTag);
        assert!(parse_tagging(body(&eleven[..10]).as_bytes(), 10).is_ok());
        let long = "k".repeat(129);
        assert_eq!(code(&body(&[(&long, "v")])), S3ErrorCode::InvalidTag);
        let long = "v".repeat(257);
        assert_eq!(code(&body(&[("k", &long)])), S3ErrorCode::InvalidTag);
        assert_eq!(
            code(&body(&[("k", "1"), ("k", "2")])),
            S3ErrorCode::InvalidTag
        );
        assert_eq!(code(&body(&[("aws:k", "1")])), S3ErrorCode::InvalidTag);
        assert_eq!(code(&body(&[("k!", "1")])), S3ErrorCode::InvalidTag);
        assert_eq!(code("<Tagging/>"), S3ErrorCode::MalformedXml);
        assert_eq!(
            code("<Tagging><TagSet><Tag><Key>k</Key></Tag></TagSet></Tagging>"),
            S3ErrorCode::MalformedXml
        );
    }
}
