//! Stores for the tests: each a database of its own in the test library, or a prefix
//! of its own in a real cluster.
#![expect(unsafe_code, reason = "calls what the test library adds to the C API")]

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libloading::Library;
use quickwater_foundationdb::{FoundationStore, KeyPrefix, Options};
use tempfile::TempDir;

pub(crate) use crate::rows::{all, rows};

/// Faults that change no answer: the suite passes with them, too.
const SLOW: &str = "delay=300 delay_ms=3 stall=20 stall_ms=4 page_rows=3";

/// Runs each of these functions as a test, without and with slow answers and short
/// pages.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        suite!(@kind plain, $crate::support::Kind::Plain, $($name),*);
        suite!(@kind slow, $crate::support::Kind::Slow, $($name),*);
    };
    (@kind $kind:ident, $value:expr, $($name:ident),*) => {
        mod $kind {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name($crate::support::open($value)).await;
                }
            )*
        }
    };
}

/// Stores under test.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Plain,
    Slow,
}

/// A store and its database.
pub(crate) struct Fixture {
    pub(crate) store: FoundationStore,
    pub(crate) options: Options,
    _dir: TempDir,
}

pub(crate) fn open(kind: Kind) -> Fixture {
    let fixture = open_with_prefix("");
    if let (Kind::Slow, false) = (kind, is_real()) {
        fixture.faults(SLOW);
    }
    fixture
}

/// A store behind a prefix; in a real cluster it always has one.
pub(crate) fn open_with_prefix(prefix: &str) -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let options = match real() {
        Some((client_library, cluster_file)) => Options {
            client_library,
            cluster_file,
            key_prefix: own_prefix(prefix),
        },
        None => Options {
            client_library: test_library(),
            cluster_file: cluster_file(dir.path()),
            key_prefix: prefix.parse().expect("a prefix"),
        },
    };
    Fixture {
        store: FoundationStore::open(&options).expect("a store"),
        options,
        _dir: dir,
    }
}

/// A store in a test server of its own, which ends with the tests.
pub(crate) fn open_in_server() -> Fixture {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || quickwater_foundationdb_testlib::serve(&listener));
    let dir = tempfile::tempdir().expect("a directory");
    let cluster_file = dir.path().join("fdb.cluster");
    std::fs::write(&cluster_file, format!("test:remote@{address}\n")).expect("write");
    let options = Options {
        client_library: test_library(),
        cluster_file,
        key_prefix: KeyPrefix::default(),
    };
    Fixture {
        store: FoundationStore::open(&options).expect("a store"),
        options,
        _dir: dir,
    }
}

/// A cluster file of a database nobody else has.
pub(crate) fn cluster_file(dir: &Path) -> PathBuf {
    let path = dir.join("fdb.cluster");
    std::fs::write(&path, "test:test@127.0.0.1:4500\n").expect("write");
    path
}

/// Where Cargo puts the test library: beside the tests themselves.
pub(crate) fn test_library() -> PathBuf {
    let own = std::env::current_exe().expect("this program");
    own.with_file_name("libfdb_c.so")
}

/// The client library and cluster file of a real cluster.
fn real() -> Option<(PathBuf, PathBuf)> {
    let library = std::env::var_os("QUICKWATER_FDB_CLIENT_LIBRARY")?;
    let cluster = std::env::var_os("QUICKWATER_FDB_CLUSTER_FILE")?;
    Some((library.into(), cluster.into()))
}

/// Whether the tests run against a real cluster.
pub(crate) fn is_real() -> bool {
    real().is_some()
}

fn own_prefix(prefix: &str) -> KeyPrefix {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let text = format!("quickwater-test/{}-{number}/{prefix}", std::process::id());
    text.parse().expect("a prefix")
}

/// What the database was asked for, in the order the library writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) commits: u64,
    pub(crate) gets: u64,
    pub(crate) pages: u64,
    pub(crate) read_versions: u64,
    pub(crate) watches: u64,
    pub(crate) faults: u64,
}

impl Fixture {
    /// Moves the store's clock on.
    pub(crate) async fn advance(&self, by: Duration) {
        if is_real() {
            return tokio::time::sleep(by).await;
        }
        type Advance = unsafe extern "C" fn(*const c_char, u64);
        let by_ms = u64::try_from(by.as_millis()).expect("a short time");
        let path = self.path();
        // SAFETY: the test library has it with this type.
        unsafe {
            library()
                .get::<Advance>(b"fdb_test_advance\0")
                .expect("there")(path.as_ptr(), by_ms)
        };
    }

    /// Longest key, bytes.
    pub(crate) fn key_bytes_max(&self) -> usize {
        self.store.key_bytes_max()
    }

    /// Sets the plan of faults.
    pub(crate) fn faults(&self, plan: &str) {
        type Faults = unsafe extern "C" fn(*const c_char, *const c_char) -> i32;
        let (path, plan) = (self.path(), CString::new(plan).expect("text"));
        // SAFETY: the test library has it with this type.
        let set = unsafe {
            library()
                .get::<Faults>(b"fdb_test_faults\0")
                .expect("there")(path.as_ptr(), plan.as_ptr())
        };
        assert_eq!(set, 0, "{plan:?}");
    }

    pub(crate) fn counts(&self) -> Counts {
        type Count = unsafe extern "C" fn(*const c_char, *mut [u64; 6]);
        let (path, mut out) = (self.path(), [0; 6]);
        // SAFETY: the test library has it with this type.
        unsafe {
            library().get::<Count>(b"fdb_test_counts\0").expect("there")(path.as_ptr(), &mut out)
        };
        let [commits, gets, pages, read_versions, watches, faults] = out;
        Counts {
            commits,
            gets,
            pages,
            read_versions,
            watches,
            faults,
        }
    }

    fn path(&self) -> CString {
        let path = self.options.cluster_file.to_str().expect("text");
        CString::new(path).expect("text")
    }
}

/// The library that the store has loaded, once more.
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: it has no initialisers.
        unsafe { Library::new(test_library()) }.expect("the test library")
    })
}
