//! Puts the control plane together: metadata store, namespace, UFS client and
//! the work that goes on behind requests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quickwater_controlplane::namespace::Namespace;
use quickwater_controlplane::policies::Document;
use quickwater_controlplane::store::{self, EngineKind, EngineOptions};
use quickwater_engine::{Policies, Shared};
use quickwater_foundationdb::{FoundationStore, Options as FoundationOptions};
use quickwater_proto::PolicyTable;
use quickwater_ufs::{Standing, UfsClient, UfsConfig};
use tokio::runtime::{Handle, Runtime};

use super::budget::Budget;
use super::directories::KeptIdentities;
use super::names::Rows;
use crate::home::Home;
use crate::settings::{MetadataEngine, Settings};
use crate::store::MetadataStore;

/// Pause between two sweeps.
const SWEEP_PAUSE: Duration = Duration::from_secs(30);
/// How long a cluster may take to answer at start.
const FOUNDATION_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks whether the metadata is still this process's.
const FOUNDATION_LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Pause between two looks for new path policies; they hold everywhere within 1 s.
const POLICY_PAUSE: Duration = Duration::from_millis(500);

/// Opens the metadata; journals are replayed meanwhile.
///
/// # Errors
/// In use by another process, another version or engine, not writable.
pub(super) fn open_namespace(
    runtime: &Runtime,
    home: &Home,
    settings: &Settings,
    budget: Budget,
) -> Result<Namespace<MetadataStore>> {
    open_store(runtime, home, settings, budget, 0).map(Namespace::new)
}

/// The same without the rules; `least`: the version that its commits must reach.
///
/// # Errors
/// As [`open_namespace`].
pub(super) fn open_store(
    runtime: &Runtime,
    home: &Home,
    settings: &Settings,
    budget: Budget,
    least: u64,
) -> Result<MetadataStore> {
    let kind = match &settings.metadata_engine {
        MetadataEngine::Fjall => EngineKind::Fjall,
        MetadataEngine::Redb => EngineKind::Redb,
        MetadataEngine::FoundationDb(options) => {
            let store = runtime.block_on(open_foundation(options))?;
            return Ok(MetadataStore::Foundation(store));
        }
    };
    let options = EngineOptions {
        cache_bytes: budget.metadata_cache,
        memtable_bytes: budget.metadata_memtable,
    };
    let store = store::open_at_least(kind, &home.metadata_dir(), &options, least)
        .context("cannot open the metadata")?;
    Ok(MetadataStore::Embedded(store))
}

/// Opens the store in a cluster, for this process alone.
async fn open_foundation(options: &FoundationOptions) -> Result<FoundationStore> {
    let store = FoundationStore::open(options).context("cannot open the metadata")?;
    store
        .ping(FOUNDATION_ANSWER_MAX)
        .await
        .context("cannot reach the metadata")?;
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let who = format!("{host}, process {}", std::process::id());
    store.claim(&who).await?;
    tracing::info!(
        library = %options.client_library.display(),
        cluster = %options.cluster_file.display(),
        "the metadata is in FoundationDB"
    );
    let watched = store.clone();
    tokio::spawn(async move {
        while !watched.is_lost() {
            tokio::time::sleep(FOUNDATION_LOOK_PAUSE).await;
        }
        // What is in memory may be older than what the new owner commits.
        tracing::error!("ending: another process has the metadata now");
        std::process::exit(1);
    });
    Ok(store)
}

/// The UFS client; its work runs on `runtime`, the identities of directories are kept
/// in the metadata.
pub(super) fn ufs_client(
    runtime: Handle,
    settings: &Settings,
    budget: Budget,
    rows: &impl Rows,
    standing: Option<Arc<Standing>>,
) -> UfsClient {
    let config = UfsConfig {
        connect_timeout: settings.ufs.connect_timeout,
        idle_timeout: settings.ufs.idle_timeout,
        request_timeout: settings.ufs.request_timeout,
        concurrency: settings.ufs.concurrency,
        late_max: settings.write_cache.fence,
        read_memory_bytes: usize::try_from(budget.ufs_reads).unwrap_or(usize::MAX),
        ..UfsConfig::default()
    };
    let identities = KeptIdentities::new(rows.clone(), runtime.clone());
    let identities = Arc::new(identities);
    match standing {
        Some(standing) => UfsClient::among_others(runtime, config, identities, standing),
        None => UfsClient::with_identities(runtime, config, identities),
    }
}

/// The path policies in force: their version and table.
///
/// # Errors
/// They cannot be read: by rules nobody knows, nothing must be written.
pub(super) async fn load_policies(rows: &impl Rows) -> Result<(u64, PolicyTable)> {
    let stored = rows.policies(None).await?;
    stored.map_or_else(|| Ok((0, PolicyTable::default())), parse_policies)
}

fn parse_policies((version, text): (u64, String)) -> Result<(u64, PolicyTable)> {
    let document = Document::parse(&text, None)
        .with_context(|| format!("version {version} of the path policies cannot be used"))?;
    Ok((version, document.table))
}

/// Puts policies in force that were set elsewhere, or by a call whose outcome was
/// unknown, for ever.
pub(super) async fn follow_policies(rows: impl Rows, shared: Arc<Shared>) {
    let mut healthy = true;
    loop {
        tokio::time::sleep(POLICY_PAUSE).await;
        let followed = follow_once(&rows, &shared.policies).await;
        if let Err(error) = &followed
            && healthy
        {
            tracing::error!(%error, "path policies cannot be read; those in force stay");
        }
        healthy = followed.is_ok();
    }
}

async fn follow_once(rows: &impl Rows, policies: &Policies) -> Result<()> {
    let Some(newer) = rows.policies(Some(policies.version())).await? else {
        return Ok(());
    };
    let (version, table) = parse_policies(newer)?;
    policies.replace(version, table);
    tracing::info!(version, "path policies in force");
    Ok(())
}

/// Removes rows that have served their time, for ever.
pub(super) async fn sweep(namespace: Namespace<MetadataStore>) {
    loop {
        match namespace.sweep().await {
            Ok(swept) if swept.more => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "metadata cannot be swept; tried again later"),
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use quickwater_controlplane::namespace::PolicyChange;
    use quickwater_proto::PolicyMode;

    use super::*;

    #[tokio::test]
    async fn policies_set_elsewhere_are_followed() {
        let namespace = Namespace::new(MetadataStore::in_memory().unwrap());
        let policies = Policies::default();
        let (version, table) = load_policies(&namespace).await.unwrap();
        assert_eq!(version, 0);
        assert_eq!(table.policy("b", "k").mode, PolicyMode::WriteThrough);
        let text = r#"{"apiVersion":"v1.0","defaultRule":{"policyMode":"READ_ONLY"}}"#;
        let change = PolicyChange {
            by: "another worker",
            expected: None,
            workers: 1,
        };
        namespace.set_policies(text, change).await.unwrap();
        follow_once(&namespace, &policies).await.unwrap();
        assert_eq!(policies.version(), 1);
        assert_eq!(policies.policy("b", "k").mode, PolicyMode::ReadOnly);
        // A service that starts now begins with them.
        let (version, table) = load_policies(&namespace).await.unwrap();
        assert_eq!(
            (version, table.policy("b", "k").mode),
            (1, PolicyMode::ReadOnly)
        );
    }
}
