//! Writes settings down: `conf show`, and the page `docs/configuration.md`.

use std::fmt::Write as _;

use super::Values;
use super::keys::{KEYS, Key, Kind};

/// All values as a TOML file, every key with who set it.
pub(crate) fn show(values: &Values) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in in_toml_order() {
        let (above, name) = split(key.name);
        if above != section {
            section = above;
            let _ = writeln!(out, "\n[{above}]");
        }
        let texts = values.texts(key.name);
        let _ = writeln!(
            out,
            "{name} = {}  # {}",
            toml_value(key, texts),
            values.source(key.name)
        );
    }
    out
}

/// All values as JSON: name to text, or list of texts.
pub(crate) fn json(values: &Values) -> serde_json::Value {
    let of = |key: &Key| {
        let texts = values.texts(key.name);
        let value = if key.kind == Kind::Mounts {
            serde_json::json!(texts)
        } else {
            serde_json::json!(values.text(key.name))
        };
        (key.name.to_owned(), value)
    };
    serde_json::Value::Object(KEYS.iter().map(of).collect())
}

/// The page `docs/configuration.md`.
pub(crate) fn page() -> String {
    let mut out = String::from(PAGE_HEAD);
    out.push_str("| key | type | default | flag | meaning |\n|---|---|---|---|---|\n");
    for key in KEYS {
        let mut kind = key.kind.word();
        if !key.special.is_empty() {
            let _ = write!(kind, " or `{}`", key.special);
        }
        let default = match key.default {
            "" => "(none)".to_owned(),
            text => format!("`{text}`"),
        };
        let (name, flag, doc) = (key.name, key.flag, key.doc);
        let _ = writeln!(
            out,
            "| `{name}` | {kind} | {default} | `--{flag}` | {doc} |"
        );
    }
    out.push_str(PAGE_TAIL);
    out
}

/// Keys without a section first, as TOML wants it; nothing else moves.
fn in_toml_order() -> Vec<&'static Key> {
    let mut all: Vec<&Key> = KEYS.iter().collect();
    all.sort_by_key(|k| k.name.contains('.'));
    all
}

pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

pub(super) fn toml_value(key: &Key, texts: &[String]) -> String {
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let text = texts.first().map_or("", String::as_str);
    match key.kind {
        Kind::Mounts => {
            let all: Vec<String> = texts.iter().map(|t| quote(t)).collect();
            format!("[{}]", all.join(", "))
        }
        Kind::Count | Kind::Ratio | Kind::Switch if text != key.special => text.to_owned(),
        _ => quote(text),
    }
}

const PAGE_HEAD: &str = "# Configuration

Generated from the table of settings in the program; `quickwater conf show
--defaults` prints the same.

A setting comes from, strongest first:

1. a flag of `serve`, e.g. `--s3-listen 0.0.0.0:29998`;
2. an environment variable: `QUICKWATER_` and the key in capitals with `__` for
   every dot, e.g. `QUICKWATER_S3__LISTEN`;
3. the TOML file of `--config` (or `QUICKWATER_CONFIG`), otherwise
   `DIR/quickwater.toml` if it is there;
4. the default.

Every value is checked at start; a key nobody knows is refused. Sizes are written
`4096`, `64KiB`, `10GiB` (powers of 1024) or `10GB` (powers of 1000), times
`500ms`, `10s`, `5m`, `1h`.

";

const PAGE_TAIL: &str = "
## As a file

```toml
memory = \"4GiB\"
metadata_ttl = \"30s\"

[s3]
listen = \"0.0.0.0:29998\"

[store]
capacity = \"500GiB\"

[[mounts]]
bucket = \"corpus\"
ufs = \"s3://training/corpus\"
region = \"eu-central-1\"
credentials = \"env:CORPUS\"
metadata_ttl = \"5m\"

[[mounts]]
bucket = \"scratch\"
ufs = \"file:///mnt/nfs/scratch\"
```

## Credentials

`QUICKWATER_ACCESS_KEY_ID` and `QUICKWATER_SECRET_ACCESS_KEY` set the key pair
clients sign with. Without them the first start makes a pair and keeps it in
`DIR/credentials` (mode 0600). The admin token is in `DIR/admin-token` (mode 0600);
admin verbs read it there, from `--token-file` or from `QUICKWATER_ADMIN_TOKEN`.
Credentials of a UFS are never settings, only references to where they are.
";
