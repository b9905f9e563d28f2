//! The forwarders of the client library beside what the compiled crate `foundationdb`
//! asks for: a function too many would be demanded of every client library in vain.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use foundationdb_sys::SYMBOLS;
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};

/// Called in the body of an `async fn` only that nothing in the crate `foundationdb`
/// awaits: such a body is compiled where it is awaited, which is nowhere here.
const ONLY_WHERE_AWAITED: [&str; 1] = ["fdb_database_get_main_thread_busyness"];

#[test]
fn the_forwarders_are_what_the_crate_foundationdb_calls() {
    let (path, called) = linked_foundationdb();
    let called: BTreeSet<&str> = called.iter().map(String::as_str).collect();
    let named: BTreeSet<&str> = SYMBOLS.iter().copied().collect();
    let missing: Vec<&str> = called.difference(&named).copied().collect();
    assert!(missing.is_empty(), "no forwarder: {missing:?} of {path:?}");
    let unused: Vec<&str> = named.difference(&called).copied().collect();
    assert_eq!(unused, ONLY_WHERE_AWAITED, "called by none: {path:?}");
}

#[test]
fn names_are_read_out_of_both_manglings() {
    let legacy = "_ZN16foundationdb_sys7forward18fdb_future_destroy17h9ad1334af7cfb33cE";
    assert_eq!(function(legacy), Some("fdb_future_destroy"));
    let v0 = "_RNvNtCsgSMmtmYMzxw_16foundationdb_sys7forward15fdb_get_errorXYCs2_9fdb_other";
    assert_eq!(function(v0), Some("fdb_get_errorXY"));
    assert_eq!(function("_ZN16foundationdb_sys4load4load17h0E"), None);
    assert_eq!(function("fdb_future_destroy"), None);
}

/// The function of the C API that a mangled symbol of a forwarder names: the mangling
/// writes each part of a path behind its length.
fn function(symbol: &str) -> Option<&str> {
    let (_, part) = symbol.split_once(FORWARD)?;
    let digits = part.find(|c: char| !c.is_ascii_digit())?;
    let (length, name) = part.split_at(digits);
    let name = name.get(..length.parse().ok()?)?;
    name.starts_with("fdb_").then_some(name)
}

/// The module of the forwarders in a mangled symbol.
const FORWARD: &str = "16foundationdb_sys7forward";

/// The archive of the crate `foundationdb` that this program is linked with, and the
/// functions it leaves undefined. A target directory keeps archives of other builds, too;
/// the mangled names of each build differ, and those of ours are in this program.
fn linked_foundationdb() -> (PathBuf, BTreeSet<String>) {
    let program = std::env::current_exe().expect("this program");
    let data = std::fs::read(&program).expect("read this program");
    let ours = Symbols::of(&data).defined;
    assert!(!ours.is_empty(), "{program:?} has lost its symbols");
    let directory = program.parent().expect("a directory");
    let archives = archives(directory);
    let mut linked: Vec<_> = archives
        .iter()
        .map(|path| (path.clone(), Symbols::of_archive(path)))
        .filter(|(_, symbols)| !symbols.defined.is_disjoint(&ours))
        .collect();
    let paths: Vec<_> = linked.iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), 1, "linked: {paths:?} of {archives:?}");
    let (path, symbols) = linked.remove(0);
    (path, symbols.asked)
}

/// Files that can be the crate `foundationdb`.
fn archives(directory: &Path) -> Vec<PathBuf> {
    let entries = directory.read_dir().expect("the directory of the tests");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("libfoundationdb-") && name.ends_with(".rlib"))
        })
        .collect()
}

/// What is of interest in a symbol table.
#[derive(Default)]
struct Symbols {
    /// Defined functions of the crate `foundationdb`, mangled.
    defined: BTreeSet<String>,
    /// Functions of the C API whose forwarders are undefined.
    asked: BTreeSet<String>,
}

impl Symbols {
    /// Those of an object file.
    fn of(data: &[u8]) -> Self {
        let file = object::File::parse(data).expect("an object file");
        let mut symbols = Self::default();
        for symbol in file.symbols() {
            let name = symbol.name().expect("a name in UTF-8");
            if symbol.is_definition() && name.contains("12foundationdb") {
                symbols.defined.insert(name.to_owned());
            } else if symbol.is_undefined() {
                symbols.asked.extend(function(name).map(str::to_owned));
            }
        }
        symbols
    }

    /// Those of all object files of an archive.
    fn of_archive(path: &Path) -> Self {
        let data = std::fs::read(path).expect("read an archive");
        let archive = ArchiveFile::parse(&*data).expect("an archive");
        let mut all = Self::default();
        for member in archive.members() {
            let member = member.expect("a member");
            if member.name().ends_with(b".o") {
                let symbols = Self::of(member.data(&*data).expect("the bytes of a member"));
                all.defined.extend(symbols.defined);
                all.asked.extend(symbols.asked);
            }
        }
        all
    }
}
