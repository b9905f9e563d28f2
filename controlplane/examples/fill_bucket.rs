//! Fills a bucket with many objects for `bench/targets --rows list`: rows of the
//! metadata, no bytes. The service must be stopped:
//! `cargo run --release -p quickwater-controlplane --example fill_bucket -- DIR/metadata BUCKET OBJECTS`

#[path = "../tests/listing/objects.rs"]
mod objects;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use quickwater_controlplane::Namespace;
use quickwater_controlplane::store::{EmbeddedStore, EngineKind, EngineOptions, open};
use quickwater_proto::BucketName;

/// A second without work of the engine's threads ends the wait for compactions.
const QUIET_CPU: Duration = Duration::from_millis(20);
/// Longest such wait.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(600);

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, bucket, objects] = words.as_slice() else {
        return Err("usage: fill_bucket METADATA_DIR BUCKET OBJECTS".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let store = open(EngineKind::Fjall, Path::new(dir), &EngineOptions::default())?;
    runtime.block_on(fill(store, bucket, objects.parse()?))?;
    Ok(())
}

async fn fill(store: EmbeddedStore, bucket: &str, objects: u64) -> Result<(), Box<dyn Error>> {
    let namespace = Namespace::new(store);
    let name = BucketName::new(bucket)?;
    let bucket = namespace.bucket(&name).await?;
    let bucket = bucket.ok_or("there is no such bucket: make it first")?;
    objects::fill(namespace.store(), bucket.id, objects).await?;
    wait_until_quiet()
}

/// Waits until the engine's threads have nothing to do.
fn wait_until_quiet() -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let mut before = cpu()?;
    while began.elapsed() < QUIET_WAIT_MAX {
        std::thread::sleep(Duration::from_secs(1));
        let now = cpu()?;
        if now - before < QUIET_CPU {
            return Ok(());
        }
        before = now;
    }
    Err("compactions do not come to an end".into())
}

/// CPU time of all threads so far.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}
