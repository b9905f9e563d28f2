//! Streams side by side on a real runtime, and what else runs meanwhile.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::UnixStream;
use quickwater_hash::SLICE_BYTES;

use super::*;
use crate::buffers::{LARGE_BYTES, Pool, PoolConfig};
use crate::runtime::{DriverChoice, RuntimeConfig, start};

const BUDGET_BYTES: usize = 48 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn pool() -> Pool {
    Pool::new(PoolConfig::new(BUDGET_BYTES)).unwrap()
}

async fn filled(pool: &Pool, byte: u8, len: usize) -> PoolBuf {
    let mut buffer = pool.acquire(len, PATIENCE).await.unwrap();
    buffer.set_len(len);
    buffer.as_mut_slice().fill(byte);
    buffer
}

/// Sends `len` bytes through a stream as a body does, checking what comes back.
async fn hash_body(desk: HashDesk, pool: Pool, byte: u8, len: usize) {
    let mut stream = desk.stream(len > 0);
    let (mut sent, mut back) = (0, 0);
    while sent < len {
        let next = filled(&pool, byte, LARGE_BYTES.min(len - sent)).await;
        sent += next.len();
        if let Some(hashed) = stream.exchange(next, sent < len).await {
            assert!(hashed.as_slice().iter().all(|b| *b == byte));
            back += hashed.len();
        }
    }
    back += stream.hashed().await.map_or(0, |hashed| hashed.len());
    assert_eq!(back, len);
    let md5 = stream.finish();
    assert_eq!(md5.length(), len as u64);
    assert_eq!(md5.finish(), Md5::digest(&vec![byte; len]));
}

/// Runs `main` on one shard of each driver this machine has.
fn on_each_driver<F: Future<Output = ()> + 'static>(main: fn() -> F) {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let (done, ended) = channel();
        let body = move |_| async move {
            main().await;
            done.send(()).unwrap();
        };
        let config = RuntimeConfig {
            driver,
            ..RuntimeConfig::default()
        };
        let shards = start(&config, vec![body]).unwrap();
        ended.recv_timeout(PATIENCE).unwrap();
        assert!(shards.join(PATIENCE).is_empty());
    }
}

#[test]
fn bodies_of_all_sizes_at_once() {
    on_each_driver(|| async {
        let (desk, pool) = (HashDesk::new(), pool());
        let sizes = [
            0,
            1,
            63,
            64,
            10_000,
            SLICE_BYTES,
            LARGE_BYTES - 1,
            LARGE_BYTES,
        ];
        let tasks: Vec<_> = sizes
            .into_iter()
            .chain([3 * LARGE_BYTES + 5, 10_000, 2 * LARGE_BYTES])
            .enumerate()
            .map(|(i, len)| monoio::spawn(hash_body(desk.clone(), pool.clone(), i as u8, len)))
            .collect();
        for task in tasks {
            task.await;
        }
        let stats = pool.available();
        assert_eq!(stats.large_free, stats.large_total);
        assert!(!desk.0.running.get());
    });
}

#[test]
fn io_goes_on_while_bodies_are_hashed() {
    on_each_driver(|| async {
        let (desk, pool) = (HashDesk::new(), pool());
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let round_trips = Rc::new(Cell::new(0_usize));
        let counter = Rc::clone(&round_trips);
        monoio::spawn(async move {
            loop {
                let (read, byte) = there.read(vec![0_u8; 1]).await;
                if read.unwrap_or(0) == 0 {
                    return;
                }
                there.write_all(byte).await.0.unwrap();
            }
        });
        let hashing = Rc::new(Cell::new(true));
        let going_on = Rc::clone(&hashing);
        let pinging = monoio::spawn(async move {
            while going_on.get() {
                here.write_all(vec![1_u8]).await.0.unwrap();
                assert_eq!(here.read(vec![0_u8; 1]).await.0.unwrap(), 1);
                counter.set(counter.get() + 1);
            }
        });
        let len = 6 * LARGE_BYTES;
        hash_body(desk, pool, 7, len).await;
        hashing.set(false);
        pinging.await;
        // A turn moves a round trip on by at least one of its four steps.
        let turns = len / SLICE_BYTES - len / LARGE_BYTES;
        let least = turns / 4;
        let got = round_trips.get();
        assert!(got >= least, "{got} round trips in {turns} turns");
    });
}

#[monoio::test(timer_enabled = true)]
async fn a_body_given_up_gives_its_buffer_back() {
    let (desk, pool) = (HashDesk::new(), pool());
    let other = desk.stream(true);
    let mut stream = desk.stream(true);
    let buffer = filled(&pool, 1, LARGE_BYTES).await;
    assert!(stream.exchange(buffer, true).await.is_none());
    let before = pool.available();
    assert_eq!(before.large_free + 1, before.large_total);
    drop(stream);
    assert_eq!(pool.available().large_free, before.large_total);
    drop(other);
    hash_body(desk, pool, 3, 100).await;
}

#[monoio::test(timer_enabled = true)]
async fn a_stalled_body_does_not_hold_up_others() {
    let (desk, pool) = (HashDesk::new(), pool());
    let _stalled = desk.stream(true);
    for len in [1, 10_000, 3 * LARGE_BYTES] {
        hash_body(desk.clone(), pool.clone(), 9, len).await;
    }
}
