//! Packets of connections that were handed over go on to their owner; those of
//! connections that are being handed over, here or to here, are dropped: the client
//! sends them again. What routers on the way say of packets that are too large goes to whoever has the
//! connection, too: it is sent to the service's address (RFC 1191, RFC 8201). All others pass as
//! if nobody had looked.

use aya_ebpf::bindings::{BPF_ANY, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use aya_ebpf::programs::TcContext;
use quickwater_ebpf_shapes::{Flow, Forward, HandoffCounts, Segment, is_expected};

use crate::word::{MAPPABLE, add, constant};

/// Offsets in an Ethernet frame, and of what is in it.
const ETHERNET: usize = 14;
const MAC: usize = 6;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Type and code of ICMP's "fragmentation needed" and ICMPv6's "packet too big".
const TOO_LARGE: [u8; 2] = [3, 4];
const TOO_LARGE_6: [u8; 2] = [2, 0];
/// Where the packet that was too large begins, in one that says so.
const TOLD: usize = 8;
/// Not the first fragment, or more to come.
const FRAGMENT: u16 = 0x3fff;
/// The third word of an IPv4 address in the form of IPv6.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The port of the service, set by the loader: packets to others are not looked at.
#[unsafe(no_mangle)]
static SERVICE_PORT: u32 = 0;

/// Connections of clients to this host that are elsewhere, or about to be. Who loads
/// this program for its sake makes the maps larger; this one and `ARRIVALS` are pinned
/// then. No entry makes room for another: its connection would break.
#[map]
static FORWARDS: HashMap<Flow, Forward> = HashMap::with_max_entries(1, 0);
/// Connections that are about to be continued here, and until when their packets are
/// dropped: a packet that finds no socket would be answered by a reset.
#[map]
static EXPECTED: HashMap<Flow, u64> = HashMap::with_max_entries(1, 0);
/// Connections that began by a packet this program saw, and when, until they are accepted.
/// Anybody can have this program write here: the oldest make room.
#[map]
static ARRIVALS: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(1, 0);
#[map]
static HANDOFF: Array<HandoffCounts> = Array::with_max_entries(1, MAPPABLE);

/// Ingress of the device by which clients and other workers are reached.
#[classifier]
pub fn handoff(context: TcContext) -> i32 {
    let Some(packet) = look(&context) else {
        return match told(&context) {
            Some(flow) => told_on(&context, &flow),
            None => TC_ACT_UNSPEC,
        };
    };
    let Some(counts) = HANDOFF.get(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(entry) = FORWARDS.get_ptr_mut(&packet.flow) {
        // SAFETY: the kernel keeps the value while the program runs. Others may write it
        // at the same time: every field is read and written whole.
        let entry = unsafe { &mut *entry };
        return forwarded(&context, &packet, entry, now, counts);
    }
    if waits(&packet.flow, now) {
        add(&counts.kept_away, 1);
        return TC_ACT_SHOT;
    }
    if packet.segment.begins() {
        // Refused only for want of memory: then the connection stays here.
        let _ = ARRIVALS.insert(&packet.flow, &now, BPF_ANY.into());
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn forwarded(
    context: &TcContext,
    packet: &Packet,
    entry: &mut Forward,
    now: u64,
    counts: &HandoffCounts,
) -> i32 {
    let begins = packet.segment.begins();
    if entry.is_over(now) || begins && entry.is_ended() {
        // The next connection of the same ends, or nobody cares any more.
        let _ = FORWARDS.remove(&packet.flow);
        add(&counts.too_old, 1);
        if begins {
            let _ = ARRIVALS.insert(&packet.flow, &now, BPF_ANY.into());
        }
        return TC_ACT_UNSPEC;
    }
    if entry.what == Forward::KEEP_AWAY {
        add(&counts.kept_away, 1);
        return TC_ACT_SHOT;
    }
    let mac = entry.mac;
    // One that asks for a connection anew goes on as well: the owner's kernel answers it as
    // it should be, whether it has the connection or not.
    entry.hear(packet.segment, now);
    send_on(context, mac, counts)
}

/// A packet of a connection was too large for the way to its client: whoever sent it has to
/// know, or sends it for ever.
#[inline(always)]
fn told_on(context: &TcContext, flow: &Flow) -> i32 {
    let (Some(counts), Some(entry)) = (HANDOFF.get(0), FORWARDS.get_ptr(flow)) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: the kernel keeps the value while the program runs. Others may write it at the
    // same time: every field is read whole.
    let entry = unsafe { &*entry };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    match entry.is_over(now) || entry.what == Forward::KEEP_AWAY {
        // The connection is here still, or nobody has it.
        true => TC_ACT_UNSPEC,
        false => send_on(context, entry.mac, counts),
    }
}

/// Out of the device it came in by, to another.
#[inline(always)]
fn send_on(context: &TcContext, mac: [u8; 6], counts: &HandoffCounts) -> i32 {
    let sent = context
        .load::<[u8; 6]>(0)
        .and_then(|own| context.store(MAC, &own, 0))
        .and_then(|()| context.store(0, &mac, 0));
    if sent.is_err() {
        add(&counts.failed, 1);
        return TC_ACT_SHOT;
    }
    add(&counts.forwarded, 1);
    // SAFETY: the kernel passes the packet, whose device is this one.
    unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 }
}

#[inline(always)]
fn waits(flow: &Flow, now: u64) -> bool {
    // SAFETY: one aligned word, read whole.
    unsafe { EXPECTED.get(flow) }.is_some_and(|until| is_expected(*until, now))
}

/// What counts of a packet.
struct Packet {
    flow: Flow,
    segment: Segment,
}

/// `None`: not a whole TCP packet to the port.
#[inline(always)]
fn look(context: &TcContext) -> Option<Packet> {
    let kind = u16::from_be(context.load(12).ok()?);
    let (client, service, tcp, length) = match kind {
        IPV4 => ipv4(context)?,
        IPV6 => ipv6(context)?,
        _ => return None,
    };
    let service_port: u16 = context.load(tcp + 2).ok()?;
    if u32::from(u16::from_be(service_port)) != constant(&SERVICE_PORT) {
        return None;
    }
    Some(Packet {
        flow: Flow {
            client,
            service,
            client_port: context.load(tcp).ok()?,
            service_port,
        },
        segment: segment(context, tcp, length)?,
    })
}

/// `length`: of the packet of TCP, with its header.
#[inline(always)]
fn segment(context: &TcContext, tcp: usize, length: u32) -> Option<Segment> {
    let sequence: u32 = context.load(tcp + 4).ok()?;
    let words: u8 = context.load(tcp + 12).ok()?;
    Some(Segment {
        flags: context.load(tcp + 13).ok()?,
        sequence: u32::from_be(sequence),
        length: length.saturating_sub(u32::from(words >> 4) * 4),
    })
}

/// Client, service, offset and length of the packet of TCP.
type Ends = ([u32; 4], [u32; 4], usize, u32);

#[inline(always)]
fn ipv4(context: &TcContext) -> Option<Ends> {
    let first: u8 = context.load(ETHERNET).ok()?;
    let fragment = u16::from_be(context.load(ETHERNET + 6).ok()?);
    let protocol: u8 = context.load(ETHERNET + 9).ok()?;
    if protocol != TCP || fragment & FRAGMENT != 0 {
        return None;
    }
    let client: u32 = context.load(ETHERNET + 12).ok()?;
    let service: u32 = context.load(ETHERNET + 16).ok()?;
    let header = u32::from(first & 0xf) * 4;
    let length = u16::from_be(context.load(ETHERNET + 2).ok()?);
    Some((
        [0, 0, MAPPED, client],
        [0, 0, MAPPED, service],
        ETHERNET + header as usize,
        u32::from(length).saturating_sub(header),
    ))
}

/// Without extension headers: TCP has none on its way to a service.
#[inline(always)]
fn ipv6(context: &TcContext) -> Option<Ends> {
    let next: u8 = context.load(ETHERNET + 6).ok()?;
    if next != TCP {
        return None;
    }
    let client: [u32; 4] = context.load(ETHERNET + 8).ok()?;
    let service: [u32; 4] = context.load(ETHERNET + 24).ok()?;
    let length = u16::from_be(context.load(ETHERNET + 4).ok()?);
    Some((client, service, ETHERNET + IPV6_HEADER, u32::from(length)))
}

/// The connection of whose packets one is said to have been too large, by a packet that is sent
/// to the address that one came from. `None`: another packet.
#[inline(always)]
fn told(context: &TcContext) -> Option<Flow> {
    let kind = u16::from_be(context.load(12).ok()?);
    let (client, service, tcp) = match kind {
        IPV4 => told_by_icmp(context)?,
        IPV6 => told_by_icmp6(context)?,
        _ => return None,
    };
    // It was on its way to the client.
    let service_port: u16 = context.load(tcp).ok()?;
    if u32::from(u16::from_be(service_port)) != constant(&SERVICE_PORT) {
        return None;
    }
    Some(Flow {
        client,
        service,
        client_port: context.load(tcp + 2).ok()?,
        service_port,
    })
}

/// Client, service and offset of the header of TCP of the packet that was too large.
type Told = ([u32; 4], [u32; 4], usize);

#[inline(always)]
fn told_by_icmp(context: &TcContext) -> Option<Told> {
    let first: u8 = context.load(ETHERNET).ok()?;
    let fragment = u16::from_be(context.load(ETHERNET + 6).ok()?);
    let protocol: u8 = context.load(ETHERNET + 9).ok()?;
    if protocol != ICMP || fragment & FRAGMENT != 0 {
        return None;
    }
    let icmp = ETHERNET + usize::from(first & 0xf) * 4;
    if context.load::<[u8; 2]>(icmp).ok()? != TOO_LARGE {
        return None;
    }
    let inner = icmp + TOLD;
    let first: u8 = context.load(inner).ok()?;
    let protocol: u8 = context.load(inner + 9).ok()?;
    let to: u32 = context.load(ETHERNET + 16).ok()?;
    let service: u32 = context.load(inner + 12).ok()?;
    let client: u32 = context.load(inner + 16).ok()?;
    let header = usize::from(first & 0xf) * 4;
    (protocol == TCP && service == to).then_some((
        [0, 0, MAPPED, client],
        [0, 0, MAPPED, service],
        inner + header,
    ))
}

#[inline(always)]
fn told_by_icmp6(context: &TcContext) -> Option<Told> {
    let next: u8 = context.load(ETHERNET + 6).ok()?;
    let icmp = ETHERNET + IPV6_HEADER;
    if next != ICMP6 || context.load::<[u8; 2]>(icmp).ok()? != TOO_LARGE_6 {
        return None;
    }
    let inner = icmp + TOLD;
    let next: u8 = context.load(inner + 6).ok()?;
    let to: [u32; 4] = context.load(ETHERNET + 24).ok()?;
    let service: [u32; 4] = context.load(inner + 8).ok()?;
    let client: [u32; 4] = context.load(inner + 24).ok()?;
    (next == TCP && service == to).then_some((client, service, inner + IPV6_HEADER))
}
