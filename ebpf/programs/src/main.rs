//! Programs that run in the kernel. They choose or move, and decide nothing that must
//! be right: without them everything works, slower.
#![no_std]
#![no_main]
// `fetch_add` of an atomic needs a target with compare-and-swap, which the compiler
// does not believe BPF to be; the intrinsic does without.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "see above")]

mod balance;
mod handoff;
mod steer;
mod word;

/// The kernel allows some functions to programs under the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No program can get here: the verifier refuses what could.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
