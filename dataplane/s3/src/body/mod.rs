//! Payloads without IO: chunk framing off, every promise about the bytes checked,
//! digests computed. Owns no large buffer; bytes go where the caller wants them.

mod decode;
mod frame;
mod hash;
mod plan;
#[cfg(test)]
mod tests;

pub use decode::{PayloadDecoder, PayloadDigests, Progress};
pub use hash::{Checksums, Hasher};
pub use plan::{Framing, PayloadPlan};
