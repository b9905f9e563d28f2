//! What must hold when the faults are over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::io::DirtyAmount;
use quickwater_engine::{QueueScope, Shared};
use quickwater_proto::*;

use super::content::{bytes_of, content_of_etag};
use super::node::{Node, ORPHAN_PERIOD, ORPHAN_TIMEOUT, begin_background, new_shards, recover};
use super::run::{NAMES, Outside};
use super::ufs::LATE_MAX;
use crate::checker::{Op, linearizable, tagged};
use crate::scenarios::key;

/// Most that the queue may take to drain once nothing fails.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// After this long a sweep judges parts whose commit was unknown.
const COMMIT_SETTLED: Duration = Duration::from_secs(61);

/// What a failed run says: clients saw what no order explains.
pub(super) const HISTORY: &str = "no order of changes explains";
/// A request overtook a later one.
pub(super) const REORDERED: &str = "an older change came after a newer one";
/// The UFS was never told of a change.
pub(super) const NEVER: &str = "never persisted";
/// Nobody sees to the end of an upload.
pub(super) const OPEN: &str = "the UFS keeps uploads for ever";
/// A part that was acked is not there when its upload is completed.
pub(super) const PART_LOST: &str = "a part that was acked is lost";
/// The UFS ends with something else than the last acked version.
pub(super) const LEFT: &str = "the UFS does not hold the last version";

impl Outside {
    /// A process without faults or clients: all reaches the UFS and nothing is
    /// left over.
    pub(super) fn last_life(&self, seed: u64) {
        let shards = new_shards(self);
        let outside = self.clone();
        self.busy.set(1);
        self.sim.spawn(async move {
            let shared = Arc::clone(shards[0].shared());
            recover(&outside, &shared).await;
            outside.set_policies(&shared);
            begin_background(&outside, &shards);
            while outside.complete_parked(&shards[0]).await {}
            outside.drain(&shared, seed).await;
            for name in NAMES {
                outside.read_last(&shards[1], name).await;
            }
            outside.list(&shards[0]).await;
            outside.drain(&shared, seed).await;
            // Long enough for every late request and every look for orphans.
            let longest = LATE_MAX.max(ORPHAN_TIMEOUT) + 3 * ORPHAN_PERIOD;
            outside.sim.sleep(COMMIT_SETTLED + longest).await;
            outside.check_leftovers(seed);
            outside.busy.set(0);
        });
        self.sim.run_while(|| self.busy.get() > 0);
        assert_eq!(self.busy.get(), 0, "seed {seed}: the last life hangs");
    }

    async fn drain(&self, shared: &Shared, seed: u64) {
        let until = self.sim.now() + DRAIN_MAX;
        loop {
            let now = self.sim.now();
            let all = QueueScope::everything();
            let left = shared.persist.page(&all, None, None, 10, now).changes;
            if left.is_empty() {
                return;
            }
            assert!(now < until, "seed {seed}: {NEVER}: {left:?}");
            self.sim.sleep(Duration::from_secs(1)).await;
        }
    }

    /// The last read of a key is part of its history, and the UFS agrees with it.
    async fn read_last(&self, shard: &Node, name: &'static str) {
        let begun = self.sim.now();
        let seen = self.get(shard, name).await.unwrap();
        self.note_at(name, Op::Read(seen), begun);
        let file = self.ufs.file(&key(name)).map(|file| file.content);
        let record = self.metadata.current(&key(name));
        let transient = record.filter(|record| record.persist == PersistState::Transient);
        match transient {
            Some(record) => {
                let own = bytes_of(content_of_etag(&record.etag));
                let empty = own.is_empty();
                assert!(
                    empty || file.is_none_or(|file| file != own),
                    "{name} left us"
                );
            }
            None => {
                let content = seen.map(|seen| seen / tagged(1, 0));
                let same = file.as_deref() == content.map(bytes_of).as_deref();
                assert!(same, "{LEFT} of {name}: {content:?}");
            }
        }
    }

    /// Nothing is kept that nobody names.
    fn check_leftovers(&self, seed: u64) {
        assert_eq!(
            self.disk.reserved(),
            DirtyAmount::default(),
            "seed {seed}: space is kept for ever"
        );
        let rows = (self.metadata.open_uploads(), self.metadata.opened());
        assert_eq!(rows, (vec![], vec![]), "seed {seed}: uploads stay");
        let open = self.ufs.open_uploads_of_all();
        assert!(open.is_empty(), "seed {seed}: {OPEN}: {open:?}");
        let named = self.metadata.named();
        for blob in self.disk.pinned() {
            assert!(
                named.contains(&blob),
                "seed {seed}: {blob} is kept for ever"
            );
        }
    }

    pub(super) fn check(&self, seed: u64) {
        for (name, events) in self.history.borrow().iter() {
            let events: Vec<_> = events
                .iter()
                .filter(|event| !matches!(event.op, Op::Nothing))
                .cloned()
                .collect();
            assert!(
                linearizable(&events, None),
                "seed {seed}: {HISTORY} what was seen of {name}: {events:#?}"
            );
        }
        let mut last: BTreeMap<ObjectKey, (u64, u64)> = BTreeMap::new();
        let journal = self.ufs.journal();
        for applied in &journal {
            let (put, any) = last.entry(applied.key.clone()).or_default();
            // A delete after a newer delete changes nothing.
            let newest = match applied.content {
                Some(_) => *any,
                None => *put,
            };
            assert!(
                newest <= applied.order,
                "seed {seed}: {REORDERED}: {applied:?} in {journal:#?}"
            );
            if applied.content.is_some() {
                *put = applied.order;
            }
            *any = (*any).max(applied.order);
        }
    }
}
