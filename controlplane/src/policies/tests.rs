//! Every way a document can be wrong, with the place that is named; warnings;
//! the written form.

use quickwater_proto::{POLICY_RULES_MAX, PolicyMode};

use super::*;

const SAMPLE: &str = r#"{
  "apiVersion": "v1.0",
  "defaultRule": {
    "description": "Global default",
    "policyMode": "WRITE_THROUGH",
    "properties": { "writeReplicas": 1 }
  },
  "pathRules": [
    {
      "alluxioPath": "/checkpoints/**",
      "description": "Low-latency checkpoint writes",
      "policyMode": "WRITE_BACK",
      "properties": { "writeReplicas": 2 }
    },
    {
      "alluxioPath": "/shuffle/**",
      "description": "Temporary shuffle data",
      "policyMode": "TRANSIENT",
      "properties": { "writeReplicas": 2 }
    }
  ]
}"#;

/// The problems of a document, as `field: message`.
fn problems(text: &str) -> Vec<String> {
    match Document::parse(text, Some(1)) {
        Ok(_) => Vec::new(),
        Err(InvalidDocument(problems)) => problems.iter().map(Problem::to_string).collect(),
    }
}

/// A document with these path rules.
fn with_rules(rules: &str) -> String {
    format!(r#"{{"apiVersion":"v1.0","pathRules":[{rules}]}}"#)
}

/// A document with this rule.
fn rule(fields: &str) -> String {
    with_rules(&format!("{{{fields}}}"))
}

#[test]
fn the_sample_of_movers_is_taken() {
    let document = Document::parse(SAMPLE, Some(2)).unwrap();
    assert_eq!(document.warnings(), []);
    let (rule, place) = document.decide("checkpoints", "epoch-1/model.pt");
    assert_eq!((rule.policy.mode, place), (PolicyMode::WriteBack, Some(0)));
    assert_eq!(rule.policy.write_replicas, 2);
    assert_eq!(
        rule.description.as_deref(),
        Some("Low-latency checkpoint writes")
    );
    let (rule, place) = document.decide("elsewhere", "k");
    assert_eq!((rule.policy.mode, place), (PolicyMode::WriteThrough, None));
}

#[test]
fn copies_need_workers() {
    assert_eq!(
        problems(SAMPLE),
        [
            "$.pathRules[0].properties.writeReplicas: 2 copies need 2 workers; this service has 1 worker",
            "$.pathRules[1].properties.writeReplicas: 2 copies need 2 workers; this service has 1 worker",
        ]
    );
    // What was checked when it was set is read whatever became of the workers.
    assert!(Document::parse(SAMPLE, None).is_ok());
}

#[test]
fn every_problem_names_its_field() {
    let path = r#""path":"/b/**","policyMode":"READ_ONLY""#;
    let replicas = |value: &str| {
        rule(&format!(
            r#"{path},"properties":{{"writeReplicas":{value}}}"#
        ))
    };
    let pattern = |text: &str| rule(&format!(r#""path":"{text}","policyMode":"READ_ONLY""#));
    let cases: Vec<(String, &str)> = vec![
        (
            "".into(),
            "$: is not valid JSON: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{".into(),
            "$: is not valid JSON: EOF while parsing an object at line 1 column 1",
        ),
        ("[]".into(), "$: must be an object, not a list"),
        (
            r#"{"apiVersion":"v1.0","apiVersion":"v1.0"}"#.into(),
            "$: is not valid JSON: the field \"apiVersion\" stands twice at line 1 column 33",
        ),
        ("{}".into(), "$.apiVersion: is missing; write \"v1.0\""),
        (
            r#"{"apiVersion":1}"#.into(),
            "$.apiVersion: must be a text, not a number",
        ),
        (
            r#"{"apiVersion":"v2"}"#.into(),
            "$.apiVersion: is \"v2\"; this service knows \"v1.0\"",
        ),
        (
            r#"{"apiVersion":"v1.0","rules":[]}"#.into(),
            "$.rules: is unknown; here can be apiVersion, defaultRule, pathRules",
        ),
        (
            r#"{"apiVersion":"v1.0","path rules":[]}"#.into(),
            "$[\"path rules\"]: is unknown; here can be apiVersion, defaultRule, pathRules",
        ),
        (
            r#"{"apiVersion":"v1.0","pathRules":{}}"#.into(),
            "$.pathRules: must be a list, not an object",
        ),
        (
            r#"{"apiVersion":"v1.0","defaultRule":null}"#.into(),
            "$.defaultRule: must be an object, not null",
        ),
        (
            r#"{"apiVersion":"v1.0","defaultRule":{"path":"/","policyMode":"READ_ONLY"}}"#.into(),
            "$.defaultRule.path: is unknown; here can be description, policyMode, properties",
        ),
        (
            r#"{"apiVersion":"v1.0","defaultRule":{}}"#.into(),
            "$.defaultRule.policyMode: is missing; write one of WRITE_THROUGH, WRITE_BACK, TRANSIENT, READ_ONLY, NO_CACHE",
        ),
        (
            with_rules("7"),
            "$.pathRules[0]: must be an object, not a number",
        ),
        (
            rule(r#""policyMode":"READ_ONLY""#),
            "$.pathRules[0].path: is missing; write for example \"/bucket/prefix/**\"",
        ),
        (
            rule(r#""path":7,"policyMode":"READ_ONLY""#),
            "$.pathRules[0].path: must be a text, not a number",
        ),
        (
            rule(r#""path":"/a","alluxioPath":"/b","policyMode":"READ_ONLY""#),
            "$.pathRules[0].alluxioPath: stands beside path and means the same; keep one",
        ),
        (
            pattern("b/**"),
            "$.pathRules[0].path: \"b/**\" must begin with '/', as in /bucket/prefix/**",
        ),
        (
            rule(r#""alluxioPath":"/b/a**","policyMode":"READ_ONLY""#),
            "$.pathRules[0].alluxioPath: \"/b/a**\" '**' must stand alone between slashes, as in /bucket/**/name; use '*' within a name",
        ),
        (
            pattern("/b/[a"),
            "$.pathRules[0].path: \"/b/[a\" has a '[' that no ']' closes; write [[] for the character itself",
        ),
        (
            pattern("/b/[z-a]"),
            "$.pathRules[0].path: \"/b/[z-a]\" has the range 'z-a', whose end is before its begin",
        ),
        (
            pattern("/b/\\u0000"),
            "$.pathRules[0].path: \"/b/\\0\" holds a control character",
        ),
        (
            with_rules(&format!(
                r#"{{{path}}},{{"path":"/c","policyMode":"READ_ONLY"}},{{{path}}}"#
            )),
            "$.pathRules[2].path: \"/b/**\" is the path of pathRules[0] too; keep one",
        ),
        (
            rule(r#""path":"/b","policyMode":"write_back""#),
            "$.pathRules[0].policyMode: \"write_back\" is not a mode; write one of WRITE_THROUGH, WRITE_BACK, TRANSIENT, READ_ONLY, NO_CACHE",
        ),
        (
            rule(&format!(r#"{path},"description":[]"#)),
            "$.pathRules[0].description: must be a text, not a list",
        ),
        (
            rule(&format!(r#"{path},"propertys":{{}}"#)),
            "$.pathRules[0].propertys: is unknown; here can be path, alluxioPath, description, policyMode, properties",
        ),
        (
            rule(&format!(r#"{path},"properties":"x""#)),
            "$.pathRules[0].properties: must be an object, not a text",
        ),
        (
            rule(&format!(r#"{path},"properties":{{"replicas":1}}"#)),
            "$.pathRules[0].properties.replicas: is unknown; here can be writeReplicas, onDirtyLimit",
        ),
        (
            replicas("0"),
            "$.pathRules[0].properties.writeReplicas: must be 1 or more: a write needs a copy",
        ),
        (
            replicas("-1"),
            "$.pathRules[0].properties.writeReplicas: must be a whole number of 1 or more, not -1",
        ),
        (
            replicas("1.5"),
            "$.pathRules[0].properties.writeReplicas: must be a whole number of 1 or more, not 1.5",
        ),
        (
            replicas("\"1\""),
            "$.pathRules[0].properties.writeReplicas: must be a whole number of 1 or more, not a text",
        ),
        (
            replicas("3"),
            "$.pathRules[0].properties.writeReplicas: 3 copies need 3 workers; this service has 1 worker",
        ),
        (
            replicas("300"),
            "$.pathRules[0].properties.writeReplicas: 300 is more than 16",
        ),
        (
            rule(&format!(r#"{path},"properties":{{"onDirtyLimit":"WAIT"}}"#)),
            "$.pathRules[0].properties.onDirtyLimit: \"WAIT\" is not a choice; write SLOW_DOWN or WRITE_THROUGH",
        ),
        (
            rule(
                r#""path":"/b","policyMode":"TRANSIENT","properties":{"onDirtyLimit":"WRITE_THROUGH"}"#,
            ),
            "$.pathRules[0].properties.onDirtyLimit: what is TRANSIENT cannot become WRITE_THROUGH",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(&text), [expected], "{text}");
    }
}

#[test]
fn limits_hold() {
    let long = "x".repeat(DESCRIPTION_BYTES_MAX + 1);
    assert_eq!(
        problems(&rule(&format!(
            r#""path":"/b","policyMode":"READ_ONLY","description":"{long}""#
        ))),
        ["$.pathRules[0].description: is longer than 1024 bytes"]
    );
    let rules = |count: usize| {
        let rules = (0..count).map(|n| format!(r#"{{"path":"/b/{n}","policyMode":"READ_ONLY"}}"#));
        with_rules(&rules.collect::<Vec<_>>().join(","))
    };
    assert_eq!(problems(&rules(POLICY_RULES_MAX)), Vec::<String>::new());
    assert_eq!(
        problems(&rules(POLICY_RULES_MAX + 1)),
        ["$.pathRules: has 1001 rules; at most 1000 are allowed"]
    );
    let large = format!("{}{}", " ".repeat(DOCUMENT_BYTES_MAX), rules(1));
    assert_eq!(problems(&large), ["$: is larger than 524288 bytes"]);
    let wide: Vec<String> = (0..900)
        .map(|n| {
            let long = "d".repeat(450);
            format!(r#"{{"path":"/b/{n}","policyMode":"READ_ONLY","description":"{long}"}}"#)
        })
        .collect();
    assert_eq!(
        problems(&with_rules(&wide.join(","))),
        ["$: is larger than 524288 bytes with all defaults written"]
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(problems(&deep)[0].contains("recursion limit exceeded"));
    let wrong = with_rules(&vec!["7"; 1_000].join(","));
    assert_eq!(problems(&wrong).len(), PROBLEMS_MAX);
    let name = format!(r#"{{"apiVersion":"v1.0","{}":1}}"#, "n".repeat(10_000));
    assert!(problems(&name)[0].len() < 200);
}

#[test]
fn all_problems_are_told_at_once() {
    let text = r#"{"apiVersion":"v9","pathRules":[{"path":"b","policyMode":"NONE"},{"x":1}]}"#;
    let fields: Vec<String> = Document::parse(text, Some(1))
        .unwrap_err()
        .0
        .into_iter()
        .map(|problem| problem.field)
        .collect();
    assert_eq!(
        fields,
        [
            "$.apiVersion",
            "$.pathRules[0].path",
            "$.pathRules[0].policyMode",
            "$.pathRules[1].x",
            "$.pathRules[1].path",
            "$.pathRules[1].policyMode",
        ]
    );
}

#[test]
fn warnings_name_what_is_hardly_meant() {
    let warned = |path: &str, mode: &str, properties: &str| {
        let text = rule(&format!(
            r#""path":"{path}","policyMode":"{mode}","properties":{{{properties}}}"#
        ));
        let document = Document::parse(&text, Some(3)).unwrap();
        let warnings = document.warnings();
        warnings.into_iter().map(|w| w.field).collect::<Vec<_>>()
    };
    let replicas = "$.pathRules[0].properties.writeReplicas";
    let limit = "$.pathRules[0].properties.onDirtyLimit";
    let path = "$.pathRules[0].path";
    assert_eq!(warned("/bkt/**", "TRANSIENT", ""), [replicas]);
    assert_eq!(
        warned("/bkt/**", "TRANSIENT", r#""writeReplicas":2"#),
        [""; 0]
    );
    assert_eq!(warned("/bkt/**", "WRITE_BACK", ""), [""; 0]);
    assert_eq!(
        warned("/bkt/**", "NO_CACHE", r#""writeReplicas":2"#),
        [replicas]
    );
    let through = r#""onDirtyLimit":"WRITE_THROUGH""#;
    assert_eq!(warned("/bkt/**", "WRITE_BACK", through), [""; 0]);
    assert_eq!(warned("/bkt/**", "READ_ONLY", through), [limit]);
    assert_eq!(warned("/bkt-*", "READ_ONLY", ""), [path]);
    assert_eq!(warned("/bkt/a*/", "READ_ONLY", ""), [path]);
    assert_eq!(warned("/Bkt/**", "READ_ONLY", ""), [path]);
    assert_eq!(warned("/bkt/{a,b}/**", "READ_ONLY", ""), [path]);
    for fine in ["/", "/**", "/bkt", "/bkt/a/", "/*/tmp/**", "/[ab]kt/**"] {
        assert_eq!(warned(fine, "READ_ONLY", ""), [""; 0], "{fine}");
    }
}

#[test]
fn the_written_form_reads_as_the_same() {
    for text in [SAMPLE, r#"{"apiVersion":"v1.0"}"#] {
        let document = Document::parse(text, Some(2)).unwrap();
        let written = document.to_text().unwrap();
        let again = Document::parse(&written, Some(2)).unwrap();
        assert_eq!(again.path_rules, document.path_rules);
        assert_eq!(again.default_rule, document.default_rule);
        assert_eq!(again.to_text().unwrap(), written);
        assert!(!written.contains("alluxioPath"));
    }
    let built_in = Document::default().to_text().unwrap();
    assert!(Document::parse(&built_in, Some(1)).is_ok(), "{built_in}");
}
