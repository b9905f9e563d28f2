//! One S3 request on one shard: who asks, what for, which flow, which answer.
//!
//! Absent: rules (the engine's), S3 text (the dialect's), sockets (`http`).

mod across;
mod answer;
mod arrival;
mod body;
mod buckets;
mod copies;
mod copy;
mod dispatch;
mod documents;
mod errands;
mod handoff;
mod host;
mod incoming;
mod listings;
mod objects;
mod permits;
mod place;
mod policy;
mod quick;
mod read;
mod records;
mod relay;
mod steps;
mod stripes;
mod uploads;
mod xml;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quickwater_engine::{Engine, World};
use quickwater_proto::BucketName;
use quickwater_s3::auth::{AuthPolicy, Credentials, SigningKeyCache};
use quickwater_s3::request::Dialect;

pub use answer::ServiceAnswer;
pub use handoff::{tell_of_ends, tell_of_last_ends};
pub use quick::PlainAnswer;
pub use read::ObjectBytes;

use crate::buffers::{Pool, PoolBuf};
use crate::handoff::{Departure, Handoff, Parting};
use crate::hashing::HashDesk;
use crate::http::{
    ConnectionInfo, DocumentMemory, Intake, RequestBody, RequestView, Response, Service, Starved,
};
use crate::peer::{Hosting, Peers};
use crate::runtime::Stop;
use permits::Permits;
use place::Neighbours;

/// Of a shard's buffers one in so many is for bodies that are relayed.
const RELAY_SHARE: usize = 4;
/// Buffers a relayed body holds at once: one comes while the one before goes.
const BUFFERS_PER_RELAY: usize = 2;
/// Of a shard's buffers one in so many is for sources of copies.
const SOURCE_SHARE: usize = 8;
/// Buffers a source holds at once: as above, and one is read ahead.
const BUFFERS_PER_SOURCE: usize = 3;
/// Of a shard's buffers one in so many is for pieces of stripes that others ask for.
const STRIPE_SHARE: usize = 8;
/// Buffers such a piece holds at once: it is read while another is fetched.
const BUFFERS_PER_STRIPE: usize = 2;

/// Settings of the S3 service, the same on every shard.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// How requests are understood.
    pub dialect: Dialect,
    /// Who may come in.
    pub policy: AuthPolicy,
    /// Region shown to clients; requests signed for any region are accepted.
    pub region: String,
    /// Smallest part of a multipart upload but the last, bytes.
    pub part_bytes_min: u64,
    /// Show folders as empty objects in listings.
    pub folder_objects: bool,
    /// CreateBucket makes buckets under this UFS URI.
    pub default_ufs: String,
    /// UFS options of buckets made there.
    pub default_ufs_options: Vec<(String, String)>,
    /// Metadata TTL of buckets made there, milliseconds.
    pub metadata_ttl_ms: u64,
    /// How long a request waits for its place before it is told to slow down.
    pub admission_wait: Duration,
    /// Most memory for documents on each shard, bytes.
    pub document_bytes: usize,
}

/// The one access key of this service.
#[derive(Clone)]
pub struct AccessKey {
    /// Shown in requests and logs.
    pub id: String,
    /// Never shown.
    pub secret: String,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Credentials for AccessKey {
    fn secret(&self, access_key: &str) -> Option<&str> {
        (access_key == self.id).then_some(&self.secret)
    }
}

/// What a shard tells the outside about a finished request.
pub trait Observer: 'static {
    /// Called when the head of the answer is ready.
    fn answered(&self, done: &Answered<'_>);
}

/// A request that was answered.
#[derive(Debug)]
pub struct Answered<'a> {
    /// S3 action; `Refused` when it was not understood.
    pub operation: &'static str,
    /// Method, as sent.
    pub method: &'a str,
    /// Path without query: signatures of presigned requests stay out of logs.
    pub path: &'a str,
    /// Bucket of a request that was understood and has one.
    pub bucket: Option<&'a str>,
    /// HTTP status.
    pub status: u16,
    /// S3 error code, if any.
    pub code: Option<&'static str>,
    /// The client, request id.
    pub info: &'a ConnectionInfo,
    /// Access key, when one was given.
    pub access_key: Option<&'a str>,
    /// From the head's arrival until the answer's head was ready.
    pub elapsed: Duration,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Where a GET's bytes come from.
    pub cache: Option<quickwater_engine::CacheResult>,
}

/// The S3 service of one shard.
pub struct S3Service<W: World, O> {
    engine: Engine<W>,
    config: Arc<ServiceConfig>,
    access_key: AccessKey,
    signing_keys: RefCell<SigningKeyCache>,
    permits: Permits,
    documents: Rc<DocumentMemory>,
    pool: Pool,
    hashing: HashDesk,
    observer: O,
    /// None: there are no others.
    neighbours: Option<Neighbours>,
    /// None: connections stay where they are.
    handoff: Option<Arc<Handoff>>,
    intake: Intake,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Puts the service of a shard together. `pool`, the shard's, decides how many
    /// bodies stream at once. `peers`: the other workers, if there are any.
    pub fn new(
        engine: Engine<W>,
        config: Arc<ServiceConfig>,
        access_key: AccessKey,
        pool: Pool,
        observer: O,
        peers: Option<Peers>,
    ) -> Self {
        let (permits, neighbours) = seats(&pool, &config, peers);
        let documents = DocumentMemory::new(config.document_bytes, config.admission_wait);
        Self {
            engine,
            config,
            access_key,
            signing_keys: RefCell::default(),
            permits,
            documents,
            pool,
            hashing: HashDesk::new(),
            observer,
            neighbours,
            handoff: None,
            intake: Intake::default(),
        }
    }

    /// Hands connections over, and takes them in by `intake`, that of the shard's server.
    #[must_use]
    pub fn with_handoff(self, handoff: Option<Arc<Handoff>>, intake: Intake) -> Self {
        Self {
            handoff,
            intake,
            ..self
        }
    }

    /// Serves other workers until that is ended; what they began may go on for `grace`
    /// after `stop`. Without [`Peers`] there are none.
    #[must_use]
    pub fn host_peers(
        self: &Rc<Self>,
        listener: std::net::TcpListener,
        stop: Stop,
        grace: Duration,
    ) -> Hosting {
        let host = Rc::clone(self);
        Hosting::begin(stop, grace, move |stop, grace| async move {
            match &host.neighbours {
                Some(neighbours) => {
                    let peers = neighbours.peers.clone();
                    peers.serve(listener, Rc::clone(&host), stop, grace).await
                }
                None => Ok(()),
            }
        })
    }
}

/// Deals the buffers of a shard out: to bodies served here, to those relayed, to sources of
/// copies made elsewhere, and to pieces of stripes.
fn seats(
    pool: &Pool,
    config: &ServiceConfig,
    peers: Option<Peers>,
) -> (Permits, Option<Neighbours>) {
    let (all, wait) = (pool.available().large_total, config.admission_wait);
    let Some(peers) = peers else {
        return (Permits::new(all, wait), None);
    };
    let (relays, sources) = (all / RELAY_SHARE, all / SOURCE_SHARE);
    let stripes = all / STRIPE_SHARE;
    let neighbours = Neighbours {
        peers,
        relays: Permits::of(relays / BUFFERS_PER_RELAY, wait),
        sources: Permits::of(sources / BUFFERS_PER_SOURCE, wait),
        stripes: Permits::of(stripes / BUFFERS_PER_STRIPE, wait),
    };
    let own = all - relays - sources - stripes;
    (Permits::new(own, wait), Some(neighbours))
}

impl<W, O> Service for S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    type Body = ObjectBytes<W>;
    type Quick<'s> = PlainAnswer<'s, W, O>;

    fn quick(&self, request: RequestView<'_>, front: &[u8]) -> Option<PlainAnswer<'_, W, O>> {
        self.plain_answer(&request, front)
    }

    async fn call<'a>(
        &'a self,
        request: RequestView<'a>,
        info: &'a ConnectionInfo,
        body: &'a mut RequestBody<'_>,
    ) -> Response<Self::Body> {
        let begun = Instant::now();
        let mut seen = dispatch::Seen::default();
        let view = quickwater_s3::RequestView {
            method: request.method,
            target: request.target,
            headers: request.headers,
        };
        let answer = self.dispatch(&view, info, body, &mut seen).await;
        let path = request.target.split('?').next().unwrap_or_default();
        let (response, code) = answer::into_response(answer, &request, path, info);
        if matches!(response.body, crate::http::Payload::Elsewhere(_)) {
            // Whoever answers it counts it.
            return response;
        }
        self.observer.answered(&Answered {
            operation: seen.operation,
            method: request.method,
            path,
            bucket: seen.bucket.as_ref().map(BucketName::as_str),
            status: response.status,
            code: code.or(seen.code),
            info,
            access_key: seen.access_key.as_deref(),
            elapsed: begun.elapsed(),
            response_bytes: answer::body_bytes(&response),
            cache: seen.cache,
        });
        response
    }

    fn hands_over(&self) -> bool {
        self.handoff.is_some()
    }

    fn may_leave(&self, client: SocketAddr, service: SocketAddr) -> bool {
        let handoff = self.handoff.as_ref();
        handoff.is_some_and(|handoff| handoff.take_arrival(client, service))
    }

    async fn hand_over(
        &self,
        to: &Departure,
        info: &ConnectionInfo,
        socket: OwnedFd,
        unread: &[u8],
    ) -> Parting {
        self.depart(to, info, socket, unread).await
    }

    fn starved(&self) -> Starved {
        Starved {
            buffers: self.permits.waiting() + self.pool.available().waiting,
            documents: self.documents.waiting(),
        }
    }

    fn documents(&self) -> Option<&Rc<DocumentMemory>> {
        Some(&self.documents)
    }

    fn error_body(&self, _: u16, code: &str, message: &str, info: &ConnectionInfo) -> Bytes {
        answer::transport_error(code, message, info)
    }
}
