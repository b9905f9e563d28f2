//! Connections of this node to a service address reach the worker here while it is
//! ready, if the settings want that and eBPF can be had; else they go where they went.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_ebpf::{Pins, Steering, Unavailable, cgroup_root};
use quickwater_worker::metrics::{Metric, Metrics};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::conditions::{Conditions, Part, State};
use super::health::Readiness;
use crate::settings::EbpfSettings;

/// How often the programs are told that the worker is ready; they wait two seconds.
const BEAT: Duration = Duration::from_millis(250);
/// How often the worker makes sure that connections get where they are turned to.
const PROBE_PERIOD: Duration = Duration::from_secs(5);
/// Longest wait for such a connection; without beats meanwhile, the programs stop by then.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The attached programs and who tells them.
pub(super) struct Detour {
    steering: Arc<Steering>,
    beats: JoinHandle<()>,
}

impl Detour {
    /// Attaches the programs, or takes those that are pinned, as the settings say;
    /// `listen`: where the worker's S3 endpoint listens. Says how it went to `conditions`.
    pub(super) fn start(
        settings: &EbpfSettings,
        listen: SocketAddr,
        readiness: &Readiness,
        (runtime, metrics, conditions): (&Runtime, &Metrics, &Conditions),
    ) -> Option<Self> {
        let told = |state, detail| conditions.set(Part::Connect, state, detail);
        let Some(road) = Road::of(settings, listen) else {
            told(State::Off, "no ebpf.service is set".into());
            return None;
        };
        let steering = match road.take(settings.pins.as_deref()) {
            Ok(steering) => Arc::new(steering),
            Err(why) => {
                let service = road.service;
                let detail = format!("{why}: connections to {service} stay as they are");
                told(State::from(&why), detail);
                return None;
            }
        };
        collect(metrics, Arc::clone(&steering));
        told(State::On, road.works());
        let told = conditions.clone();
        let beats = beat(Arc::clone(&steering), readiness.clone(), road, told);
        let beats = runtime.spawn(beats);
        Some(Detour { steering, beats })
    }

    /// From now on connections go to the service address. Before the worker stops.
    pub(super) fn end(self, runtime: &Runtime) {
        self.beats.abort();
        // Cancelled, or ended by the runtime: it beats no more in either case.
        let _ = runtime.block_on(self.beats);
        self.steering.withdraw();
    }
}

fn refused(why: &str) -> Unavailable {
    Unavailable::Refused {
        what: "ebpf.service",
        why: why.into(),
    }
}

/// What to connect to for a listener that may listen everywhere.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whose connections are turned, from where to where.
#[derive(Debug)]
pub(crate) struct Road {
    service: SocketAddr,
    local: SocketAddr,
    cgroup: Option<PathBuf>,
}

impl Road {
    /// As the settings say, if they want one; `listen`: where the worker's S3 endpoint
    /// listens.
    pub(crate) fn of(settings: &EbpfSettings, listen: SocketAddr) -> Option<Self> {
        settings.service.map(|service| Road {
            service,
            local: settings.local.unwrap_or_else(|| reachable(listen)),
            cgroup: settings.cgroup.clone(),
        })
    }

    /// Leaves the programs to a worker with the same settings.
    ///
    /// # Errors
    /// They cannot be had.
    pub(crate) fn pin(&self, pins: &Pins) -> Result<(), Unavailable> {
        self.check()?;
        Steering::pin(pins, self.service, self.local, &self.cgroup()?)
    }

    /// What is pinned, else programs of our own.
    fn take(&self, pins: Option<&Path>) -> Result<Steering, Unavailable> {
        self.check()?;
        let attach = || Steering::attach(self.service, self.local, &self.cgroup()?);
        let Some(root) = pins else {
            return attach();
        };
        Steering::open(&Pins::below(root), self.service, self.local)
            .or_else(|pinned| attach().map_err(|own| own.and(&pinned)))
    }

    fn check(&self) -> Result<(), Unavailable> {
        let Road { service, local, .. } = self;
        match service.is_ipv4() == local.is_ipv4() {
            false => Err(refused(
                "it and ebpf.local are not of the same family of addresses",
            )),
            true if local.port() == 0 => Err(refused("the port of ebpf.local must be given")),
            true if service == local => Err(refused("it is the worker's own address")),
            true => Ok(()),
        }
    }

    fn cgroup(&self) -> Result<PathBuf, Unavailable> {
        let root = || cgroup_root().ok_or_else(|| refused("no cgroup2 is mounted here"));
        self.cgroup.clone().map_or_else(root, Ok)
    }

    fn works(&self) -> String {
        let Road { service, local, .. } = self;
        let whose = match local.ip().to_canonical().is_loopback() {
            true => " of clients in the network namespace of the worker",
            false => "",
        };
        format!("connections{whose} to {service} go to {local} while the worker is ready")
    }

    fn is_closed(&self) -> String {
        let Road { service, local, .. } = self;
        format!("nobody answers at {local} (ebpf.local): connections to {service} stay as they are")
    }

    fn is_gone(&self) -> String {
        let service = self.service;
        format!(
            "somebody detached the programs, or their cgroup is gone: connections to {service} \
             stay as they are until this worker starts again (where `quickwater ebpf load` attached \
             them, until that was done once more)"
        )
    }

    /// Whether somebody takes connections at its end: else clients would find nobody.
    async fn is_open(&self) -> bool {
        let connected = TcpStream::connect(self.local);
        let connected = tokio::time::timeout(PROBE_TIMEOUT, connected).await;
        matches!(connected, Ok(Ok(_)))
    }
}

/// Aborted at the end; by then, or with the process, the programs are told nothing more.
async fn beat(steering: Arc<Steering>, readiness: Readiness, road: Road, conditions: Conditions) {
    let mut is_open = true;
    let mut probed: Option<Instant> = None;
    loop {
        let is_ready = readiness.get();
        if is_ready && probed.is_none_or(|at| at.elapsed() >= PROBE_PERIOD) {
            let before = std::mem::replace(&mut is_open, road.is_open().await);
            probed = Some(Instant::now());
            match steering.is_attached() {
                Ok(true) => {}
                Ok(false) => {
                    steering.withdraw();
                    return conditions.set(Part::Connect, State::Refused, road.is_gone());
                }
                Err(error) => tracing::debug!(%error, "whether the programs are attached"),
            }
            match (before, is_open) {
                (true, false) => conditions.set(Part::Connect, State::Refused, road.is_closed()),
                (false, true) => conditions.set(Part::Connect, State::On, road.works()),
                _ => {}
            }
        }
        match is_ready && is_open {
            true => steering.beat(),
            false => steering.withdraw(),
        }
        tokio::time::sleep(BEAT).await;
    }
}

fn collect(metrics: &Metrics, steering: Arc<Steering>) {
    metrics.collect(move |samples| {
        let counts = steering.counts();
        let mut put = |outcome, count| samples.count(Metric::EbpfConnects, &[outcome], count);
        put("steered", counts.steered);
        put("not_ready", counts.not_ready);
        put("elsewhere", counts.elsewhere);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_everywhere_is_reached_at_the_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(at("[::]:80"), "[::1]:80");
        assert_eq!(at("10.0.0.1:80"), "10.0.0.1:80");
    }

    fn road(service: &str, local: &str) -> Road {
        Road {
            service: service.parse().unwrap(),
            local: local.parse().unwrap(),
            cgroup: None,
        }
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        let why = |service, local| road(service, local).check().unwrap_err().to_string();
        assert!(why("10.0.0.1:80", "[::1]:80").contains("family"));
        assert!(why("10.0.0.1:80", "10.0.0.1:80").contains("own address"));
        assert!(why("10.0.0.1:80", "127.0.0.1:0").contains("port"));
        road("10.0.0.1:80", "127.0.0.1:80").check().unwrap();
    }

    #[tokio::test]
    async fn a_road_is_open_while_somebody_listens_at_its_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let road = road("10.0.0.1:80", &local.to_string());
        assert!(road.is_open().await);
        drop(listener);
        assert!(!road.is_open().await);
    }
}
