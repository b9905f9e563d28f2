//! `DIR/last-start.json`: which process was started in a directory, and with what settings
//! besides those of its own file. `doctor` judges a directory by it. Nothing that serves reads it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::files;
use crate::settings::layers::Layer;
use crate::settings::{FILE_NAME, Source, Values, keys};

/// A verb that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// `serve`.
    Serve,
    /// `control`.
    Control,
    /// `worker`.
    Worker,
}

/// What a process was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastStart {
    /// The verb.
    pub(crate) verb: Verb,
    settings: Vec<Given>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    key: String,
    texts: Vec<String>,
    by: By,
}

/// Who gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    /// The file of `--config`.
    Config,
    /// A flag or a variable.
    Process,
}

impl LastStart {
    /// Of a process with these settings. Those of `DIR/quickwater.toml` are not among them: who
    /// looks at the directory reads that himself.
    pub(crate) fn new(verb: Verb, values: &Values) -> Self {
        let own = Path::new(values.text("dir")).join(FILE_NAME);
        let given = keys::KEYS.iter().filter(|key| key.name != "dir");
        let given = given.filter_map(|key| {
            let by = match values.source(key.name) {
                Source::Default | Source::LastStart => return None,
                Source::File(path) if path == own => return None,
                Source::File(_) => By::Config,
                Source::Environment(_) | Source::Flag(_) => By::Process,
            };
            let texts = values.texts(key.name).iter();
            Some(Given {
                key: key.name.to_owned(),
                texts: texts.map(|text| absolute(key, text)).collect(),
                by,
            })
        });
        Self {
            verb,
            settings: given.collect(),
        }
    }

    /// Writes it down. That it cannot be is told in the log: only `doctor` knows less then.
    pub(crate) fn note(&self, dir: &Path) {
        let write = || -> Result<()> {
            let text = serde_json::to_string(self)?;
            if text.len() as u64 >= super::SMALL_FILE_BYTES_MAX {
                bail!(
                    "more than {} bytes of settings",
                    super::SMALL_FILE_BYTES_MAX
                );
            }
            files::write_private(&dir.join(FILE), &format!("{text}\n"))
        };
        if let Err(error) = write() {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "what this process was started with is not noted for `doctor`"
            );
        }
    }

    /// Reads it; `None`: nothing was started there yet, or only by an earlier version.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let there = path.try_exists();
        if !there.with_context(|| format!("cannot look for {}", path.display()))? {
            return Ok(None);
        }
        let text =
            files::read_small(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let read = serde_json::from_str(&text);
        read.with_context(|| format!("{} is damaged", path.display()))
            .map(Some)
    }

    /// Its settings, but for those that another version had. `config`: with those of the file
    /// of `--config`.
    pub(crate) fn layer(&self, config: bool) -> Layer {
        let known = self
            .settings
            .iter()
            .filter(|one| config || one.by == By::Process);
        let known = known.filter_map(|one| {
            let key = keys::find(&one.key)?;
            Some((key, one.texts.clone(), Source::LastStart))
        });
        known.collect()
    }
}

const FILE: &str = "last-start.json";

/// A path as it is from anywhere.
fn absolute(key: &keys::Key, text: &str) -> String {
    if key.kind != keys::Kind::Path || text == key.special {
        return text.to_owned();
    }
    let path = std::path::absolute(text);
    path.map_or_else(
        |_| text.to_owned(),
        |path| path.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn values(dir: &Path) -> Values {
        let mut values = Values::defaults();
        let layer = |name: &str, text: &str, source: Source| {
            (keys::find(name).unwrap(), vec![text.to_owned()], source)
        };
        let flag = || Source::Flag("x".into());
        values.lay(vec![
            layer("dir", dir.to_str().unwrap(), flag()),
            layer("cluster.certificates", "certs/n1", flag()),
            layer("s3.tls.key", "off", flag()),
            layer(
                "memory",
                "2GiB",
                Source::Environment("QUICKWATER_MEMORY".into()),
            ),
            layer(
                "s3.listen",
                "127.0.0.1:1",
                Source::File("/etc/qw.toml".into()),
            ),
            layer(
                "admin.listen",
                "127.0.0.1:2",
                Source::File(dir.join(FILE_NAME)),
            ),
        ]);
        values
    }

    #[test]
    fn what_was_given_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LastStart::read(dir.path()).unwrap(), None);
        let start = LastStart::new(Verb::Worker, &values(dir.path()));
        start.note(dir.path());
        let mode = std::fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = LastStart::read(dir.path()).unwrap().unwrap();
        assert_eq!(read, start);
        assert_eq!(read.verb, Verb::Worker);
        let mut seen = Values::defaults();
        seen.lay(read.layer(true));
        let here = std::env::current_dir().unwrap().join("certs/n1");
        assert_eq!(Path::new(seen.text("cluster.certificates")), here);
        assert_eq!(
            (seen.text("s3.tls.key"), seen.text("memory")),
            ("off", "2GiB")
        );
        assert_eq!(seen.text("s3.listen"), "127.0.0.1:1");
        assert_eq!(seen.source("memory"), Source::LastStart);
        // The directory may have moved, and its file is read by itself.
        for name in ["dir", "admin.listen"] {
            assert_eq!(seen.source(name), Source::Default, "{name}");
        }
        let mut other = Values::defaults();
        other.lay(read.layer(false));
        assert_eq!(other.source("s3.listen"), Source::Default);
        assert_eq!(other.text("memory"), "2GiB");
    }

    #[test]
    fn keys_of_another_version_are_passed_over_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let text = r#"{"verb":"serve","settings":[{"key":"odd","texts":["1"],"by":"process"}]}"#;
        std::fs::write(&path, text).unwrap();
        let read = LastStart::read(dir.path()).unwrap().unwrap();
        assert!(read.layer(true).is_empty());
        std::fs::write(&path, "{").unwrap();
        let error = LastStart::read(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("is damaged"));
    }
}
