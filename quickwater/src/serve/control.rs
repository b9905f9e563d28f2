//! Puts the control plane together: metadata store, namespace, UFS client and
//! the work that goes on behind requests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quickwater_controlplane::namespace::Namespace;
use quickwater_controlplane::policies::Document;
use quickwater_controlplane::store::{self, EmbeddedStore, EngineKind, EngineOptions};
use quickwater_engine::{Policies, Shared};
use quickwater_proto::PolicyTable;
use quickwater_ufs::{UfsClient, UfsConfig};
use tokio::runtime::Handle;

use super::budget::Budget;
use super::directories::KeptIdentities;
use crate::home::Home;
use crate::settings::{MetadataEngine, Settings};

/// Pause between two sweeps.
const SWEEP_PAUSE: Duration = Duration::from_secs(30);
/// Pause between two looks for new path policies; they hold everywhere within 1 s.
const POLICY_PAUSE: Duration = Duration::from_millis(500);

/// Opens the metadata; journals are replayed meanwhile.
///
/// # Errors
/// In use by another process, another version or engine, not writable.
pub(super) fn open_namespace(
    home: &Home,
    settings: &Settings,
    budget: Budget,
) -> Result<Namespace<EmbeddedStore>> {
    let kind = match settings.metadata_engine {
        MetadataEngine::Fjall => EngineKind::Fjall,
        MetadataEngine::Redb => EngineKind::Redb,
    };
    let options = EngineOptions {
        cache_bytes: budget.metadata_cache,
        memtable_bytes: budget.metadata_memtable,
    };
    let store =
        store::open(kind, &home.metadata_dir(), &options).context("cannot open the metadata")?;
    Ok(Namespace::new(store))
}

/// The UFS client; its work runs on `runtime`, the identities of directories are kept
/// in the metadata.
pub(super) fn ufs_client(
    runtime: Handle,
    settings: &Settings,
    budget: Budget,
    namespace: &Namespace<EmbeddedStore>,
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
    let identities = KeptIdentities::new(namespace.clone(), runtime.clone());
    UfsClient::with_identities(runtime, config, Arc::new(identities))
}

/// The path policies in force: their version and table.
///
/// # Errors
/// They cannot be read: by rules nobody knows, nothing must be written.
pub(super) async fn load_policies(
    namespace: &Namespace<EmbeddedStore>,
) -> Result<(u64, PolicyTable)> {
    let stored = namespace.policies(None).await?;
    let document = Document::parse(&stored.text, None).with_context(|| {
        format!(
            "version {} of the path policies cannot be used",
            stored.version
        )
    })?;
    Ok((stored.version, document.table))
}

/// Puts policies in force that were set elsewhere, or by a call whose outcome was
/// unknown, for ever.
pub(super) async fn follow_policies(namespace: Namespace<EmbeddedStore>, shared: Arc<Shared>) {
    let mut healthy = true;
    loop {
        tokio::time::sleep(POLICY_PAUSE).await;
        let followed = follow_once(&namespace, &shared.policies).await;
        if let Err(error) = &followed
            && healthy
        {
            tracing::error!(%error, "path policies cannot be read; those in force stay");
        }
        healthy = followed.is_ok();
    }
}

async fn follow_once(namespace: &Namespace<EmbeddedStore>, policies: &Policies) -> Result<()> {
    if namespace.policy_version().await? <= policies.version() {
        return Ok(());
    }
    let (version, table) = load_policies(namespace).await?;
    policies.replace(version, table);
    tracing::info!(version, "path policies in force");
    Ok(())
}

/// Removes rows that have served their time, for ever.
pub(super) async fn sweep(namespace: Namespace<EmbeddedStore>) {
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
        let namespace = Namespace::new(EmbeddedStore::in_memory().unwrap());
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
