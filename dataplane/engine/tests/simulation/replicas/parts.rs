//! Parts of uploads on several workers: how often they are there before and after the
//! upload is complete, whoever is lost meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_engine::io::{ChunkId, Disk};
use quickwater_engine::{CompletedUpload, Copied, FlowError, NewUpload, PutError};
use quickwater_proto::*;

use super::missing;
use super::world::*;
use crate::scenarios::{ValueBody, content_of, key};
use crate::world::SimBuffer;

/// An upload under way at a worker.
struct Open {
    cluster: Cluster,
    worker: Worker,
    upload: UploadRecord,
    parts: Vec<PartRecord>,
}

/// `a`, which owns all, has an upload open; `b` keeps copies. Nothing of `a` runs by itself yet.
async fn two_with_an_upload(cluster: &Cluster) -> (Worker, Worker, Open) {
    let a = cluster.start("a", false);
    own_all(&a);
    let b = cluster.start("b", false);
    cluster.run(&b);
    let open = Open::begin(cluster, &a).await;
    (a, b, open)
}

impl Open {
    async fn begin(cluster: &Cluster, worker: &Worker) -> Self {
        let name = key("k");
        let begun = worker.create_upload(&cluster.bucket, &name, NewUpload::default());
        Self {
            cluster: cluster.clone(),
            worker: worker.clone(),
            upload: begun.await.unwrap(),
            parts: Vec::new(),
        }
    }

    async fn put(&mut self, number: u16, value: u64) -> Result<PartRecord, FlowError> {
        let mut body = ValueBody::of(self.worker.disk(), value);
        let bucket = &self.cluster.bucket;
        let put = self
            .worker
            .put_part(bucket, &self.upload, number, &mut body);
        let part = match put.await {
            Ok(part) => part,
            Err(PutError::Flow(error)) => return Err(error),
            Err(PutError::Body(error)) => panic!("{error}"),
        };
        self.parts.retain(|one| one.number != number);
        self.parts.push(part.clone());
        Ok(part)
    }

    async fn complete(&self) -> Result<ObjectRecord, FlowError> {
        let done = CompletedUpload {
            parts: self.parts.clone(),
            etag: ETag::new("whole-2"),
            checksums: Vec::new(),
            condition: PutCondition::None,
        };
        let bucket = &self.cluster.bucket;
        let completed = self
            .worker
            .complete_upload(bucket, &self.upload, done)
            .await;
        completed.map(|record| (*record).clone())
    }

    /// Completes it, however often that is refused, within an hour of this world.
    async fn complete_at_last(&self) -> ObjectRecord {
        let end = self.cluster.sim.now() + Duration::from_secs(3_600);
        loop {
            assert!(self.cluster.sim.now() < end, "never completed");
            match self.complete().await {
                Ok(record) => return record,
                Err(FlowError::NotHere(_) | FlowError::Unavailable(_)) => {
                    self.cluster.wait(1).await
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn having(&self) -> Vec<Vec<String>> {
        let parts = self.parts.iter();
        parts
            .map(|part| self.cluster.having(part.blob, part.size))
            .collect()
    }
}

fn named(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.metadata.holders.borrow();
    let mut nodes: Vec<String> = rows[&key("k")]
        .iter()
        .map(|at| at.node.to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

#[test]
fn parts_are_as_safe_as_their_object() {
    in_a_cluster(2, |cluster| async move {
        let (a, _, mut open) = two_with_an_upload(&cluster).await;
        cluster.run(&a);
        for number in [1, 2] {
            open.put(number, number.into()).await.unwrap();
        }
        assert_eq!(open.having(), [["a", "b"], ["a", "b"]]);
        // Nobody lets go of what the row of a part names.
        cluster.wait(600).await;
        assert_eq!(open.having(), [["a", "b"], ["a", "b"]]);
        let c = cluster.start("c", false);
        cluster.run(&c);
        cluster.lose("b");
        cluster
            .until("copied again", || open.having() == [["a", "c"], ["a", "c"]])
            .await;
        let record = open.complete_at_last().await;
        assert_eq!(record.persist, PersistState::NotPersisted);
        cluster.wait(600).await;
        assert_eq!(open.having(), [["a", "c"], ["a", "c"]]);
        assert_eq!(missing(&a), 0);
        // An object of several bodies loses a worker.
        let d = cluster.start("d", false);
        cluster.run(&d);
        cluster.lose("c");
        cluster
            .until("copied again", || open.having() == [["a", "d"], ["a", "d"]])
            .await;
        cluster.until("named", || missing(&a) == 0).await;
        assert_eq!(named(&cluster), ["a", "d"]);
        cluster.wait(600).await;
        assert_eq!(open.having(), [["a", "d"], ["a", "d"]]);
        let both = [content_of(1), content_of(2)].concat();
        assert!(cluster.read(&a, "k").await == both);
    });
}

#[test]
fn an_upload_is_complete_once_all_its_parts_have_their_copies() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let mut open = Open::begin(&cluster, &a).await;
        cluster.run(&a);
        for number in [1, 2] {
            open.put(number, number.into()).await.unwrap();
        }
        // It comes back with nothing, and may not be known to have yet.
        let b = cluster.start("b", true);
        cluster.run(&b);
        let early = open.complete().await.unwrap_err();
        let told = matches!(early, FlowError::NotHere(_) | FlowError::Unavailable(_));
        assert!(told, "{early}");
        open.complete_at_last().await;
        assert_eq!(open.having(), [["a", "b"], ["a", "b"]]);
        assert_eq!(named(&cluster), ["b"]);
    });
}

#[test]
fn what_is_not_needed_any_more_is_kept_by_nobody() {
    in_a_cluster(2, |cluster| async move {
        let (a, b, mut open) = two_with_an_upload(&cluster).await;
        cluster.run(&a);
        open.put(1, 1).await.unwrap();
        let first = open.parts[0].clone();
        open.put(1, 2).await.unwrap();
        open.put(2, 1).await.unwrap();
        cluster
            .until("replaced", || {
                cluster.having(first.blob, first.size).is_empty()
            })
            .await;
        assert_eq!(b.shared().kept.totals().0, 2);
        // A part that the upload is completed without goes; the other one stays.
        let unnamed = open.parts.pop().unwrap();
        open.complete_at_last().await;
        cluster
            .until("left out", || {
                cluster.having(unnamed.blob, unnamed.size).is_empty()
            })
            .await;
        assert_eq!(open.having(), [["a", "b"]]);
        let mut other = Open::begin(&cluster, &a).await;
        other.put(1, 3).await.unwrap();
        a.abort_upload(&cluster.bucket, &key("k"), other.upload.id)
            .await
            .unwrap();
        cluster
            .until("aborted", || other.having() == [Vec::<String>::new()])
            .await;
        assert_eq!(b.shared().kept.totals().0, 1);
        // Without others nothing is taken in, and nothing is left.
        cluster.lose("b");
        let mut alone = Open::begin(&cluster, &a).await;
        let refused = alone.put(1, 1).await.unwrap_err();
        assert!(refused.to_string().contains("2 copies and 1"), "{refused}");
    });
}

#[test]
fn a_part_whose_answer_was_lost_is_completed_with_the_copies_it_has() {
    in_a_cluster(2, |cluster| async move {
        let (a, _, mut open) = two_with_an_upload(&cluster).await;
        cluster.run(&a);
        cluster.metadata.parts_unknown.set(true);
        let lost = open.put(1, 2).await.unwrap_err();
        assert!(matches!(lost, FlowError::Unknown(_)), "{lost}");
        cluster.metadata.parts_unknown.set(false);
        // The client finds it in the list of parts.
        let name = key("k");
        let listed = a.parts(&cluster.bucket, &name, open.upload.id, 0, 9);
        open.parts = listed.await.unwrap();
        let begun = cluster.sim.now();
        open.complete_at_last().await;
        // Long before a sweep looks what became of it.
        assert!(cluster.sim.now() - begun < Duration::from_secs(20));
        assert_eq!(open.having(), [["a", "b"]]);
        assert_eq!(a.shared().stats.copies_made.load(Ordering::Relaxed), 0);
        assert_eq!(named(&cluster), ["b"]);
        cluster.wait(600).await;
        assert_eq!(open.having(), [["a", "b"]]);
    });
}

#[test]
fn what_was_acked_without_copies_gets_them_before_it_is_complete() {
    in_a_cluster(1, |cluster| async move {
        let (a, _, mut open) = two_with_an_upload(&cluster).await;
        cluster.run(&a);
        open.put(1, 1).await.unwrap();
        assert_eq!(open.having(), [["a"]]);
        ask_for(&a, 2);
        open.put(2, 2).await.unwrap();
        let early = open.complete().await.unwrap_err();
        assert!(matches!(early, FlowError::NotHere(_)), "{early}");
        open.complete_at_last().await;
        assert_eq!(open.having(), [["a", "b"], ["a", "b"]]);
        assert_eq!(named(&cluster), ["b"]);
        cluster.until("known", || missing(&a) == 0).await;
        // Nothing is lost with either.
        let c = cluster.start("c", false);
        cluster.run(&c);
        cluster.lose("b");
        cluster
            .until("copied again", || open.having() == [["a", "c"], ["a", "c"]])
            .await;
    });
}

/// The worker `a`, which owns all keys, and an upload whose part `b` and `c` have, too.
async fn part_on_three(cluster: &Cluster) -> (Worker, Open) {
    let a = cluster.start("a", false);
    own_all(&a);
    for name in ["b", "c"] {
        let worker = cluster.start(name, false);
        cluster.run(&worker);
    }
    cluster.run(&a);
    let mut open = Open::begin(cluster, &a).await;
    open.put(1, 1).await.unwrap();
    (a, open)
}

#[test]
fn who_is_not_named_any_more_does_not_count() {
    in_a_cluster(3, |cluster| async move {
        let (a, open) = part_on_three(&cluster).await;
        assert_eq!(open.having(), [["a", "b", "c"]]);
        // It is complete with two copies, while one of three is away.
        cluster.lose("c");
        cluster.wait(5).await;
        ask_for(&a, 2);
        open.complete_at_last().await;
        assert_eq!(named(&cluster), ["b"]);
        cluster.find("c");
        cluster
            .until("let go", || open.having() == [["a", "b"]])
            .await;
        cluster.lose("b");
        cluster
            .until("copied again", || open.having() == [["a", "c"]])
            .await;
        cluster.wait(600).await;
        assert_eq!(open.having(), [["a", "c"]]);
    });
}

#[test]
fn a_copy_named_while_the_upload_is_completed_counts_only_if_that_names_it() {
    in_a_cluster(3, |cluster| async move {
        let (a, open) = part_on_three(&cluster).await;
        // A third copy is made, and the answer to that is late.
        let late = Duration::from_secs(20);
        cluster.metadata.part_named_late.set(late);
        let d = cluster.start("d", false);
        cluster.run(&d);
        cluster.lose("c");
        let (named_in_row, answered) = {
            let calls = &cluster.metadata.parts_named;
            (|| calls.get().0 == 1, || calls.get().1 == 1)
        };
        cluster.until("its row says so", named_in_row).await;
        ask_for(&a, 2);
        open.complete_at_last().await;
        cluster.until("that is answered", answered).await;
        cluster.wait(600).await;
        let counted = a.shared().holders.of(open.parts[0].blob);
        let counted: Vec<String> = counted.iter().map(|at| at.node.to_string()).collect();
        assert_eq!((counted, missing(&a)), (named(&cluster), 0));
        // Whoever is counted on has it: one that nothing names lets go of it in its next
        // session.
        cluster.next_session("d");
        d.shared().kept.fence(cluster.sim.now());
        cluster.wait(600).await;
        cluster.lose("b");
        cluster
            .until("two copies", || {
                missing(&a) == 0 && open.having()[0].len() == 2
            })
            .await;
        cluster.wait(600).await;
        assert_eq!(open.having(), [["a", "d"]]);
        assert!(named(&cluster).contains(&"d".to_owned()));
    });
}

/// The row of an object names who has any of its bodies: that one of these workers is there
/// says nothing of the others' bodies.
#[test]
fn a_body_that_went_with_its_holders_is_lost_whoever_has_the_others() {
    in_a_cluster(2, |cluster| async move {
        let (a, _, mut open) = two_with_an_upload(&cluster).await;
        open.put(1, 1).await.unwrap();
        let c = cluster.start("c", false);
        cluster.run(&c);
        cluster.cut("b", true);
        open.put(2, 2).await.unwrap();
        cluster.cut("b", false);
        cluster.run(&a);
        open.complete_at_last().await;
        assert_eq!(open.having(), [["a", "b"], ["a", "c"]]);
        assert_eq!(named(&cluster), ["b", "c"]);
        // Another takes the key; who had it is gone, and so is all that has the first part.
        for name in ["a", "b"] {
            cluster.lose(name);
        }
        let d = cluster.start("d", false);
        own_all(&d);
        for part in &open.parts {
            d.shared().holders.note_row(part.blob, of_both(part), false);
        }
        cluster.run(&d);
        let second = size_of(1)..size_of(1) + size_of(2);
        let read = async |range| first_of(&cluster, &d, range).await;
        let unread = read(0..1).await.unwrap_err();
        assert!(matches!(unread, FlowError::NotHere(_)), "{unread}");
        let removed = [node("a"), node("b")];
        cluster.metadata.removed.borrow_mut().extend(removed);
        let end = cluster.sim.now() + Duration::from_secs(3_600);
        while read(0..1).await.unwrap_err() != FlowError::Lost {
            assert!(cluster.sim.now() < end, "never known to be lost");
            cluster.wait(1).await;
        }
        read(second.clone()).await.unwrap();
        // It is asked again when it was away: it may have another disk.
        cluster.next_session("c");
        let unread = read(0..1).await.unwrap_err();
        assert!(matches!(unread, FlowError::NotHere(_)), "{unread}");
        cluster.wait(30).await;
        assert_eq!(read(0..1).await.unwrap_err(), FlowError::Lost);
        // Who was taken for lost by mistake brings it back.
        cluster.next_session("b");
        cluster.find("b");
        cluster.metadata.removed.borrow_mut().pop();
        let end = cluster.sim.now() + Duration::from_secs(3_600);
        while read(0..1).await.is_err() {
            assert!(cluster.sim.now() < end, "never read again");
            cluster.wait(1).await;
        }
    });
}

#[test]
fn an_upload_whose_part_went_with_its_holders_is_told_so() {
    in_a_cluster(2, |cluster| async move {
        let (_, _, mut open) = two_with_an_upload(&cluster).await;
        open.put(1, 1).await.unwrap();
        for name in ["a", "b"] {
            cluster.lose(name);
        }
        let d = cluster.start("d", false);
        own_all(&d);
        cluster.run(&d);
        open.worker = d.clone();
        for _ in 0..2 {
            let early = open.complete().await.unwrap_err();
            assert!(matches!(early, FlowError::NotHere(_)), "{early}");
            // One of them may still come back.
            cluster.metadata.removed.borrow_mut().push(node("b"));
        }
        cluster.metadata.removed.borrow_mut().push(node("a"));
        assert_eq!(open.complete().await.unwrap_err(), FlowError::Lost);
        // Uploaded again it is as good as any.
        let c = cluster.start("c", false);
        cluster.run(&c);
        open.put(1, 2).await.unwrap();
        open.complete_at_last().await;
        assert_eq!(open.having(), [["c", "d"]]);
    });
}

/// The body of a part as the row of its object tells of it.
fn of_both(part: &PartRecord) -> Copied {
    let others = ["a", "b", "c"].map(|name| CopyAt {
        node: node(name),
        session: 0,
    });
    Copied {
        bucket: BucketId(1),
        key: key("k"),
        part: None,
        bytes: part.size,
        copies: 2,
        others: others.into(),
    }
}

/// What a worker gives first of a range of `k`.
async fn first_of(
    cluster: &Cluster,
    worker: &Worker,
    range: std::ops::Range<u64>,
) -> Result<(), FlowError> {
    let name = key("k");
    let record = worker.resolve(&cluster.bucket, &name, false).await?;
    let mut reader = worker.read(&cluster.bucket, &name, &record, range);
    reader.next().await.map(drop)
}

#[test]
fn what_came_for_another_is_not_let_go_once_it_is_ours() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        let b = cluster.start("b", false);
        let of = |blob| CopyOf {
            bucket: cluster.bucket.id,
            key: key("k"),
            blob: BlobId(blob),
            part: None,
            owner: None,
        };
        let copied = || Copied {
            bucket: cluster.bucket.id,
            key: key("k"),
            part: None,
            bytes: 10,
            copies: 2,
            others: [CopyAt {
                node: node("b"),
                session: 1,
            }]
            .into(),
        };
        // The key becomes ours while one copy is on its way and another one is whole.
        let body = || SimBuffer(vec![7; 10]);
        let mut whole = a.keep_copy(of(1), 10).unwrap();
        whole.write(body()).await.unwrap();
        let mut broken = a.keep_copy(of(2), 10).unwrap();
        broken.write(body()).await.unwrap();
        for blob in [1, 2] {
            a.shared().holders.note(BlobId(blob), copied());
        }
        own_all(&a);
        drop(broken);
        whole.finish(SimBuffer(vec![1])).await.unwrap();
        // The owner of before says that it does not commit it.
        a.look_at_copies(&[BlobId(1)]);
        cluster.run(&b);
        let keeper = a.clone();
        let (sim, end) = (cluster.sim.clone(), Duration::from_secs(600));
        let story = cluster.sim.clone();
        story.spawn(async move { keeper.run_copy_keeper(|| sim.now() > end).await });
        cluster.wait(300).await;
        for blob in [BlobId(1), BlobId(2)] {
            assert!(a.disk().keeps(ChunkId { blob, index: 0 }), "{blob}");
        }
        assert_eq!(a.shared().kept.totals(), (0, 0));
    });
}

/// `c`, the only one of its zone, comes when two have all: until it has all, too, and a row
/// says so.
async fn until_in_another_zone(cluster: &Cluster, a: &Worker, open: &Open) {
    let c = cluster.start("c", false);
    cluster.place("c", "2");
    cluster.run(&c);
    let made = || a.shared().stats.copies_made.load(Ordering::Relaxed);
    cluster.until("copied", || made() == 2).await;
    let misplaced = || a.shared().holders.misplaced() + missing(a);
    cluster.until("known", || misplaced() == 0).await;
    let all = ["a", "b", "c"];
    assert_eq!(open.having(), [all, all]);
    // It keeps what rows name.
    cluster.wait(600).await;
    assert_eq!(open.having(), [all, all]);
    assert_eq!((made(), misplaced()), (2, 0));
}

#[test]
fn parts_of_an_upload_get_into_a_zone_that_came_later() {
    in_a_cluster(2, |cluster| async move {
        let (a, _, mut open) = two_with_an_upload(&cluster).await;
        cluster.run(&a);
        for number in [1, 2] {
            open.put(number, number.into()).await.unwrap();
        }
        until_in_another_zone(&cluster, &a, &open).await;
        open.complete_at_last().await;
        assert!(named(&cluster).contains(&"c".to_owned()));
    });
}

#[test]
fn bodies_of_an_object_get_into_a_zone_that_came_later() {
    in_a_cluster(2, |cluster| async move {
        let (a, _, mut open) = two_with_an_upload(&cluster).await;
        cluster.run(&a);
        for number in [1, 2] {
            open.put(number, number.into()).await.unwrap();
        }
        open.complete_at_last().await;
        until_in_another_zone(&cluster, &a, &open).await;
        assert!(named(&cluster).contains(&"c".to_owned()));
    });
}
