//! Where settings come from, weakest first: defaults, file, environment, flags.
//!
//! Absent on purpose: what the values mean.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::keys::{self, ENV_PREFIX, KEYS, Key, Kind};

/// Variables with our prefix that are not settings.
const OTHER_VARIABLES: &[&str] = &[
    "QUICKWATER_ACCESS_KEY_ID",
    "QUICKWATER_SECRET_ACCESS_KEY",
    "QUICKWATER_ADMIN_TOKEN",
    "QUICKWATER_CONFIG",
];
/// Largest settings file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Edits up to which a name counts as a misspelling.
const NEAR_EDITS: usize = 3;

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody.
    Default,
    /// The process that was started last in the directory.
    LastStart,
    /// A TOML file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::LastStart => f.write_str("last start"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// The text of every key and who set it. A list (mounts) has several texts.
#[derive(Debug, Clone)]
pub(crate) struct Values(BTreeMap<&'static str, (Vec<String>, Source)>);

/// One layer: keys with their texts.
pub(crate) type Layer = Vec<(&'static Key, Vec<String>, Source)>;

impl Values {
    /// The defaults.
    pub(crate) fn defaults() -> Self {
        let of = |key: &'static Key| (key.name, (texts_of_default(key), Source::Default));
        Self(KEYS.iter().map(of).collect())
    }

    /// Lays `layer` over what is there.
    pub(crate) fn lay(&mut self, layer: Layer) {
        for (key, texts, source) in layer {
            self.0.insert(key.name, (texts, source));
        }
    }

    /// What somebody set.
    pub(crate) fn given(self) -> Layer {
        let all = self.0.into_iter();
        let given = all.filter(|(_, (_, source))| *source != Source::Default);
        given
            .filter_map(|(name, (texts, source))| Some((keys::find(name)?, texts, source)))
            .collect()
    }

    /// The texts of a key.
    pub(crate) fn texts(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], |(texts, _)| texts)
    }

    /// The text of a key that is not a list.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.texts(name).first().map_or("", String::as_str)
    }

    /// Who set a key.
    pub(crate) fn source(&self, name: &str) -> Source {
        self.0.get(name).map_or(Source::Default, |(_, s)| s.clone())
    }
}

fn texts_of_default(key: &Key) -> Vec<String> {
    if key.kind == Kind::Mounts {
        return Vec::new();
    }
    vec![key.default.to_owned()]
}

/// Reads a TOML file; `Ok(None)` when it is not there.
pub(crate) fn read_file(path: &Path) -> Result<Option<Layer>> {
    let show = path.display();
    let meta = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read the settings file {show}"))?,
    };
    if meta.len() > FILE_BYTES_MAX {
        bail!(
            "the settings file {show} is larger than {FILE_BYTES_MAX} bytes; is it the right file?"
        );
    }
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the settings file {show}"))?;
    let table: toml::Table = toml::from_str(&text)
        .with_context(|| format!("the settings file {show} is not valid TOML"))?;
    let mut layer = Layer::new();
    flatten("", &table, &Source::File(path.to_owned()), &mut layer)
        .with_context(|| format!("in the settings file {show}"))?;
    Ok(Some(layer))
}

fn flatten(above: &str, table: &toml::Table, source: &Source, layer: &mut Layer) -> Result<()> {
    for (name, value) in table {
        let full = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        if let Some(key) = keys::find(&full) {
            let texts = texts_of(key, value).with_context(|| format!("key `{full}`"))?;
            layer.push((key, texts, source.clone()));
            continue;
        }
        match value {
            toml::Value::Table(inner) if is_section(&full) => flatten(&full, inner, source, layer)?,
            _ => bail!(
                "unknown key `{full}`{}",
                suggestion(&full, KEYS.iter().map(|k| k.name))
            ),
        }
    }
    Ok(())
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|k| {
        k.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn texts_of(key: &Key, value: &toml::Value) -> Result<Vec<String>> {
    match (key.kind, value) {
        (Kind::Mounts, toml::Value::Array(items)) => items.iter().map(mount_text).collect(),
        (Kind::Options, toml::Value::Table(table)) => Ok(vec![options_text(table)?]),
        (Kind::Mounts, toml::Value::String(text)) => Ok(split_list(text)),
        (_, value) => Ok(vec![scalar(value)?]),
    }
}

fn scalar(value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(on) => Ok(on.to_string()),
        other => bail!(
            "expected a string, a number or true/false, found {}",
            other.type_str()
        ),
    }
}

fn options_text(table: &toml::Table) -> Result<String> {
    let pairs = table
        .iter()
        .map(|(name, value)| Ok(format!("{name}={}", scalar(value)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(pairs.join(","))
}

/// A mount as text: given as text, or as a table of `bucket`, `ufs` and options.
fn mount_text(value: &toml::Value) -> Result<String> {
    let toml::Value::Table(table) = value else {
        return scalar(value);
    };
    let take = |name: &str| {
        table
            .get(name)
            .and_then(toml::Value::as_str)
            .with_context(|| format!("a mount needs the text `{name}`"))
    };
    let mut text = format!("{}={}", take("bucket")?, take("ufs")?);
    for (name, value) in table {
        if name != "bucket" && name != "ufs" {
            text.push_str(&format!(",{name}={}", scalar(value)?));
        }
    }
    Ok(text)
}

/// Reads the settings among `variables`.
///
/// Names without `__` that resemble no setting are left alone: Kubernetes puts
/// `QUICKWATER_PORT`, `QUICKWATER_SERVICE_HOST` and the like into every pod that
/// shares a namespace with a service called `quickwater`.
pub(crate) fn read_environment(variables: impl Iterator<Item = (String, String)>) -> Result<Layer> {
    let mut layer = Layer::new();
    for (name, value) in variables {
        if !name.starts_with(ENV_PREFIX) || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        if let Some(key) = KEYS.iter().find(|k| k.variable() == name) {
            let texts = if key.kind == Kind::Mounts {
                split_list(&value)
            } else {
                vec![value]
            };
            layer.push((key, texts, Source::Environment(name)));
            continue;
        }
        let names: Vec<String> = KEYS.iter().map(Key::variable).collect();
        let hint = suggestion(&name, names.iter().map(String::as_str));
        if name.contains("__") || is_misspelt(&name, &names) {
            bail!("unknown environment variable `{name}`{hint}");
        }
    }
    Ok(layer)
}

/// One edit in three letters after the prefix, so `QUICKWATER_PORT` is nobody's
/// misspelling.
fn is_misspelt(name: &str, known: &[String]) -> bool {
    let most = (name.len() - ENV_PREFIX.len()) / 3;
    known.iter().any(|k| edits(name, k) <= most)
}

fn split_list(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `"; did you mean ...?"` for the nearest of `known`, or nothing.
pub(crate) fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let tail = format!(".{name}");
    let distance = |k: &str| {
        if k.ends_with(&tail) {
            0
        } else {
            edits(name, k)
        }
    };
    let nearest = known
        .map(|k| (distance(k), k))
        .min()
        .filter(|(distance, _)| *distance <= NEAR_EDITS);
    match nearest {
        Some((_, k)) => format!("; did you mean `{k}`?"),
        None => String::new(),
    }
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
