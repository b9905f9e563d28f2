//! The dashboards and alert rules in `deploy/` and the page of alerts, generated from
//! the definitions of metrics. Tests only: nothing of this is part of the program.
//!
//! `QUICKWATER_UPDATE_DOCS=1 cargo test -p quickwater-worker --lib metrics` rewrites them.

mod alerts;
mod detail;
mod expression;
mod golden;
mod grafana;
mod prometheus;

use std::path::{Path, PathBuf};

use serde_json::Value;

use self::expression::judge;
use self::grafana::Dashboard;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_updating() -> bool {
    std::env::var_os("QUICKWATER_UPDATE_DOCS").is_some()
}

/// The file holds this text; while updating it is made to.
fn hold(path: &str, text: &str) {
    let file = root().join(path);
    if is_updating() {
        std::fs::write(&file, text).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "{path} is stale; run the tests with QUICKWATER_UPDATE_DOCS=1"
    );
}

/// The same for JSON, in whatever order it writes the members of an object.
fn hold_json(path: &str, value: &Value) {
    let file = root().join(path);
    if is_updating() {
        let text = serde_json::to_string_pretty(value).unwrap();
        std::fs::write(&file, text + "\n").unwrap();
    }
    let found = std::fs::read(&file).unwrap_or_default();
    let found = serde_json::from_slice::<Value>(&found).unwrap_or_default();
    assert!(
        found == *value,
        "{path} is stale; run the tests with QUICKWATER_UPDATE_DOCS=1"
    );
}

fn dashboards() -> [(&'static str, Dashboard); 2] {
    [
        ("deploy/grafana/quickwater.json", golden::dashboard()),
        (
            "deploy/grafana/quickwater-details.json",
            detail::dashboard(),
        ),
    ]
}

#[test]
fn the_dashboards_are_current() {
    for (path, dashboard) in dashboards() {
        hold_json(path, &dashboard.json());
    }
}

#[test]
fn panels_ask_for_metrics_that_exist() {
    for (path, dashboard) in dashboards() {
        for panel in dashboard.panels() {
            assert!(!panel.queries.is_empty(), "{path}: {}", panel.title);
            for query in &panel.queries {
                let verdict = judge(&query.expression);
                let title = &panel.title;
                assert_eq!(verdict, Ok(()), "{path}: {title}: {}", query.expression);
            }
        }
    }
}

#[test]
fn every_series_of_a_panel_is_of_the_chosen_cluster() {
    for (path, dashboard) in dashboards() {
        for query in dashboard.panels().flat_map(|panel| &panel.queries) {
            let text = &query.expression;
            let asked = expression::metrics(text).len();
            let chosen = text.matches(grafana::CHOSEN).count();
            assert!(asked == chosen && asked > 0, "{path}: {text}");
        }
    }
}

/// Whoever is called has to know which cluster it is about.
#[test]
fn alerts_keep_the_cluster_and_the_job() {
    for alert in alerts::ALERTS {
        let text = alert.expression;
        let grouped: Vec<&str> = text.split("by (").skip(1).collect();
        let joined: Vec<&str> = text.split("on (").skip(1).collect();
        for list in grouped.iter().chain(&joined) {
            assert!(list.starts_with("cluster, job"), "{}: {text}", alert.name);
        }
    }
}

#[test]
fn the_details_show_every_metric() {
    let shown: Vec<String> = detail::dashboard()
        .panels()
        .flat_map(|panel| &panel.queries)
        .flat_map(|query| expression::metrics(&query.expression))
        .collect();
    for definition in super::DEFINITIONS {
        let found = shown.iter().any(|name| name == definition.name);
        assert!(found, "{}", definition.name);
    }
}

#[test]
fn what_counts_bytes_is_shown_in_bytes() {
    for panel in detail::dashboard().panels() {
        let counts_bytes = panel.title.contains("_bytes");
        let in_bytes = ["bytes", "Bps"].contains(&panel.unit);
        assert_eq!(counts_bytes, in_bytes, "{}: {}", panel.title, panel.unit);
    }
}

#[test]
fn titles_are_unique_and_panels_do_not_overlap() {
    for (path, dashboard) in dashboards() {
        let json = dashboard.json();
        let panels = json["panels"].as_array().unwrap();
        let mut places = std::collections::HashSet::new();
        let mut titles = std::collections::HashSet::new();
        for panel in panels {
            let at = &panel["gridPos"];
            let number = |name: &str| at[name].as_u64().unwrap();
            for x in number("x")..number("x") + number("w") {
                for y in number("y")..number("y") + number("h") {
                    assert!(x < 24 && places.insert((x, y)), "{path}: {panel}");
                }
            }
            assert!(
                titles.insert(panel["title"].as_str().unwrap()),
                "{path}: {panel}"
            );
        }
    }
}

#[test]
fn the_alert_rules_are_current() {
    hold(
        "deploy/prometheus/quickwater.rules.yml",
        &prometheus::rules(),
    );
    hold(
        "deploy/prometheus/quickwater.rules.test.yml",
        &prometheus::rules_test(),
    );
    hold(prometheus::RUNBOOKS, &prometheus::page());
}

#[test]
fn every_alert_has_a_heading_that_its_runbook_leads_to() {
    let page = prometheus::page();
    let headings: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    let rules = prometheus::rules();
    let urls = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook_url: "));
    let mut found = 0;
    for url in urls {
        let (path, anchor) = url.split_once('#').unwrap();
        assert_eq!(path, prometheus::RUNBOOKS);
        // As the places that show Markdown make anchors of one word.
        let leads = headings.iter().filter(|h| h.to_lowercase() == anchor);
        assert_eq!(leads.count(), 1, "{url}");
        found += 1;
    }
    assert_eq!(found, alerts::ALERTS.len());
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_say_what_to_do() {
    for alert in alerts::ALERTS {
        assert_eq!(judge(alert.expression), Ok(()), "{}", alert.name);
        for series in [alert.fires, alert.quiet].into_iter().flatten() {
            assert_eq!(judge(series.name), Ok(()), "{}", alert.name);
        }
        assert!(alert.action.len() > 40, "{}", alert.name);
        for text in [alert.summary, alert.meaning, alert.action] {
            assert!(
                text.ends_with('.') && !text.contains('"'),
                "{}: {text}",
                alert.name
            );
        }
    }
    let names: std::collections::HashSet<_> = alerts::ALERTS.iter().map(|a| a.name).collect();
    assert_eq!(names.len(), alerts::ALERTS.len());
}
