//! The service of the directory: ports when it is down, answers when it is up.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quickwater_rpc::admin;
use tonic::{Code, Status};

use super::ufs::{self, Asker};
use super::{Check, Verdict, cluster};
use crate::cli::{Target, explain};
use crate::home::{RunFile, Verb, state_of};
use crate::serve::apart::BELONGING;
use crate::settings::Settings;

/// Longest wait for the answer of a worker.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest wait for what a service tells of itself, which asks its mounts for two seconds.
const TOLD_MAX: Duration = Duration::from_secs(10);
/// Longest answer of it that is read, bytes: of metrics a line for each bucket and operation.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Says of how many directories of UFSs a worker does without, because they are not the ones
/// that it wrote to.
const MISPLACED: &str = "quickwater_ufs_misplaced_mounts";

/// How else this verb takes the admin token.
const OTHERWISE: &str = ", or give the token by QUICKWATER_ADMIN_TOKEN";

/// What a worker is called.
pub(super) const WORKER: &str = "worker";

/// Which process of Quickwater a directory is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Control plane and worker in one.
    Whole,
    /// A control plane apart: no cache, no shards.
    Control,
    /// A worker apart: its metadata is elsewhere.
    Worker,
}

impl Role {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Whole => "service",
            Self::Control => "control plane",
            Self::Worker => WORKER,
        }
    }
}

/// The run file of a process.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) run: RunFile,
    /// Whether the process is still there.
    pub(super) is_alive: bool,
}

/// # Errors
/// The run file cannot be read or understood.
pub(super) fn found(settings: &Settings) -> anyhow::Result<Option<Found>> {
    let run = RunFile::read(&settings.dir)?;
    Ok(run.map(|run| Found {
        is_alive: run.is_alive(),
        run,
    }))
}

/// As the run file says, also that of a process that was killed; or as the directory tells
/// of who ended well; or as the settings say. `verb`: what was started there last.
pub(super) fn role(
    settings: &Settings,
    found: &anyhow::Result<Option<Found>>,
    verb: Option<Verb>,
) -> Role {
    let cluster = &settings.cluster;
    let of_verb = |verb| match verb {
        Verb::Serve => Role::Whole,
        Verb::Control => Role::Control,
        Verb::Worker => Role::Worker,
    };
    let left = || verb.map(of_verb).or_else(|| left_by(&settings.dir));
    match found {
        Ok(Some(Found { run, .. })) if run.admin.is_none() => Role::Worker,
        Ok(Some(Found { run, .. })) if run.s3.is_none() && run.s3_tls.is_none() => Role::Control,
        Ok(Some(_)) => Role::Whole,
        _ => match left() {
            Some(role) => role,
            None if cluster.control.is_some() || cluster.node.is_some() => Role::Worker,
            None => Role::Whole,
        },
    }
}

/// Whose directory it is, by what versions that noted no start have left in it.
fn left_by(dir: &Path) -> Option<Role> {
    let has = |name: &str| dir.join(name).exists();
    match () {
        () if has(BELONGING) => Some(Role::Worker),
        () if has("store") => Some(Role::Whole),
        () if has("admin-token") => Some(Role::Control),
        () => None,
    }
}

pub(super) fn checks(
    settings: &Settings,
    role: Role,
    found: anyhow::Result<Option<Found>>,
    ufs: &Result<Asker, Check>,
) -> Vec<Check> {
    match found {
        Ok(Some(Found { run, is_alive })) => match (is_alive, role) {
            (false, _) => {
                let mut checks = vec![gone(&run, role)];
                checks.extend(ports(settings, role));
                checks.extend(ufs::planned(settings, role, ufs));
                checks
            }
            (true, Role::Worker) => {
                let worker = ready(&run, WORKER);
                // Who does not answer is not asked twice.
                let metrics = match worker.verdict {
                    Verdict::Ok => metrics(&run),
                    _ => None,
                };
                let mut checks = vec![worker];
                if let Some(metrics) = metrics {
                    checks.extend(misplaced(&metrics));
                    checks.extend(cluster::in_use(settings, &metrics));
                }
                checks.extend(ufs::planned(settings, role, ufs));
                checks
            }
            (true, _) => {
                let mut checks = running(settings, &run, ufs);
                // Who does not answer is not asked twice.
                let answers = checks
                    .iter()
                    .any(|c| c.name == "service" && c.verdict == Verdict::Ok);
                if role == Role::Control && answers {
                    let metrics = metrics(&run);
                    checks.extend(metrics.and_then(|all| cluster::in_use(settings, &all)));
                }
                checks
            }
        },
        Ok(None) => {
            let mut checks = ports(settings, role);
            checks.extend(ufs::planned(settings, role, ufs));
            checks
        }
        Err(error) => {
            let mut checks = vec![Check::fail(
                "run.json",
                format!("{error:#}"),
                "run doctor as the service's user or as root; if it can be read and is damaged, restart the service",
            )];
            checks.extend(ufs::planned(settings, role, ufs));
            checks
        }
    }
}

/// A process that left its run file behind.
pub(super) fn gone(run: &RunFile, role: Role) -> Check {
    let (what, pid) = (role.word(), run.pid);
    Check::warn(
        "service",
        format!(
            "the {what} is not running: run.json was left by a process that is gone, pid {pid}"
        ),
        "it was killed or crashed: see the end of its log, and dmesg for a kill for lack of memory; start it again, which replaces run.json",
    )
}

/// Whether a process says that it is ready. Of a worker that is all: it has no admin API,
/// its control plane has.
fn ready(run: &RunFile, what: &str) -> Check {
    let address = reachable(run.metrics);
    let name = format!("{what}, pid {}", run.pid);
    match get(address, "/readyz") {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
            Check::ok("service", format!("{name}, ready"))
        }
        Ok(answer) => {
            let said = answer.rsplit("\r\n").next().unwrap_or_default().trim();
            Check::fail(
                "service",
                format!("{name}: {said}"),
                "look at its log; of a worker, `quickwater node list` at its control plane says how that sees it",
            )
        }
        Err(error) if is_late(&error) => silent(run.pid, what, ANSWER_MAX),
        Err(error) => Check::fail(
            "service",
            format!("{name} does not answer at {address}: {error}"),
            "look at its log; restart it",
        ),
    }
}

/// A read timeout of a socket is `EAGAIN`.
fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A process that is there and says nothing.
fn silent(pid: u32, what: &str, waited: Duration) -> Check {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| state_of(&stat));
    let name = format!("{what}, pid {pid}");
    let waited = waited.as_secs();
    match state {
        Some('T' | 't') => Check::fail(
            "service",
            format!("{name} does not answer: it is stopped (a signal, or a debugger)"),
            &go_on(pid, what),
        ),
        Some('D') => Check::fail(
            "service",
            format!("{name} has not answered for {waited} s: it waits for a disk or a file system"),
            "see dmesg for the disk, and whether a network file system of a mount hangs",
        ),
        _ => Check::fail(
            "service",
            format!("{name} has not answered for {waited} s"),
            "is the machine overloaded, or the container paused (its cgroup frozen)? Look at its log; restart it if it stays so",
        ),
    }
}

/// What to do about a process that is stopped.
pub(super) fn go_on(pid: u32, what: &str) -> String {
    let meanwhile = match what {
        WORKER => "; its slots have gone to others once its lease was over",
        _ => "",
    };
    format!("let it go on: `kill -CONT {pid}`{meanwhile}")
}

fn token_unread(error: &anyhow::Error) -> Check {
    let text = format!("{error:#}");
    let (found, advice) = text.split_once("; ").unwrap_or((&text, ""));
    let found = format!("{found}: the service was not asked for its workers and mounts");
    Check::fail("admin token", found, advice)
}

fn token_refused() -> Check {
    Check::fail(
        "admin token",
        "the service takes another one: its workers and mounts were not asked for",
        "QUICKWATER_ADMIN_TOKEN may be that of another service: unset it. If DIR/admin-token was changed, put the old one back, or restart the service, which reads it at its start",
    )
}

/// The metrics of a process; nothing if it does not answer, which is told elsewhere.
fn metrics(run: &RunFile) -> Option<String> {
    get(reachable(run.metrics), "/metrics").ok()
}

/// Whether a worker does without directories; nothing if it does not.
fn misplaced(metrics: &str) -> Option<Check> {
    let count = misplaced_of(metrics)?;
    (count > 0).then(|| {
        Check::fail(
            "mounts of the worker",
            format!("{count} are not the directories that their buckets were written to: neither read nor written there"),
            "the worker's log names them; mount their file systems on this node, and the worker takes them up within seconds",
        )
    })
}

pub(super) fn misplaced_of(metrics: &str) -> Option<u64> {
    let mut values = metrics.lines().filter_map(|l| l.strip_prefix(MISPLACED));
    values.next()?.trim().parse().ok()
}

/// The answer to a GET, head and all.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// An address that was listened at: one of this machine where all are meant.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

fn ports(settings: &Settings, role: Role) -> Vec<Check> {
    let mut all = vec![("metrics.listen", settings.metrics_listen)];
    if role != Role::Worker {
        all.push(("admin.listen", settings.admin_listen));
    }
    if role == Role::Control {
        all.push(("cluster.listen", settings.cluster.listen));
    } else {
        all.push(("s3.listen", settings.s3.listen));
        let tls = settings.s3.tls.as_ref().and_then(|tls| tls.listen);
        all.extend(tls.map(|address| ("s3.tls.listen", address)));
    }
    all.into_iter()
        .map(|(key, address)| port(key, address))
        .collect()
}

fn port(key: &str, address: SocketAddr) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(key, format!("{address} is free")),
        Err(error) => Check::fail(
            key,
            format!("{address}: {error}"),
            "another process has it, or the address is not of this host; choose another (port 0 = any)",
        ),
    }
}

/// Why the admin API of a service that runs did not tell how it is.
enum Untold {
    /// The time for an answer is over.
    Late,
    /// It takes another token.
    Refused,
    /// It is not reached, or says something else.
    Broken(anyhow::Error),
}

impl From<Status> for Untold {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unauthenticated => Self::Refused,
            _ => Self::Broken(explain(&status)),
        }
    }
}

type Told = (admin::StatusReply, Vec<admin::Mount>);

fn ask(target: &Target) -> Result<Told, Untold> {
    let asked = target.with(|mut remote| async move {
        let asking = async {
            let status = remote.status(admin::StatusRequest {}).await?;
            let mounts = remote.mount_list(admin::MountListRequest {}).await?;
            Ok((status.into_inner(), mounts.into_inner().mounts))
        };
        let asked = tokio::time::timeout(TOLD_MAX, asking).await;
        Ok(asked.unwrap_or(Err(Untold::Late)))
    });
    asked.unwrap_or_else(|error| Err(Untold::Broken(error)))
}

fn running(settings: &Settings, run: &RunFile, ufs: &Result<Asker, Check>) -> Vec<Check> {
    let target = Target::local(PathBuf::from(&settings.dir));
    if let Err(error) = target.local_token(OTHERWISE) {
        // How it is it tells everyone.
        return vec![ready(run, "service"), token_unread(&error)];
    }
    let (status, mounts) = match ask(&target) {
        Ok(answers) => answers,
        Err(Untold::Late) => return vec![silent(run.pid, "service", TOLD_MAX)],
        Err(Untold::Refused) => return vec![ready(run, "service"), token_refused()],
        Err(Untold::Broken(error)) => {
            let found = format!("pid {} does not answer: {error:#}", run.pid);
            return vec![Check::fail("service", found, "look at its log; restart it")];
        }
    };
    let mut checks = vec![Check::ok(
        "service",
        format!("pid {}, version {}", run.pid, status.version),
    )];
    checks.extend(status.nodes.iter().map(node));
    checks.extend(status.refused.iter().map(refused));
    checks.extend(ufs::mounted(ufs, &mounts));
    checks
}

/// A worker that wants to be one, and is not.
pub(super) fn refused(refused: &admin::RefusedWorker) -> Check {
    let found = format!("{} is refused: {}", refused.name, refused.why);
    Check::fail("worker", found, "do as the text says, then look again")
}

pub(super) fn node(node: &admin::Node) -> Check {
    let found = format!("{} is {}", node.name, node.state);
    match node.state.as_str() {
        "ready" | "draining" | "drained" => Check::ok("node", found),
        "starting" | "stopping" => Check::warn("node", found, "look again when it has"),
        "removed" => Check::warn(
            "node",
            found,
            "it does not come back under this name: `quickwater node remove` said that its data is lost",
        ),
        "silent" | "gone" => Check::fail(
            "node",
            found,
            "is its process running, and does its network reach the control plane? `quickwater doctor --dir DIR` there looks at both",
        ),
        _ => Check::fail(
            "node",
            found,
            "look at its log; a suspect disk failed a write or flush: replace it",
        ),
    }
}
