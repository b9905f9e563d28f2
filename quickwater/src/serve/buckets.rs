//! Buckets that are there at start: mounts of the settings, and what lies under
//! the default UFS already. Absent: mounts added while the service runs.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use quickwater_controlplane::Namespace;
use quickwater_proto::{Bucket, BucketId, BucketName, MetadataError, UfsError};
use quickwater_ufs::UfsClient;

use super::places::check_free;
use crate::settings::{MountSpec, Settings};
use crate::store::MetadataStore;

/// Pause before a UFS that could not be listed is asked again.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(15);

type Names = Namespace<MetadataStore>;

/// Makes sure the directory of a default POSIX UFS is there.
///
/// # Errors
/// It is not there and cannot be made.
pub(super) fn make_default_ufs(uri: &str) -> Result<()> {
    let Some(path) = uri.strip_prefix("file://") else {
        return Ok(());
    };
    std::fs::create_dir_all(Path::new(path)).with_context(|| {
        format!("cannot make the UFS directory {path}; check ufs.uri and its permissions")
    })
}

/// Adds the mounts of the settings that are not there yet.
///
/// # Errors
/// A mount the rules refuse, or metadata that does not answer.
pub(super) async fn add_mounts(names: &Names, ufs: &UfsClient, settings: &Settings) -> Result<()> {
    for mount in &settings.mounts {
        let wanted = mount_row(mount, settings)?;
        if let Some(found) = names.bucket(&wanted.name).await? {
            compare(&found, &wanted);
            continue;
        }
        if let Err(error) = ufs.check(&wanted, false).await {
            // It may come up later than we do; requests say so until then.
            tracing::warn!(bucket = %wanted.name, ufs = wanted.ufs, %error, "the UFS of a mount does not answer");
        }
        let refused = |why: &dyn std::fmt::Display| {
            anyhow!(
                "setting `mounts`: {} cannot be mounted as '{}': {why}",
                wanted.ufs,
                wanted.name
            )
        };
        let others = names.buckets().await?;
        check_free(&wanted, &others, &settings.dir).map_err(|taken| refused(&taken))?;
        names
            .add_mount(&wanted)
            .await
            .map_err(|error| refused(&error))?;
        tracing::info!(bucket = %wanted.name, ufs = wanted.ufs, "mounted");
    }
    Ok(())
}

fn mount_row(mount: &MountSpec, settings: &Settings) -> Result<Bucket> {
    let name = BucketName::new(&mount.bucket)?;
    let ttl = mount.ttl.unwrap_or(settings.metadata_ttl);
    let mut row = row(name, mount.uri.clone(), mount.options.clone(), false);
    row.metadata_ttl_ms = ttl.as_ms();
    Ok(row)
}

/// What is mounted stays as it is: changing it could drop what only we know.
fn compare(found: &Bucket, wanted: &Bucket) {
    let mut options = [found.options.clone(), wanted.options.clone()];
    options.iter_mut().for_each(|o| o.sort());
    let same = found.ufs == wanted.ufs
        && found.metadata_ttl_ms == wanted.metadata_ttl_ms
        && options[0] == options[1];
    if !same {
        tracing::warn!(
            bucket = %found.name, mounted = found.ufs, wanted = wanted.ufs,
            "the bucket is mounted otherwise than the settings say and stays so; `quickwater mount remove` it and restart to change it"
        );
    }
}

/// Makes buckets of what lies under the default UFS; when it does not answer,
/// goes on asking behind the scenes.
pub(super) async fn discover_first(names: &Names, ufs: &UfsClient, settings: &Settings) {
    if discover(names, ufs, settings).await {
        return;
    }
    let (names, ufs, settings) = (names.clone(), ufs.clone(), settings.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(DISCOVERY_PAUSE).await;
            if discover(&names, &ufs, &settings).await {
                return;
            }
        }
    });
}

/// Whether the default UFS answered.
async fn discover(names: &Names, ufs: &UfsClient, settings: &Settings) -> bool {
    let uri = settings.ufs.uri.as_str();
    match ufs.list_locations(uri, &settings.ufs.options).await {
        Ok(locations) => {
            adopt_all(names, settings, &locations).await;
            true
        }
        Err(error) => {
            told_later(uri, &error);
            false
        }
    }
}

fn told_later(uri: &str, error: &UfsError) {
    tracing::warn!(ufs = uri, %error, "the default UFS cannot be listed; buckets in it are not seen yet");
}

async fn adopt_all(names: &Names, settings: &Settings, locations: &[String]) {
    let (mut adopted, mut refused) = (0, 0);
    for location in locations {
        let Ok(name) = BucketName::new(location) else {
            tracing::warn!(
                location,
                "not a bucket name; this directory of the default UFS is not served"
            );
            continue;
        };
        match adopt(names, settings, name).await {
            Ok(true) => adopted += 1,
            Ok(false) => {}
            Err(error) => {
                refused += 1;
                tracing::warn!(location, %error, "this directory of the default UFS is not served");
            }
        }
    }
    if adopted + refused > 0 {
        tracing::info!(adopted, refused, "buckets found in the default UFS");
    }
}

/// Whether it became a bucket now.
async fn adopt(
    names: &Names,
    settings: &Settings,
    name: BucketName,
) -> Result<bool, MetadataError> {
    if names.bucket(&name).await?.is_some() {
        return Ok(false);
    }
    let uri = format!("{}/{name}", settings.ufs.uri.trim_end_matches('/'));
    // As if CreateBucket had made it: DeleteBucket may remove it once it is empty.
    let mut found = row(name, uri, settings.ufs.options.clone(), true);
    found.metadata_ttl_ms = settings.metadata_ttl.as_ms();
    match names.create_bucket(&found).await {
        Ok(_) => Ok(true),
        Err(MetadataError::BucketExists) => Ok(false),
        Err(error) => Err(error),
    }
}

fn row(name: BucketName, ufs: String, options: Vec<(String, String)>, owned: bool) -> Bucket {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Bucket {
        id: BucketId(0),
        name,
        ufs,
        created_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        metadata_ttl_ms: 0,
        options,
        tags: Vec::new(),
        owned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path, mounts: &[&str]) -> Settings {
        let mut settings = Settings::from_values(&crate::settings::Values::defaults()).unwrap();
        settings.ufs.uri = crate::settings::parse::file_uri(dir).unwrap();
        let parse = |m: &&str| crate::settings::parse::mount(m).unwrap();
        settings.mounts = mounts.iter().map(parse).collect();
        settings
    }

    fn world() -> (Names, UfsClient) {
        let ufs = UfsClient::new(tokio::runtime::Handle::current(), Default::default());
        (Namespace::new(MetadataStore::in_memory().unwrap()), ufs)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn directories_of_the_default_ufs_become_buckets_once() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["photos", "data.v1", "Not A Bucket", "x"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (names, ufs) = world();
        let settings = settings(dir.path(), &[]);
        discover_first(&names, &ufs, &settings).await;
        assert!(discover(&names, &ufs, &settings).await);
        let found = names.buckets().await.unwrap();
        let found: Vec<&str> = found.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(found, ["data.v1", "photos"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn mounts_of_the_settings_are_made_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let (names, ufs) = world();
        let mount = format!("data={},metadata_ttl=never", place.display());
        let first = settings(&dir.path().join("ufs"), &[&mount]);
        add_mounts(&names, &ufs, &first).await.unwrap();
        let made = names.buckets().await.unwrap();
        assert_eq!(made.len(), 1);
        assert_eq!((made[0].metadata_ttl_ms, made[0].owned), (u64::MAX, false));
        let other = format!("data={}", dir.path().join("elsewhere").display());
        let second = settings(&dir.path().join("ufs"), &[&other]);
        add_mounts(&names, &ufs, &second).await.unwrap();
        assert_eq!(names.buckets().await.unwrap(), made);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_mount_that_overlaps_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (names, ufs) = world();
        let (a, b) = (
            format!("abc={}/a", dir.path().display()),
            format!("def={}/a/b", dir.path().display()),
        );
        let settings = settings(&dir.path().join("ufs"), &[&a, &b]);
        let error = add_mounts(&names, &ufs, &settings).await.unwrap_err();
        assert!(format!("{error:#}").contains("'def'"), "{error:#}");
    }
}
