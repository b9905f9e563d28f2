//! The end of a worker: its slots go to others, and what only it has to its UFS.

use std::time::Duration;

use quickwater_engine::QueueScope;
use quickwater_engine::io::Environment as _;
use quickwater_worker::environment::ShardEnvironment;

use super::attendant::Attending;
use super::body::Body;

/// How often it is looked what is left to be handed over at the end.
const HAND_OVER_LOOK: Duration = Duration::from_millis(20);

impl Attending {
    /// Has the slots go to others, and what only this worker has to its UFS, for at most
    /// `longest`; requests are served meanwhile. Answers whether something of it is left
    /// that others cannot have.
    pub(super) async fn hand_over(&self, longest: Duration) -> bool {
        let Some(body) = self.body.get() else {
            return false;
        };
        let stays = self.give_all(body, longest).await;
        self.end();
        self.note_all(body).await;
        stays
    }

    async fn give_all(&self, body: &Body, longest: Duration) -> bool {
        let shared = &body.shared;
        let others = || {
            let mut all = self.directory.neighbours().into_iter();
            all.any(|one| one.node != body.node && one.live && !one.draining)
        };
        let deadline = tokio::time::Instant::now() + longest;
        if !others() {
            return body.is_dirty();
        }
        if !longest.is_zero() {
            shared.clearing.all();
            let now = ShardEnvironment::new(body.start).monotonic();
            shared.persist.retry_all(&QueueScope::everything(), now);
            body.client.beat();
        }
        loop {
            let queued = shared.persist.totals();
            let waits = queued.puts + queued.deletes;
            let slots = match others() {
                true => body.movable(),
                false => 0,
            };
            if waits == 0 && slots == 0 {
                break;
            }
            // Nothing ends without it.
            let alone = !body.client.is_connected();
            if alone || tokio::time::Instant::now() >= deadline {
                tracing::warn!(
                    changes = waits,
                    bytes = queued.bytes,
                    slots = shared.rights.owned(),
                    "the end came before everything was handed over; what no UFS has comes back with this worker"
                );
                break;
            }
            tokio::time::sleep(HAND_OVER_LOOK).await;
        }
        body.is_dirty() && !others()
    }
}
