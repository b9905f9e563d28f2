//! The UFSs: are they reached, and may they be read and written? Nothing is written to
//! find out, unless that was asked for, and then to S3 stores only: what is written to a
//! directory marks it, which is the service's to do.

use std::path::Path;

use quickwater_proto::{Bucket, BucketId, BucketName, InvalidName, UfsError, UfsErrorKind};
use quickwater_rpc::admin;
use quickwater_ufs::{UfsClient, UfsConfig, UfsReport};
use rustix::fs::Access;
use rustix::io::Errno;
use tokio::runtime::Runtime;

use super::{Check, Verdict};
use crate::settings::Settings;

/// A name to ask the default UFS under; it is in no metadata.
const DEFAULT_NAME: &str = "default-ufs";

/// Asks with the settings' time limits, from a runtime of its own.
pub(super) struct Asker {
    runtime: Runtime,
    ufs: UfsClient,
    probe_writes: bool,
}

impl Asker {
    /// # Errors
    /// There are no threads for it.
    pub(super) fn new(settings: &Settings, probe_writes: bool) -> Result<Self, Check> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Check::fail("mounts", e.to_string(), "free some threads"))?;
        let config = UfsConfig {
            connect_timeout: settings.ufs.connect_timeout,
            request_timeout: settings.ufs.request_timeout,
            ..UfsConfig::default()
        };
        let ufs = UfsClient::new(runtime.handle().clone(), config);
        Ok(Self {
            runtime,
            ufs,
            probe_writes,
        })
    }

    fn ask(&self, row: &Bucket) -> Result<UfsReport, UfsError> {
        let probe = self.probe_writes && is_store(&row.ufs);
        self.runtime.block_on(self.ufs.check(row, probe))
    }
}

fn is_store(uri: &str) -> bool {
    uri.starts_with("s3://")
}

/// What a service that is to start with these settings will ask.
pub(super) fn planned(settings: &Settings, asker: &Result<Asker, Check>) -> Vec<Check> {
    let asker = match asker {
        Ok(asker) => asker,
        Err(check) => return vec![check.clone()],
    };
    let ufs = &settings.ufs;
    let default = (DEFAULT_NAME, &ufs.uri, &ufs.options);
    let mounts = settings
        .mounts
        .iter()
        .map(|m| (m.bucket.as_str(), &m.uri, &m.options));
    let mut checks = Vec::new();
    for (at, (name, uri, options)) in [default].into_iter().chain(mounts).enumerate() {
        let (what, label) = match at {
            0 => ("ufs.uri", uri.clone()),
            _ => ("mount", format!("{name} -> {uri}")),
        };
        // The service makes the directory of the default UFS.
        let path = uri.strip_prefix("file://").map(Path::new);
        if let Some(path) = path.filter(|path| at == 0 && !path.exists()) {
            checks.push(to_be_made(what, path));
            continue;
        }
        checks.push(match row(name, uri, options.clone()) {
            Ok(row) => judge(what, &label, uri, asker.ask(&row), true),
            Err(error) => Check::fail(what, error.to_string(), "choose a bucket's name"),
        });
    }
    checks
}

/// The mounts of a running service, with this process's credentials.
pub(super) fn mounted(asker: &Result<Asker, Check>, mounts: &[admin::Mount]) -> Vec<Check> {
    match asker {
        Ok(asker) => mounts.iter().map(|m| mount(asker, m)).collect(),
        Err(check) => vec![check.clone()],
    }
}

fn mount(asker: &Asker, mount: &admin::Mount) -> Check {
    if !mount.trouble.is_empty() && !is_store(&mount.uri) {
        return Check::fail(
            "mount",
            mount.trouble.clone(),
            "mount its file system; the service takes it up within seconds",
        );
    }
    let label = format!("{} -> {}", mount.bucket, mount.uri);
    let options = mount.options.clone().into_iter().collect();
    let seen = match row(&mount.bucket, &mount.uri, options) {
        Ok(row) => judge("mount", &label, &mount.uri, asker.ask(&row), false),
        Err(error) => Check::fail("mount", error.to_string(), "is the service newer?"),
    };
    match seen.verdict {
        // What counts is what the service sees.
        Verdict::Ok | Verdict::Warn if !mount.trouble.is_empty() => Check::fail(
            "mount",
            mount.trouble.clone(),
            "the service does not get there with its network and credentials, and its log says more: compare its environment with this shell's",
        ),
        _ => seen,
    }
}

fn row(name: &str, uri: &str, options: Vec<(String, String)>) -> Result<Bucket, InvalidName> {
    Ok(Bucket {
        id: BucketId(0),
        name: BucketName::new(name)?,
        ufs: uri.to_owned(),
        created_ms: 0,
        metadata_ttl_ms: 0,
        options,
        tags: Vec::new(),
        owned: false,
    })
}

/// `own`: this process asks with the environment that the service will have.
pub(super) fn judge(
    what: &str,
    label: &str,
    uri: &str,
    asked: Result<UfsReport, UfsError>,
    own: bool,
) -> Check {
    let report = match asked {
        Ok(report) => report,
        Err(error) => return refused(what, label, &error, own),
    };
    if let Some(path) = uri.strip_prefix("file://")
        && let Err(errno) = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK)
    {
        return not_writable(what, label, errno);
    }
    let mut remarks = report.remarks;
    match report.writable {
        Some(false) => return not_probed(what, label, &remarks.join("; ")),
        Some(true) => remarks.push("an object was written, read back and deleted".into()),
        None if is_store(uri) => {
            remarks.push("listed; whether it can be written is tried with --probe-writes".into());
        }
        None => {}
    }
    match remarks.is_empty() {
        true => Check::ok(what, label),
        false => Check::ok(what, format!("{label} ({})", remarks.join("; "))),
    }
}

fn refused(what: &str, label: &str, error: &UfsError, own: bool) -> Check {
    let found = format!("{label}: {error}");
    // Whoever finds none asks last at an address of the cloud, which is away.
    let no_credentials = error.message.contains("credential");
    let away = matches!(
        error.kind,
        UfsErrorKind::Unavailable | UfsErrorKind::Timeout
    );
    let advice = match error.kind {
        _ if no_credentials => {
            "give the service credentials, in its environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; this shell wants them too) or by the option `credentials` of the mount: `quickwater mount add --help`"
        }
        UfsErrorKind::Unavailable | UfsErrorKind::Timeout => {
            "is the UFS up, is its endpoint right, and do its network and name service reach here? Until then only cached objects are read"
        }
        UfsErrorKind::AccessDenied => {
            "give its credentials list, read and write of the location, or the service's user rights in the directory; are they in the environment of the service (and of this shell)?"
        }
        UfsErrorKind::NotFound => "make the directory or bucket, or mend the location",
        _ => "mend the location or its options: `quickwater mount add --help`",
    };
    // A running service may have credentials that this shell lacks.
    match own || (away && !no_credentials) {
        true => Check::fail(what, found, advice),
        false => Check::warn(what, found, advice),
    }
}

fn not_probed(what: &str, label: &str, why: &str) -> Check {
    Check::warn(
        what,
        format!(
            "{label}: it can be listed, but an object cannot be written, read back and deleted: {why}"
        ),
        "give its credentials the right to put, get and delete objects there, or its paths the policy READ_ONLY, which refuses writes at once",
    )
}

fn not_writable(what: &str, label: &str, errno: Errno) -> Check {
    let found = format!("{label}: it can be read, but not written: {errno}");
    let advice = match errno {
        Errno::ROFS => {
            "writes will fail: mount its file system for writing, or give its paths the policy READ_ONLY, which refuses them at once"
        }
        _ => {
            "writes will fail: give the service's user the right to write there, or give its paths the policy READ_ONLY, which refuses them at once"
        }
    };
    Check::warn(what, found, advice)
}

/// A directory that is not there yet; the nearest one above it must take it.
fn to_be_made(what: &str, path: &Path) -> Check {
    let above = path.ancestors().find(|d| d.exists());
    let above = above.unwrap_or(Path::new("/"));
    match rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if above.is_dir() => Check::ok(what, format!("{} will be made", path.display())),
        Ok(()) => Check::fail(
            what,
            format!("{} is no directory", above.display()),
            "choose another ufs.uri",
        ),
        Err(errno) => Check::fail(
            what,
            format!(
                "{} cannot be made: {}: {errno}",
                path.display(),
                above.display()
            ),
            "make it, or give the service's user the right to",
        ),
    }
}
