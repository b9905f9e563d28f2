//! The service of the directory: ports when it is down, answers when it is up.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use quickwater_proto::{Bucket, BucketId, BucketName};
use quickwater_rpc::admin;
use quickwater_ufs::{UfsClient, UfsConfig};

use super::Check;
use crate::cli::{Target, explain};
use crate::home::RunFile;
use crate::settings::Settings;

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    match RunFile::read(&settings.dir) {
        Ok(Some(run)) if run.is_alive() => running(&settings.dir, &run),
        Ok(left) => {
            let mut checks = ports(settings);
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

fn running(dir: &std::path::Path, run: &RunFile) -> Vec<Check> {
    let target = Target::local(PathBuf::from(dir));
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
    checks.extend(self::mounts(&mounts));
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

/// Asks every mount's UFS, with this process's credentials.
fn mounts(mounts: &[admin::Mount]) -> Vec<Check> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return vec![Check::fail(
                "mounts",
                error.to_string(),
                "free some threads",
            )];
        }
    };
    let ufs = UfsClient::new(runtime.handle().clone(), UfsConfig::default());
    mounts
        .iter()
        .map(|m| runtime.block_on(mount(&ufs, m)))
        .collect()
}

async fn mount(ufs: &UfsClient, mount: &admin::Mount) -> Check {
    let found = format!("{} -> {}", mount.bucket, mount.uri);
    let row = match row(mount) {
        Ok(row) => row,
        Err(error) => return Check::fail("mount", error.to_string(), "is the service newer?"),
    };
    if !mount.trouble.is_empty() {
        return Check::fail(
            "mount",
            mount.trouble.clone(),
            "mount its file system; the service takes it up within seconds",
        );
    }
    match ufs.check(&row, false).await {
        Ok(report) if report.remarks.is_empty() => Check::ok("mount", found),
        Ok(report) => Check::ok("mount", format!("{found} ({})", report.remarks.join("; "))),
        // The service may have credentials that this shell lacks.
        Err(error) => Check::warn(
            "mount",
            format!("{found}: {error}"),
            "is the UFS up, and do its credentials exist in the environment of the service (and of this shell)?",
        ),
    }
}

fn row(mount: &admin::Mount) -> Result<Bucket, quickwater_proto::InvalidName> {
    Ok(Bucket {
        id: BucketId(0),
        name: BucketName::new(&mount.bucket)?,
        ufs: mount.uri.clone(),
        created_ms: mount.created_ms,
        metadata_ttl_ms: mount.metadata_ttl_ms,
        options: mount.options.clone().into_iter().collect(),
        tags: Vec::new(),
        owned: mount.owned,
    })
}
