//! Certificates of the cluster, as TLS between workers needs them. Absent: files.

use std::fmt;
use std::sync::Arc;

use quickwater_peer::PROTOCOL;
use quickwater_proto::{NodeId, WORKER_NAME_SUFFIX};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::tls::names_of;

/// End of all names in certificates of the cluster.
const CLUSTER_SUFFIX: &str = ".quickwater";

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PeerIdentityError {
    /// They are no PEM, or empty.
    #[error("the cluster's certificates cannot be read: {0}")]
    Unreadable(String),
    /// rustls refuses them.
    #[error("the cluster's certificates cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// A worker's certificate and those it trusts. Shared by all shards.
pub struct PeerIdentity {
    pub(super) node: NodeId,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl PeerIdentity {
    /// The identity of `node`, from PEM: who signs, its own chain, its key.
    ///
    /// # Errors
    /// [`PeerIdentityError`].
    pub fn new(
        node: NodeId,
        authority: &[u8],
        chain: &[u8],
        key: &[u8],
    ) -> Result<Arc<Self>, PeerIdentityError> {
        let unreadable =
            |error: rustls::pki_types::pem::Error| PeerIdentityError::Unreadable(error.to_string());
        let certificates = |pem: &[u8]| {
            let read: Result<Vec<CertificateDer<'static>>, _> =
                CertificateDer::pem_slice_iter(pem).collect();
            read.map_err(unreadable)
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(authority)? {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(unreadable)?;
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| PeerIdentityError::Unreadable(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Connections are kept, so handshakes are rare; and nothing comes unasked.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Arc::new(Self {
            node,
            server: Arc::new(server),
            client: Arc::new(client),
        }))
    }
}

/// The name in the certificate of a worker; none if it cannot be one.
pub(super) fn name_of(node: &NodeId) -> Option<ServerName<'static>> {
    ServerName::try_from(format!("{node}{WORKER_NAME_SUFFIX}")).ok()
}

/// The worker a certificate (DER) was made for: by its only name of ours. TLS has
/// checked who signed it.
pub(super) fn node_of(certificate: &[u8]) -> Option<NodeId> {
    let names = names_of(certificate);
    let mut ours = names.iter().filter(|name| name.ends_with(CLUSTER_SUFFIX));
    let only = ours.next().filter(|_| ours.next().is_none())?;
    NodeId::new(only.strip_suffix(WORKER_NAME_SUFFIX)?).ok()
}
