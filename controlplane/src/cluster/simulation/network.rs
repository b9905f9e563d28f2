//! Messages between workers and control: late, lost, cut off one way or both.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use quickwater_simulation::Sim;
use tokio::sync::oneshot;

/// Longest way of an ordinary message.
const WAY_MICROS: u64 = 4_000;
/// One message in so many is late.
const LATE_ONE_IN: u64 = 80;
/// How late.
const LATE_MILLIS: u64 = 9_000;
/// One message in so many is lost.
const LOST_ONE_IN: u64 = 150;

/// A direction: from a worker (`true`) or to it.
type Way = (usize, bool);

#[derive(Clone)]
pub(super) struct Network {
    sim: Sim,
    cut: Rc<RefCell<BTreeSet<Way>>>,
    /// From then on messages are neither lost nor late.
    calm: Duration,
}

impl Network {
    pub(super) fn of(sim: &Sim, calm: Duration) -> Self {
        Self {
            sim: sim.clone(),
            cut: Rc::default(),
            calm,
        }
    }

    /// Cuts what a worker sends, what it gets, or both; for some time.
    pub(super) fn cut(&self, worker: usize, ways: &[bool], time: Duration) {
        let ways: Vec<Way> = ways.iter().map(|out| (worker, *out)).collect();
        self.cut.borrow_mut().extend(&ways);
        let (cut, sim) = (Rc::clone(&self.cut), self.sim.clone());
        self.sim.spawn(async move {
            sim.sleep(time).await;
            cut.borrow_mut().retain(|way| !ways.contains(way));
        });
    }

    /// Whether a message gets through; it takes its time either way.
    async fn passes(&self, way: Way) -> bool {
        let bad = self.sim.now() < self.calm;
        let wait = match self.sim.below(LATE_ONE_IN) {
            0 if bad => Duration::from_millis(self.sim.below(LATE_MILLIS)),
            _ => Duration::from_micros(self.sim.below(WAY_MICROS)),
        };
        let lost = bad && self.sim.below(LOST_ONE_IN) == 0;
        let cut = self.cut.borrow().contains(&way);
        self.sim.sleep(wait).await;
        !lost && !cut && !self.cut.borrow().contains(&way)
    }

    /// A call and its answer; `None`: none came in time. `handle` runs to its end
    /// whether or not anybody waits for it.
    pub(super) async fn call<R: 'static>(
        &self,
        worker: usize,
        limit: Duration,
        handle: impl Future<Output = Option<R>> + 'static,
    ) -> Option<R> {
        let (sender, answer) = oneshot::channel();
        let network = self.clone();
        self.sim.spawn(async move {
            if !network.passes((worker, true)).await {
                return;
            }
            let Some(answer) = handle.await else { return };
            if network.passes((worker, false)).await {
                let _ = sender.send(answer);
            }
        });
        let timer = Box::pin(self.sim.sleep(limit));
        match futures_util::future::select(answer, timer).await {
            futures_util::future::Either::Left((Ok(answer), _)) => Some(answer),
            // Its sender is gone: a lost message is noticed when the time is up.
            futures_util::future::Either::Left((Err(_), timer)) => {
                timer.await;
                None
            }
            futures_util::future::Either::Right(_) => None,
        }
    }
}
