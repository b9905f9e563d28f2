//! From JSON to a [`Document`]: every field accounted for, every problem told
//! with its place.

use std::collections::HashMap;

use quickwater_proto::{
    Glob, OverLimit, POLICY_RULES_MAX, PathPolicy, PolicyMode, PolicyProblem, PolicyTable,
    WRITE_REPLICAS_MAX,
};
use serde_json::{Map, Value};

use super::{
    API_VERSION, DESCRIPTION_BYTES_MAX, DOCUMENT_BYTES_MAX, Document, InvalidDocument,
    PROBLEMS_MAX, Problem, Rule, json,
};

const ROOT: &str = "$";
/// Characters shown of a name or value nobody knows.
const SHOWN_CHARS_MAX: usize = 64;

pub(super) fn document(text: &str, workers: Option<u8>) -> Result<Document, InvalidDocument> {
    let refuse = |message: String| {
        InvalidDocument(vec![Problem {
            field: ROOT.into(),
            message,
        }])
    };
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(refuse(format!("is larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let value = json::parse(text).map_err(|error| refuse(format!("is not valid JSON: {error}")))?;
    let mut reader = Reader {
        workers,
        problems: Vec::new(),
    };
    let found = reader.root(&value);
    if let Some(Ok(written)) = found.as_ref().map(Document::to_text)
        && written.len() > DOCUMENT_BYTES_MAX
    {
        let message =
            format!("is larger than {DOCUMENT_BYTES_MAX} bytes with all defaults written");
        return Err(refuse(message));
    }
    match found {
        Some(document) if reader.problems.is_empty() => Ok(document),
        _ => Err(InvalidDocument(reader.problems)),
    }
}

struct Reader {
    workers: Option<u8>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Notes a problem. Further ones than the most allowed are left out.
    fn tell(&mut self, field: String, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                field,
                message: message.into(),
            });
        }
    }

    fn root(&mut self, value: &Value) -> Option<Document> {
        let known = ["apiVersion", "defaultRule", "pathRules"];
        let fields = self.object(ROOT, value, &known)?;
        match self.text(ROOT, fields, "apiVersion") {
            Some(API_VERSION) | None => {}
            Some(other) => self.tell(
                member(ROOT, "apiVersion"),
                format!("is {:?}; this service knows {API_VERSION:?}", shown(other)),
            ),
        }
        if !fields.contains_key("apiVersion") {
            self.tell(
                member(ROOT, "apiVersion"),
                format!("is missing; write {API_VERSION:?}"),
            );
        }
        let at = member(ROOT, "defaultRule");
        let default_rule = match fields.get("defaultRule") {
            Some(rule) => self.rule(&at, rule, false),
            None => Some(Rule {
                path: None,
                description: None,
                policy: PathPolicy::default(),
            }),
        };
        let path_rules = self.path_rules(fields);
        self.compile(default_rule?, path_rules)
    }

    fn path_rules(&mut self, fields: &Map<String, Value>) -> Vec<Rule> {
        let at = member(ROOT, "pathRules");
        let rules = match fields.get("pathRules") {
            None => return Vec::new(),
            Some(Value::Array(rules)) => rules,
            Some(other) => {
                self.tell(at, format!("must be a list, not {}", kind(other)));
                return Vec::new();
            }
        };
        if rules.len() > POLICY_RULES_MAX {
            let count = rules.len();
            self.tell(
                at,
                format!("has {count} rules; at most {POLICY_RULES_MAX} are allowed"),
            );
            return Vec::new();
        }
        let mut first: HashMap<String, usize> = HashMap::new();
        let mut found = Vec::new();
        for (place, rule) in rules.iter().enumerate() {
            let at = format!("{at}[{place}]");
            let name = match rule.get("path") {
                Some(_) => "path",
                None => "alluxioPath",
            };
            let Some(rule) = self.rule(&at, rule, true) else {
                continue;
            };
            if let Some(path) = &rule.path
                && let Some(other) = first.insert(path.clone(), place)
            {
                self.tell(
                    member(&at, name),
                    format!(
                        "{:?} is the path of pathRules[{other}] too; keep one",
                        shown(path)
                    ),
                );
            }
            found.push(rule);
        }
        found
    }

    fn rule(&mut self, at: &str, value: &Value, has_path: bool) -> Option<Rule> {
        let known: &[&str] = match has_path {
            true => &[
                "path",
                "alluxioPath",
                "description",
                "policyMode",
                "properties",
            ],
            false => &["description", "policyMode", "properties"],
        };
        let fields = self.object(at, value, known)?;
        let path = match has_path {
            true => self.path(at, fields),
            false => None,
        };
        let description = self.text(at, fields, "description");
        if description.is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
            let field = member(at, "description");
            self.tell(
                field,
                format!("is longer than {DESCRIPTION_BYTES_MAX} bytes"),
            );
        }
        let mode = self.mode(at, fields);
        let policy = self.properties(at, fields, mode.unwrap_or_default());
        if has_path && path.is_none() || mode.is_none() {
            return None;
        }
        Some(Rule {
            path,
            description: description.map(str::to_owned),
            policy,
        })
    }

    fn path(&mut self, at: &str, fields: &Map<String, Value>) -> Option<String> {
        let name = match (
            fields.contains_key("path"),
            fields.contains_key("alluxioPath"),
        ) {
            (true, true) => {
                let message = "stands beside path and means the same; keep one";
                self.tell(member(at, "alluxioPath"), message);
                return None;
            }
            (false, false) => {
                let message = "is missing; write for example \"/bucket/prefix/**\"";
                self.tell(member(at, "path"), message);
                return None;
            }
            (true, false) => "path",
            (false, true) => "alluxioPath",
        };
        let path = self.text(at, fields, name)?;
        match Glob::new(path) {
            Ok(_) => Some(path.to_owned()),
            Err(error) => {
                let path = shown(path);
                self.tell(member(at, name), format!("{path:?} {error}"));
                None
            }
        }
    }

    fn mode(&mut self, at: &str, fields: &Map<String, Value>) -> Option<PolicyMode> {
        let known = PolicyMode::ALL.map(PolicyMode::as_str).join(", ");
        let field = member(at, "policyMode");
        if !fields.contains_key("policyMode") {
            self.tell(field, format!("is missing; write one of {known}"));
            return None;
        }
        let text = self.text(at, fields, "policyMode")?;
        let mode = PolicyMode::parse(text);
        if mode.is_none() {
            let text = shown(text);
            self.tell(
                field,
                format!("{text:?} is not a mode; write one of {known}"),
            );
        }
        mode
    }

    fn properties(
        &mut self,
        at: &str,
        fields: &Map<String, Value>,
        mode: PolicyMode,
    ) -> PathPolicy {
        let mut policy = PathPolicy {
            mode,
            ..PathPolicy::default()
        };
        let at = member(at, "properties");
        let Some(value) = fields.get("properties") else {
            return policy;
        };
        let Some(fields) = self.object(&at, value, &["writeReplicas", "onDirtyLimit"]) else {
            return policy;
        };
        if let Some(value) = fields.get("writeReplicas") {
            policy.write_replicas = self.replicas(member(&at, "writeReplicas"), value);
        }
        if let Some(text) = self.text(&at, fields, "onDirtyLimit") {
            let field = member(&at, "onDirtyLimit");
            match OverLimit::parse(text) {
                Some(OverLimit::WriteThrough) if mode == PolicyMode::Transient => {
                    self.tell(field, PolicyProblem::TransientToUfs.to_string());
                }
                Some(choice) => policy.over_limit = choice,
                None => {
                    let text = shown(text);
                    let known = "write SLOW_DOWN or WRITE_THROUGH";
                    self.tell(field, format!("{text:?} is not a choice; {known}"));
                }
            }
        }
        policy
    }

    fn replicas(&mut self, field: String, value: &Value) -> u8 {
        let most = self.workers.unwrap_or(WRITE_REPLICAS_MAX);
        let most = most.min(WRITE_REPLICAS_MAX);
        let Some(number) = value.as_u64() else {
            let what = match value {
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            self.tell(
                field,
                format!("must be a whole number of 1 or more, not {what}"),
            );
            return 1;
        };
        match u8::try_from(number) {
            Ok(0) => self.tell(field, "must be 1 or more: a write needs a copy"),
            Ok(copies) if copies <= most => return copies,
            _ if number > WRITE_REPLICAS_MAX.into() => {
                self.tell(field, format!("{number} is more than {WRITE_REPLICAS_MAX}"));
            }
            _ => {
                let workers = if most == 1 { "worker" } else { "workers" };
                self.tell(
                    field,
                    format!(
                        "{number} copies need {number} workers; this service has {most} {workers}"
                    ),
                );
            }
        }
        1
    }

    /// The fields of an object; unknown ones are problems.
    fn object<'v>(
        &mut self,
        at: &str,
        value: &'v Value,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Value::Object(fields) = value else {
            self.tell(
                at.to_owned(),
                format!("must be an object, not {}", kind(value)),
            );
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            self.tell(member(at, name), format!("is unknown; here can be {known}"));
        }
        Some(fields)
    }

    /// A text; not being there is no problem here.
    fn text<'v>(
        &mut self,
        at: &str,
        fields: &'v Map<String, Value>,
        name: &str,
    ) -> Option<&'v str> {
        match fields.get(name)? {
            Value::String(text) => Some(text),
            other => {
                let message = format!("must be a text, not {}", kind(other));
                self.tell(member(at, name), message);
                None
            }
        }
    }

    /// The table has the last word.
    fn compile(&mut self, default_rule: Rule, path_rules: Vec<Rule>) -> Option<Document> {
        if !self.problems.is_empty() {
            return None;
        }
        let rules = path_rules.iter().map(|rule| {
            let path = rule.path.clone().unwrap_or_default();
            (path, rule.policy)
        });
        match PolicyTable::new(default_rule.policy, rules) {
            Ok(table) => Some(Document {
                default_rule,
                path_rules,
                table,
            }),
            Err(error) => {
                let field = match error.rule {
                    Some(place) => format!("{}[{place}]", member(ROOT, "pathRules")),
                    None => member(ROOT, "defaultRule"),
                };
                self.tell(field, error.problem.to_string());
                None
            }
        }
    }
}

/// The JSON path of a field (RFC 9535: names that are not plain in brackets).
fn member(at: &str, name: &str) -> String {
    let plain = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match plain {
        true => format!("{at}.{}", shown(name)),
        false => format!("{at}[{:?}]", shown(name)),
    }
}

fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN_CHARS_MAX);
    end.map_or(text, |(end, _)| &text[..end])
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
