//! The cluster that holds the metadata: its client library, its file, its answer.

use std::time::{Duration, Instant};

use quickwater_foundationdb::{FoundationStore, OpenError, Options};

use super::Check;
use crate::settings::{MetadataEngine, Settings};

const NAME: &str = "foundationdb";
/// How long the cluster may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// From here on every change of metadata is slow.
const SLOW: Duration = Duration::from_millis(50);

/// Nothing when the metadata is embedded.
pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    match &settings.metadata_engine {
        MetadataEngine::FoundationDb(options) => vec![check(options)],
        MetadataEngine::Fjall | MetadataEngine::Redb => Vec::new(),
    }
}

fn check(options: &Options) -> Check {
    let store = match FoundationStore::open(options) {
        Ok(store) => store,
        Err(error) => return Check::fail(NAME, error.to_string(), advice(&error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Check::fail(NAME, error.to_string(), "free some threads"),
    };
    let cluster = options.cluster_file.display();
    // The first answer makes the connections.
    let mut answered = runtime.block_on(store.ping(ANSWER_MAX));
    let began = Instant::now();
    if answered.is_ok() {
        answered = runtime.block_on(store.ping(ANSWER_MAX));
    }
    let took = began.elapsed();
    let found = format!("{cluster} answers in {:.1} ms", took.as_secs_f64() * 1e3);
    match answered {
        Ok(_) if took < SLOW => Check::ok(NAME, found),
        Ok(_) => Check::warn(
            NAME,
            found,
            "every change of metadata takes some of these; look at `fdbcli --exec status`",
        ),
        Err(error) => Check::fail(
            NAME,
            format!("{cluster}: {error}"),
            "is the cluster up, and are its addresses reachable from here? `fdbcli --exec status`",
        ),
    }
}

fn advice(error: &OpenError) -> &'static str {
    match error {
        OpenError::Network(_) => {
            "install FoundationDB's client package of version 7.3 or newer, or give its libfdb_c.so by --fdb-client-library"
        }
        OpenError::ClusterFile { .. } | OpenError::Database { .. } | OpenError::Path(_) => {
            "copy the cluster file of the cluster here and give its path by --fdb-cluster-file"
        }
    }
}
