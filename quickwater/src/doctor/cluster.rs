//! A process of a cluster: its certificates, the way to its control plane. Absent: what
//! the control plane says of it.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, SystemTime};

use quickwater_controlplane::rpc::identity::Role as Identified;
use quickwater_worker::tls::{Identity, Validity};

use super::service::Role;
use super::{Check, Verdict, clock};
use crate::settings::Settings;

/// Longest wait for a connection to the control plane, for each of its addresses.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// From here on a certificate should be renewed.
const RENEW: Duration = Duration::from_secs(14 * 24 * 3600);
const CERTIFICATES: &str = "cluster certificates";
const MAKE: &str = "make them with `quickwater cluster init` and copy this process's directory here: cluster.certificates";

/// Nothing of a service that is whole, nor of a process whose settings were not given.
pub(super) fn checks(settings: &Settings, role: Role) -> Vec<Check> {
    let cluster = &settings.cluster;
    let mut checks = Vec::new();
    if role != Role::Whole && (cluster.certificates.exists() || cluster.control.is_some()) {
        checks.push(certificates(settings, role));
    }
    match &cluster.control {
        Some(address) => {
            let control = control(address);
            let is_reached = control.verdict == Verdict::Ok;
            checks.push(control);
            if is_reached {
                checks.extend(clock::beside_control(settings));
            }
        }
        None if role == Role::Worker => checks.push(Check::warn(
            "control plane",
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
    let left = validity.left(now);
    let names = validity.names.join(", ");
    let found = format!("for {names}, {} days left", left.as_secs() / (24 * 3600));
    if left.is_zero() || now < validity.from {
        return Check::fail(
            CERTIFICATES,
            format!("{found}: not valid now"),
            "make new ones with `quickwater cluster init`, and see whether the clock is right",
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
    if left < RENEW {
        let advice = "make new ones with `quickwater cluster init`; they are read at the start";
        return Check::warn(CERTIFICATES, found, advice);
    }
    Check::ok(CERTIFICATES, found)
}

fn control(address: &str) -> Check {
    let name = "control plane";
    let advice = "is the control plane up (`curl http://CONTROL:29991/readyz`), is its address right, and do name service and network reach it from here?";
    let addresses = match address.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Check::fail(name, format!("{address}: {error}"), advice),
    };
    let mut why = "the name has no address".to_owned();
    for each in addresses {
        match TcpStream::connect_timeout(&each, CONNECT_MAX) {
            Ok(_) => return Check::ok(name, format!("{address} can be reached")),
            Err(error) => why = error.to_string(),
        }
    }
    Check::fail(name, format!("{address}: {why}"), advice)
}
