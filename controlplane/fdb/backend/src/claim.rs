//! A store for one process alone: who has it, and how a process that lost it stops.
//!
//! The owner writes its token to a row, and a beat next to it every second. Every
//! commit of the owner reads the row in the same transaction: after somebody else
//! has taken the store, nothing of the old owner is applied any more, however late
//! it wakes up. A store whose beat goes on is not taken. Rows of the store's own
//! begin with [`OWN`], which no key of the namespace does.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quickwater_controlplane::store::{CommitError, Store, StoreError, Transaction};
use tokio::time::sleep;

use crate::store::FoundationStore;
use crate::transaction::FoundationTransaction;

/// First byte of the store's own rows.
const OWN: u8 = 0x00;
/// Who has the store.
pub(crate) const OWNER_KEY: &[u8] = &[OWN, b'o'];
/// Changes while the owner lives.
const BEAT_KEY: &[u8] = &[OWN, b'b'];
/// How often it changes.
const BEAT_PERIOD: Duration = Duration::from_secs(1);
/// How old it may get before that is said.
const BEAT_MISSED: Duration = Duration::from_secs(2);
/// How long it is looked at before a store counts as left behind.
const WATCH_TIME: Duration = Duration::from_secs(4);
/// Attempts at each step.
const ATTEMPTS_MAX: u32 = 50;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest name in a token, bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// Why a store could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Its owner is alive.
    #[error("the metadata in FoundationDB is in use by {owner}")]
    InUse {
        /// What the owner called itself.
        owner: String,
    },
    /// The cluster does not answer as it should.
    #[error("the owner of the metadata in FoundationDB cannot be settled: {0}")]
    Unavailable(String),
    /// This handle has it, or had it.
    #[error("claimed twice by one process")]
    Twice,
}

/// The claim of a process.
#[derive(Debug)]
pub(crate) struct Claim {
    /// What stands in the owner's row.
    pub(crate) token: Vec<u8>,
    /// Somebody else has the store.
    lost: AtomicBool,
    /// It was given back.
    given_back: AtomicBool,
}

impl Claim {
    /// Another token, or none, stands in the owner's row: why nothing is committed.
    pub(crate) fn lose(&self) -> CommitError {
        if self.given_back.load(Ordering::SeqCst) {
            return CommitError::Unavailable("the metadata was given back");
        }
        if !self.lost.swap(true, Ordering::SeqCst) {
            tracing::error!("another process has taken the metadata; nothing more is committed");
        }
        CommitError::Unavailable("another process has taken the metadata")
    }

    fn is_over(&self) -> bool {
        self.lost.load(Ordering::SeqCst) || self.given_back.load(Ordering::SeqCst)
    }
}

impl FoundationStore {
    /// Takes the store for this process alone; `who` is told to others. Waits some
    /// seconds where an owner was killed. From then on commits fail when somebody
    /// else takes it, which only happens when the beat stops that a task keeps up.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub async fn claim(&self, who: &str) -> Result<(), ClaimError> {
        let token = token(who);
        let found = self.owner().await?;
        if let Some(owner) = &found {
            self.watch(owner).await?;
        }
        self.take(found.as_deref(), &token).await?;
        let claim = Arc::new(Claim {
            token,
            lost: AtomicBool::new(false),
            given_back: AtomicBool::new(false),
        });
        if !self.set_claim(Arc::clone(&claim)) {
            return Err(ClaimError::Twice);
        }
        tokio::spawn(beat(self.clone(), claim));
        Ok(())
    }

    /// Gives the store back, so that the next owner need not wait. Whoever does not
    /// only costs it some seconds.
    pub async fn release(&self) {
        let Some(claim) = self.current_claim() else {
            return;
        };
        claim.given_back.store(true, Ordering::SeqCst);
        let mut transaction = FoundationTransaction::begin(self.shared());
        let is_ours = transaction.get(OWNER_KEY).await;
        if is_ours.is_ok_and(|owner| owner.as_deref() == Some(&claim.token)) {
            transaction.clear(OWNER_KEY);
            if let Err(error) = transaction.commit_unfenced().await {
                tracing::warn!(%error, "the metadata could not be given back; the next start waits");
            }
        }
    }

    /// Another process has taken the store.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let claim = self.current_claim();
        claim.is_some_and(|claim| claim.lost.load(Ordering::SeqCst))
    }

    async fn owner(&self) -> Result<Option<Vec<u8>>, ClaimError> {
        let owner = self.read(OWNER_KEY).await?;
        Ok(owner.map(|owner| owner.to_vec()))
    }

    /// Returns when the beat has stood still for long enough.
    async fn watch(&self, owner: &[u8]) -> Result<(), ClaimError> {
        let before = self.read(BEAT_KEY).await?;
        let looks = WATCH_TIME.as_millis() / BEAT_PERIOD.as_millis();
        for _ in 0..looks {
            sleep(BEAT_PERIOD).await;
            if self.owner().await?.as_deref() != Some(owner) {
                // Given back, or taken by somebody else: that is decided by the commit.
                return Ok(());
            }
            if self.read(BEAT_KEY).await? != before {
                let owner = String::from_utf8_lossy(owner).into_owned();
                return Err(ClaimError::InUse { owner });
            }
        }
        Ok(())
    }

    /// Writes the token where nobody, or still the same owner, has the store.
    async fn take(&self, left_by: Option<&[u8]>, token: &[u8]) -> Result<(), ClaimError> {
        let mut why = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let mut transaction = self.begin();
            match transaction.get(OWNER_KEY).await {
                Ok(Some(owner)) if owner.as_ref() == token => return Ok(()),
                Ok(Some(owner)) if left_by != Some(owner.as_ref()) => {
                    let owner = String::from_utf8_lossy(&owner).into_owned();
                    return Err(ClaimError::InUse { owner });
                }
                Ok(_) => {
                    transaction.set(OWNER_KEY, token);
                    transaction.add(BEAT_KEY, 1);
                    match transaction.commit().await {
                        Ok(_) => return Ok(()),
                        Err(error) => why = error.to_string(),
                    }
                }
                Err(error) => why = error.to_string(),
            }
            sleep(ATTEMPT_PAUSE).await;
        }
        Err(ClaimError::Unavailable(why))
    }

    async fn read(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, ClaimError> {
        let mut why = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.begin().get(key).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_retryable() => why = Some(error),
                Err(error) => return Err(ClaimError::Unavailable(error.to_string())),
            }
            sleep(ATTEMPT_PAUSE).await;
        }
        let why = why.map_or_else(String::new, |error: StoreError| error.to_string());
        Err(ClaimError::Unavailable(why))
    }
}

/// What nobody else calls himself, and this process only once.
fn token(who: &str) -> Vec<u8> {
    let mut token = who.as_bytes().to_vec();
    token.truncate(TOKEN_BYTES_MAX);
    // Differs between processes and calls.
    let number = RandomState::new().hash_one(std::process::id());
    token.extend_from_slice(format!(" ({number:016x})").as_bytes());
    token
}

/// Shows that the owner lives, until it does not own the store any more.
async fn beat(store: FoundationStore, claim: Arc<Claim>) {
    let mut pause = BEAT_PERIOD;
    let mut written = Instant::now();
    let mut failing = false;
    loop {
        sleep(pause).await;
        if claim.is_over() {
            return;
        }
        let mut transaction = store.begin();
        transaction.add(BEAT_KEY, 1);
        let Err(error) = transaction.commit().await else {
            (pause, written) = (BEAT_PERIOD, Instant::now());
            if std::mem::take(&mut failing) {
                tracing::info!("the owner's beat is written again");
            }
            continue;
        };
        // One that is missed costs half of the time that another start looks on.
        pause = match pause {
            BEAT_PERIOD => ATTEMPT_PAUSE,
            pause => (pause * 2).min(BEAT_PERIOD),
        };
        // Once, not every second: another start would count this one as gone.
        if written.elapsed() > BEAT_MISSED && !std::mem::replace(&mut failing, true) {
            tracing::warn!(
                %error,
                "the owner's beat cannot be written; another service may take the metadata"
            );
        }
    }
}
