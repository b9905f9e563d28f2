//! Keeps a copy of the names (buckets, mounts, policies) beside the cache store, for
//! the day the metadata are lost: its journal names buckets by number only.
//!
//! The copy is rewritten as a whole within a moment of a change, not before its ack.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use quickwater_controlplane::Namespace;
use quickwater_controlplane::dump;
use quickwater_worker::store::Store;

use crate::store::MetadataStore;

/// Pause between two copies, so that many changes make few.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause after one that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The file of the copy in the directory of a store.
pub(super) fn path(store: &Path) -> PathBuf {
    store.join("names")
}

/// Copies at the start and after every change, for ever.
pub(super) async fn keep(namespace: Namespace<MetadataStore>, store: Store) {
    let directory = store.directory().to_owned();
    loop {
        if let Err(error) = copy(&namespace, &directory).await {
            tracing::warn!(%error, "the names of buckets are not kept for a rebuild; tried again");
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        }
        namespace.renamed().await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn copy(namespace: &Namespace<MetadataStore>, directory: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    dump::export_names(namespace.store(), &mut bytes).await?;
    let directory = directory.to_owned();
    let written = tokio::task::spawn_blocking(move || write(&directory, &bytes));
    written.await.context("writing was cut")?
}

/// In place of the old file, all or nothing.
fn write(directory: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = path(directory);
    let fresh = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&fresh)?;
    let mut out = BufWriter::new(&file);
    out.write_all(bytes)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}
