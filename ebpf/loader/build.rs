//! Looks for the programs that `ebpf/build` made and has them taken into the binary.
//! Without them the build goes on, and the service says "not built";
//! `QUICKWATER_EBPF_STRICT=1` makes that an error.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Another object than the one `ebpf/build` leaves, with `bypass.o` beside it; `none`:
/// build without.
const OBJECT: &str = "QUICKWATER_EBPF_OBJECT";
const STRICT: &str = "QUICKWATER_EBPF_STRICT";
/// What the programs are made of, from `ebpf/`.
const SOURCES: [&str; 4] = [
    "programs/src",
    "programs/Cargo.toml",
    "programs/Cargo.lock",
    "shapes/src",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(programs_built)");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed={STRICT}");
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // The directory, not the file: a file that is not there would count as changed always.
    println!("cargo::rerun-if-changed={}", room.join("objects").display());
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", room.join(source).display());
    }
    match find(&room) {
        Ok([object, bypass]) => {
            println!("cargo::rerun-if-changed={}", object.display());
            println!("cargo::rerun-if-changed={}", bypass.display());
            println!("cargo::rustc-cfg=programs_built");
            println!("cargo::rustc-env=PROGRAMS={}", object.display());
            println!("cargo::rustc-env=PROGRAMS_BYPASS={}", bypass.display());
        }
        Err(why) if std::env::var(STRICT).is_ok_and(|strict| strict == "1") => {
            println!("cargo::error=eBPF programs: {why} ({STRICT} is set)");
        }
        // No warning: most builds are without, and the service tells it.
        Err(_) => {}
    }
}

/// The object of most programs, and that of bypass.
fn find(room: &Path) -> Result<[PathBuf; 2], String> {
    match std::env::var(OBJECT) {
        Ok(none) if none == "none" => return Err(format!("{OBJECT} is none")),
        Ok(path) if !path.is_empty() => return both(Path::new(&path)),
        _ => {}
    }
    let objects = both(&room.join("objects/quickwater.o"))?;
    for source in SOURCES {
        let path = room.join(source);
        let newest = newest(&path)?;
        for object in &objects {
            if newest > changed(object)? {
                let name = path.display();
                return Err(format!("{name} is newer than the object; run `ebpf/build`"));
            }
        }
    }
    Ok(objects)
}

fn both(object: &Path) -> Result<[PathBuf; 2], String> {
    Ok([
        existing(object)?,
        existing(&object.with_file_name("bypass.o"))?,
    ])
}

fn existing(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize()
        .map_err(|error| format!("{}: {error}; run `ebpf/build`", path.display()))
}

fn newest(path: &Path) -> Result<SystemTime, String> {
    if !path.is_dir() {
        return changed(path);
    }
    let wrong = |error| format!("{}: {error}", path.display());
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        newest = newest.max(self::newest(&entry.map_err(wrong)?.path())?);
    }
    Ok(newest)
}

fn changed(path: &Path) -> Result<SystemTime, String> {
    let about = std::fs::metadata(path).and_then(|about| about.modified());
    about.map_err(|error| format!("{}: {error}", path.display()))
}
