//! Precedence, the forms of a path, and matching against a naive matcher.

use proptest::prelude::*;

use super::*;

fn rule(path: &str, mode: PolicyMode) -> (String, PathPolicy) {
    let policy = PathPolicy {
        mode,
        ..PathPolicy::default()
    };
    (path.to_owned(), policy)
}

fn table(paths: &[&str]) -> PolicyTable {
    let rules = paths.iter().map(|path| rule(path, PolicyMode::WriteBack));
    PolicyTable::new(PathPolicy::default(), rules).unwrap()
}

/// The path of the rule that decides for `/bucket/key`.
fn decides<'a>(table: &'a PolicyTable, path: &str) -> Option<&'a str> {
    let (bucket, key) = path[1..].split_once('/').unwrap();
    table
        .policy(bucket, key)
        .rule
        .and_then(|n| table.path_of(n))
}

#[test]
fn the_default_table_writes_through() {
    let policy = PolicyTable::default().policy("bucket", "key");
    assert_eq!(policy.mode, PolicyMode::WriteThrough);
    assert_eq!((policy.write_replicas, policy.rule), (1, None));
    assert_eq!(policy.over_limit, OverLimit::SlowDown);
}

#[test]
fn longest_match_wins() {
    // Rules, path, the rule that decides.
    let cases: &[(&[&str], &str, Option<&str>)] = &[
        // 1. Longest text before the first wildcard, whatever follows it.
        (&["/b/**", "/b/c/**"], "/b/c/d", Some("/b/c/**")),
        (&["/b/c/**", "/b/**"], "/b/c/d", Some("/b/c/**")),
        (&["/b/c/*", "/b/*/d/e/f/g"], "/b/c/d", Some("/b/c/*")),
        (
            &["/b/c*", "/b/**/very/long/tail"],
            "/b/c/very/long/tail",
            Some("/b/**/very/long/tail"),
        ),
        (&["/b", "/b/**"], "/b/k", Some("/b/**")),
        (&["/b/k", "/b/k/**"], "/b/k", Some("/b/k")),
        (&["/", "/b"], "/c/k", Some("/")),
        // 2. Then more characters that stand for themselves.
        (&["/b/*", "/b/*.pt"], "/b/m.pt", Some("/b/*.pt")),
        (&["/b/*.pt", "/b/*"], "/b/m.txt", Some("/b/*")),
        (
            &["/b/**", "/b/**/tmp/**"],
            "/b/x/tmp/y",
            Some("/b/**/tmp/**"),
        ),
        (&["/b/[mn].pt", "/b/?.pt"], "/b/m.pt", Some("/b/[mn].pt")),
        // 3. Then the earlier one.
        (&["/b/?.pt", "/b/[mn].pt"], "/b/m.pt", Some("/b/?.pt")),
        (&["/b/*", "/b/**"], "/b/k", Some("/b/*")),
        (&["/b/**", "/b/*"], "/b/k", Some("/b/**")),
        // Nothing covers it.
        (&["/b/**", "/c"], "/d/k", None),
        (&["/bucket"], "/bucket-2/k", None),
    ];
    for (rules, path, expected) in cases {
        assert_eq!(decides(&table(rules), path), *expected, "{rules:?} {path}");
    }
}

#[test]
fn forms_of_a_path() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("/b", &["/b/k", "/b/", "/b/a/b"], &["/bb/k", "/a/b"]),
        (
            "/b/a",
            &["/b/a", "/b/a/", "/b/a/x"],
            &["/b/ab", "/b/", "/b/x"],
        ),
        ("/b/a/", &["/b/a/", "/b/a/x", "/b/a//x"], &["/b/a", "/b/ab"]),
        (
            "/b/a/**",
            &["/b/a/", "/b/a/x/y", "/b/a//"],
            &["/b/a", "/b/ab/x"],
        ),
        ("/b/*", &["/b/", "/b/x", "/b/x.y"], &["/b/x/y", "/b/x/"]),
        (
            "/b/**/z",
            &["/b/z", "/b/x/z", "/b//z", "/b/x/y/z"],
            &["/b/zz", "/b/z/"],
        ),
        (
            "/b/**/x/**",
            &["/b/x/", "/b/a/x/b", "/b/x/x"],
            &["/b/x", "/b/a/x"],
        ),
        ("/*/x", &["/b/x", "/c/x"], &["/b/x/y", "/b/y"]),
        ("/**/x?", &["/b/xy", "/b/c/xé"], &["/b/x", "/b/x/"]),
        (
            "/b/s*-*-e",
            &["/b/s--e", "/b/sa-b-c-e"],
            &["/b/s-e", "/b/s-/-e"],
        ),
        (
            "/b/[!0-9]*",
            &["/b/a1", "/b/-"],
            &["/b/1a", "/b/", "/b/a/b"],
        ),
        ("/b/[]a-]", &["/b/]", "/b/a", "/b/-"], &["/b/b", "/b/"]),
        ("/b/[*][?]", &["/b/*?"], &["/b/ab"]),
        ("/b/{a,b}", &["/b/{a,b}"], &["/b/a"]),
    ];
    for (rule, covered, others) in cases {
        let table = table(&[rule]);
        for path in *covered {
            assert!(decides(&table, path).is_some(), "{rule} covers {path}");
        }
        for path in *others {
            assert!(decides(&table, path).is_none(), "{rule} covers not {path}");
        }
    }
}

#[test]
fn a_bucket_itself_is_below_its_rules() {
    let table = table(&["/a/**", "/c/x/**"]);
    assert_eq!(table.policy("a", "").rule, Some(0));
    assert_eq!(table.policy("c", "").rule, None);
}

#[test]
fn bad_paths_say_why() {
    let long = format!("/{}", "x".repeat(POLICY_PATH_BYTES_MAX));
    let cases = [
        ("", GlobError::NotAbsolute),
        ("b/**", GlobError::NotAbsolute),
        (&long, GlobError::TooLong),
        ("/b/a\nb", GlobError::Control),
        ("/b/a**", GlobError::Recursive),
        ("/b/***", GlobError::Recursive),
        ("/b/[abc", GlobError::Unclosed),
        ("/b/[]", GlobError::Unclosed),
        ("/b/[!]", GlobError::Unclosed),
        ("/b/[z-a]", GlobError::Backwards('z', 'a')),
        ("/b/[a/b]", GlobError::SlashInClass),
    ];
    for (path, error) in cases {
        assert_eq!(Glob::new(path), Err(error), "{path}");
    }
}

#[test]
fn bad_rules_are_named() {
    let refused = |rules: Vec<(String, PathPolicy)>| {
        let error = PolicyTable::new(PathPolicy::default(), rules).unwrap_err();
        (error.rule, error.problem)
    };
    let good = || rule("/b", PolicyMode::WriteBack);
    assert_eq!(
        refused(vec![good(), rule("/c", PolicyMode::ReadOnly), good()]),
        (Some(2), PolicyProblem::Duplicate(0))
    );
    for write_replicas in [0, WRITE_REPLICAS_MAX + 1] {
        let mut bad = rule("/c", PolicyMode::WriteBack);
        bad.1.write_replicas = write_replicas;
        assert_eq!(
            refused(vec![good(), bad]),
            (Some(1), PolicyProblem::Replicas)
        );
    }
    let mut bad = rule("/c", PolicyMode::Transient);
    bad.1.over_limit = OverLimit::WriteThrough;
    assert_eq!(refused(vec![bad]), (Some(0), PolicyProblem::TransientToUfs));
    let many = (0..=POLICY_RULES_MAX).map(|n| rule(&format!("/b/{n}"), PolicyMode::WriteBack));
    assert_eq!(
        refused(many.collect()),
        (Some(POLICY_RULES_MAX), PolicyProblem::TooMany)
    );
    let fallback = PathPolicy {
        write_replicas: 0,
        ..PathPolicy::default()
    };
    assert_eq!(PolicyTable::new(fallback, []).unwrap_err().rule, None);
}

#[test]
fn names_round_trip() {
    for mode in PolicyMode::ALL {
        assert_eq!(PolicyMode::parse(mode.as_str()), Some(mode));
    }
    for choice in [OverLimit::SlowDown, OverLimit::WriteThrough] {
        assert_eq!(OverLimit::parse(choice.as_str()), Some(choice));
    }
    assert_eq!(PolicyMode::parse("write_back"), None);
}

#[test]
fn paths_beyond_the_limits_are_decided_too() {
    let key = "k".repeat(3 * POLICY_PATH_BYTES_MAX);
    assert_eq!(table(&["/b/k*"]).policy("b", &key).rule, Some(0));
}

/// As the documentation reads, by trying everything.
fn naive(rule: &str, path: &str) -> bool {
    if !rule.contains(['*', '?', '[']) {
        let below = path.strip_prefix(rule);
        return below.is_some_and(|b| b.is_empty() || rule.ends_with('/') || b.starts_with('/'));
    }
    let pattern: Vec<&str> = rule[1..].split('/').collect();
    let text: Vec<&str> = path[1..].split('/').collect();
    naive_segments(&pattern, &text)
}

fn naive_segments(pattern: &[&str], text: &[&str]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ["**"] => !text.is_empty(),
        ["**", rest @ ..] => (0..=text.len()).any(|n| naive_segments(rest, &text[n..])),
        [one, rest @ ..] => match text {
            [] => false,
            [segment, others @ ..] => {
                let (one, segment): (Vec<char>, Vec<char>) =
                    (one.chars().collect(), segment.chars().collect());
                naive_segment(&one, &segment) && naive_segments(rest, others)
            }
        },
    }
}

fn naive_segment(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|n| naive_segment(rest, &text[n..])),
        ['?', rest @ ..] => !text.is_empty() && naive_segment(rest, &text[1..]),
        // The only classes the strategy makes.
        ['[', 'a', ']', rest @ ..] => text.first() == Some(&'a') && naive_segment(rest, &text[1..]),
        ['[', '!', 'a', ']', rest @ ..] => {
            text.first().is_some_and(|c| *c != 'a') && naive_segment(rest, &text[1..])
        }
        [c, rest @ ..] => text.first() == Some(c) && naive_segment(rest, &text[1..]),
    }
}

fn rule_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("a"), 3 => Just("b"), 2 => Just("*"), 1 => Just("?"),
        1 => Just("[a]"), 1 => Just("[!a]"), 1 => Just("é"),
    ];
    let segment = prop_oneof![
        3 => prop::collection::vec(piece, 0..4)
            .prop_map(|p| p.concat())
            .prop_filter("its own segment", |s| !s.contains("**")),
        1 => Just("**".to_owned()),
    ];
    prop::collection::vec(segment, 1..5).prop_map(|s| format!("/{}", s.join("/")))
}

fn object_path() -> impl Strategy<Value = String> {
    let segment = prop::collection::vec(prop_oneof!["a", "b", "é"], 0..4).prop_map(|s| s.concat());
    (
        prop_oneof!["a", "b", "ab"],
        prop::collection::vec(segment, 1..5),
    )
        .prop_map(|(bucket, key)| format!("/{bucket}/{}", key.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn matches_as_the_naive_matcher(rule in rule_path(), path in object_path()) {
        prop_assert_eq!(decides(&table(&[&rule]), &path).is_some(), naive(&rule, &path));
    }

    #[test]
    fn decides_as_a_walk_over_all_rules(
        rules in prop::collection::btree_set(rule_path(), 1..12),
        path in object_path(),
    ) {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let rank = |(place, rule): &(usize, &&str)| {
            let glob = Glob::new(rule).unwrap();
            (glob.prefix_bytes(), glob.literals(), std::cmp::Reverse(*place))
        };
        let covering = rules.iter().enumerate().filter(|(_, rule)| naive(rule, &path));
        let expected = covering.max_by_key(rank).map(|(_, rule)| *rule);
        let table = table(&rules);
        prop_assert_eq!(decides(&table, &path), expected);
    }
}

/// The worst a client's key can make of an admin's rule: bounded work.
#[test]
fn hostile_keys_cost_little() {
    let rule = format!("/b/**/{}b", "a*".repeat(500));
    let table = table(&[&rule]);
    let key = "a".repeat(1024);
    let begun = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(table.policy("b", &key).rule, None);
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
}
