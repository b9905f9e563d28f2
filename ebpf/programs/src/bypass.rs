//! Answers to clients of this node go from the worker's socket to the client's, without
//! TCP in between. Requests, and all of any other connection, stay as they are.
//!
//! Nothing here holds a sender back: it has to ask `queued` how much its client has not
//! read yet.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "as in main.rs")]
#![expect(
    missing_docs,
    reason = "the macros repeat functions without their words"
)]

mod word;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_INGRESS, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops, sk_action, sk_msg_md,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_sk_release,
    bpf_skc_to_tcp_sock, bpf_sock_hash_update,
};
use aya_ebpf::macros::{classifier, map, sk_msg, sock_ops};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, SockHash};
use aya_ebpf::programs::{SkMsgContext, SockOpsContext, TcContext};
use quickwater_ebpf_shapes::{BYPASSED_MAX, BypassCounts, MEETING_AT, Meeting, NO_CLIENT, Ways};

use crate::word::{MAPPABLE, add, constant, read};

/// AF_INET and AF_INET6.
const INET: u32 = 2;
const INET6: u32 = 10;
/// The third word of an IPv4 address in the form of IPv6.
const MAPPED: u32 = 0xffff_u32.to_be();
/// E2BIG: a map has as many entries as it can.
const NO_ROOM: i64 = -7;
/// Programs of this type say 1; what they say is not used here.
const DONE: u32 = 1;

/// The worker's port, set by the loader.
#[unsafe(no_mangle)]
static WORKER_PORT: u32 = 0;
/// Where in the kernel's `struct tcp_sock` the count of bytes is that wait to be read,
/// set by the loader.
#[unsafe(no_mangle)]
static QUEUED_AT: u32 = 0;

/// The worker's addresses, and the network namespace in which each of them is the
/// worker's; 0: in all.
#[map]
static ADDRESSES: HashMap<[u32; 4], u64> = HashMap::with_max_entries(256, 0);
/// Sockets of clients. No program hangs on it: what they send goes by TCP.
#[map]
static CLIENTS: SockHash<Meeting> = SockHash::with_max_entries(BYPASSED_MAX, 0);
/// Sockets of the worker, which it puts in itself; `send` hangs on it.
#[map]
static WORKERS: SockHash<Ways> = SockHash::with_max_entries(BYPASSED_MAX, 0);
/// Which client is at the other end of a socket of `WORKERS`; the worker's to say.
#[map]
static ROUTES: HashMap<Ways, Meeting> = HashMap::with_max_entries(BYPASSED_MAX, BPF_F_NO_PREALLOC);
/// Connections that the worker got, by the cookie of its socket.
#[map]
static ACCEPTED: LruHashMap<u64, Meeting> = LruHashMap::with_max_entries(BYPASSED_MAX, 0);
#[map]
static BYPASS: Array<BypassCounts> = Array::with_max_entries(1, MAPPABLE);

/// Connections of a cgroup: called when one is established, at each of its ends.
#[sock_ops]
pub fn meet(context: SockOpsContext) -> u32 {
    if let Some(counts) = BYPASS.get(0) {
        match context.op() {
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => client(&context, counts),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => worker(&context, counts),
            _ => {}
        }
    }
    DONE
}

/// The end that connected. The worker's kernel learns of it only later, so it is noted
/// before the worker can ask.
#[inline(always)]
fn client(context: &SockOpsContext, counts: &BypassCounts) {
    let at = context.ops;
    let port = remote_port(at);
    if !is_ours(port, counts) {
        return;
    }
    let Some((local, remote)) = addresses(at) else {
        return;
    };
    // SAFETY: one aligned word, read whole; the helper takes the context.
    let here = unsafe {
        ADDRESSES
            .get(&remote)
            .is_some_and(|netns| *netns == 0 || *netns == bpf_get_netns_cookie(at.cast()))
    };
    if !here {
        return;
    }
    // SAFETY: these fields may be read.
    let (local_port, sent, received) = unsafe {
        (
            (&raw const (*at).local_port).read_volatile(),
            (&raw const (*at).snd_nxt).read_volatile(),
            (&raw const (*at).rcv_nxt).read_volatile(),
        )
    };
    let mut meeting = Meeting {
        ways: Ways {
            client: local,
            worker: remote,
            client_port: local_port,
            worker_port: port,
        },
        client_first: sent,
        worker_first: received,
    };
    add(&counts.clients, 1);
    // SAFETY: the context, a map of sockets by such keys, and a key that outlives the call.
    let outcome = unsafe {
        bpf_sock_hash_update(
            at,
            (&raw const CLIENTS).cast_mut().cast(),
            (&raw mut meeting).cast(),
            BPF_NOEXIST.into(),
        )
    };
    if outcome != 0 {
        add(&counts.clients_refused, 1);
    }
    if outcome == NO_ROOM {
        add(&counts.clients_full, 1);
    }
}

/// The end that was connected to.
#[inline(always)]
fn worker(context: &SockOpsContext, counts: &BypassCounts) {
    let at = context.ops;
    // SAFETY: this field may be read.
    let port = unsafe { (&raw const (*at).local_port).read_volatile() };
    if !is_ours(port, counts) {
        return;
    }
    let Some((local, remote)) = addresses(at) else {
        return;
    };
    // SAFETY: these fields may be read, and the helper takes the context.
    let (sent, received, cookie) = unsafe {
        (
            (&raw const (*at).snd_nxt).read_volatile(),
            (&raw const (*at).rcv_nxt).read_volatile(),
            bpf_get_socket_cookie(context.as_ptr()),
        )
    };
    let meeting = Meeting {
        ways: Ways {
            client: remote,
            worker: local,
            client_port: remote_port(at),
            worker_port: port,
        },
        client_first: received,
        worker_first: sent,
    };
    // Refused only for want of memory: then the connection goes by TCP.
    let _ = ACCEPTED.insert(&cookie, &meeting, BPF_ANY.into());
}

/// What the worker sends to a client of this node. A client that has gone is not sent to
/// by TCP instead: what it had not read is lost with it.
#[sk_msg]
pub fn send(context: SkMsgContext) -> u32 {
    let Some(counts) = BYPASS.get(0) else {
        return sk_action::SK_DROP;
    };
    let Some(ways) = ways(context.msg) else {
        return sk_action::SK_DROP;
    };
    // SAFETY: the worker changes an entry only while it sends nothing.
    let Some(meeting) = (unsafe { ROUTES.get(&ways) }) else {
        add(&counts.refused, 1);
        return sk_action::SK_DROP;
    };
    let size = context.size();
    let mut meeting = *meeting;
    match CLIENTS.redirect_msg(&context, &mut meeting, BPF_F_INGRESS.into()) as u32 {
        sk_action::SK_PASS => {
            add(&counts.bytes, size.into());
            sk_action::SK_PASS
        }
        _ => {
            add(&counts.refused, 1);
            sk_action::SK_DROP
        }
    }
}

/// Bytes that a client has not read yet. Never attached: it is run by who asks.
#[classifier]
pub fn queued(context: TcContext) -> i32 {
    let absent = NO_CLIENT as i32;
    let Ok(meeting) = context.load::<Meeting>(MEETING_AT) else {
        return absent;
    };
    // SAFETY: a map of sockets by such keys, and a key that outlives the call.
    let socket = unsafe {
        bpf_map_lookup_elem(
            (&raw const CLIENTS).cast_mut().cast(),
            (&raw const meeting).cast(),
        )
    };
    if socket.is_null() {
        return absent;
    }
    // SAFETY: a socket that is held until it is released below.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) };
    let mut bytes = absent;
    if !tcp.is_null() {
        // SAFETY: the loader took the offset from the kernel's own description; the verifier
        // compares it.
        bytes = unsafe {
            tcp.cast::<u8>()
                .add(constant(&QUEUED_AT) as usize)
                .cast::<i32>()
                .read_volatile()
        };
    }
    // SAFETY: held since the look-up.
    unsafe { bpf_sk_release(socket) };
    bytes
}

#[inline(always)]
fn is_ours(port: u32, counts: &BypassCounts) -> bool {
    port == constant(&WORKER_PORT) || u64::from(port) == read(&counts.test_port)
}

/// Unlike the local one it is in network byte order.
#[inline(always)]
fn remote_port(at: *mut bpf_sock_ops) -> u32 {
    // SAFETY: this field may be read.
    u32::from_be(unsafe { (&raw const (*at).remote_port).read_volatile() })
}

type Addresses = ([u32; 4], [u32; 4]);

/// Local and remote address.
#[inline(always)]
fn addresses(at: *mut bpf_sock_ops) -> Option<Addresses> {
    // SAFETY: these fields may be read.
    unsafe {
        choose(
            (&raw const (*at).family).read_volatile(),
            (
                (&raw const (*at).local_ip4).read_volatile(),
                (&raw const (*at).remote_ip4).read_volatile(),
            ),
            (
                four((&raw const (*at).local_ip6).cast()),
                four((&raw const (*at).remote_ip6).cast()),
            ),
        )
    }
}

/// The ends of a connection of the worker's.
#[inline(always)]
fn ways(at: *mut sk_msg_md) -> Option<Ways> {
    // SAFETY: as above.
    unsafe {
        let (worker, client) = choose(
            (&raw const (*at).family).read_volatile(),
            (
                (&raw const (*at).local_ip4).read_volatile(),
                (&raw const (*at).remote_ip4).read_volatile(),
            ),
            (
                four((&raw const (*at).local_ip6).cast()),
                four((&raw const (*at).remote_ip6).cast()),
            ),
        )?;
        Some(Ways {
            client,
            worker,
            client_port: u32::from_be((&raw const (*at).remote_port).read_volatile()),
            worker_port: (&raw const (*at).local_port).read_volatile(),
        })
    }
}

/// What is that family's. Both are read by those who call this: of two branches that read
/// the compiler makes one that computes where, which the verifier refuses.
#[inline(always)]
fn choose(family: u32, inet: (u32, u32), inet6: Addresses) -> Option<Addresses> {
    match family {
        INET => Some(([0, 0, MAPPED, inet.0], [0, 0, MAPPED, inet.1])),
        INET6 => Some(inet6),
        _ => None,
    }
}

/// # Safety
/// Four words of a context that may be read.
#[inline(always)]
unsafe fn four(at: *const u32) -> [u32; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            at.read_volatile(),
            at.add(1).read_volatile(),
            at.add(2).read_volatile(),
            at.add(3).read_volatile(),
        ]
    }
}

/// The kernel allows some functions to programs under the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No program can get here: the verifier refuses what could.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
