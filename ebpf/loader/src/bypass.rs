//! Answers to clients of this node go from socket to socket (`sockops` and `sk_msg`).
//!
//! A client's socket is known from the moment it connects. The worker adds its own end
//! before it sends anything, so all it sends goes this way, in order, and nothing else does.
//! The kernel holds nobody back on this way: who sends has to ask for [`Shortcut::queued`].

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, SockHash};
use aya::programs::{
    CgroupAttachMode, Program, ProgramError, ProgramInfo, SchedClassifier, SkMsg, SockOps,
};
use quickwater_ebpf_shapes::{BypassCounts, MEETING_AT, NO_CLIENT};
use rustix::net::sockopt;

use crate::page::Page;
use crate::{Unavailable, attached, call, kernel_types, netns, object};

/// A sender waits while more bytes than that are queued: what one connection holds in the
/// kernel is at most that and one send.
pub const QUEUED_MAX: u32 = 4 << 20;

const MEET: &str = "meet";
const SEND: &str = "send";
const QUEUED: &str = "queued";
const COUNTS: &str = "BYPASS";
const ADDRESSES: &str = "ADDRESSES";
const WORKERS: &str = "WORKERS";
const ROUTES: &str = "ROUTES";
const ACCEPTED: &str = "ACCEPTED";
/// Of the map of addresses; those of a host with more go by TCP.
const ADDRESSES_MAX: usize = 256;
/// How often attaching is tried while programs of others go in between.
const WATCH_TRIES: usize = 100;

/// A [`quickwater_ebpf_shapes::Ways`] and a [`quickwater_ebpf_shapes::Meeting`] as the
/// kernel has them: the first is how the second begins.
type Ways = [u32; 10];
type Meeting = [u32; 12];

/// What has happened since the programs were attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BypassTotals {
    /// Clients of this node that connected to the worker.
    pub clients: u64,
    /// Connections that could not be noted, of clients or of the worker: too many, or another
    /// program has them.
    pub refused_connections: u64,
    /// Bytes that went from socket to socket.
    pub bytes: u64,
    /// Sends that were refused because the client had gone.
    pub refused: u64,
}

/// The attached programs; detached when this is dropped or the process ends. What clients
/// have not read yet is lost then, and their connections with it.
pub struct Bypass {
    page: Page<BypassCounts>,
    workers: OwnedFd,
    routes: OwnedFd,
    accepted: OwnedFd,
    queued: OwnedFd,
    hung: Hung,
    /// Connections of the worker that could not be noted because there are too many.
    workers_full: AtomicU64,
    /// How many there were, of clients or of the worker, when that was asked last.
    full_told: AtomicU64,
    _programs: Ebpf,
}

/// Where programs hang, and the ids of those that do.
struct Hung {
    cgroup: File,
    meet: u32,
    send: u32,
}

impl Bypass {
    /// Has the programs look at connections of processes of `cgroup`, and of those below,
    /// to `port` of `addresses`; the worker has to be one of these processes. An address of
    /// the loopback is that of the network namespace of the caller.
    ///
    /// # Errors
    /// They do not run, and nothing is attached: for one because a program there, or in a
    /// cgroup above, wants to be alone, or would not be run any more beside these. Needs
    /// CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON until it returns.
    pub fn attach(port: u16, addresses: &[IpAddr], cgroup: &Path) -> Result<Self, Unavailable> {
        let queued_at = queued_at()?;
        let port = u32::from(port);
        let mut programs = object::open_bypass(|loader| {
            loader.override_global("WORKER_PORT", &port, true);
            loader.override_global("QUEUED_AT", &queued_at, true);
        })?;
        tell(&mut programs, addresses)?;
        let queued: &mut SchedClassifier = program(&mut programs, QUEUED)?;
        queued.load().map_err(loading)?;
        let queued = owned(queued.fd().map_err(loading)?.as_fd())?;
        hang(&mut programs)?;
        let cgroup = File::open(cgroup).map_err(Unavailable::refused("opening the cgroup"))?;
        let mut programs = watch(programs, &cgroup)?;
        let bypass = Bypass {
            page: counts(&programs)?,
            workers: map_fd(&programs, WORKERS)?,
            routes: map_fd(&programs, ROUTES)?,
            accepted: map_fd(&programs, ACCEPTED)?,
            queued,
            hung: Hung {
                meet: id(program::<SockOps>(&mut programs, MEET)?.info())?,
                send: id(program::<SkMsg>(&mut programs, SEND)?.info())?,
                cgroup,
            },
            workers_full: AtomicU64::new(0),
            full_told: AtomicU64::new(0),
            _programs: programs,
        };
        Ok(bypass)
    }

    /// Whether the programs are still attached: somebody may have detached them, or the cgroup
    /// is gone. Without them what is sent goes by TCP, but for connections that were taken
    /// before: theirs goes on as it did.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_attached(&self) -> io::Result<bool> {
        let Hung { cgroup, meet, send } = &self.hung;
        Ok(attached::runs(cgroup, attached::SOCK_OPS, *meet)?
            && attached::of_sockets(&self.workers)?.contains(send))
    }

    /// Whether a connection goes by TCP since this was asked last because there are as many as
    /// the programs can know.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = self.page.clients_full.load(Relaxed) + self.workers_full.load(Relaxed);
        self.full_told.swap(full, Relaxed) < full
    }

    /// Has all that is sent on a connection go from socket to socket, if its client is on
    /// this node. `socket` was accepted and nothing was sent on it yet. `None`: it goes by
    /// TCP, as it would have.
    ///
    /// # Errors
    /// It goes by TCP because the kernel refuses: a connection that has just ended, for one.
    pub fn take(self: &Arc<Self>, socket: impl AsFd) -> io::Result<Option<Shortcut>> {
        let cookie = sockopt::socket_cookie(&socket)?;
        let Some(meeting) = call::lookup::<u64, Meeting>(&self.accepted, &cookie)? else {
            return Ok(None);
        };
        // It is asked about once; else it would stay until others need its place.
        call::delete(&self.accepted, &cookie)?;
        if self.queued(&meeting)?.is_none() {
            return Ok(None);
        }
        let ways = ways(&meeting);
        let noted = call::update(&self.routes, &ways, &meeting);
        noted.inspect_err(|error| self.note_refusal(error))?;
        let number = socket.as_fd().as_raw_fd().cast_unsigned();
        if let Err(error) = call::update(&self.workers, &ways, &number) {
            self.note_refusal(&error);
            call::delete(&self.routes, &ways)?;
            return Err(error);
        }
        let bypass = Arc::clone(self);
        Ok(Some(Shortcut {
            bypass,
            meeting,
            is_released: AtomicBool::new(false),
        }))
    }

    /// What has happened since they were attached.
    #[must_use]
    pub fn totals(&self) -> BypassTotals {
        BypassTotals {
            clients: self.page.clients.load(Relaxed),
            refused_connections: self.page.clients_refused.load(Relaxed)
                + self.workers_full.load(Relaxed),
            bytes: self.page.bytes.load(Relaxed),
            refused: self.page.refused.load(Relaxed),
        }
    }

    fn note_refusal(&self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::E2BIG) {
            self.workers_full.fetch_add(1, Relaxed);
        }
    }

    /// Connections to this port count as the worker's, too; 0: no other.
    pub(crate) fn set_test_port(&self, port: u16) {
        self.page.test_port.store(port.into(), Relaxed);
    }

    /// Bytes that a client has not read; `None`: it is not on this node, or has gone.
    fn queued(&self, meeting: &Meeting) -> io::Result<Option<u32>> {
        let mut input = [0u8; MEETING_AT + size_of::<Meeting>()];
        for (place, word) in input[MEETING_AT..].chunks_exact_mut(4).zip(meeting) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let bytes = call::run(&self.queued, &input)?;
        Ok((bytes != NO_CLIENT).then_some(bytes))
    }
}

/// A connection whose client is on this node. Dropped or released, what is sent goes by TCP
/// again: only once the client has read all, or nothing more is sent.
pub struct Shortcut {
    bypass: Arc<Bypass>,
    meeting: Meeting,
    is_released: AtomicBool,
}

impl Shortcut {
    /// Bytes sent that the client has not read; `None`: it has gone.
    ///
    /// # Errors
    /// The kernel refuses: CAP_BPF was given up, for one.
    pub fn queued(&self) -> io::Result<Option<u32>> {
        self.bypass.queued(&self.meeting)
    }

    /// The worker's end ends: to be called before its socket is closed, because the next
    /// connection may have the same ends. [`Self::queued`] goes on to tell.
    pub fn release(&self) {
        if self.is_released.swap(true, Relaxed) {
            return;
        }
        let ways = ways(&self.meeting);
        // The kernel removes a socket by itself when it ends, so there may be none.
        let _ = call::delete(&self.bypass.workers, &ways);
        let _ = call::delete(&self.bypass.routes, &ways);
    }
}

impl Drop for Shortcut {
    fn drop(&mut self) {
        self.release();
    }
}

fn ways(meeting: &Meeting) -> Ways {
    let mut ways = Ways::default();
    ways.copy_from_slice(&meeting[..10]);
    ways
}

/// Where a socket counts what waits to be read; `struct tcp_sock` begins with `struct sock`.
fn queued_at() -> Result<u32, Unavailable> {
    let description = Path::new(kernel_types::VMLINUX);
    kernel_types::offset(description, "sock", "sk_backlog", "rmem_alloc")
        .map_err(Unavailable::refused("the layout of sockets"))
}

fn tell(programs: &mut Ebpf, addresses: &[IpAddr]) -> Result<(), Unavailable> {
    let what = "the number of addresses of this host";
    if addresses.len() > ADDRESSES_MAX {
        return Err(Unavailable::TooMany { what });
    }
    let own = netns::own().map_err(Unavailable::refused("the own network namespace"))?;
    let missing = || Unavailable::Missing { name: ADDRESSES };
    let map = programs.map_mut(ADDRESSES).ok_or_else(missing)?;
    let mut map: HashMap<&mut MapData, [u32; 4], u64> =
        HashMap::try_from(map).map_err(|_| missing())?;
    for address in addresses {
        let canonical = address.to_canonical();
        let netns = if canonical.is_loopback() { own } else { 0 };
        map.insert(words(canonical), netns, 0)
            .map_err(Unavailable::refused("telling the addresses"))?;
    }
    Ok(())
}

/// In network byte order, IPv4 as IPv6 has it.
fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let word = |at: usize| {
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    };
    [word(0), word(4), word(8), word(12)]
}

fn loading(error: ProgramError) -> Unavailable {
    Unavailable::refused("loading the programs of bypass")(error)
}

/// Has what the worker's sockets send be looked at.
fn hang(programs: &mut Ebpf) -> Result<(), Unavailable> {
    let missing = || Unavailable::Missing { name: WORKERS };
    let workers = programs.map(WORKERS).ok_or_else(missing)?;
    let workers: SockHash<&MapData, Ways> = SockHash::try_from(workers).map_err(|_| missing())?;
    let workers = workers.fd().try_clone();
    let workers = workers.map_err(Unavailable::refused("a handle of the sockets"))?;
    let send: &mut SkMsg = program(programs, SEND)?;
    send.load().map_err(loading)?;
    let hung = send.attach(&workers);
    hung.map(|_| ())
        .map_err(Unavailable::refused("attaching the program `send`"))
}

/// Attaches to the cgroup, beside the programs of others.
fn watch(mut programs: Ebpf, cgroup: &File) -> Result<Ebpf, Unavailable> {
    let attaching = "attaching to the cgroup";
    let meet: &mut SockOps = program(&mut programs, MEET)?;
    meet.load().map_err(loading)?;
    for _ in 0..WATCH_TRIES {
        let others = effective(cgroup)?;
        // As for the programs of connect: a link stands beside others, and is EINVAL if told so.
        let link = meet.attach(cgroup, CgroupAttachMode::Single);
        let link = link.map_err(Unavailable::refused(attaching))?;
        let now = effective(cgroup)?;
        let missing: Vec<u32> = others.into_iter().filter(|id| !now.contains(id)).collect();
        if missing.is_empty() {
            return Ok(programs);
        }
        // Because of ours, or gone by themselves: then they do not come back.
        meet.detach(link).map_err(Unavailable::refused(attaching))?;
        let now = effective(cgroup)?;
        if let Some(id) = missing.into_iter().find(|id| now.contains(id)) {
            return Err(Unavailable::Refused {
                what: attaching,
                why: format!(
                    "program {id} of a cgroup above may be overridden, and would not be run any more"
                ),
            });
        }
    }
    Err(Unavailable::Refused {
        what: attaching,
        why: "programs of others there come and go all the time".into(),
    })
}

fn effective(cgroup: &File) -> Result<Vec<u32>, Unavailable> {
    attached::effective(cgroup, attached::SOCK_OPS).map_err(Unavailable::refused(
        "asking for the programs of the cgroup",
    ))
}

fn program<'p, P>(programs: &'p mut Ebpf, name: &'static str) -> Result<&'p mut P, Unavailable>
where
    &'p mut P: TryFrom<&'p mut Program>,
{
    let missing = || Unavailable::Missing { name };
    let found = programs.program_mut(name).ok_or_else(missing)?;
    found.try_into().map_err(|_| missing())
}

fn id(known: Result<ProgramInfo, ProgramError>) -> Result<u32, Unavailable> {
    let known = known.map_err(Unavailable::refused("asking for a program"))?;
    Ok(known.id())
}

fn map_fd(programs: &Ebpf, name: &'static str) -> Result<OwnedFd, Unavailable> {
    let Some(Map::SockHash(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data)) =
        programs.map(name)
    else {
        return Err(Unavailable::Missing { name });
    };
    owned(data.fd().as_fd())
}

fn owned(fd: BorrowedFd<'_>) -> Result<OwnedFd, Unavailable> {
    let owned = fd.try_clone_to_owned();
    owned.map_err(Unavailable::refused("a handle of a map"))
}

fn counts(programs: &Ebpf) -> Result<Page<BypassCounts>, Unavailable> {
    let map = map_fd(programs, COUNTS)?;
    Page::map(map).map_err(Unavailable::refused("sharing memory with the programs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words_in_network_byte_order() {
        let bytes = |text: &str| words(text.parse().unwrap()).map(u32::to_ne_bytes);
        assert_eq!(bytes("10.1.2.3")[2..], [[0, 0, 0xff, 0xff], [10, 1, 2, 3]]);
        assert_eq!(bytes("fd00::1")[0], [0xfd, 0, 0, 0]);
        assert_eq!(bytes("fd00::1")[3], [0, 0, 0, 1]);
    }
}
