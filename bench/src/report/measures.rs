//! The figures reports show and budgets judge: names, units, and how each follows
//! from a round. Absent: text layout, plots.

use serde::Deserialize;

use crate::model::{Report, Round, Scenario, median};

/// A figure of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// CPU microseconds of the server per request.
    ServerUsPerRequest,
    /// CPU seconds of the server per GB (10^9 bytes) of bodies.
    ServerSecondsPerGb,
    /// Successful requests per second.
    RequestsPerSecond,
    /// Body bytes per second.
    BytesPerSecond,
    /// Body bytes per request.
    BytesPerRequest,
    /// Median latency, microseconds.
    P50Us,
    /// 90th percentile of latency, microseconds.
    P90Us,
    /// 99th percentile of latency, microseconds.
    P99Us,
    /// 99.9th percentile of latency, microseconds.
    P999Us,
    /// The longest latency, microseconds.
    MaxUs,
    /// Peak resident memory of the server, bytes.
    RssPeakBytes,
}

impl Measure {
    /// Its value in a round; none where the round has not measured it.
    #[must_use]
    pub fn of(self, round: &Round) -> Option<f64> {
        let latency = (round.latency.count > 0).then_some(&round.latency);
        match self {
            Self::ServerUsPerRequest => round.server_us_per_request(),
            Self::ServerSecondsPerGb => round.server_seconds_per_gb(),
            Self::RequestsPerSecond => round.requests_per_second(),
            Self::BytesPerSecond => round.bytes_per_second(),
            Self::BytesPerRequest => crate::model::ratio(round.bytes as f64, round.requests as f64),
            Self::P50Us => latency.map(|l| l.p50_us),
            Self::P90Us => latency.map(|l| l.p90_us),
            Self::P99Us => latency.map(|l| l.p99_us),
            Self::P999Us => latency.map(|l| l.p999_us),
            Self::MaxUs => latency.map(|l| l.max_us),
            Self::RssPeakBytes => round.server.map(|s| s.rss_peak_bytes as f64),
        }
    }

    /// Heading of its column, with the unit of [`Measure::shown`].
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::ServerUsPerRequest => "CPU us/request",
            Self::ServerSecondsPerGb => "CPU s/GB",
            Self::RequestsPerSecond => "requests/s",
            Self::BytesPerSecond => "MB/s",
            Self::BytesPerRequest => "bytes/request",
            Self::P50Us => "p50 ms",
            Self::P90Us => "p90 ms",
            Self::P99Us => "p99 ms",
            Self::P999Us => "p99.9 ms",
            Self::MaxUs => "max ms",
            Self::RssPeakBytes => "peak MiB",
        }
    }

    /// A value in the unit of the heading.
    #[must_use]
    pub fn shown(self, value: f64) -> String {
        number(match self {
            Self::BytesPerSecond => value / 1e6,
            Self::P50Us | Self::P90Us | Self::P99Us | Self::P999Us | Self::MaxUs => value / 1e3,
            Self::RssPeakBytes => value / f64::from(1 << 20),
            _ => value,
        })
    }
}

/// The columns of tables.
pub(super) const COLUMNS: [Measure; 10] = [
    Measure::RequestsPerSecond,
    Measure::BytesPerSecond,
    Measure::P50Us,
    Measure::P90Us,
    Measure::P99Us,
    Measure::P999Us,
    Measure::MaxUs,
    Measure::ServerUsPerRequest,
    Measure::ServerSecondsPerGb,
    Measure::RssPeakBytes,
];

/// What two endpoints are compared by.
pub(super) const COMPARED: [Measure; 5] = [
    Measure::RequestsPerSecond,
    Measure::P50Us,
    Measure::P99Us,
    Measure::ServerUsPerRequest,
    Measure::ServerSecondsPerGb,
];

/// A number with about three significant digits and no exponent.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".into(),
        0.0 => "0".into(),
        v if v >= 99.95 => grouped(value),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0.0 {
        text.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Endpoints that took part in a scenario, by index, in order.
pub(super) fn contestants(report: &Report, scenario: &Scenario) -> Vec<usize> {
    (0..report.endpoints.len())
        .filter(|e| scenario.rounds_of(*e).next().is_some())
        .collect()
}

/// The name people see for an endpoint.
pub(super) fn label(report: &Report, endpoint: usize) -> &str {
    report.endpoints.get(endpoint).map_or("?", |e| &e.label)
}

/// A figure of one endpoint divided by that of another, for every round both ran;
/// with the number of the round.
pub(super) fn ratios(
    scenario: &Scenario,
    measure: Measure,
    mine: usize,
    other: usize,
) -> Vec<(u32, f64)> {
    let pairs = scenario.rounds_of(mine).filter_map(|a| {
        let b = scenario.rounds_of(other).find(|b| b.number == a.number)?;
        let value = crate::model::ratio(measure.of(a)?, measure.of(b)?)?;
        Some((a.number, value))
    });
    pairs.collect()
}

/// Median, smallest and largest.
pub(super) fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let middle = median(values.to_vec())?;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some((middle, low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.01234, "0.012"),
            (1.2345, "1.23"),
            (9.999, "10.0"),
            (12.345, "12.3"),
            (123.45, "123"),
            (1_234_567.8, "1,234,568"),
            (-1234.0, "-1,234"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
