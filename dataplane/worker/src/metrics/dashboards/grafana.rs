//! Dashboards as Grafana takes them, schema 39 (Grafana 10 and later).

use serde_json::{Value, json};

/// Width of a row, in Grafana's grid.
const GRID: u64 = 24;
const PANEL_WIDTH: u64 = 8;
const PANEL_HEIGHT: u64 = 8;

pub(super) struct Dashboard {
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) title: String,
    pub(super) panels: Vec<Panel>,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) description: String,
    /// A unit as Grafana names it.
    pub(super) unit: &'static str,
    pub(super) queries: Vec<Query>,
}

pub(super) struct Query {
    pub(super) expression: String,
    pub(super) legend: String,
}

/// Begins every selector: of one cluster, else lines of the same name would be of any that this
/// Prometheus scrapes; one without that label has an empty one.
pub(super) const CHOSEN: &str = r#"{cluster="$cluster",job=~"$job",instance=~"$instance""#;

/// A query; `{*` in it begins a selector of the chosen instances, `[*]` is the range
/// that fits the picture.
pub(super) fn query(expression: &str, legend: &str) -> Query {
    let expression = expression
        .replace("{*", CHOSEN)
        .replace("[*]", "[$__rate_interval]");
    Query {
        expression,
        legend: legend.to_owned(),
    }
}

impl Dashboard {
    pub(super) fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["quickwater"],
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "schemaVersion": 39,
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "templating": { "list": [data_source(), cluster(), job(), instance()] },
            "annotations": { "list": [alerts()] },
            "links": [{
                "type": "dashboards", "tags": ["quickwater"], "title": "Quickwater",
                "asDropdown": true, "includeVars": true, "keepTime": true,
            }],
            "panels": self.placed(),
        })
    }

    /// Rows one below the other, panels from left to right.
    fn placed(&self) -> Vec<Value> {
        let (mut out, mut top) = (Vec::new(), 0);
        for row in &self.rows {
            out.push(json!({
                "id": out.len() + 1, "type": "row", "title": row.title, "collapsed": false,
                "gridPos": { "x": 0, "y": top, "w": GRID, "h": 1 }, "panels": [],
            }));
            top += 1;
            let each_row = GRID / PANEL_WIDTH;
            for (at, panel) in (0..).zip(&row.panels) {
                let (x, y) = (
                    at % each_row * PANEL_WIDTH,
                    top + at / each_row * PANEL_HEIGHT,
                );
                let mut placed = panel.json(out.len() + 1);
                placed["gridPos"] = json!({ "x": x, "y": y, "w": PANEL_WIDTH, "h": PANEL_HEIGHT });
                out.push(placed);
            }
            top += (row.panels.len() as u64).div_ceil(each_row) * PANEL_HEIGHT;
        }
        out
    }
}

impl Panel {
    fn json(&self, id: usize) -> Value {
        let targets: Vec<Value> = (b'A'..)
            .zip(&self.queries)
            .map(|(r, q)| q.json(r))
            .collect();
        let mut custom = json!({
            "fillOpacity": 10, "lineWidth": 1, "showPoints": "auto", "spanNulls": true,
        });
        // A line of zeros alone would have an axis up to 10,000 %; what is more than this
        // still makes it longer.
        if self.unit == "percentunit" {
            custom["axisSoftMax"] = json!(0.1);
        }
        json!({
            "id": id,
            "type": "timeseries",
            "title": self.title,
            "description": self.description,
            "datasource": source(),
            "targets": targets,
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "min": 0,
                    "custom": custom,
                },
                "overrides": [],
            },
            "options": {
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "multi", "sort": "desc" },
            },
        })
    }
}

impl Query {
    fn json(&self, reference: u8) -> Value {
        json!({
            "refId": char::from(reference).to_string(),
            "datasource": source(),
            "editorMode": "code",
            "expr": self.expression,
            "legendFormat": self.legend,
            "range": true,
        })
    }
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn data_source() -> Value {
    json!({
        "name": "datasource", "label": "Prometheus", "type": "datasource",
        "query": "prometheus", "refresh": 1, "current": {},
    })
}

/// One cluster at a time, the first at first; as dashboards for Kubernetes have it, nothing to
/// choose from is the empty text, which what has no such label matches.
fn cluster() -> Value {
    let asked = "label_values(quickwater_build_info, cluster)";
    let mut variable = variable("cluster", "Cluster", asked);
    variable["multi"] = json!(false);
    variable["includeAll"] = json!(false);
    variable
}

fn job() -> Value {
    let asked = r#"label_values(quickwater_build_info{cluster="$cluster"}, job)"#;
    any(variable("job", "Job", asked))
}

fn instance() -> Value {
    let asked = r#"label_values(quickwater_build_info{cluster="$cluster",job=~"$job"}, instance)"#;
    any(variable("instance", "Node", asked))
}

/// A variable with the values of a label, in their order.
fn variable(name: &str, label: &str, asked: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": source(),
        "definition": asked, "query": { "query": asked, "refId": name },
        "refresh": 2, "sort": 1,
    })
}

/// Of which several may be chosen, at first all.
fn any(mut variable: Value) -> Value {
    variable["multi"] = json!(true);
    variable["includeAll"] = json!(true);
    variable["allValue"] = json!(".*");
    variable["current"] = json!({ "text": ["All"], "value": ["$__all"] });
    variable
}

/// Alerts that fire, as marks in every panel.
fn alerts() -> Value {
    json!({
        "name": "Alerts", "datasource": source(), "enable": true, "iconColor": "red",
        "expr": r#"ALERTS{cluster="$cluster",alertname=~"Quickwater.*",alertstate="firing"}"#,
        "titleFormat": "{{alertname}}", "textFormat": "{{instance}}", "step": "30s",
    })
}
