//! Tags: the `x-amz-tagging` header and the rules both it and the XML follow.

use crate::error::{S3Error, S3ErrorCode};
use crate::uri::parse_query;
use crate::view::Fields;

/// Most tags of an object (S3: "Categorizing your storage using tags").
pub const OBJECT_TAGS_MAX: usize = 10;
/// Most tags of a bucket.
pub const BUCKET_TAGS_MAX: usize = 50;
/// Longest tag key, characters.
const KEY_CHARS_MAX: usize = 128;
/// Longest tag value, characters.
const VALUE_CHARS_MAX: usize = 256;

/// Reads `x-amz-tagging`: `k=v&k2=v2`, URL-encoded.
pub(super) fn header_tags(fields: &Fields<'_>) -> Result<Vec<(String, String)>, S3Error> {
    let Some(text) = fields.filled("x-amz-tagging")? else {
        return Ok(Vec::new());
    };
    let tags = parse_query(&text).map_err(|_| {
        S3Error::argument(
            "x-amz-tagging",
            &text,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    })?;
    check_tags(&tags, OBJECT_TAGS_MAX)?;
    Ok(tags)
}

/// Checks tags against the S3 limits; `count_max` is one of the constants here.
///
/// # Errors
/// `InvalidTag`, naming the key.
pub fn check_tags(tags: &[(String, String)], count_max: usize) -> Result<(), S3Error> {
    let refuse = |text: &'static str, key: &str| {
        Err(S3Error::new(S3ErrorCode::InvalidTag, text).with("TagKey", key))
    };
    if tags.len() > count_max {
        return Err(S3Error::new(
            S3ErrorCode::InvalidTag,
            format!("Tags cannot be greater than {count_max}"),
        ));
    }
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > KEY_CHARS_MAX || !allowed(key) {
            return refuse("The TagKey you have provided is invalid", key);
        }
        if value.chars().count() > VALUE_CHARS_MAX || !allowed(value) {
            return refuse("The TagValue you have provided is invalid", key);
        }
        if key.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("aws:")) {
            return refuse("System tags cannot be added/updated by requester", key);
        }
        if tags[..at].iter().any(|(k, _)| k == key) {
            return refuse("Cannot provide multiple Tags with the same key", key);
        }
    }
    Ok(())
}

/// Letters, digits, blanks and `+ - = . _ : / @`.
fn allowed(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_alphanumeric() || c == ' ' || "+-=._:/@".contains(c))
}
