//! Derives signing keys and remembers the ones that proved right. Secrets never
//! leave through `Debug`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::claim::Claim;

/// Signing keys remembered by one cache.
const KEYS_MAX: usize = 16;
/// Bytes of an HMAC-SHA256 key block.
const BLOCK_BYTES: usize = 64;

/// An HMAC keyed with the signing key of a day, a region and the service.
#[derive(Clone)]
pub(super) struct SigningKey(pub(super) Hmac<Sha256>);

impl SigningKey {
    /// The HMAC chain of "Calculating a signature": four HMACs.
    fn derive(secret: &str, date: &str, region: &str) -> Self {
        let mut first = b"AWS4".to_vec();
        first.extend_from_slice(secret.as_bytes());
        let date = sign(&first, date);
        let region = sign(&date, region);
        let service = sign(&region, "s3");
        Self(keyed(&sign(&service, "aws4_request")))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

fn sign(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = keyed(key);
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// HMAC of any key length (RFC 2104): longer than a block is hashed first.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0u8; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    Hmac::new(&block.into())
}

struct Entry {
    access_key: String,
    secret: String,
    date: String,
    region: String,
    key: SigningKey,
}

impl Entry {
    fn fits(&self, claim: &Claim<'_>, secret: &str) -> bool {
        self.date == claim.date
            && self.region == claim.region
            && self.access_key == claim.access_key
            && self.secret == secret
    }
}

/// The last signing keys that proved right (at most 16). Only a request whose
/// signature held puts a key in, so a stranger cannot push others out.
#[derive(Default)]
pub struct SigningKeyCache {
    entries: Vec<Entry>,
    next: usize,
}

impl fmt::Debug for SigningKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeyCache({} keys)", self.entries.len())
    }
}

impl SigningKeyCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn key(&self, claim: &Claim<'_>, secret: &str) -> SigningKey {
        self.entries
            .iter()
            .find(|e| e.fits(claim, secret))
            .map_or_else(
                || SigningKey::derive(secret, claim.date, claim.region),
                |e| e.key.clone(),
            )
    }

    pub(super) fn remember(&mut self, claim: &Claim<'_>, secret: &str, key: &SigningKey) {
        if self.entries.iter().any(|e| e.fits(claim, secret)) {
            return;
        }
        let entry = Entry {
            access_key: claim.access_key.to_owned(),
            secret: secret.to_owned(),
            date: claim.date.to_owned(),
            region: claim.region.to_owned(),
            key: key.clone(),
        };
        if self.entries.len() < KEYS_MAX {
            self.entries.push(entry);
        } else if let Some(slot) = self.entries.get_mut(self.next % KEYS_MAX) {
            *slot = entry;
            self.next = (self.next + 1) % KEYS_MAX;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
