//! What the directory of a worker remembers of its cluster: its name there, and how far
//! the metadata were that it has seen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::client::{Position, Registered};
use quickwater_proto::{BlobId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// In the directory of a worker, and of nobody else.
pub(crate) const FILE: &str = "cluster.json";
/// How often it is written down how far the metadata are, at the most. A worker that is
/// killed with everything else is not safe from a copy of the metadata younger than this.
const NOTE_PAUSE: Duration = Duration::from_secs(5);

/// What the directory remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::serve) struct Belonging {
    /// The worker's name.
    node: String,
    /// Random name of the directory.
    directory: String,
    /// Random name of the cluster; empty until the first session.
    cluster: String,
    /// The control process that said how far the metadata were; empty: none yet.
    #[serde(default)]
    term: String,
    /// How far.
    #[serde(default)]
    version: u64,
}

impl Belonging {
    /// Reads what the directory remembers; made at the first start.
    ///
    /// # Errors
    /// It is another worker's directory, one of another kind, or cannot be read.
    pub(in crate::serve) fn read_or_make(dir: &Path, node: &NodeId) -> Result<Self> {
        let path = dir.join(FILE);
        if path.exists() {
            return Self::read(&path, dir, node);
        }
        if dir.join("metadata").exists() {
            bail!(
                "the directory {} is one of `quickwater serve`: its metadata would not be used. Give the worker a directory of its own",
                dir.display()
            );
        }
        let random = BlobId::random().context("no randomness from the operating system")?;
        let made = Self {
            node: node.to_string(),
            directory: random.to_string(),
            cluster: String::new(),
            term: String::new(),
            version: 0,
        };
        made.write(dir)?;
        Ok(made)
    }

    /// What a directory remembers, whose ever it is; `None`: it is not a worker's.
    ///
    /// # Errors
    /// It cannot be read.
    pub(in crate::serve) fn read_any(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        match path.exists() {
            true => Self::parse(&path).map(Some),
            false => Ok(None),
        }
    }

    /// The worker's name.
    pub(in crate::serve) fn node(&self) -> &str {
        &self.node
    }

    fn parse(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    fn read(path: &Path, dir: &Path, node: &NodeId) -> Result<Self> {
        let found = Self::parse(path)?;
        if found.node != node.as_str() {
            bail!(
                "the directory {} belongs to node '{}'; start it with --node-id {}, or give '{}' a directory of its own",
                dir.display(),
                found.node,
                found.node,
                node
            );
        }
        if !found.term.is_empty() && found.seen().is_none() {
            bail!("{} is damaged: it names no term", path.display());
        }
        Ok(found)
    }

    fn write(&self, dir: &Path) -> Result<()> {
        crate::home::write_note(&dir.join(FILE), &serde_json::to_string(self)?)
    }

    /// Random name of the directory.
    pub(in crate::serve) fn directory(&self) -> Vec<u8> {
        hex::decode(&self.directory).unwrap_or_default()
    }

    /// The cluster; empty: none yet.
    pub(in crate::serve) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// How far the metadata were.
    pub(in crate::serve) fn seen(&self) -> Option<Position> {
        let term = u128::from_str_radix(&self.term, 16).ok()?;
        let version = self.version;
        Some(Position { term, version })
    }

    fn saw(&self, cluster: &str, seen: Option<Position>) -> Self {
        let mut known = Self {
            cluster: cluster.to_owned(),
            ..self.clone()
        };
        if let Some(seen) = seen {
            known.term = format!("{:032x}", seen.term);
            known.version = seen.version;
        }
        known
    }

    /// Writes down the cluster, and how far its metadata are if that is to be remembered.
    ///
    /// # Errors
    /// It cannot be written: nothing may be done by these metadata.
    pub(super) fn remember(&self, dir: &Path, cluster: &str, seen: Option<Position>) -> Result<()> {
        let known = self.saw(cluster, seen);
        match known == *self {
            true => Ok(()),
            false => known.write(dir),
        }
    }

    /// Writes down how far the metadata are, for ever. To be called when nothing of before
    /// has to be set aside any more.
    pub(super) async fn follow(
        self,
        dir: PathBuf,
        registered: Registered,
        mut seen: watch::Receiver<Option<Position>>,
    ) {
        loop {
            let position = *seen.borrow_and_update();
            let known = self.saw(&registered.cluster, position);
            let to = dir.clone();
            let written = tokio::task::spawn_blocking(move || known.write(&to)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "how far the metadata are cannot be written down"
                );
            }
            if !worth_noting(position, &mut seen).await {
                return;
            }
        }
    }
}

/// Waits for something else to write down: a term at once, a version not too often.
/// `false`: there is nobody to say more.
async fn worth_noting(
    noted: Option<Position>,
    seen: &mut watch::Receiver<Option<Position>>,
) -> bool {
    let term = |seen: &Option<Position>| seen.map(|seen| seen.term);
    let other = seen.wait_for(|seen| term(seen) != term(&noted));
    if let Ok(found) = tokio::time::timeout(NOTE_PAUSE, other).await {
        return found.is_ok();
    }
    seen.wait_for(|seen| *seen != noted).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::new("n1").unwrap()
    }

    #[test]
    fn a_directory_remembers_how_far_the_metadata_were() {
        let dir = tempfile::tempdir().unwrap();
        let made = Belonging::read_or_make(dir.path(), &node()).unwrap();
        assert_eq!((made.cluster(), made.seen()), ("", None));
        let seen = Position {
            term: 7 << 100 | 3,
            version: 12,
        };
        made.remember(dir.path(), "c", Some(seen)).unwrap();
        let read = Belonging::read_or_make(dir.path(), &node()).unwrap();
        assert_eq!((read.cluster(), read.seen()), ("c", Some(seen)));
        assert_eq!(read.directory(), made.directory());
        // What was given up is not forgotten before it is set aside.
        read.remember(dir.path(), "c", None).unwrap();
        let read = Belonging::read_or_make(dir.path(), &node()).unwrap();
        assert_eq!(read.seen(), Some(seen));
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_is_written_down_at_once_and_a_version_after_a_while() {
        let at = |term, version| Some(Position { term, version });
        let (says, mut seen) = watch::channel(at(1, 1));
        let noted = at(1, 1);
        let begun = tokio::time::Instant::now();
        says.send_replace(at(1, 2));
        assert!(worth_noting(noted, &mut seen).await);
        assert_eq!(begun.elapsed(), NOTE_PAUSE);
        says.send_replace(at(2, 2));
        assert!(worth_noting(at(1, 2), &mut seen).await);
        assert_eq!(begun.elapsed(), NOTE_PAUSE);
        drop(says);
        assert!(!worth_noting(at(2, 2), &mut seen).await);
    }

    #[test]
    fn a_directory_of_before_has_seen_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"node":"n1","directory":"00ff","cluster":"c"}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let read = Belonging::read_or_make(dir.path(), &node()).unwrap();
        assert_eq!((read.cluster(), read.seen()), ("c", None));
        assert_eq!(read.directory(), [0, 255]);
        let other = NodeId::new("n2").unwrap();
        assert!(Belonging::read_or_make(dir.path(), &other).is_err());
    }

    #[test]
    fn a_damaged_term_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"node":"n1","directory":"00ff","cluster":"c","term":"?","version":1}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let error = Belonging::read_or_make(dir.path(), &node()).unwrap_err();
        assert!(error.to_string().contains("names no term"), "{error}");
    }
}
