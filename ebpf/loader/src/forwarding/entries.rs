//! What the program is told of connections, one by one.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use quickwater_ebpf_shapes::{ARRIVAL_NS, Flow, Forward, WINDOW_NS};
use rustix::time::{ClockId, clock_gettime};

use super::{Forwarding, Full};
use crate::Unavailable;

/// Of linux/bpf.h: an entry is written only where there is one.
const BPF_EXIST: u64 = 2;

pub(super) type Key = [u32; 9];
type Value = [u64; 4];
pub(super) type Flows<V> = HashMap<MapData, Key, V>;

/// A connection by its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// What it connected to.
    pub service: SocketAddr,
}

pub(super) struct Maps {
    pub(super) forwards: Flows<Value>,
    pub(super) expected: Flows<u64>,
    pub(super) arrivals: Flows<u64>,
}

impl Forwarding {
    /// Whether the first packet of a connection came by this device, so that all others
    /// do. Only such connections can be handed over. To be asked once, when it is accepted:
    /// what is known of it is forgotten.
    #[must_use]
    pub fn take_arrival(&self, ends: &Ends) -> bool {
        let mut maps = self.maps();
        let Ok(since) = maps.arrivals.get(&key(ends), 0) else {
            // It began while the program was off the device, for one: what is known of the
            // same ends is known of a connection before it.
            drop_entry(maps.forwards.remove(&key(ends)));
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
        self.check_attached()?;
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
        self.check_attached()?;
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

    fn check_attached(&self) -> Result<(), Unavailable> {
        match self.is_attached() {
            true => Ok(()),
            false => Err(Unavailable::Refused {
                what: "the program `handoff`",
                why: "it is on no device".into(),
            }),
        }
    }

    fn note_refusal(&self, put: &Result<(), MapError>, map: Full) {
        if put.is_err() {
            self.refused[map as usize].store(true, Relaxed);
        }
    }

    pub(super) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether a connection that began then may still be accepted.
pub(super) fn is_arriving(since_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(since_ns) <= ARRIVAL_NS
}

/// It may not have been there: that is what is wanted.
pub(super) fn drop_entry(removed: Result<(), MapError>) {
    drop(removed);
}

pub(super) fn take<V: aya::Pod>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<Flows<V>, Unavailable> {
    let missing = || Unavailable::Missing { name };
    let map = programs.take_map(name).ok_or_else(missing)?;
    HashMap::try_from(map).map_err(Unavailable::refused("a map of connections"))
}

/// Another way to a map, before it is taken.
pub(super) fn again<V: aya::Pod>(
    programs: &Ebpf,
    name: &'static str,
) -> Result<Flows<V>, Unavailable> {
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

pub(super) fn forward([seen_ns, rest, heard, made_ns]: Value) -> Forward {
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
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
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
}
