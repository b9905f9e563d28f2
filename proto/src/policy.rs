//! Path policies: what a write to a path promises, and the table that decides it.
//!
//! Absent on purpose: JSON, storage, IO. The control plane parses and keeps the
//! document; what arrives here is checked again and compiled once.

mod glob;
mod table;
#[cfg(test)]
mod tests;

pub use glob::{Glob, GlobError};
pub use table::{PolicyError, PolicyProblem, PolicyTable};

/// Most rules of one document.
pub const POLICY_RULES_MAX: usize = 1_000;
/// Longest rule path, bytes: `/`, a bucket name, `/` and an object key.
pub const POLICY_PATH_BYTES_MAX: usize = 1 + 63 + 1 + super::KEY_BYTES_MAX;
/// Most copies a rule may ask for.
pub const WRITE_REPLICAS_MAX: u8 = 16;

/// What a 200 to a write means under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PolicyMode {
    /// The UFS accepted the object; a cached copy is kept.
    #[default]
    WriteThrough,
    /// The copies are flushed here; the UFS follows.
    WriteBack,
    /// The copies are flushed here; the UFS never hears of the object.
    Transient,
    /// Every mutating call is refused before its body is read.
    ReadOnly,
    /// Straight to and from the UFS: no byte of the object on worker disks.
    NoCache,
}

impl PolicyMode {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::WriteThrough,
        Self::WriteBack,
        Self::Transient,
        Self::ReadOnly,
        Self::NoCache,
    ];

    /// The name in `policyMode`, such as `WRITE_THROUGH`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WriteThrough => "WRITE_THROUGH",
            Self::WriteBack => "WRITE_BACK",
            Self::Transient => "TRANSIENT",
            Self::ReadOnly => "READ_ONLY",
            Self::NoCache => "NO_CACHE",
        }
    }

    /// The mode of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// What happens to a WRITE_BACK or TRANSIENT write when dirty space is full
/// (property `onDirtyLimit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OverLimit {
    /// 503 SlowDown with Retry-After.
    #[default]
    SlowDown,
    /// The write is treated as WRITE_THROUGH. WRITE_BACK only: what is TRANSIENT
    /// must never reach the UFS.
    WriteThrough,
}

impl OverLimit {
    /// The name in `onDirtyLimit`: `SLOW_DOWN` or `WRITE_THROUGH`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowDown => "SLOW_DOWN",
            Self::WriteThrough => "WRITE_THROUGH",
        }
    }

    /// The choice of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::SlowDown, Self::WriteThrough]
            .into_iter()
            .find(|choice| choice.as_str() == name)
    }
}

/// The policy of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathPolicy {
    /// What a 200 to a write means.
    pub mode: PolicyMode,
    /// Copies of unpersisted data on different workers, at least 1.
    pub write_replicas: u8,
    /// What happens when dirty space is full.
    pub over_limit: OverLimit,
    /// Which rule decided: its place among the table's rules, from 0. `None`: the
    /// default rule.
    pub rule: Option<u16>,
}

impl Default for PathPolicy {
    fn default() -> Self {
        Self {
            mode: PolicyMode::default(),
            write_replicas: 1,
            over_limit: OverLimit::default(),
            rule: None,
        }
    }
}
