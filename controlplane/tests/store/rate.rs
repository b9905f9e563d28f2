//! A measurement: durable commits a second. Run it alone, in release:
//! `cargo test --release -p quickwater-controlplane --test store rate -- --ignored --nocapture`

use std::time::{Duration, Instant};

use quickwater_controlplane::store::{EngineKind, EngineOptions, Store, Transaction, open};

const FOR: Duration = Duration::from_secs(4);

#[test]
#[ignore = "a measurement"]
fn commits_per_second() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for kind in [EngineKind::Fjall, EngineKind::Redb] {
        for clients in [1_u8, 16, 64] {
            runtime.block_on(measure(kind, clients));
        }
    }
}

/// Each commit reads one row and writes three: 400, 96 and 64 bytes.
async fn measure(kind: EngineKind, clients: u8) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(kind, dir.path(), &EngineOptions::default()).expect("open");
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let store = store.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            let mut row = u64::from(client) << 56;
            while began.elapsed() < FOR {
                // Spread over the key space, as object keys are.
                row = row.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let key = [b"object".as_slice(), &row.to_be_bytes()].concat();
                let start = Instant::now();
                let mut transaction = store.begin();
                transaction.get(&key).await.expect("read");
                transaction.set(&key, &[1; 400]);
                transaction.set(&[b"queue".as_slice(), &key].concat(), &[2; 96]);
                transaction.set(&[b"where".as_slice(), &key].concat(), &[3; 64]);
                transaction.commit().await.expect("commit");
                times.push(start.elapsed());
            }
            times
        });
    }
    let mut times: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = began.elapsed().as_secs_f64();
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let stats = store.stats();
    eprintln!(
        "{kind:5} {clients:2} clients: {:6.0} commits/s, {:6.0} flushes/s, p50 {:.2} ms, p99 {:.2} ms",
        times.len() as f64 / elapsed,
        stats.flushes as f64 / elapsed,
        at(50),
        at(99),
    );
}
