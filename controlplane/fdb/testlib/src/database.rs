//! The databases of the process: one for each cluster file, however often opened.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quickwater_controlplane::store::{EmbeddedStore, MemoryEngine};

use crate::clock::TestClock;
use crate::faults::{Faults, PLAN_VARIABLE};
use crate::remote::Connections;
use crate::trace::{TRACE_VARIABLE, Trace};

const NO_CLUSTER_FILE_FOUND: i32 = 1515;
const CONNECTION_STRING_INVALID: i32 = 1510;
const PLATFORM_ERROR: i32 = 1500;

/// What a database has been asked for.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Commits of transactions that wrote.
    pub(crate) commits: AtomicU64,
    /// Values asked for.
    pub(crate) gets: AtomicU64,
    /// Pages of ranges asked for.
    pub(crate) pages: AtomicU64,
    /// Transactions that got a version to read at.
    pub(crate) read_versions: AtomicU64,
    /// Watches set.
    pub(crate) watches: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// Where the rows are.
pub(crate) enum Place {
    Here(EmbeddedStore),
    Server(Arc<Connections>),
}

/// One database.
pub(crate) struct Database {
    pub(crate) place: Place,
    pub(crate) clock: TestClock,
    pub(crate) counts: Counts,
    pub(crate) trace: Trace,
    faults: Faults,
}

impl Database {
    /// `server`: where the rows are, unless here.
    fn new(plan: &str, server: Option<SocketAddr>) -> Result<Self, i32> {
        let clock = TestClock::default();
        let faults = Faults::parse(plan).map_err(|error| {
            eprintln!("{PLAN_VARIABLE}: \"{}\" means nothing", error.0);
            CONNECTION_STRING_INVALID
        })?;
        let trace = Trace::open().map_err(|error| {
            eprintln!("{TRACE_VARIABLE}: {error}");
            PLATFORM_ERROR
        })?;
        let place = match server {
            Some(server) => Place::Server(Arc::new(Connections::new(server))),
            None => {
                let store = EmbeddedStore::with_clock(MemoryEngine::default(), clock.clone());
                Place::Here(store.map_err(|_| PLATFORM_ERROR)?)
            }
        };
        Ok(Self {
            place,
            clock,
            counts: Counts::default(),
            trace,
            faults,
        })
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }
}

static OPEN: Mutex<Option<HashMap<String, Arc<Database>>>> = Mutex::new(None);

/// The database of a cluster file, made at the first call.
pub(crate) fn open(cluster_file: &str) -> Result<Arc<Database>, i32> {
    let text = std::fs::read_to_string(cluster_file).map_err(|_| NO_CLUSTER_FILE_FOUND)?;
    let server = server(text.trim())?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(database) = open.get(cluster_file) {
        return Ok(Arc::clone(database));
    }
    let plan = std::env::var(PLAN_VARIABLE).unwrap_or_default();
    let database = Arc::new(Database::new(&plan, server)?);
    open.insert(cluster_file.to_owned(), Arc::clone(&database));
    Ok(database)
}

/// Reads `description:ID@address` of the manual; the id `remote` is a test server's.
fn server(text: &str) -> Result<Option<SocketAddr>, i32> {
    let (name, address) = text.split_once('@').ok_or(CONNECTION_STRING_INVALID)?;
    if !name.ends_with(":remote") {
        return Ok(None);
    }
    let address = address.parse().map_err(|_| CONNECTION_STRING_INVALID)?;
    Ok(Some(address))
}
