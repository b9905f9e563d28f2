//! What an expression of PromQL asks for: are there such metrics, with such labels, of a
//! kind that this can be done with? A reader of names, no parser of PromQL: that its
//! syntax holds is seen by a Prometheus.

use super::super::{DEFINITIONS, Definition, Kind};

/// Labels that Prometheus itself adds, `cluster` by its configuration.
const ADDED: [&str; 5] = ["cluster", "instance", "job", "le", "alertname"];

/// Names of the metrics in an expression, as they are defined.
pub(super) fn metrics(expression: &str) -> Vec<String> {
    words(expression)
        .filter_map(|(_, word)| definition(word).map(|(found, _)| found.name.to_owned()))
        .collect()
}

/// Whether its metrics exist and have the labels it names.
pub(super) fn judge(expression: &str) -> Result<(), String> {
    let mut labels: Vec<&str> = ADDED.to_vec();
    let mut asked = Vec::new();
    for (at, word) in words(expression) {
        if word == "up" {
            continue;
        }
        if !(word.starts_with("quickwater_") || word.starts_with("process_")) {
            continue;
        }
        let (found, suffix) = definition(word).ok_or_else(|| format!("no metric {word}"))?;
        let rest = &expression[at + word.len()..];
        kind_fits(found, suffix, &expression[..at], rest)?;
        labels.extend(found.labels);
        let selector = rest.strip_prefix('{').and_then(|r| r.split('}').next());
        for label in matched(selector.unwrap_or_default()) {
            if !found.labels.contains(&label) && !ADDED.contains(&label) {
                return Err(format!("{word} has no label {label}"));
            }
        }
        asked.push(word);
    }
    if asked.is_empty() && !expression.contains("up{") {
        return Err("it asks for no metric".into());
    }
    for label in grouped(expression) {
        if !labels.contains(&label) {
            return Err(format!("nothing here has the label {label}"));
        }
    }
    Ok(())
}

/// The definition and the suffix of a histogram's series.
fn definition(word: &str) -> Option<(&'static Definition, &str)> {
    let named = |name: &str| DEFINITIONS.iter().find(|d| d.name == name);
    if let Some(found) = named(word) {
        return Some((found, ""));
    }
    ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|suffix| {
            let found = named(word.strip_suffix(suffix)?)?;
            (found.kind == Kind::Histogram).then_some((found, suffix))
        })
}

/// Counters and histograms only grow: they are asked for their growth, and gauges are not.
fn kind_fits(found: &Definition, suffix: &str, before: &str, rest: &str) -> Result<(), String> {
    let name = found.name;
    if found.kind == Kind::Histogram && suffix.is_empty() {
        return Err(format!(
            "{name} is a histogram: it has _bucket, _sum and _count"
        ));
    }
    let grows = ["rate(", "increase("].iter().any(|f| before.ends_with(f));
    let example = before.is_empty() && (rest.is_empty() || rest.ends_with('}'));
    match (found.kind, grows) {
        (Kind::Gauge, true) => Err(format!("{name} is a gauge: it has no rate")),
        (Kind::Counter | Kind::Histogram, false) if !example => {
            Err(format!("{name} only grows: ask for its rate"))
        }
        _ => Ok(()),
    }
}

/// Words of letters, digits and `_` outside of strings, with where they begin.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut quoted) = (None, false);
    for (at, byte) in text.bytes().enumerate().chain([(text.len(), b' ')]) {
        if byte == b'"' {
            quoted = !quoted;
        }
        let inside = !quoted && (byte.is_ascii_alphanumeric() || byte == b'_');
        match (inside, begin) {
            (true, None) => begin = Some(at),
            (false, Some(from)) => {
                found.push((from, &text[from..at]));
                begin = None;
            }
            _ => {}
        }
    }
    found.into_iter()
}

/// Labels of a selector: words before `=`, `!=`, `=~`, `!~`.
fn matched(selector: &str) -> Vec<&str> {
    let is_matched =
        |(at, word): &(usize, &str)| selector[at + word.len()..].starts_with(['=', '!']);
    words(selector)
        .filter(is_matched)
        .map(|(_, word)| word)
        .collect()
}

/// Labels that something is grouped by or joined on.
fn grouped(expression: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for opening in ["by (", "on (", "without ("] {
        for part in expression.split(opening).skip(1) {
            let list = part.split(')').next().unwrap_or_default();
            found.extend(list.split(',').map(str::trim));
        }
    }
    found
}

#[test]
fn expressions_are_judged() {
    for good in [
        "quickwater_ready",
        r#"rate(quickwater_s3_requests_total{code="503",instance=~".*"}[1m])"#,
        "sum by (le, operation) (rate(quickwater_s3_request_seconds_bucket[1m]))",
        r#"up{job="quickwater"} == 0"#,
    ] {
        assert_eq!(judge(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("quickwater_dirty", "no metric quickwater_dirty"),
        ("rate(quickwater_ready[1m])", "gauge"),
        ("quickwater_s3_requests_total > 1", "only grows"),
        ("rate(quickwater_s3_request_seconds[1m])", "is a histogram"),
        ("rate(quickwater_ready_bucket[1m])", "no metric"),
        (r#"quickwater_ready{code="1"}"#, "no label code"),
        ("sum by (bucket) (quickwater_ready)", "the label bucket"),
        ("1 + 1", "no metric"),
    ] {
        let verdict = judge(bad).unwrap_err();
        assert!(verdict.contains(why), "{bad}: {verdict}");
    }
}
