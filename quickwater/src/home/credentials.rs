//! The key pair clients sign with: from the environment, or made once and kept
//! in `DIR/credentials`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Secret, files};

/// Variable of the access key id.
pub(crate) const ACCESS_KEY_VARIABLE: &str = "QUICKWATER_ACCESS_KEY_ID";
/// Variable of the secret access key.
pub(crate) const SECRET_KEY_VARIABLE: &str = "QUICKWATER_SECRET_ACCESS_KEY";

/// Characters of an access key id, as AWS makes them.
const ACCESS_KEY_CHARS: usize = 20;
/// Characters of a secret access key, as AWS makes them.
const SECRET_KEY_CHARS: usize = 40;
/// Every access key of ours begins so, to be told from an AWS key at sight.
const ACCESS_KEY_PREFIX: &str = "QWAK";
/// 32 symbols, so a byte's low 5 bits choose one without bias.
const KEY_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// 64 symbols that need no quoting in a shell, a URL or an ini file.
const SECRET_ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Where the key pair came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The environment.
    Environment,
    /// The file, made earlier.
    File(PathBuf),
    /// The file, made just now.
    Made(PathBuf),
}

/// The key pair.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Secret,
    /// Where it came from.
    pub origin: Origin,
}

impl Credentials {
    /// Takes the pair from `variable`, else from `DIR/credentials`, else makes one.
    ///
    /// # Errors
    /// Half a pair in the environment, an unreadable or damaged file.
    pub(crate) fn load_or_make(
        dir: &Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let id = variable(ACCESS_KEY_VARIABLE).filter(|v| !v.is_empty());
        let secret = variable(SECRET_KEY_VARIABLE).filter(|v| !v.is_empty());
        match (id, secret) {
            (Some(id), Some(secret)) => return Self::checked(id, &secret, Origin::Environment),
            (None, None) => {}
            _ => bail!("set both {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}, or neither"),
        }
        let path = dir.join("credentials");
        if path.exists() {
            return Self::read(&path);
        }
        Self::make(&path)
    }

    fn read(path: &Path) -> Result<Self> {
        let show = path.display();
        let text = files::read_small(path).with_context(|| format!("cannot read {show}"))?;
        let take = |name: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
                .with_context(|| {
                    format!("{show} has no line '{name}=...'; restore it, or remove it to get a new key pair")
                })
        };
        let (id, secret) = (take("access_key_id")?, take("secret_access_key")?);
        Self::checked(id.to_owned(), secret, Origin::File(path.to_owned()))
    }

    fn make(path: &Path) -> Result<Self> {
        let tail = random_text(ACCESS_KEY_CHARS - ACCESS_KEY_PREFIX.len(), KEY_ALPHABET)?;
        let id = format!("{ACCESS_KEY_PREFIX}{tail}");
        let secret = random_text(SECRET_KEY_CHARS, SECRET_ALPHABET)?;
        let text = format!("access_key_id={id}\nsecret_access_key={secret}\n");
        files::write_private(path, &text)?;
        Self::checked(id, &secret, Origin::Made(path.to_owned()))
    }

    /// Both must survive a header and a query: printable ASCII without `/ ,` or
    /// spaces in the id.
    fn checked(id: String, secret: &str, origin: Origin) -> Result<Self> {
        let fine = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b',';
        if !(3..=128).contains(&id.len()) || !id.bytes().all(fine) {
            bail!(
                "the access key id must be 3 to 128 printable characters without '/', ',' and spaces"
            );
        }
        if !(8..=128).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("the secret access key must be 8 to 128 printable characters without spaces");
        }
        Ok(Self {
            access_key_id: id,
            secret_access_key: Secret::new(secret),
            origin,
        })
    }
}

/// `length` symbols of an alphabet whose size is a power of two.
fn random_text<const N: usize>(length: usize, alphabet: &[u8; N]) -> Result<String> {
    const { assert!(N.is_power_of_two() && N <= 256) };
    let mut bytes = vec![0u8; length];
    getrandom::fill(&mut bytes).context("no randomness from the operating system")?;
    let symbol = |b: &u8| char::from(alphabet[usize::from(*b) % N]);
    Ok(bytes.iter().map(symbol).collect())
}
