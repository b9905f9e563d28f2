//! The name of a network namespace that programs see too.
#![expect(unsafe_code, reason = "an option that no crate has a function for")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// SO_NETNS_COOKIE, Linux 5.14 (asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the namespace of the calling thread.
///
/// # Errors
/// No socket can be made, or the kernel is older than 5.14.
pub(crate) fn own() -> io::Result<u64> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes to `cookie`, which has as many.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match outcome {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_namespace_has_one_cookie() {
        let first = super::own().unwrap();
        assert_ne!(first, 0);
        assert_eq!(super::own().unwrap(), first);
    }
}
