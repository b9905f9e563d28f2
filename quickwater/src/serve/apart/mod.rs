//! Control plane and workers as processes of their own. Absent: what both do in one
//! process (`serve`), which they share.

mod attendant;
pub(in crate::serve) mod belonging;
mod body;
pub(in crate::serve) mod claims;
mod control;
mod elsewhere;
mod expiry;
mod leaving;
mod lost;
mod meeting;
mod metadata;
mod noting;
mod obey;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub(crate) use belonging::FILE as BELONGING;
pub(crate) use control::run as run_control;
pub(crate) use worker::run as run_worker;

/// Certificates of a process, PEM.
pub(super) struct Certificates {
    /// Who signs all of the cluster.
    pub(super) authority: Vec<u8>,
    /// This process's own.
    pub(super) certificate: Vec<u8>,
    /// Its key.
    pub(super) key: Vec<u8>,
}

impl Certificates {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` of a directory.
    ///
    /// # Errors
    /// One cannot be read; the text says how to get it.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path: PathBuf = dir.join(name);
            std::fs::read(&path).with_context(|| {
                format!(
                    "cannot read {}; make certificates with `quickwater cluster init` and copy this process's directory there, or set cluster.certificates",
                    path.display()
                )
            })
        };
        Ok(Self {
            authority: read("ca.pem")?,
            certificate: read("cert.pem")?,
            key: read("key.pem")?,
        })
    }
}
