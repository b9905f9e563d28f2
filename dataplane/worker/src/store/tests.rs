//! Behaviour of the store on real files, on both of monoio's drivers.

mod cover;
mod crash;
mod damage;
mod dirty;
mod evict;
mod facts;
mod faults;
mod figures;
mod figures_write_back;
mod power;
mod refuse;
mod restart;
mod round_trip;
mod write_back;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quickwater_engine::io::{ChunkId, Disk, DiskError, Durability};
use quickwater_proto::BlobId;

use super::{ShardStore, Store, StoreConfig};
use crate::buffers::{Pool, PoolConfig};

const MIB: u64 = 1 << 20;
const SEGMENT: u64 = 4 * MIB;
const LONG: Duration = Duration::from_secs(60);

/// A store of 16 small segments for one shard.
fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: Some(SEGMENT),
        zero_ahead: false,
        ..StoreConfig::new(dir, 16 * SEGMENT, 1)
    }
}

fn pool() -> Pool {
    Pool::new(PoolConfig::new(32 << 20)).unwrap()
}

fn run<F: Future>(future: F) -> F::Output {
    let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new();
    let mut runtime = builder.enable_timer().build().unwrap();
    runtime.block_on(future)
}

fn run_legacy<F: Future>(future: F) -> F::Output {
    let builder = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new();
    let mut runtime = builder.enable_timer().build().unwrap();
    runtime.block_on(future)
}

fn chunk(blob: u128, index: u32) -> ChunkId {
    ChunkId {
        blob: BlobId(blob),
        index,
    }
}

/// Bytes that differ for every chunk and position.
fn content(id: ChunkId, len: usize) -> Vec<u8> {
    let mut state = (id.blob.0 as u64) << 20 ^ u64::from(id.index) ^ 0x9E37_79B9_7F4A_7C15;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

async fn put(
    shard: &ShardStore,
    id: ChunkId,
    data: &[u8],
    durability: Durability,
) -> Result<(), DiskError> {
    let mut buffer = shard.buffer(data.len()).await?;
    assert_eq!(buffer.append(data), data.len());
    let (buffer, outcome) = shard.write(id, buffer, durability).await;
    assert!(buffer.as_slice() == data, "the content came back changed");
    outcome
}

async fn get(
    shard: &ShardStore,
    id: ChunkId,
    range: Range<u32>,
) -> Result<Option<Vec<u8>>, DiskError> {
    let buffer = shard.read(id, range).await?;
    Ok(buffer.map(|buffer| buffer.as_slice().to_vec()))
}

/// Writes a chunk of `len` bytes of [`content`].
async fn put_len(shard: &ShardStore, id: ChunkId, len: usize, durability: Durability) {
    put(shard, id, &content(id, len), durability).await.unwrap();
}

/// Whether a chunk of `len` bytes is there; wrong bytes are a failure.
async fn has(shard: &ShardStore, id: ChunkId, len: usize) -> bool {
    match get(shard, id, 0..len as u32).await.unwrap() {
        Some(bytes) => {
            assert!(bytes == content(id, len), "wrong bytes for {id:?}");
            true
        }
        None => false,
    }
}

/// All segment files of a store.
fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for shard in std::fs::read_dir(dir.join("store")).unwrap() {
        let shard = shard.unwrap().path();
        if shard.is_dir() {
            files.extend(std::fs::read_dir(shard).unwrap().map(|f| f.unwrap().path()));
        }
    }
    files.sort();
    files
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

/// Opens the store in `dir`, runs `work` on one shard, settles and closes it.
fn session<T>(config: StoreConfig, work: impl AsyncFnOnce(Store, ShardStore) -> T) -> T {
    run(async {
        let store = Store::open(config).unwrap();
        let shard = store.shard(0, pool());
        let out = work(store, shard.clone()).await;
        assert!(shard.settle(LONG).await);
        out
    })
}
