//! Puts the data plane together: store, buffers, engine state, shards.
//!
//! Absent: what a shard answers; that is `shard.rs`.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quickwater_controlplane::records::JournalEntry;
use quickwater_engine::{EngineConfig, PersistConfig, Shared};
use quickwater_proto::PolicyTable;
use quickwater_ufs::UfsClient;
use quickwater_worker::buffers::{Pool, PoolConfig};
use quickwater_worker::http::{ConnectionLimit, Door, HttpConfig, HttpStats, TlsDoor};
use quickwater_worker::listener;
use quickwater_worker::metrics::Metrics;
use quickwater_worker::peer::PeerConfig;
use quickwater_worker::runtime::{self, DriverChoice, RuntimeConfig, Shards, Stop};
use quickwater_worker::store::{self, Store, StoreConfig};
use quickwater_worker::tls::Identity;

use tokio::runtime::Runtime;

use super::access_log::AccessLog;
use super::budget::Budget;
use super::bypass;
use super::conditions::Conditions;
use super::handover::{self, Handover};
use super::names::Names;
use super::persister::{self, Persister};
use super::recover::recover;
use super::reuseport::{self, Spreading};
use super::shard;
use crate::home::Credentials;
use crate::settings::{IoDriver, Settings};

/// Chunks read ahead of the one being sent to a lone client.
const READ_DEPTH: usize = 4;
/// Chunks fetched from the UFS by one read when a client reads on.
const FILL_RUN_CHUNKS: u32 = 8;
/// Longest wait of a flow for another one's work.
const FLOW_WAIT_MAX: Duration = Duration::from_secs(60);
/// Objects imported at once while a listing is compared.
const IMPORT_CONCURRENCY: usize = 64;
/// Objects persisted at a time, all mounts together: each holds up to two large
/// buffers.
const PERSISTS_MAX: usize = 256;
/// After the grace shards get this long to unwind.
const UNWIND: Duration = Duration::from_secs(5);

/// What the data plane is made of.
pub(super) struct Parts<'s, M> {
    pub(super) settings: &'s Settings,
    pub(super) budget: Budget,
    pub(super) credentials: &'s Credentials,
    pub(super) metrics: Arc<Metrics>,
    pub(super) metadata: M,
    pub(super) ufs: UfsClient,
    /// Path policies in force, with their version.
    pub(super) policies: (u64, PolicyTable),
    pub(super) access_log: Option<AccessLog>,
    /// The slots whose keys are this process's to see to.
    pub(super) mine: Box<dyn Fn(usize) -> bool + Sync>,
    /// Where to write what no row names, before it is let go; `None`: it is of no worth.
    pub(super) aside: Option<PathBuf>,
    /// Certificate and key, if HTTPS is spoken.
    pub(super) identity: Option<Arc<Identity>>,
    /// The other workers, and sockets for them, one for each shard.
    pub(super) peers: Option<(PeerConfig, Vec<TcpListener>)>,
    pub(super) runtime: &'s Runtime,
    /// What eBPF does here is told there.
    pub(super) conditions: Conditions,
}

/// A running data plane.
pub(super) struct DataPlane {
    /// Where the S3 endpoint listens.
    pub(super) address: SocketAddr,
    /// Where it speaks HTTPS, if it does.
    pub(super) tls_address: Option<SocketAddr>,
    /// The store, for status.
    pub(super) store: Store,
    /// State all shards share.
    pub(super) shared: Arc<Shared>,
    /// What each shard counts of its connections.
    pub(super) http: Vec<Arc<HttpStats>>,
    /// When the shards' monotonic clock was zero.
    pub(super) start: Instant,
    stop: Stop,
    shards: Shards,
    persister: Persister,
    /// Attached as long as the shards run.
    _spreading: Option<Spreading>,
    /// Entries of connections that went elsewhere are looked at as long.
    _handover: Option<Handover>,
}

/// Opens the store, binds the endpoint and starts the shards.
///
/// # Errors
/// The store refuses (in use, other version, no space), the address is taken,
/// memory is short, or io_uring is required and refused.
pub(super) fn start_data_plane<M: Names>(mut parts: Parts<'_, M>) -> Result<DataPlane> {
    let settings = parts.settings;
    let threads = settings.store.threads;
    let entrances = Entrances::open(&parts)?;
    let own = parts.peers.as_ref();
    let own = own.and_then(|(_, sockets)| sockets.first()?.local_addr().ok());
    // Right after the listeners: what came before the program is never handed over.
    let handover = handover::start(
        &settings.ebpf,
        own.map(|address| address.ip()),
        entrances.address,
        (&parts.metrics, &parts.conditions),
    );
    let store = Store::open(store_config(settings, parts.budget)?)
        .context("cannot open the cache store")?;
    parts.metrics.collect_store(store.clone());
    let pools = (0..threads)
        .map(|_| pool(parts.budget.buffers_per_shard))
        .collect::<Result<Vec<Pool>>>()?;
    let large_buffers = pools.first().map_or(0, |pool| pool.available().large_total);
    let persist_pool = pool(parts.budget.persist_buffers)?;
    let all = pools.iter().chain([&persist_pool]).cloned();
    parts.metrics.collect_buffers(all.collect());
    let config = engine_config(parts.budget, settings, &persist_pool);
    let shared = match parts.metadata.here() {
        Some(_) => Shared::new(config),
        None => Shared::leased(config),
    };
    let (version, table) = &parts.policies;
    shared.policies.replace(*version, table.clone());
    let node = parts.peers.as_ref();
    let node = node.map(|(peers, _)| peers.directory.node().clone());
    parts
        .runtime
        .block_on(recover(
            &parts.metadata,
            &store,
            &shared,
            settings.write_cache.fence,
            (node.as_ref(), &*parts.mine),
            parts.aside.as_deref(),
        ))
        .context("cannot bring cache and metadata together")?;
    parts.metrics.collect_engine(Arc::clone(&shared));
    let stats: Vec<Arc<HttpStats>> = (0..threads).map(|_| Arc::default()).collect();
    parts.metrics.collect_http(stats.clone());

    let wanted = (settings.ebpf.reuseport, settings.ebpf.pins.as_deref());
    let spreading = reuseport::attach(wanted, &entrances.doors, &parts.conditions)
        .context("ebpf.reuseport is `required`; `auto` goes on without")?;
    if let Some(spreading) = &spreading {
        spreading.collect(&parts.metrics);
    }
    let bypass = bypass::start(
        &settings.ebpf,
        entrances.plain_address(),
        &parts.metrics,
        &parts.conditions,
    );
    let neighbours = parts.peers.take();
    let common = shard::Common::new(&parts, store.clone(), Arc::clone(&shared), large_buffers);
    let stop = Stop::new();
    let limit = ConnectionLimit::new(settings.s3.connections_max);
    let http = http_config(settings);
    let start = Instant::now();
    let (address, tls_address) = (entrances.address, entrances.tls_address);
    let (peers, peer_doors) = neighbours.unzip();
    let mut peer_doors = peer_doors.unwrap_or_default().into_iter();
    let seats = entrances
        .doors
        .into_iter()
        .zip(pools)
        .zip(stats.iter().cloned());
    let mains = seats.enumerate().map(|(index, ((doors, pool), stats))| {
        let seat = shard::Seat {
            index,
            doors,
            peers: peers.clone().zip(peer_doors.next()),
            pool,
            stats,
            load: spreading.as_ref().map(|s| s.shard(index)),
            handoff: handover.as_ref().map(|h| Arc::clone(&h.handoff)),
            bypass: bypass.clone(),
            limit: Arc::clone(&limit),
            http: http.clone(),
            start,
            stop: stop.clone(),
        };
        let common = common.clone();
        move |_| shard::run(common, seat)
    });
    let shards = runtime::start(&runtime_config(settings), mains.collect())
        .context("cannot start the data-plane threads")?;
    let persister = Persister::start(persister::Parts {
        runtime: runtime_config(settings),
        nice: settings.write_cache.persist_nice,
        store: store.clone(),
        shared: Arc::clone(&shared),
        ufs: parts.ufs.clone(),
        metadata: parts.metadata.clone(),
        pool: persist_pool,
        start,
    })?;
    tracing::info!(%address, ?tls_address, threads, driver = ?shards.driver, "the S3 endpoint listens");
    Ok(DataPlane {
        address,
        tls_address,
        store,
        shared,
        http: stats,
        start,
        stop,
        shards,
        persister,
        _spreading: spreading,
        _handover: handover,
    })
}

/// The sockets of the endpoint, by shard.
struct Entrances {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    doors: Vec<Vec<Door>>,
}

impl Entrances {
    fn open<M>(parts: &Parts<'_, M>) -> Result<Self> {
        let s3 = &parts.settings.s3;
        let threads = parts.settings.store.threads;
        let first = listener::bind(s3.listen, threads)
            .context("cannot open the S3 endpoint; change s3.listen (port 0 = any free port)")?;
        let memory_bytes = usize::try_from(parts.budget.tls_per_shard)?;
        let identity = parts.identity.clone();
        let tls = identity.map(|identity| TlsDoor {
            identity,
            memory_bytes,
        });
        let own = s3.tls.as_ref().and_then(|tls| tls.listen);
        let second = own
            .map(|address| listener::bind(address, threads))
            .transpose()
            .context("cannot open the HTTPS endpoint; change s3.tls.listen")?;
        let address = first.address;
        let tls_address = match &second {
            Some(second) => Some(second.address),
            None => tls.is_some().then_some(address),
        };
        let doors = |sockets: Vec<TcpListener>, tls: Option<&TlsDoor>| {
            let tls = tls.cloned();
            sockets.into_iter().map(move |listener| Door {
                listener,
                tls: tls.clone(),
            })
        };
        let doors = match second {
            None => doors(first.sockets, tls.as_ref())
                .map(|d| vec![d])
                .collect(),
            Some(second) => doors(first.sockets, None)
                .zip(doors(second.sockets, tls.as_ref()))
                .map(|(plain, tls)| vec![plain, tls])
                .collect(),
        };
        Ok(Entrances {
            address,
            tls_address,
            doors,
        })
    }
}

impl Entrances {
    /// Where HTTP without TLS is spoken, if it is.
    fn plain_address(&self) -> Option<SocketAddr> {
        (self.tls_address != Some(self.address)).then_some(self.address)
    }
}

impl DataPlane {
    /// Stops accepting and finishes what is in flight within the grace, of which `used` is
    /// over; `false` when a shard had to be left behind.
    pub(super) fn stop(self, grace: Duration, used: Duration) -> bool {
        self.stop.request_after(used);
        let missing = self.shards.join(self.stop.grace_of(grace) + UNWIND);
        if !missing.is_empty() {
            tracing::error!(shards = ?missing, "these shards did not end in time");
        }
        let ended = self.persister.end(UNWIND);
        self.store.note_settled(self.shared.journal.through());
        if !self.store.sync_marks(UNWIND) {
            tracing::warn!("what has ended was not noted in time; the next start does it");
        }
        ended && missing.is_empty()
    }
}

/// How the cache store is to be opened.
///
/// # Errors
/// A number that this machine cannot hold.
pub(super) fn store_config(settings: &Settings, budget: Budget) -> Result<StoreConfig> {
    let (capacity, threads) = (settings.store.capacity_bytes, settings.store.threads);
    Ok(StoreConfig {
        segment_bytes: settings.store.segment_bytes,
        dirty_ratio: settings.write_cache.dirty_ratio,
        ram_tier_bytes: usize::try_from(budget.ram_tier)?,
        records_max: budget.index / store::INDEX_RECORD_BYTES,
        note_order: |note| JournalEntry::decode(note).ok().map(|note| note.order()),
        ..StoreConfig::new(&settings.dir, capacity, threads)
    })
}

fn pool(bytes: u64) -> Result<Pool> {
    let bytes = usize::try_from(bytes)?;
    Pool::new(PoolConfig::new(bytes))
        .context("cannot make the IO buffers; raise `memory` or lower store.threads")
}

fn engine_config(budget: Budget, settings: &Settings, persist_pool: &Pool) -> EngineConfig {
    let write_cache = &settings.write_cache;
    EngineConfig {
        object_cache_bytes: usize::try_from(budget.object_cache).unwrap_or(usize::MAX),
        read_depth: READ_DEPTH,
        stripe_bytes: Some(settings.cluster.stripe_bytes),
        hot_copies_bytes: settings.cluster.hot_copies_bytes,
        fill_run_chunks: FILL_RUN_CHUNKS,
        wait_max: FLOW_WAIT_MAX,
        import_concurrency: IMPORT_CONCURRENCY,
        persist: PersistConfig {
            retry_initial: write_cache.persist_retry_initial,
            retry_max: write_cache.persist_retry_max,
            running_max: PERSISTS_MAX,
            bucket_running_max: write_cache.persist_concurrency,
            part_bytes: write_cache.persist_part_bytes,
            memory_bytes: budget.changes,
            running_chunks_max: persist_pool.available().large_total as u64,
            ..PersistConfig::default()
        },
        content_matches: shard::content_matches,
    }
}

fn http_config(settings: &Settings) -> HttpConfig {
    let s3 = &settings.s3;
    HttpConfig {
        header_timeout: s3.header_timeout,
        idle_timeout: s3.idle_timeout,
        // One timer: a write that stalls is abandoned by the shorter of both.
        body_timeout: s3.body_timeout.min(settings.write_cache.writing_timeout),
        write_timeout: s3.write_timeout,
        stall_timeout: s3.stall_timeout,
        shutdown_grace: settings.shutdown_grace,
        ..HttpConfig::default()
    }
}

fn runtime_config(settings: &Settings) -> RuntimeConfig {
    RuntimeConfig {
        driver: match settings.io_driver {
            IoDriver::Auto => DriverChoice::Auto,
            IoDriver::Uring => DriverChoice::Uring,
            IoDriver::Epoll => DriverChoice::Epoll,
        },
        pin: settings.io_pin_threads,
        ..RuntimeConfig::default()
    }
}
