//! Where requests go and who sends them.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;

use super::secure::{Secure, Trust};

/// An address that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum AddressError {
    #[error("`{url}`: {why}")]
    Tls { url: String, why: String },
    #[error("`{0}` is not an address such as http://127.0.0.1:29998")]
    Shape(String),
    #[error("`{host}` cannot be resolved: {source}")]
    Resolve {
        host: String,
        source: std::io::Error,
    },
    #[error("`{0}` has no address")]
    Nothing(String),
}

/// A resolved endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// As it was given.
    pub(crate) url: String,
    /// For the Host header.
    pub(crate) host: String,
    /// Connections are spread over these.
    pub(crate) sockets: Vec<SocketAddr>,
    /// For `https://`.
    pub(crate) secure: Option<Secure>,
}

impl Address {
    /// Reads `http://HOST[:PORT]` or `https://HOST[:PORT]` and resolves it.
    pub(crate) fn parse(url: &str, trust: &Trust) -> Result<Self, AddressError> {
        let shape = || AddressError::Shape(url.to_owned());
        let (rest, port) = match url.strip_prefix("https://") {
            Some(rest) => (rest, 443),
            None => (url.strip_prefix("http://").unwrap_or(url), 80),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(shape());
        }
        let named = host.rsplit_once(':').filter(|(_, p)| !p.ends_with(']'));
        let with_port = match named {
            Some(_) => host.to_owned(),
            None => format!("{host}:{port}"),
        };
        let secure = (port == 443).then(|| Secure::new(named.map_or(host, |n| n.0), trust));
        let secure = secure.transpose().map_err(|why| AddressError::Tls {
            url: url.to_owned(),
            why,
        })?;
        let found = with_port.to_socket_addrs();
        let sockets: Vec<SocketAddr> = found
            .map_err(|source| AddressError::Resolve {
                host: host.to_owned(),
                source,
            })?
            .collect();
        if sockets.is_empty() {
            return Err(AddressError::Nothing(host.to_owned()));
        }
        Ok(Self {
            url: url.to_owned(),
            host: host.to_owned(),
            sockets,
            secure,
        })
    }
}

/// A key pair.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// An endpoint with all that a request to it needs.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) bucket: String,
    pub(crate) region: String,
    /// None: requests are not signed.
    pub(crate) keys: Option<Keys>,
    /// Signatures cover the SHA-256 of uploaded bodies.
    pub(crate) sign_payload: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let plain = |url: &str| Address::parse(url, &Trust::default());
        let address = plain("http://127.0.0.1:29998/").unwrap();
        assert_eq!(address.host, "127.0.0.1:29998");
        assert_eq!(address.sockets[0].port(), 29998);
        let address = plain("http://[::1]").unwrap();
        assert_eq!(
            (address.host.as_str(), address.sockets[0].port()),
            ("[::1]", 80)
        );
        let trusting = Trust {
            insecure: true,
            ca: None,
        };
        let address = Address::parse("https://[::1]", &trusting).unwrap();
        assert!(address.secure.is_some() && address.sockets[0].port() == 443);
        let missing = Trust {
            insecure: false,
            ca: Some("/does/not/exist".into()),
        };
        assert!(matches!(
            Address::parse("https://127.0.0.1:9", &missing),
            Err(AddressError::Tls { .. })
        ));
        for wrong in [
            "",
            "http://",
            "http://a/b",
            "ftp://x",
            "http://a b",
            "http://a\r\nb",
        ] {
            assert!(
                matches!(plain(wrong), Err(AddressError::Shape(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let keys = Keys {
            access_key_id: "AKID".into(),
            secret_access_key: "very secret".into(),
        };
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
