//! What a caller may have done: one operation on one key, by one worker for another.
//! Made with a key that only workers of the cluster have, which the control plane
//! hands out.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an HMAC-SHA256 key block.
const BLOCK_BYTES: usize = 64;
/// What the signature covers begins with this: a key may get other uses.
const CONTEXT: &str = "quickwater peer capability 1";

/// A key of the cluster. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    fn mac(&self) -> Hmac<Sha256> {
        let mut block = [0; BLOCK_BYTES];
        block[..KEY_BYTES].copy_from_slice(&self.0);
        Hmac::new(&block.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A capability that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// It was made by somebody else, or for somebody else.
    #[error("the capability is not one of this caller for this worker")]
    Parties,
    /// No key made it.
    #[error("the capability was not made with a key of this cluster")]
    Signature,
}

/// A right to one operation.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Capability {
    /// Node that calls.
    #[prost(string, tag = "1")]
    pub caller: String,
    /// Node that is called.
    #[prost(string, tag = "2")]
    pub owner: String,
    /// Bucket by name; empty: none.
    #[prost(string, tag = "3")]
    pub bucket: String,
    /// Key; empty: the bucket itself, or many.
    #[prost(string, tag = "4")]
    pub key: String,
    /// What is to be done with it.
    #[prost(string, tag = "5")]
    pub operation: String,
    /// Table by which the caller found the owner.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// Slot of the key (or of what stands for one).
    #[prost(uint32, tag = "7")]
    pub slot: u32,
    /// Anything, another one for each.
    #[prost(uint64, tag = "8")]
    pub nonce: u64,
    /// HMAC-SHA256 of the above.
    #[prost(bytes = "vec", tag = "15")]
    pub signature: Vec<u8>,
}

impl Capability {
    /// Signs it.
    #[must_use]
    pub fn signed(mut self, key: &Key) -> Self {
        self.signature = self.mac(key).finalize().into_bytes().to_vec();
        self
    }

    /// Whether `caller` may have it done by `owner`.
    ///
    /// # Errors
    /// [`CapabilityError`].
    pub fn check<'k>(
        &self,
        caller: &str,
        owner: &str,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<(), CapabilityError> {
        if self.caller != caller || self.owner != owner {
            return Err(CapabilityError::Parties);
        }
        // Compared in constant time.
        let holds = |key: &Key| self.mac(key).verify_slice(&self.signature).is_ok();
        match keys.into_iter().any(holds) {
            true => Ok(()),
            false => Err(CapabilityError::Signature),
        }
    }

    fn mac(&self, key: &Key) -> Hmac<Sha256> {
        let mut mac = key.mac();
        let texts = [
            CONTEXT,
            &self.caller,
            &self.owner,
            &self.bucket,
            &self.key,
            &self.operation,
        ];
        // With their lengths: no two capabilities are signed alike.
        for text in texts {
            mac.update(&(text.len() as u64).to_be_bytes());
            mac.update(text.as_bytes());
        }
        mac.update(&self.epoch.to_be_bytes());
        mac.update(&self.slot.to_be_bytes());
        mac.update(&self.nonce.to_be_bytes());
        mac
    }
}
