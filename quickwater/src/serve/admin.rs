//! The admin endpoint: what it shows of this process, and its listener.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quickwater_controlplane::Namespace;
use quickwater_controlplane::jobs::Jobs;
use quickwater_controlplane::rpc::{
    AdminToken, AdminViews, ClusterView, MountCheck, NodeView, PersistView, admin_routes,
};
use quickwater_engine::Shared;
use quickwater_proto::{Bucket, PolicyTable, UfsError, UfsErrorKind};
use quickwater_rpc::admin::{Condition, Node, Setting};
use quickwater_ufs::UfsClient;
use quickwater_worker::metrics::Metrics;
use quickwater_worker::store::Store;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::conditions::Conditions;
use super::files::Files;
use super::health::Readiness;
use super::mount_looks::MountLooks;
use super::places::check_free;
use crate::home::{Secret, TOKEN_ADVICE, token_path};
use crate::settings::{Values, keys};
use crate::store::MetadataStore;

/// Longest admin call; listing or reaching a UFS has its own, shorter deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Calls at a time on one connection.
const CALLS_PER_CONNECTION_MAX: usize = 16;
/// Dead connections are found out within about twice this.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the admin endpoint is made of.
pub(super) struct Parts<V, P> {
    pub(super) namespace: Namespace<MetadataStore>,
    pub(super) ufs: UfsClient,
    pub(super) node: V,
    pub(super) jobs: Jobs<MetadataStore>,
    pub(super) pending: P,
    /// The cluster, if this is its control plane.
    pub(super) cluster: Option<Arc<dyn ClusterView>>,
    /// The service's own directory.
    pub(super) dir: PathBuf,
    pub(super) token: Secret,
}

/// Serves until the runtime ends.
///
/// # Errors
/// The token in the directory is too weak.
pub(super) fn serve<V: NodeView, P: PersistView>(
    parts: Parts<V, P>,
    listener: TcpListener,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let token = AdminToken::new(parts.token.reveal()).with_context(|| {
        let path = token_path(&parts.dir);
        format!("{} cannot be used; {TOKEN_ADVICE}", path.display())
    })?;
    let views = AdminViews {
        node: Arc::new(parts.node),
        mounts: Arc::new(Reach {
            looks: MountLooks::new(parts.ufs.clone()),
            ufs: parts.ufs.clone(),
            namespace: parts.namespace.clone(),
            dir: parts.dir,
        }),
        files: Arc::new(Files::new(parts.namespace.clone(), parts.ufs)),
        persist: Arc::new(parts.pending),
        cluster: parts.cluster,
    };
    let server = Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        // REST clients speak HTTP/1.1.
        .accept_http1(true)
        .add_routes(admin_routes(parts.namespace, parts.jobs, views, token));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "the admin endpoint ended");
        }
    })
}

/// Looks at locations with the credentials of the service.
struct Reach {
    ufs: UfsClient,
    looks: MountLooks<UfsClient>,
    namespace: Namespace<MetadataStore>,
    dir: PathBuf,
}

#[tonic::async_trait]
impl MountCheck for Reach {
    async fn check(&self, bucket: &Bucket) -> Result<String, UfsError> {
        let others = self.namespace.buckets().await;
        let others = others.map_err(|e| UfsError::new(UfsErrorKind::Unavailable, e.to_string()))?;
        let (new, dir) = (bucket.clone(), self.dir.clone());
        let free = tokio::task::spawn_blocking(move || check_free(&new, &others, &dir)).await;
        free.unwrap_or_else(|error| Err(error.to_string()))
            .map_err(|taken| UfsError::new(UfsErrorKind::Invalid, taken))?;
        let report = self.ufs.check(bucket, false).await?;
        Ok(report.remarks.join("\n"))
    }

    async fn accept(&self, bucket: &Bucket) -> Result<(), UfsError> {
        self.ufs.accept(bucket).await
    }

    async fn troubles(&self, buckets: &[Bucket]) -> Vec<Option<String>> {
        let seen = self.looks.troubles(buckets).await;
        let both = buckets.iter().zip(seen);
        both.map(|(bucket, seen)| self.ufs.trouble(bucket).or(seen))
            .collect()
    }
}

/// All settings as the admin service shows them.
pub(super) fn settings(values: &Values, defaults: bool) -> Vec<Setting> {
    let built_in = Values::defaults();
    let values = if defaults { &built_in } else { values };
    let setting = |key: &keys::Key| Setting {
        key: key.name.into(),
        value: values.texts(key.name).join(" "),
        source: values.source(key.name).to_string(),
    };
    keys::KEYS.iter().map(setting).collect()
}

/// This process.
pub(super) struct ThisNode {
    pub(super) started: Instant,
    pub(super) readiness: Readiness,
    pub(super) address: SocketAddr,
    pub(super) shards: usize,
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) values: Values,
    pub(super) metadata_ttl_ms: u64,
    pub(super) conditions: Conditions,
}

impl ThisNode {
    fn state(&self) -> &'static str {
        let suspect = self.store.stats().is_suspect() || self.readiness.is_broken();
        match (suspect, self.readiness.get()) {
            (true, _) => "suspect",
            (false, true) => "ready",
            (false, false) => "draining",
        }
    }
}

impl NodeView for ThisNode {
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn nodes(&self) -> Vec<Node> {
        let stats = self.store.stats();
        let queued = self.shared.persist.totals();
        let transient = &self.shared.transient;
        vec![Node {
            name: "local".into(),
            s3_address: self.address.to_string(),
            state: self.state().into(),
            shards: u32::try_from(self.shards).unwrap_or(u32::MAX),
            capacity_bytes: self.store.capacity_bytes(),
            used_bytes: stats.live_bytes.load(std::sync::atomic::Ordering::Relaxed),
            dirty_bytes: queued.bytes.saturating_add(transient.bytes()),
            changes: queued.puts + queued.deletes,
            transient_objects: transient.objects(),
            ..Node::default()
        }]
    }

    fn counters(&self) -> Vec<(String, f64)> {
        let totals = self.metrics.samples().totals();
        totals
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn conditions(&self) -> Vec<Condition> {
        let condition = |(name, state, detail): (&str, &str, String)| Condition {
            name: name.into(),
            state: state.into(),
            detail,
        };
        self.conditions.all().into_iter().map(condition).collect()
    }

    fn settings(&self, defaults: bool) -> Vec<Setting> {
        settings(&self.values, defaults)
    }

    fn default_metadata_ttl_ms(&self) -> u64 {
        self.metadata_ttl_ms
    }

    fn mounts_changed(&self) {
        self.shared.forget_buckets();
    }

    fn policies_changed(&self, version: u64, table: &PolicyTable) {
        self.shared.policies.replace(version, table.clone());
    }
}
