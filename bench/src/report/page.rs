//! The report as one HTML page that needs nothing else: no scripts, no fonts, no
//! requests. Every plot has its figures in a table beside it. Absent: SVG.

use super::charts::{Bars, bars, charts};
use super::measures::number;
use super::plot::{Line, escape};
use super::table::{failure_lines, phase_rows, ratio_rows, rows};
use crate::model::{Report, Scenario};

/// Colours and dashes there are in `page.css`; endpoints beyond them repeat.
pub(super) const STYLES: usize = 6;
const STYLE_SHEET: &str = include_str!("page.css");

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Bench {}</title><style>\n{STYLE_SHEET}</style></head>\n<body>\n",
        escape(&report.started)
    );
    html += &head(report);
    for scenario in &report.scenarios {
        html += &section(report, scenario);
    }
    html + "</body></html>\n"
}

fn head(report: &Report) -> String {
    let (machine, settings) = (&report.machine, &report.settings);
    let mut html = format!(
        "<header><h1>Bench</h1><p class=\"soft\">{}, {}. {}, {} processors, {} GiB, Linux {}.</p>\
         <p class=\"soft\">{} connections, {} rounds; medians of the rounds.</p>\
         <p><code>{}</code></p>",
        escape(&report.started),
        escape(&report.tool_version),
        escape(&machine.cpu),
        machine.cpus,
        number(machine.memory_bytes as f64 / f64::from(1 << 30)),
        escape(&machine.kernel),
        settings.concurrency,
        settings.rounds,
        escape(&settings.command.join(" "))
    );
    if report.interrupted {
        html += "<p class=\"failed\">Interrupted: these are the figures until then.</p>";
    }
    let addressed = report.endpoints.iter().filter(|e| !e.url.is_empty());
    for endpoint in addressed {
        html += &format!(
            "<p class=\"soft\">{}: {} bucket {}, {}</p>",
            escape(&endpoint.label),
            escape(&endpoint.url),
            escape(&endpoint.bucket),
            if endpoint.signed {
                "signed"
            } else {
                "anonymous"
            }
        );
    }
    html + "</header>\n"
}

fn section(report: &Report, scenario: &Scenario) -> String {
    let name = escape(&scenario.name);
    let mut html = format!(
        "<section><h2>{name}</h2><p class=\"soft\">{}</p>",
        escape(&scenario.description)
    );
    html += &html_table("Medians of the rounds", &rows(report, scenario));
    html += &html_table("Phases", &phase_rows(report, scenario));
    html += &html_table("Ratios within a round", &ratio_rows(report, scenario));
    for line in failure_lines(report, scenario) {
        html += &format!("<p class=\"failed\">{}</p>", escape(&line));
    }
    for chart in charts(report, scenario) {
        html += &format!("<h3>{}</h3>{}", chart.heading, key(&chart.plot.lines));
        html += &chart.plot.svg();
    }
    for chart in bars(report, scenario) {
        html += &bar_chart(&chart);
    }
    html + "</section>\n"
}

/// Which line is whose; the plot's own words are in its table.
fn key(lines: &[Line]) -> String {
    let mut html = String::from("<p>");
    for line in lines {
        let style = line.style % STYLES;
        html += &format!(
            "<span class=\"key\"><svg viewBox=\"0 0 32 8\" aria-hidden=\"true\">\
             <path class=\"line s{style}\" d=\"M0 4L32 4\"/></svg>{}</span>",
            escape(&line.label)
        );
    }
    html + "</p>"
}

fn bar_chart(chart: &Bars) -> String {
    let longest = chart.bars.iter().map(|b| b.2).fold(0.0, f64::max);
    let mut html = format!("<h3>{}</h3><div class=\"bars\">", chart.measure.heading());
    for (label, style, value) in &chart.bars {
        let share = if longest > 0.0 {
            value / longest * 100.0
        } else {
            0.0
        };
        html += &format!(
            "<span>{}</span><span><span class=\"bar s{}\" style=\"display:block;width:{share:.1}%\"></span></span><span>{}</span>",
            escape(label),
            style % STYLES,
            escape(&chart.measure.shown(*value))
        );
    }
    html + "</div>"
}

fn html_table(caption: &str, rows: &[Vec<String>]) -> String {
    let Some((heading, body)) = rows.split_first() else {
        return String::new();
    };
    let mut html = format!(
        "<h3>{}</h3><div class=\"wide\"><table><thead><tr>",
        escape(caption)
    );
    for cell in heading {
        html += &format!("<th scope=\"col\">{}</th>", escape(cell));
    }
    html += "</tr></thead><tbody>";
    for row in body {
        let cells: String = row
            .iter()
            .map(|c| format!("<td>{}</td>", escape(c)))
            .collect();
        html += &format!("<tr>{cells}</tr>");
    }
    html + "</tbody></table></div>"
}
