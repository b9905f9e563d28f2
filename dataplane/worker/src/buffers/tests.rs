//! Behaviour of the pool: ranges, order, deadlines, nothing leaked.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use monoio::buf::{IoBuf, IoBufMut};

use super::*;
use std::future::Future;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(20);

fn pool() -> Pool {
    Pool::new(PoolConfig::new(4 << 20)).unwrap()
}

fn all_large(pool: &Pool) -> Vec<PoolBuf> {
    std::iter::from_fn(|| pool.try_acquire(LARGE_BYTES)).collect()
}

fn run<F: Future>(future: F) -> F::Output {
    let builder = monoio::RuntimeBuilder::<monoio::FusionDriver>::new();
    let mut runtime = builder.enable_timer().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn fresh_buffers_are_empty_aligned_and_have_front_room() {
    let pool = pool();
    for len in [0, 1, SMALL_BYTES, SMALL_BYTES + 1, LARGE_BYTES] {
        let buf = pool.try_acquire(len).unwrap();
        assert!(buf.is_empty() && buf.capacity() >= len);
        assert_eq!((buf.start(), buf.front_room()), (8192, 8192));
        assert!((buf.memory().as_ptr() as usize).is_multiple_of(ALIGN_BYTES));
    }
    assert!(pool.try_acquire(LARGE_BYTES + 1).is_none());
}

#[test]
fn content_moves_with_front_and_tail() {
    let pool = pool();
    let mut buf = pool.try_acquire(10).unwrap();
    assert_eq!(buf.append(b"world"), 5);
    assert!(buf.write_front(b"hello "));
    assert_eq!(buf.as_slice(), b"hello world");
    assert!(!buf.write_front(&[0; FRONT_ROOM_BYTES]));
    buf.consume(6);
    assert!(buf.relocate(100));
    assert_eq!((buf.as_slice(), buf.start()), (&b"world"[..], 100));
    buf.set_len(3);
    assert_eq!(&buf.into_bytes()[..], b"wor");
    let stats = pool.available();
    assert_eq!(stats.small_free, stats.small_total);
}

#[test]
fn append_never_passes_the_capacity() {
    let pool = pool();
    let mut buf = pool.try_acquire(SMALL_BYTES).unwrap();
    assert_eq!(buf.append(&vec![7; 2 * SMALL_BYTES]), SMALL_BYTES);
    assert_eq!((buf.tail_room(), buf.append(b"x")), (0, 0));
}

#[test]
fn fill_tail_and_window_name_the_right_memory() {
    let pool = pool();
    let mut buf = pool.try_acquire(100).unwrap();
    buf.append(b"abc");
    let base = buf.memory().as_ptr() as usize;
    let mut fill = FillTail::new(buf, 10);
    assert_eq!(fill.write_ptr() as usize, base + 8195);
    assert_eq!((fill.bytes_total(), fill.room()), (10, 10));
    let window = Window::new(fill.into_inner(), 4096..8192);
    assert_eq!(window.read_ptr() as usize, base + 4096);
    assert_eq!(window.bytes_init(), 4096);
    assert_eq!(window.into_inner().as_slice(), b"abc");
}

#[test]
fn exhaustion_is_an_answer_within_the_deadline() {
    run(async {
        let pool = pool();
        let held = all_large(&pool);
        assert_eq!(
            pool.acquire(LARGE_BYTES, MOMENT).await.err(),
            Some(Exhausted)
        );
        assert_eq!(
            (pool.available().waiting, pool.available().exhausted_total),
            (0, 1)
        );
        drop(held);
        let stats = pool.available();
        assert_eq!(stats.large_free, stats.large_total);
    });
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    run(async {
        let pool = pool();
        let mut held = all_large(&pool);
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..3)
            .map(|i| {
                let (pool, order) = (pool.clone(), Rc::clone(&order));
                monoio::spawn(async move {
                    let buf = pool.acquire(LARGE_BYTES, SECOND).await.unwrap();
                    order.borrow_mut().push(i);
                    buf
                })
            })
            .collect();
        monoio::time::sleep(MOMENT).await;
        assert_eq!(pool.available().waiting, 3);
        held.pop();
        let mut got = Vec::new();
        for task in tasks {
            got.push(task.await);
            held.pop();
        }
        assert_eq!(*order.borrow(), [0, 1, 2]);
        assert!(pool.try_acquire(LARGE_BYTES).is_none());
    });
}

#[test]
fn a_buffer_handed_to_a_leaver_goes_to_the_next() {
    run(async {
        let pool = pool();
        let mut held = all_large(&pool);
        let first = pool.enter(pool::Class::Large);
        let next = monoio::spawn({
            let pool = pool.clone();
            async move { pool.acquire(LARGE_BYTES, SECOND).await }
        });
        monoio::time::sleep(MOMENT).await;
        held.pop();
        drop(first);
        assert!(next.await.is_ok());
        drop(held);
        let stats = pool.available();
        assert_eq!((stats.large_free, stats.waiting), (stats.large_total, 0));
    });
}

#[test]
fn a_buffer_dropped_on_another_thread_wakes_the_waiter() {
    run(async {
        let pool = pool();
        let held: Vec<_> = all_large(&pool)
            .into_iter()
            .map(PoolBuf::into_bytes)
            .collect();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(MOMENT);
            drop(held);
        });
        assert!(pool.acquire(LARGE_BYTES, 10 * SECOND).await.is_ok());
        thread.join().unwrap();
    });
}

#[test]
fn too_many_waiters_are_refused_at_once() {
    run(async {
        let config = PoolConfig {
            waiters_max: 0,
            ..PoolConfig::new(4 << 20)
        };
        let pool = Pool::new(config).unwrap();
        let _held = all_large(&pool);
        let asked = std::time::Instant::now();
        assert!(pool.acquire(LARGE_BYTES, 10 * SECOND).await.is_err());
        assert!(asked.elapsed() < SECOND);
    });
}

#[test]
fn small_requests_borrow_large_buffers_but_not_all() {
    let pool = Pool::new(PoolConfig::new(16 << 20)).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| pool.try_acquire(1)).collect();
    let stats = pool.available();
    assert_eq!(stats.small_free, 0);
    assert!(taken.len() > stats.small_total);
    assert!(stats.large_free >= 1 && stats.large_free * 4 <= stats.large_total);
}

#[test]
fn a_budget_too_small_is_refused() {
    assert!(matches!(
        Pool::new(PoolConfig::new(1 << 20)),
        Err(PoolError::TooSmall { .. })
    ));
}

#[test]
fn the_budget_is_kept() {
    let stats = Pool::new(PoolConfig::new(64 << 20)).unwrap().available();
    let used = stats.large_total * LARGE_STRIDE_BYTES + stats.small_total * SMALL_STRIDE_BYTES;
    assert!(used <= 64 << 20 && used > 62 << 20);
}
