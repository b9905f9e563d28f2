//! `cluster renew`: certificates that are there, anew, by the same authority and with the same
//! keys. One file is put in the place of another, so nothing is ever half renewed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use quickwater_controlplane::rpc::identity::Role;
use quickwater_proto::NodeId;
use quickwater_worker::tls::Validity;
use rcgen::KeyPair;
use serde_json::json;

use super::{Authority, DAY, member_params};
use crate::cli::exit::Kind::Usage;
use crate::cli::output::Output;
use crate::date;

/// Flags of `cluster renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// Directory that `cluster init` put them in
    #[arg(long, value_name = "DIR", default_value = "./cluster")]
    pub(super) out: PathBuf,
    /// That of the control plane
    #[arg(long)]
    pub(super) control: bool,
    /// That of a worker, by its node id; any number of them
    #[arg(long = "worker", value_name = "ID")]
    pub(super) workers: Vec<String>,
    /// That of an admin, by name; any number of them
    #[arg(long = "admin", value_name = "NAME")]
    pub(super) admins: Vec<String>,
    /// Only what ends in fewer days than these
    #[arg(long, value_name = "DAYS")]
    pub(super) within: Option<u32>,
    #[command(flatten)]
    pub(super) output: Output,
}

pub(super) const RENEW_HELP: &str = "\
Writes cert.pem anew in the directories of those that are named, or of all that are there:
for another 825 days, by the authority in DIR/ca, for the key that is there. One that is damaged
is made anew however long it would have held. Copy cert.pem to
the machine of its process and restart that: it is read at the start only. One at a time will
do: old and new certificates trust each other. `quickwater doctor` on the machine and
`quickwater status` tell until when the one in use holds.

For a new key as well, remove the member's directory and run `cluster init` for it.

Examples:
  quickwater cluster renew --out certs --within 90
  quickwater cluster renew --out certs --worker n1
  scp certs/workers/n1/cert.pem n1:/etc/quickwater/certs/ && ssh n1 systemctl restart quickwater-worker";

/// What was done about one certificate.
struct Renewed {
    dir: PathBuf,
    until: SystemTime,
    new: bool,
    /// What is wrong with the certificate that was there, which could not be read.
    damaged: Option<String>,
}

pub(super) fn run(args: &RenewArgs) -> Result<ExitCode> {
    let members = members(args)?;
    let authority = Authority::load(&args.out.join("ca"))?;
    let now = SystemTime::now();
    // All are looked at before one is changed.
    for (dir, role) in &members {
        standing(&authority, dir, role)?;
    }
    let within = args.within.map(|days| DAY * days);
    let mut done = Vec::new();
    for (dir, role) in members {
        done.push(renew(&authority, dir, &role, (within, now))?);
    }
    let shown: Vec<_> = done.iter().map(shown).collect();
    args.output.show(&json!({ "certificates": shown }), || {
        let line = |one: &Renewed| {
            let what = if one.new { "renewed" } else { "kept" };
            let (until, dir) = (date::day(one.until), one.dir.display());
            let why = one.damaged.iter();
            let why: String = why.map(|why| format!("  (was damaged: {why})")).collect();
            format!("{what:<8} until {until}  {dir}{why}\n")
        };
        let mut text: String = done.iter().map(line).collect();
        if done.iter().any(|one| one.new) {
            text.push_str("\nCopy each cert.pem to the machine of its process and restart that.\n");
        }
        text
    })
}

fn shown(one: &Renewed) -> serde_json::Value {
    json!({
        "directory": one.dir.display().to_string(),
        "renewed": one.new,
        "damaged": one.damaged,
        "until": date::day(one.until),
    })
}

/// Those that were named, or all that are there, and who they are.
fn members(args: &RenewArgs) -> Result<BTreeMap<PathBuf, Role>> {
    let out = &args.out;
    let mut members = BTreeMap::new();
    let all = !args.control && args.workers.is_empty() && args.admins.is_empty();
    let (mut workers, mut admins) = (args.workers.clone(), args.admins.clone());
    if all {
        workers = names(&out.join("workers"))?;
        admins = names(&out.join("admins"))?;
    }
    if args.control || (all && out.join("control").exists()) {
        members.insert(out.join("control"), Role::Control);
    }
    for name in workers {
        let node = NodeId::new(&name).context(Usage)?;
        members.insert(out.join("workers").join(&name), Role::Worker(node));
    }
    for name in admins {
        NodeId::new(&name).context(Usage)?;
        members.insert(out.join("admins").join(&name), Role::Admin(name));
    }
    if members.is_empty() {
        bail!(
            "{} holds no certificates: name the directory that `quickwater cluster init` made, with --out",
            out.display()
        );
    }
    Ok(members)
}

/// The directories in one; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// A certificate that is there.
#[derive(Debug)]
enum Held {
    Until(SystemTime),
    /// It cannot be read, and why.
    Damaged(String),
}

/// Reads what is there and looks whether it is what it should be. A certificate that cannot be
/// read is no reason to stop: the key counts, and a new one is what helps.
fn standing(authority: &Authority, dir: &Path, role: &Role) -> Result<(KeyPair, Held)> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    if read("ca.pem")? != authority.pem {
        bail!("{} is of another authority", dir.join("ca.pem").display());
    }
    let key = KeyPair::from_pem(&read("key.pem")?)
        .with_context(|| format!("{} cannot be used", dir.join("key.pem").display()))?;
    let certificate = dir.join("cert.pem");
    let pem = std::fs::read(&certificate);
    let pem = pem.with_context(|| format!("cannot read {}", certificate.display()))?;
    let held = match Validity::of_pem(&pem) {
        Ok(held) => held,
        Err(error) => return Ok((key, Held::Damaged(error.to_string()))),
    };
    let Some(first) = held.first() else {
        let found = match pem.trim_ascii().is_empty() {
            true => "cert.pem is empty",
            false => "cert.pem holds no PEM certificate",
        };
        return Ok((key, Held::Damaged(found.to_owned())));
    };
    let name = role.name();
    if !first.names.contains(&name) {
        bail!(
            "{} is for {}, not for {name}",
            certificate.display(),
            first.names.join(", ")
        );
    }
    Ok((key, Held::Until(first.until)))
}

fn renew(
    authority: &Authority,
    dir: PathBuf,
    role: &Role,
    (within, now): (Option<Duration>, SystemTime),
) -> Result<Renewed> {
    let (key, held) = standing(authority, &dir, role)?;
    let damaged = match held {
        Held::Until(until) => {
            let left = until.duration_since(now).unwrap_or_default();
            if within.is_some_and(|within| left >= within) {
                return Ok(Renewed {
                    dir,
                    until,
                    new: false,
                    damaged: None,
                });
            }
            None
        }
        Held::Damaged(why) => Some(why),
    };
    let made = member_params(role)?.signed_by(&key, &authority.issuer)?;
    let path = dir.join("cert.pem");
    replace(&path, made.pem().as_bytes())?;
    let all = Validity::of_pem(made.pem().as_bytes())?;
    let first = all.first().context("the new certificate is none")?;
    Ok(Renewed {
        until: first.until,
        dir,
        new: true,
        damaged,
    })
}

/// Puts a file in the place of one that is there, for the same user.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let show = path.display();
    let old = std::fs::metadata(path).with_context(|| format!("cannot read {show}"))?;
    crate::home::write_bytes(path, bytes)?;
    let new = std::fs::metadata(path).with_context(|| format!("cannot read {show}"))?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        std::os::unix::fs::chown(path, Some(old.uid()), Some(old.gid()))
            .with_context(|| format!("{show} is renewed, but no longer its user's"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cluster::{ClusterVerb, run as run_verb};

    fn init(out: &Path) {
        run_verb(ClusterVerb::Init {
            out: out.to_owned(),
            workers: vec!["n1".into(), "n2".into()],
            admins: vec!["ops".into()],
            output: Output::default(),
        })
        .unwrap();
    }

    fn args(out: &Path) -> RenewArgs {
        RenewArgs {
            out: out.to_owned(),
            control: false,
            workers: Vec::new(),
            admins: Vec::new(),
            within: None,
            output: Output::default(),
        }
    }

    fn read(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn all_that_are_there_are_renewed_with_their_keys() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path();
        init(out);
        let dirs = ["control", "workers/n1", "workers/n2", "admins/ops"].map(|d| out.join(d));
        let before = dirs.each_ref().map(|dir| read(dir, "cert.pem"));
        let keys = dirs.each_ref().map(|dir| read(dir, "key.pem"));
        run(&args(out)).unwrap();
        let node = NodeId::new("n1").unwrap();
        for ((dir, before), key) in dirs.iter().zip(&before).zip(&keys) {
            let new = read(dir, "cert.pem");
            assert_ne!(new, *before, "{}", dir.display());
            assert_eq!(read(dir, "key.pem"), *key);
            assert_eq!(
                std::fs::read_dir(dir).unwrap().count(),
                3,
                "no draft is left"
            );
            // Certificate, key and authority still belong together.
            let identity = quickwater_worker::peer::PeerIdentity::new(
                node.clone(),
                read(dir, "ca.pem").as_bytes(),
                new.as_bytes(),
                key.as_bytes(),
            );
            assert!(identity.is_ok(), "{}", dir.display());
        }
    }

    #[test]
    fn only_those_that_are_named_or_about_to_end_are_renewed() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path();
        init(out);
        let (one, two) = (out.join("workers/n1"), out.join("workers/n2"));
        let before = [&one, &two].map(|dir| read(dir, "cert.pem"));
        let within = |days| RenewArgs {
            within: Some(days),
            ..args(out)
        };
        run(&within(800)).unwrap();
        assert_eq!([&one, &two].map(|dir| read(dir, "cert.pem")), before);
        let named = RenewArgs {
            workers: vec!["n1".into()],
            ..within(900)
        };
        run(&named).unwrap();
        assert_ne!(read(&one, "cert.pem"), before[0]);
        assert_eq!(read(&two, "cert.pem"), before[1]);
    }

    #[test]
    fn a_damaged_certificate_is_made_anew_and_keeps_no_other_back() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path();
        init(out);
        let (one, two) = (out.join("workers/n1"), out.join("workers/n2"));
        let before = read(&one, "cert.pem");
        let authority = Authority::load(&out.join("ca")).unwrap();
        let role = Role::Worker(NodeId::new("n2").unwrap());
        let is_whole = |dir: &Path| {
            let (_, held) = standing(&authority, dir, &role).unwrap();
            matches!(held, Held::Until(_))
        };
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (bytes, what) in [
            (&b""[..], "is empty"),
            (b"garbage", "holds no PEM certificate"),
            (b"\xff\xfe", "holds no PEM certificate"),
            (broken.as_bytes(), "no readable PEM certificate"),
        ] {
            std::fs::write(two.join("cert.pem"), bytes).unwrap();
            let (_, held) = standing(&authority, &two, &role).unwrap();
            assert!(
                matches!(&held, Held::Damaged(why) if why.contains(what)),
                "{held:?}"
            );
            // Neither is what holds for long renewed with it, nor it kept.
            let within = Some(1);
            run(&RenewArgs {
                within,
                ..args(out)
            })
            .unwrap();
            assert_eq!(read(&one, "cert.pem"), before);
            assert!(is_whole(&two));
        }
        // By its name, and beside others that are due.
        std::fs::write(two.join("cert.pem"), "garbage").unwrap();
        let workers = vec!["n2".into()];
        run(&RenewArgs {
            workers,
            ..args(out)
        })
        .unwrap();
        assert!(is_whole(&two));
        std::fs::write(two.join("cert.pem"), "garbage").unwrap();
        run(&args(out)).unwrap();
        assert!(is_whole(&two));
        assert_ne!(read(&one, "cert.pem"), before);
    }

    #[test]
    fn nothing_is_renewed_where_something_is_not_as_it_should_be() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path();
        let said = |args: &RenewArgs| format!("{:#}", run(args).unwrap_err());
        assert!(said(&args(out)).contains("--out"));
        init(out);
        let (one, two) = (out.join("workers/n1"), out.join("workers/n2"));
        let before = read(&one, "cert.pem");
        // The certificate of another worker.
        let other = std::fs::read(two.join("cert.pem")).unwrap();
        std::fs::write(two.join("cert.pem"), read(&one, "cert.pem")).unwrap();
        assert!(said(&args(out)).contains("not for n2"));
        std::fs::write(two.join("cert.pem"), other).unwrap();
        // Another authority.
        std::fs::write(two.join("ca.pem"), "x").unwrap();
        assert!(said(&args(out)).contains("another authority"));
        std::fs::remove_file(two.join("key.pem")).unwrap();
        std::fs::copy(one.join("ca.pem"), two.join("ca.pem")).unwrap();
        assert!(said(&args(out)).contains("key.pem"));
        assert_eq!(read(&one, "cert.pem"), before);
        let missing = RenewArgs {
            workers: vec!["n9".into()],
            ..args(out)
        };
        assert!(said(&missing).contains("n9"));
        std::fs::remove_dir_all(out.join("ca")).unwrap();
        let named = RenewArgs {
            control: true,
            ..args(out)
        };
        assert!(said(&named).contains("ca.pem"));
        assert!(!out.join("ca").exists(), "no authority is made");
    }
}
