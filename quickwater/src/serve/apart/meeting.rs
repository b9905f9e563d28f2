//! How a worker meets the control plane and the other workers: what it must be told, where
//! it is reached, its certificates and its link.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use quickwater_controlplane::client::{Access, ControlClient, Introduction, Link, LinkError};
use quickwater_controlplane::cluster::boottime;
use quickwater_proto::NodeId;
use quickwater_ufs::Standing;
use quickwater_worker::listener;
use quickwater_worker::peer::{Directory, PeerIdentity, PeerStats};

use super::Certificates;
use super::attendant::Attending;
use super::belonging::Belonging;
use super::expiry::Expiry;
use crate::settings::Settings;

/// What a worker must be told.
pub(super) struct Place {
    pub(super) node: NodeId,
    control: String,
    advertise: SocketAddr,
}

impl Place {
    /// # Errors
    /// Something is missing; the text says which setting.
    pub(super) fn of(settings: &Settings) -> Result<Self> {
        let missing = |what: &str, flag: &str| {
            anyhow!(
                "a worker needs {what}: pass --{flag} (see `quickwater worker --help`), or run `quickwater serve`, which needs no control plane"
            )
        };
        let cluster = &settings.cluster;
        let node = cluster.node.clone();
        if cluster
            .advertise
            .is_some_and(|address| address.ip().is_unspecified())
        {
            bail!(
                "cluster.advertise is where other workers reach this one: no wildcard. Pass an address of this host, and listen at all of them with cluster.peer_listen"
            );
        }
        Ok(Self {
            control: cluster
                .control
                .clone()
                .ok_or_else(|| missing("the address of its control plane", "control"))?,
            node: node.ok_or_else(|| missing("its name", "node-id"))?,
            advertise: cluster
                .advertise
                .ok_or_else(|| missing("the address other workers reach it at", "advertise"))?,
        })
    }
}

/// What the link to the control plane is made of.
pub(super) type Linked = (ControlClient, Link, Arc<Attending>, Belonging);

/// How a worker meets the others.
pub(super) struct Meeting {
    pub(super) directory: Arc<Directory>,
    /// What it may do to under file systems.
    pub(super) standing: Arc<Standing>,
    pub(super) identity: Arc<PeerIdentity>,
    pub(super) expiry: Expiry,
    pub(super) stats: Arc<PeerStats>,
    pub(super) advertised: SocketAddr,
    /// One for each shard.
    pub(super) sockets: Vec<TcpListener>,
}

impl Meeting {
    /// Listens for other workers: the control plane is told where. They are served
    /// once the shards run.
    ///
    /// # Errors
    /// The certificates cannot be used, or the address is in use.
    pub(super) fn prepare(settings: &Settings, place: &Place) -> Result<Self> {
        let certificates = Certificates::read(&settings.cluster.certificates)?;
        let expiry = Expiry::of(&certificates, &settings.cluster.certificates)?;
        let identity = PeerIdentity::new(
            place.node.clone(),
            &certificates.authority,
            &certificates.certificate,
            &certificates.key,
        )?;
        let address = settings.cluster.peer_listen.unwrap_or(place.advertise);
        let listeners = listener::bind(address, settings.store.threads).context(
            "cannot listen for other workers; change cluster.advertise, or cluster.peer_listen if this host has another address",
        )?;
        let mut advertised = place.advertise;
        if advertised.port() == 0 {
            advertised.set_port(listeners.address.port());
        }
        Ok(Self {
            directory: Directory::new(place.node.clone()),
            standing: Standing::new(place.node.clone(), boottime),
            identity,
            expiry,
            stats: Arc::default(),
            advertised,
            sockets: listeners.sockets,
        })
    }
}

/// The link to the control plane, not begun.
///
/// # Errors
/// The certificates or what was noted of the cluster cannot be read.
pub(super) fn link(
    dir: &Path,
    settings: &Settings,
    (place, meeting): (&Place, &Meeting),
) -> Result<Linked> {
    let certificates = Certificates::read(&settings.cluster.certificates)?;
    let belonging = Belonging::read_or_make(dir, &place.node)?;
    let access = Access {
        address: place.control.clone(),
        authority: certificates.authority,
        certificate: certificates.certificate,
        key: certificates.key,
    };
    let introduction = Introduction {
        node: place.node.clone(),
        advertise: meeting.advertised.to_string(),
        zone: settings.cluster.zone.clone(),
        capacity_bytes: settings.store.capacity_bytes,
        s3_address: settings.s3.listen.to_string(),
        store: belonging.directory(),
        shards: u32::try_from(settings.store.threads).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: belonging.cluster().to_owned(),
        seen: belonging.seen(),
    };
    let (client, link) = ControlClient::new(access, introduction);
    Ok((
        client,
        link,
        Attending::new(
            Arc::clone(&meeting.directory),
            Arc::clone(&meeting.standing),
        ),
        belonging,
    ))
}

/// Why there is no link, for people.
pub(super) fn explain(error: LinkError, settings: &Settings) -> anyhow::Error {
    let certificates = settings.cluster.certificates.display().to_string();
    let hint = match &error {
        LinkError::Certificates(why) => about_certificates(why, &certificates),
        _ => String::new(),
    };
    anyhow!("{error}{hint}")
}

/// What to do about certificates that were refused, by what TLS says.
fn about_certificates(why: &str, certificates: &str) -> String {
    match why.to_ascii_lowercase().contains("expired") {
        true => format!(
            "; a certificate of the cluster is over, or the clock is wrong: `quickwater cluster renew` makes it anew, and a restart takes it up; `quickwater doctor` says how long those in {certificates} last"
        ),
        false => format!(
            "; the files in {certificates} must come from the `cluster init` that made those of the control plane"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::about_certificates;

    #[test]
    fn a_certificate_that_is_over_is_called_so() {
        // The control plane's, and its alert about ours.
        for why in [
            "invalid peer certificate: certificate expired: verification time 9 (UNIX), but 3",
            "invalid peer certificate: Expired",
            "received fatal alert: CertificateExpired",
        ] {
            let told = about_certificates(why, "/certs");
            assert!(
                told.contains("is over") && told.contains("/certs"),
                "{told}"
            );
        }
        let told = about_certificates("received fatal alert: UnknownCA", "/certs");
        assert!(told.contains("must come from"), "{told}");
    }
}
