//! Rough figures of a WRITE_BACK PUT, not a test; beside the bare disk in the same
//! round: `cargo test --release figures_write_back -- --ignored --nocapture`.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::write_back::put_blob;
use super::*;
use futures_util::future::join_all;

const ROUNDS: usize = 7;
const LATENCIES: usize = 200;
const CLIENTS: usize = 64;
const PUTS_EACH: usize = 40;
const SIZE: u64 = 10_240;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What one PUT costs without any store: 16 KiB written and fdatasync, microseconds.
fn bare(file: &std::fs::File, at: &mut u64) -> f64 {
    let data = [7u8; 16_384];
    let begun = Instant::now();
    file.write_all_at(&data, *at).unwrap();
    file.sync_data().unwrap();
    *at += data.len() as u64;
    begun.elapsed().as_secs_f64() * 1e6
}

async fn one_client(shard: &ShardStore, next: &mut u128) -> f64 {
    let mut each = Vec::new();
    for _ in 0..LATENCIES {
        *next += 1;
        let begun = Instant::now();
        put_blob(shard, *next, SIZE).await;
        each.push(begun.elapsed().as_secs_f64() * 1e6);
        shard.release(BlobId(*next), 1);
    }
    median(each)
}

async fn many_clients(shard: &ShardStore, next: &mut u128) -> f64 {
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let (shard, first) = (shard.clone(), *next + 1 + (client * PUTS_EACH) as u128);
        async move {
            for blob in first..first + PUTS_EACH as u128 {
                put_blob(&shard, blob, SIZE).await;
                shard.release(BlobId(blob), 1);
            }
        }
    });
    join_all(clients).await;
    let all = CLIENTS * PUTS_EACH;
    *next += all as u128;
    all as f64 / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn figures_write_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        segment_bytes: Some(64 * MIB),
        zero_ahead: true,
        ..StoreConfig::new(dir.path(), 16 * 64 * MIB, 1)
    };
    // As segments are: blocks that exist, past the page cache.
    let path = dir.path().join("bare");
    std::fs::write(&path, vec![0u8; 256 << 20]).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    session(config, async |store, shard| {
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        let (mut next, mut at) = (0, 0);
        one_client(&shard, &mut next).await;
        for round in 0..ROUNDS {
            let bare = median((0..LATENCIES).map(|_| bare(&file, &mut at)).collect());
            let ours = one_client(&shard, &mut next).await;
            let flushes = count(&store.stats().flushes);
            let rate = many_clients(&shard, &mut next).await;
            let flushes = count(&store.stats().flushes) - flushes;
            let (slower, faster) = (ours / bare, rate * bare / 1e6);
            eprintln!(
                "round {round}: bare write+fdatasync p50 {bare:.0} us; 1 client {ours:.0} us \
                 ({slower:.2}x); 64 clients {rate:.0} PUT/s ({faster:.1}x one flush per PUT), \
                 {:.1} PUTs a flush",
                (CLIENTS * PUTS_EACH) as f64 / flushes as f64,
            );
            ratios.push(slower);
            rates.push(faster);
        }
        let (slower, faster) = (median(ratios), median(rates));
        eprintln!("medians: 1 client {slower:.2}x bare, 64 clients {faster:.1}x");
    });
}
