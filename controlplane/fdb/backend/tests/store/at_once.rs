//! Many transactions at once, and the model, with every fault a cluster has.

use std::time::Duration;

use crate::support::{Kind, is_real, open};
use crate::{histories, model};

/// Longest that a commit is applied after its answer, milliseconds.
const LATE_MS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_with_faults_are_serializable() {
    if is_real() {
        return;
    }
    for seed in 1..=4 {
        let fixture = open(Kind::Plain);
        fixture.faults(&format!(
            "seed={seed} conflict=20 unknown_applied=30 unknown_lost=30 timeout_applied=10 \
             timeout_lost=10 timeout_late=20 cancelled_applied=10 cancelled_lost=10 \
             cancelled_late=20 changed_applied=10 changed_lost=10 too_old=5 behind=10 \
             throttled=10 future=5 changed=5 delay=200 delay_ms=3 stall=10 stall_ms=3 \
             page_rows=4 late_ms={LATE_MS}"
        ));
        let histories = histories::run(&fixture.store).await;
        assert!(fixture.counts().faults > 50);
        fixture.faults("");
        tokio::time::sleep(Duration::from_millis(2 * LATE_MS)).await;
        histories::check(&fixture.store, histories).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_are_serializable() {
    let fixture = open(Kind::Slow);
    let histories = histories::run(&fixture.store).await;
    histories::check(&fixture.store, histories).await;
}

#[test]
fn it_agrees_with_the_model() {
    model::check(if is_real() { 20 } else { 300 }, || open(Kind::Plain));
}
