//! What jobs want done to single objects, for whichever shard is free. Absent:
//! which objects, in what order, and how often it is tried.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_listener::{Event, EventListener};
use futures_channel::oneshot;
use quickwater_proto::{BucketId, BucketName, JobAction, JobOutcome, ObjectKey};

use crate::error::FlowError;

/// Tasks waiting at most.
pub const TASKS_MAX: usize = 4_096;

/// What came of a task.
pub type JobAnswer = Result<JobOutcome, FlowError>;

/// What is to be done.
pub(crate) enum JobWork {
    /// Compare a path (the key itself and what is below it) with the UFS.
    Compare { path: String },
    /// Act on one object.
    Object { key: ObjectKey, action: JobAction },
}

/// Something to be done, for one who waits for the answer.
pub(crate) struct JobTask {
    pub(crate) name: BucketName,
    pub(crate) bucket: BucketId,
    pub(crate) work: JobWork,
    stop: Arc<AtomicBool>,
    answer: oneshot::Sender<JobAnswer>,
}

impl JobTask {
    /// Whether nobody wants it any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.answer.is_canceled()
    }

    pub(crate) fn answer(self, answer: JobAnswer) {
        // Who asked may be gone.
        let _ = self.answer.send(answer);
    }
}

/// The tasks of all jobs of a process.
#[derive(Default)]
pub struct JobTasks {
    waiting: Mutex<VecDeque<JobTask>>,
    added: Event,
}

impl JobTasks {
    /// Compares the keys of a path with the UFS: what is there is known after it.
    ///
    /// # Errors
    /// The UFS cannot be listed, or no shard takes it.
    pub async fn compare(
        &self,
        name: &BucketName,
        bucket: BucketId,
        path: &str,
        stop: &Arc<AtomicBool>,
    ) -> JobAnswer {
        let path = path.to_owned();
        self.ask(name, bucket, JobWork::Compare { path }, stop)
            .await
    }

    /// Acts on one object.
    ///
    /// # Errors
    /// As the flow of the action, or no shard takes it.
    pub async fn act(
        &self,
        name: &BucketName,
        bucket: BucketId,
        key: &ObjectKey,
        action: JobAction,
        stop: &Arc<AtomicBool>,
    ) -> JobAnswer {
        let key = key.clone();
        let work = JobWork::Object { key, action };
        self.ask(name, bucket, work, stop).await
    }

    async fn ask(
        &self,
        name: &BucketName,
        bucket: BucketId,
        work: JobWork,
        stop: &Arc<AtomicBool>,
    ) -> JobAnswer {
        let (sender, answer) = oneshot::channel();
        let task = JobTask {
            name: name.clone(),
            bucket,
            work,
            stop: Arc::clone(stop),
            answer: sender,
        };
        if !self.push(task) {
            return Err(FlowError::SlowDown("too many jobs at a time".into()));
        }
        answer
            .await
            .unwrap_or_else(|_| Err(FlowError::Unavailable("the service is stopping".into())))
    }

    fn push(&self, task: JobTask) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= TASKS_MAX {
            return false;
        }
        waiting.push_back(task);
        drop(waiting);
        // One more of those who listen; who has been told already is not counted.
        self.added.notify_additional(1);
        true
    }

    /// The oldest task.
    pub(crate) fn take(&self) -> Option<JobTask> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }

    /// Wakes when a task was added.
    pub(crate) fn listen(&self) -> EventListener {
        self.added.listen()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use quickwater_proto::LeftAlone;

    use super::*;

    #[test]
    fn tasks_are_taken_in_order_and_answered() {
        let tasks = JobTasks::default();
        let name = BucketName::new("data").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let listener = tasks.listen();
        let key = ObjectKey::new("k").unwrap();
        let mut first = Box::pin(tasks.act(&name, BucketId(7), &key, JobAction::Free, &stop));
        let mut second = Box::pin(tasks.compare(&name, BucketId(7), "a/", &stop));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        assert!(listener.now_or_never().is_some());
        let task = tasks.take().unwrap();
        assert!(matches!(&task.work, JobWork::Object { .. }));
        assert!(!task.is_stopped());
        stop.store(true, Ordering::Relaxed);
        assert!(task.is_stopped());
        task.answer(Ok(JobOutcome::Left(LeftAlone::Gone)));
        let answer = first.now_or_never();
        assert_eq!(answer, Some(Ok(JobOutcome::Left(LeftAlone::Gone))));
        drop(tasks.take());
        let answer = second.now_or_never().unwrap();
        assert!(matches!(answer, Err(FlowError::Unavailable(_))));
        assert!(tasks.take().is_none());
    }

    #[test]
    fn the_queue_has_a_limit() {
        let tasks = JobTasks::default();
        let name = BucketName::new("data").unwrap();
        let stop = Arc::default();
        let mut asked = Vec::new();
        for _ in 0..TASKS_MAX {
            let mut one = Box::pin(tasks.compare(&name, BucketId(1), "", &stop));
            assert!((&mut one).now_or_never().is_none());
            asked.push(one);
        }
        let refused = tasks.compare(&name, BucketId(1), "", &stop).now_or_never();
        assert!(matches!(refused, Some(Err(FlowError::SlowDown(_)))));
    }
}
