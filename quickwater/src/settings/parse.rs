//! Reads the text of one value: bytes, durations, addresses, mounts.
//!
//! Absent on purpose: where the text came from.

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// A refused value: what is wrong and what to write instead.
pub(crate) type Parsed<T> = Result<T, String>;

/// A metadata TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// Trusted that long; zero = looked up every time.
    For(Duration),
    /// Trusted for ever.
    Never,
}

impl Ttl {
    /// Milliseconds as in `Bucket::metadata_ttl_ms`; `u64::MAX` = for ever.
    pub(crate) fn as_ms(self) -> u64 {
        match self {
            Self::For(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1),
            Self::Never => u64::MAX,
        }
    }
}

/// A bucket that is a mount of a UFS location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountSpec {
    /// Bucket name, checked.
    pub bucket: String,
    /// UFS URI, checked.
    pub uri: String,
    /// UFS options in order of writing, without `metadata_ttl`.
    pub options: Vec<(String, String)>,
    /// Its own metadata TTL.
    pub ttl: Option<Ttl>,
}

/// Option of a mount that is ours rather than the UFS's.
const TTL_OPTION: &str = "metadata_ttl";
/// Longest host name, bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
/// Longest part of one, bytes.
const LABEL_BYTES_MAX: usize = 63;

/// Reads a number of bytes: digits with an optional unit.
pub(crate) fn bytes(text: &str) -> Parsed<u64> {
    let (number, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "'{text}' is not a size; write for example 10GiB, 512MiB or 4096"
            ));
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("'{text}' is not a size; write for example 10GiB, 512MiB or 4096"))
}

/// Reads a length of time: digits with a unit.
pub(crate) fn duration(text: &str) -> Parsed<Duration> {
    let refuse = || format!("'{text}' is not a duration; write for example 500ms, 10s, 5m or 1h");
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    number
        .checked_mul(factor_ms)
        .map(Duration::from_millis)
        .ok_or_else(refuse)
}

/// Reads a TTL: a duration or `never`.
pub(crate) fn ttl(text: &str) -> Parsed<Ttl> {
    if text == "never" {
        return Ok(Ttl::Never);
    }
    duration(text)
        .map(Ttl::For)
        .map_err(|e| format!("{e}; `0s` looks up every time, `never` trusts for ever"))
}

/// Reads `ADDRESS:PORT`.
pub(crate) fn address(text: &str) -> Parsed<SocketAddr> {
    SocketAddr::from_str(text).map_err(|_| {
        format!("'{text}' is not an address; write for example 127.0.0.1:29998 or [::]:29998")
    })
}

/// Reads `HOST:PORT`, as it is written: a name is looked up by who connects.
pub(crate) fn host_port(text: &str) -> Parsed<String> {
    let refuse = || {
        format!(
            "'{text}' is not a place to connect to; write for example 10.0.0.1:29989 or control.example:29989"
        )
    };
    if let Ok(address) = SocketAddr::from_str(text) {
        return match address.port() {
            0 => Err(refuse()),
            _ => Ok(address.to_string()),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(inner)
    };
    let named = host.len() <= HOST_BYTES_MAX
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && host.bytes().any(|b| b.is_ascii_alphabetic());
    match port.parse::<u16>() {
        Ok(1..) if named => Ok(text.to_owned()),
        _ => Err(refuse()),
    }
}

/// Reads `true` or `false`.
pub(crate) fn switch(text: &str) -> Parsed<bool> {
    match text {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("'{text}' is neither true nor false")),
    }
}

/// Reads a whole number.
pub(crate) fn count(text: &str) -> Parsed<u64> {
    text.parse()
        .map_err(|_| format!("'{text}' is not a whole number"))
}

/// Reads a part of a whole: above 0, below 1.
pub(crate) fn ratio(text: &str) -> Parsed<f64> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|number| *number > 0.0 && *number < 1.0)
        .ok_or_else(|| format!("'{text}' is not above 0 and below 1; write for example 0.3"))
}

/// Checks that `text` is one of `words`.
pub(crate) fn choice(text: &str, words: &[&str]) -> Parsed<String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is not one of: {}", words.join(", ")))
}

/// Checks a UFS URI: `file:///absolute/path`, a plain absolute or relative path
/// (made absolute), or `s3://bucket[/prefix]`.
pub(crate) fn uri(text: &str) -> Parsed<String> {
    if let Some(rest) = text.strip_prefix("s3://") {
        if rest.is_empty() || rest.starts_with('/') {
            return Err(format!(
                "'{text}' names no bucket; write s3://BUCKET/PREFIX"
            ));
        }
        return Ok(text.trim_end_matches('/').to_owned());
    }
    if let Some(path) = text.strip_prefix("file://") {
        if !path.starts_with('/') {
            return Err(format!(
                "'{text}' is not absolute; write file:///ABSOLUTE/PATH"
            ));
        }
        return Ok(trim_path(text));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!(
            "UFS scheme '{scheme}' is not supported; supported: file:///ABSOLUTE/PATH, s3://BUCKET/PREFIX"
        ));
    }
    if text.is_empty() {
        return Err("the URI is empty; write file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX".into());
    }
    file_uri(Path::new(text))
}

/// The `file://` URI of a path, made absolute without touching the disk.
pub(crate) fn file_uri(path: &Path) -> Parsed<String> {
    let absolute = std::path::absolute(path)
        .map_err(|e| format!("'{}' cannot be made absolute: {e}", path.display()))?;
    match absolute.to_str() {
        Some(text) => Ok(trim_path(&format!("file://{text}"))),
        None => Err(format!("'{}' is not UTF-8", path.display())),
    }
}

fn trim_path(uri: &str) -> String {
    let trimmed = uri.trim_end_matches('/');
    if trimmed == "file:" {
        return "file:///".into();
    }
    trimmed.to_owned()
}

/// Reads `name=value,name=value`.
pub(crate) fn options(text: &str) -> Parsed<Vec<(String, String)>> {
    split_options(text).into_iter().map(option).collect()
}

/// Reads one `name=value`.
pub(crate) fn option(text: &str) -> Parsed<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if is_option_name(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not an option; write NAME=VALUE")),
    }
}

/// Reads `BUCKET=URI[,option=value...]`.
pub(crate) fn mount(text: &str) -> Parsed<MountSpec> {
    let refuse = |why: &str| format!("mount '{text}' {why}; write BUCKET=URI[,option=value...]");
    let (bucket, rest) = text.split_once('=').ok_or_else(|| refuse("has no '='"))?;
    let mut pieces = split_options(rest).into_iter();
    let place = pieces.next().unwrap_or_default();
    let options = pieces.map(option).collect::<Parsed<Vec<_>>>()?;
    mount_of(bucket, place, options)
}

/// Checks the pieces of a mount.
pub(crate) fn mount_of(
    bucket: &str,
    place: &str,
    options: Vec<(String, String)>,
) -> Parsed<MountSpec> {
    let name = quickwater_proto::BucketName::new(bucket).map_err(|e| e.to_string())?;
    let (ours, options): (Vec<_>, Vec<_>) = options
        .into_iter()
        .partition(|(name, _)| name == TTL_OPTION);
    let own_ttl = ours.last().map(|(_, text)| ttl(text)).transpose()?;
    Ok(MountSpec {
        bucket: name.as_str().to_owned(),
        uri: uri(place)?,
        options,
        ttl: own_ttl,
    })
}

/// Splits at commas that an option name follows, so that values may hold commas.
fn split_options(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(',') {
        let name = text[at + 1..].split('=').next().unwrap_or_default();
        if text[at + 1..].contains('=') && is_option_name(name) {
            pieces.push(&text[start..at]);
            start = at + 1;
        }
    }
    if !text.is_empty() {
        pieces.push(&text[start..]);
    }
    pieces
}

fn is_option_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}
