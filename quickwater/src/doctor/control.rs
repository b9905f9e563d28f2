//! The way to the control plane, as a worker goes it: a connection, TLS by the cluster's
//! certificates on both sides, an answer. Absent: a session.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use quickwater_controlplane::client::{Access, LinkError, clock_of};
use tokio::runtime::Builder;

use super::{Check, clock};

pub(super) const NAME: &str = "control plane";
/// Longest wait for a connection, for each of its addresses.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for TLS and an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const REACH: &str = "is the control plane up (`curl http://CONTROL:29991/readyz`), is its address right, and do name service and network reach it from here?";
const ADDRESS: &str = "something else listens at this address, or something between changes what is sent: the worker's --cluster-control has to be where the control plane has its cluster.listen (port 29989 where nothing else is said)";
const CERTIFICATES: &str = "the certificates here must come from the `cluster init` that made those of the control plane, and all must hold now: copy this process's directory from where that one was run (cluster.certificates), and see the check `cluster certificates` here and on the machine of the control plane";
const SILENT: &str = "it takes connections and says nothing: the worker's --cluster-control has to be where the control plane has its cluster.listen; if it is, see `quickwater doctor --dir DIR` on its machine";

/// Whether a worker could come to a session there, and what time it is there.
/// `certificates`: the directory of this process's.
pub(super) fn checks(address: &str, certificates: &Path) -> Vec<Check> {
    if let Err(error) = connect(address) {
        return vec![Check::fail(NAME, format!("{address}: {error}"), REACH)];
    }
    let access = match access(address, certificates) {
        Ok(access) => access,
        Err(error) => {
            return vec![Check::warn(
                NAME,
                format!("{address} takes connections; TLS was not tried: {error}"),
                "give the certificates that the worker has: cluster.certificates",
            )];
        }
    };
    ask(&access)
}

fn connect(address: &str) -> std::io::Result<()> {
    let mut last = std::io::Error::other("the name has no address");
    for each in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&each, CONNECT_MAX) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn access(address: &str, certificates: &Path) -> Result<Access, String> {
    let read = |name: &str| {
        let path = certificates.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    Ok(Access {
        address: address.to_owned(),
        authority: read("ca.pem")?,
        certificate: read("cert.pem")?,
        key: read("key.pem")?,
    })
}

fn ask(access: &Access) -> Vec<Check> {
    let address = &access.address;
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let found = format!("{address} was not asked: {error}");
            return vec![Check::fail(NAME, found, "see the limits of this process")];
        }
    };
    let begun = SystemTime::now();
    let asked =
        runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, clock_of(access)).await });
    let at = SystemTime::now();
    match asked {
        Ok(Ok(date)) => {
            let took = at.duration_since(begun).unwrap_or_default();
            let clock = date.and_then(|date| clock::beside_control(address, &date, at, took));
            let found = format!("{address} can be reached, TLS by the cluster's certificates");
            let mut checks = vec![Check::ok(NAME, found)];
            checks.extend(clock);
            checks
        }
        Ok(Err(error)) => vec![refused(address, &error)],
        Err(_) => {
            let seconds = ANSWER_MAX.as_secs();
            let found = format!("{address} has not answered for {seconds} s");
            vec![Check::fail(NAME, found, SILENT)]
        }
    }
}

pub(super) fn refused(address: &str, error: &LinkError) -> Check {
    let advice = match error {
        LinkError::Certificates(_) => CERTIFICATES,
        LinkError::Unreached { .. } | LinkError::Refused(_) | LinkError::Ended(_) => ADDRESS,
    };
    Check::fail(NAME, format!("{address}: {error}"), advice)
}
