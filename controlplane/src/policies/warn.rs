//! What a document may say but hardly means.

use std::collections::HashSet;

use quickwater_proto::{BucketName, OverLimit, PolicyMode};

use super::{Document, PROBLEMS_MAX, Problem, Rule};

pub(super) fn warnings(document: &Document) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    found.rule("$.defaultRule", &document.default_rule);
    for (place, rule) in document.path_rules.iter().enumerate() {
        let at = format!("$.pathRules[{place}]");
        found.rule(&at, rule);
        if let Some(path) = &rule.path {
            found.path(&format!("{at}.path"), path);
        }
    }
    found.0
}

pub(super) fn missing_buckets(document: &Document, buckets: &HashSet<&str>) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    for (place, rule) in document.path_rules.iter().enumerate() {
        let bucket = rule.path.as_deref().map_or("", bucket_of);
        if !wild(bucket) && BucketName::new(bucket).is_ok() && !buckets.contains(bucket) {
            found.tell(
                format!("$.pathRules[{place}].path"),
                &format!("there is no bucket {bucket:?} yet"),
            );
        }
    }
    found.0
}

/// The first name of a rule's path.
fn bucket_of(path: &str) -> &str {
    let inner = path.strip_prefix('/').unwrap_or(path);
    inner.split('/').next().unwrap_or_default()
}

fn wild(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

struct Found(Vec<Problem>);

impl Found {
    fn tell(&mut self, field: String, message: &str) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem {
                field,
                message: message.into(),
            });
        }
    }

    fn rule(&mut self, at: &str, rule: &Rule) {
        let policy = &rule.policy;
        let replicas = format!("{at}.properties.writeReplicas");
        let copies = policy.write_replicas;
        match policy.mode {
            PolicyMode::Transient if copies == 1 => self.tell(
                replicas,
                "1 copy of what never reaches the UFS: losing one disk loses it; write 2 or more where there are more workers",
            ),
            PolicyMode::WriteBack | PolicyMode::Transient => {}
            _ if copies > 1 => self.tell(
                replicas,
                "has no effect: only WRITE_BACK and TRANSIENT keep copies of their own",
            ),
            _ => {}
        }
        if policy.over_limit == OverLimit::WriteThrough && policy.mode != PolicyMode::WriteBack {
            self.tell(
                format!("{at}.properties.onDirtyLimit"),
                "has no effect: only WRITE_BACK can turn into WRITE_THROUGH",
            );
        }
    }

    fn path(&mut self, field: &str, path: &str) {
        let tell = |found: &mut Self, message: &str| found.tell(field.to_owned(), message);
        let inner = path.strip_prefix('/').unwrap_or(path);
        let bucket = bucket_of(path);
        if wild(path) && !inner.contains('/') && inner != "**" {
            tell(
                self,
                "covers buckets but no object in them; add /** to its end",
            );
        } else if wild(path) && path.ends_with('/') {
            tell(
                self,
                "covers only keys that end in '/'; for all that is below write ** at its end",
            );
        }
        if !bucket.is_empty() && !wild(bucket) && BucketName::new(bucket).is_err() {
            tell(
                self,
                "covers nothing: its first name can be no bucket (3 to 63 of a-z 0-9 . -)",
            );
        }
        if path.contains(['{', '}', '\\']) {
            tell(
                self,
                "braces and backslashes stand for themselves: there are no alternatives and no escapes",
            );
        }
    }
}
