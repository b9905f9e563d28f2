//! Packets of connections that were handed over go on to their owner (a tc program at
//! the ingress of a device, TCX: Linux 6.6).

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use quickwater_ebpf_shapes::{
    ARRIVAL_NS, FLOWS_MAX, Flow, Forward, HandoffCounts, WINDOW_NS, is_expected,
};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

use crate::page::Page;
use crate::{Device, Unavailable, call, object};

const PROGRAM: &str = "handoff";
const COUNTS: &str = "HANDOFF";
const FORWARDS: &str = "FORWARDS";
const EXPECTED: &str = "EXPECTED";
const ARRIVALS: &str = "ARRIVALS";
/// Names of what is pinned. The number is the version of what is in it.
const PINNED_FORWARDS: &str = "forwards-3";
/// What earlier versions left: entries that this one cannot read.
const PINNED_BEFORE: [&str; 2] = ["forwards-1", "forwards-2"];
/// What came while the next process starts, whose listener is there before its program,
/// can be handed over all the same.
const PINNED_ARRIVALS: &str = "arrivals-1";
/// Of linux/bpf.h: an entry is written only where there is one.
const BPF_EXIST: u64 = 2;
const PINNED_LINK: &str = "link-1";
/// Of the directories that these are in.
pub(crate) const PINS_PREFIX: &str = "handoff-";
/// For how long packets of a connection may be kept away at most.
pub const WINDOW: Duration = Duration::from_nanos(WINDOW_NS);

/// So many connections that begin and are not accepted are too many: the kernel makes room
/// somewhat before the map is full.
const ARRIVALS_MANY: usize = FLOWS_MAX as usize / 8 * 7;

type Key = [u32; 9];
type Value = [u64; 4];
type Flows<V> = HashMap<MapData, Key, V>;

/// A connection by its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// What it connected to.
    pub service: SocketAddr,
}

/// What was done with packets since the program was attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// Sent on to an owner.
    pub forwarded: u64,
    /// Dropped while their connection was being handed over.
    pub kept_away: u64,
    /// They met an entry that was too old.
    pub too_old: u64,
    /// They could not be sent on.
    pub failed: u64,
}

/// A map that had no place for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Of connections that went elsewhere: others stay here.
    Forwards,
    /// Of connections that are expected: others stay where they are.
    Expected,
    /// Of connections that begin: some of them stay here.
    Arrivals,
}

/// The attached program. It and its entries outlive the process: connections that were
/// handed over before a restart go on, and whoever attaches next takes over.
pub struct Forwarding {
    device: Device,
    port: u16,
    pins: PathBuf,
    /// What is pinned there, by name: without its pin it lives as long as this.
    pinned: [(&'static str, OwnedFd); 3],
    /// Says that somebody uses the directory.
    claim: Mutex<Option<File>>,
    page: Page<HandoffCounts>,
    maps: Mutex<Maps>,
    /// Another way to the entries, for looking at all of them while others use `maps`.
    all: Maps,
    /// Of connections that went elsewhere, as the last sweep found them.
    left: AtomicUsize,
    /// An entry was refused since the last sweep because there are too many.
    refused: [AtomicBool; 2],
    _programs: Ebpf,
}

struct Maps {
    forwards: Flows<Value>,
    expected: Flows<u64>,
    arrivals: Flows<u64>,
}

impl Forwarding {
    /// Has the program look at packets to `port` that come in by `device`. `pins`: a
    /// directory on a BPF file system, of this device and port alone; made if need be.
    ///
    /// # Errors
    /// It does not run; what ran before goes on. Needs CAP_BPF and CAP_NET_ADMIN until
    /// it returns.
    pub fn attach(device: &Device, port: u16, pins: &Path) -> Result<Self, Unavailable> {
        let service_port = u32::from(port);
        fs::create_dir_all(pins).map_err(Unavailable::refused("the directory of pins"))?;
        let pinned = pins.join(PINNED_FORWARDS);
        let mut programs = object::open(|loader| {
            loader.override_global("SERVICE_PORT", &service_port, true);
            for map in [FORWARDS, EXPECTED, ARRIVALS] {
                loader.map_max_entries(map, FLOWS_MAX);
            }
            loader.map_pin_path(FORWARDS, &pinned);
            loader.map_pin_path(ARRIVALS, pins.join(PINNED_ARRIVALS));
        })?;
        let all = Maps {
            forwards: again(&programs, FORWARDS)?,
            expected: again(&programs, EXPECTED)?,
            arrivals: again(&programs, ARRIVALS)?,
        };
        let page = counts(&programs)?;
        let maps = Maps {
            forwards: take(&mut programs, FORWARDS)?,
            expected: take(&mut programs, EXPECTED)?,
            arrivals: take(&mut programs, ARRIVALS)?,
        };
        let missing = || Unavailable::Missing { name: PROGRAM };
        let program = programs.program_mut(PROGRAM).ok_or_else(missing)?;
        let program: &mut SchedClassifier = program.try_into().map_err(|_| missing())?;
        program
            .load()
            .map_err(Unavailable::refused("loading the program `handoff`"))?;
        hang(program, device, &pins.join(PINNED_LINK))?;
        for before in PINNED_BEFORE {
            gone(fs::remove_file(pins.join(before)))
                .map_err(Unavailable::refused("removing an old pin"))?;
        }
        let handle = |name: &'static str| -> Result<_, Unavailable> {
            let handle = call::pinned(&pins.join(name));
            Ok((
                name,
                handle.map_err(Unavailable::refused("what is pinned"))?,
            ))
        };
        let forwarding = Forwarding {
            device: device.clone(),
            port,
            pins: pins.to_owned(),
            pinned: [
                handle(PINNED_LINK)?,
                handle(PINNED_FORWARDS)?,
                handle(PINNED_ARRIVALS)?,
            ],
            claim: Mutex::default(),
            page,
            maps: Mutex::new(maps),
            all,
            left: AtomicUsize::new(0),
            refused: Default::default(),
            _programs: programs,
        };
        forwarding
            .keep_pinned()
            .map_err(Unavailable::refused("what is pinned"))?;
        Ok(forwarding)
    }

    /// Pins again what somebody took away: the program runs on without its pins, but only as
    /// long as this process. Whether something had to be done.
    ///
    /// # Errors
    /// They cannot be made: no BPF file system is there any more, for one.
    pub fn keep_pinned(&self) -> io::Result<bool> {
        let mut is_repaired = false;
        fs::create_dir_all(&self.pins)?;
        for (name, object) in &self.pinned {
            let path = self.pins.join(name);
            if !path.try_exists()? {
                call::pin(object, &path)?;
                is_repaired = true;
            }
        }
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        if is_repaired || claim.is_none() {
            *claim = match claimed(&self.pins, FlockOperation::NonBlockingLockShared) {
                // Somebody asks just now whether it is used: at the next look.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                other => Some(other?),
            };
        }
        Ok(is_repaired)
    }

    /// Where it is attached.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The port whose packets it looks at.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the first packet of a connection came by this device, so that all others
    /// do. Only such connections can be handed over. To be asked once, when it is accepted:
    /// what is known of it is forgotten.
    #[must_use]
    pub fn take_arrival(&self, ends: &Ends) -> bool {
        let mut maps = self.maps();
        let Ok(since) = maps.arrivals.get(&key(ends), 0) else {
            return false;
        };
        drop_entry(maps.arrivals.remove(&key(ends)));
        // It may have come by another device later.
        is_arriving(since, now_ns())
    }

    /// From now on packets of a connection are dropped, until [`Self::send_on`] or
    /// [`Self::forget`], or for [`WINDOW`].
    ///
    /// # Errors
    /// They are not.
    pub fn keep_away(&self, ends: &Ends) -> Result<(), Unavailable> {
        self.put(ends, Forward::KEEP_AWAY, [0; 6]).map(|_| ())
    }

    /// From now on they go to a device on the same segment. What is returned tells the
    /// connection from others of the same ends, for [`Self::end`].
    ///
    /// # Errors
    /// All is as before.
    pub fn send_on(&self, ends: &Ends, mac: [u8; 6]) -> Result<u64, Unavailable> {
        self.put(ends, Forward::TO_OWNER, mac)
    }

    /// The connection that [`Self::send_on`] returned `mark` for has ended at the device its
    /// packets go to now, `at`: what its client still says goes there, for a moment. `false`:
    /// they go elsewhere, or it is another connection.
    ///
    /// # Errors
    /// All is as before.
    pub fn end(&self, ends: &Ends, at: [u8; 6], mark: u64) -> Result<bool, Unavailable> {
        let mut maps = self.maps();
        let Some(mut entry) = sent_on(&maps, ends) else {
            return Ok(false);
        };
        if entry.mac != at || entry.made_ns != mark {
            return Ok(false);
        }
        (entry.what, entry.seen_ns) = (Forward::CLOSING, now_ns());
        change(&mut maps, ends, &entry)
    }

    /// The connection was reset from here, and may be at that device: what its client
    /// still sends goes there, for a moment.
    ///
    /// # Errors
    /// All is as before.
    pub fn send_last(&self, ends: &Ends, mac: [u8; 6]) -> Result<(), Unavailable> {
        self.put(ends, Forward::CLOSING, mac).map(|_| ())
    }

    /// From now on the packets of a connection that go to one device go to another one,
    /// for a moment only if it is the `last`: then they stay where they go now, which may
    /// be either. `false`: they go elsewhere, nowhere, or the client has ended its side.
    ///
    /// # Errors
    /// All is as before.
    pub fn redirect(
        &self,
        ends: &Ends,
        (from, to): ([u8; 6], [u8; 6]),
        last: bool,
    ) -> Result<bool, Unavailable> {
        let mut maps = self.maps();
        let Some(mut entry) = sent_on(&maps, ends) else {
            return Ok(false);
        };
        let known = entry.mac == from || last && entry.mac == to;
        if entry.what != Forward::TO_OWNER || !known {
            return Ok(false);
        }
        match last {
            true => entry.what = Forward::CLOSING,
            false => entry.mac = to,
        }
        entry.seen_ns = now_ns();
        change(&mut maps, ends, &entry)
    }

    /// Whether packets of a connection go to another device now.
    #[must_use]
    pub fn is_sent_on(&self, ends: &Ends) -> bool {
        sent_on(&self.maps(), ends).is_some()
    }

    /// When it was made.
    fn put(&self, ends: &Ends, what: u16, mac: [u8; 6]) -> Result<u64, Unavailable> {
        let entry = Forward::new(what, mac, now_ns());
        let mut maps = self.maps();
        let put = maps.forwards.insert(key(ends), value(&entry), 0);
        self.note_refusal(&put, Full::Forwards);
        put.map_err(Unavailable::refused("an entry for a connection"))?;
        Ok(entry.made_ns)
    }

    /// From now on the connection's packets are this host's again.
    pub fn forget(&self, ends: &Ends) {
        drop_entry(self.maps().forwards.remove(&key(ends)));
    }

    /// For [`WINDOW`], or until [`Self::expect_no_more`], packets of a connection that
    /// another host sends on are dropped: its socket is not there yet. It may have left
    /// from here a moment ago.
    ///
    /// # Errors
    /// They are not, and would be answered by a reset.
    pub fn expect(&self, ends: &Ends) -> Result<(), Unavailable> {
        let until = now_ns().saturating_add(WINDOW_NS);
        let mut maps = self.maps();
        let put = maps.expected.insert(key(ends), until, 0);
        self.note_refusal(&put, Full::Expected);
        put.map_err(Unavailable::refused("an entry for an expected connection"))?;
        // It would end in the midst of it, and its last packet pass.
        let found = maps.forwards.get(&key(ends), 0);
        if found.is_ok_and(|entry| forward(entry).what == Forward::KEEP_AWAY) {
            drop_entry(maps.forwards.remove(&key(ends)));
        }
        Ok(())
    }

    /// The socket is there.
    pub fn expect_no_more(&self, ends: &Ends) {
        drop_entry(self.maps().expected.remove(&key(ends)));
    }

    fn note_refusal(&self, put: &Result<(), MapError>, map: Full) {
        if put.is_err() {
            self.refused[map as usize].store(true, Relaxed);
        }
    }

    /// Which maps had no place for an entry since this was asked last, or may have had none.
    /// `arrivals`: entries that [`Self::sweep_others`] left there.
    #[must_use]
    pub fn full(&self, arrivals: usize) -> Vec<Full> {
        let refused = |map: Full| self.refused[map as usize].swap(false, Relaxed);
        let mut full: Vec<Full> = [Full::Forwards, Full::Expected].into();
        full.retain(|map| refused(*map));
        if arrivals >= ARRIVALS_MANY {
            full.push(Full::Arrivals);
        }
        full
    }

    /// As [`Self::sweep`] for connections that are expected, and for those that were not
    /// accepted yet; how many are left of each.
    #[must_use]
    pub fn sweep_others(&self) -> (usize, usize) {
        let maps = || self.maps();
        let expected = sweep(
            &self.all.expected,
            |until, now| is_expected(*until, now),
            |key, over| {
                let mut maps = maps();
                if maps.expected.get(key, 0).is_ok_and(|until| over(&until)) {
                    drop_entry(maps.expected.remove(key));
                }
            },
        );
        let arrivals = sweep(
            &self.all.arrivals,
            |since, now| is_arriving(*since, now),
            |key, over| {
                let mut maps = maps();
                // One that begins again in between is not known to have come: it stays here.
                if maps.arrivals.get(key, 0).is_ok_and(|since| over(&since)) {
                    drop_entry(maps.arrivals.remove(key));
                }
            },
        );
        (expected, arrivals)
    }

    /// Removes entries that are too old to matter; how many are left, and how many were
    /// removed. To be called now and then: a look at every entry.
    #[must_use]
    pub fn sweep(&self) -> (usize, usize) {
        let (mut left, mut old) = (0, Vec::new());
        let now = now_ns();
        for (key, found) in self.all.forwards.iter().flatten() {
            match forward(found).is_over(now) {
                true => old.push(key),
                false => left += 1,
            }
        }
        // Each may be another connection's by now.
        old.retain(|key| {
            let mut maps = self.maps();
            let found = maps.forwards.get(key, 0);
            let over = found.is_ok_and(|entry| forward(entry).is_over(now_ns()));
            if over {
                drop_entry(maps.forwards.remove(key));
            }
            over
        });
        self.left.store(left, Relaxed);
        (left, old.len())
    }

    /// Entries that the last [`Self::sweep`] left; 0 before the first one.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.left.load(Relaxed)
    }

    /// What was done with packets.
    #[must_use]
    pub fn counts(&self) -> PacketCounts {
        PacketCounts {
            forwarded: self.page.forwarded.load(Relaxed),
            kept_away: self.page.kept_away.load(Relaxed),
            too_old: self.page.too_old.load(Relaxed),
            failed: self.page.failed.load(Relaxed),
        }
    }

    /// Directories below `pins` in which a worker with the service's `port` left what outlives
    /// it, of whatever device.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn left_behind(pins: &Path, port: u16) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(pins) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let own = name
                .strip_prefix(PINS_PREFIX)
                .and_then(|rest| rest.rsplit_once('-'));
            if own.is_some_and(|(_, of)| of == port.to_string()) {
                found.push(pins.join(&*name));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether a process uses what is in one of these directories.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_used(pins: &Path) -> io::Result<bool> {
        match claimed(pins, FlockOperation::NonBlockingLockExclusive) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes the program off the device, also one that an earlier process left there. The
    /// kernel does it a moment after this returns, and after the last [`Forwarding`] of
    /// these pins is gone. Connections that were handed over from here break.
    ///
    /// # Errors
    /// What is pinned cannot be removed.
    pub fn detach(pins: &Path) -> io::Result<()> {
        let now = [PINNED_LINK, PINNED_FORWARDS, PINNED_ARRIVALS];
        for name in now.into_iter().chain(PINNED_BEFORE) {
            gone(fs::remove_file(pins.join(name)))?;
        }
        gone(fs::remove_dir(pins))
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory that others see is in use, as long as the file is open.
fn claimed(pins: &Path, how: FlockOperation) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    let directory = options.open(pins)?;
    flock(&directory, how)?;
    Ok(directory)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The entry of a connection whose packets go to another device.
fn sent_on(maps: &Maps, ends: &Ends) -> Option<Forward> {
    let entry = forward(maps.forwards.get(&key(ends), 0).ok()?);
    let live = entry.what != Forward::KEEP_AWAY && !entry.is_over(now_ns());
    live.then_some(entry)
}

/// Writes an entry that is there. `false`: the program took it away meanwhile, for the client
/// begins another connection of the same ends.
fn change(maps: &mut Maps, ends: &Ends, entry: &Forward) -> Result<bool, Unavailable> {
    match maps.forwards.insert(key(ends), value(entry), BPF_EXIST) {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(false)
        }
        Err(error) => Err(Unavailable::refused("an entry for a connection")(error)),
    }
}

/// Removes what is over; how many are left. Each is looked at again before: it may be another
/// connection's by then.
fn sweep(
    all: &Flows<u64>,
    is_live: impl Fn(&u64, u64) -> bool,
    remove: impl Fn(&Key, &dyn Fn(&u64) -> bool),
) -> usize {
    let (mut left, mut old) = (0, Vec::new());
    for (key, found) in all.iter().flatten() {
        match is_live(&found, now_ns()) {
            true => left += 1,
            false => old.push(key),
        }
    }
    let over = |found: &u64| !is_live(found, now_ns());
    old.iter().for_each(|key| remove(key, &over));
    left
}

/// Whether a connection that began then may still be accepted.
fn is_arriving(since_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(since_ns) <= ARRIVAL_NS
}

/// It may not have been there: that is what is wanted.
fn drop_entry(removed: Result<(), MapError>) {
    drop(removed);
}

/// In place of the one that an earlier process left, if there is one: no packet goes by
/// between the two.
fn hang(program: &mut SchedClassifier, device: &Device, pin: &Path) -> Result<(), Unavailable> {
    if let Ok(old) = PinnedLink::from_pin(pin) {
        let replaced = FdLink::from(old).try_into().ok();
        let replaced = replaced.and_then(|link| program.attach_to_link(link).ok());
        if replaced.is_some() {
            return Ok(());
        }
        // Of a device that is gone: the link hangs on nothing.
        let removed = fs::remove_file(pin);
        removed.map_err(Unavailable::refused("removing an old pin"))?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program
        .attach_with_options(&device.name, TcAttachType::Ingress, order)
        .map_err(Unavailable::refused("attaching the program `handoff`"))?;
    pin_link(program, link, pin)
}

fn pin_link(
    program: &mut SchedClassifier,
    link: SchedClassifierLinkId,
    pin: &Path,
) -> Result<(), Unavailable> {
    let what = "pinning the program `handoff`";
    let link = program
        .take_link(link)
        .map_err(Unavailable::refused(what))?;
    let link = FdLink::try_from(link).map_err(Unavailable::refused(what))?;
    link.pin(pin).map_err(Unavailable::refused(what))?;
    Ok(())
}

fn take<V: aya::Pod>(programs: &mut Ebpf, name: &'static str) -> Result<Flows<V>, Unavailable> {
    let missing = || Unavailable::Missing { name };
    let map = programs.take_map(name).ok_or_else(missing)?;
    HashMap::try_from(map).map_err(Unavailable::refused("a map of connections"))
}

/// Another way to a map, before it is taken.
fn again<V: aya::Pod>(programs: &Ebpf, name: &'static str) -> Result<Flows<V>, Unavailable> {
    let missing = || Unavailable::Missing { name };
    let map = programs.map(name).ok_or_else(missing)?;
    let (Map::HashMap(data) | Map::LruHashMap(data)) = map else {
        return Err(missing());
    };
    let what = "a handle of a map";
    let fd = data.fd().as_fd().try_clone_to_owned();
    let data = MapData::from_fd(fd.map_err(Unavailable::refused(what))?);
    let data = data.map_err(Unavailable::refused(what))?;
    let map = match map {
        Map::HashMap(_) => Map::HashMap(data),
        _ => Map::LruHashMap(data),
    };
    HashMap::try_from(map).map_err(Unavailable::refused("a map of connections"))
}

fn counts(programs: &Ebpf) -> Result<Page<HandoffCounts>, Unavailable> {
    let Some(Map::Array(data)) = programs.map(COUNTS) else {
        return Err(Unavailable::Missing { name: COUNTS });
    };
    Page::map(data.fd()).map_err(Unavailable::refused("sharing memory with the program"))
}

/// [`Flow`] as words of this machine.
fn key(ends: &Ends) -> Key {
    const _: () = assert!(size_of::<Flow>() == size_of::<Key>());
    let (client, service) = (words(ends.client.ip()), words(ends.service.ip()));
    let [a, b] = ends.client.port().to_be_bytes();
    let [c, d] = ends.service.port().to_be_bytes();
    let mut key = [0; 9];
    key[..4].copy_from_slice(&client);
    key[4..8].copy_from_slice(&service);
    key[8] = u32::from_ne_bytes([a, b, c, d]);
    key
}

fn words(ip: IpAddr) -> [u32; 4] {
    let octets = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let mut words = [0; 4];
    for (word, octets) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*octets);
    }
    words
}

/// [`Forward`] as words of this machine.
fn value(entry: &Forward) -> Value {
    const _: () = assert!(size_of::<Forward>() == size_of::<Value>());
    let [x, y] = entry.what.to_ne_bytes();
    let [a, b, c, d, e, f] = entry.mac;
    let [g, h, i, j] = entry.next.to_ne_bytes();
    let [k, l, m, n] = entry.is_known.to_ne_bytes();
    [
        entry.seen_ns,
        u64::from_ne_bytes([x, y, a, b, c, d, e, f]),
        u64::from_ne_bytes([g, h, i, j, k, l, m, n]),
        entry.made_ns,
    ]
}

fn forward([seen_ns, rest, heard, made_ns]: Value) -> Forward {
    let [g, h, i, j, k, l, m, n] = heard.to_ne_bytes();
    let [x, y, a, b, c, d, e, f] = rest.to_ne_bytes();
    Forward {
        seen_ns,
        what: u16::from_ne_bytes([x, y]),
        mac: [a, b, c, d, e, f],
        next: u32::from_ne_bytes([g, h, i, j]),
        is_known: u32::from_ne_bytes([k, l, m, n]),
        made_ns,
    }
}

/// The clock that programs read, nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

/// Where the pins of a device and a port are, below a directory of all pins. A BPF file
/// system has no names with dots.
#[must_use]
pub fn pins_of(pins: &Path, device: &str, port: u16) -> PathBuf {
    pins.join(format!("{PINS_PREFIX}{}-{port}", device.replace('.', "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_the_program_reads_them() {
        let ends = Ends {
            client: "10.1.2.3:258".parse().unwrap(),
            service: "10.1.2.4:80".parse().unwrap(),
        };
        let bytes: Vec<u8> = key(&ends).iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(bytes[8..16], [0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(bytes[28..], [10, 1, 2, 4, 1, 2, 0, 80]);
        let six = Ends {
            client: "[fd00::9]:258".parse().unwrap(),
            ..ends
        };
        assert_eq!(key(&six)[0].to_ne_bytes(), [0xfd, 0, 0, 0]);
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let entry = Forward {
            seen_ns: 7,
            what: Forward::CLOSING,
            mac: [1, 2, 3, 4, 5, 6],
            next: 8,
            is_known: 9,
            made_ns: 10,
        };
        assert_eq!(forward(value(&entry)), entry);
    }

    #[test]
    fn pins_have_names_that_a_bpf_file_system_takes() {
        let path = pins_of(Path::new("/p"), "eth0.100", 9000);
        assert_eq!(path, Path::new("/p/handoff-eth0_100-9000"));
    }
}
