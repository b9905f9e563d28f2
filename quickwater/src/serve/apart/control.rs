//! `control`: metadata, membership, placement, mounts, policies and the admin API,
//! without a data plane.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quickwater_controlplane::cluster::{Cluster, Reason, SILENCE_MAX};
use quickwater_controlplane::jobs::{Jobs, JobsConfig};
use quickwater_controlplane::namespace::JobLimits;
use quickwater_controlplane::rpc::cluster_routes;
use quickwater_worker::metrics::{Metric, Metrics};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::super::budget::Budget;
use super::super::health::{self, Readiness};
use super::super::signals::StopSignals;
use super::super::{
    RUNTIME_UNWIND, admin, buckets, control, control_runtime, jobs, listen, raise_file_limit,
    sources,
};
use super::Certificates;
use super::elsewhere::{Hands, Queues, Workers};
use super::expiry::Expiry;
use crate::cli::{SettingsArgs, Usage, emit};
use crate::home::{Home, LastStart, RunFile, Verb};
use crate::settings::{Settings, Values};
use crate::store::MetadataStore;

/// Dead connections are found out within about twice this.
const KEEPALIVE: Duration = Duration::from_secs(SILENCE_MAX.as_secs() / 2);
/// Threads for metadata and admin.
const THREADS: usize = 4;

/// Runs a control plane until it is told to stop.
///
/// # Errors
/// It cannot start.
pub(crate) fn run(args: &SettingsArgs) -> Result<()> {
    let values = args.values()?;
    let settings = Settings::from_values(&values).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    raise_file_limit();
    let home = Home::open(&settings.dir)?;
    RunFile::clear(home.dir())?;
    LastStart::new(Verb::Control, &values).note(home.dir());
    let runtime = control_runtime(THREADS)?;
    let mut signals = runtime.block_on(async { StopSignals::install() })?;
    let (run, readiness) = start(&runtime, &home, &settings, &values)?;
    let guard = run.publish(home.dir())?;
    readiness.set(true);
    // Where lines are read by machines, the log says it.
    if !settings.log_json {
        emit(&announce(&run))?;
    }
    tracing::info!(dir = %home.dir().display(), cluster = ?run.cluster, "ready");
    let signal = runtime.block_on(signals.next());
    tracing::info!(signal, "stopping");
    readiness.set(false);
    drop(guard);
    // Calls of workers that are cut here are settled by their ids.
    runtime.shutdown_timeout(RUNTIME_UNWIND);
    Ok(())
}

fn announce(run: &RunFile) -> String {
    let show = |address: Option<SocketAddr>| address.map_or_else(String::new, |a| a.to_string());
    let (cluster, admin, metrics) = (show(run.cluster), show(run.admin), run.metrics);
    format!(
        "\
The control plane is ready.

  workers   {cluster}
  admin     {admin}
  metrics   http://{metrics}/metrics

Start a worker on every node, with its own directory and certificate:

  quickwater worker --dir DIR --control {cluster} --node-id ID --advertise ADDR:PORT
"
    )
}

fn start(
    runtime: &Runtime,
    home: &Home,
    settings: &Settings,
    values: &Values,
) -> Result<(RunFile, Readiness)> {
    let certificates = Certificates::read(&settings.cluster.certificates)?;
    let expiry = Expiry::of(&certificates, &settings.cluster.certificates)?;
    let metrics = Arc::new(Metrics::new());
    expiry.report(&metrics);
    let readiness = Readiness::default();
    readiness.report(&metrics);
    sources::collect_memory(&metrics, settings.memory_bytes);
    let metrics_listener = listen(runtime, "metrics.listen", settings.metrics_listen)?;
    let admin_listener = listen(runtime, "admin.listen", settings.admin_listen)?;
    let cluster_listener = listen(runtime, "cluster.listen", settings.cluster.listen)?;
    let run = RunFile {
        pid: std::process::id(),
        s3: None,
        s3_tls: None,
        admin: Some(admin_listener.local_addr()?),
        metrics: metrics_listener.local_addr()?,
        cluster: Some(cluster_listener.local_addr()?),
        peers: None,
    };
    runtime.spawn(health::serve(
        metrics_listener,
        Arc::clone(&metrics),
        readiness.clone(),
    ));
    let budget = Budget::split(settings.memory_bytes, 1, Some(0), false, false);
    let namespace = control::open_namespace(runtime, home, settings, budget)?;
    runtime
        .block_on(namespace.check_format())
        .context("the metadata cannot be used by this version")?;
    // What workers write from now on is newer than all before.
    runtime.block_on(namespace.begin_order())?;
    readiness.depend_on(namespace.store().clone());
    sources::collect_metadata(&metrics, namespace.store().clone());
    let ufs = control::ufs_client(runtime.handle().clone(), settings, budget, &namespace, None);
    sources::collect_ufs(&metrics, ufs.clone());
    buckets::make_default_ufs(&settings.ufs.uri)?;
    runtime.block_on(buckets::add_mounts(&namespace, &ufs, settings))?;
    runtime.block_on(buckets::discover_first(&namespace, &ufs, settings));

    let opening = Cluster::open(namespace.clone(), settings.cluster.lease);
    let cluster = runtime
        .block_on(opening)
        .context("the cluster's metadata cannot be read")?;
    collect_cluster(&metrics, cluster.clone());
    let serving = serve_workers(cluster.clone(), certificates, cluster_listener)?;
    let limits = JobLimits {
        kept_max: settings.jobs.kept_max,
        keep: settings.jobs.keep,
    };
    let config = JobsConfig {
        running_max: settings.jobs.running_max,
        concurrency: settings.jobs.concurrency,
        limits,
    };
    let jobs = Jobs::new(namespace.clone(), Arc::new(Hands(cluster.clone())), config);
    jobs::collect(&metrics, jobs.stats());
    let admin = admin::Parts {
        namespace: namespace.clone(),
        ufs,
        node: Workers {
            started: Instant::now(),
            cluster: cluster.clone(),
            metrics,
            values: values.clone(),
            metadata_ttl_ms: settings.metadata_ttl.as_ms(),
            expiry: expiry.clone(),
        },
        jobs,
        pending: Queues::new(cluster.clone(), runtime.handle().clone()),
        cluster: Some(Arc::new(cluster.clone())),
        dir: settings.dir.clone(),
        token: home.admin_token()?,
    };
    runtime.spawn(expiry.remind());
    runtime.spawn(admin.jobs.clone().run());
    runtime.spawn(admin::serve(admin, admin_listener)?);
    runtime.spawn(cluster.clone().watch_position());
    runtime.spawn(cluster.keep());
    runtime.spawn(serving);
    runtime.spawn(control::sweep(namespace));
    Ok((run, readiness))
}

/// Serves workers until the runtime ends; who has no certificate of the cluster does
/// not get past the handshake.
fn serve_workers(
    cluster: Cluster<MetadataStore>,
    certificates: Certificates,
    listener: TcpListener,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let identity = Identity::from_pem(certificates.certificate, certificates.key);
    let tls = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(certificates.authority))
        .client_auth_optional(false);
    let server = Server::builder()
        .tls_config(tls)
        .context("the certificates of the control plane cannot be used")?
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(cluster_routes(cluster));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "the endpoint for workers ended");
        }
    })
}

fn collect_cluster(metrics: &Metrics, cluster: Cluster<MetadataStore>) {
    metrics.collect(move |samples| {
        let mut counts = [0u64; 3];
        for (seat, left) in cluster.nodes() {
            let at = match (seat.member.gone, left.is_zero()) {
                (false, false) => 0,
                (false, true) => 1,
                (true, _) => 2,
            };
            counts[at] += 1;
        }
        for (state, count) in ["live", "silent", "gone"].into_iter().zip(counts) {
            samples.count(Metric::ClusterNodes, &[state], count);
        }
        let refused = cluster.refused_workers();
        for reason in Reason::ALL {
            let count = refused.iter().filter(|one| one.reason == reason).count();
            samples.count(Metric::ClusterRefused, &[reason.label()], count as u64);
        }
        let epoch = cluster.tables().borrow().epoch;
        samples.count(Metric::ClusterEpoch, &[], epoch);
    });
}
