//! Gathers samples from all sources and writes them as text.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use quickwater_engine::CacheResult;

use super::hot::Hot;
use super::mounts::Mounts;
use super::{DEFINITIONS, Definition, Kind, Metric, process};

type Source = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// All metrics of a process. Share it as an `Arc`.
pub struct Metrics {
    hot: Hot,
    pub(super) mounts: Mounts,
    sources: Mutex<Vec<Source>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of the process itself; more come with [`Self::collect`].
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            hot: Hot::new(),
            mounts: Mounts::default(),
            sources: Mutex::default(),
        };
        metrics.collect(process::read);
        metrics
    }

    /// Counts an answered S3 request. `operation` is one of
    /// [`super::OPERATIONS`]; anything else counts as `other`.
    pub fn request(&self, operation: &str, status: u16, took: Duration) {
        self.hot.request(operation, status, took);
    }

    /// Counts where the bytes of a GET were.
    pub fn cache(&self, result: CacheResult) {
        self.hot.cache(result);
    }

    /// Adds a source, asked at every scrape. It must not block.
    pub fn collect(&self, source: impl Fn(&mut Samples) + Send + Sync + 'static) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(Box::new(source));
    }

    /// The values of all metrics now.
    #[must_use]
    pub fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        self.hot.read(&mut samples);
        self.mounts.read(&mut samples);
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for source in sources.iter() {
            source(&mut samples);
        }
        samples
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        self.samples().encoded()
    }

    /// All metrics in Prometheus' own text format, version 0.0.4.
    #[must_use]
    pub fn encode_plain(&self) -> String {
        plain(&self.samples().encoded())
    }
}

/// Counts by size. Bounds are ascending and end with infinity.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Of all that was counted, in the metric's unit.
    pub sum: f64,
    /// Upper bounds and how many lie within each, but not within the one before.
    pub buckets: Vec<(f64, u64)>,
}

#[derive(Debug, Clone)]
enum Value {
    Count(u64),
    Number(f64),
    Histogram(Histogram),
}

/// Values being gathered.
#[derive(Debug, Default)]
pub struct Samples(Vec<(Metric, Vec<String>, Value)>);

impl Samples {
    /// A counter of whole things, or a gauge. `labels` are the values, in the order
    /// of the definition.
    pub fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.put(metric, labels, Value::Count(value));
    }

    /// A counter or gauge of seconds or shares.
    pub fn number(&mut self, metric: Metric, labels: &[&str], value: f64) {
        self.put(metric, labels, Value::Number(value));
    }

    /// Counts by size.
    pub fn histogram(&mut self, metric: Metric, labels: &[&str], value: Histogram) {
        self.put(metric, labels, Value::Histogram(value));
    }

    /// One number by name for all labels, histograms left out; for `status`. Sums, and of
    /// points in time the earliest.
    #[must_use]
    pub fn totals(&self) -> Vec<(&'static str, f64)> {
        let total = |(at, definition): (usize, &Definition)| {
            let values = self.0.iter().filter(|(metric, ..)| *metric as usize == at);
            let numbers = values.filter_map(|(.., value)| value.number());
            let both = match definition.name.ends_with("_timestamp_seconds") {
                true => f64::min,
                false => |sum, number| sum + number,
            };
            numbers.reduce(both).map(|one| (definition.name, one))
        };
        DEFINITIONS.iter().enumerate().filter_map(total).collect()
    }

    /// All of them in the OpenMetrics text format.
    pub(super) fn encoded(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        // Writing to a string fails only if a metric is told twice over; the text
        // up to there is still of use.
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("a metric cannot be written");
        }
        out
    }

    fn put(&mut self, metric: Metric, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), DEFINITIONS[metric as usize].labels.len());
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        self.0.push((metric, labels, value));
    }
}

/// OpenMetrics text as version 0.0.4 wants it: there a family of counters is named with its
/// `_total`, or it would have no type and no help, and the page just ends.
fn plain(openmetrics: &str) -> String {
    let is_counter = |family: &str| {
        let mut counters = DEFINITIONS.iter().filter(|d| d.kind == Kind::Counter);
        counters.any(|d| d.name.strip_suffix("_total") == Some(family))
    };
    let mut out = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let told = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|word| Some((word, line.strip_prefix(word)?.split_once(' ')?)));
        match told {
            Some((word, (family, rest))) if is_counter(family) => {
                out.extend([word, family, "_total ", rest, "\n"]);
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}

impl Value {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Count(count) => Some(*count as f64),
            Self::Number(number) => Some(*number),
            Self::Histogram(_) => None,
        }
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (at, definition) in DEFINITIONS.iter().enumerate() {
            let mut own = self
                .0
                .iter()
                .filter(|(metric, ..)| *metric as usize == at)
                .peekable();
            if own.peek().is_some() {
                encode_metric(&mut encoder, definition, own)?;
            }
        }
        Ok(())
    }
}

fn encode_metric<'s>(
    encoder: &mut DescriptorEncoder<'_>,
    definition: &Definition,
    samples: impl Iterator<Item = &'s (Metric, Vec<String>, Value)>,
) -> fmt::Result {
    // The encoder puts `_total` behind counters itself, and a dot behind the help.
    let name = definition.name;
    let base = match definition.kind {
        Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
        Kind::Gauge | Kind::Histogram => name,
    };
    let help = definition.help.trim_end_matches('.');
    let kind = match definition.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    let mut encoder = encoder.encode_descriptor(base, help, None, kind)?;
    for (_, values, value) in samples {
        let pairs = definition.labels.iter().copied().zip(values);
        let labels: Vec<(&str, Cow<'_, str>)> =
            pairs.map(|(l, v)| (l, Cow::from(v.as_str()))).collect();
        // Without labels no braces, as every other exporter writes it.
        if labels.is_empty() {
            encode_value(&mut encoder, definition.kind, value)?;
        } else {
            encode_value(&mut encoder.encode_family(&labels)?, definition.kind, value)?;
        }
    }
    Ok(())
}

fn encode_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Count(count)) => {
            encoder.encode_counter::<NoLabels, _, u64>(count, None)
        }
        (Kind::Counter, Value::Number(number)) => {
            encoder.encode_counter::<NoLabels, _, f64>(number, None)
        }
        (_, Value::Count(count)) => encoder.encode_gauge(count),
        (_, Value::Number(number)) => encoder.encode_gauge(number),
        (_, Value::Histogram(histogram)) => {
            let count = histogram.buckets.iter().map(|(_, count)| count).sum();
            let (sum, buckets) = (histogram.sum, &histogram.buckets);
            encoder.encode_histogram::<NoLabels>(sum, count, buckets, None)
        }
    }
}

/// Exemplars are not used; their type still wants labels.
type NoLabels = [(&'static str, &'static str); 0];
