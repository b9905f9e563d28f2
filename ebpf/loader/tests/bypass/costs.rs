//! CPU per gigabyte, both ends together, against TCP in the same round. A table to be read
//! by people: `cargo test -p quickwater-ebpf --test bypass costs -- --ignored --nocapture`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::ends::{MIB, content, loopback};
use quickwater_ebpf::{QUEUED_MAX, Shortcut};

const ROUNDS: usize = 7;
const BYTES: usize = 1024 * MIB;

/// CPU time of this process, hundredths of a second (proc_pid_stat(5)).
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let [user, system] = [11, 12].map(|at: usize| fields[at].parse::<u64>().unwrap());
    user + system
}

/// Answers of this size, each asked for by a byte, received into a buffer that is reused.
fn exchange(ends: (TcpStream, TcpStream), shortcut: Option<&Shortcut>, size: usize) -> u64 {
    let (mut client, mut server) = ends;
    let piece = content(MIB, size);
    let before = cpu_ticks();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            for _ in 0..BYTES / size {
                client.write_all(b"?").unwrap();
                let mut left = size;
                while left > 0 {
                    left -= client.read(&mut buffer).unwrap();
                }
            }
        });
        let mut question = [0];
        while server.read(&mut question).unwrap() == 1 {
            for _ in 0..size / MIB {
                while shortcut.is_some_and(is_long) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                server.write_all(&piece).unwrap();
            }
        }
    });
    cpu_ticks() - before
}

fn is_long(shortcut: &Shortcut) -> bool {
    shortcut.queued().unwrap() > Some(QUEUED_MAX)
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all[all.len() / 2]
}

#[test]
#[ignore = "for people; takes a quiet machine and half a minute"]
fn costs() {
    let Some(worker) = loopback() else { return };
    for size in [MIB, 64 * MIB] {
        let (mut by_tcp, mut short) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            by_tcp.push(exchange(worker.connect(), None, size));
            let ends = worker.connect();
            let shortcut = worker.bypass.take(&ends.1).unwrap().unwrap();
            short.push(exchange(ends, Some(&shortcut), size));
        }
        let seconds = |ticks: u64| ticks as f64 / 100.0 / (BYTES as f64 / 1e9);
        let (tcp, bypass) = (seconds(median(by_tcp)), seconds(median(short)));
        eprintln!(
            "{:>3} MiB: TCP {tcp:.2}, bypass {bypass:.2} CPU s/GB, ratio {:.2}",
            size / MIB,
            tcp / bypass
        );
    }
}
