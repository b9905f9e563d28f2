//! TLS of a connection: whom to trust, the handshake, bytes in and out. Absent:
//! readiness, HTTP.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// Longest wait within a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose certificates are believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// Those in this PEM file; none: those of the system.
    pub(crate) ca: Option<PathBuf>,
    /// Everybody's.
    pub(crate) insecure: bool,
}

/// How to speak TLS to an endpoint.
#[derive(Clone)]
pub(crate) struct Secure {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secure({:?})", self.name)
    }
}

impl Secure {
    /// For the endpoint with this name in its certificate. The error is for people.
    pub(crate) fn new(host: &str, trust: &Trust) -> Result<Self, String> {
        let name = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(name).map_err(|e| format!("`{host}`: {e}"))?;
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut config = if trust.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth()
        } else {
            builder
                .with_root_certificates(roots(trust.ca.as_deref())?)
                .with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// Shakes hands over a connected socket, blocking this thread: connections are
    /// opened in the warm-up, and a load tool has nothing better to do then.
    pub(super) fn shake(&self, socket: &OwnedFd) -> io::Result<Box<ClientConnection>> {
        let client = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut client = client.map_err(io::Error::other)?;
        let mut stream = TcpStream::from(socket.try_clone()?);
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        stream.set_nonblocking(false)?;
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        stream.set_nonblocking(true)?;
        Ok(Box::new(client))
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            return Err("this system has no CA certificates: give --ca FILE".into());
        }
        return Ok(store);
    };
    let wrong = |e: &dyn fmt::Display| format!("--ca {}: {e}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| wrong(&e))?;
        store.add(certificate).map_err(|e| wrong(&e))?;
    }
    if store.is_empty() {
        return Err(wrong(&"no PEM certificate in it"));
    }
    Ok(store)
}

/// Believes every certificate; the signatures of the handshake are still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A socket as rustls wants it.
struct Wire<'s>(&'s OwnedFd);

impl Read for Wire<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0, space, RecvFlags::empty())?.1)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends what is sealed; false: the socket takes no more now.
pub(super) fn flush(client: &mut ClientConnection, socket: &OwnedFd) -> io::Result<bool> {
    while client.wants_write() {
        match client.write_tls(&mut Wire(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads content; None: there is none now.
pub(super) fn take(
    client: &mut ClientConnection,
    socket: &OwnedFd,
    space: &mut [u8],
) -> io::Result<Option<usize>> {
    loop {
        match client.reader().read(space) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map(Some),
        }
        match client.read_tls(&mut Wire(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        client.process_new_packets().map_err(io::Error::other)?;
    }
}

/// Whether content was opened and not read.
pub(super) fn holds_content(client: &mut ClientConnection) -> bool {
    let state = client.process_new_packets();
    state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
}
