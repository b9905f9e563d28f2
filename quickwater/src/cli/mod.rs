//! The command line: verbs, their help, exit codes.

mod admin_token;
mod async_persist;
mod cluster;
mod conf;
mod ebpf;
mod exit;
mod fs;
mod job;
mod metadata;
mod mount;
mod node;
mod output;
mod pathconfig;
mod remote;
mod status;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::settings::flags::SettingFlags;
use crate::settings::keys;
use crate::settings::layers::{Layer, Source};

pub(crate) use exit::Kind::Usage;
pub(crate) use output::{Output, count, emit};
pub(crate) use remote::{Remote, Target, explain};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed; the message says what to do
  2  wrong usage, or a setting that cannot be used
  3  the service is not running or cannot be reached

Examples:
  quickwater serve --dir ./data
  quickwater mount add corpus s3://training/corpus --dir ./data
  quickwater status --dir ./data --output json";

/// S3 in front of any object store or file system, served from local NVMe.
#[derive(Debug, Parser)]
#[command(name = "quickwater", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the service: S3 endpoint, cache and metadata in one process
    #[command(after_help = SERVE_HELP)]
    Serve(SettingsArgs),
    /// Run the control plane of a cluster: metadata, membership, admin; no data
    #[command(after_help = CONTROL_HELP)]
    Control(SettingsArgs),
    /// Run a worker of a cluster: S3 endpoint and cache, metadata at the control plane
    #[command(after_help = WORKER_HELP)]
    Worker(WorkerArgs),
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterVerb),
    /// Look at the workers of a cluster
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Add, list and remove mounts (buckets that are UFS locations)
    #[command(subcommand)]
    Mount(mount::MountVerb),
    /// Show what runs and how it is
    #[command(
        after_help = "Examples:\n  quickwater status --dir ./data\n  quickwater status --control 10.0.0.7:29990 --token-file token --output json"
    )]
    Status(Target),
    /// Print the admin token of a service, which the status page and remote verbs ask for
    #[command(after_help = ADMIN_TOKEN_HELP)]
    AdminToken(admin_token::AdminTokenArgs),
    /// Look at the objects of a bucket, delete them
    #[command(subcommand)]
    Fs(fs::FsVerb),
    /// Say what a write to a path promises: durability, caching, read-only
    #[command(subcommand)]
    Pathconfig(pathconfig::PathconfigVerb),
    /// See what the UFSs do not have yet, hurry it, wait for it
    #[command(subcommand)]
    AsyncPersist(async_persist::AsyncPersistVerb),
    /// Load paths into the cache, free them, and follow such jobs
    #[command(subcommand)]
    Job(job::JobVerb),
    /// Check this machine and what the service depends on
    #[command(
        after_help = "Exits with 1 when a check fails.\n\nExamples:\n  quickwater doctor --dir ./data\n  quickwater doctor --dir ./data --capacity 500GiB --output json"
    )]
    Doctor(crate::doctor::DoctorArgs),
    /// Move the metadata of a stopped service between engines
    #[command(subcommand)]
    Metadata(metadata::MetadataVerb),
    /// Load programs into the kernel for a worker without the right to do so
    #[command(subcommand)]
    Ebpf(ebpf::EbpfVerb),
    /// Show settings
    #[command(subcommand)]
    Conf(conf::ConfVerb),
    /// Measure an S3 endpoint, or two beside each other
    Bench(Box<quickwater_bench::cli::BenchArgs>),
    /// Print the version
    Version {
        #[command(flatten)]
        output: Output,
    },
}

const ADMIN_TOKEN_HELP: &str = "\
Whoever has it has all rights of an admin: it is printed to stdout and nowhere else. The
first start of `serve` or `control` makes it; a worker has none.

Examples:
  quickwater admin-token --dir ./data
  sudo -u quickwater quickwater admin-token --dir /var/lib/quickwater
  QUICKWATER_ADMIN_TOKEN=$(ssh NODE quickwater admin-token --dir DIR) quickwater status --control NODE:29990";

const SERVE_HELP: &str = "\
Settings come from flags, then QUICKWATER_* variables, then the TOML file, then
defaults; `quickwater conf show` prints the result.

The first start makes DIR, a key pair in DIR/credentials (unless
QUICKWATER_ACCESS_KEY_ID and QUICKWATER_SECRET_ACCESS_KEY are set) and an admin
token in DIR/admin-token. DIR/run.json holds the addresses while the service is
ready.

Examples:
  quickwater serve --dir ./data
  quickwater serve --dir /nvme/qw --capacity 2TiB --memory 16GiB --s3-listen 0.0.0.0:29998
  quickwater serve --dir ./data --mount corpus=s3://training/corpus,region=eu-central-1";

const CONTROL_HELP: &str = "\
Holds the metadata, says which worker owns which key, and serves the admin API. Workers
reach it at cluster.listen with a certificate that `quickwater cluster init` made.
Settings as for `serve`; those of the data plane have no effect here.

Examples:
  quickwater cluster init --out certs --worker n1 --worker n2
  quickwater control --dir /var/lib/qw-control --cluster-certificates certs/control --cluster-listen 10.0.0.1:29989";

const WORKER_HELP: &str = "\
Needs --control, --node-id and --advertise, and the node's certificate. All workers must
have the same S3 key pair: set QUICKWATER_ACCESS_KEY_ID and QUICKWATER_SECRET_ACCESS_KEY.
DIR/run.json holds the addresses while the worker is ready.

Examples:
  quickwater worker --dir /nvme/qw --cluster-certificates certs/workers/n1 --control 10.0.0.1:29989 --node-id n1 --advertise 10.0.0.11:29988 --zone rack1";

/// Settings of a worker.
#[derive(Debug, Args)]
struct WorkerArgs {
    /// Address of the control plane, the same as --cluster-control
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "cluster.control")]
    control: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl WorkerArgs {
    fn settings(mut self) -> SettingsArgs {
        if let (Some(address), Some(key)) = (self.control, keys::find("cluster.control")) {
            let given = (key, vec![address], Source::Flag("control".into()));
            self.settings.flags.0.push(given);
        }
        self.settings
    }
}

/// The settings file and a flag for every setting.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// Settings file (TOML); DIR/quickwater.toml is read if there is none
    #[arg(long, value_name = "FILE", env = "QUICKWATER_CONFIG")]
    pub config: Option<PathBuf>,
    /// One flag for every setting.
    #[command(flatten)]
    pub flags: SettingFlags,
}

impl SettingsArgs {
    /// All layers laid over each other.
    ///
    /// # Errors
    /// See [`crate::settings::load`].
    pub(crate) fn values(&self) -> Result<crate::settings::Values> {
        crate::settings::load(self.config.as_deref(), self.flags.0.clone(), variables())
            .context(exit::Kind::Usage)
    }

    /// The same over weaker ones.
    ///
    /// # Errors
    /// See [`crate::settings::load`].
    pub(crate) fn values_over(&self, below: Layer) -> Result<crate::settings::Values> {
        let flags = self.flags.0.clone();
        crate::settings::load_over(below, self.config.as_deref(), flags, variables())
            .context(exit::Kind::Usage)
    }

    /// The layers without the settings file, over weaker ones.
    ///
    /// # Errors
    /// See [`crate::settings::load_without_file`].
    pub(crate) fn values_without_file(&self, below: Layer) -> Result<crate::settings::Values> {
        crate::settings::load_without_file(below, self.flags.0.clone(), variables())
            .context(exit::Kind::Usage)
    }
}

/// The environment. Names and values that are not UTF-8 cannot be settings of ours.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Parses the command line, runs the verb, and says how it went.
pub(crate) fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Serve(args) => crate::serve::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Control(args) => crate::serve::apart::run_control(&args).map(|()| ExitCode::SUCCESS),
        Verb::Worker(args) => {
            crate::serve::apart::run_worker(&args.settings()).map(|()| ExitCode::SUCCESS)
        }
        Verb::Cluster(verb) => cluster::run(verb),
        Verb::Node(verb) => node::run(verb),
        Verb::Mount(verb) => mount::run(verb),
        Verb::Status(target) => status::run(&target),
        Verb::AdminToken(args) => admin_token::run(&args),
        Verb::Fs(verb) => fs::run(verb),
        Verb::Pathconfig(verb) => pathconfig::run(verb),
        Verb::AsyncPersist(verb) => async_persist::run(verb),
        Verb::Job(verb) => job::run(verb),
        Verb::Metadata(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        Verb::Doctor(args) => crate::doctor::run(&args),
        Verb::Conf(verb) => conf::run(verb),
        Verb::Ebpf(verb) => ebpf::run(verb),
        Verb::Bench(args) => bench(&args),
        Verb::Version { output } => version(output),
    }
}

fn bench(args: &quickwater_bench::cli::BenchArgs) -> Result<ExitCode> {
    quickwater_bench::cli::main(args).map_err(|error| {
        let usage = error.is_usage();
        let error = anyhow::Error::from(error);
        if usage {
            error.context(exit::Kind::Usage)
        } else {
            error
        }
    })
}

fn version(output: Output) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let json = serde_json::json!({ "version": version });
    output.show(&json, || format!("quickwater {version}\n"))
}
