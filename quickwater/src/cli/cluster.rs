//! `cluster init`: an authority of the cluster's own, and certificates by it for the
//! control plane, workers and admins. It writes over nothing that is there.

mod renew;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use quickwater_controlplane::rpc::identity::Role;
use quickwater_proto::NodeId;
use quickwater_rpc::admin::ClusterAcceptOlderRequest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::exit::Kind::Usage;
use super::output::Output;
use super::remote::{Target, explain};

/// How long the authority holds.
const AUTHORITY_DAYS: u64 = 3_650;
/// How long a certificate holds.
const CERTIFICATE_DAYS: u64 = 825;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Clocks of other machines may be behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Verbs of `cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Make an authority, and certificates for the control plane, workers and admins
    #[command(after_help = INIT_HELP)]
    Init {
        /// Directory to put them in
        #[arg(long, value_name = "DIR", default_value = "./cluster")]
        out: PathBuf,
        /// A worker, by its node id; any number of them
        #[arg(long = "worker", value_name = "ID")]
        workers: Vec<String>,
        /// An admin, by name; any number of them
        #[arg(long = "admin", value_name = "NAME")]
        admins: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Make certificates anew before they expire, by the same authority
    #[command(after_help = renew::RENEW_HELP)]
    Renew(renew::RenewArgs),
    /// Go on with metadata that are older than what workers have seen
    #[command(after_help = ACCEPT_HELP)]
    AcceptOlder {
        /// Only say which workers have seen more
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        target: Target,
    },
}

const ACCEPT_HELP: &str = "\
A worker that has seen newer metadata than those of the control plane is refused, and its
slots are nobody else's: a backup, a snapshot or an export was put in their place. Nothing is
lost yet: stop the control plane and put the newer metadata back.

If they are gone, this gives up what was written since: those writes are lost, though they
were acked, and what they replaced or deleted is current again. Restart the workers that it
names then. Each writes the bytes that it has and no row names to files in its directory,
`set-aside`, with an index: put back by hand what you need. Workers that did not run are
refused when they come; accept that again then.

Examples:
  quickwater cluster accept-older --dry-run --dir /var/lib/qw-control
  quickwater cluster accept-older --dir /var/lib/qw-control";

const INIT_HELP: &str = "\
Makes DIR/ca, DIR/control, DIR/workers/ID and DIR/admins/NAME, each but the first with
ca.pem, cert.pem and key.pem. What is there stays: run it again to add workers. Copy each
directory to its machine; DIR/ca/key.pem makes new members, so keep it off all of them.
They hold for 825 days: `quickwater cluster renew` makes them anew.

Examples:
  quickwater cluster init --out certs --worker n1 --worker n2
  quickwater cluster init --out certs --worker n3
  quickwater control --cluster-certificates certs/control";

/// Runs one.
///
/// # Errors
/// A name that cannot be used, files that are half there, or a disk that refuses.
pub(super) fn run(verb: ClusterVerb) -> Result<ExitCode> {
    let (out, workers, admins, output) = match verb {
        ClusterVerb::AcceptOlder { dry_run, target } => return accept_older(dry_run, &target),
        ClusterVerb::Renew(args) => return renew::run(&args),
        ClusterVerb::Init {
            out,
            workers,
            admins,
            output,
        } => (out, workers, admins, output),
    };
    let mut members = vec![(out.join("control"), Role::Control)];
    for name in workers {
        let node = NodeId::new(&name).context(Usage)?;
        members.push((out.join("workers").join(&name), Role::Worker(node)));
    }
    for name in admins {
        NodeId::new(&name).context(Usage)?;
        members.push((out.join("admins").join(&name), Role::Admin(name)));
    }
    let (authority, new) = Authority::load_or_make(&out.join("ca"))?;
    let mut made = Vec::new();
    let mut kept = Vec::new();
    for (dir, role) in members {
        match authority.issue(&dir, &role)? {
            true => made.push(dir.display().to_string()),
            false => kept.push(dir.display().to_string()),
        }
    }
    let shown = json!({ "authority_made": new, "made": made, "kept": kept });
    output.show(&shown, || {
        let mut text = String::new();
        let lines = made.iter().map(|dir| ("made", dir));
        for (what, dir) in lines.chain(kept.iter().map(|dir| ("there", dir))) {
            text.push_str(&format!("{what:<6} {dir}\n"));
        }
        text
    })
}

fn accept_older(dry_run: bool, target: &Target) -> Result<ExitCode> {
    let reply = target.with(|mut remote| async move {
        let request = ClusterAcceptOlderRequest { dry_run };
        let reply = remote.cluster_accept_older(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    let names: Vec<&str> = reply.workers.iter().map(|w| w.name.as_str()).collect();
    let shown = json!({ "accepted": !dry_run && !names.is_empty(), "workers": names });
    target.output.show(&shown, || {
        let names = names.join(", ");
        match (names.is_empty(), dry_run) {
            (true, _) => "no worker has seen newer metadata\n".to_owned(),
            (_, true) => format!("would give up what {names} have seen beyond these metadata\n"),
            (_, false) => format!(
                "gave up what {names} have seen beyond these metadata; restart them: what no row \
                 names they write to `set-aside` in their directories\n"
            ),
        }
    })
}

/// Who signs the certificates of a cluster.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority of a directory, or makes one; whether it was made.
    fn load_or_make(dir: &Path) -> Result<(Self, bool)> {
        let (certificate, key) = (dir.join("ca.pem"), dir.join("key.pem"));
        let new = !whole(&[&certificate, &key])?;
        if new {
            let pair = KeyPair::generate().context("no key can be made")?;
            let made = authority_params().self_signed(&pair)?;
            make_dir(dir)?;
            write_new(&key, &pair.serialize_pem())?;
            write_new(&certificate, &made.pem())?;
        }
        Ok((Self::load(dir)?, new))
    }

    /// Reads the authority of a directory.
    fn load(dir: &Path) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (pem, key) = (read(&dir.join("ca.pem"))?, read(&dir.join("key.pem"))?);
        let pair = KeyPair::from_pem(&key).context("the key of the authority cannot be used")?;
        // Its name and key are all that signing takes; they are the same each time.
        let issuer = Issuer::new(authority_params(), pair);
        Ok(Self { pem, issuer })
    }

    /// Makes the certificate of a role; `false`: it is there.
    fn issue(&self, dir: &Path, role: &Role) -> Result<bool> {
        let names = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
        let [authority, certificate, key] = &names;
        if whole(&[authority, certificate, key])? {
            if std::fs::read_to_string(authority)? != self.pem {
                bail!(
                    "{} is of another authority; choose another --out, or remove {} to make it anew",
                    authority.display(),
                    dir.display()
                );
            }
            return Ok(false);
        }
        let pair = KeyPair::generate().context("no key can be made")?;
        let made = member_params(role)?.signed_by(&pair, &self.issuer)?;
        make_dir(dir)?;
        write_new(key, &pair.serialize_pem())?;
        write_new(certificate, &made.pem())?;
        write_new(authority, &self.pem)?;
        Ok(true)
    }
}

/// Whether all are there; some alone are a mistake that nobody should guess about.
fn whole(paths: &[&PathBuf]) -> Result<bool> {
    let there: Vec<_> = paths.iter().filter(|path| path.exists()).collect();
    match there.len() {
        0 => Ok(false),
        all if all == paths.len() => Ok(true),
        _ => bail!(
            "{} is there but not all that belongs to it; nothing is written over: put the rest back, or remove it to make all anew",
            there[0].display()
        ),
    }
}

fn dated(mut params: CertificateParams, days: u64) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * u32::try_from(days).unwrap_or(u32::MAX)).into();
    params
}

fn authority_params() -> CertificateParams {
    let mut params = dated(CertificateParams::default(), AUTHORITY_DAYS);
    params.distinguished_name = named("Quickwater cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn member_params(role: &Role) -> Result<CertificateParams> {
    let name = role.name();
    let mut params = dated(
        CertificateParams::new(vec![name.clone()])?,
        CERTIFICATE_DAYS,
    );
    params.distinguished_name = named(&name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Workers answer each other, so all but admins are both.
    params.extended_key_usages = match role {
        Role::Admin(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Control | Role::Worker(_) => vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ],
    };
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn make_dir(dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let made = builder.create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))
}

/// Writes a file that must not be there, readable by the owner only.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file: File = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use base64::Engine as _;

    use super::*;

    fn init(out: &Path, workers: &[&str]) -> Result<ExitCode> {
        run(ClusterVerb::Init {
            out: out.to_owned(),
            workers: workers.iter().map(|name| (*name).to_owned()).collect(),
            admins: vec!["ops".into()],
            output: Output::default(),
        })
    }

    fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => found.extend(files(&path)),
                false => found.push((path.clone(), std::fs::read(&path).unwrap())),
            }
        }
        found.sort();
        found
    }

    #[test]
    fn what_is_there_stays_and_what_is_missing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("certs");
        init(&out, &["n1"]).unwrap();
        let first = files(&out);
        assert_eq!(first.len(), 2 + 3 * 3);
        for (path, _) in &first {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        init(&out, &["n1", "n2"]).unwrap();
        let second = files(&out);
        assert_eq!(second.len(), first.len() + 3);
        assert!(first.iter().all(|file| second.contains(file)));
        std::fs::remove_file(out.join("workers/n1/cert.pem")).unwrap();
        assert!(init(&out, &["n1"]).is_err());
    }

    #[test]
    fn certificates_say_the_role() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &["n1"]).unwrap();
        for (name, role) in [
            ("control", Role::Control),
            ("workers/n1", Role::Worker(NodeId::new("n1").unwrap())),
            ("admins/ops", Role::Admin("ops".into())),
        ] {
            let pem = std::fs::read(dir.path().join(name).join("cert.pem")).unwrap();
            let text = String::from_utf8(pem).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with("-----"));
            let der = base64::engine::general_purpose::STANDARD.decode(lines.collect::<String>());
            assert_eq!(Role::of_certificate(&der.unwrap()), Some(role));
        }
    }

    #[test]
    fn names_that_are_no_node_ids_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(init(dir.path(), &["../n1"]).is_err());
        assert!(init(dir.path(), &["N1"]).is_err());
        assert!(!dir.path().join("ca").exists());
    }
}
