//! One shard: its store handle, engine and S3 service, served until the stop.

use std::marker::PhantomData;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_ebpf::ShardLoad;
use quickwater_engine::io::Environment as _;
use quickwater_engine::{Engine, Shared, World};
use quickwater_proto::{ChecksumKind, ObjectRecord};
use quickwater_s3::auth::{AuthMode as Signatures, AuthPolicy};
use quickwater_s3::body::Hasher;
use quickwater_s3::request::Dialect;
use quickwater_ufs::UfsClient;
use quickwater_worker::buffers::Pool;
use quickwater_worker::environment::ShardEnvironment;
use quickwater_worker::handoff::Handoff;
use quickwater_worker::http::{
    BypassGate, ConnectionLimit, Door, HttpConfig, HttpStats, Intake, Server,
};
use quickwater_worker::peer::{EnginePeers, PeerConfig, Peers};
use quickwater_worker::runtime::Stop;
use quickwater_worker::service::{
    AccessKey, S3Service, ServiceConfig, tell_of_ends, tell_of_last_ends,
};
use quickwater_worker::store::{ShardStore, Store};

use super::budget::Budget;
use super::data_plane::Parts;
use super::housekeeping::{self, Housekeeping};
use super::jobs::tasks_per_shard;
use super::names::Names;
use super::observe::Observe;
use crate::settings::{AuthMode, Settings};

/// How long a request waits for its place before it is told to slow down.
const ADMISSION_WAIT: Duration = Duration::from_secs(5);

/// The outside world of a shard, with the metadata here or elsewhere.
pub(super) struct Local<M>(PhantomData<M>);

impl<M: Names> World for Local<M> {
    type Disk = ShardStore;
    type Ufs = UfsClient;
    type Metadata = M;
    type Environment = ShardEnvironment;
    type Peers = EnginePeers;
}

/// What all shards share.
#[derive(Clone)]
pub(super) struct Common<M> {
    store: Store,
    shared: Arc<Shared>,
    ufs: UfsClient,
    metadata: M,
    service: Arc<ServiceConfig>,
    access_key: AccessKey,
    observe: Observe,
    /// Tasks of jobs at a time on this shard.
    job_tasks: usize,
    housekeeping: Housekeeping,
}

impl<M: Names> Common<M> {
    pub(super) fn new(
        parts: &Parts<'_, M>,
        store: Store,
        shared: Arc<Shared>,
        large_buffers: usize,
    ) -> Self {
        let credentials = parts.credentials;
        Self {
            store,
            shared,
            ufs: parts.ufs.clone(),
            metadata: parts.metadata.clone(),
            service: Arc::new(service_config(parts.settings, parts.budget)),
            access_key: AccessKey {
                id: credentials.access_key_id.clone(),
                secret: credentials.secret_access_key.reveal().to_owned(),
            },
            observe: Observe::new(Arc::clone(&parts.metrics), parts.access_log.clone()),
            job_tasks: tasks_per_shard(parts.settings, large_buffers),
            housekeeping: Housekeeping {
                period: parts.settings.write_cache.orphan_period,
                orphan_timeout: parts.settings.write_cache.orphan_timeout,
            },
        }
    }
}

/// What one shard has for itself.
pub(super) struct Seat {
    pub(super) index: usize,
    pub(super) doors: Vec<Door>,
    /// The other workers, and a socket for them.
    pub(super) peers: Option<(PeerConfig, TcpListener)>,
    pub(super) pool: Pool,
    pub(super) stats: Arc<HttpStats>,
    /// Its part in the spreading of connections, if a program does that.
    pub(super) load: Option<ShardLoad>,
    /// Hands connections over, if that is wanted and possible.
    pub(super) handoff: Option<Arc<Handoff>>,
    /// Answers to clients of this node, if programs see to those.
    pub(super) bypass: Option<Arc<BypassGate>>,
    pub(super) limit: Arc<ConnectionLimit>,
    pub(super) http: HttpConfig,
    pub(super) start: Instant,
    pub(super) stop: Stop,
}

/// The life of a shard.
pub(super) async fn run<M: Names>(common: Common<M>, seat: Seat) {
    let shard = seat.index;
    let disk = common.store.shard(shard, seat.pool.clone());
    let (peers, peer_door) = seat.peers.unzip();
    let peers = peers.map(Peers::new);
    let engine = Engine::<Local<M>>::new(
        common.shared,
        disk,
        common.ufs,
        common.metadata,
        ShardEnvironment::new(seat.start),
        EnginePeers(peers.clone()),
    );
    for _ in 0..common.job_tasks {
        let (worker, stop) = (engine.clone(), seat.stop.clone());
        engine
            .environment()
            .spawn(async move { worker.run_job_tasks(|| stop.is_requested()).await });
    }
    if shard == 0 {
        let (keeper, stop) = (engine.clone(), seat.stop.clone());
        engine
            .environment()
            .spawn(housekeeping::run(keeper, common.housekeeping, stop));
        let (keeper, stop) = (engine.clone(), seat.stop.clone());
        engine
            .environment()
            .spawn(async move { keeper.run_note_keeper(|| stop.is_requested()).await });
        if peers.is_some() {
            let (keeper, stop) = (engine.clone(), seat.stop.clone());
            engine
                .environment()
                .spawn(async move { keeper.run_copy_keeper(|| stop.is_requested()).await });
            let (copier, stop) = (engine.clone(), seat.stop.clone());
            engine
                .environment()
                .spawn(async move { copier.run_copier(|| stop.is_requested()).await });
        }
    }
    if shard == 0
        && let (Some(handoff), Some(peers)) = (&seat.handoff, &peers)
    {
        let (handoff, peers) = (Arc::clone(handoff), peers.clone());
        let telling = tell_of_ends(handoff, peers, seat.stop.clone());
        engine.environment().spawn(telling);
    }
    let handoff = seat.handoff.clone();
    let intake = Intake::default();
    let service = S3Service::new(
        engine,
        common.service,
        common.access_key,
        seat.pool,
        common.observe,
        peers.clone(),
    );
    let service = Rc::new(service.with_handoff(seat.handoff, intake.clone()));
    // Other workers are served until our own clients are: their requests go both ways.
    let grace = seat.http.shutdown_grace;
    let hosting = peer_door.map(|door| service.host_peers(door, seat.stop.clone(), grace));
    let server = Server {
        service,
        config: seat.http,
        limit: seat.limit,
        stats: seat.stats,
        load: seat.load,
        intake,
        bypass: seat.bypass,
    };
    match server.run(seat.doors, seat.stop).await {
        Ok(stopped) if stopped.aborted > 0 => {
            let aborted = stopped.aborted;
            tracing::warn!(
                shard,
                aborted,
                "connections were broken at the end of the grace"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::error!(shard, %error, "the shard cannot serve"),
    }
    if let (Some(handoff), Some(peers)) = (handoff, &peers) {
        tell_of_last_ends(handoff, peers.clone()).await;
    }
    if let Some(hosting) = hosting
        && let Err(error) = hosting.end().await
    {
        tracing::error!(shard, %error, "the shard could not serve other workers");
    }
    if let Some(peers) = peers {
        peers.end();
    }
}

fn service_config(settings: &Settings, budget: Budget) -> ServiceConfig {
    let s3 = &settings.s3;
    ServiceConfig {
        dialect: Dialect {
            domain: s3.domain.clone(),
            metadata_bytes_max: s3.user_metadata_bytes_max,
            ..Dialect::default()
        },
        policy: AuthPolicy {
            mode: match s3.auth {
                AuthMode::Verify => Signatures::Verify,
                AuthMode::Simple => Signatures::Simple,
            },
            anonymous: s3.anonymous,
        },
        region: s3.region.clone(),
        part_bytes_min: s3.min_part_bytes,
        folder_objects: s3.folder_objects,
        default_ufs: settings.ufs.uri.clone(),
        default_ufs_options: settings.ufs.options.clone(),
        metadata_ttl_ms: settings.metadata_ttl.as_ms(),
        admission_wait: ADMISSION_WAIT,
        document_bytes: usize::try_from(budget.documents_per_shard).unwrap_or(usize::MAX),
    }
}

/// Whether content read whole from the UFS is what its record promises: length,
/// the MD5 if the ETag is one, and every checksum over the whole object.
pub(super) fn content_matches(record: &ObjectRecord, content: &[u8]) -> bool {
    if content.len() as u64 != record.size {
        return false;
    }
    let promised: Vec<_> = record
        .checksums
        .iter()
        .filter(|c| c.kind == ChecksumKind::FullObject)
        .collect();
    let md5 = record.etag.as_md5();
    if promised.is_empty() && md5.is_none() {
        return true;
    }
    let mut hasher = Hasher::new(promised.iter().map(|c| c.algorithm));
    hasher.update(content);
    let (digest, checksums) = hasher.finish();
    let holds = |p: &&quickwater_proto::Checksum| {
        checksums
            .iter()
            .any(|c| c.algorithm == p.algorithm && c.value == p.value)
    };
    md5.is_none_or(|md5| md5 == digest) && promised.iter().all(holds)
}

#[cfg(test)]
mod tests {
    use quickwater_proto::{Checksum, ChecksumAlgorithm, ETag, PersistState, Version};

    use super::*;

    fn record(content: &[u8], etag: &str) -> ObjectRecord {
        ObjectRecord {
            version: Version::default(),
            size: content.len() as u64,
            etag: ETag::new(etag),
            modified_ms: 0,
            headers: Default::default(),
            checksums: Vec::new(),
            tags: Vec::new(),
            extents: Vec::new(),
            parts: Vec::new(),
            ufs: None,
            persist: PersistState::Persisted,
            partial: false,
        }
    }

    #[test]
    fn content_is_held_against_every_promise() {
        // RFC 1321, A.5.
        let abc = record(b"abc", "900150983cd24fb0d6963f7d28e17f72");
        assert!(content_matches(&abc, b"abc"));
        assert!(!content_matches(&abc, b"abd"));
        assert!(!content_matches(&abc, b"abcd"));
        let opaque = record(b"abc", "900150983cd24fb0d6963f7d28e17f72-1");
        assert!(content_matches(&opaque, b"abd"));
    }

    #[test]
    fn checksums_over_the_whole_object_count_others_do_not() {
        let mut with = record(b"123456789", "x-1");
        // Check value of CRC-32C (RFC 3720, B.4 polynomial).
        with.checksums.push(Checksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            kind: ChecksumKind::FullObject,
            value: vec![0xe3, 0x06, 0x92, 0x83],
        });
        assert!(content_matches(&with, b"123456789"));
        assert!(!content_matches(&with, b"123456780"));
        with.checksums[0].kind = ChecksumKind::Composite { parts: 2 };
        assert!(content_matches(&with, b"123456780"));
    }
}
