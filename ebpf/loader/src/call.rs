//! bpf(2) on maps and programs, by whichever thread: without the locks and allocations
//! of a handle that one thread owns.
#![expect(unsafe_code, reason = "a system call that no crate has a function for")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Commands of linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// Types of links there, and where what is told of one (`struct bpf_link_info`) has what it hangs
/// on, in words of eight bytes.
const BPF_LINK_TYPE_CGROUP: u64 = 3;
const BPF_LINK_TYPE_TCX: u64 = 11;
const LINK_TARGET_AT: usize = 2;

/// Values that any bits are valid for, and that have no gaps.
///
/// # Safety
/// Implementors are integers, or arrays of them.
pub(crate) unsafe trait Words: Copy + Default {}

// SAFETY: an integer.
unsafe impl Words for u64 {}
// SAFETY: an integer.
unsafe impl Words for u32 {}
// SAFETY: an array of integers.
unsafe impl Words for [u32; 10] {}
// SAFETY: as above.
unsafe impl Words for [u32; 12] {}

/// The part of `union bpf_attr` for elements of maps.
#[repr(C, align(8))]
#[derive(Default)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// For pins.
#[repr(C, align(8))]
#[derive(Default)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// For what is told of an object.
#[repr(C, align(8))]
#[derive(Default)]
struct Info {
    object: u32,
    bytes: u32,
    info: u64,
}

/// And for running a program.
#[repr(C, align(8))]
#[derive(Default)]
struct Run {
    program: u32,
    outcome: u32,
    input_bytes: u32,
    output_bytes: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 5],
}

/// The value of a key; `None`: there is none.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn lookup<K: Words, V: Words>(map: impl AsFd, key: &K) -> io::Result<Option<V>> {
    let mut value = V::default();
    let mut element = Element {
        map: number(&map),
        key: address(key),
        value: (&raw mut value).expose_provenance() as u64,
        ..Element::default()
    };
    // SAFETY: the kernel reads a key and writes a value, whose sizes the maps of
    // `bypass.rs` have, and both outlive the call.
    match unsafe { call(BPF_MAP_LOOKUP_ELEM, &mut element) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the value of a key.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn update<K: Words, V: Words>(map: impl AsFd, key: &K, value: &V) -> io::Result<()> {
    let mut element = Element {
        map: number(&map),
        key: address(key),
        value: address(value),
        ..Element::default()
    };
    // SAFETY: the kernel reads a key and a value, as above.
    unsafe { call(BPF_MAP_UPDATE_ELEM, &mut element) }.map(|_| ())
}

/// Removes a key and its value.
///
/// # Errors
/// There is none, or the kernel refuses.
pub(crate) fn delete<K: Words>(map: impl AsFd, key: &K) -> io::Result<()> {
    let mut element = Element {
        map: number(&map),
        key: address(key),
        ..Element::default()
    };
    // SAFETY: the kernel reads a key, as above.
    unsafe { call(BPF_MAP_DELETE_ELEM, &mut element) }.map(|_| ())
}

/// A handle of what is pinned: it outlives its pin.
///
/// # Errors
/// The kernel refuses, or there is no such pin.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin {
        path: name.as_ptr().expose_provenance() as u64,
        ..Pin::default()
    };
    // SAFETY: the kernel reads a string that outlives the call.
    let fd = unsafe { call(BPF_OBJ_GET, &mut pin)? };
    // SAFETY: a new descriptor, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object.
///
/// # Errors
/// The kernel refuses, or something has that name.
pub(crate) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin {
        path: name.as_ptr().expose_provenance() as u64,
        object: number(&object),
        ..Pin::default()
    };
    // SAFETY: the kernel reads a string that outlives the call.
    unsafe { call(BPF_OBJ_PIN, &mut pin) }.map(|_| ())
}

/// Whether a link of a device or a cgroup still hangs there. It does not when somebody detached
/// it, or when what it hung on is gone.
///
/// # Errors
/// The kernel does not tell, or it is another kind of link.
pub(crate) fn is_attached(link: impl AsFd) -> io::Result<bool> {
    let mut words = [0u64; 16];
    let mut info = Info {
        object: number(&link),
        bytes: size_of_val(&words) as u32,
        info: words.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: the kernel writes at most `bytes` to `words`, which outlive the call.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut info)? };
    let low = |word: u64| {
        let [a, b, c, d, ..] = word.to_ne_bytes();
        u64::from(u32::from_ne_bytes([a, b, c, d]))
    };
    match low(words[0]) {
        // The number of the device.
        BPF_LINK_TYPE_TCX => Ok(low(words[LINK_TARGET_AT]) != 0),
        // The number of the cgroup.
        BPF_LINK_TYPE_CGROUP => Ok(words[LINK_TARGET_AT] != 0),
        kind => Err(io::Error::other(format!("a link of kind {kind}"))),
    }
}

/// Runs a program once with `input` for a packet; what it returns.
///
/// # Errors
/// The kernel refuses: it needs CAP_BPF where that is asked of bpf(2) at all.
pub(crate) fn run(program: impl AsFd, input: &[u8]) -> io::Result<u32> {
    let mut run = Run {
        program: number(&program),
        input_bytes: u32::try_from(input.len()).unwrap_or(u32::MAX),
        input: input.as_ptr().expose_provenance() as u64,
        ..Run::default()
    };
    // SAFETY: the kernel reads `input_bytes` of `input`, and writes to `run` alone.
    unsafe { call(BPF_PROG_TEST_RUN, &mut run)? };
    Ok(run.outcome)
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn address<T: Words>(words: &T) -> u64 {
    std::ptr::from_ref(words).expose_provenance() as u64
}

/// What the command returns: nothing, or a descriptor.
///
/// # Safety
/// What the attributes point to is as the command says.
unsafe fn call<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_int> {
    let (at, size) = (std::ptr::from_mut(attributes), size_of::<A>());
    // SAFETY: the kernel is told the size of the attributes, and the caller promises the rest.
    match unsafe { libc::syscall(libc::SYS_bpf, command, at, size) } {
        outcome if outcome < 0 => Err(io::Error::last_os_error()),
        outcome => libc::c_int::try_from(outcome).map_err(io::Error::other),
    }
}
