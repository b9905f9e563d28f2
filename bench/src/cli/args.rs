//! The arguments. Only their shape; what they mean together is checked when the
//! plan is made.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::parse::{bytes, duration};
use crate::report::{CheckArgs, Format, ShowArgs};

const HELP: &str = "\
Every request is counted and checked (status, length, with --verify every byte).
Objects are prepared first and left for the next run unless --cleanup is given.
Endpoints are http:// or https:// (--ca, --insecure). Keys come from AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY or from the flags.

Exit codes:
  0  done, no request failed
  1  requests failed, or the run could not be done
  2  wrong usage

Examples:
  quickwater bench get-hit --bucket demo --size 10KiB --objects 10000
  quickwater bench put,get-hit --bucket demo --size lognormal:64KiB,1.2 --rounds 5
  quickwater bench get-hit --bucket demo --rate 2000 --duration 30s
  quickwater bench epoch --bucket demo --profile images --concurrency 16
  quickwater bench checkpoint --bucket demo --ranks 8 --size 256MiB
  quickwater bench get-hit --bucket demo --endpoint http://127.0.0.1:29998 \\
      --vs http://127.0.0.1:8080 --vs-anonymous --vs-no-prepare \\
      --server-pid 4711 --vs-server-pid tree:4712 --report out.json --report out.html";

/// Measure an S3 endpoint, or two beside each other.
#[derive(Debug, Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    /// Instead of a run.
    #[command(subcommand)]
    pub verb: Option<BenchVerb>,
    /// A run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What else is done.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Compare reports with budgets; ends with 1 when one is missed
    #[command(
        after_help = "Examples:\n  quickwater bench check --budgets bench/budgets.toml out.json"
    )]
    Check(CheckArgs),
    /// Print a saved report again, in another format
    #[command(
        after_help = "Examples:\n  quickwater bench show out.json\n  quickwater bench show out.json --output html > out.html"
    )]
    Show(ShowArgs),
}

/// What kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum ScenarioName {
    /// Read objects of a key space again and again
    GetHit,
    /// Read every object once, cold (see --prepare-endpoint, --prepare-dir)
    GetMiss,
    /// Write new objects
    Put,
    /// Write new objects in parts
    PutMultipart,
    /// Write an object, then read it back at once; the read's latency counts
    GetAfterWrite,
    /// Reads and overwrites by --get-share
    Mixed,
    /// Ask for heads
    Head,
    /// List pages from random places of the key space
    List,
    /// Delete objects that were prepared for it
    Delete,
    /// Read ranges of --range-size
    Range,
    /// Read every object once in shuffled order, as a data loader does
    Epoch,
    /// Ranks write their shards at once, then one restores all of them
    Checkpoint,
}

/// Sizes and counts of known data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// 10,000 objects of 150 KB
    Images,
    /// 1,000 objects of 2.8 MB
    Records,
    /// 20 objects of 146 MB
    Volumes,
}

/// The arguments of a run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// What to do, several one after the other
    #[arg(
        value_enum,
        value_delimiter = ',',
        required = true,
        value_name = "SCENARIO"
    )]
    pub scenarios: Vec<ScenarioName>,
    /// The endpoint and the keys.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The second endpoint.
    #[command(flatten)]
    pub versus: VersusArgs,
    /// How much load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Which objects.
    #[command(flatten)]
    pub objects: ObjectArgs,
    /// What comes out.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The endpoint under test.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Endpoint")]
pub struct TargetArgs {
    /// Address of the endpoint, path style
    #[arg(
        long,
        value_name = "URL",
        env = "AWS_ENDPOINT_URL",
        default_value = "http://127.0.0.1:29998"
    )]
    pub endpoint: String,
    /// For https://: believe certificates signed by those in this PEM file, instead
    /// of the system's CAs; a self-signed one is its own. For both endpoints
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    pub ca: Option<PathBuf>,
    /// For https://: believe every certificate
    #[arg(long)]
    pub insecure: bool,
    /// Bucket; made when it is not there
    #[arg(long, default_value = "bench")]
    pub bucket: String,
    /// Region in signatures
    #[arg(long, env = "AWS_DEFAULT_REGION", default_value = "us-east-1")]
    pub region: String,
    /// Access key
    #[arg(long, value_name = "KEY", env = "AWS_ACCESS_KEY_ID")]
    pub access_key_id: Option<String>,
    /// Secret of the access key; better given in the environment
    #[arg(
        long,
        value_name = "SECRET",
        env = "AWS_SECRET_ACCESS_KEY",
        hide_env_values = true
    )]
    pub secret_access_key: Option<String>,
    /// Do not sign
    #[arg(long)]
    pub anonymous: bool,
    /// Sign the SHA-256 of uploaded bodies (costs the client a hash per upload)
    #[arg(long)]
    pub sign_payload: bool,
    /// Processes of the server, on this machine: PID, or tree:PID for it and its
    /// descendants
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub server_pid: Vec<String>,
    /// Objects are there already, do not write them
    #[arg(long)]
    pub no_prepare: bool,
}

/// The endpoint to compare with; rounds run A B A B.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Comparison")]
pub struct VersusArgs {
    /// Address of a second endpoint
    #[arg(long, value_name = "URL")]
    pub vs: Option<String>,
    /// Its bucket, if it is another one
    #[arg(long, value_name = "BUCKET", requires = "vs")]
    pub vs_bucket: Option<String>,
    /// Its access key, if it is another one
    #[arg(long, value_name = "KEY", requires = "vs", env = "VS_ACCESS_KEY_ID")]
    pub vs_access_key_id: Option<String>,
    /// Its secret
    #[arg(
        long,
        value_name = "SECRET",
        requires = "vs",
        env = "VS_SECRET_ACCESS_KEY",
        hide_env_values = true
    )]
    pub vs_secret_access_key: Option<String>,
    /// Do not sign there
    #[arg(long, requires = "vs")]
    pub vs_anonymous: bool,
    /// Its processes
    #[arg(
        long,
        alias = "vs-pid",
        value_name = "PID",
        value_delimiter = ',',
        requires = "vs"
    )]
    pub vs_server_pid: Vec<String>,
    /// Its objects are there already
    #[arg(long, requires = "vs")]
    pub vs_no_prepare: bool,
}

/// How much load, for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Connections, each with one request at a time
    #[arg(long, short = 'c', default_value_t = 64)]
    pub concurrency: u32,
    /// Threads of the client that share the connections
    #[arg(long, default_value_t = 1)]
    pub threads: u32,
    /// Length of a round; 5s if neither this nor --requests is given. An epoch or
    /// a checkpoint ends by itself unless it is given
    #[arg(long, short = 'd', value_parser = duration)]
    pub duration: Option<Duration>,
    /// Requests of a round
    #[arg(long, short = 'n')]
    pub requests: Option<u64>,
    /// Load before every round that is not counted
    #[arg(long, value_parser = duration, default_value = "500ms")]
    pub warmup: Duration,
    /// Rounds per endpoint
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Seed of every choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Open loop: requests per second that are due, whatever the server does;
    /// latency counts from the time a request was due
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// A request that takes longer fails
    #[arg(long, value_parser = duration, default_value = "30s")]
    pub timeout: Duration,
    /// Bind the client's threads to these CPUs
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub client_cpu: Vec<u32>,
}

/// Which objects.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Objects")]
pub struct ObjectArgs {
    /// Objects in the key space; 1000 if no profile says otherwise
    #[arg(long)]
    pub objects: Option<u64>,
    /// Size: 10KiB, uniform:4KiB-1MiB, lognormal:MEDIAN,SIGMA, or
    /// list:4KiB=70,1MiB=30 with weights; 10KiB if no profile says otherwise
    #[arg(long)]
    pub size: Option<String>,
    /// Sizes and counts of a known data set
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
    /// What names of objects begin with
    #[arg(long, default_value = "bench/")]
    pub prefix: String,
    /// Part size of uploads in parts
    #[arg(long, value_parser = bytes, default_value = "8MiB")]
    pub part_size: u64,
    /// Bytes of a ranged read
    #[arg(long, value_parser = bytes, default_value = "64KiB")]
    pub range_size: u64,
    /// Share of reads in `mixed`, 0 to 1
    #[arg(long, default_value_t = 0.7)]
    pub get_share: f64,
    /// Keys of a page in `list`
    #[arg(long, default_value_t = 1000)]
    pub page: u32,
    /// Ranks of `checkpoint`
    #[arg(long, default_value_t = 8)]
    pub ranks: u32,
    /// Compare every byte that is read with what was written
    #[arg(long)]
    pub verify: bool,
    /// Prepare objects through this endpoint instead (same keys and bucket), for
    /// example the store behind a cache
    #[arg(long, value_name = "URL", conflicts_with = "prepare_dir")]
    pub prepare_endpoint: Option<String>,
    /// Prepare objects as files under this directory instead, for example a
    /// directory served by a cache
    #[arg(long, value_name = "DIR")]
    pub prepare_dir: Option<PathBuf>,
    /// Requests at once while preparing and cleaning up
    #[arg(long, default_value_t = 32)]
    pub prepare_concurrency: u32,
    /// Delete what was written
    #[arg(long)]
    pub cleanup: bool,
}

/// What comes out.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Format of what is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Also write a report: .json, .html, anything else is a table; may be given
    /// several times
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// No progress on stderr
    #[arg(long, short)]
    pub quiet: bool,
}
