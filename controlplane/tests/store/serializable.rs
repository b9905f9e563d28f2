//! Many transactions at once with faults, and the model, over every engine.

use std::time::Duration;

use quickwater_controlplane::store::{EngineKind, FaultPlan, FaultyStore};

use crate::support::{Kind, open};
use crate::{histories, model};

async fn serializable(kind: Kind, plan: FaultPlan) {
    let fixture = open(kind);
    let store = FaultyStore::new(fixture.store.clone(), plan, 42);
    let histories = histories::run(&store).await;
    histories::check(&fixture.store, histories).await;
}

const FAULTS: FaultPlan = FaultPlan {
    conflict: 20,
    unknown_applied: 40,
    unknown_lost: 40,
    unavailable: 20,
    read_unavailable: 10,
    again: 20,
    delayed: 300,
    delay_max: Duration::from_millis(2),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_is_serializable() {
    serializable(Kind::Memory, FAULTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fjall_is_serializable() {
    serializable(Kind::Disk(EngineKind::Fjall), FAULTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redb_is_serializable() {
    serializable(Kind::Disk(EngineKind::Redb), FAULTS).await;
}

#[test]
fn memory_agrees_with_the_model() {
    model::check(1_500, || open(Kind::Memory));
}

#[test]
fn fjall_agrees_with_the_model() {
    model::check(40, || open(Kind::Disk(EngineKind::Fjall)));
}

#[test]
fn redb_agrees_with_the_model() {
    model::check(40, || open(Kind::Disk(EngineKind::Redb)));
}
