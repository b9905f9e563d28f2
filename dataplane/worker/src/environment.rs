//! Time and chance of a shard. Absent: anything else.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quickwater_engine::io::Environment;
use quickwater_proto::BlobId;
use rustix::time::{ClockId, clock_gettime};

/// The machine's clocks and randomness, and the shard's executor.
#[derive(Debug, Clone)]
pub struct ShardEnvironment {
    start: Instant,
}

impl ShardEnvironment {
    /// All shards of a process share one `start`.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start }
    }
}

impl Environment for ShardEnvironment {
    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    /// `CLOCK_BOOTTIME`, see `clock_gettime(2)`.
    fn lease_clock(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    async fn sleep(&self, duration: Duration) {
        monoio::time::sleep(duration).await;
    }

    fn random_u128(&self) -> u128 {
        // Without randomness of the operating system no id is safe to give out.
        BlobId::random().map_or_else(|_| std::process::abort(), |id| id.0)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        monoio::spawn(task);
    }
}
