//! A new connection goes to the shard with the fewest.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{Array, ReusePortSockArray};
use aya_ebpf::programs::SkReuseportContext;
use quickwater_ebpf_shapes::{ABSENT, Balance, DOORS_MAX, SHARDS_MAX, Share, socket_index};

use crate::word::{MAPPABLE, add, constant, read};

/// How often a choice is made again because another CPU chose the same shard, or the shard has
/// no listener.
const TRIES: u32 = 4;

/// Shards in use, up to `SHARDS_MAX`, and addresses, up to `DOORS_MAX`. The loader sets
/// both before it loads the program: the verifier then knows how long the loops are.
#[unsafe(no_mangle)]
static SHARDS: u32 = 1;
#[unsafe(no_mangle)]
static DOORS: u32 = 1;

#[map]
static BALANCE: Array<Balance> = Array::with_max_entries(1, MAPPABLE);
#[map]
static SOCKETS: ReusePortSockArray =
    ReusePortSockArray::with_max_entries((DOORS_MAX * SHARDS_MAX) as u32, 0);

/// Where the flags of a TCP header are, and two of them (RFC 9293 §3.1).
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Chooses the listener of a new connection. Without a choice the kernel's hash
/// decides; nothing is ever dropped.
#[sk_reuseport]
pub fn balance(context: SkReuseportContext) -> u32 {
    // Whatever belongs to no connection comes by here as well, like the last packets of one
    // that is gone: nobody will accept those, so they must not count.
    if !begins(&context) {
        return SK_PASS;
    }
    if let Some(balance) = BALANCE.get(0) {
        match place(&context, balance) {
            true => add(&balance.chosen, 1),
            false => add(&balance.left, 1),
        };
    }
    SK_PASS
}

/// Whether the packet asks for a connection. The data begin with the TCP header.
#[inline(always)]
fn begins(context: &SkReuseportContext) -> bool {
    let (start, end) = (context.data(), context.data_end());
    if start + FLAGS + 1 > end {
        return false;
    }
    // SAFETY: the kernel lets it be read up to `end`.
    let flags = unsafe { ((start + FLAGS) as *const u8).read_volatile() };
    flags & (SYN | ACK) == SYN
}

#[inline(always)]
fn place(context: &SkReuseportContext, balance: &Balance) -> bool {
    for attempt in 1..=TRIES {
        let (shard, seen) = least_loaded(balance, add(&balance.turn, 1));
        let share = share(balance, shard);
        if add(&share.placed, 1) != seen && attempt < TRIES {
            // Another CPU chose it in between.
            add(&share.placed, u64::MAX);
            continue;
        }
        if select(context, shard) {
            return true;
        }
        // It would have the fewest for ever, and each new connection be left to the hash.
        add(&share.placed, ABSENT - 1);
    }
    false
}

/// The shard with the lowest load, the first one counted from `turn` on if there are
/// several, and what had been placed there.
#[inline(always)]
fn least_loaded(balance: &Balance, turn: u64) -> (u64, u64) {
    let shards = u64::from(constant(&SHARDS));
    let mut best = (0, 0);
    let mut lowest = i64::MAX;
    for step in 0..SHARDS_MAX as u64 {
        if step >= shards {
            break;
        }
        let shard = turn.wrapping_add(step).checked_rem(shards).unwrap_or(0);
        let share = share(balance, shard);
        let placed = read(&share.placed);
        let load = placed.wrapping_sub(read(&share.settled)) as i64;
        if load < lowest {
            lowest = load;
            best = (shard, placed);
        }
    }
    best
}

#[inline(always)]
fn share(balance: &Balance, shard: u64) -> &Share {
    &balance.shares[shard as usize % SHARDS_MAX]
}

/// A listener of another address is refused by the kernel: then it is the next one.
#[inline(always)]
fn select(context: &SkReuseportContext, shard: u64) -> bool {
    for door in 0..DOORS_MAX {
        let index = socket_index(door, shard as usize % SHARDS_MAX);
        if (door as u32) < constant(&DOORS) && SOCKETS.select_reuseport(context, index).is_ok() {
            return true;
        }
    }
    false
}
