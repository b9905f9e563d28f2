//! New connections go to the shard with the fewest (`sk_reuseport`).

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Map, ReusePortSockArray};
use aya::programs::SkReuseport;
use quickwater_ebpf_shapes::{Balance, DOORS_MAX, SHARDS_MAX, Share, socket_index};

use crate::ledger::Ledger;
use crate::page::Page;
use crate::{Unavailable, object};

/// How often a shard is to call [`ShardLoad::settle`].
pub const SETTLE_PERIOD: Duration = Duration::from_millis(50);

const PROGRAM: &str = "balance";
const VALUE: &str = "BALANCE";
const SOCKETS: &str = "SOCKETS";

/// The attached program. Nothing is pinned: it is gone with the listeners, at the
/// latest when the process ends, and detached when this is dropped.
pub struct Balancer {
    page: Arc<Page<Balance>>,
    /// One listener of each door: the way to its group.
    doors: Vec<TcpListener>,
    _programs: Ebpf,
}

impl Balancer {
    /// Has the program choose among the listeners of each door: one for each shard, in
    /// the order of shards, all of one address and listening.
    ///
    /// # Errors
    /// It does not run, and everything is as before. Needs CAP_BPF until it returns.
    pub fn attach(doors: &[&[TcpListener]]) -> Result<Self, Unavailable> {
        let shards = doors.first().map_or(0, |listeners| listeners.len());
        if shards > SHARDS_MAX || doors.len() > DOORS_MAX {
            let what = "the number of listeners";
            return Err(Unavailable::TooMany { what });
        }
        let (shards, count) = (shards as u32, doors.len() as u32);
        let mut programs = object::open(|loader| {
            loader.override_global("SHARDS", &shards, true);
            loader.override_global("DOORS", &count, true);
        })?;
        fill(&mut programs, doors)?;
        let page = Arc::new(map_value(&programs)?);
        let mut balancer = Balancer {
            page,
            doors: Vec::new(),
            _programs: programs,
        };
        balancer.load_and_attach(doors)?;
        Ok(balancer)
    }

    fn load_and_attach(&mut self, doors: &[&[TcpListener]]) -> Result<(), Unavailable> {
        let found = self._programs.program_mut(PROGRAM);
        let found = found.ok_or(Unavailable::Missing { name: PROGRAM })?;
        let program: &mut SkReuseport = found
            .try_into()
            .map_err(|_| Unavailable::Missing { name: PROGRAM })?;
        program
            .load()
            .map_err(Unavailable::refused("loading the program `balance`"))?;
        for first in doors.iter().filter_map(|listeners| listeners.first()) {
            let handle = first.try_clone();
            let handle = handle.map_err(Unavailable::refused("a handle of a listener"))?;
            program
                .attach(first)
                .map_err(Unavailable::refused("attaching the program `balance`"))?;
            self.doors.push(handle);
        }
        Ok(())
    }

    /// What shard `index` counts with.
    #[must_use]
    pub fn shard(&self, index: usize) -> ShardLoad {
        ShardLoad {
            page: Arc::clone(&self.page),
            index: index % SHARDS_MAX,
            ledger: RefCell::default(),
        }
    }

    /// Connections whose shard the program chose, and those it left to the kernel's
    /// hash, since it was attached.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.page.chosen.load(Relaxed), self.page.left.load(Relaxed))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for door in &self.doors {
            // Refused only if it is not attached any more.
            let _ = SkReuseport::detach(door);
        }
    }
}

fn fill(programs: &mut Ebpf, doors: &[&[TcpListener]]) -> Result<(), Unavailable> {
    let missing = || Unavailable::Missing { name: SOCKETS };
    let map = programs.map_mut(SOCKETS).ok_or_else(missing)?;
    let mut sockets = ReusePortSockArray::try_from(map).map_err(|_| missing())?;
    for (door, listeners) in doors.iter().enumerate() {
        for (shard, listener) in listeners.iter().enumerate() {
            sockets
                .set(socket_index(door, shard), listener, 0)
                .map_err(Unavailable::refused("telling the listeners"))?;
        }
    }
    Ok(())
}

fn map_value(programs: &Ebpf) -> Result<Page<Balance>, Unavailable> {
    let Some(Map::Array(data)) = programs.map(VALUE) else {
        return Err(Unavailable::Missing { name: VALUE });
    };
    Page::map(data.fd()).map_err(Unavailable::refused("sharing memory with the program"))
}

/// One shard's count of its connections, for the program. Belongs to the shard's thread.
pub struct ShardLoad {
    page: Arc<Page<Balance>>,
    index: usize,
    ledger: RefCell<Ledger>,
}

impl ShardLoad {
    /// A connection was accepted; it counts until what is returned is dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Visit {
        self.ledger.borrow_mut().accept();
        Visit(Rc::clone(self))
    }

    /// Settles connections that the program placed and that did not come. To be called
    /// every [`SETTLE_PERIOD`].
    pub fn settle(&self) {
        let placed = self.share().placed.load(Relaxed);
        self.ledger.borrow_mut().look(placed);
        self.publish();
    }

    fn publish(&self) {
        let settled = self.ledger.borrow().settled();
        self.share().settled.store(settled, Relaxed);
    }

    fn share(&self) -> &Share {
        &self.page.shares[self.index]
    }
}

/// A connection of a shard.
pub struct Visit(Rc<ShardLoad>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.ledger.borrow_mut().close();
        self.0.publish();
    }
}
