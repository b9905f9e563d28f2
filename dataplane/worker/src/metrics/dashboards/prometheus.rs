//! The alerts as a rule file, as its test, and as a page for those who are called.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::alerts::{ALERTS, Alert, Series};

const NOTE: &str = "# Generated from the table of alerts beside the metrics' definitions; see docs/operations/alerts.md.\n";

/// The page of alerts, from the root of the repository.
pub(super) const RUNBOOKS: &str = "docs/operations/alerts.md";

/// `quickwater.rules.yml`.
pub(super) fn rules() -> String {
    let mut out = format!("{NOTE}groups:\n  - name: quickwater\n    rules:\n");
    for alert in ALERTS {
        let anchor = anchor(alert);
        let (name, severity) = (alert.name, alert.severity);
        writeln!(out, "      - alert: {name}").unwrap();
        writeln!(out, "        expr: {}", quoted(alert.expression)).unwrap();
        writeln!(out, "        for: {}", alert.hold).unwrap();
        writeln!(out, "        labels:\n          severity: {severity}").unwrap();
        writeln!(out, "        annotations:").unwrap();
        writeln!(out, "          summary: {}", quoted(alert.summary)).unwrap();
        writeln!(out, "          description: {}", quoted(alert.meaning)).unwrap();
        writeln!(out, "          action: {}", quoted(alert.action)).unwrap();
        writeln!(out, "          runbook_url: {RUNBOOKS}#{anchor}").unwrap();
    }
    out
}

/// What a heading of the page is linked by.
fn anchor(alert: &Alert) -> String {
    alert.name.to_lowercase()
}

/// `quickwater.rules.test.yml`, for `promtool test rules`: every alert fires for its one
/// example and not for the other.
pub(super) fn rules_test() -> String {
    let mut out =
        format!("{NOTE}rule_files:\n  - quickwater.rules.yml\nevaluation_interval: 1m\ntests:\n");
    for alert in ALERTS {
        test(&mut out, alert, alert.fires, true);
        test(&mut out, alert, alert.quiet, false);
    }
    out
}

fn test(out: &mut String, alert: &Alert, series: &[Series], fires: bool) {
    let (name, word) = (alert.name, if fires { "fires" } else { "quiet" });
    writeln!(out, "  - name: {name} {word}").unwrap();
    out.push_str("    interval: 1m\n    input_series:\n");
    for one in series {
        writeln!(out, "      - series: {}", quoted(one.name)).unwrap();
        writeln!(out, "        values: {}", quoted(one.values)).unwrap();
    }
    let selected = format!(r#"ALERTS{{alertname="{name}",alertstate="firing"}}"#);
    let asked = match fires {
        true => format!("count({selected})"),
        // At no time before either.
        false => format!("count(last_over_time({selected}[20m]))"),
    };
    out.push_str("    promql_expr_test:\n");
    writeln!(out, "      - expr: {}", quoted(&asked)).unwrap();
    out.push_str("        eval_time: 20m\n");
    if !fires {
        out.push_str("        exp_samples: []\n");
        return;
    }
    out.push_str("        exp_samples:\n          - labels: '{}'\n");
    writeln!(out, "            value: {}", raised(alert, series)).unwrap();
}

/// How many nodes, or clusters, an example has: each is to raise the alert once.
fn raised(alert: &Alert, series: &[Series]) -> usize {
    let of_nodes = alert.summary.contains("$labels.instance");
    let label = if of_nodes {
        "instance=\""
    } else {
        "cluster=\""
    };
    // Without a label of its cluster a series is of the one that has none.
    let value = |one: &Series| {
        let rest = one.name.split_once(label).map_or("", |(_, rest)| rest);
        rest.split('"').next().unwrap_or_default()
    };
    let names: HashSet<_> = series.iter().map(value).collect();
    names.len()
}

/// A scalar of YAML; nothing in it is special between single quotes but those.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `alerts.md`.
pub(super) fn page() -> String {
    let mut out = String::from(PAGE_HEAD);
    for alert in ALERTS {
        let hold = match alert.hold {
            "0m" => "at once".to_owned(),
            hold => format!("after {hold}"),
        };
        let (name, severity, expression) = (alert.name, alert.severity, alert.expression);
        let (meaning, action) = (alert.meaning, alert.action);
        write!(
            out,
            "\n## {name}\n\n{severity}, {hold}, when\n\n```promql\n{expression}\n```\n\n{meaning}\n\n**Do**: {action}\n"
        )
        .unwrap();
    }
    out
}

const PAGE_HEAD: &str = "# Alerts

What [the rules](../../deploy/prometheus/quickwater.rules.yml) say, what it means and
what to do. Generated with them; how to load them: [dashboards.md](dashboards.md).
`critical`: data or service are in danger now; `warning`: they will be.

`promtool test rules deploy/prometheus/quickwater.rules.test.yml` shows for every alert
a case in which it fires and one in which it does not.
";
