//! `metadata export` and `import`: moves the metadata of a stopped service between
//! engines. Absent: what is in the file.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use anyhow::{Context as _, Result};
use quickwater_controlplane::dump;
use tokio::runtime::Runtime;

use super::budget::Budget;
use super::{control, control_runtime};
use crate::cli::{SettingsArgs, Usage};
use crate::home::Home;
use crate::settings::Settings;
use crate::store::MetadataStore;

/// Writes all metadata to a new file; how many rows.
///
/// # Errors
/// The service runs, the metadata cannot be read, the file exists or cannot be written.
pub(crate) fn export(args: &SettingsArgs, path: &Path) -> Result<u64> {
    let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let moved = with_store(args, 0, |runtime, store| {
        let rows = runtime.block_on(dump::export(store, BufWriter::new(&file)))?;
        file.sync_all()?;
        Ok(rows)
    });
    if moved.is_err() {
        // Nobody takes half a file for a whole one: it has no sum. It is in the way.
        let _ = std::fs::remove_file(path);
    }
    moved.with_context(|| format!("nothing was exported to {}", path.display()))
}

/// Reads a file into metadata that is empty; how many rows.
///
/// # Errors
/// The service runs, the file is damaged, there is metadata.
pub(crate) fn import(args: &SettingsArgs, path: &Path) -> Result<u64> {
    let open = || File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let version = dump::verify(BufReader::new(open()?))?;
    let file = open()?;
    // An embedded store begins behind the versions of the rows.
    with_store(args, version + 1, |runtime, store| {
        Ok(runtime.block_on(dump::import(store, BufReader::new(file)))?)
    })
}

fn with_store<T>(
    args: &SettingsArgs,
    least: u64,
    work: impl FnOnce(&Runtime, &MetadataStore) -> Result<T>,
) -> Result<T> {
    let settings = Settings::from_values(&args.values()?).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    let home = Home::open(&settings.dir)?;
    let runtime = control_runtime(settings.store.threads)?;
    let budget = Budget::split(
        settings.memory_bytes,
        settings.store.threads,
        None,
        false,
        false,
    );
    let store = control::open_store(&runtime, &home, &settings, budget, least)?;
    let done = work(&runtime, &store);
    runtime.block_on(store.release());
    done
}
