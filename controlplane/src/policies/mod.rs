//! The document of path policies: read strictly, written in one form, compiled.
//! No storage (`namespace::policies`), no wire (`rpc`, `rest`).
//!
//! ```json
//! {
//!   "apiVersion": "v1.0",
//!   "defaultRule": { "policyMode": "WRITE_THROUGH" },
//!   "pathRules": [
//!     { "path": "/checkpoints/**", "policyMode": "WRITE_BACK",
//!       "properties": { "writeReplicas": 1, "onDirtyLimit": "SLOW_DOWN" } }
//!   ]
//! }
//! ```

mod json;
mod read;
#[cfg(test)]
mod tests;
mod warn;

use std::collections::HashSet;

use quickwater_proto::{PathPolicy, PolicyTable};
use serde::Serialize;

/// The one `apiVersion`.
pub const API_VERSION: &str = "v1.0";
/// Largest document, bytes.
pub const DOCUMENT_BYTES_MAX: usize = 512 << 10;
/// Longest description of a rule, bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Most problems told of one document.
pub const PROBLEMS_MAX: usize = 50;

/// Something wrong, or odd, at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The field as a JSON path, such as `$.pathRules[1].properties.writeReplicas`.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A document cannot be used; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct InvalidDocument(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// One rule of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which paths; none: the default rule.
    pub path: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What it says.
    pub policy: PathPolicy,
}

/// A document that can be used.
#[derive(Debug, Clone)]
pub struct Document {
    /// Holds where no rule does.
    pub default_rule: Rule,
    /// In order of the text.
    pub path_rules: Vec<Rule>,
    /// All of it, compiled.
    pub table: PolicyTable,
}

impl Default for Document {
    /// What holds while nobody has set anything: WRITE_THROUGH with 1 copy.
    fn default() -> Self {
        Self {
            default_rule: Rule {
                path: None,
                description: Some("Built in".into()),
                policy: PathPolicy::default(),
            },
            path_rules: Vec::new(),
            table: PolicyTable::default(),
        }
    }
}

impl Document {
    /// Reads a document. `workers`: how many there are to hold copies; none: as
    /// many as it asks for (a document that was checked before).
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`PROBLEMS_MAX`].
    pub fn parse(text: &str, workers: Option<u8>) -> Result<Self, InvalidDocument> {
        read::document(text, workers)
    }

    /// What can be used but is hardly meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        warn::warnings(self)
    }

    /// Warnings of rules for one bucket that is not among `buckets`.
    #[must_use]
    pub fn missing_buckets(&self, buckets: &HashSet<&str>) -> Vec<Problem> {
        warn::missing_buckets(self, buckets)
    }

    /// The rule that decides for `/bucket/key`, with its place in `pathRules`.
    #[must_use]
    pub fn decide(&self, bucket: &str, key: &str) -> (&Rule, Option<u16>) {
        let place = self.table.policy(bucket, key).rule;
        let rule = place.and_then(|place| self.path_rules.get(usize::from(place)));
        (rule.unwrap_or(&self.default_rule), place)
    }

    /// The document in its one written form: two spaces, fields in order of the
    /// documentation, `path` for `alluxioPath`, defaults spelled out.
    ///
    /// # Errors
    /// Out of memory only.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let written = Written {
            api_version: API_VERSION,
            default_rule: WrittenRule::of(&self.default_rule),
            path_rules: self.path_rules.iter().map(WrittenRule::of).collect(),
        };
        let mut text = serde_json::to_string_pretty(&written)?;
        text.push('\n');
        Ok(text)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    api_version: &'static str,
    default_rule: WrittenRule<'a>,
    path_rules: Vec<WrittenRule<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRule<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    policy_mode: &'static str,
    properties: WrittenProperties,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenProperties {
    write_replicas: u8,
    on_dirty_limit: &'static str,
}

impl<'a> WrittenRule<'a> {
    fn of(rule: &'a Rule) -> Self {
        Self {
            path: rule.path.as_deref(),
            description: rule.description.as_deref(),
            policy_mode: rule.policy.mode.as_str(),
            properties: WrittenProperties {
                write_replicas: rule.policy.write_replicas,
                on_dirty_limit: rule.policy.over_limit.as_str(),
            },
        }
    }
}
