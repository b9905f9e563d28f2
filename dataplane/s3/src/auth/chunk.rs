//! Checks the chained signatures of aws-chunked payloads and their trailers
//! (S3: "Transferring Payload in Multiple Chunks", "trailing headers").

use hmac::Mac;
use hmac::digest::CtOutput;
use sha2::{Digest, Sha256};

use super::claim::Claim;
use super::key::SigningKey;
use crate::error::{S3Error, S3ErrorCode};

/// The state of a chain of chunk signatures.
#[derive(Debug, Clone)]
pub struct ChunkSigner {
    key: SigningKey,
    /// `<timestamp>\n<scope>\n`.
    context: String,
    /// The signature before, raw.
    previous: [u8; 32],
}

impl ChunkSigner {
    pub(super) fn new(key: SigningKey, claim: &Claim<'_>, seed: [u8; 32]) -> Self {
        let context = format!(
            "{}\n{}/{}/s3/aws4_request\n",
            claim.timestamp.as_str(),
            claim.date,
            claim.region
        );
        Self {
            key,
            context,
            previous: seed,
        }
    }

    /// Checks the signature of the next chunk, `sha256` being the hash of its data.
    ///
    /// # Errors
    /// `SignatureDoesNotMatch`; the chain does not move.
    pub fn check_chunk(&mut self, sha256: &[u8; 32], signature: &str) -> Result<(), S3Error> {
        let empty = Sha256::digest([]);
        self.check("AWS4-HMAC-SHA256-PAYLOAD\n", &[&empty, sha256], signature)
    }

    /// Checks the signature of the trailers, `sha256` being the hash of their
    /// `name:value\n` lines.
    ///
    /// # Errors
    /// `SignatureDoesNotMatch`; the chain does not move.
    pub fn check_trailer(&mut self, sha256: &[u8; 32], signature: &str) -> Result<(), S3Error> {
        self.check("AWS4-HMAC-SHA256-TRAILER\n", &[sha256], signature)
    }

    fn check(&mut self, kind: &str, hashes: &[&[u8]], signature: &str) -> Result<(), S3Error> {
        let mut mac = self.key.0.clone();
        mac.update(kind.as_bytes());
        mac.update(self.context.as_bytes());
        mac.update(hex::encode(self.previous).as_bytes());
        for hash in hashes {
            mac.update(b"\n");
            mac.update(hex::encode(hash).as_bytes());
        }
        let ours = mac.finalize();
        let mut theirs = [0u8; 32];
        let readable = hex::decode_to_slice(signature, &mut theirs).is_ok();
        if readable && ours == CtOutput::new(theirs.into()) {
            self.previous = theirs;
            return Ok(());
        }
        Err(S3Error::from(S3ErrorCode::SignatureDoesNotMatch).with("SignatureProvided", signature))
    }
}
