//! The programs that turn connections to a service address, in the kernel of this
//! machine and in a cgroup of their own. Skipped, with the reason, where that cannot be;
//! `QUICKWATER_EBPF_STRICT=1` makes a program that is missing or refused a failure.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod cgroup;
mod stranger;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cgroup::Cgroup;
use quickwater_ebpf::{Steering, Unavailable};
use stranger::{ALLOW_MULTI, ALLOW_OVERRIDE, ALONE, Stranger};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers every connection with its name.
fn server(address: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // A client that has gone is not missed.
            let _ = client.and_then(|mut client| client.write_all(name.as_bytes()));
        }
    });
    address
}

fn attach(service: SocketAddr, local: SocketAddr, cgroup: &Cgroup) -> Option<Steering> {
    match Steering::attach(service, local, cgroup.path()) {
        Ok(steering) => Some(steering),
        Err(why) if std::env::var("QUICKWATER_EBPF_STRICT").is_ok_and(|s| s == "1") => {
            panic!("eBPF is required: {why}")
        }
        Err(why @ (Unavailable::NotBuilt | Unavailable::Refused { .. })) => {
            eprintln!("SKIPPED: {why}");
            None
        }
        Err(why) => panic!("{why}"),
    }
}

/// Who answers a process of the cgroup at this address; empty: nobody.
fn who(cgroup: Option<&Path>, to: SocketAddr, prefix: &[&str]) -> String {
    let enter = cgroup.map_or(String::new(), |path| {
        format!("echo $$ > {}/cgroup.procs || exit 9; ", path.display())
    });
    let prefix = prefix.join(" ");
    let (ip, port) = (to.ip(), to.port());
    let script = format!("{enter}exec {prefix} bash -c 'exec 3<>/dev/tcp/{ip}/{port} && cat <&3'");
    let done = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_ne!(done.status.code(), Some(9), "the cgroup was not entered");
    String::from_utf8(done.stdout).unwrap()
}

fn follows_the_beat(service: SocketAddr, local: SocketAddr, name: &str) {
    let Some(cgroup) = Cgroup::make(name) else {
        return;
    };
    let Some(steering) = attach(service, local, &cgroup) else {
        return;
    };
    let inside = || who(Some(cgroup.path()), service, &[]);
    assert_eq!(inside(), "service", "before the first beat");
    let until = Instant::now() + PATIENCE;
    loop {
        // Between this and the connection more than two seconds may pass.
        steering.beat();
        match inside().as_str() {
            "worker" => break,
            other => assert!(Instant::now() < until, "{other} answers"),
        }
    }
    steering.beat();
    assert_eq!(who(None, service, &[]), "service", "outside of the cgroup");
    steering.withdraw();
    assert_eq!(inside(), "service", "withdrawn");
    steering.beat();
    while inside() != "service" {
        assert!(Instant::now() < until, "an old beat counts for ever");
    }
    let counts = steering.counts();
    assert!(counts.steered >= 1 && counts.not_ready >= 3, "{counts:?}");
    steering.beat();
    drop(steering);
    // A process that another test has just forked has our descriptors until it execs.
    while inside() != "service" {
        assert!(Instant::now() < until, "still attached");
    }
}

#[test]
fn connections_go_to_the_worker_while_it_is_ready() {
    let service = server("127.0.0.99:0", "service");
    follows_the_beat(service, server("127.0.0.1:0", "worker"), "ipv4");
}

#[test]
fn and_so_they_do_by_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: no IPv6 here");
        return;
    }
    let service = server("[::1]:0", "service");
    follows_the_beat(service, server("[::1]:0", "worker"), "ipv6");
}

#[test]
fn another_network_namespace_does_not_reach_our_loopback() {
    let service = server("127.0.0.99:0", "service");
    let local = server("127.0.0.1:0", "worker");
    let Some(cgroup) = Cgroup::make("netns") else {
        return;
    };
    let Some(steering) = attach(service, local, &cgroup) else {
        return;
    };
    let until = Instant::now() + PATIENCE;
    while steering.counts().elsewhere == 0 {
        steering.beat();
        assert_eq!(who(Some(cgroup.path()), service, &["unshare", "-n"]), "");
        assert!(Instant::now() < until, "{:?}", steering.counts());
    }
    assert_eq!(steering.counts().steered, 0);
}

/// Whether the programs attach to `cgroup`; if not, why.
fn attached(cgroup: &Cgroup) -> Result<Steering, String> {
    let at = |text: &str| text.parse().unwrap();
    let (service, local) = (at("127.0.0.99:1"), at("127.0.0.1:2"));
    Steering::attach(service, local, cgroup.path()).map_err(|why| why.to_string())
}

/// A cgroup, one below it, and another's program on the upper one. `None`: not here.
fn beside(name: &str, flags: u32) -> Option<(Cgroup, Cgroup, Stranger)> {
    let above = Cgroup::make(name)?;
    let below = above.below("below")?;
    // Whether the kernel lets these programs run at all. In a cgroup apart: until a process
    // that another test has just forked execs, it has our descriptors, and they stay.
    let probe = above.below("probe")?;
    let at = |text: &str| text.parse().unwrap();
    drop(attach(at("127.0.0.99:1"), at("127.0.0.1:2"), &probe)?);
    let stranger = Stranger::attach(above.path(), flags);
    Some((above, below, stranger))
}

#[test]
fn programs_of_others_that_allow_it_stay_and_run_too() {
    let Some((above, below, stranger)) = beside("multi", ALLOW_MULTI) else {
        return;
    };
    for cgroup in [&above, &below] {
        let steering = attached(cgroup).unwrap();
        assert!(stranger.runs_for(cgroup.path()), "beside ours");
        drop(steering);
        assert!(stranger.runs_for(cgroup.path()), "after ours");
    }
}

#[test]
fn a_program_that_wants_to_be_alone_is_left_alone() {
    let Some((above, below, stranger)) = beside("alone", ALONE) else {
        return;
    };
    for cgroup in [&above, &below] {
        let why = attached(cgroup).map(|_| ()).unwrap_err();
        assert!(why.contains("attaching to the cgroup"), "{why}");
        assert!(stranger.runs_for(cgroup.path()));
    }
}

#[test]
fn a_program_that_may_be_overridden_is_not() {
    let Some((above, below, stranger)) = beside("override", ALLOW_OVERRIDE) else {
        return;
    };
    for cgroup in [&above, &below] {
        let why = attached(cgroup).map(|_| ()).unwrap_err();
        assert!(why.contains("attaching to the cgroup"), "{why}");
        assert!(stranger.runs_for(cgroup.path()));
    }
}
