//! The service of the directory: ports when it is down, answers when it is up.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use quickwater_rpc::admin;

use super::{Check, ufs};
use crate::cli::{Target, explain};
use crate::home::RunFile;
use crate::settings::Settings;

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    match RunFile::read(&settings.dir) {
        Ok(Some(run)) if run.is_alive() => running(settings, &run),
        Ok(left) => {
            let mut checks = ports(settings);
            checks.extend(ufs::planned(settings));
            if left.is_some() {
                checks.push(Check::warn(
                    "run.json",
                    "left by a process that is gone",
                    "the next start replaces it",
                ));
            }
            checks
        }
        Err(error) => vec![Check::fail(
            "run.json",
            format!("{error:#}"),
            "restart the service",
        )],
    }
}

fn ports(settings: &Settings) -> Vec<Check> {
    let all = [
        ("s3.listen", settings.s3.listen),
        ("admin.listen", settings.admin_listen),
        ("metrics.listen", settings.metrics_listen),
    ];
    let tls = settings.s3.tls.as_ref().and_then(|tls| tls.listen);
    all.into_iter()
        .chain(tls.map(|address| ("s3.tls.listen", address)))
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

fn running(settings: &Settings, run: &RunFile) -> Vec<Check> {
    let target = Target::local(PathBuf::from(&settings.dir));
    let asked = target.with(|mut remote| async move {
        let status = remote.status(admin::StatusRequest {}).await;
        let status = status.map_err(|s| explain(&s))?.into_inner();
        let mounts = remote.mount_list(admin::MountListRequest {}).await;
        let mounts = mounts.map_err(|s| explain(&s))?.into_inner().mounts;
        Ok((status, mounts))
    });
    let (status, mounts) = match asked {
        Ok(answers) => answers,
        Err(error) => {
            let found = format!("pid {} does not answer: {error:#}", run.pid);
            return vec![Check::fail("service", found, "look at its log; restart it")];
        }
    };
    let mut checks = vec![Check::ok(
        "service",
        format!("pid {}, version {}", run.pid, status.version),
    )];
    checks.extend(status.nodes.iter().map(node));
    checks.extend(ufs::mounted(settings, &mounts));
    checks
}

fn node(node: &admin::Node) -> Check {
    let found = format!("{} is {}", node.name, node.state);
    if node.state == "ready" {
        return Check::ok("node", found);
    }
    Check::fail(
        "node",
        found,
        "look at its log; a suspect disk failed a write or flush: replace it",
    )
}
