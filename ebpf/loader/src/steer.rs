//! Connections to a service address go to the worker of this node (`cgroup/connect4`,
//! `cgroup/connect6`).

use std::error::Error;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::cgroup_sock_addr::CgroupSockAddrLinkId;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use quickwater_ebpf_shapes::{Endpoint, Steer};
use rustix::time::{ClockId, clock_gettime};

use crate::page::Page;
use crate::pinned::{self, Claim, Pins};
use crate::{Unavailable, attached, call, netns, object};

const PROGRAMS: [&str; 2] = ["connect4", "connect6"];
const VALUE: &str = "STEER";
/// Where they are pinned, and what is noted there.
const CONNECT: &str = "connect";
const SERVICE: &str = "service";
const LOCAL: &str = "local";

/// Connections to the service address, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteerCounts {
    /// They went to the worker.
    pub steered: u64,
    /// They were left alone because the worker was not ready.
    pub not_ready: u64,
    /// They were left alone because their network namespace does not reach the worker.
    pub elsewhere: u64,
}

/// The attached programs: loaded by this process, and gone when this is dropped or the
/// process ends, however it does; or pinned by another one.
pub struct Steering {
    page: Page<Steer>,
    hold: Hold,
}

/// What has to live as long as the programs are told something, and by which is found whether
/// they are still attached.
enum Hold {
    Loaded {
        cgroup: File,
        /// Type and id of each.
        programs: Vec<(u32, u32)>,
        _programs: Ebpf,
    },
    Pinned {
        path: PathBuf,
        _claim: Claim,
    },
}

impl Steering {
    /// Has processes of `cgroup`, and of those below, reach `local` when they connect to
    /// `service`, both by TCP, as long as [`Self::beat`] is called. A `local` of the
    /// loopback is only for clients in the network namespace of this process.
    ///
    /// # Errors
    /// It does not run, and nothing is attached: for one because a program there, or in a
    /// cgroup above, wants to be alone, or would not be run any more beside these. Needs
    /// CAP_BPF and CAP_NET_ADMIN until it returns.
    pub fn attach(
        service: SocketAddr,
        local: SocketAddr,
        cgroup: &Path,
    ) -> Result<Self, Unavailable> {
        let (mut programs, _) = attach(service, local, cgroup)?;
        let page = map_value(&programs)?;
        let cgroup = File::open(cgroup).map_err(Unavailable::refused("opening the cgroup"))?;
        let mut ids = Vec::new();
        for (name, kind) in PROGRAMS.into_iter().zip(attached::CONNECTS) {
            let known = program(&mut programs, name)?.info();
            let known = known.map_err(Unavailable::refused("asking for a program"))?;
            ids.push((kind, known.id()));
        }
        let hold = Hold::Loaded {
            cgroup,
            programs: ids,
            _programs: programs,
        };
        Ok(Steering { page, hold })
    }

    /// The same with the programs that [`Self::pin`] left. Needs no capability, only the
    /// file. They stay when this process ends, and without its beats they do nothing.
    ///
    /// # Errors
    /// They are not there, or are for other addresses, or another process uses them.
    pub fn open(pins: &Pins, service: SocketAddr, local: SocketAddr) -> Result<Self, Unavailable> {
        let (path, claim) = pins.claim(CONNECT)?;
        for (name, wanted) in [(SERVICE, service), (LOCAL, local)] {
            let pinned = pinned::noted(&path, name).map_err(opened)?;
            if pinned != wanted.to_string() {
                let found = format!("what is pinned is for {name} {pinned}, not {wanted}");
                return Err(Unavailable::NotPinned { found });
            }
        }
        let map = MapData::from_pin(path.join(VALUE)).map_err(opened)?;
        let page: Page<Steer> = Page::map(map.fd()).map_err(opened)?;
        page.beat.store(0, Relaxed);
        let hold = Hold::Pinned {
            path,
            _claim: claim,
        };
        Ok(Steering { page, hold })
    }

    /// Attaches as [`Self::attach`] does, and leaves it to the worker of this node. A
    /// `local` of the loopback is for clients in the network namespace of this process.
    ///
    /// # Errors
    /// As there.
    pub fn pin(
        pins: &Pins,
        service: SocketAddr,
        local: SocketAddr,
        cgroup: &Path,
    ) -> Result<(), Unavailable> {
        let (mut programs, links) = attach(service, local, cgroup)?;
        let path = pins.make(CONNECT)?;
        let map = programs.map(VALUE);
        let map = map.ok_or(Unavailable::Missing { name: VALUE })?;
        map.pin(path.join(VALUE)).map_err(unpinned)?;
        for (name, link) in PROGRAMS.into_iter().zip(links) {
            let link = program(&mut programs, name)?.take_link(link);
            let link = FdLink::try_from(link.map_err(unpinned)?).map_err(unpinned)?;
            link.pin(path.join(name)).map_err(unpinned)?;
        }
        let notes = [(SERVICE, service), (LOCAL, local)];
        let mut noted = notes.iter().map(|(name, address)| {
            let address = address.to_string();
            pinned::note(&path, name, &address)
        });
        noted.try_for_each(|noted| noted).map_err(unpinned)?;
        pinned::share(&path).map_err(unpinned)
    }

    /// The worker is ready now. To be called at least every second: after two without,
    /// connections go to the service address.
    pub fn beat(&self) {
        self.page.beat.store(now_ns(), Relaxed);
    }

    /// The worker is not ready: from now on connections go to the service address.
    pub fn withdraw(&self) {
        self.page.beat.store(0, Relaxed);
    }

    /// Whether both programs are still attached: somebody may have detached them, or taken
    /// away their pins, or the cgroup is gone.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_attached(&self) -> io::Result<bool> {
        match &self.hold {
            Hold::Loaded {
                cgroup, programs, ..
            } => {
                for (kind, id) in programs {
                    if !attached::runs(cgroup, *kind, *id)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Hold::Pinned { path, .. } => {
                for name in PROGRAMS {
                    match call::pinned(&path.join(name)) {
                        Ok(link) if call::is_attached(&link)? => {}
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(error);
                        }
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
        }
    }

    /// What has happened since it was attached.
    #[must_use]
    pub fn counts(&self) -> SteerCounts {
        SteerCounts {
            steered: self.page.steered.load(Relaxed),
            not_ready: self.page.not_ready.load(Relaxed),
            elsewhere: self.page.elsewhere.load(Relaxed),
        }
    }
}

fn opened<E: Error>(error: E) -> Unavailable {
    Unavailable::refused("opening what is pinned")(error)
}

fn unpinned<E: Error>(error: E) -> Unavailable {
    Unavailable::refused("pinning the programs of connect")(error)
}

/// Loads and attaches both, beside those of others.
fn attach(
    service: SocketAddr,
    local: SocketAddr,
    cgroup: &Path,
) -> Result<(Ebpf, Vec<CgroupSockAddrLinkId>), Unavailable> {
    let netns = match local.ip().to_canonical().is_loopback() {
        true => netns::own().map_err(Unavailable::refused("the own network namespace"))?,
        false => 0,
    };
    let (service, local) = (endpoint(service), endpoint(local));
    let mut programs = object::open(|loader| {
        loader.override_global("SERVICE", &service, true);
        loader.override_global("LOCAL", &local, true);
        loader.override_global("NETNS", &netns, true);
    })?;
    let cgroup = File::open(cgroup).map_err(Unavailable::refused("opening the cgroup"))?;
    let others = effective(&cgroup)?;
    let mut links = Vec::new();
    for name in PROGRAMS {
        let program = program(&mut programs, name)?;
        program
            .load()
            .map_err(Unavailable::refused("loading the programs of connect"))?;
        // A link (bpf_link_create), which dies with its last descriptor. The kernel has it
        // stand beside other programs always, and takes no flag that says so: EINVAL.
        let link = program.attach(&cgroup, CgroupAttachMode::Single);
        links.push(link.map_err(Unavailable::refused("attaching to the cgroup"))?);
    }
    // Below a program that may be overridden ours would take its place.
    let now = effective(&cgroup)?;
    match others.iter().find(|other| !now.contains(other)) {
        Some((_, id)) => Err(Unavailable::Refused {
            what: "attaching to the cgroup",
            why: format!(
                "program {id} of a cgroup above may be overridden, and would not be run any more"
            ),
        }),
        None => Ok((programs, links)),
    }
}

fn program<'p>(
    programs: &'p mut Ebpf,
    name: &'static str,
) -> Result<&'p mut CgroupSockAddr, Unavailable> {
    let missing = || Unavailable::Missing { name };
    let found = programs.program_mut(name).ok_or_else(missing)?;
    found.try_into().map_err(|_| missing())
}

/// Type and id of all programs of connect(2) that run for the cgroup.
fn effective(cgroup: &File) -> Result<Vec<(u32, u32)>, Unavailable> {
    let mut all = Vec::new();
    for kind in attached::CONNECTS {
        let ids = attached::effective(cgroup, kind);
        let ids = ids.map_err(Unavailable::refused(
            "asking for the programs of the cgroup",
        ))?;
        all.extend(ids.into_iter().map(|id| (kind, id)));
    }
    Ok(all)
}

fn map_value(programs: &Ebpf) -> Result<Page<Steer>, Unavailable> {
    let Some(Map::Array(data)) = programs.map(VALUE) else {
        return Err(Unavailable::Missing { name: VALUE });
    };
    Page::map(data.fd()).map_err(Unavailable::refused("sharing memory with the programs"))
}

fn endpoint(address: SocketAddr) -> Endpoint {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    // Octets of both are in network order.
    let octets = ip.octets();
    let word = |n: usize| {
        let at = 4 * n;
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    let port = u32::from(address.port().to_be());
    [word(0), word(1), word(2), word(3), port]
}

/// The clock that programs read, nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words_in_network_byte_order() {
        let bytes = |endpoint: Endpoint| endpoint.map(u32::to_ne_bytes);
        let four = bytes(endpoint("10.1.2.3:258".parse().unwrap()));
        assert_eq!(four[2..4], [[0, 0, 0xff, 0xff], [10, 1, 2, 3]]);
        assert_eq!(four[4][..2], [1, 2]);
        let six = bytes(endpoint("[fd00::1]:80".parse().unwrap()));
        assert_eq!(six[0], [0xfd, 0, 0, 0]);
        assert_eq!(six[3], [0, 0, 0, 1]);
    }
}
