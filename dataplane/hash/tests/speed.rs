//! Bytes per CPU second of every kernel and lane count. Not a test: run it with
//! `cargo test --release -p quickwater-hash --test speed -- --ignored --nocapture`.
#![expect(clippy::print_stdout, reason = "it is a table for people")]

use std::hint::black_box;
use std::time::Instant;

use md5::Digest;
use quickwater_hash::{Kernel, LANES_MAX, Lane, Md5};

/// Bytes per lane and measurement.
const LANE_BYTES: usize = 64 << 10;
const ROUNDS: usize = 9;
const REPEATS: usize = 48;

/// The best of several rounds, in GB/s: the machine is never quiet.
fn best(bytes: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..REPEATS {
            work();
        }
        best = best.min(begun.elapsed().as_secs_f64() / REPEATS as f64);
    }
    bytes as f64 / best / 1e9
}

#[test]
#[ignore = "a measurement"]
fn speed_of_lanes() {
    let data: Vec<Vec<u8>> = (0..LANES_MAX)
        .map(|lane| vec![lane as u8 + 1; LANE_BYTES])
        .collect();
    let library = best(LANE_BYTES, || {
        black_box(md5::Md5::digest(black_box(&data[0])));
    });
    println!("md-5 crate, one stream: {library:.2} GB/s");
    for kernel in Kernel::available() {
        for count in [1, 2, 3, 4, 6, 8, 12, 16] {
            let mut states = vec![Md5::new(); count];
            let speed = best(count * LANE_BYTES, || {
                let mut lanes: Vec<_> = states
                    .iter_mut()
                    .zip(&data)
                    .map(|(md5, data)| Lane {
                        md5,
                        data: black_box(data),
                    })
                    .collect();
                kernel.update(&mut lanes);
            });
            println!("{:>7} {count:>3} lanes: {speed:.2} GB/s", kernel.name());
        }
    }
}

/// Lanes as a service has them: buffers of 1 MiB side by side, read once, long after
/// they were written.
#[test]
#[ignore = "a measurement"]
fn speed_from_memory() {
    const BUFFER_BYTES: usize = 1 << 20;
    const BUFFERS: usize = 256;
    let arena = vec![5_u8; BUFFER_BYTES * BUFFERS];
    let buffers: Vec<&[u8]> = arena.chunks(BUFFER_BYTES).collect();
    for kernel in Kernel::available() {
        for count in [1, 4, 8, 16] {
            let mut states = vec![Md5::new(); count];
            let mut sets = buffers.chunks_exact(count).cycle();
            let speed = best(count * BUFFER_BYTES, || {
                let set = sets.next().unwrap();
                for at in (0..BUFFER_BYTES).step_by(LANE_BYTES) {
                    let mut lanes: Vec<_> = states
                        .iter_mut()
                        .zip(set)
                        .map(|(md5, data)| Lane {
                            md5,
                            data: black_box(&data[at..at + LANE_BYTES]),
                        })
                        .collect();
                    kernel.update(&mut lanes);
                }
            });
            println!(
                "{:>7} {count:>3} lanes from memory: {speed:.2} GB/s",
                kernel.name()
            );
        }
    }
}
