//! What a system call's error means for the caller.

use quickwater_proto::{UfsError, UfsErrorKind};
use rustix::io::Errno;

/// Makes a [`UfsError`] of a failed system call on `path`.
pub(super) fn failed(what: &str, path: impl std::fmt::Display, errno: Errno) -> UfsError {
    UfsError::new(
        kind(errno),
        format!("{what} '{path}': {}", std::io::Error::from(errno)),
    )
}

fn kind(errno: Errno) -> UfsErrorKind {
    match errno {
        Errno::NOENT => UfsErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => UfsErrorKind::AccessDenied,
        Errno::NOSPC | Errno::DQUOT => UfsErrorKind::NoSpace,
        Errno::IO
        | Errno::STALE
        | Errno::NODEV
        | Errno::NXIO
        | Errno::NOTCONN
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::SHUTDOWN
        | Errno::NOMEM => UfsErrorKind::Unavailable,
        Errno::TIMEDOUT => UfsErrorKind::Timeout,
        Errno::NFILE | Errno::MFILE | Errno::AGAIN | Errno::BUSY => UfsErrorKind::Throttled,
        Errno::NAMETOOLONG
        | Errno::XDEV
        | Errno::LOOP
        | Errno::FBIG
        | Errno::MLINK
        | Errno::ISDIR
        | Errno::NOTDIR => UfsErrorKind::Unsupported,
        _ => UfsErrorKind::Other,
    }
}
