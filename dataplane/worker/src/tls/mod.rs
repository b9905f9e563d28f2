//! TLS 1.2 and 1.3 below the HTTP layer, by rustls. Absent: sockets (see
//! `http/secure.rs`), files, reloading, cryptography of our own.

mod identity;
mod memory;
mod session;
#[cfg(test)]
mod tests;

pub use identity::{Identity, IdentityError, Validity};
pub use memory::TlsMemory;

pub(crate) use identity::names_of;
pub(crate) use memory::HANDSHAKE_BYTES;
pub(crate) use session::{Session, Step, Taken};
