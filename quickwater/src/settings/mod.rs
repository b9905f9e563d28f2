//! Settings: one typed value from defaults, TOML file, environment and flags,
//! every key checked at start. Absent on purpose: anything that acts on them.

pub(crate) mod flags;
pub(crate) mod import;
pub(crate) mod keys;
pub(crate) mod layers;
pub(crate) mod parse;
pub(crate) mod render;
mod validate;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quickwater_foundationdb::Options as FoundationOptions;
use quickwater_proto::NodeId;

pub(crate) use layers::Source;
pub(crate) use layers::Values;
pub(crate) use parse::{MountSpec, Ttl};

/// Name of the settings file inside the service directory.
pub(crate) const FILE_NAME: &str = "quickwater.toml";

/// Everything the service can be told, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Directory of this node, absolute.
    pub dir: PathBuf,
    /// Bytes of memory to plan with.
    pub memory_bytes: u64,
    /// Default metadata TTL of mounts.
    pub metadata_ttl: Ttl,
    /// Mounts to make at start.
    pub mounts: Vec<MountSpec>,
    /// The S3 endpoint.
    pub s3: S3Settings,
    /// Where the admin API listens.
    pub admin_listen: SocketAddr,
    /// Where metrics and health are served.
    pub metrics_listen: SocketAddr,
    /// The cache.
    pub store: StoreSettings,
    /// Data on its way to the UFS.
    pub write_cache: WriteCacheSettings,
    /// Jobs.
    pub jobs: JobsSettings,
    /// Where the metadata is.
    pub metadata_engine: MetadataEngine,
    /// The default UFS and limits of all.
    pub ufs: UfsSettings,
    /// Control plane and workers apart.
    pub cluster: ClusterSettings,
    /// How long requests in flight may go on after a stop signal.
    pub shutdown_grace: Duration,
    /// How long a worker hands over what it has before that.
    pub shutdown_persist: Duration,
    /// How IO is driven.
    pub io_driver: IoDriver,
    /// Pin data-plane threads to CPUs.
    pub io_pin_threads: bool,
    /// Programs in the kernel.
    pub ebpf: EbpfSettings,
    /// Least important log level.
    pub log_level: String,
    /// Log lines as JSON.
    pub log_json: bool,
}

/// The S3 endpoint.
#[derive(Debug, Clone)]
pub(crate) struct S3Settings {
    /// Listen address.
    pub listen: SocketAddr,
    /// HTTPS, if it is spoken.
    pub tls: Option<TlsSettings>,
    /// Domain of virtual-host style requests.
    pub domain: Option<String>,
    /// Region reported.
    pub region: String,
    /// How signatures are treated.
    pub auth: AuthMode,
    /// Unsigned requests are accepted.
    pub anonymous: bool,
    /// Smallest part, bytes.
    pub min_part_bytes: u64,
    /// Most user metadata of an object, bytes.
    pub user_metadata_bytes_max: usize,
    /// Directories shown as 0-byte objects.
    pub folder_objects: bool,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Silence between requests.
    pub idle_timeout: Duration,
    /// Time for a request head.
    pub header_timeout: Duration,
    /// Time without progress in a request body.
    pub body_timeout: Duration,
    /// Time a client may leave an answer untaken.
    pub write_timeout: Duration,
    /// Time a client may stall while others wait for the memory its body takes.
    pub stall_timeout: Duration,
    /// One line per request goes here.
    pub access_log: Option<PathBuf>,
}

/// HTTPS on the S3 endpoint.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// Its own address; none = that of the endpoint, which then has no plain HTTP.
    pub listen: Option<SocketAddr>,
    /// Time between two looks at the files.
    pub reload: Duration,
}

/// Control plane and workers apart.
#[derive(Debug, Clone)]
pub(crate) struct ClusterSettings {
    /// Where the control plane listens for workers.
    pub listen: SocketAddr,
    /// Where a worker finds it, `host:port`.
    pub control: Option<String>,
    /// Directory of certificates.
    pub certificates: PathBuf,
    /// Name of a worker.
    pub node: Option<NodeId>,
    /// Where other workers reach it.
    pub advertise: Option<SocketAddr>,
    /// Where it listens for them; none: there.
    pub peer_listen: Option<SocketAddr>,
    /// Where it stands; empty = nobody said.
    pub zone: String,
    /// How long a heartbeat is good for.
    pub lease: Duration,
    /// Bytes of a stripe, whole chunks.
    pub stripe_bytes: u64,
    /// Most bytes of copies of what other workers hold; none: no copies.
    pub hot_copies_bytes: Option<u64>,
}

/// How signatures are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthMode {
    /// Checked (SigV4).
    Verify,
    /// Any is accepted; the access key names the user.
    Simple,
}

/// The cache.
#[derive(Debug, Clone)]
pub(crate) struct StoreSettings {
    /// Bytes on disk.
    pub capacity_bytes: u64,
    /// Bytes of a segment; none = chosen by capacity.
    pub segment_bytes: Option<u64>,
    /// Bytes of the RAM tier; none = its share of the memory.
    pub ram_tier_bytes: Option<u64>,
    /// Data-plane threads.
    pub threads: usize,
}

/// Jobs over many objects.
#[derive(Debug, Clone)]
pub(crate) struct JobsSettings {
    /// Jobs at a time.
    pub running_max: usize,
    /// Objects of one job at a time.
    pub concurrency: usize,
    /// How long one that has ended is listed.
    pub keep: Duration,
    /// Jobs kept in all.
    pub kept_max: usize,
}

/// Data on its way to the UFS.
#[derive(Debug, Clone)]
pub(crate) struct WriteCacheSettings {
    /// Most of the capacity that dirty data may fill, above 0, below 1.
    pub dirty_ratio: f64,
    /// Wait before the second attempt at an upload.
    pub persist_retry_initial: Duration,
    /// Longest wait between two attempts; at least the initial one.
    pub persist_retry_max: Duration,
    /// Uploads at a time per mount.
    pub persist_concurrency: usize,
    /// Larger objects go to an S3 UFS in parts of this size, bytes.
    pub persist_part_bytes: u64,
    /// Niceness of the threads that upload, 0 to 19.
    pub persist_nice: u8,
    /// How long a UFS request without an answer may still be applied.
    pub fence: Duration,
    /// Age of an abandoned upload.
    pub orphan_timeout: Duration,
    /// Pause between searches for abandoned uploads.
    pub orphan_period: Duration,
    /// Silence after which a write is abandoned.
    pub writing_timeout: Duration,
}

/// Where the metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetadataEngine {
    /// fjall, a log-structured merge tree.
    Fjall,
    /// redb, a B-tree.
    Redb,
    /// A cluster of FoundationDB.
    FoundationDb(FoundationOptions),
}

/// The default UFS and limits of all.
#[derive(Debug, Clone)]
pub(crate) struct UfsSettings {
    /// Where CreateBucket makes buckets.
    pub uri: String,
    /// Its options.
    pub options: Vec<(String, String)>,
    /// Requests at a time per mount.
    pub concurrency: usize,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time without progress.
    pub idle_timeout: Duration,
    /// Time for one request.
    pub request_timeout: Duration,
}

/// Programs in the kernel.
#[derive(Debug, Clone)]
pub(crate) struct EbpfSettings {
    /// The one that spreads connections over the shards.
    pub reuseport: Wish,
    /// Connections to it are turned to this worker.
    pub service: Option<SocketAddr>,
    /// Where they go; none = where the S3 endpoint listens.
    pub local: Option<SocketAddr>,
    /// Whose connections; none = the root of cgroup2.
    pub cgroup: Option<PathBuf>,
    /// Answers to clients of this node go from socket to socket, if that can be had.
    pub bypass: bool,
    /// Where programs of another process are looked for.
    pub pins: Option<PathBuf>,
    /// Connections are handed to the owner of what they ask for, if that can be had.
    pub handoff: bool,
    /// Bodies of at least so many bytes.
    pub handoff_min: u64,
}

/// Whether a program is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// If it can be had.
    Auto,
    /// Not.
    Off,
    /// No start without.
    Required,
}

/// How IO is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IoDriver {
    /// io_uring, or epoll with a warning.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// Reads all layers. `config`: the file of `--config`, which must then exist.
///
/// # Errors
/// An unreadable file, an unknown key, a value that does not parse.
pub(crate) fn load(
    config: Option<&Path>,
    flags: layers::Layer,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Values> {
    let environment = layers::read_environment(variables)?;
    let mut over = Values::defaults();
    over.lay(environment.clone());
    over.lay(flags.clone());
    let file = match config {
        Some(path) => layers::read_file(path)?
            .with_context(|| format!("the settings file {} does not exist", path.display()))?,
        None => own_file(Path::new(over.text("dir")))?,
    };
    let mut values = Values::defaults();
    values.lay(file);
    values.lay(environment);
    values.lay(flags);
    Ok(values)
}

/// The same with weaker ones below: what is known of settings that nobody gave here.
///
/// # Errors
/// See [`load`].
pub(crate) fn load_over(
    below: layers::Layer,
    config: Option<&Path>,
    flags: layers::Layer,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Values> {
    let given = load(config, flags, variables)?;
    let mut values = Values::defaults();
    values.lay(below);
    values.lay(given.given());
    Ok(values)
}

/// The same without any file: for a look at the machine where it cannot be read.
///
/// # Errors
/// An unknown variable.
pub(crate) fn load_without_file(
    below: layers::Layer,
    flags: layers::Layer,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Values> {
    let mut values = Values::defaults();
    values.lay(below);
    values.lay(layers::read_environment(variables)?);
    values.lay(flags);
    Ok(values)
}

/// The file inside the directory cannot say where the directory is.
fn own_file(dir: &Path) -> Result<layers::Layer> {
    let path = dir.join(FILE_NAME);
    let layer = layers::read_file(&path)?.unwrap_or_default();
    if layer.iter().any(|(key, ..)| key.name == "dir") {
        bail!(
            "the settings file {} sits in the directory and cannot set `dir`; remove the key, or pass the file with --config",
            path.display()
        );
    }
    Ok(layer)
}
