//! Reads `If-*` headers. What they decide is in [`crate::conditional`].

use quickwater_proto::{ETag, PutCondition};

use crate::date::parse_http_date;
use crate::error::{S3Error, S3ErrorCode};
use crate::view::Fields;

/// `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ETagMatch {
    /// `*`.
    Any,
    /// Entity tags; `true` = weak (`W/"..."`).
    OneOf(Vec<(ETag, bool)>),
}

/// `If-Range` (RFC 9110 13.1.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfRange {
    /// The range counts only for this entity tag.
    ETag(ETag),
    /// The range counts only if last modified exactly then, milliseconds since
    /// the Unix epoch.
    Date(i64),
    /// Nothing can fit (a weak tag or garbage).
    Never,
}

/// The conditions of a read or of the source of a copy. Dates are milliseconds
/// since the Unix epoch; dates that are none are ignored (RFC 9110 13.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<ETagMatch>,
    /// `If-None-Match`.
    pub if_none_match: Option<ETagMatch>,
    /// `If-Modified-Since`.
    pub if_modified_since_ms: Option<i64>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since_ms: Option<i64>,
}

impl Conditions {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.if_match.is_none()
            && self.if_none_match.is_none()
            && self.if_modified_since_ms.is_none()
            && self.if_unmodified_since_ms.is_none()
    }

    /// Reads the headers named `<prefix>if-*`.
    pub(super) fn parse(fields: &Fields<'_>, prefix: &str) -> Result<Self, S3Error> {
        let get = |name: &str| match prefix {
            "" => fields.filled(name),
            _ => fields.filled(&format!("{prefix}{name}")),
        };
        let date = |name: &str| Ok::<_, S3Error>(get(name)?.and_then(|v| parse_http_date(&v)));
        Ok(Self {
            if_match: get("if-match")?.map(|v| ETagMatch::parse(&v)),
            if_none_match: get("if-none-match")?.map(|v| ETagMatch::parse(&v)),
            if_modified_since_ms: date("if-modified-since")?,
            if_unmodified_since_ms: date("if-unmodified-since")?,
        })
    }
}

impl ETagMatch {
    /// Reads a list of entity tags; quotes may be missing, as S3 allows.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::Any;
        }
        let mut tags = Vec::new();
        let mut rest = text.trim_start_matches([' ', ',']);
        while !rest.is_empty() {
            let (weak, tag) = match rest.strip_prefix("W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            let (tag, after) = match tag.strip_prefix('"') {
                // A quoted tag may hold commas.
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => tag.split_once(',').unwrap_or((tag, "")),
            };
            tags.push((ETag::new(tag.trim()), weak));
            rest = after.trim_start_matches([' ', ',']);
        }
        Self::OneOf(tags)
    }
}

impl IfRange {
    pub(super) fn parse(text: &str) -> Self {
        if let Some(ms) = parse_http_date(text) {
            return Self::Date(ms);
        }
        match ETagMatch::parse(text) {
            ETagMatch::OneOf(tags) => match tags.as_slice() {
                [(tag, false)] => Self::ETag(tag.clone()),
                _ => Self::Never,
            },
            ETagMatch::Any => Self::Never,
        }
    }
}

/// The condition of a write. S3 knows `If-None-Match: *` and `If-Match: <tag>`;
/// what it does not know is refused, never ignored.
pub(super) fn put_condition(fields: &Fields<'_>) -> Result<PutCondition, S3Error> {
    for name in ["if-modified-since", "if-unmodified-since"] {
        if fields.filled(name)?.is_some() {
            return Err(S3Error::not_implemented(name));
        }
    }
    let if_match = fields.filled("if-match")?.map(|v| ETagMatch::parse(&v));
    let none_match = fields
        .filled("if-none-match")?
        .map(|v| ETagMatch::parse(&v));
    match (if_match, none_match) {
        (None, None) => Ok(PutCondition::None),
        (None, Some(ETagMatch::Any)) => Ok(PutCondition::Absent),
        (Some(ETagMatch::Any), None) => Ok(PutCondition::Present),
        (Some(ETagMatch::OneOf(tags)), None) => match tags.as_slice() {
            [(tag, false)] => Ok(PutCondition::Match(tag.clone())),
            // A weak tag never matches strongly (RFC 9110 13.1.1).
            [(_, true)] => Err(S3ErrorCode::PreconditionFailed.into()),
            _ => Err(S3Error::not_implemented("If-Match")),
        },
        (_, Some(_)) => Err(S3Error::not_implemented("If-None-Match")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags(list: &[(&str, bool)]) -> ETagMatch {
        ETagMatch::OneOf(list.iter().map(|(t, w)| (ETag::new(t), *w)).collect())
    }

    #[test]
    fn lists_of_tags() {
        assert_eq!(ETagMatch::parse(" * "), ETagMatch::Any);
        assert_eq!(ETagMatch::parse("\"a\""), tags(&[("a", false)]));
        assert_eq!(ETagMatch::parse("a"), tags(&[("a", false)]));
        let list = ETagMatch::parse("\"a,b\", W/\"c\",d , e");
        assert_eq!(
            list,
            tags(&[("a,b", false), ("c", true), ("d", false), ("e", false)])
        );
        assert_eq!(ETagMatch::parse(",,"), tags(&[]));
    }

    #[test]
    fn if_range_is_a_strong_tag_or_a_date() {
        assert_eq!(IfRange::parse("\"a\""), IfRange::ETag(ETag::new("a")));
        assert_eq!(IfRange::parse("W/\"a\""), IfRange::Never);
        assert_eq!(
            IfRange::parse("Fri, 24 May 2013 00:00:00 GMT"),
            IfRange::Date(1_369_353_600_000)
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = (ETagMatch::parse(&text), IfRange::parse(&text));
        }
    }
}
