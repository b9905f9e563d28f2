//! A few workers that keep copies for each other: each with a store of its own and an
//! engine over it, one metadata. Absent: sockets, frames, who owns what.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::*;
use quickwater_engine::{
    DeletesBelow, Engine, FlowError, KeptCopy, PutError, PutObject, Shared, World,
};
use quickwater_proto::*;

use crate::scenarios::{ValueBody, config, content_of, key, setup};
use crate::world::*;

pub struct CopyWorld;

impl World for CopyWorld {
    type Disk = SimDisk;
    type Ufs = SimUfs;
    type Metadata = SimMetadata;
    type Environment = SimEnvironment;
    type Peers = SimPeers;
}

pub type Worker = Engine<CopyWorld>;

/// A worker as the others see it.
struct Seat {
    neighbour: Neighbour,
    engine: Worker,
    /// Calls to it fail.
    cut: bool,
    /// Bodies it was asked for, and the messages they came in.
    asked: (usize, usize),
}

type Seats = Rc<RefCell<BTreeMap<NodeId, Seat>>>;

/// The others, as one of them sees them.
#[derive(Clone)]
pub struct SimPeers {
    node: NodeId,
    seats: Seats,
}

fn cut() -> FlowError {
    FlowError::Unavailable("nobody there".into())
}

impl SimPeers {
    fn engine(&self, node: &NodeId) -> Result<(Worker, u64), FlowError> {
        let seats = self.seats.borrow();
        let seat = seats.get(node).filter(|seat| !seat.cut).ok_or_else(cut)?;
        Ok((seat.engine.clone(), seat.neighbour.session))
    }

    fn own(&self) -> CopyAt {
        CopyAt {
            node: self.node.clone(),
            session: self.seats.borrow()[&self.node].neighbour.session,
        }
    }
}

/// Copies on their way.
pub struct SimCopies {
    copies: Vec<(NodeId, KeptCopy<CopyWorld>)>,
    peers: SimPeers,
    owner: CopyAt,
}

fn buffer(bytes: &[u8]) -> SimBuffer {
    SimBuffer(bytes.to_vec())
}

impl Copies for SimCopies {
    async fn send(&mut self, chunk: Bytes) -> Result<(), FlowError> {
        for (node, copy) in &mut self.copies {
            self.peers.engine(node)?;
            copy.write(buffer(&chunk)).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, entry: Bytes) -> Result<Vec<CopyAt>, FlowError> {
        let mut finished = Vec::new();
        for (node, copy) in self.copies.drain(..) {
            let session = self.peers.engine(&node)?.1;
            copy.finish(buffer(&entry)).await?;
            finished.push(CopyAt { node, session });
        }
        Ok(finished)
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.copies.iter().map(|(node, _)| node.clone()).collect()
    }

    fn owner(&self) -> Option<CopyAt> {
        Some(self.owner.clone())
    }
}

impl Peers for SimPeers {
    type Copies = SimCopies;

    async fn copy(
        &self,
        (bucket, key): (&Bucket, &ObjectKey),
        body: CopyBody,
        copies: usize,
        not: &[NodeId],
    ) -> Result<SimCopies, FlowError> {
        let mut begun = Vec::new();
        for other in self.others() {
            if begun.len() == copies || !other.live || other.draining || not.contains(&other.node) {
                continue;
            }
            let of = CopyOf {
                bucket: bucket.id,
                key: key.clone(),
                blob: body.blob,
                part: body.part,
                owner: Some(self.own()),
            };
            let engine = self.engine(&other.node);
            if let Ok(copy) = engine.and_then(|(engine, _)| engine.keep_copy(of, body.bytes)) {
                let copy = match body.bare {
                    true => copy.without_entry(),
                    false => copy,
                };
                begun.push((other.node, copy));
            }
        }
        match begun.len() == copies {
            true => Ok(SimCopies {
                copies: begun,
                peers: self.clone(),
                owner: self.own(),
            }),
            false => Err(FlowError::TooFewWorkers {
                wanted: copies + 1,
                possible: begun.len() + 1,
            }),
        }
    }

    async fn fetch(
        &self,
        node: &NodeId,
        chunk: ChunkId,
        range: Range<u32>,
        into: &mut [u8],
    ) -> Result<bool, FlowError> {
        let engine = self.engine(node)?.0;
        let found = engine.read_copy(chunk, range).await?;
        match found {
            Some(found) if found.as_slice().len() == into.len() => {
                into.copy_from_slice(found.as_slice());
                Ok(true)
            }
            Some(_) => Err(FlowError::NotHere("other bytes than were asked for")),
            None => Ok(false),
        }
    }

    async fn look_at_copies(&self, node: &NodeId, blobs: &[BlobId]) -> Result<(), FlowError> {
        self.engine(node)?.0.look_at_copies(blobs);
        Ok(())
    }

    async fn has_copies(
        &self,
        node: &NodeId,
        blobs: &[(BlobId, u64)],
    ) -> Result<Vec<BlobId>, FlowError> {
        let engine = self.engine(node)?.0;
        if let Some(seat) = self.seats.borrow_mut().get_mut(node) {
            seat.asked = (seat.asked.0 + blobs.len(), seat.asked.1 + 1);
        }
        let has = blobs
            .iter()
            .filter(|(blob, bytes)| engine.confirm_copy(*blob, *bytes));
        Ok(has.map(|(blob, _)| *blob).collect())
    }

    fn others(&self) -> Vec<Neighbour> {
        let seats = self.seats.borrow();
        let others = seats.values().map(|seat| seat.neighbour.clone());
        others.filter(|one| one.node != self.node).collect()
    }

    fn zone(&self) -> Option<String> {
        Some(self.seats.borrow()[&self.node].neighbour.zone.clone())
    }

    fn itself(&self) -> Option<CopyAt> {
        Some(self.own())
    }

    async fn look_again(&self, _: &Bucket, _: Vec<ObjectKey>) -> Result<(), FlowError> {
        Ok(())
    }

    async fn deletes_below(&self, _: &Bucket, _: &str) -> DeletesBelow {
        DeletesBelow::none()
    }

    fn table(&self) -> u64 {
        0
    }

    async fn settle_bucket(&self, _: &Bucket) -> Result<(), FlowError> {
        Ok(())
    }
}

/// No object here is large enough for stripes.
impl StripePeers<SimBuffer> for SimPeers {
    fn owner_elsewhere(&self, _: usize) -> Option<NodeId> {
        None
    }

    async fn read_stripe(
        &self,
        _: &NodeId,
        _: &StripeRead<'_>,
        _: Option<SimBuffer>,
    ) -> Result<Given<SimBuffer>, StripeError> {
        Err(StripeError::Unreached("no stripes".into()))
    }

    async fn count_chunks(&self, _: &NodeId, _: &[ChunkRun]) -> Result<u64, FlowError> {
        Ok(0)
    }

    async fn forget_chunks(&self, _: &NodeId, _: &[ChunkRun]) -> Result<Vec<u64>, FlowError> {
        Ok(Vec::new())
    }
}

/// All workers, the metadata, and time.
#[derive(Clone)]
pub struct Cluster {
    pub sim: quickwater_simulation::Sim,
    pub metadata: SimMetadata,
    pub bucket: Arc<Bucket>,
    ufs: SimUfs,
    disk: SimDisk,
    seats: Seats,
    stopped: Rc<Cell<bool>>,
    copies: u8,
}

fn policy(copies: u8) -> PolicyTable {
    let policy = PathPolicy {
        mode: PolicyMode::WriteBack,
        write_replicas: copies,
        ..PathPolicy::default()
    };
    let rules = [("/sim/**".to_owned(), policy)];
    PolicyTable::new(PathPolicy::default(), rules).unwrap()
}

/// From now on a worker is asked for so many copies.
pub fn ask_for(worker: &Worker, copies: u8) {
    worker.shared().policies.replace(2, policy(copies));
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

impl Cluster {
    fn engine(&self, name: &str, disk: SimDisk) -> Worker {
        let shared = Shared::leased(config());
        shared.rights.grant(Duration::from_secs(1_000_000));
        shared.policies.replace(1, policy(self.copies));
        let peers = SimPeers {
            node: node(name),
            seats: Rc::clone(&self.seats),
        };
        let environment = SimEnvironment(self.sim.clone());
        let mut metadata = self.metadata.clone();
        metadata.node = Some(node(name));
        Engine::new(shared, disk, self.ufs.clone(), metadata, environment, peers)
    }

    /// A worker in its next session, with what its disk had, or `wiped`. The first one
    /// owns all keys.
    pub fn start(&self, name: &str, wiped: bool) -> Worker {
        let id = node(name);
        let before = self.seats.borrow_mut().remove(&id);
        let session = before.as_ref().map_or(1, |seat| seat.neighbour.session + 1);
        let zone = before.as_ref().map(|seat| seat.neighbour.zone.clone());
        let disk = match before {
            Some(seat) if !wiped => seat.engine.disk().clone(),
            _ => SimDisk {
                chunks: Rc::default(),
                ..self.disk.clone()
            },
        };
        let engine = self.engine(name, disk);
        let neighbour = Neighbour {
            node: id.clone(),
            address: String::new(),
            zone: zone.unwrap_or_default(),
            capacity_bytes: 1,
            session,
            live: true,
            draining: false,
        };
        let seat = Seat {
            neighbour,
            engine: engine.clone(),
            cut: false,
            asked: (0, 0),
        };
        self.seats.borrow_mut().insert(id.clone(), seat);
        self.metadata.sessions.borrow_mut().insert(id, session);
        engine
    }

    /// A worker registers anew; nothing else of it changes.
    pub fn next_session(&self, name: &str) {
        self.change(name, |seat| seat.neighbour.session += 1);
        let mut sessions = self.metadata.sessions.borrow_mut();
        *sessions.get_mut(&node(name)).unwrap() += 1;
    }

    /// A worker is in a zone from now on.
    pub fn place(&self, name: &str, zone: &str) {
        self.change(name, |seat| seat.neighbour.zone = zone.into());
    }

    /// A worker is gone, and known to be.
    pub fn lose(&self, name: &str) {
        self.change(name, |seat| {
            seat.cut = true;
            seat.neighbour.live = false;
        });
    }

    /// A worker that was gone is there again, as it was.
    pub fn find(&self, name: &str) {
        self.change(name, |seat| {
            seat.cut = false;
            seat.neighbour.live = true;
        });
    }

    /// Calls to a worker fail, or not any more; nobody knows.
    pub fn cut(&self, name: &str, cut: bool) {
        self.change(name, |seat| seat.cut = cut);
    }

    /// A worker is to keep nothing from now on, or may again.
    pub fn drain(&self, name: &str, draining: bool) {
        self.change(name, |seat| {
            seat.neighbour.draining = draining;
            seat.engine.shared().drain(draining);
        });
    }

    fn change(&self, name: &str, how: impl FnOnce(&mut Seat)) {
        how(self.seats.borrow_mut().get_mut(&node(name)).unwrap());
    }

    /// Bodies a worker was asked for, and messages they came in.
    pub fn asked(&self, name: &str) -> (usize, usize) {
        self.seats.borrow()[&node(name)].asked
    }

    /// Whose disk has a body whole, of those that are there.
    pub fn having(&self, blob: BlobId, bytes: u64) -> Vec<String> {
        let seats = self.seats.borrow();
        let having = seats
            .values()
            .filter(|seat| !seat.cut && seat.engine.has_copy(blob, bytes));
        having.map(|seat| seat.neighbour.node.to_string()).collect()
    }

    /// Runs the copier and the keeper of a worker till the end of the story.
    pub fn run(&self, worker: &Worker) {
        let (one, two) = (worker.clone(), worker.clone());
        let (stop, stopped) = (Rc::clone(&self.stopped), Rc::clone(&self.stopped));
        self.sim
            .spawn(async move { one.run_copier(|| stop.get()).await });
        self.sim
            .spawn(async move { two.run_copy_keeper(|| stopped.get()).await });
    }

    pub async fn put(
        &self,
        worker: &Worker,
        name: &str,
        value: u64,
    ) -> Result<ObjectRecord, FlowError> {
        let body = ValueBody::of(worker.disk(), value);
        self.put_body(worker, name, body).await
    }

    pub async fn put_empty(&self, worker: &Worker, name: &str) -> Result<ObjectRecord, FlowError> {
        let body = ValueBody::empty(worker.disk());
        self.put_body(worker, name, body).await
    }

    async fn put_body(
        &self,
        worker: &Worker,
        name: &str,
        mut body: ValueBody,
    ) -> Result<ObjectRecord, FlowError> {
        let put = PutObject::default();
        match worker.put(&self.bucket, &key(name), put, &mut body).await {
            Ok(record) => Ok((*record).clone()),
            Err(PutError::Flow(error)) => Err(error),
            Err(PutError::Body(error)) => panic!("{error}"),
        }
    }

    /// Waits, at most an hour of this world, until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = self.sim.now() + Duration::from_secs(3_600);
        while !holds() {
            assert!(self.sim.now() < end, "never: {what}");
            self.sim.sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn wait(&self, seconds: u64) {
        self.sim.sleep(Duration::from_secs(seconds)).await;
    }

    /// What a worker reads of a key.
    pub async fn read(&self, worker: &Worker, name: &str) -> Vec<u8> {
        let record = worker
            .resolve(&self.bucket, &key(name), false)
            .await
            .unwrap();
        let mut reader = worker.read(&self.bucket, &key(name), &record, 0..record.size);
        let mut bytes = Vec::new();
        while let Some(buffer) = reader.next().await.unwrap() {
            bytes.extend_from_slice(buffer.as_slice());
        }
        bytes
    }
}

/// Tells a story of workers that ask for so many copies.
pub fn in_a_cluster<F: Future<Output = ()> + 'static>(
    copies: u8,
    story: impl FnOnce(Cluster) -> F,
) {
    let setup = setup(1, Faults::default(), 10_000);
    let cluster = Cluster {
        sim: setup.sim.clone(),
        metadata: setup.metadata.clone(),
        bucket: Arc::clone(&setup.bucket),
        ufs: setup.ufs.clone(),
        disk: setup.disk.clone(),
        seats: Rc::default(),
        stopped: Rc::default(),
        copies,
    };
    let buckets = &setup.metadata.buckets;
    let row = (*setup.bucket).clone();
    buckets.borrow_mut().insert(row.name.clone(), row);
    let story = story(cluster.clone());
    let told = Rc::new(Cell::new(false));
    let (end, stopped) = (Rc::clone(&told), Rc::clone(&cluster.stopped));
    setup.sim.spawn(async move {
        story.await;
        stopped.set(true);
        end.set(true);
    });
    setup.sim.run();
    assert!(told.get(), "to its end");
    cluster.seats.borrow_mut().clear();
}

pub fn size_of(value: u64) -> u64 {
    content_of(value).len() as u64
}

/// A worker that owns all keys.
pub fn own_all(worker: &Worker) {
    (0..SLOTS).for_each(|slot| worker.shared().rights.set(slot, true));
}
