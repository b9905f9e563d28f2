//! Keeps a copy of the names (buckets, mounts, policies) beside the cache store, for
//! the day the metadata are lost: its journal names buckets by number only.
//!
//! The copy is rewritten as a whole within a moment of a change, not before its ack, and
//! once more when the service stops.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use quickwater_controlplane::Namespace;
use quickwater_controlplane::client::{ControlClient, KeptNames as Fresh};
use quickwater_controlplane::dump;
use quickwater_worker::store::Store;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::store::MetadataStore;

/// Pause between two copies, so that many changes make few.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause after one that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Longest time between two looks of a worker apart: not all changes are told.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// The last copy, of a service that stops, may take this long.
const LAST_TIME_MAX: Duration = Duration::from_secs(5);

/// The file of the copy in the directory of a store.
pub(super) fn path(store: &Path) -> PathBuf {
    store.join("names")
}

/// Keeps the copy until it is told to finish.
pub(super) struct KeptNames {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl KeptNames {
    /// Copies at the start and after every change.
    pub(super) fn start(
        runtime: &Runtime,
        namespace: Namespace<MetadataStore>,
        store: Store,
    ) -> KeptNames {
        let (stop, stopped) = oneshot::channel();
        let directory = store.directory().to_owned();
        let task = runtime.spawn(keep(namespace, directory, stopped));
        KeptNames { stop, task }
    }

    /// Copies what changed a moment ago. When nothing changes the names any more.
    pub(super) async fn finish(self) {
        // It ends only when it is told to.
        let _ = self.stop.send(());
        match tokio::time::timeout(LAST_TIME_MAX, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the names of buckets were not kept"),
            Err(_) => tracing::error!(
                "the names of buckets were not kept within {LAST_TIME_MAX:?}: should the metadata \
                 be lost before the next start, a rebuild does not know the newest"
            ),
        }
    }
}

async fn keep(
    namespace: Namespace<MetadataStore>,
    directory: PathBuf,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let pause = match copy(&namespace, &directory).await {
            Ok(()) => PAUSE,
            Err(error) => {
                tracing::warn!(%error, "the names of buckets are not kept for a rebuild; tried again");
                RETRY_PAUSE
            }
        };
        let next = async {
            tokio::time::sleep(pause).await;
            if pause == PAUSE {
                namespace.renamed().await;
            }
        };
        tokio::select! {
            () = next => {}
            _ = &mut stopped => break,
        }
    }
    if let Err(error) = copy(&namespace, &directory).await {
        tracing::error!(%error, "the newest names of buckets are not kept for a rebuild");
    }
}

/// Keeps the copy of a worker, whose metadata are elsewhere, for ever: rewritten within a
/// moment of what the control plane tells of, and looked at now and then for the rest.
pub(super) async fn follow(control: ControlClient, store: Store) {
    let directory = store.directory().to_owned();
    let mut mark = None;
    loop {
        let told = control.told_names();
        let pause = match control.names(mark).await {
            Ok(Some(fresh)) => {
                let next = fresh.mark;
                match write_fresh(&directory, fresh).await {
                    Ok(()) => {
                        mark = next;
                        LOOK_PAUSE
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the names of buckets are not kept for a rebuild; tried again");
                        RETRY_PAUSE
                    }
                }
            }
            Ok(None) => LOOK_PAUSE,
            // The control plane is away: nothing changes.
            Err(error) => {
                tracing::debug!(%error, "the names of buckets cannot be read");
                PAUSE
            }
        };
        let until = tokio::time::Instant::now() + pause;
        while tokio::time::Instant::now() < until && control.told_names() == told {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn write_fresh(directory: &Path, fresh: Fresh) -> Result<()> {
    let directory = directory.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        dump::write_names(&mut bytes, fresh.version, &fresh.rows)?;
        write(&directory, &bytes)
    });
    written.await.context("writing was cut")?
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
