//! `DIR/run.json`: how admin verbs find a running service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::files;

/// Addresses of a ready service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// Process id.
    pub pid: u32,
    /// S3 endpoint; a control plane has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<SocketAddr>,
    /// S3 endpoint with HTTPS; the same as `s3` when there is no plain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3_tls: Option<SocketAddr>,
    /// Admin API; a worker has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Where workers reach a control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SocketAddr>,
    /// Where other workers reach a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<SocketAddr>,
    /// Metrics and health.
    pub metrics: SocketAddr,
}

/// Removes the run file when the service ends.
#[derive(Debug)]
pub(crate) struct RunGuard(PathBuf);

impl RunFile {
    /// Where it is in a directory.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("run.json")
    }

    /// Removes what a killed process left; only the holder of the lock may.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub(crate) fn clear(dir: &Path) -> Result<()> {
        match std::fs::remove_file(Self::path(dir)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", Self::path(dir).display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes it; it is gone again when the guard is dropped.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn publish(&self, dir: &Path) -> Result<RunGuard> {
        let path = Self::path(dir);
        let text = serde_json::to_string(self)?;
        files::write_atomic(&path, format!("{text}\n").as_bytes(), 0o644)?;
        Ok(RunGuard(path))
    }

    /// Whether its process exists; a killed one leaves the file behind. One that waits for
    /// its parent to hear of its end (a zombie) is there no more.
    pub(crate) fn is_alive(&self) -> bool {
        match std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => !matches!(state_of(&stat), Some('Z' | 'X')),
            Err(_) => Path::new(&format!("/proc/{}", self.pid)).exists(),
        }
    }

    /// Reads it; `None` when no service is ready there.
    ///
    /// # Errors
    /// It is there and cannot be understood.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(dir);
        let there = path.try_exists();
        if !there.with_context(|| format!("cannot look for {}", path.display()))? {
            return Ok(None);
        }
        let text =
            files::read_small(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let run = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; restart the service", path.display()))?;
        Ok(Some(run))
    }
}

/// The state in a line of `/proc/PID/stat`: behind the name, which may hold anything.
pub(crate) fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %e, "the run file stays behind");
        }
    }
}
