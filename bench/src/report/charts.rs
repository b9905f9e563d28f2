//! The plots of a scenario: which figures go where. Absent: SVG, HTML.

use super::measures::{Measure, contestants, label, ratios};
use super::plot::{Axis, Line, Plot, Scale};
use crate::model::{Latency, Report, Round, Scenario, Second};

/// A heading and its plot.
pub(super) struct Chart {
    /// Above the plot.
    pub(super) heading: &'static str,
    /// What is seen.
    pub(super) plot: Plot,
}

/// Bars of one figure, one an endpoint.
pub(super) struct Bars {
    /// The figure.
    pub(super) measure: Measure,
    /// Label, style, median.
    pub(super) bars: Vec<(String, usize, f64)>,
}

/// The plots that a scenario's rounds have figures for.
pub(super) fn charts(report: &Report, scenario: &Scenario) -> Vec<Chart> {
    let made = [
        latency(report, scenario),
        over_time(report, scenario),
        per_round(report, scenario),
        ratio_plot(report, scenario),
    ];
    made.into_iter().flatten().collect()
}

/// Server CPU per request and per GB, beside each other.
pub(super) fn bars(report: &Report, scenario: &Scenario) -> Vec<Bars> {
    let measures = [Measure::ServerUsPerRequest, Measure::ServerSecondsPerGb];
    let made = measures.map(|measure| Bars {
        measure,
        bars: contestants(report, scenario)
            .into_iter()
            .filter_map(|e| {
                let value = scenario.median_of(e, |r| measure.of(r))?;
                Some((label(report, e).to_owned(), e, value))
            })
            .collect(),
    });
    made.into_iter().filter(|b| !b.bars.is_empty()).collect()
}

fn chart(
    heading: &'static str,
    scenario: &Scenario,
    scales: (Scale, Scale),
    titles: (&str, &str),
    lines: Vec<Line>,
) -> Option<Chart> {
    let lines: Vec<Line> = lines.into_iter().filter(|l| !l.points.is_empty()).collect();
    if lines.is_empty() {
        return None;
    }
    let all = || lines.iter().flat_map(|l| &l.points);
    let x = Axis::around(scales.0, all().map(|p| p.0), titles.0);
    let y = Axis::around(scales.1, all().map(|p| p.1), titles.1);
    let title = format!("{}: {heading}", scenario.name);
    let plot = Plot {
        title,
        x,
        y,
        mark: None,
        lines,
    };
    Some(Chart { heading, plot })
}

fn line(report: &Report, endpoint: usize, points: Vec<(f64, f64)>, dots: bool) -> Line {
    let label = label(report, endpoint).to_owned();
    Line {
        label,
        style: endpoint,
        points,
        dots,
    }
}

/// Latency by the share of requests that were faster, all rounds together.
fn latency(report: &Report, scenario: &Scenario) -> Option<Chart> {
    let lines = contestants(report, scenario).into_iter().map(|e| {
        let all = Latency::merged(scenario.rounds_of(e).map(|r| &r.latency));
        line(report, e, curve(&all), false)
    });
    let titles = ("share of requests that took no longer", "ms");
    chart(
        "Latency",
        scenario,
        (Scale::Nines, Scale::Log),
        titles,
        lines.collect(),
    )
}

/// The last step of the curve, the longest request, would be at 100 %, which is
/// at no finite place: it is drawn where all but half a request were faster.
fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    let total = latency.count as f64;
    let mut seen = 0;
    let points = latency.histogram.iter().map(|(bound, count)| {
        seen += count;
        ((seen as f64).min(total - 0.5) / total, *bound as f64 / 1e6)
    });
    points.collect()
}

/// Throughput second by second; an endpoint's rounds follow each other.
fn over_time(report: &Report, scenario: &Scenario) -> Option<Chart> {
    let bytes = scenario
        .rounds
        .iter()
        .any(|r| r.series.iter().any(|s| s.bytes > 0));
    let lines = contestants(report, scenario).into_iter().map(|e| {
        let seconds = scenario.rounds_of(e).flat_map(whole_seconds);
        let points = seconds.enumerate().map(|(at, s)| {
            let value = if bytes {
                s.bytes as f64 / 1e6
            } else {
                s.requests as f64
            };
            ((at + 1) as f64, value)
        });
        line(report, e, points.collect(), false)
    });
    let unit = if bytes { "MB/s" } else { "requests/s" };
    let titles = ("seconds under load, rounds one after the other", unit);
    chart(
        "Throughput over time",
        scenario,
        (Scale::Linear, Scale::Linear),
        titles,
        lines.collect(),
    )
}

/// The seconds of a round that it lasted all of: the last one is cut off by its end,
/// and would show a drop that nobody had. All of them where there is no whole one.
pub(super) fn whole_seconds(round: &Round) -> &[Second] {
    let whole = (round.seconds.max(0.0).floor() as usize).max(1);
    let series = round.series.as_slice();
    series.get(..whole).unwrap_or(series)
}

/// Throughput round by round, where there are no seconds to show.
fn per_round(report: &Report, scenario: &Scenario) -> Option<Chart> {
    if scenario.rounds.iter().any(|r| !r.series.is_empty()) {
        return None;
    }
    let bytes = scenario.rounds.iter().any(|r| r.bytes > 0);
    let lines = contestants(report, scenario).into_iter().map(|e| {
        let points = scenario.rounds_of(e).filter_map(|r| {
            let value = match bytes {
                true => Measure::BytesPerSecond.of(r)? / 1e6,
                false => Measure::RequestsPerSecond.of(r)?,
            };
            Some((f64::from(r.number), value))
        });
        line(report, e, points.collect(), true)
    });
    let titles = ("round", if bytes { "MB/s" } else { "requests/s" });
    chart(
        "Throughput by round",
        scenario,
        (Scale::Counts, Scale::Linear),
        titles,
        lines.collect(),
    )
}

/// CPU of the first endpoint beside every other one, or its throughput where no
/// CPU was measured, round by round.
fn ratio_plot(report: &Report, scenario: &Scenario) -> Option<Chart> {
    let found = contestants(report, scenario);
    let first = *found.first()?;
    let against = |measure| {
        let lines = found.iter().skip(1).map(|e| {
            let pairs = ratios(scenario, measure, first, *e);
            let points = pairs.into_iter().map(|(n, v)| (f64::from(n), v)).collect();
            let mut made = line(report, *e, points, true);
            made.label = format!("{} / {}", label(report, first), made.label);
            made
        });
        lines.filter(|l| !l.points.is_empty()).collect::<Vec<_>>()
    };
    let cpu = against(Measure::ServerUsPerRequest);
    let (lines, heading) = match cpu.is_empty() {
        false => (cpu, "Ratio by round: server CPU per request"),
        true => (
            against(Measure::RequestsPerSecond),
            "Ratio by round: requests per second",
        ),
    };
    let titles = ("round", "ratio");
    let mut made = chart(
        heading,
        scenario,
        (Scale::Counts, Scale::Linear),
        titles,
        lines,
    )?;
    made.plot.y = made.plot.y.up_to(1.0);
    made.plot.mark = Some(1.0);
    Some(made)
}
