//! Rough figures, not a test: `cargo test --release figures -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use Durability::{Cached, Flushed};
use futures_util::future::join_all;

fn cpu_seconds() -> f64 {
    let usage = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = usage
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn report(what: &str, amount: f64, unit: &str, begun: (Instant, f64)) {
    let (wall, cpu) = (begun.0.elapsed().as_secs_f64(), cpu_seconds() - begun.1);
    eprintln!(
        "{what}: {:.0} {unit}/s, {:.3} CPU s per 1,000 {unit}",
        amount / wall,
        1000.0 * cpu / amount
    );
}

fn now() -> (Instant, f64) {
    (Instant::now(), cpu_seconds())
}

#[test]
#[ignore = "a measurement"]
fn figures() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        segment_bytes: Some(64 * MIB),
        zero_ahead: true,
        ..StoreConfig::new(dir.path(), 40 * 64 * MIB, 1)
    };
    session(config.clone(), async |_, shard| {
        for round in 0..4u128 {
            let begun = now();
            let writers = (0..4u32).map(|writer| {
                let shard = shard.clone();
                async move {
                    let data = content(chunk(1, 1), 1 << 20);
                    for index in 0..256 {
                        put(&shard, chunk(round, writer * 256 + index), &data, Cached)
                            .await
                            .unwrap();
                    }
                }
            });
            join_all(writers).await;
            report(
                "write 1 MiB cached, 4 at once (copy into the buffer included)",
                1024.0,
                "MiB",
                begun,
            );
            let begun = now();
            let readers = (0..4u32).map(|reader| {
                let shard = shard.clone();
                async move {
                    for index in 0..256 {
                        let id = chunk(round, reader * 256 + index);
                        assert!(shard.read(id, 0..1 << 20).await.unwrap().is_some());
                    }
                }
            });
            join_all(readers).await;
            report("read 1 MiB, 4 at once", 1024.0, "MiB", begun);
        }
        for round in 0..4u128 {
            let begun = now();
            let writers = (0..64u32).map(|writer| {
                let shard = shard.clone();
                async move {
                    let data = content(chunk(1, 1), 10_240);
                    for index in 0..400 {
                        let id = chunk(100 + round, writer * 400 + index);
                        put(&shard, id, &data, Flushed).await.unwrap();
                    }
                }
            });
            join_all(writers).await;
            report(
                "write 10 KiB flushed, 64 at once",
                25_600.0,
                "writes",
                begun,
            );
            let begun = now();
            let readers = (0..64u32).map(|reader| {
                let shard = shard.clone();
                async move {
                    for index in 0..400 {
                        let id = chunk(100 + round, reader * 400 + index);
                        assert!(shard.read(id, 0..10_240).await.unwrap().is_some());
                    }
                }
            });
            join_all(readers).await;
            report("read 10 KiB, 64 at once", 25_600.0, "reads", begun);
        }
    });
    let begun = now();
    let store = Store::open(config).unwrap();
    report("recovery", store.chunks() as f64, "records", begun);
}
