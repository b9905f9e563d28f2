//! What a document may say but hardly means.

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
        let bucket = inner.split('/').next().unwrap_or_default();
        let wild = |text: &str| text.contains(['*', '?', '[']);
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
