//! Where the kernel refuses io_uring, as container runtimes make it do.
#![expect(unsafe_code, reason = "installs a seccomp filter on a test thread")]

use quickwater_worker::runtime::{
    self, Driver, DriverChoice, RuntimeConfig, ShardInfo, StartError,
};
use std::time::Duration;

use crate::client::Client;
use crate::toy::{Running, relaxed};

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Makes io_uring_setup fail with EPERM for this thread and those it starts.
fn forbid_io_uring() {
    let mut filter = [
        // The system call's number is the first word of seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain flags, then a program that outlives the call, which copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
            0
        );
    }
}

/// On a thread of its own: the filter can't be taken off again.
fn without_io_uring(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        forbid_io_uring();
        test();
    });
    thread.join().unwrap();
}

#[test]
fn a_refused_io_uring_falls_back_to_epoll_and_says_so() {
    without_io_uring(|| {
        let why = runtime::probe(1).unwrap_err();
        assert!(why.contains("forbids"), "{why}");
        let mains = vec![|info: ShardInfo| async move { assert_eq!(info.driver, Driver::Epoll) }];
        let shards = runtime::start(&RuntimeConfig::default(), mains).unwrap();
        assert_eq!(shards.driver, Driver::Epoll);
        let warning = shards.warning.clone().unwrap();
        assert!(
            warning.contains("seccomp") && warning.contains("slower"),
            "{warning}"
        );
        assert_eq!(shards.join(Duration::from_secs(5)), Vec::<usize>::new());

        let server = Running::start(DriverChoice::Auto, relaxed());
        assert_eq!(Client::connect(server.address).get("/bytes/9").status, 200);
    });
}

#[test]
fn io_uring_or_nothing_is_an_error() {
    without_io_uring(|| {
        let config = RuntimeConfig {
            driver: DriverChoice::Uring,
            ..RuntimeConfig::default()
        };
        let mains = vec![|_: ShardInfo| async {}];
        let error = runtime::start(&config, mains).unwrap_err();
        assert!(matches!(error, StartError::NoUring(_)), "{error}");
    });
}
