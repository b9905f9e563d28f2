//! `worker`: shards, store, persister and UFS clients, with the metadata elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use quickwater_controlplane::client::{ControlClient, LinkError};
use quickwater_controlplane::cluster::boottime;
use quickwater_engine::Shared;
use quickwater_proto::{NodeId, SlotTable};
use quickwater_worker::metrics::{Metric, Metrics};
use quickwater_worker::peer::PeerConfig;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::super::access_log::AccessLog;
use super::super::budget::Budget;
use super::super::conditions::Conditions;
use super::super::data_plane::{DataPlane, Parts, start_data_plane};
use super::super::detour::Detour;
use super::super::health::{self, Readiness};
use super::super::signals::StopSignals;
use super::super::{
    RUNTIME_UNWIND, announce, control, control_runtime, directories, identity, kept_names, listen,
    persist_watch, raise_file_limit, recover, sources,
};
use super::attendant::Attending;
use super::body::Body;
use super::claims::Claims;
use super::meeting::{Meeting, Place, explain, link};
use super::metadata::RemoteMetadata;
use crate::cli::{SettingsArgs, Usage};
use crate::home::{Credentials, Home, LastStart, RunFile, Verb};
use crate::settings::{AuthMode, Settings};

/// Longest wait for the first placement.
const READY_WAIT: Duration = Duration::from_secs(30);

/// Directory for what an operator gave up, in that of the worker.
const ASIDE: &str = "set-aside";

/// Runs a worker until it is told to stop.
///
/// # Errors
/// It cannot start, is refused by the control plane, or something was left undone at
/// the end.
pub(crate) fn run(args: &SettingsArgs) -> Result<()> {
    let values = args.values()?;
    let settings = Settings::from_values(&values).context(Usage)?;
    let seat = Place::of(&settings).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    raise_file_limit();
    let home = Home::open(&settings.dir)?;
    RunFile::clear(home.dir())?;
    LastStart::new(Verb::Worker, &values).note(home.dir());
    let credentials = Credentials::load_or_make(home.dir(), |name| std::env::var(name).ok())?;
    let runtime = control_runtime(settings.store.threads)?;
    let mut signals = runtime.block_on(async { StopSignals::install() })?;
    let Some(service) = start(
        &runtime,
        &home,
        (&settings, &seat),
        &credentials,
        &mut signals,
    )?
    else {
        return Ok(());
    };
    let run = service.run_file();
    let guard = run.publish(home.dir())?;
    service.readiness.set(true);
    let checked = settings.s3.auth == AuthMode::Verify && !settings.s3.anonymous;
    announce::say(settings.log_json, &run, &credentials, checked)?;
    tracing::info!(dir = %home.dir().display(), node = %seat.node, s3 = %service.data_plane.address, "ready");

    let signal = runtime.block_on(signals.next());
    tracing::info!(signal, "stopping");
    let clean = service.stop(&runtime, &settings, &mut signals);
    drop(guard);
    runtime.shutdown_timeout(RUNTIME_UNWIND);
    match clean {
        true => Ok(()),
        false => bail!("some requests were still running when the grace ended"),
    }
}

/// Everything that runs.
struct Worker {
    readiness: Readiness,
    metrics: std::net::SocketAddr,
    data_plane: DataPlane,
    access_log: Option<super::super::access_log::AccessLogThread>,
    client: ControlClient,
    attendant: Arc<Attending>,
    link: JoinHandle<Result<(), LinkError>>,
    /// Where other workers reach it.
    advertised: std::net::SocketAddr,
    /// What follows the control plane until the end.
    followers: Vec<JoinHandle<()>>,
    detour: Option<Detour>,
}

impl Worker {
    fn run_file(&self) -> RunFile {
        RunFile {
            pid: std::process::id(),
            s3: Some(self.data_plane.address),
            s3_tls: self.data_plane.tls_address,
            admin: None,
            metrics: self.metrics,
            cluster: None,
            peers: Some(self.advertised),
        }
    }

    /// Unready first, then the slots, then the requests in flight, then the rest. A second
    /// signal ends the wait for the slots, but not that for the notes.
    fn stop(self, runtime: &Runtime, settings: &Settings, signals: &mut StopSignals) -> bool {
        self.readiness.set(false);
        if let Some(detour) = self.detour {
            detour.end(runtime);
        }
        let begun = std::time::Instant::now();
        let stays = runtime.block_on(async {
            tokio::select! {
                stays = self.attendant.hand_over(settings.shutdown_persist) => stays,
                signal = signals.next() => {
                    tracing::info!(signal, "stopping at once");
                    self.attendant.hand_over(Duration::ZERO).await
                }
            }
        });
        let clean = self
            .data_plane
            .stop(settings.shutdown_grace, begun.elapsed());
        for follower in self.followers {
            follower.abort();
        }
        // Others have the slots from here on: nobody waits for the lease. What only this
        // worker has comes back with it. Without others nobody waits.
        if clean && !stays {
            self.client.leave();
            let ending = async { tokio::time::timeout(RUNTIME_UNWIND, self.link).await };
            if runtime.block_on(ending).is_err() {
                tracing::warn!("the control plane was not told; the slots wait for the lease");
            }
        }
        if let Some(thread) = self.access_log {
            thread.finish();
        }
        clean
    }
}

/// Starts everything; `None`: told to stop before the control plane answered.
fn start(
    runtime: &Runtime,
    home: &Home,
    (settings, place): (&Settings, &Place),
    credentials: &Credentials,
    signals: &mut StopSignals,
) -> Result<Option<Worker>> {
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::default();
    readiness.report(&metrics);
    sources::collect_memory(&metrics, settings.memory_bytes);
    let metrics_listener = listen(runtime, "metrics.listen", settings.metrics_listen)?;
    let metrics_address = metrics_listener.local_addr()?;
    runtime.spawn(health::serve(
        metrics_listener,
        Arc::clone(&metrics),
        readiness.clone(),
    ));
    let mut meeting = Meeting::prepare(settings, place)?;
    metrics.collect_peers(Arc::clone(&meeting.stats));
    meeting.expiry.report(&metrics);
    runtime.spawn(meeting.expiry.clone().remind());
    let (client, link, attendant, belonging) = link(home.dir(), settings, (place, &meeting))?;
    collect_link(&metrics, client.clone());
    let mut link = runtime.spawn(link.run(Arc::clone(&attendant) as Arc<_>));
    let registered = runtime.block_on(async {
        tokio::select! {
            Some(registered) = client.registered() => Ok(Some(registered)),
            ended = &mut link => match ended {
                Ok(Err(error)) => Err(explain(error, settings)),
                _ => Err(anyhow!("the link to the control plane ended")),
            },
            _ = signals.next() => Ok(None),
        }
    })?;
    let Some(registered) = registered else {
        return Ok(None);
    };
    // Before anything is answered by these metadata. What was given up is first set aside.
    let seen = registered.position.filter(|_| !registered.undone);
    belonging.remember(home.dir(), &registered.cluster, seen)?;
    let (session, table) = (registered.session, Arc::clone(&registered.table));
    let mut parts = Assembly {
        runtime,
        settings,
        credentials,
        metrics: Arc::clone(&metrics),
        client: &client,
        table: &table,
        aside: registered.undone.then(|| home.dir().join(ASIDE)),
        node: &place.node,
        sockets: std::mem::take(&mut meeting.sockets),
        meeting: &meeting,
        conditions: Conditions::report(&metrics),
    };
    let (data_plane, access_log, mut followers) = parts.start_data_plane()?;
    let keeping = belonging.follow(home.dir().to_owned(), registered, client.seen());
    followers.push(runtime.spawn(keeping));
    let (store, shared) = (data_plane.store.clone(), Arc::clone(&data_plane.shared));
    followers.push(runtime.spawn(recover::note_settled_here(store.clone(), shared)));
    followers.push(runtime.spawn(kept_names::follow(client.clone(), store)));
    collect_rights(&metrics, Arc::clone(&data_plane.shared));
    let detour = Detour::start(
        &settings.ebpf,
        data_plane.address,
        &readiness,
        (runtime, &metrics, &parts.conditions),
    );
    let body = Body {
        node: place.node.clone(),
        client: client.clone(),
        store: data_plane.store.clone(),
        shared: Arc::clone(&data_plane.shared),
        http: data_plane.http.clone(),
        start: data_plane.start,
        fence: settings.write_cache.fence,
        standing: Arc::clone(&meeting.standing),
        readiness: readiness.clone(),
        conditions: parts.conditions.clone(),
        expiry: meeting.expiry.clone(),
        claims: Arc::new(Claims::open(home.dir())),
        held_up: AtomicBool::new(false),
    };
    {
        let _context = runtime.enter();
        attendant.embody(body, session, &table);
    }
    followers.push(runtime.spawn(Arc::clone(&attendant).follow_notes()));
    let ready = async { tokio::time::timeout(READY_WAIT, attendant.ready()).await };
    if runtime.block_on(ready).is_err() {
        tracing::warn!("no placement yet; requests are told to slow down until there is");
    }
    Ok(Some(Worker {
        readiness,
        metrics: metrics_address,
        data_plane,
        access_log,
        client,
        attendant,
        link,
        advertised: meeting.advertised,
        followers,
        detour,
    }))
}

type Started = (
    DataPlane,
    Option<super::super::access_log::AccessLogThread>,
    Vec<JoinHandle<()>>,
);

/// What the data plane of a worker is made of.
struct Assembly<'s> {
    runtime: &'s Runtime,
    settings: &'s Settings,
    credentials: &'s Credentials,
    metrics: Arc<Metrics>,
    client: &'s ControlClient,
    table: &'s SlotTable,
    /// Where to set aside what no row names; `None`: it is let go.
    aside: Option<PathBuf>,
    node: &'s NodeId,
    meeting: &'s Meeting,
    sockets: Vec<std::net::TcpListener>,
    conditions: Conditions,
}

impl Assembly<'_> {
    fn start_data_plane(&mut self) -> Result<Started> {
        let (runtime, settings) = (self.runtime, self.settings);
        let store = &settings.store;
        let budget = Budget::split(
            settings.memory_bytes,
            store.threads,
            store.ram_tier_bytes,
            settings.s3.tls.is_some(),
            true,
        );
        let standing = Some(Arc::clone(&self.meeting.standing));
        let handle = runtime.handle().clone();
        let ufs = control::ufs_client(handle, settings, budget, self.client, standing);
        sources::collect_ufs(&self.metrics, ufs.clone());
        let certificate = settings.s3.tls.as_ref().map(identity::load).transpose()?;
        let (access_log, thread) = match &settings.s3.access_log {
            Some(path) => AccessLog::start(path).map(|(log, thread)| (Some(log), Some(thread)))?,
            None => (None, None),
        };
        let (table, node) = (self.table.clone(), self.node.clone());
        let peers = PeerConfig {
            identity: Arc::clone(&self.meeting.identity),
            directory: Arc::clone(&self.meeting.directory),
            stats: Arc::clone(&self.meeting.stats),
            memory_bytes: usize::try_from(budget.peers_per_shard)?,
        };
        let data_plane = start_data_plane(Parts {
            settings,
            budget,
            credentials: self.credentials,
            metrics: Arc::clone(&self.metrics),
            metadata: RemoteMetadata::new(self.client.clone()),
            ufs: ufs.clone(),
            aside: self.aside.take(),
            mine: Box::new(move |slot| table.owner(slot) == Some(&node)),
            policies: runtime
                .block_on(control::load_policies(self.client))
                .context("cannot read the path policies")?,
            access_log,
            identity: certificate.as_ref().map(|c| Arc::clone(&c.identity)),
            peers: Some((peers, std::mem::take(&mut self.sockets))),
            runtime,
            conditions: self.conditions.clone(),
        })?;
        if let (Some(certificate), Some(tls)) = (certificate, &settings.s3.tls) {
            identity::collect(&self.metrics, Arc::clone(&certificate.identity));
            runtime.spawn(identity::follow(certificate, tls.clone()));
        }
        let shared = Arc::clone(&data_plane.shared);
        let directories = runtime.spawn(directories::watch(
            self.client.clone(),
            ufs,
            Arc::clone(&shared),
            data_plane.start,
        ));
        runtime.spawn(persist_watch::run(Arc::clone(&shared)));
        let policies = runtime.spawn(control::follow_policies(self.client.clone(), shared));
        Ok((data_plane, thread, vec![directories, policies]))
    }
}

fn collect_link(metrics: &Metrics, client: ControlClient) {
    use std::sync::atomic::Ordering::Relaxed;
    metrics.collect(move |samples| {
        let stats = client.stats();
        let count = |value: &std::sync::atomic::AtomicU64| value.load(Relaxed);
        for (operation, made) in stats.calls.each() {
            samples.count(Metric::ControlCalls, &[&operation], made);
        }
        samples.count(Metric::ControlRepeated, &[], count(&stats.repeated));
        samples.count(Metric::ControlFailures, &["unknown"], count(&stats.unknown));
        samples.count(
            Metric::ControlFailures,
            &["unreached"],
            count(&stats.unreached),
        );
        samples.count(Metric::ControlSessions, &[], count(&stats.sessions));
        let connected = u64::from(client.is_connected());
        samples.count(Metric::ControlConnected, &[], connected);
    });
}

fn collect_rights(metrics: &Metrics, shared: Arc<Shared>) {
    metrics.collect(move |samples| {
        let now = boottime();
        let left = shared.rights.left(now).unwrap_or_default();
        samples.number(Metric::LeaseSeconds, &[], left.as_secs_f64());
        samples.count(Metric::OwnedSlots, &[], shared.rights.owned() as u64);
    });
}
