//! What one process pins and another one uses, in a BPF file system that is mounted for the
//! test alone: the test calls itself again in a mount namespace of its own. Skipped, with
//! the reason, where that cannot be; `QUICKWATER_EBPF_STRICT=1` makes that a failure.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use quickwater_ebpf::{Balancer, Pins, Unavailable};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

/// Set in the inner process: where its BPF file system is.
const INSIDE: &str = "QUICKWATER_TEST_BPF";

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` where there is a BPF file system, in another process.
fn inside(name: &str, test: impl FnOnce(&Path)) {
    if let Ok(mounted) = std::env::var(INSIDE) {
        return test(Path::new(&mounted));
    }
    let mounted = std::env::temp_dir().join(format!("quickwater-{name}-{}", std::process::id()));
    std::fs::create_dir(&mounted).unwrap();
    let script = "mount -t bpf bpf \"$0\" || exit 77; exec \"$@\"";
    let own = std::env::current_exe().unwrap();
    let done = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(&mounted)
        .arg(own)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, &mounted)
        .status();
    std::fs::remove_dir(&mounted).unwrap();
    match done.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(1 | 77)) | Err(_) if !is_strict() && !may_mount() => {
            eprintln!("SKIPPED: no BPF file system can be mounted");
        }
        other => panic!("{name} in a mount namespace: {other:?}"),
    }
}

fn is_strict() -> bool {
    std::env::var("QUICKWATER_EBPF_STRICT").is_ok_and(|strict| strict == "1")
}

fn may_mount() -> bool {
    let script = "mount -t bpf bpf /tmp";
    let tried = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .status();
    tried.is_ok_and(|status| status.success())
}

/// `false`: skipped.
fn pinned(pins: &Pins, shards: usize) -> bool {
    match Balancer::pin(pins, shards, 1) {
        Ok(()) => true,
        Err(why) if is_strict() => panic!("eBPF is required: {why}"),
        Err(why @ (Unavailable::NotBuilt | Unavailable::Refused { .. })) => {
            eprintln!("SKIPPED: {why}");
            false
        }
        Err(why) => panic!("{why}"),
    }
}

/// Listeners of one address.
fn listeners(count: usize) -> Vec<TcpListener> {
    let mut address = "127.0.0.1:0".parse().unwrap();
    let mut all = Vec::new();
    for _ in 0..count {
        let own = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseport(&own, true).unwrap();
        bind(&own, &address).unwrap();
        listen(&own, 128).unwrap();
        let own = TcpListener::from(own);
        address = own.local_addr().unwrap();
        all.push(own);
    }
    all
}

/// Connections that each listener gets of `count`.
fn spread(all: &[TcpListener], count: usize) -> Vec<usize> {
    let to = all[0].local_addr().unwrap();
    let clients: Vec<_> = (0..count)
        .map(|_| TcpStream::connect(to).unwrap())
        .collect();
    let until = Instant::now() + PATIENCE;
    let mut got = vec![0; all.len()];
    while got.iter().sum::<usize>() < count {
        assert!(Instant::now() < until, "{got:?}");
        for (own, listener) in got.iter_mut().zip(all) {
            listener.set_nonblocking(true).unwrap();
            *own += std::iter::from_fn(|| listener.accept().ok()).count();
        }
    }
    drop(clients);
    got
}

#[test]
fn one_process_at_a_time_uses_what_is_pinned() {
    inside("one_process_at_a_time_uses_what_is_pinned", |mounted| {
        let pins = Pins::below(&mounted.join("quickwater"));
        if !pinned(&pins, 4) {
            return;
        }
        let first = listeners(4);
        let balancer = Balancer::open(&pins, &[&first]).unwrap();
        assert_eq!(spread(&first, 8), [2, 2, 2, 2]);
        assert!(pins.list().unwrap()[0].is_used);
        let second = listeners(4);
        let why = Balancer::open(&pins, &[&second]).map(|_| ()).unwrap_err();
        assert!(matches!(why, Unavailable::Used { .. }), "{why}");
        let why = pins.clear().unwrap_err();
        assert!(matches!(why, Unavailable::Used { .. }), "{why}");
        // Whoever comes next begins with true numbers, whatever was left open.
        drop(balancer);
        let balancer = Balancer::open(&pins, &[&second]).unwrap();
        assert_eq!(spread(&second, 8), [2, 2, 2, 2]);
        drop(balancer);
        pins.clear().unwrap();
        assert_eq!(pins.list().unwrap(), []);
    });
}

#[test]
fn what_is_for_others_is_not_used() {
    inside("what_is_for_others_is_not_used", |mounted| {
        let pins = Pins::below(&mounted.join("quickwater"));
        if !pinned(&pins, 4) {
            return;
        }
        let two = listeners(2);
        let open = || Balancer::open(&pins, &[&two]).map(|_| ()).unwrap_err();
        assert!(
            open()
                .to_string()
                .contains("has balance-4x1, not balance-2x1")
        );
        let version = pins.list().unwrap()[0].version.clone();
        let other = pins.root().join("0123456789abcdef");
        std::fs::rename(pins.root().join(version), other).unwrap();
        assert!(open().to_string().contains("of another version"));
        assert!(!pins.list().unwrap()[0].is_own);
        // What is there already is no place for the same again, and goes with the rest.
        assert!(pinned(&pins, 2) && Balancer::pin(&pins, 2, 1).is_err());
        pins.clear().unwrap();
        assert!(open().to_string().contains("nothing is pinned"));
    });
}
