//! Certificate and key of the endpoint, replaceable while it runs. Absent: files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The only protocol inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No certificate, or bytes that are none.
    #[error("the certificate file holds no readable PEM certificate: {0}")]
    Certificate(String),
    /// No key, or bytes that are none.
    #[error("the key file holds no readable PEM private key (PKCS#8, PKCS#1 or SEC1): {0}")]
    Key(String),
    /// They are not a pair.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// rustls refuses them.
    #[error("certificate and key cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// From when to when a certificate holds, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
    /// DNS names and IP addresses it is for.
    pub names: Vec<String>,
}

impl Validity {
    /// Those of the certificates of a PEM file, in its order.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn of_pem(pem: &[u8]) -> Result<Vec<Self>, IdentityError> {
        certificates(pem)?.iter().map(|one| validity(one)).collect()
    }

    /// How long it holds from `now` on; zero: it has expired.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        self.until.duration_since(now).unwrap_or_default()
    }
}

/// What handshakes use. Shared by all shards.
#[derive(Debug)]
pub struct Identity {
    config: ArcSwap<ServerConfig>,
    until_seconds: AtomicU64,
    /// Replacements so far.
    pub replaced: AtomicU64,
    /// Attempts at one that failed.
    pub failed: AtomicU64,
}

impl Identity {
    /// Checks a PEM chain, the endpoint's own certificate first, and its PEM key.
    ///
    /// # Errors
    /// [`IdentityError`]. That a certificate has expired is none.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<(Arc<Self>, Validity), IdentityError> {
        let (config, validity) = read(chain, key)?;
        let identity = Identity {
            config: ArcSwap::new(config),
            until_seconds: AtomicU64::new(seconds(validity.until)),
            replaced: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Ok((Arc::new(identity), validity))
    }

    /// Handshakes from now on use these.
    ///
    /// # Errors
    /// [`IdentityError`]; the old ones stay in use.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<Validity, IdentityError> {
        let (config, validity) = read(chain, key)?;
        self.config.store(config);
        self.until_seconds
            .store(seconds(validity.until), Ordering::Relaxed);
        self.replaced.fetch_add(1, Ordering::Relaxed);
        Ok(validity)
    }

    /// When the certificate expires, seconds since 1970.
    #[must_use]
    pub fn until_seconds(&self) -> u64 {
        self.until_seconds.load(Ordering::Relaxed)
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

fn read(chain: &[u8], key: &[u8]) -> Result<(Arc<ServerConfig>, Validity), IdentityError> {
    let chain = certificates(chain)?;
    let own = chain.first();
    let own = own.ok_or_else(|| IdentityError::Certificate("it is empty".into()))?;
    let validity = validity(own)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| IdentityError::Key(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                IdentityError::Mismatch
            }
            other => IdentityError::Refused(other),
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Resumption without memory here, on whichever shard a client comes back.
    config.ticketer = Ticketer::new()?;
    Ok((Arc::new(config), validity))
}

fn validity(certificate: &[u8]) -> Result<Validity, IdentityError> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let content = parsed.tbs_certificate();
    let (from, until) = (content.validity().not_before, content.validity().not_after);
    // Names are for people to read; a certificate without them is still one.
    let names = match content.get_extension::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.iter().filter_map(name).collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    Ok(Validity {
        from: from.to_system_time(),
        until: until.to_system_time(),
        names,
    })
}

/// The names a certificate (DER) is for; none when it cannot be read.
pub(crate) fn names_of(certificate: &[u8]) -> Vec<String> {
    let validity = validity(certificate);
    validity.map_or_else(|_| Vec::new(), |validity| validity.names)
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}
