//! Evaluates conditional headers (RFC 9110 13.2.2 and the tables of S3 GetObject
//! and CopyObject). Writes are decided inside the commit, not here.

use quickwater_proto::ETag;

use crate::request::{Conditions, ETagMatch, IfRange};

/// What the conditions of a request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Proceed,
    /// 304: the client has it already.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Decides a GET or HEAD. `modified_ms`: milliseconds since the Unix epoch;
/// headers have whole seconds.
#[must_use]
pub fn decide_read(conditions: &Conditions, etag: &ETag, modified_ms: i64) -> Verdict {
    let modified = modified_ms.div_euclid(1000);
    let later_than = |ms: i64| modified > ms.div_euclid(1000);
    let stale = match (&conditions.if_match, conditions.if_unmodified_since_ms) {
        (Some(tags), _) => !matches_strongly(tags, etag),
        (None, Some(ms)) => later_than(ms),
        (None, None) => false,
    };
    if stale {
        return Verdict::PreconditionFailed;
    }
    let fresh = match (&conditions.if_none_match, conditions.if_modified_since_ms) {
        (Some(tags), _) => matches_weakly(tags, etag),
        (None, Some(ms)) => !later_than(ms),
        (None, None) => false,
    };
    if fresh {
        Verdict::NotModified
    } else {
        Verdict::Proceed
    }
}

/// Decides about the source of a copy: there is no 304, only 412.
#[must_use]
pub fn decide_copy(conditions: &Conditions, etag: &ETag, modified_ms: i64) -> Verdict {
    match decide_read(conditions, etag, modified_ms) {
        Verdict::NotModified => Verdict::PreconditionFailed,
        other => other,
    }
}

/// Whether `Range` counts under this `If-Range`; otherwise the whole object is
/// the answer.
#[must_use]
pub fn range_applies(if_range: Option<&IfRange>, etag: &ETag, modified_ms: i64) -> bool {
    match if_range {
        None => true,
        Some(IfRange::ETag(tag)) => tag == etag,
        Some(IfRange::Date(ms)) => ms.div_euclid(1000) == modified_ms.div_euclid(1000),
        Some(IfRange::Never) => false,
    }
}

fn matches_strongly(tags: &ETagMatch, etag: &ETag) -> bool {
    match tags {
        ETagMatch::Any => true,
        ETagMatch::OneOf(tags) => tags.iter().any(|(tag, weak)| !weak && tag == etag),
    }
}

fn matches_weakly(tags: &ETagMatch, etag: &ETag) -> bool {
    match tags {
        ETagMatch::Any => true,
        ETagMatch::OneOf(tags) => tags.iter().any(|(tag, _)| tag == etag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED_MS: i64 = 1_369_353_600_500;
    const SAME: Option<i64> = Some(1_369_353_600_000);
    const BEFORE: Option<i64> = Some(1_369_353_599_000);

    fn verdict(
        if_match: Option<&str>,
        none_match: Option<&str>,
        modified_since: Option<i64>,
        unmodified_since: Option<i64>,
    ) -> Verdict {
        let conditions = Conditions {
            if_match: if_match.map(ETagMatch::parse),
            if_none_match: none_match.map(ETagMatch::parse),
            if_modified_since_ms: modified_since,
            if_unmodified_since_ms: unmodified_since,
        };
        decide_read(&conditions, &ETag::new("e"), MODIFIED_MS)
    }

    #[test]
    fn each_alone() {
        use Verdict::{NotModified, PreconditionFailed, Proceed};
        assert_eq!(verdict(None, None, None, None), Proceed);
        assert_eq!(verdict(Some("\"e\""), None, None, None), Proceed);
        assert_eq!(verdict(Some("*"), None, None, None), Proceed);
        assert_eq!(verdict(Some("\"x\""), None, None, None), PreconditionFailed);
        assert_eq!(
            verdict(Some("W/\"e\""), None, None, None),
            PreconditionFailed
        );
        assert_eq!(verdict(None, Some("\"x\", \"e\""), None, None), NotModified);
        assert_eq!(verdict(None, Some("W/\"e\""), None, None), NotModified);
        assert_eq!(verdict(None, Some("*"), None, None), NotModified);
        assert_eq!(verdict(None, Some("\"x\""), None, None), Proceed);
        assert_eq!(verdict(None, None, SAME, None), NotModified);
        assert_eq!(verdict(None, None, BEFORE, None), Proceed);
        assert_eq!(verdict(None, None, None, SAME), Proceed);
        assert_eq!(verdict(None, None, None, BEFORE), PreconditionFailed);
    }

    #[test]
    fn tags_come_before_dates() {
        use Verdict::{NotModified, PreconditionFailed, Proceed};
        // The two combinations the page of GetObject spells out.
        assert_eq!(verdict(Some("e"), None, None, BEFORE), Proceed);
        assert_eq!(verdict(None, Some("e"), BEFORE, None), NotModified);
        assert_eq!(verdict(None, Some("x"), SAME, None), Proceed);
        assert_eq!(
            verdict(Some("x"), Some("e"), None, None),
            PreconditionFailed
        );
        assert_eq!(verdict(Some("e"), Some("e"), None, None), NotModified);
    }

    #[test]
    fn a_copy_fails_where_a_read_is_not_modified() {
        let conditions = Conditions {
            if_none_match: Some(ETagMatch::Any),
            ..Conditions::default()
        };
        let verdict = decide_copy(&conditions, &ETag::new("e"), 0);
        assert_eq!(verdict, Verdict::PreconditionFailed);
    }

    #[test]
    fn if_range() {
        let e = ETag::new("e");
        let applies = |i: IfRange| range_applies(Some(&i), &e, MODIFIED_MS);
        assert!(range_applies(None, &e, 0));
        assert!(applies(IfRange::ETag(e.clone())));
        assert!(!applies(IfRange::ETag(ETag::new("x"))));
        assert!(applies(IfRange::Date(1_369_353_600_000)));
        assert!(!applies(IfRange::Date(1_369_353_601_000)));
        assert!(!applies(IfRange::Never));
    }
}
