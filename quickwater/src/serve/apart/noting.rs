//! What is pending of slots that were taken stands in the metadata only, until it is noted
//! beside the store: should the metadata be lost before, nobody knows of it. A worker says on
//! its disk that this is so. Absent: writing the notes, which a shard does.

use std::sync::Arc;
use std::time::Duration;

use super::attendant::Attending;
use super::body::Body;

/// How often it is looked whether all is noted.
const LOOK: Duration = Duration::from_millis(50);
/// For how long a worker at its end notes what is pending of slots that it took last.
const NOTES_MAX: Duration = Duration::from_secs(20);

impl Attending {
    /// Says on disk when all that is pending of slots that were taken is noted; runs as long
    /// as the worker.
    pub(super) async fn follow_notes(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(body) = self.body.get() {
                self.say_noted(body);
            }
        }
    }

    /// Answers whether all is noted.
    fn say_noted(&self, body: &Body) -> bool {
        let notes = &body.shared.notes;
        let is_so = || self.has_gone_by() && notes.found() == 0;
        if !is_so() {
            return false;
        }
        // It was said before: nothing waits, and nothing is searched for.
        if notes.waiting() == 0 {
            return true;
        }
        // Whoever takes slots says so before it claims them.
        tokio::task::block_in_place(|| body.claims.told(notes, is_so))
    }

    /// Notes what is pending before the end. Whoever stops a cluster worker by worker has the
    /// last one take all slots at its end.
    pub(super) async fn note_all(&self, body: &Body) {
        let deadline = tokio::time::Instant::now() + NOTES_MAX;
        while !self.say_noted(body) {
            if !body.client.is_connected() || tokio::time::Instant::now() >= deadline {
                tracing::warn!(
                    keys = body.shared.notes.found(),
                    "the end came before it was noted what is pending: the metadata are not to be lost before this worker was started again"
                );
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
