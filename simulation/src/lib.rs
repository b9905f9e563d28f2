//! A seeded single-thread executor with virtual time: the same seed gives the
//! same run. For tests alone. Absent: what is simulated.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

fn lock(ready: &Mutex<Vec<usize>>) -> MutexGuard<'_, Vec<usize>> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// xorshift64*: small, seeded, good enough to pick an order.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed; the same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next_u64() >> 33) % n.max(1)
    }
}

struct Inner {
    random: Random,
    now: Duration,
    tasks: BTreeMap<usize, Task>,
    spawned: Vec<Task>,
    next_task: usize,
    timers: BTreeMap<(Duration, usize), Waker>,
    next_timer: usize,
    /// `now` in nanoseconds, for whoever is not of this thread.
    clock: Arc<AtomicU64>,
    /// Told how far time moved, and by whom others' timers go.
    follower: Option<Rc<dyn Fn(Duration)>>,
}

/// Handle to the simulation.
#[derive(Clone)]
pub struct Sim {
    inner: Rc<RefCell<Inner>>,
    ready: Arc<Mutex<Vec<usize>>>,
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = lock(&self.ready);
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

impl Sim {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            random: Random::new(seed),
            now: Duration::from_secs(1),
            tasks: BTreeMap::new(),
            spawned: Vec::new(),
            next_task: 0,
            timers: BTreeMap::new(),
            next_timer: 0,
            clock: Arc::new(AtomicU64::new(1_000_000_000)),
            follower: None,
        };
        Self {
            inner: Rc::new(RefCell::new(inner)),
            ready: Arc::default(),
        }
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.inner.borrow().now
    }

    /// Virtual time in nanoseconds, to be read from any thread.
    #[must_use]
    pub fn clock(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.borrow().clock)
    }

    /// Has `follower` told whenever time moves, and how far: for another clock that
    /// must go with this one.
    pub fn follow(&self, follower: impl Fn(Duration) + 'static) {
        self.inner.borrow_mut().follower = Some(Rc::new(follower));
    }

    /// A random number below `n`.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        self.inner.borrow_mut().random.below(n)
    }

    /// Sixteen random bytes.
    #[must_use]
    pub fn random_u128(&self) -> u128 {
        let mut inner = self.inner.borrow_mut();
        u128::from(inner.random.next_u64()) << 64 | u128::from(inner.random.next_u64())
    }

    /// Begins a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.inner.borrow_mut().spawned.push(Box::pin(task));
    }

    /// Waits in virtual time.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep {
            sim: self.clone(),
            until: self.now() + duration,
            id: None,
        }
    }

    /// A random short wait: lets others run in between.
    pub async fn jitter(&self) {
        let micros = self.below(200);
        if micros > 20 {
            self.sleep(Duration::from_micros(micros)).await;
        }
    }

    fn adopt_spawned(&self) {
        let mut inner = self.inner.borrow_mut();
        for task in std::mem::take(&mut inner.spawned) {
            let id = inner.next_task;
            inner.next_task += 1;
            inner.tasks.insert(id, task);
            lock(&self.ready).push(id);
        }
    }

    /// Runs until no task is left.
    ///
    /// # Panics
    /// Tasks wait for what never comes.
    pub fn run(&self) {
        self.run_while(|| true);
        let left = self.inner.borrow().tasks.len();
        assert_eq!(left, 0, "{left} tasks wait for ever");
    }

    /// Drops every task and timer, as the end of a process does.
    pub fn crash(&self) {
        let (tasks, spawned, timers) = {
            let mut inner = self.inner.borrow_mut();
            (
                std::mem::take(&mut inner.tasks),
                std::mem::take(&mut inner.spawned),
                std::mem::take(&mut inner.timers),
            )
        };
        drop((tasks, spawned, timers));
        // What is dropped wakes others that are gone as well.
        self.inner.borrow_mut().spawned.clear();
        lock(&self.ready).clear();
    }

    /// Runs while `wanted` says so and a task is left that can go on.
    pub fn run_while(&self, wanted: impl Fn() -> bool) {
        while wanted() {
            self.adopt_spawned();
            let ready = {
                let mut ready = lock(&self.ready);
                match ready.len() {
                    0 => None,
                    n => Some(ready.swap_remove(self.below(n as u64) as usize)),
                }
            };
            let Some(id) = ready else {
                if !self.advance() {
                    return;
                }
                continue;
            };
            let Some(mut task) = self.inner.borrow_mut().tasks.remove(&id) else {
                continue;
            };
            let waker = Waker::from(Arc::new(TaskWaker {
                task: id,
                ready: Arc::clone(&self.ready),
            }));
            if task
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
            {
                self.inner.borrow_mut().tasks.insert(id, task);
            }
        }
    }

    fn advance(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let Some(((at, _), waker)) = inner.timers.pop_first() else {
            return false;
        };
        let moved = at.saturating_sub(inner.now);
        inner.now = inner.now.max(at);
        let follower = inner.follower.clone();
        let nanos = u64::try_from(inner.now.as_nanos()).unwrap_or(u64::MAX);
        inner.clock.store(nanos, Ordering::SeqCst);
        drop(inner);
        if let Some(follower) = follower {
            follower(moved);
        }
        waker.wake();
        true
    }
}

/// Waits in virtual time.
#[must_use]
pub struct Sleep {
    sim: Sim,
    until: Duration,
    id: Option<usize>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.sim.inner.borrow_mut();
        if let Some(id) = self.id {
            inner.timers.remove(&(self.until, id));
        }
        if inner.now >= self.until {
            return Poll::Ready(());
        }
        let id = inner.next_timer;
        inner.next_timer += 1;
        inner
            .timers
            .insert((self.until, id), context.waker().clone());
        drop(inner);
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.sim.inner.borrow_mut().timers.remove(&(self.until, id));
        }
    }
}
