//! The one table of settings: name, type, default and meaning of every key.
//!
//! Flags, environment names, `conf show`, `docs/configuration.md` and `--help`
//! are generated from it. Absent on purpose: parsing and precedence.

/// How the text of a key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A path of the local file system.
    Path,
    /// `ADDRESS:PORT`; port 0 = any free port.
    Address,
    /// `HOST:PORT` of another process; the host may be a name.
    HostPort,
    /// A number of bytes: `10GiB`, `512MiB`, `4096`.
    Bytes,
    /// A length of time: `10s`, `500ms`, `5m`, `1h`.
    Duration,
    /// A length of time, `0s` = always, or `never`.
    Ttl,
    /// A whole number.
    Count,
    /// A part of a whole: `0.3`.
    Ratio,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `file:///absolute/path` or `s3://bucket/prefix`.
    Uri,
    /// `name=value` pairs, comma separated; a table in TOML.
    Options,
    /// `BUCKET=URI[,option=value...]`, any number of them.
    Mounts,
}

impl Kind {
    /// The word for it in documentation and help.
    pub(crate) fn word(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Path => "path".into(),
            Self::Address => "address:port".into(),
            Self::HostPort => "host:port".into(),
            Self::Bytes => "bytes".into(),
            Self::Duration => "duration".into(),
            Self::Ttl => "duration or `never`".into(),
            Self::Count => "number".into(),
            Self::Ratio => "number between 0 and 1".into(),
            Self::Switch => "`true` or `false`".into(),
            Self::Choice(words) => words
                .iter()
                .map(|w| format!("`{w}`"))
                .collect::<Vec<_>>()
                .join(" or "),
            Self::Uri => "URI".into(),
            Self::Options => "options".into(),
            Self::Mounts => "list of mounts".into(),
        }
    }
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Dotted name, as in the TOML file.
    pub name: &'static str,
    /// Name of the flag of `serve`, without the dashes.
    pub flag: &'static str,
    /// How its text is read.
    pub kind: Kind,
    /// A word that stands for a value of its own, besides those of `kind`
    /// (`off`, `auto`); empty = none.
    pub special: &'static str,
    /// Value when nobody sets it.
    pub default: &'static str,
    /// What it does; one or two sentences.
    pub doc: &'static str,
}

impl Key {
    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        let name = self.name.replace('.', "__").to_ascii_uppercase();
        format!("{ENV_PREFIX}{name}")
    }
}

/// What every environment variable of ours begins with.
pub(crate) const ENV_PREFIX: &str = "QUICKWATER_";

/// Finds a key by name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

const fn key(
    name: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        flag,
        kind,
        special: "",
        default,
        doc,
    }
}

const fn or(special: &'static str, key: Key) -> Key {
    Key { special, ..key }
}

/// Every setting, in the order of the documentation.
#[rustfmt::skip]
pub(crate) static KEYS: &[Key] = &[
    key("dir", "dir", Kind::Path, "./quickwater-data",
        "Directory of this node: cache, metadata, credentials, run.json. Best on a local NVMe disk."),
    key("memory", "memory", Kind::Bytes, "1GiB",
        "Memory the service plans with: IO buffers, small objects, listings on their way, metadata, the index of the cache (up to some 1,400 records a MiB, each a small object or 1 MiB of a large one; more are evicted) and pending changes (some 160 a MiB; more writes are told to slow down). At least 256MiB."),
    key("metadata_ttl", "metadata-ttl", Kind::Ttl, "10s",
        "How long metadata read from a UFS is trusted before it is looked up again. `0s` looks always, `never` trusts for ever. A mount may set its own."),
    key("mounts", "mount", Kind::Mounts, "",
        "UFS locations to mount as buckets at start, e.g. `data=s3://corpus/v1,endpoint=http://10.0.0.5:9000`. The option `metadata_ttl` sets the mount's own TTL."),
    key("s3.listen", "s3-listen", Kind::Address, "127.0.0.1:29998",
        "Where the S3 endpoint listens; port 0 takes any free port."),
    or("off", key("s3.domain", "s3-domain", Kind::Text, "off",
        "Domain for virtual-host style requests (`BUCKET.DOMAIN`); path style works always.")),
    key("s3.region", "s3-region", Kind::Text, "us-east-1",
        "Region that GetBucketLocation reports; requests signed for any region are accepted."),
    key("s3.auth", "s3-auth", Kind::Choice(&["verify", "simple"]), "verify",
        "`verify` checks every signature (SigV4). `simple` accepts any signature and takes the access key as the user."),
    key("s3.anonymous", "s3-anonymous", Kind::Switch, "false",
        "Accept requests without a signature."),
    key("s3.insecure_ok", "s3-insecure-ok", Kind::Switch, "false",
        "Allow `s3.auth = simple` or `s3.anonymous` on an address other hosts can reach."),
    key("s3.min_part_size", "s3-min-part-size", Kind::Bytes, "5MiB",
        "Smallest part of a multipart upload, the last part excepted. Where a UFS takes only larger ones (option `min_part_size` of `s3://` locations), that counts, but for TRANSIENT."),
    key("s3.user_metadata_limit", "s3-user-metadata-limit", Kind::Bytes, "2KiB",
        "Most bytes of user metadata (x-amz-meta-* names and values) of one object."),
    key("s3.folder_objects", "s3-folder-objects", Kind::Switch, "false",
        "Show directories of a POSIX UFS as 0-byte objects whose key ends with `/`."),
    key("s3.max_connections", "s3-max-connections", Kind::Count, "16384",
        "Most client connections at a time; more are answered 503 SlowDown."),
    key("s3.idle_timeout", "s3-idle-timeout", Kind::Duration, "60s",
        "How long a kept-alive connection may be silent between requests."),
    key("s3.header_timeout", "s3-header-timeout", Kind::Duration, "10s",
        "How long a client may take to send a request head; and for a TLS handshake."),
    key("s3.body_timeout", "s3-body-timeout", Kind::Duration, "30s",
        "Longest wait for the next bytes of a request body."),
    key("s3.write_timeout", "s3-write-timeout", Kind::Duration, "2min",
        "Longest wait for a client to take the next bytes of an answer; a data loader may pause between batches."),
    key("s3.stall_timeout", "s3-stall-timeout", Kind::Duration, "3s",
        "While requests wait for memory, connections whose clients have taken or sent nothing of a body for so long are cut, the longest stalled first."),
    or("off", key("s3.access_log", "s3-access-log", Kind::Path, "off",
        "File that gets one line per request.")),
    or("off", key("s3.tls.certificate", "s3-tls-certificate", Kind::Path, "off",
        "PEM file with the certificate chain of the S3 endpoint, its own certificate first. With it `s3.listen` speaks HTTPS only, unless `s3.tls.listen` is set.")),
    or("off", key("s3.tls.key", "s3-tls-key", Kind::Path, "off",
        "PEM file with the private key of that certificate.")),
    or("off", key("s3.tls.listen", "s3-tls-listen", Kind::Address, "off",
        "A second address for HTTPS; `s3.listen` then stays plain HTTP.")),
    key("s3.tls.reload", "s3-tls-reload", Kind::Duration, "10s",
        "How often the two files are looked at; when they changed, new connections use them."),
    key("admin.listen", "admin-listen", Kind::Address, "127.0.0.1:29990",
        "Where the admin API (gRPC and REST, bearer token) and the status page listen."),
    key("metrics.listen", "metrics-listen", Kind::Address, "127.0.0.1:29991",
        "Where /metrics, /healthz and /readyz are served; no authentication."),
    key("store.capacity", "capacity", Kind::Bytes, "10GiB",
        "Disk space of the cache, preallocated in segments. At least 4 segments a thread."),
    or("auto", key("store.segment_size", "segment-size", Kind::Bytes, "auto",
        "Size of one segment file, 4MiB to 4GiB; cannot change once the store exists. `auto` chooses by capacity.")),
    or("auto", key("store.threads", "threads", Kind::Count, "auto",
        "Data-plane threads (shards), each with its own ring and segments. `auto` = one per CPU.")),
    or("auto", key("store.ram_tier", "ram-tier", Kind::Bytes, "auto",
        "Part of `memory` that holds whole small objects (64KiB at most), so that hot ones are read without the disk. `auto` = an eighth; at most a quarter.")),
    key("write_cache.dirty_ratio", "write-cache-dirty-ratio", Kind::Ratio, "0.3",
        "Most of `store.capacity` that data not yet in its UFS (WRITE_BACK, TRANSIENT) may fill; the rest stays for the read cache."),
    key("write_cache.persist_retry_initial", "write-cache-persist-retry-initial", Kind::Duration, "1s",
        "Wait before a failed upload to the UFS is tried again; doubled, with jitter, after each further failure. There is no last attempt."),
    key("write_cache.persist_retry_max", "write-cache-persist-retry-max", Kind::Duration, "1h",
        "Longest wait between two attempts at an upload to the UFS."),
    key("write_cache.persist_concurrency", "write-cache-persist-concurrency", Kind::Count, "64",
        "Most uploads of dirty data to one mount's UFS at a time."),
    key("write_cache.persist_part_size", "write-cache-persist-part-size", Kind::Bytes, "256MiB",
        "Larger objects are persisted to an S3 UFS in parts of this size, so that an upload that was cut goes on where it ended; 5MiB to 5GiB. Their ETag in the UFS is then that of a multipart upload."),
    key("write_cache.persist_nice", "write-cache-persist-nice", Kind::Count, "10",
        "How far the threads that upload dirty data stand behind those that serve requests, 0 to 19 (see nice(2)): where CPUs are short, requests go first. What is behind is bounded by `write_cache.dirty_ratio`."),
    key("write_cache.fence", "write-cache-fence", Kind::Duration, "15m",
        "How long a UFS request without an answer may still be applied by the UFS; until then no other change of its key is sent. S3 stores refuse requests signed longer ago than 15 minutes. Where a store and the proxies before it are known to drop a request sooner, that time is safe and a key waits less."),
    key("write_cache.orphan_timeout", "write-cache-orphan-timeout", Kind::Duration, "1h",
        "Time after which a multipart upload that nobody completed is aborted: since it was begun or its last part was stored, and since the service started."),
    key("write_cache.orphan_period", "write-cache-orphan-period", Kind::Duration, "10min",
        "Pause between two searches for such uploads, here and in the UFS."),
    key("write_cache.writing_timeout", "write-cache-writing-timeout", Kind::Duration, "10min",
        "Longest wait for the next bytes of an object or part; then the write is ended and its space freed. The shorter of this and `s3.body_timeout` counts."),
    key("jobs.running", "jobs-running", Kind::Count, "2",
        "Jobs (`job load`, `job free`, `fs rm -r`) that run at a time; others wait."),
    key("jobs.concurrency", "jobs-concurrency", Kind::Count, "8",
        "Objects one job handles at a time. Fewer leave more of the disk and the UFS to clients."),
    key("jobs.keep", "jobs-keep", Kind::Duration, "7d",
        "How long a job that has ended stays listed."),
    key("jobs.kept", "jobs-kept", Kind::Count, "500",
        "Most jobs kept, those that wait and run included; the oldest that have ended go first."),
    key("metadata.engine", "metadata-engine", Kind::Choice(&["fjall", "redb", "foundationdb"]), "fjall",
        "Store of the metadata: `fjall` and `redb` are embedded, `foundationdb` is a cluster (docs/operations/foundationdb.md). Cannot change once metadata exists."),
    key("metadata.foundationdb.client_library", "fdb-client-library", Kind::Text, "libfdb_c.so",
        "FoundationDB's client library, 7.3 or newer, loaded when the engine is `foundationdb`; a name without a slash is looked up as the system does."),
    key("metadata.foundationdb.cluster_file", "fdb-cluster-file", Kind::Path, "/etc/foundationdb/fdb.cluster",
        "FoundationDB's cluster file. Must be writable: the client library keeps it up to date."),
    key("metadata.foundationdb.key_prefix", "fdb-key-prefix", Kind::Text, "quickwater/",
        "What all keys in FoundationDB begin with, at most 64 bytes. One service for each prefix."),
    or("auto", key("ufs.uri", "ufs", Kind::Uri, "auto",
        "Where CreateBucket makes buckets; what is already there is served as buckets too. `auto` = the directory `ufs` below `dir`.")),
    key("ufs.options", "ufs-options", Kind::Options, "",
        "Options of the default UFS: `endpoint`, `region`, `path_style`, `credentials` (a reference: `env:PREFIX`, `file:/path`, `profile:NAME`, `default`, `anonymous`), `min_part_size` (smallest part but for the last that the store takes; `5MiB` unless given)."),
    key("ufs.concurrency", "ufs-concurrency", Kind::Count, "64",
        "Most requests to one mount's UFS at a time."),
    key("ufs.timeout.connect", "ufs-timeout-connect", Kind::Duration, "5s",
        "How long a connection to a UFS may take."),
    key("ufs.timeout.idle", "ufs-timeout-idle", Kind::Duration, "30s",
        "How long a UFS request may make no progress."),
    key("ufs.timeout.request", "ufs-timeout-request", Kind::Duration, "30s",
        "How long a UFS may take to answer a request; for every MiB of a body a second more."),
    key("cluster.listen", "cluster-listen", Kind::Address, "127.0.0.1:29989",
        "Where `quickwater control` listens for workers. They need a certificate of the cluster; S3 keys and admin tokens mean nothing here."),
    or("off", key("cluster.control", "cluster-control", Kind::HostPort, "off",
        "Where a worker finds its control plane (its `cluster.listen`); a name is looked up anew for every session. `worker --control` says the same.")),
    or("auto", key("cluster.certificates", "cluster-certificates", Kind::Path, "auto",
        "Directory with `ca.pem`, `cert.pem` and `key.pem` of this process, as `quickwater cluster init` makes them. `auto` = the directory `cluster` below `dir`.")),
    or("off", key("cluster.node_id", "node-id", Kind::Text, "off",
        "Name of a worker within its cluster, the one its certificate was made for: up to 200 of a-z, 0-9, `-` and `.`, a host name.")),
    or("off", key("cluster.advertise", "advertise", Kind::Address, "off",
        "Address other workers reach a worker at; with port 0 the one it gets. They need a certificate of the cluster.")),
    or("auto", key("cluster.peer_listen", "peer-listen", Kind::Address, "auto",
        "Where a worker listens for other workers, if that is not the address they reach it at. `auto` = `cluster.advertise`.")),
    or("none", key("cluster.zone", "zone", Kind::Text, "none",
        "Where a worker stands (a rack, a room): copies are spread over zones.")),
    key("cluster.stripe_size", "stripe-size", Kind::Bytes, "64MiB",
        "Larger objects that their UFS has are cached in stripes of this size, each by one worker of the cluster; whole MiB, the same on all workers. Smaller ones, and what no UFS has, lie with the owner of their key."),
    or("off", key("cluster.hot_copies", "hot-copies", Kind::Bytes, "off",
        "Most of `store.capacity` for copies of what other workers hold of large objects and this one is asked for again and again, 1MiB to half of it; they are evicted first. `off` = no copies.")),
    key("cluster.lease", "cluster-lease", Kind::Duration, "75s",
        "How long a worker may answer for its keys after it last heard from the control plane, and how long its keys wait when it vanishes without a word; 2s to 10m. Set at the control plane."),
    key("shutdown.grace", "shutdown-grace", Kind::Duration, "25s",
        "How long requests in flight may go on after SIGTERM or SIGINT."),
    key("shutdown.persist", "shutdown-persist", Kind::Duration, "15s",
        "How long a worker that is told to stop goes on serving while it sends what only it has to its UFS and gives its slots to others; `0s` does not wait for that, nor does a second signal. What is pending of slots that it took a moment ago it notes on its disk first in any case, which takes milliseconds, and 20 s at most beside a disk that is late. It counts towards `shutdown.grace`, of which 5 s are left at least."),
    key("io.driver", "io-driver", Kind::Choice(&["auto", "uring", "epoll"]), "auto",
        "`uring` refuses to start without io_uring; `auto` falls back to epoll with a warning."),
    key("io.pin_threads", "io-pin-threads", Kind::Switch, "false",
        "Pin every data-plane thread to a CPU."),
    key("ebpf.reuseport", "ebpf-reuseport", Kind::Choice(&["auto", "off", "required"]), "auto",
        "An eBPF program gives every new connection to the shard with the fewest. `auto` uses it if it is built in and the kernel lets it run (CAP_BPF and CAP_PERFMON), else the kernel spreads connections by a hash; `required` refuses to start without."),
    or("off", key("ebpf.service", "ebpf-service", Kind::Address, "off",
        "Service address of the cluster: connections of this node to it are turned to this worker while it is ready, by eBPF programs (CAP_BPF and CAP_NET_ADMIN at the start). Else, and without them, they go where they went.")),
    or("auto", key("ebpf.local", "ebpf-local", Kind::Address, "auto",
        "Where such connections go: the S3 endpoint, by an address that its clients reach. `auto` = `s3.listen`, or the loopback if that is all addresses. The loopback is for clients in the worker's own network namespace; others are left alone then.")),
    or("auto", key("ebpf.cgroup", "ebpf-cgroup", Kind::Path, "auto",
        "Directory of the cgroup (version 2) whose processes, and those of the cgroups below, are meant. `auto` = the root: all of this node.")),
    key("ebpf.bypass", "ebpf-bypass", Kind::Choice(&["off", "auto"]), "off",
        "Experimental. `auto`: answers to clients of this node, by HTTP without TLS, go from socket to socket instead of by TCP, by eBPF programs (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON at the start, CAP_BPF as long as the worker runs; Linux 6.13; `ebpf.cgroup` says whose, and has to include the worker). Tried with a large answer at the start. Where that cannot be, and with `off`, all go by TCP."),
    or("off", key("ebpf.pins", "ebpf-pins", Kind::Path, "/sys/fs/bpf/quickwater",
        "Directory in a BPF file system with the programs that `quickwater ebpf load` left: they are used where they fit, and then no capability is needed. `off` = none are looked for. Connections that `ebpf.handoff` gave away are kept there, too.")),
    key("ebpf.handoff", "ebpf-handoff", Kind::Choice(&["off", "auto"]), "off",
        "Experimental. `auto`: in a cluster the TCP connection of a large GET is handed to the worker that owns the object, by an eBPF program and TCP_REPAIR (CAP_BPF at the start, CAP_NET_ADMIN as long as the worker runs, `ebpf.pins`): plain HTTP, workers on one Ethernet segment, every service address on the loopback of all of them. Where that cannot be, and with `off`, it is relayed."),
    key("ebpf.handoff_min", "ebpf-handoff-min", Kind::Bytes, "1MiB",
        "Smallest body for which a connection is handed over, as its owner has it set."),
    key("log.level", "log-level", Kind::Choice(&["error", "warn", "info", "debug", "trace"]), "info",
        "Least important log lines that are written (to stderr)."),
    key("log.format", "log-format", Kind::Choice(&["text", "json"]), "text",
        "Shape of log lines."),
];
