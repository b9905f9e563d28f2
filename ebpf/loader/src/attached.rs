//! Which programs processes of a cgroup run, asked of the kernel: bpf(2), BPF_PROG_QUERY.
#![expect(unsafe_code, reason = "a system call that no crate has a function for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Commands and flags of linux/bpf.h.
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// More than that are not asked for: the kernel has at most 64 for each cgroup of the path.
const PROGRAMS_MAX: usize = 512;

/// BPF_CGROUP_INET4_CONNECT and BPF_CGROUP_INET6_CONNECT.
pub(crate) const CONNECTS: [u32; 2] = [10, 11];
/// BPF_CGROUP_SOCK_OPS.
pub(crate) const SOCK_OPS: u32 = 3;
/// BPF_SK_MSG_VERDICT.
const MSG_VERDICT: u32 = 7;

/// The part of `union bpf_attr` for this command, with room for what newer kernels know.
#[repr(C, align(8))]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    unused: u32,
    rest: [u64; 14],
}

/// The ids of all programs of this type that processes of the cgroup run, those that the
/// cgroups above it hand down included.
///
/// # Errors
/// The kernel refuses: it needs CAP_NET_ADMIN, and there may be 512 at most.
pub(crate) fn effective(cgroup: impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    query(cgroup, attach_type, BPF_F_QUERY_EFFECTIVE)
}

/// Whether processes of the cgroup run the program of this type and id. Not where the cgroup is
/// gone.
///
/// # Errors
/// As for [`effective`].
pub(crate) fn runs(cgroup: impl AsFd, attach_type: u32, id: u32) -> io::Result<bool> {
    match effective(cgroup, attach_type) {
        Ok(ids) => Ok(ids.contains(&id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The id of the program that judges what sockets of a map send, if there is one.
///
/// # Errors
/// The kernel refuses: it needs CAP_NET_ADMIN, and Linux 5.18.
pub(crate) fn of_sockets(map: impl AsFd) -> io::Result<Vec<u32>> {
    query(map, MSG_VERDICT, 0)
}

fn query(target: impl AsFd, attach_type: u32, query_flags: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; PROGRAMS_MAX];
    let mut query = Query {
        target: target.as_fd().as_raw_fd().cast_unsigned(),
        attach_type,
        query_flags,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes to `query`, whose size it is told, and at most `count`
    // ids to `ids`, which has as many; both live until it returns.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(query.count as usize);
    Ok(ids)
}
