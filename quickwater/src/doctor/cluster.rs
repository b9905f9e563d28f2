//! A process of a cluster: its certificates, and whether it knows of a control plane. Absent:
//! the way there, and what the control plane says of the process.

use std::time::{Duration, SystemTime};

use quickwater_controlplane::rpc::identity::Role as Identified;
use quickwater_worker::tls::{Identity, Validity};

use super::service::Role;
use super::{Check, control};
use crate::cluster_certificate::{Standing, until};
use crate::date;
use crate::settings::Settings;

/// Says until when the certificate holds that a process has read at its start.
const NOT_AFTER: &str =
    "quickwater_cluster_certificate_not_after_timestamp_seconds{certificate=\"own\"}";
const CERTIFICATES: &str = "cluster certificates";
const RENEW: &str = "make it anew where the cluster's authority is (`quickwater cluster renew --out DIR`), copy cert.pem here and restart the process, which reads it at its start";
const MAKE: &str = "make them with `quickwater cluster init` and copy this process's directory here: cluster.certificates";

/// Nothing of a service that is whole, nor of a process whose settings were not given.
pub(super) fn checks(settings: &Settings, role: Role) -> Vec<Check> {
    let cluster = &settings.cluster;
    let mut checks = Vec::new();
    if role != Role::Whole && (cluster.certificates.exists() || cluster.control.is_some()) {
        checks.push(certificates(settings, role));
        let pem = std::fs::read(cluster.certificates.join("ca.pem"));
        checks.extend(pem.ok().and_then(|pem| authority(&pem)));
    }
    match &cluster.control {
        Some(address) => checks.extend(control::checks(address, &cluster.certificates)),
        None if role == Role::Worker => checks.push(Check::warn(
            control::NAME,
            "not looked at: its address was not given",
            "give the worker's settings as it has them (--cluster-control, --cluster-certificates, --node-id, or --config)",
        )),
        None => {}
    }
    checks
}

fn certificates(settings: &Settings, role: Role) -> Check {
    let dir = &settings.cluster.certificates;
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let files = read("ca.pem").and_then(|_| Ok((read("cert.pem")?, read("key.pem")?)));
    let (chain, key) = match files {
        Ok(files) => files,
        Err(error) => return Check::fail(CERTIFICATES, error, MAKE),
    };
    match Identity::new(&chain, &key) {
        Ok((_, validity)) => {
            let wanted = match (role, &settings.cluster.node) {
                (Role::Control, _) => Some(Identified::Control),
                (_, Some(node)) => Some(Identified::Worker(node.clone())),
                (_, None) => None,
            };
            let wanted = wanted.map(|wanted| wanted.name());
            valid(&validity, wanted.as_deref(), SystemTime::now())
        }
        Err(error) => Check::fail(CERTIFICATES, error.to_string(), MAKE),
    }
}

/// `wanted`: the name that the process goes by in the cluster, if it is known.
pub(super) fn valid(validity: &Validity, wanted: Option<&str>, now: SystemTime) -> Check {
    let names = validity.names.join(", ");
    let found = format!("for {names}, {}", until(validity, now));
    let standing = Standing::of(validity, now);
    if matches!(standing, Standing::Expired | Standing::NotYetValid) {
        let found = format!("{found}: not valid now");
        return Check::fail(
            CERTIFICATES,
            found,
            &format!("{RENEW}, and see whether the clock is right"),
        );
    }
    if let Some(wanted) = wanted
        && !validity.names.iter().any(|name| name == wanted)
    {
        return Check::fail(
            CERTIFICATES,
            format!("{found}; not for {wanted}"),
            "a process must go by the name in its certificate: see --node-id and cluster.certificates",
        );
    }
    match standing {
        Standing::Expiring => Check::warn(CERTIFICATES, found, RENEW),
        _ => Check::ok(CERTIFICATES, found),
    }
}

/// The authority in `ca.pem` which ends first. TLS between processes of Quickwater does not
/// judge it by its date.
fn authority(pem: &[u8]) -> Option<Check> {
    let all = Validity::of_pem(pem).ok()?;
    let first = all.into_iter().min_by_key(|validity| validity.until)?;
    let now = SystemTime::now();
    (Standing::of(&first, now) != Standing::Valid).then(|| {
        Check::warn(
            "cluster authority",
            until(&first, now),
            "other programs may no longer trust the cluster's certificates: plan a time in which all processes get new ones, by another `quickwater cluster init`",
        )
    })
}

/// Whether a process that runs goes by the certificate that is in its directory by now.
/// `metrics`: its metrics.
pub(super) fn in_use(settings: &Settings, metrics: &str) -> Option<Check> {
    let pem = std::fs::read(settings.cluster.certificates.join("cert.pem")).ok()?;
    let all = Validity::of_pem(&pem).ok()?;
    in_use_of(all.first()?, metrics)
}

/// `there`: what the file says.
pub(super) fn in_use_of(there: &Validity, metrics: &str) -> Option<Check> {
    let mut told = metrics.lines().filter_map(|l| l.strip_prefix(NOT_AFTER));
    let seconds: f64 = told.next()?.trim().parse().ok()?;
    let used = SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
    // Both are whole seconds.
    let apart = used
        .duration_since(there.until)
        .unwrap_or_else(|e| e.duration());
    (apart >= Duration::from_secs(1)).then(|| {
        let (used, there) = (date::day(used), date::day(there.until));
        Check::warn(
            "cluster certificate in use",
            format!("that which was there at the start, until {used}; the one that is there now holds until {there}"),
            "restart the process: certificates of the cluster are read at the start",
        )
    })
}
