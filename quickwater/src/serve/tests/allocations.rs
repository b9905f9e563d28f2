//! Counts the allocations of each thread of the test program.
#![expect(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// Threads told apart; later ones share the last place.
const THREADS_MAX: usize = 4096;

static THREADS: AtomicUsize = AtomicUsize::new(0);
static IDS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static COUNTS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // Fails only while a thread ends, and then nobody counts any more.
    let place = PLACE.try_with(|place| {
        if place.get() == usize::MAX {
            let fresh = THREADS.fetch_add(1, Ordering::Relaxed);
            place.set(fresh.min(THREADS_MAX - 1));
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            IDS[place.get()].store(id, Ordering::Relaxed);
        }
        place.get()
    });
    if let Ok(place) = place {
        COUNTS[place].fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is the system allocator's; counting neither allocates nor
// unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Allocations so far of all threads that live and have this name.
pub(super) fn of_threads_named(name: &str) -> u64 {
    let named = |id: i32| {
        std::fs::read_to_string(format!("/proc/self/task/{id}/comm"))
            .is_ok_and(|comm| comm.trim() == name)
    };
    let known = THREADS.load(Ordering::Relaxed).min(THREADS_MAX);
    (0..known)
        .filter(|place| named(IDS[*place].load(Ordering::Relaxed)))
        .map(|place| COUNTS[place].load(Ordering::Relaxed))
        .sum()
}
