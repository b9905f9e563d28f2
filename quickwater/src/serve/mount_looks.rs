//! Whether what is behind mounts answers, for people who look at the service: asked when
//! somebody does, and not again for a while. Absent: what makes a directory the right one
//! (the UFS client's).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{Bucket, BucketId, UfsError, UfsErrorKind};
use quickwater_ufs::UfsClient;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

/// How long is waited for what.
struct Patience {
    /// How long an answer is good for.
    good: Duration,
    /// The same of a refusal, so that a mount that is well again is soon seen to be.
    refused: Duration,
    /// The same of one that did not come in time: what hangs is not asked as often.
    late: Duration,
    /// Longest that whoever looks waits for an answer, from when it was asked for.
    wait: Duration,
}

const PATIENCE: Patience = Patience {
    good: Duration::from_secs(10),
    refused: Duration::from_secs(3),
    late: Duration::from_secs(30),
    wait: Duration::from_secs(2),
};
/// Mounts asked at a time.
const ASKED_MAX: usize = 16;

/// Asks a mount whether it is there.
#[tonic::async_trait]
pub(super) trait Ask: Send + Sync + 'static {
    /// # Errors
    /// It is not, or refuses.
    async fn ask(&self, bucket: &Bucket) -> Result<(), UfsError>;
}

#[tonic::async_trait]
impl Ask for UfsClient {
    async fn ask(&self, bucket: &Bucket) -> Result<(), UfsError> {
        match self.check(bucket, false).await {
            Ok(_) => Ok(()),
            // Told as long as it lasts, and no longer.
            Err(_) if self.trouble(bucket).is_some() => Ok(()),
            // That we have too much to do is not its fault.
            Err(error) if error.kind == UfsErrorKind::Throttled => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What is known of mounts.
pub(super) struct MountLooks<A> {
    asker: Arc<A>,
    known: Arc<Known>,
    turns: Arc<Semaphore>,
    patience: Patience,
}

#[derive(Default)]
struct Known {
    looks: Mutex<HashMap<BucketId, Look>>,
    told: Notify,
}

#[derive(Default)]
struct Look {
    /// Since when it is being asked.
    asked: Option<Instant>,
    /// What it said, and until when that is good.
    told: Option<(Instant, Option<String>)>,
}

impl<A: Ask> MountLooks<A> {
    pub(super) fn new(asker: A) -> Self {
        Self {
            asker: Arc::new(asker),
            known: Arc::default(),
            turns: Arc::new(Semaphore::new(ASKED_MAX)),
            patience: PATIENCE,
        }
    }

    /// What is wrong with each of these mounts, which are all there are. Those that were
    /// not asked lately are asked; an answer is waited for [`Patience::wait`] at most.
    pub(super) async fn troubles(&self, buckets: &[Bucket]) -> Vec<Option<String>> {
        self.begin(buckets);
        let mut until = Instant::now();
        loop {
            let mut told = std::pin::pin!(self.known.told.notified());
            // From here on nothing that is told is missed.
            told.as_mut().enable();
            let Some(asked) = self.last_asked() else {
                break;
            };
            until = until.max(asked + self.patience.wait);
            if timeout_at(until, told).await.is_err() {
                break;
            }
        }
        let looks = self.known.looks();
        let trouble = |bucket: &Bucket| {
            let look = looks.get(&bucket.id)?;
            look.trouble(bucket, self.patience.wait)
        };
        buckets.iter().map(trouble).collect()
    }

    fn begin(&self, buckets: &[Bucket]) {
        let now = Instant::now();
        let mut looks = self.known.looks();
        looks.retain(|id, _| buckets.iter().any(|bucket| bucket.id == *id));
        for bucket in buckets {
            let look = looks.entry(bucket.id).or_default();
            if look.asked.is_none() && look.told.as_ref().is_none_or(|(until, _)| *until <= now) {
                look.asked = Some(now);
                tokio::spawn(self.look(bucket.clone()));
            }
        }
    }

    /// The latest time that a mount was asked which has not answered.
    fn last_asked(&self) -> Option<Instant> {
        let looks = self.known.looks();
        looks.values().filter_map(|look| look.asked).max()
    }

    fn look(&self, bucket: Bucket) -> impl Future<Output = ()> + Send + 'static {
        let (asker, known) = (Arc::clone(&self.asker), Arc::clone(&self.known));
        let turns = Arc::clone(&self.turns);
        let (good, refused, late) = (
            self.patience.good,
            self.patience.refused,
            self.patience.late,
        );
        async move {
            // The semaphore is never closed.
            let _turn = turns.acquire_owned().await;
            let answer = asker.ask(&bucket).await;
            let (good, trouble) = match answer {
                Ok(()) => (good, None),
                Err(error) if error.kind == UfsErrorKind::Timeout => (late, Some(error)),
                Err(error) => (refused, Some(error)),
            };
            let trouble = trouble.map(|error| said(&bucket, &error.to_string()));
            if let Some(look) = known.looks().get_mut(&bucket.id) {
                look.asked = None;
                look.told = Some((Instant::now() + good, trouble));
            }
            known.told.notify_waiters();
        }
    }
}

impl Known {
    fn looks(&self) -> MutexGuard<'_, HashMap<BucketId, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    fn trouble(&self, bucket: &Bucket, wait: Duration) -> Option<String> {
        let waited = self.asked.map(|asked| asked.elapsed());
        match waited.filter(|waited| *waited >= wait) {
            Some(waited) => {
                let why = format!("no answer for {} s", waited.as_secs());
                Some(said(bucket, &why))
            }
            None => self.told.as_ref()?.1.clone(),
        }
    }
}

fn said(bucket: &Bucket, why: &str) -> String {
    format!("bucket '{}', {}: {why}", bucket.name, bucket.ufs)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use quickwater_proto::BucketName;

    use super::*;

    const FOR_EVER: Duration = Duration::from_secs(3_600);

    /// Counts who asks, and answers as it was told to, when it may.
    struct Storage {
        asked: AtomicU64,
        error: Mutex<Option<UfsErrorKind>>,
        may_answer: Semaphore,
    }

    #[tonic::async_trait]
    impl Ask for Arc<Storage> {
        async fn ask(&self, _: &Bucket) -> Result<(), UfsError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            drop(self.may_answer.acquire().await);
            let error = *self.error.lock().unwrap();
            error.map_or(Ok(()), |kind| Err(UfsError::new(kind, "it said so")))
        }
    }

    fn bucket(id: u64) -> Bucket {
        Bucket {
            id: BucketId(id),
            name: BucketName::new(&format!("bucket-{id}")).unwrap(),
            ufs: "s3://there".into(),
            created_ms: 0,
            metadata_ttl_ms: 0,
            options: Vec::new(),
            tags: Vec::new(),
            owned: false,
        }
    }

    /// `answers`: whether the storage does.
    fn made(patience: Patience, answers: bool) -> (Arc<Storage>, MountLooks<Arc<Storage>>) {
        let storage = Arc::new(Storage {
            asked: AtomicU64::new(0),
            error: Mutex::default(),
            may_answer: Semaphore::new(usize::from(answers)),
        });
        let mut looks = MountLooks::new(Arc::clone(&storage));
        looks.patience = patience;
        (storage, looks)
    }

    #[tokio::test]
    async fn mounts_are_asked_when_somebody_looks_and_not_all_the_time() {
        let patience = Patience {
            good: FOR_EVER,
            refused: Duration::ZERO,
            late: FOR_EVER,
            wait: FOR_EVER,
        };
        let (storage, looks) = made(patience, true);
        *storage.error.lock().unwrap() = Some(UfsErrorKind::AccessDenied);
        let buckets = [bucket(1), bucket(2)];
        let troubles = looks.troubles(&buckets).await;
        for (bucket, trouble) in buckets.iter().zip(&troubles) {
            let trouble = trouble.as_deref().unwrap();
            assert!(trouble.contains(bucket.name.as_str()) && trouble.contains("it said so"));
        }
        *storage.error.lock().unwrap() = None;
        for _ in 0..5 {
            assert_eq!(looks.troubles(&buckets).await, [None, None]);
        }
        assert_eq!(storage.asked.load(Ordering::Relaxed), 4);
        assert_eq!(looks.troubles(&buckets[..1]).await, [None]);
        assert_eq!(looks.known.looks().len(), 1, "what is gone is forgotten");
    }

    #[tokio::test]
    async fn what_hangs_is_told_and_does_not_hold_who_looks() {
        let patience = Patience {
            good: FOR_EVER,
            refused: FOR_EVER,
            late: FOR_EVER,
            wait: Duration::ZERO,
        };
        let (storage, mut looks) = made(patience, false);
        *storage.error.lock().unwrap() = Some(UfsErrorKind::Timeout);
        let buckets = [bucket(1)];
        for _ in 0..2 {
            let told = looks.troubles(&buckets).await[0].clone().unwrap();
            assert!(told.contains("no answer for "), "{told}");
        }
        storage.may_answer.add_permits(1);
        // Whoever waits now is told the answer.
        looks.patience.wait = FOR_EVER;
        let told = looks.troubles(&buckets).await[0].clone().unwrap();
        assert!(told.contains("it said so"), "{told}");
        assert_eq!(storage.asked.load(Ordering::Relaxed), 1);
    }
}
