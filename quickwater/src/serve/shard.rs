//! One shard: its store handle, engine and S3 service, served until the stop.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quickwater_engine::Shared;
use quickwater_proto::ObjectRecord;
use quickwater_worker::buffers::Pool;
use quickwater_worker::http::{
    ConnectionInfo, ConnectionLimit, HttpConfig, HttpStats, NoBody, Payload, RequestBody,
    RequestView, Response, Server, Service,
};
use quickwater_worker::metrics::Metrics;
use quickwater_worker::runtime::Stop;
use quickwater_worker::store::Store;

use super::data_plane::Parts;

/// What all shards share.
#[derive(Clone)]
pub(super) struct Common {
    metrics: Arc<Metrics>,
    _store: Store,
    _shared: Arc<Shared>,
}

impl Common {
    pub(super) fn new(parts: &Parts<'_>, store: Store, shared: Arc<Shared>) -> Self {
        Self {
            metrics: Arc::clone(&parts.metrics),
            _store: store,
            _shared: shared,
        }
    }
}

/// What one shard has for itself.
pub(super) struct Seat {
    pub(super) index: usize,
    pub(super) socket: TcpListener,
    pub(super) pool: Pool,
    pub(super) stats: Arc<HttpStats>,
    pub(super) limit: Arc<ConnectionLimit>,
    pub(super) http: HttpConfig,
    pub(super) start: Instant,
    pub(super) stop: Stop,
}

/// The life of a shard.
pub(super) async fn run(common: Common, seat: Seat) {
    let server = Server {
        service: Unassembled {
            metrics: common.metrics,
            _pool: seat.pool,
            _start: seat.start,
        },
        config: seat.http,
        limit: seat.limit,
        stats: seat.stats,
    };
    match server.run(seat.socket, seat.stop).await {
        Ok(stopped) if stopped.aborted > 0 => {
            tracing::warn!(
                shard = seat.index,
                aborted = stopped.aborted,
                "connections were broken at the end of the grace"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::error!(shard = seat.index, %error, "the shard cannot serve"),
    }
}

/// Whether content read whole from the UFS is what its record promises.
pub(super) fn content_matches(record: &ObjectRecord, content: &[u8]) -> bool {
    content.len() as u64 == record.size
}

/// Answers until the S3 service takes this place.
struct Unassembled {
    metrics: Arc<Metrics>,
    _pool: Pool,
    _start: Instant,
}

impl Service for Unassembled {
    type Body = NoBody;

    async fn call<'a>(
        &'a self,
        _: RequestView<'a>,
        _: &'a ConnectionInfo,
        _: &'a mut RequestBody<'_>,
    ) -> Response<NoBody> {
        self.metrics
            .request("other", 503, std::time::Duration::ZERO);
        Response {
            status: 503,
            headers: Vec::new(),
            body: Payload::Empty,
            close: true,
        }
    }

    fn error_body(&self, _: u16, code: &str, message: &str, _: &ConnectionInfo) -> Bytes {
        Bytes::from(format!(
            "<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        ))
    }
}
