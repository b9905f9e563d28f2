//! `serve`: both planes in one process, from the first file to the last signal.

mod access_log;
mod admin;
mod announce;
pub(crate) mod apart;
mod buckets;
mod budget;
mod bypass;
mod conditions;
mod control;
mod data_plane;
mod detour;
mod directories;
mod dump;
mod files;
mod handover;
mod health;
mod housekeeping;
mod identity;
mod jobs;
mod kept_names;
mod metadata;
mod mount_looks;
mod names;
mod observe;
mod pending;
mod persist_watch;
mod persister;
mod places;
mod rebuild;
mod recover;
mod reuseport;
mod set_aside;
mod shard;
mod signals;
mod sources;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use quickwater_worker::metrics::Metrics;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) use detour::Road;
pub(crate) use dump::{export, import};
pub(crate) use rebuild::{
    Collected, Overtaken, Rebuilt, Sources, collect, rebuild, rebuild_cluster,
};

use access_log::AccessLog;
use budget::Budget;
use conditions::Conditions;
use data_plane::{DataPlane, Parts, start_data_plane};
use detour::Detour;
use health::Readiness;
use kept_names::KeptNames;
use metadata::LocalMetadata;
use signals::StopSignals;

use crate::cli::{SettingsArgs, Usage};
use crate::home::{Credentials, Home, LastStart, RunFile, Verb};
use crate::settings::{AuthMode, Settings, Values};
use crate::store::MetadataStore;

/// Threads for metadata, UFSs, admin and metrics.
const CONTROL_THREADS_MAX: usize = 4;
/// Blocking calls of POSIX UFSs at a time, all mounts together.
const BLOCKING_THREADS_MAX: usize = 512;
/// What is left of background work at the end gets this long.
const RUNTIME_UNWIND: Duration = Duration::from_secs(2);

/// Runs the service until it is told to stop.
///
/// # Errors
/// It cannot start, or something was left undone at the end.
pub(crate) fn run(args: &SettingsArgs) -> Result<()> {
    let values = args.values()?;
    let settings = Settings::from_values(&values).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    raise_file_limit();
    let home = Home::open(&settings.dir)?;
    RunFile::clear(home.dir())?;
    LastStart::new(Verb::Serve, &values).note(home.dir());
    let credentials = Credentials::load_or_make(home.dir(), |name| std::env::var(name).ok())?;
    let runtime = control_runtime(settings.store.threads)?;
    let mut signals = runtime.block_on(async { StopSignals::install() })?;
    let service = start(&runtime, &home, &settings, &values, &credentials)?;

    let run = service.run_file();
    let guard = run.publish(home.dir())?;
    service.readiness.set(true);
    let checked = settings.s3.auth == AuthMode::Verify && !settings.s3.anonymous;
    announce::say(settings.log_json, &run, &credentials, checked)?;
    tracing::info!(dir = %home.dir().display(), s3 = %service.data_plane.address, admin = %service.admin, metrics = %run.metrics, "ready");

    let signal = runtime.block_on(signals.next());
    tracing::info!(signal, "stopping");
    runtime.spawn(async move {
        let signal = signals.next().await;
        tracing::warn!(signal, "asked twice: ending at once");
        std::process::exit(1);
    });
    let metadata = service.metadata.clone();
    let clean = service.stop(&runtime, settings.shutdown_grace);
    runtime.block_on(metadata.release());
    drop(guard);
    runtime.shutdown_timeout(RUNTIME_UNWIND);
    if !clean {
        bail!("some requests were still running when the grace ended");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Everything that runs.
struct Service {
    metadata: MetadataStore,
    readiness: Readiness,
    admin: SocketAddr,
    metrics: SocketAddr,
    data_plane: DataPlane,
    kept_names: KeptNames,
    detour: Option<Detour>,
    access_log: Option<access_log::AccessLogThread>,
}

impl Service {
    fn run_file(&self) -> RunFile {
        RunFile {
            pid: std::process::id(),
            s3: Some(self.data_plane.address),
            s3_tls: self.data_plane.tls_address,
            admin: Some(self.admin),
            cluster: None,
            peers: None,
            metrics: self.metrics,
        }
    }

    /// Unready first, then the requests in flight, then the rest.
    fn stop(self, runtime: &Runtime, grace: Duration) -> bool {
        self.readiness.set(false);
        if let Some(detour) = self.detour {
            detour.end(runtime);
        }
        let clean = self.data_plane.stop(grace, Duration::ZERO);
        runtime.block_on(self.kept_names.finish());
        if let Some(thread) = self.access_log {
            thread.finish();
        }
        clean
    }
}

fn start(
    runtime: &Runtime,
    home: &Home,
    settings: &Settings,
    values: &Values,
    credentials: &Credentials,
) -> Result<Service> {
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::default();
    readiness.report(&metrics);
    sources::collect_memory(&metrics, settings.memory_bytes);
    let conditions = Conditions::report(&metrics);
    let metrics_listener = listen(runtime, "metrics.listen", settings.metrics_listen)?;
    let metrics_address = metrics_listener.local_addr()?;
    runtime.spawn(health::serve(
        metrics_listener,
        Arc::clone(&metrics),
        readiness.clone(),
    ));
    let admin_listener = listen(runtime, "admin.listen", settings.admin_listen)?;
    let admin_address = admin_listener.local_addr()?;

    let store = &settings.store;
    let budget = Budget::split(
        settings.memory_bytes,
        store.threads,
        store.ram_tier_bytes,
        settings.s3.tls.is_some(),
        false,
    );
    let namespace = control::open_namespace(runtime, home, settings, budget)?;
    runtime
        .block_on(namespace.check_format())
        .context("the metadata cannot be used by this version")?;
    runtime.block_on(namespace.begin_order())?;
    readiness.depend_on(namespace.store().clone());
    sources::collect_metadata(&metrics, namespace.store().clone());
    let ufs = control::ufs_client(runtime.handle().clone(), settings, budget, &namespace, None);
    sources::collect_ufs(&metrics, ufs.clone());
    buckets::make_default_ufs(&settings.ufs.uri)?;
    runtime.block_on(buckets::add_mounts(&namespace, &ufs, settings))?;
    runtime.block_on(buckets::discover_first(&namespace, &ufs, settings));

    let certificate = settings.s3.tls.as_ref().map(identity::load).transpose()?;
    let (access_log, access_log_thread) = match &settings.s3.access_log {
        Some(path) => AccessLog::start(path).map(|(log, thread)| (Some(log), Some(thread)))?,
        None => (None, None),
    };
    let data_plane = start_data_plane(Parts {
        settings,
        budget,
        credentials,
        metrics: Arc::clone(&metrics),
        metadata: LocalMetadata::new(namespace.clone(), runtime.handle().clone()),
        ufs: ufs.clone(),
        mine: Box::new(|_| true),
        aside: None,
        policies: runtime
            .block_on(control::load_policies(&namespace))
            .context("cannot read the path policies")?,
        access_log,
        identity: certificate.as_ref().map(|c| Arc::clone(&c.identity)),
        peers: None,
        runtime,
        conditions: conditions.clone(),
    })?;
    if let (Some(certificate), Some(tls)) = (certificate, &settings.s3.tls) {
        identity::collect(&metrics, Arc::clone(&certificate.identity));
        runtime.spawn(identity::follow(certificate, tls.clone()));
    }
    runtime.spawn(recover::note_settled(
        namespace.clone(),
        data_plane.store.clone(),
        Arc::clone(&data_plane.shared),
    ));
    runtime.spawn(recover::search_untold(
        namespace.clone(),
        data_plane.store.clone(),
        Arc::clone(&data_plane.shared),
    ));
    let kept_names = KeptNames::start(runtime, namespace.clone(), data_plane.store.clone());
    let shared = Arc::clone(&data_plane.shared);
    let jobs = jobs::jobs(namespace.clone(), shared, &settings.jobs, &metrics);
    runtime.spawn(jobs.clone().run());
    let detour = Detour::start(
        &settings.ebpf,
        data_plane.address,
        &readiness,
        (runtime, &metrics, &conditions),
    );
    let node = admin::ThisNode {
        started: Instant::now(),
        readiness: readiness.clone(),
        address: data_plane.address,
        shards: settings.store.threads,
        store: data_plane.store.clone(),
        shared: Arc::clone(&data_plane.shared),
        metrics,
        values: values.clone(),
        metadata_ttl_ms: settings.metadata_ttl.as_ms(),
        conditions,
    };
    let token = home.admin_token()?;
    let admin = admin::Parts {
        namespace: namespace.clone(),
        ufs: ufs.clone(),
        node,
        jobs,
        pending: pending::Pending::new(Arc::clone(&data_plane.shared), data_plane.start),
        cluster: None,
        dir: settings.dir.clone(),
        token,
    };
    runtime.spawn(admin::serve(admin, admin_listener)?);
    runtime.spawn(directories::watch(
        namespace.clone(),
        ufs,
        Arc::clone(&data_plane.shared),
        data_plane.start,
    ));
    let shared = Arc::clone(&data_plane.shared);
    runtime.spawn(persist_watch::run(Arc::clone(&shared)));
    runtime.spawn(control::follow_policies(namespace.clone(), shared));
    runtime.spawn(control::sweep(namespace.clone()));
    Ok(Service {
        metadata: namespace.store().clone(),
        readiness,
        admin: admin_address,
        metrics: metrics_address,
        data_plane,
        kept_names,
        detour,
        access_log: access_log_thread,
    })
}

fn control_runtime(shards: usize) -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(shards.clamp(2, CONTROL_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control threads")
}

fn listen(runtime: &Runtime, key: &str, address: SocketAddr) -> Result<TcpListener> {
    runtime.block_on(TcpListener::bind(address)).with_context(|| {
        format!("cannot listen on {address}; another process has it? Change {key} (port 0 = any free port)")
    })
}

/// Connections need descriptors; the soft limit of most shells is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
