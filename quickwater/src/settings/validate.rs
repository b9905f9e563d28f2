//! From texts to checked [`Settings`]: every key parsed, then the relations
//! between keys. Absent on purpose: reading files or the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use quickwater_foundationdb::{KeyPrefix, Options as FoundationOptions};
use quickwater_proto::NodeId;

use super::parse::{self, Parsed};
use super::{
    AuthMode, ClusterSettings, EbpfSettings, IoDriver, JobsSettings, MetadataEngine, S3Settings,
    Settings, StoreSettings, TlsSettings, UfsSettings, Values, Wish, WriteCacheSettings, keys,
};

const MIB: u64 = 1 << 20;
/// Least memory the buffers, index and metadata cache can work with.
const MEMORY_BYTES_MIN: u64 = 256 * MIB;
/// Most shards: one byte of a location names one.
const THREADS_MAX: u64 = 255;
/// Most connections: file descriptors of one process.
const CONNECTIONS_MAX: u64 = 1_000_000;
/// Segment sizes the store works with.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4 * MIB..=4096 * MIB;
/// Segments a shard needs to write, evict and recycle.
const SEGMENTS_PER_SHARD_MIN: u64 = 4;
/// S3's own limit of user metadata is 2 KiB; request heads end at 16 KiB.
const USER_METADATA_BYTES_MAX: u64 = 8 << 10;
/// S3: but for the last, a part has at least 5 MiB.
const PART_BYTES_MIN: u64 = 5 * MIB;
/// S3: a part has at most 5 GiB.
const PART_BYTES_MAX: u64 = 5 << 30;
/// Most requests to one UFS at a time.
const UFS_CONCURRENCY_MAX: u64 = 4096;
/// Most jobs at a time; times objects of each, the queue of the shards holds them.
const JOBS_RUNNING_MAX: u64 = 16;
/// Most objects of one job at a time.
const JOBS_CONCURRENCY_MAX: u64 = 256;
/// Most jobs kept.
const JOBS_KEPT_MAX: u64 = 10_000;
/// Leases that are neither over before a heartbeat nor keep keys waiting for ever.
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(600);
/// Largest stripe of an object.
const STRIPE_BYTES_MAX: u64 = 1 << 40;
/// Longest name of a zone, bytes.
const ZONE_BYTES_MAX: usize = 64;
/// Lowest priority there is (`nice(2)`).
const PERSIST_NICE_MAX: u64 = 19;
/// Longest timeout that still counts as a deadline.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Longest time of housekeeping.
const HOUSEKEEPING_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl Settings {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that cannot be used; the text names the key, who set it
    /// and what to do.
    pub(crate) fn from_values(values: &Values) -> Result<Self> {
        let read = Reader(values);
        let dir = std::path::absolute(values.text("dir"))?;
        let settings = Self {
            memory_bytes: read.value("memory", parse::bytes)?,
            metadata_ttl: read.value("metadata_ttl", parse::ttl)?,
            mounts: read.each("mounts", parse::mount)?,
            s3: read.s3()?,
            admin_listen: read.value("admin.listen", parse::address)?,
            metrics_listen: read.value("metrics.listen", parse::address)?,
            store: read.store()?,
            write_cache: read.write_cache()?,
            jobs: read.jobs()?,
            metadata_engine: read.metadata_engine()?,
            ufs: read.ufs(&dir)?,
            cluster: read.cluster(&dir)?,
            shutdown_grace: read.timeout("shutdown.grace")?,
            shutdown_persist: read.pause("shutdown.persist")?,
            io_driver: match read.word("io.driver")?.as_str() {
                "uring" => IoDriver::Uring,
                "epoll" => IoDriver::Epoll,
                _ => IoDriver::Auto,
            },
            io_pin_threads: read.value("io.pin_threads", parse::switch)?,
            ebpf: read.ebpf()?,
            log_level: read.word("log.level")?,
            log_json: read.word("log.format")? == "json",
            dir,
        };
        settings.check(&read)?;
        Ok(settings)
    }

    fn check(&self, read: &Reader<'_>) -> Result<()> {
        check_memory(self, read)?;
        check_open_door(self, read)?;
        check_store(self, read)?;
        check_addresses(self, read)?;
        check_mounts(self, read)
    }
}

fn check_memory(s: &Settings, read: &Reader<'_>) -> Result<()> {
    if s.memory_bytes < MEMORY_BYTES_MIN {
        return Err(read.refuse("memory", "is too little; give at least 256MiB"));
    }
    Ok(())
}

fn check_open_door(s: &Settings, read: &Reader<'_>) -> Result<()> {
    let open = s.s3.anonymous || s.s3.auth == AuthMode::Simple;
    let allowed = read.value("s3.insecure_ok", parse::switch)?;
    let tls = s.s3.tls.as_ref().and_then(|tls| tls.listen);
    let far = |address: &SocketAddr| !address.ip().is_loopback();
    let Some(address) = [Some(s.s3.listen), tls].into_iter().flatten().find(far) else {
        return Ok(());
    };
    if !open || allowed {
        return Ok(());
    }
    let key = if s.s3.anonymous {
        "s3.anonymous"
    } else {
        "s3.auth"
    };
    Err(read.refuse(
        key,
        &format!(
            "would let every host that reaches {address} read and write all data; listen on 127.0.0.1, use s3.auth = verify without s3.anonymous, or set s3.insecure_ok = true if that is what you want"
        ),
    ))
}

fn check_store(s: &Settings, read: &Reader<'_>) -> Result<()> {
    let least_segment = match s.store.segment_bytes {
        Some(bytes) if !SEGMENT_BYTES.contains(&bytes) => {
            return Err(read.refuse("store.segment_size", "is out of bounds; use 4MiB to 4GiB"));
        }
        Some(bytes) if bytes % MIB != 0 => {
            return Err(read.refuse("store.segment_size", "is not a multiple of 1MiB"));
        }
        Some(bytes) => bytes,
        None => *SEGMENT_BYTES.start(),
    };
    let least = least_segment * SEGMENTS_PER_SHARD_MIN * s.store.threads as u64;
    if s.store.capacity_bytes < least {
        let why = format!(
            "is too little for {} threads of {SEGMENTS_PER_SHARD_MIN} segments each; give at least {}MiB, smaller segments or fewer threads",
            s.store.threads,
            least / MIB
        );
        return Err(read.refuse("store.capacity", &why));
    }
    Ok(())
}

fn check_addresses(s: &Settings, read: &Reader<'_>) -> Result<()> {
    let mut all = vec![
        ("s3.listen", s.s3.listen),
        ("admin.listen", s.admin_listen),
        ("metrics.listen", s.metrics_listen),
        ("cluster.listen", s.cluster.listen),
    ];
    let tls = s.s3.tls.as_ref().and_then(|tls| tls.listen);
    all.extend(tls.map(|address| ("s3.tls.listen", address)));
    for (at, (key, address)) in all.iter().enumerate() {
        for (other, taken) in &all[..at] {
            if address == taken && address.port() != 0 {
                return Err(read.refuse(
                    key,
                    &format!("is the address of {other} too; use another port"),
                ));
            }
        }
    }
    Ok(())
}

fn check_mounts(s: &Settings, read: &Reader<'_>) -> Result<()> {
    for (at, mount) in s.mounts.iter().enumerate() {
        if s.mounts[..at].iter().any(|m| m.bucket == mount.bucket) {
            let why = format!("names the bucket '{}' twice; keep one", mount.bucket);
            return Err(read.refuse("mounts", &why));
        }
    }
    Ok(())
}

/// Reads values and puts key and source into every error.
struct Reader<'v>(&'v Values);

impl Reader<'_> {
    fn value<T>(&self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Result<T> {
        parse(self.0.text(name)).map_err(|why| self.wrong(name, &why))
    }

    /// As [`Self::value`], with the key's special word read as `None`.
    fn unless_special<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Result<Option<T>> {
        let special = keys::find(name).map_or("", |k| k.special);
        if self.0.text(name) == special {
            return Ok(None);
        }
        self.value(name, parse).map(Some)
    }

    fn each<T>(&self, name: &str, parse: impl Fn(&str) -> Parsed<T>) -> Result<Vec<T>> {
        let texts = self.0.texts(name).iter();
        texts
            .map(|text| parse(text).map_err(|why| self.wrong(name, &why)))
            .collect()
    }

    fn word(&self, name: &str) -> Result<String> {
        let words: &[&str] = match keys::find(name).map(|k| k.kind) {
            Some(keys::Kind::Choice(words)) => words,
            _ => bail!("`{name}` is not a choice"),
        };
        self.value(name, |text| parse::choice(text, words))
    }

    fn bounded(&self, name: &str, least: u64, most: u64) -> Result<usize> {
        let number = self.value(name, parse::count)?;
        self.within(name, number, least, most)
    }

    fn within(&self, name: &str, number: u64, least: u64, most: u64) -> Result<usize> {
        if !(least..=most).contains(&number) {
            return Err(self.refuse(name, &format!("is out of bounds; use {least} to {most}")));
        }
        usize::try_from(number).map_err(|_| self.refuse(name, "is too large for this machine"))
    }

    fn part_bytes(&self, name: &str) -> Result<u64> {
        let bytes = self.value(name, parse::bytes)?;
        self.within(name, bytes, PART_BYTES_MIN, PART_BYTES_MAX)?;
        Ok(bytes)
    }

    /// None, or as long as a timeout.
    fn pause(&self, name: &str) -> Result<Duration> {
        let time = self.value(name, parse::duration)?;
        if time > TIMEOUT_MAX {
            return Err(self.refuse(name, "is out of bounds; use 0s to 1h"));
        }
        Ok(time)
    }

    fn timeout(&self, name: &str) -> Result<Duration> {
        let time = self.value(name, parse::duration)?;
        if time.is_zero() || time > TIMEOUT_MAX {
            return Err(self.refuse(name, "is out of bounds; use 1ms to 1h"));
        }
        Ok(time)
    }

    fn refuse(&self, name: &str, why: &str) -> anyhow::Error {
        self.wrong(name, &format!("'{}' {why}", self.0.texts(name).join(" ")))
    }

    fn wrong(&self, name: &str, why: &str) -> anyhow::Error {
        anyhow!("setting `{name}` ({}): {why}", self.0.source(name))
    }

    fn s3(&self) -> Result<S3Settings> {
        let metadata_max = self.value("s3.user_metadata_limit", parse::bytes)?;
        let min_part_bytes = self.value("s3.min_part_size", parse::bytes)?;
        self.within("s3.min_part_size", min_part_bytes, 1, PART_BYTES_MAX)?;
        Ok(S3Settings {
            listen: self.value::<SocketAddr>("s3.listen", parse::address)?,
            tls: self.tls()?,
            domain: self.unless_special("s3.domain", domain)?,
            region: self.value("s3.region", region)?,
            auth: match self.word("s3.auth")?.as_str() {
                "simple" => AuthMode::Simple,
                _ => AuthMode::Verify,
            },
            anonymous: self.value("s3.anonymous", parse::switch)?,
            min_part_bytes,
            user_metadata_bytes_max: self.within(
                "s3.user_metadata_limit",
                metadata_max,
                0,
                USER_METADATA_BYTES_MAX,
            )?,
            folder_objects: self.value("s3.folder_objects", parse::switch)?,
            connections_max: self.bounded("s3.max_connections", 1, CONNECTIONS_MAX)?,
            idle_timeout: self.timeout("s3.idle_timeout")?,
            header_timeout: self.timeout("s3.header_timeout")?,
            body_timeout: self.timeout("s3.body_timeout")?,
            write_timeout: self.timeout("s3.write_timeout")?,
            stall_timeout: self.timeout("s3.stall_timeout")?,
            access_log: self.unless_special("s3.access_log", path)?,
        })
    }

    fn tls(&self) -> Result<Option<TlsSettings>> {
        let listen = self.unless_special("s3.tls.listen", parse::address)?;
        let reload = self.timeout("s3.tls.reload")?;
        let certificate = self.unless_special("s3.tls.certificate", path)?;
        match (certificate, self.unless_special("s3.tls.key", path)?) {
            (Some(certificate), Some(key)) => Ok(Some(TlsSettings {
                certificate,
                key,
                listen,
                reload,
            })),
            (Some(_), None) => {
                Err(self.refuse("s3.tls.key", "must be set with s3.tls.certificate"))
            }
            (None, Some(_)) => {
                Err(self.refuse("s3.tls.certificate", "must be set with s3.tls.key"))
            }
            (None, None) if listen.is_some() => {
                let why = "needs s3.tls.certificate and s3.tls.key";
                Err(self.refuse("s3.tls.listen", why))
            }
            (None, None) => Ok(None),
        }
    }

    fn ebpf(&self) -> Result<EbpfSettings> {
        Ok(EbpfSettings {
            reuseport: match self.word("ebpf.reuseport")?.as_str() {
                "off" => Wish::Off,
                "required" => Wish::Required,
                _ => Wish::Auto,
            },
            service: self.unless_special("ebpf.service", parse::address)?,
            local: self.unless_special("ebpf.local", parse::address)?,
            cgroup: self.unless_special("ebpf.cgroup", path)?,
            bypass: self.word("ebpf.bypass")? == "auto",
            pins: self.unless_special("ebpf.pins", path)?,
            handoff: self.word("ebpf.handoff")? == "auto",
            handoff_min: self.value("ebpf.handoff_min", parse::bytes)?,
        })
    }

    /// The settings of FoundationDB are checked whatever the engine.
    fn metadata_engine(&self) -> Result<MetadataEngine> {
        let foundation = FoundationOptions {
            client_library: self.0.text("metadata.foundationdb.client_library").into(),
            cluster_file: self.0.text("metadata.foundationdb.cluster_file").into(),
            key_prefix: self.value("metadata.foundationdb.key_prefix", |text| {
                text.parse::<KeyPrefix>().map_err(|error| error.to_string())
            })?,
        };
        Ok(match self.word("metadata.engine")?.as_str() {
            "redb" => MetadataEngine::Redb,
            "foundationdb" => MetadataEngine::FoundationDb(foundation),
            _ => MetadataEngine::Fjall,
        })
    }

    fn cluster(&self, dir: &Path) -> Result<ClusterSettings> {
        let node = |text: &str| NodeId::new(text).map_err(|error| error.to_string());
        let zone = |text: &str| match text.len() <= ZONE_BYTES_MAX {
            true => Ok(text.to_owned()),
            false => Err(format!("longer than {ZONE_BYTES_MAX} bytes")),
        };
        let lease = self.value("cluster.lease", parse::duration)?;
        if !LEASE.contains(&lease) {
            return Err(self.refuse("cluster.lease", "is out of bounds; use 2s to 10m"));
        }
        let stripe_bytes = self.value("cluster.stripe_size", parse::bytes)?;
        self.within("cluster.stripe_size", stripe_bytes, MIB, STRIPE_BYTES_MAX)?;
        if !stripe_bytes.is_multiple_of(MIB) {
            return Err(self.refuse("cluster.stripe_size", "is not a whole number of MiB"));
        }
        let hot_copies_bytes = self.unless_special("cluster.hot_copies", parse::bytes)?;
        if let Some(bytes) = hot_copies_bytes {
            let half = self.value("store.capacity", parse::bytes)? / 2;
            self.within("cluster.hot_copies", bytes, MIB, half)?;
        }
        let certificates = self.unless_special("cluster.certificates", path)?;
        Ok(ClusterSettings {
            listen: self.value("cluster.listen", parse::address)?,
            control: self.unless_special("cluster.control", parse::host_port)?,
            certificates: certificates.unwrap_or_else(|| dir.join("cluster")),
            node: self.unless_special("cluster.node_id", node)?,
            advertise: self.unless_special("cluster.advertise", parse::address)?,
            peer_listen: self.unless_special("cluster.peer_listen", parse::address)?,
            zone: self
                .unless_special("cluster.zone", zone)?
                .unwrap_or_default(),
            lease,
            stripe_bytes,
            hot_copies_bytes,
        })
    }

    fn store(&self) -> Result<StoreSettings> {
        let threads = match self.unless_special("store.threads", parse::count)? {
            Some(number) => self.within("store.threads", number, 1, THREADS_MAX)?,
            None => cpus(),
        };
        Ok(StoreSettings {
            capacity_bytes: self.value("store.capacity", parse::bytes)?,
            segment_bytes: self.unless_special("store.segment_size", parse::bytes)?,
            ram_tier_bytes: self.unless_special("store.ram_tier", parse::bytes)?,
            threads,
        })
    }

    fn write_cache(&self) -> Result<WriteCacheSettings> {
        let initial = self.housekeeping("write_cache.persist_retry_initial")?;
        let longest = self.housekeeping("write_cache.persist_retry_max")?;
        if longest < initial {
            let why = "is less than write_cache.persist_retry_initial; give at least that";
            return Err(self.refuse("write_cache.persist_retry_max", why));
        }
        Ok(WriteCacheSettings {
            dirty_ratio: self.value("write_cache.dirty_ratio", parse::ratio)?,
            persist_retry_initial: initial,
            persist_retry_max: longest,
            persist_concurrency: self.bounded(
                "write_cache.persist_concurrency",
                1,
                UFS_CONCURRENCY_MAX,
            )?,
            persist_part_bytes: self.part_bytes("write_cache.persist_part_size")?,
            persist_nice: self.bounded("write_cache.persist_nice", 0, PERSIST_NICE_MAX)? as u8,
            fence: self.housekeeping("write_cache.fence")?,
            orphan_timeout: self.housekeeping("write_cache.orphan_timeout")?,
            orphan_period: self.housekeeping("write_cache.orphan_period")?,
            writing_timeout: self.housekeeping("write_cache.writing_timeout")?,
        })
    }

    fn jobs(&self) -> Result<JobsSettings> {
        Ok(JobsSettings {
            running_max: self.bounded("jobs.running", 1, JOBS_RUNNING_MAX)?,
            concurrency: self.bounded("jobs.concurrency", 1, JOBS_CONCURRENCY_MAX)?,
            keep: self.housekeeping("jobs.keep")?,
            kept_max: self.bounded("jobs.kept", 1, JOBS_KEPT_MAX)?,
        })
    }

    fn housekeeping(&self, name: &str) -> Result<Duration> {
        let time = self.value(name, parse::duration)?;
        if time.is_zero() || time > HOUSEKEEPING_MAX {
            return Err(self.refuse(name, "is out of bounds; use 1ms to 7d"));
        }
        Ok(time)
    }

    fn ufs(&self, dir: &Path) -> Result<UfsSettings> {
        let uri = match self.unless_special("ufs.uri", parse::uri)? {
            Some(uri) => uri,
            None => parse::file_uri(&dir.join("ufs")).map_err(|why| self.wrong("dir", &why))?,
        };
        Ok(UfsSettings {
            uri,
            options: self.value("ufs.options", parse::options)?,
            concurrency: self.bounded("ufs.concurrency", 1, UFS_CONCURRENCY_MAX)?,
            connect_timeout: self.timeout("ufs.timeout.connect")?,
            idle_timeout: self.timeout("ufs.timeout.idle")?,
            request_timeout: self.timeout("ufs.timeout.request")?,
        })
    }
}

fn cpus() -> usize {
    let found = std::thread::available_parallelism().map_or(1, usize::from);
    found.min(usize::try_from(THREADS_MAX).unwrap_or(usize::MAX))
}

fn domain(text: &str) -> Parsed<String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    if text.is_empty() || text.starts_with('.') || text.ends_with('.') || !text.bytes().all(fine) {
        return Err(format!(
            "'{text}' is not a domain; write for example s3.example.com"
        ));
    }
    Ok(text.to_ascii_lowercase())
}

fn region(text: &str) -> Parsed<String> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(fine) {
        return Err(format!(
            "'{text}' is not a region; write for example us-east-1"
        ));
    }
    Ok(text.to_owned())
}

fn path(text: &str) -> Parsed<PathBuf> {
    std::path::absolute(text).map_err(|e| format!("'{text}' is not a path: {e}"))
}
