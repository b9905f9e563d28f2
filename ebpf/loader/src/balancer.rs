//! New connections go to the shard with the fewest (`sk_reuseport`).

use std::borrow::BorrowMut;
use std::cell::RefCell;
use std::error::Error;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Map, MapData, ReusePortSockArray};
use aya::programs::{SkReuseport, SkReuseportAttachType};
use quickwater_ebpf_shapes::{Balance, DOORS_MAX, SHARDS_MAX, Share, socket_index};

use crate::ledger::Ledger;
use crate::page::Page;
use crate::pinned::{self, Claim, Pins};
use crate::{Unavailable, object};

/// How often a shard is to call [`ShardLoad::settle`].
pub const SETTLE_PERIOD: Duration = Duration::from_millis(50);

const PROGRAM: &str = "balance";
const VALUE: &str = "BALANCE";
const SOCKETS: &str = "SOCKETS";

/// The attached program: gone with the listeners, at the latest when the process ends, and
/// detached when this is dropped.
pub struct Balancer {
    page: Arc<Page<Balance>>,
    /// Before what it hangs on: detached first.
    _doors: Doors,
    _hold: Hold,
}

/// What has to live as long as the program chooses.
#[expect(dead_code, reason = "held")]
enum Hold {
    Loaded(Ebpf),
    Pinned(Box<SkReuseport>, Claim),
}

impl Balancer {
    /// Has the program choose among the listeners of each door: one for each shard, in
    /// the order of shards, all of one address and listening.
    ///
    /// # Errors
    /// It does not run, and everything is as before. Needs CAP_BPF and
    /// CAP_PERFMON until it returns.
    pub fn attach(doors: &[&[TcpListener]]) -> Result<Self, Unavailable> {
        let (shards, count) = size(doors)?;
        let mut programs = load(shards, count)?;
        fill(sockets(&mut programs)?, doors)?;
        let page = Arc::new(map_value(&programs)?);
        let doors = Doors::attach(program(&mut programs)?, doors)?;
        Ok(Balancer {
            page,
            _doors: doors,
            _hold: Hold::Loaded(programs),
        })
    }

    /// The same with the program that [`Self::pin`] left. Needs no capability, only the
    /// files.
    ///
    /// # Errors
    /// It is not there for these doors, or another process uses it, or the kernel refuses;
    /// everything is as before.
    pub fn open(pins: &Pins, doors: &[&[TcpListener]]) -> Result<Self, Unavailable> {
        let (shards, count) = size(doors)?;
        let (path, claim) = pins.claim(&name(shards, count))?;
        let map = MapData::from_pin(path.join(SOCKETS)).map_err(opened)?;
        let map = Map::from_map_data(map).map_err(opened)?;
        fill(ReusePortSockArray::try_from(map).map_err(opened)?, doors)?;
        let page = MapData::from_pin(path.join(VALUE)).map_err(opened)?;
        let page: Page<Balance> = Page::map(page.fd()).map_err(opened)?;
        // What the process before this one had open is closed.
        for share in &page.shares {
            share.placed.store(0, Relaxed);
            share.settled.store(0, Relaxed);
        }
        let select = SkReuseportAttachType::Select;
        let program = SkReuseport::from_pin(path.join(PROGRAM), select).map_err(opened)?;
        Ok(Balancer {
            page: Arc::new(page),
            _doors: Doors::attach(&program, doors)?,
            _hold: Hold::Pinned(Box::new(program), claim),
        })
    }

    /// Loads the program for so many shards and doors, and leaves it to the worker that
    /// will have these.
    ///
    /// # Errors
    /// The kernel refuses. Needs CAP_BPF and CAP_PERFMON.
    pub fn pin(pins: &Pins, shards: usize, doors: usize) -> Result<(), Unavailable> {
        bound(shards, doors)?;
        let mut programs = load(shards, doors)?;
        let path = pins.make(&name(shards, doors))?;
        program(&mut programs)?
            .pin(path.join(PROGRAM))
            .map_err(unpinned)?;
        for name in [VALUE, SOCKETS] {
            let map = programs.map(name).ok_or(Unavailable::Missing { name })?;
            map.pin(path.join(name)).map_err(unpinned)?;
        }
        pinned::share(&path).map_err(unpinned)
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
    /// hash, since it was loaded.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.page.chosen.load(Relaxed), self.page.left.load(Relaxed))
    }
}

/// One listener of each door: the way to its group. Dropped, the program is detached.
struct Doors(Vec<TcpListener>);

impl Doors {
    fn attach(program: &SkReuseport, doors: &[&[TcpListener]]) -> Result<Self, Unavailable> {
        let mut own = Doors(Vec::new());
        for first in doors.iter().filter_map(|listeners| listeners.first()) {
            let handle = first.try_clone();
            let handle = handle.map_err(Unavailable::refused("a handle of a listener"))?;
            program
                .attach(first)
                .map_err(Unavailable::refused("attaching the program `balance`"))?;
            own.0.push(handle);
        }
        Ok(own)
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        for door in &self.0 {
            // Refused only if it is not attached any more.
            let _ = SkReuseport::detach(door);
        }
    }
}

fn opened<E: Error>(error: E) -> Unavailable {
    Unavailable::refused("opening what is pinned")(error)
}

fn unpinned<E: Error>(error: E) -> Unavailable {
    Unavailable::refused("pinning the program `balance`")(error)
}

/// Shards and doors.
fn size(doors: &[&[TcpListener]]) -> Result<(usize, usize), Unavailable> {
    let shards = doors.first().map_or(0, |listeners| listeners.len());
    bound(shards, doors.len())?;
    Ok((shards, doors.len()))
}

fn bound(shards: usize, doors: usize) -> Result<(), Unavailable> {
    let what = "the number of listeners";
    match shards > SHARDS_MAX || doors > DOORS_MAX {
        true => Err(Unavailable::TooMany { what }),
        false => Ok(()),
    }
}

fn name(shards: usize, doors: usize) -> String {
    format!("balance-{shards}x{doors}")
}

fn load(shards: usize, doors: usize) -> Result<Ebpf, Unavailable> {
    let (shards, doors) = (shards as u32, doors as u32);
    let mut programs = object::open(|loader| {
        loader.override_global("SHARDS", &shards, true);
        loader.override_global("DOORS", &doors, true);
    })?;
    program(&mut programs)?
        .load()
        .map_err(Unavailable::refused("loading the program `balance`"))?;
    Ok(programs)
}

fn program(programs: &mut Ebpf) -> Result<&mut SkReuseport, Unavailable> {
    let missing = || Unavailable::Missing { name: PROGRAM };
    let found = programs.program_mut(PROGRAM).ok_or_else(missing)?;
    found.try_into().map_err(|_| missing())
}

fn sockets(programs: &mut Ebpf) -> Result<ReusePortSockArray<&mut MapData>, Unavailable> {
    let missing = || Unavailable::Missing { name: SOCKETS };
    let map = programs.map_mut(SOCKETS).ok_or_else(missing)?;
    ReusePortSockArray::try_from(map).map_err(|_| missing())
}

fn fill<T: BorrowMut<MapData>>(
    mut sockets: ReusePortSockArray<T>,
    doors: &[&[TcpListener]],
) -> Result<(), Unavailable> {
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
