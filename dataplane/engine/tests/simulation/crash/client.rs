//! What clients ask for, and what they are told.

use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::io::Buffer;
use quickwater_engine::{CompletedUpload, FlowError, ListQuery, NewUpload, PutError, PutObject};
use quickwater_proto::*;

use super::check::PART_LOST;
use super::content::{ContentBody, bytes_of, content_of, etag_of_parts};
use super::node::Node;
use super::run::{NAMES, Outside, Parked};
use crate::checker::{Event, Op, tagged};
use crate::scenarios::key;

impl Outside {
    pub(super) async fn send_requests(&self, shard: &Node) {
        for _ in 0..5 {
            match self.sim.below(4) {
                0 => self.sim.sleep(self.some_time() / 4).await,
                _ => self.sim.jitter().await,
            }
            let name = NAMES[self.sim.below(3) as usize];
            match self.sim.below(17) {
                0..=5 => {
                    let content = self.next_content();
                    let write = self.begin(name, Op::Write(Some(tagged(content, 0))));
                    let result = self.put(shard, name, content).await;
                    self.end(write, result);
                }
                6 | 7 => {
                    let write = self.begin(name, Op::Write(None));
                    let (bucket, key) = (&self.bucket, key(name));
                    let deleted = shard.delete(bucket, &key, &PutCondition::None);
                    self.end(write, deleted.await);
                }
                8..=10 => self.note_read(shard, name).await,
                11 | 12 => self.set_tag(shard, name).await,
                13 => self.list(shard).await,
                14 => {
                    self.complete_parked(shard).await;
                }
                _ => self.put_in_parts(shard, name).await,
            }
        }
    }

    fn next_content(&self) -> u64 {
        self.contents.set(self.contents.get() + 1);
        self.contents.get()
    }

    /// Notes a change whose outcome is unknown until `end`.
    fn begin(&self, name: &'static str, op: Op) -> (&'static str, usize) {
        self.trace.note("begin", &(name, format!("{op:?}")));
        self.writing.borrow_mut().entry(name).or_default().0 += 1;
        let mut history = self.history.borrow_mut();
        let events = history.entry(name).or_default();
        events.push(Event {
            op,
            begun: self.sim.now(),
            ended: None,
        });
        (name, events.len() - 1)
    }

    fn end(&self, (name, at): (&'static str, usize), result: Result<(), FlowError>) {
        self.trace.note("end", &(name, at, format!("{result:?}")));
        if let Some((open, last)) = self.writing.borrow_mut().get_mut(name) {
            *open -= 1;
            *last = self.sim.now();
        }
        let mut history = self.history.borrow_mut();
        let event = &mut history.get_mut(name).unwrap()[at];
        match result {
            Ok(()) => event.ended = Some(self.sim.now()),
            Err(FlowError::Unknown(_) | FlowError::Unsettled(_)) => {}
            // Nothing changed: never happened.
            Err(_) => event.op = Op::Nothing,
        }
    }

    pub(super) async fn put(
        &self,
        shard: &Node,
        name: &str,
        content: u64,
    ) -> Result<(), FlowError> {
        let mut body = ContentBody::whole(content);
        let put = PutObject::default();
        match shard.put(&self.bucket, &key(name), put, &mut body).await {
            Ok(_) => Ok(()),
            Err(PutError::Flow(error)) => Err(error),
            Err(PutError::Body(error)) => panic!("{error}"),
        }
    }

    async fn set_tag(&self, shard: &Node, name: &'static str) {
        let tag = 1 + self.sim.below(900);
        let begun = self.sim.now();
        let write = self.begin(name, Op::Tag(tag));
        let tags = vec![("t".to_owned(), tag.to_string())];
        let result = shard.set_tags(&self.bucket, &key(name), tags).await;
        let absent = result == Err(FlowError::NoSuchKey);
        self.end(write, result);
        if absent {
            self.note_at(name, Op::Read(None), begun);
        }
    }

    /// Two parts that make the object, one sent twice, and one nobody names.
    async fn put_in_parts(&self, shard: &Node, name: &'static str) {
        let mut content = self.next_content();
        // Large ones are what dirty space has no room for.
        let large = self.sim.below(2) == 0;
        while large && bytes_of(content).len() < CHUNK_BYTES as usize {
            content = self.next_content();
        }
        let write = self.begin(name, Op::Write(Some(tagged(content, 0))));
        let uploaded = self.put_parts(shard, name, content).await;
        let (upload, parts) = match uploaded {
            Ok(uploaded) => uploaded,
            // Nothing of it can be seen.
            Err(_) => return self.end(write, Err(FlowError::NoSuchUpload)),
        };
        if self.sim.below(5) == 0 {
            let aborted = shard.abort_upload(&self.bucket, &upload.key, upload.id);
            let _ = aborted.await;
            return self.end(write, Err(FlowError::NoSuchUpload));
        }
        if self.sim.below(3) == 0 {
            self.parked.borrow_mut().push(Parked {
                name,
                content,
                upload,
                parts,
            });
            return self.end(write, Err(FlowError::NoSuchUpload));
        }
        let done = completed(content, parts);
        let result = shard.complete_upload(&self.bucket, &upload, done).await;
        self.judge_complete(&upload, &result);
        self.end(write, result.map(drop));
    }

    /// All parts were acked: an upload may have been swept, but none may be lost.
    fn judge_complete(&self, upload: &UploadRecord, result: &Result<Arc<ObjectRecord>, FlowError>) {
        match result {
            Ok(_)
            | Err(
                FlowError::Unavailable(_)
                | FlowError::SlowDown(_)
                | FlowError::NoRoom(_)
                | FlowError::Fenced(_)
                | FlowError::Unknown(_)
                | FlowError::Unsettled(_),
            ) => {}
            Err(FlowError::NoSuchUpload) => {
                let rows = self.metadata.open_uploads();
                let there = rows.iter().any(|row| row.id == upload.id);
                assert!(!there, "{PART_LOST}: the UFS knows no {upload:?}");
            }
            Err(error) => panic!("{PART_LOST}: {error:?} of {upload:?}"),
        }
    }

    /// Completes an upload whose parts were all acked, maybe by an earlier process;
    /// whether there was one.
    pub(super) async fn complete_parked(&self, shard: &Node) -> bool {
        let Some(parked) = self.parked.borrow_mut().pop() else {
            return false;
        };
        let write = self.begin(parked.name, Op::Write(Some(tagged(parked.content, 0))));
        let done = completed(parked.content, parked.parts);
        let completing = shard.complete_upload(&self.bucket, &parked.upload, done);
        let result = completing.await;
        if result.is_ok() {
            self.trace.note("completed later", &parked.content);
        }
        self.judge_complete(&parked.upload, &result);
        self.end(write, result.map(drop));
        true
    }

    async fn put_parts(
        &self,
        shard: &Node,
        name: &str,
        content: u64,
    ) -> Result<(UploadRecord, Vec<PartRecord>), FlowError> {
        let new = NewUpload::default();
        let upload = shard.create_upload(&self.bucket, &key(name), new).await?;
        let size = bytes_of(content).len();
        let mut parts = Vec::new();
        let sent = [
            (1, 0..size / 2),
            (1, 0..size / 2),
            (2, size / 2..size),
            (3, 0..size),
        ];
        let once = self.sim.below(2) as usize;
        for (number, range) in sent.into_iter().skip(once) {
            let mut body = ContentBody::part(content, range);
            let put = shard.put_part(&self.bucket, &upload, number, &mut body);
            let part = match put.await {
                Ok(part) => part,
                Err(PutError::Flow(error)) => return Err(error),
                Err(PutError::Body(error)) => panic!("{error}"),
            };
            parts.retain(|old: &PartRecord| old.number != number);
            if number < 3 {
                parts.push(part);
            }
        }
        Ok((upload, parts))
    }

    /// Reads a whole object: its content and tag.
    pub(super) async fn get(&self, shard: &Node, name: &str) -> Result<Option<u64>, FlowError> {
        let (bucket, key) = (&self.bucket, key(name));
        let record = match shard.resolve(bucket, &key, false).await {
            Ok(record) => record,
            Err(FlowError::NoSuchKey) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut reader = shard.read(bucket, &key, &record, 0..record.size);
        let mut bytes = Vec::new();
        while let Some(buffer) = reader.next().await? {
            bytes.extend_from_slice(buffer.as_slice());
        }
        let tag = record.tags.iter().find(|(name, _)| name == "t");
        let tag = tag.map_or(0, |(_, tag)| tag.parse().unwrap());
        Ok(Some(tagged(content_of(&record.etag, &bytes), tag)))
    }

    async fn note_read(&self, shard: &Node, name: &'static str) {
        let begun = self.sim.now();
        if let Ok(seen) = self.get(shard, name).await {
            self.note_at(name, Op::Read(seen), begun);
        }
    }

    pub(super) async fn list(&self, shard: &Node) {
        let begun = self.sim.now();
        let query = ListQuery {
            limit: 100,
            ..ListQuery::default()
        };
        let Ok(page) = shard.list(&self.bucket, &query).await else {
            return;
        };
        for name in NAMES {
            // A listing reads the metadata, a GET may read memory: while a write goes
            // on they may differ. What was acked before it began it must show.
            let writing = self.writing.borrow().get(name).copied();
            if writing.is_some_and(|(open, last)| open > 0 || last > begun) {
                continue;
            }
            let listed = page.objects.iter().any(|(key, _)| key.as_str() == name);
            self.note_at(name, Op::Listed(listed), begun);
        }
    }

    /// Notes what was seen since `begun`.
    pub(super) fn note_at(&self, name: &'static str, op: Op, begun: Duration) {
        self.trace.note("saw", &(name, format!("{op:?}")));
        let mut history = self.history.borrow_mut();
        history.entry(name).or_default().push(Event {
            op,
            begun,
            ended: Some(self.sim.now()),
        });
    }
}

fn completed(content: u64, parts: Vec<PartRecord>) -> CompletedUpload {
    CompletedUpload {
        parts,
        etag: etag_of_parts(content),
        checksums: Vec::new(),
        condition: PutCondition::None,
    }
}
