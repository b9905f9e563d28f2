//! The dashboard of everything: a panel for each metric, as its kind wants it.

use super::super::{DEFINITIONS, Definition, Kind};
use super::grafana::{Dashboard, Panel, Query, Row, query};

pub(super) fn dashboard() -> Dashboard {
    let mut rows: Vec<Row> = Vec::new();
    for definition in DEFINITIONS {
        let title = group(definition.name);
        match rows.iter_mut().find(|row| row.title == title) {
            Some(row) => row.panels.push(panel(definition)),
            None => rows.push(Row {
                title: title.to_owned(),
                panels: vec![panel(definition)],
            }),
        }
    }
    Dashboard {
        uid: "quickwater-details",
        title: "Quickwater details",
        description: "Every metric of Quickwater, in the order of docs/metrics.md.",
        rows,
    }
}

/// The word after the program's name, or `process`.
fn group(name: &str) -> &str {
    let rest = name.strip_prefix("quickwater_").unwrap_or(name);
    rest.split('_').next().unwrap_or(rest)
}

fn panel(definition: &Definition) -> Panel {
    Panel {
        title: definition.name.to_owned(),
        description: definition.help.to_owned(),
        unit: unit(definition),
        queries: queries(definition),
    }
}

fn unit(definition: &Definition) -> &'static str {
    let counted = definition.kind == Kind::Counter;
    let name = definition.name.trim_end_matches("_total");
    let of_bytes = name.ends_with("_bytes") || name.contains("_bytes_");
    match (of_bytes, name.ends_with("_seconds"), counted) {
        _ if name.ends_with("_expiry_seconds") || name.ends_with("_timestamp_seconds") => {
            "dateTimeAsIso"
        }
        (true, _, true) => "Bps",
        (true, _, false) => "bytes",
        (_, true, _) => "s",
        (_, _, true) => "ops",
        _ => "short",
    }
}

fn queries(definition: &Definition) -> Vec<Query> {
    let mut labels = vec!["instance"];
    labels.extend(definition.labels);
    let legend: Vec<String> = labels
        .iter()
        .map(|label| format!("{{{{{label}}}}}"))
        .collect();
    let (name, by, legend) = (definition.name, labels.join(", "), legend.join(" "));
    match definition.kind {
        Kind::Counter => vec![query(
            &format!("sum by ({by}) (rate({name}{{*}}[*]))"),
            &legend,
        )],
        // Grafana counts time in milliseconds.
        Kind::Gauge if unit(definition) == "dateTimeAsIso" => {
            vec![query(
                &format!("1000 * sum by ({by}) ({name}{{*}})"),
                &legend,
            )]
        }
        Kind::Gauge => vec![query(&format!("sum by ({by}) ({name}{{*}})"), &legend)],
        Kind::Histogram => [0.5, 0.99]
            .map(|share| {
                let rate = format!("sum by (le, {by}) (rate({name}_bucket{{*}}[*]))");
                let legend = format!("p{} {legend}", share * 100.0);
                query(&format!("histogram_quantile({share}, {rate})"), &legend)
            })
            .into(),
    }
}
