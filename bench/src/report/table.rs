//! The report as text for a terminal. Absent: colours, files.

use crate::model::{Report, Scenario};

use super::measures::{COLUMNS, COMPARED, Measure, contestants, label, number, ratios, spread};

/// The whole report.
pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    for scenario in &report.scenarios {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &plain(&format!("{}: {}", scenario.name, scenario.description));
        text.push('\n');
        text += &aligned(&rows(report, scenario), 1);
        text += &phases(report, scenario);
        text += &comparison(report, scenario);
        text += &failures(report, scenario);
    }
    if report.interrupted {
        text += "\nInterrupted: these are the figures until then.\n";
    }
    text
}

/// Rows of cells: a heading, then medians of the rounds of every endpoint.
pub(super) fn rows(report: &Report, scenario: &Scenario) -> Vec<Vec<String>> {
    let shown: Vec<Measure> = COLUMNS
        .into_iter()
        .filter(|m| scenario.rounds.iter().any(|r| m.of(r).is_some()))
        .collect();
    let mut heading: Vec<String> = ["endpoint", "rounds", "failed"].map(Into::into).into();
    // A column of its own where it happened: servers that drop requests are rare.
    let dropped = scenario.rounds.iter().any(|r| r.resent > 0);
    if dropped {
        heading.push("resent".into());
    }
    heading.extend(shown.iter().map(|m| m.heading().to_owned()));
    let mut rows = vec![heading];
    for endpoint in contestants(report, scenario) {
        let failed: u64 = scenario.rounds_of(endpoint).map(|r| r.failures()).sum();
        let mut cells = vec![
            label(report, endpoint).to_owned(),
            scenario.rounds_of(endpoint).count().to_string(),
            failed.to_string(),
        ];
        if dropped {
            let resent: u64 = scenario.rounds_of(endpoint).map(|r| r.resent).sum();
            cells.push(resent.to_string());
        }
        cells.extend(shown.iter().map(|measure| {
            let middle = scenario.median_of(endpoint, |r| measure.of(r));
            middle.map_or_else(|| "-".into(), |v| measure.shown(v))
        }));
        rows.push(cells);
    }
    rows
}

/// Rows of cells: ratios of the first endpoint to every other one.
pub(super) fn ratio_rows(report: &Report, scenario: &Scenario) -> Vec<Vec<String>> {
    let found = contestants(report, scenario);
    let Some((first, others)) = found.split_first() else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for other in others {
        for measure in COMPARED {
            let pairs = ratios(scenario, measure, *first, *other);
            let values: Vec<f64> = pairs.iter().map(|(_, v)| *v).collect();
            let Some((middle, low, high)) = spread(&values) else {
                continue;
            };
            rows.push(vec![
                format!("{} / {}", label(report, *first), label(report, *other)),
                measure
                    .heading()
                    .split(" ms")
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                format!("{}x", number(middle)),
                format!("{} .. {}", number(low), number(high)),
            ]);
        }
    }
    if !rows.is_empty() {
        rows.insert(
            0,
            ["ratio", "of", "median", "rounds"].map(Into::into).into(),
        );
    }
    rows
}

fn comparison(report: &Report, scenario: &Scenario) -> String {
    aligned(&ratio_rows(report, scenario), 2)
}

/// Rows of cells: the phases of an endpoint's rounds, medians.
pub(super) fn phase_rows(report: &Report, scenario: &Scenario) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for endpoint in contestants(report, scenario) {
        let Some(round) = scenario.rounds_of(endpoint).find(|r| !r.phases.is_empty()) else {
            continue;
        };
        for phase in &round.phases {
            let seconds = scenario.median_of(endpoint, |r| r.phase_seconds(&phase.name));
            rows.push(vec![
                label(report, endpoint).to_owned(),
                phase.name.clone(),
                seconds.map_or_else(|| "-".into(), number),
                number(phase.bytes as f64 / 1e6),
                phase.requests.to_string(),
            ]);
        }
    }
    if !rows.is_empty() {
        let heading = ["endpoint", "phase", "seconds", "MB", "requests"];
        rows.insert(0, heading.map(Into::into).into());
    }
    rows
}

fn phases(report: &Report, scenario: &Scenario) -> String {
    aligned(&phase_rows(report, scenario), 2)
}

/// What went wrong, with examples.
pub(super) fn failure_lines(report: &Report, scenario: &Scenario) -> Vec<String> {
    let wrong = scenario.rounds.iter().filter(|r| r.flawed());
    wrong
        .map(|round| {
            let who = label(report, round.endpoint);
            let mut parts = Vec::new();
            if round.failures() > 0 {
                let kinds = round.errors.iter().map(|(k, n)| format!("{n} {k}"));
                parts.push(format!("failed: {}", kinds.collect::<Vec<_>>().join(", ")));
            }
            if round.unsent > 0 {
                parts.push(format!("{} due but never sent", round.unsent));
            }
            if round.resent > 0 {
                parts.push(format!(
                    "{} dropped by the server without an answer and sent again",
                    round.resent
                ));
            }
            parts.extend(round.error_examples.iter().map(|e| format!("e.g. {e}")));
            format!("{who}, round {}: {}", round.number, parts.join("; "))
        })
        .collect()
}

fn failures(report: &Report, scenario: &Scenario) -> String {
    let lines = failure_lines(report, scenario);
    lines.iter().map(|l| format!("  {}\n", plain(l))).collect()
}

/// What a server said, or a file holds, must not reach a terminal as it is.
pub(super) fn plain(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(harmless).collect()
}

/// Lays cells out in columns; the first `left` ones to the left, others to the right.
pub(super) fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|r| r.get(at));
        cells.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(at, (cell, &wide))| match at {
                _ if at < left => format!("{:<wide$}", plain(cell)),
                _ => format!("{:>wide$}", plain(cell)),
            })
            .collect();
        text += "  ";
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}
