//! Connections to the service address go to the worker of this node while it is ready;
//! at any other time they go on to the service address.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns};
use aya_ebpf::macros::{cgroup_sock_addr, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::SockAddrContext;
use quickwater_ebpf_shapes::{BEAT_NS_MAX, Endpoint, Steer};

use crate::word::{MAPPABLE, add, constant, read};

/// Go on; 0 would be "operation not permitted" for the client.
const GO_ON: i32 = 1;
/// SOCK_STREAM.
const STREAM: u32 = 1;
/// The third word of an IPv4 address in the form of IPv6.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The service address, and the worker's, of the same family. Set by the loader.
#[unsafe(no_mangle)]
static SERVICE: Endpoint = [0; 5];
#[unsafe(no_mangle)]
static LOCAL: Endpoint = [0; 5];
/// The network namespace in which the worker's address is its own; 0: all.
#[unsafe(no_mangle)]
static NETNS: u64 = 0;

#[map]
static STEER: Array<Steer> = Array::with_max_entries(1, MAPPABLE);

/// connect(2) of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    let at = context.sock_addr;
    // SAFETY: the kernel passes it, and allows to read and write these fields by words.
    unsafe {
        let to = [0, 0, MAPPED, (&raw const (*at).user_ip4).read_volatile()];
        if let Some(local) = choose(at, to) {
            (&raw mut (*at).user_ip4).write_volatile(local[3]);
            (&raw mut (*at).user_port).write_volatile(local[4]);
        }
    }
    GO_ON
}

/// connect(2) of an IPv6 socket, also one that speaks IPv4.
#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    let at = context.sock_addr;
    // SAFETY: as above.
    unsafe {
        let ip = &raw mut (*at).user_ip6;
        let word = |n: usize| ip.cast::<u32>().add(n);
        let to = [
            word(0).read_volatile(),
            word(1).read_volatile(),
            word(2).read_volatile(),
            word(3).read_volatile(),
        ];
        if let Some(local) = choose(at, to) {
            word(0).write_volatile(local[0]);
            word(1).write_volatile(local[1]);
            word(2).write_volatile(local[2]);
            word(3).write_volatile(local[3]);
            (&raw mut (*at).user_port).write_volatile(local[4]);
        }
    }
    GO_ON
}

/// Where the connection goes instead, if it does.
///
/// # Safety
/// `at` is what the kernel passed.
#[inline(always)]
unsafe fn choose(at: *mut bpf_sock_addr, to: [u32; 4]) -> Option<Endpoint> {
    // SAFETY: these fields may be read.
    let (kind, port) = unsafe {
        (
            (&raw const (*at).type_).read_volatile(),
            (&raw const (*at).user_port).read_volatile(),
        )
    };
    let service = constant(&SERVICE);
    let same = service[0] == to[0] && service[1] == to[1];
    let same = same && service[2] == to[2] && service[3] == to[3];
    if !same || service[4] != port || kind != STREAM {
        return None;
    }
    let steer = STEER.get(0)?;
    let beat = read(&steer.beat);
    // SAFETY: the helper has no arguments.
    let age = unsafe { bpf_ktime_get_ns() }.wrapping_sub(beat);
    // A beat from the future is that of another clock.
    if beat == 0 || age > BEAT_NS_MAX {
        add(&steer.not_ready, 1);
        return None;
    }
    let netns = constant(&NETNS);
    // SAFETY: the helper takes the context.
    if netns != 0 && unsafe { bpf_get_netns_cookie(at.cast()) } != netns {
        add(&steer.elsewhere, 1);
        return None;
    }
    add(&steer.steered, 1);
    Some(constant(&LOCAL))
}
