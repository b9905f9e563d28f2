//! The UFSs: are they reached, and may they be read and written? Nothing is written to
//! find out, unless that was asked for, and then to S3 stores only: what is written to a
//! directory marks it, which is the service's to do.

use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use quickwater_proto::{Bucket, BucketId, BucketName, InvalidName, UfsError, UfsErrorKind};
use quickwater_rpc::admin;
use quickwater_ufs::{StoreClock, UfsClient, UfsConfig, UfsReport};
use rustix::fs::Access;
use rustix::io::Errno;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::service::Role;
use super::{Check, Verdict, clock};
use crate::settings::Settings;

/// Longest wait for a location.
const ASK_WAIT: Duration = Duration::from_secs(15);
/// Longest wait for the time at a store.
const CLOCK_WAIT: Duration = Duration::from_secs(5);
/// Locations asked at a time.
const ASKED_MAX: usize = 16;
/// Says that variables of credentials are missing, which the text names.
const UNSET: &str = "are not both set";
/// A name to ask the default UFS under; it is in no metadata.
const DEFAULT_NAME: &str = "default-ufs";

/// Asks with the settings' time limits, from a runtime of its own.
pub(super) struct Asker {
    /// There until it is dropped.
    runtime: Option<Runtime>,
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
            runtime: Some(runtime),
            ufs,
            probe_writes,
        })
    }

    /// Asks locations side by side, each for a bounded time.
    fn ask(&self, rows: &[Bucket]) -> Vec<Answer> {
        let Some(runtime) = &self.runtime else {
            return Vec::new();
        };
        let asking = stream::iter(rows).map(|row| self.ask_one(row));
        runtime.block_on(asking.buffered(ASKED_MAX).collect())
    }

    async fn ask_one(&self, row: &Bucket) -> Answer {
        let probe = self.probe_writes && is_store(&row.ufs);
        let late = || {
            let seconds = ASK_WAIT.as_secs();
            UfsError::new(
                UfsErrorKind::Timeout,
                format!("no answer within {seconds} s"),
            )
        };
        let Ok(report) = timeout(ASK_WAIT, self.ufs.check(row, probe)).await else {
            return Answer {
                report: Err(late()),
                clock: None,
            };
        };
        // Why it does not answer, if it does not, the report has told.
        let clock = timeout(CLOCK_WAIT, self.ufs.clock(row)).await;
        Answer {
            report,
            clock: clock.ok().and_then(Result::ok).flatten(),
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // A file system that hangs is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a location said.
struct Answer {
    report: Result<UfsReport, UfsError>,
    clock: Option<StoreClock>,
}

impl Answer {
    /// The clock of a store is told once, however many locations it has.
    fn clock(&self, label: &str, told: &mut Vec<String>) -> Option<Check> {
        let check = clock::beside_store(label, self.clock.as_ref()?);
        let again = check.verdict == Verdict::Ok && !told.is_empty();
        told.push(label.to_owned());
        (!again).then_some(check)
    }
}

fn is_store(uri: &str) -> bool {
    uri.starts_with("s3://")
}

/// What a service that is to start with these settings will ask.
pub(super) fn planned(settings: &Settings, role: Role, asker: &Result<Asker, Check>) -> Vec<Check> {
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
    let mut rows = Vec::new();
    let mut labels = Vec::new();
    for (at, (name, uri, options)) in [default].into_iter().chain(mounts).enumerate() {
        let (what, label) = match at {
            0 => ("ufs.uri", uri.clone()),
            _ => ("mount", format!("{name} -> {uri}")),
        };
        // The service makes the directory of the default UFS.
        let path = uri.strip_prefix("file://").map(Path::new);
        if let Some(path) = path.filter(|path| at == 0 && !path.exists()) {
            checks.push(match role {
                Role::Worker => not_seen(what, path),
                Role::Whole | Role::Control => to_be_made(what, path),
            });
            continue;
        }
        match row(name, uri, options.clone()) {
            Ok(row) => {
                rows.push(row);
                labels.push((what, label));
            }
            Err(error) => {
                checks.push(Check::fail(
                    what,
                    error.to_string(),
                    "choose a bucket's name",
                ));
            }
        }
    }
    let mut told = Vec::new();
    let answers = asker.ask(&rows);
    for ((answer, row), (what, label)) in answers.into_iter().zip(&rows).zip(labels) {
        let clock = answer.clock(&label, &mut told);
        checks.push(judge(what, &label, &row.ufs, answer.report, true));
        checks.extend(clock);
    }
    checks
}

/// The mounts of a running service, with this process's credentials.
pub(super) fn mounted(asker: &Result<Asker, Check>, mounts: &[admin::Mount]) -> Vec<Check> {
    let asker = match asker {
        Ok(asker) => asker,
        Err(check) => return vec![check.clone()],
    };
    let mut checks = Vec::new();
    let mut asked = Vec::new();
    for mount in mounts {
        if !mount.trouble.is_empty() && !is_store(&mount.uri) {
            let advice = "mount its file system; the service takes it up within seconds";
            checks.push(Check::fail("mount", mount.trouble.clone(), advice));
            continue;
        }
        let options = mount.options.clone().into_iter().collect();
        match row(&mount.bucket, &mount.uri, options) {
            Ok(row) => asked.push((mount, row)),
            Err(error) => {
                checks.push(Check::fail(
                    "mount",
                    error.to_string(),
                    "is the service newer?",
                ));
            }
        }
    }
    let rows: Vec<Bucket> = asked.iter().map(|(_, row)| row.clone()).collect();
    let mut told = Vec::new();
    for (answer, (of, _)) in asker.ask(&rows).into_iter().zip(asked) {
        let label = format!("{} -> {}", of.bucket, of.uri);
        let clock = answer.clock(&label, &mut told);
        checks.push(mount(of, &label, answer.report));
        checks.extend(clock);
    }
    checks
}

fn mount(mount: &admin::Mount, label: &str, asked: Result<UfsReport, UfsError>) -> Check {
    let seen = judge("mount", label, &mount.uri, asked, false);
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
        UfsErrorKind::AccessDenied if error.message.contains(UNSET) => {
            "set both in the environment of the service (and of this shell), or mend the option `credentials`"
        }
        UfsErrorKind::AccessDenied => {
            "are its credentials those that were meant, in the environment of the service and of this shell? Then give them list, read and write of the location, or the service's user rights in the directory"
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

/// A directory that the control plane makes, and this worker does not see.
fn not_seen(what: &str, path: &Path) -> Check {
    Check::warn(
        what,
        format!(
            "{} is not here, and a worker does not make it",
            path.display()
        ),
        "if it is the ufs.uri of the cluster, mount its file system on this node; if not, give doctor the settings that the worker has",
    )
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
