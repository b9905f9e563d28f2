//! Watches: looked at again and again, so that who changed the row does not matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::database::{Counts, Database};
use crate::faults::WatchFault;
use crate::network;
use crate::promise::{Answer, Promise};
use crate::session::Session;

const TOO_MANY_WATCHES: i32 = 1032;
const OPERATION_CANCELLED: i32 = 1101;
/// Most watches at a time, FoundationDB's default.
const WATCHES_MAX: usize = 10_000;
const LOOK_PAUSE: Duration = Duration::from_millis(5);

static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// A watch that begins when its transaction is committed.
pub(crate) struct Watch {
    pub(crate) key: Vec<u8>,
    /// What the transaction saw there.
    pub(crate) value: Option<Bytes>,
    pub(crate) promise: Promise,
}

impl Watch {
    pub(crate) fn start(self, database: Arc<Database>) {
        Counts::add(&database.counts.watches);
        match database.faults().watch() {
            Some(WatchFault::Spurious) => return self.promise.set(Ok(Answer::Nothing)),
            Some(WatchFault::Lost) => return self.promise.set(Err(OPERATION_CANCELLED)),
            None => {}
        }
        if ACTIVE.fetch_add(1, Ordering::SeqCst) >= WATCHES_MAX {
            ACTIVE.fetch_sub(1, Ordering::SeqCst);
            return self.promise.set(Err(TOO_MANY_WATCHES));
        }
        network::spawn(async move {
            while !self.promise.is_abandoned() {
                tokio::time::sleep(LOOK_PAUSE).await;
                match Session::begin(&database).get(&self.key, true) {
                    Ok(value) if value == self.value => {}
                    Ok(_) => {
                        self.promise.set(Ok(Answer::Nothing));
                        break;
                    }
                    Err(code) => {
                        self.promise.set(Err(code));
                        break;
                    }
                }
            }
            ACTIVE.fetch_sub(1, Ordering::SeqCst);
        });
    }
}
