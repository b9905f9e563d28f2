//! The report: what a run was, where it ran and what every round measured. Plain
//! data, written and read as JSON. Absent: measuring, printing, judging.

mod latency;
mod rates;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use latency::{Latency, Recorder};
pub use rates::{median, ratio};

/// Version of the JSON document. Readers refuse a higher one.
pub const FORMAT_VERSION: u32 = 1;

/// One run of the tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Version of the tool.
    pub tool_version: String,
    /// When the run began, RFC 3339 in UTC.
    pub started: String,
    /// The run was ended by a signal; what was measured until then is here.
    pub interrupted: bool,
    /// What was asked for.
    pub settings: Settings,
    /// Where the client ran.
    pub machine: Machine,
    /// One, or two that were measured in turns. Rounds name them by index.
    pub endpoints: Vec<Endpoint>,
    /// In the order they ran.
    pub scenarios: Vec<Scenario>,
}

impl Report {
    /// Failed requests of all rounds.
    #[must_use]
    pub fn failures(&self) -> u64 {
        let rounds = self.scenarios.iter().flat_map(|s| &s.rounds);
        rounds.map(Round::failures).sum()
    }

    /// Requests of all rounds that were due and never sent.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let rounds = self.scenarios.iter().flat_map(|s| &s.rounds);
        rounds.map(|r| r.unsent).sum()
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The command line without secrets.
    pub command: Vec<String>,
    /// Connections per endpoint.
    pub concurrency: u32,
    /// Threads of the client.
    pub threads: u32,
    /// Rounds per endpoint.
    pub rounds: u32,
    /// Length of a round, seconds; none when only requests end it.
    pub duration_seconds: Option<f64>,
    /// Requests of a round, if they end it.
    pub requests: Option<u64>,
    /// Load before every round that is not counted, seconds.
    pub warmup_seconds: f64,
    /// Requests per second of the open loop; none is a closed loop.
    pub rate: Option<f64>,
    /// Seed of every choice.
    pub seed: u64,
    /// Objects in the key space.
    pub objects: u64,
    /// The size distribution as it was given.
    pub size: String,
    /// Bodies that were read were compared with what was written.
    pub verify: bool,
    /// Uploads carried the SHA-256 of their body in the signature.
    pub sign_payload: bool,
    /// The run only tried out whether all of it works: too short to measure.
    #[serde(default)]
    pub quick: bool,
}

/// Where the client ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor, as `/proc/cpuinfo` names it.
    pub cpu: String,
    /// Processors online.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Processors the client was bound to; empty when it was not.
    pub client_cpus: Vec<u32>,
}

/// A measured endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `a` for `--endpoint`, `b` for `--vs`.
    pub label: String,
    /// Its address.
    pub url: String,
    /// The bucket that was used.
    pub bucket: String,
    /// Requests were signed.
    pub signed: bool,
    /// Processes whose cost was measured, as given.
    pub server_pids: Vec<String>,
}

/// One kind of load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: String,
    /// What one request is, for people.
    pub description: String,
    /// In the order they ran; with two endpoints A B A B.
    pub rounds: Vec<Round>,
}

impl Scenario {
    /// The rounds of one endpoint, by its index.
    pub fn rounds_of(&self, endpoint: usize) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |r| r.endpoint == endpoint)
    }

    /// Medians over the rounds of one endpoint of any figure.
    #[must_use]
    pub fn median_of(
        &self,
        endpoint: usize,
        figure: impl Fn(&Round) -> Option<f64>,
    ) -> Option<f64> {
        median(self.rounds_of(endpoint).filter_map(figure).collect())
    }

    /// `figure` of endpoint 0 divided by that of endpoint 1, for every round both
    /// have run.
    #[must_use]
    pub fn ratios(&self, figure: impl Fn(&Round) -> Option<f64>) -> Vec<f64> {
        let pairs = self.rounds_of(0).filter_map(|a| {
            let b = self.rounds_of(1).find(|b| b.number == a.number)?;
            ratio(figure(a)?, figure(b)?)
        });
        pairs.collect()
    }
}

/// What one endpoint did in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Counts from 1; both endpoints have a round of each number.
    pub number: u32,
    /// Index into [`Report::endpoints`].
    pub endpoint: usize,
    /// Requests that succeeded. An upload in parts is one request.
    pub requests: u64,
    /// HTTP calls sent for them and for the failed ones.
    pub calls: u64,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// A few failures in words.
    pub error_examples: Vec<String>,
    /// Requests of an open loop that were due and never sent, because the server
    /// did not keep up. Their waiting time until the last answer is in `latency`.
    pub unsent: u64,
    /// Connections that were opened anew because the server closed them.
    pub reconnects: u64,
    /// Requests that a server took and dropped: it closed a kept connection before
    /// any answer, and they were sent again over another one.
    #[serde(default)]
    pub resent: u64,
    /// Body bytes of successful requests, read or written.
    pub bytes: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Of successful requests. Open loop: from the time a request was due; with those
    /// that got no answer, which have waited for the timeout at least.
    pub latency: Latency,
    /// What happened in each second, from the start of the round.
    pub series: Vec<Second>,
    /// Parts of a round with times of their own (writing and restoring a
    /// checkpoint).
    pub phases: Vec<Phase>,
    /// Where answers said their bytes came from (`x-quickwater-cache`,
    /// `x-cache`), requests by value.
    pub cache: BTreeMap<String, u64>,
    /// What it cost the server, where its processes were named.
    pub server: Option<ServerCost>,
    /// CPU time of the client, seconds.
    pub client_cpu_seconds: f64,
}

/// One second of a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Requests that succeeded in it.
    pub requests: u64,
    /// Requests that failed in it.
    pub errors: u64,
    /// Body bytes that moved in it, also of requests that failed later.
    pub bytes: u64,
}

/// A part of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `write`, `restore`.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// Body bytes.
    pub bytes: u64,
    /// Requests that succeeded.
    pub requests: u64,
    /// CPU time of the server, where its processes were named.
    #[serde(default)]
    pub server_cpu_seconds: Option<f64>,
    /// Of successful requests.
    #[serde(default)]
    pub latency: Latency,
}

/// What a round cost the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerCost {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// Highest sum of resident sets seen in the round (sampled), bytes.
    pub rss_peak_bytes: u64,
}
