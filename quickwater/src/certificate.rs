//! Certificate and key files of the S3 endpoint: read, judged, watched for change.
//! Absent: what is inside them (see the worker's `tls`).

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use quickwater_worker::tls::Validity;

use crate::settings::TlsSettings;

/// Longest certificate or key file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A certificate that holds no longer than this is worth a warning.
const RENEW_BEFORE: Duration = Duration::from_secs(14 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 3600;
/// Permission bits of everybody.
const OTHERS: u32 = 0o007;

/// What the files held.
pub(crate) struct Pem {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// Reads both files.
///
/// # Errors
/// One cannot be read, or is no such file by its size.
pub(crate) fn read(tls: &TlsSettings) -> Result<Pem> {
    Ok(Pem {
        chain: read_file(&tls.certificate, "s3.tls.certificate")?,
        key: read_file(&tls.key, "s3.tls.key")?,
    })
}

fn read_file(path: &Path, setting: &str) -> Result<Vec<u8>> {
    let read = || -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            bail!("larger than {FILE_BYTES_MAX} bytes");
        }
        Ok(bytes)
    };
    read().with_context(|| format!("cannot read {} ({setting})", path.display()))
}

/// What an operator should do about a certificate and its files; empty = nothing.
pub(crate) fn remarks(tls: &TlsSettings, validity: &Validity, now: SystemTime) -> Vec<String> {
    let mut out = Vec::new();
    let left = validity.left(now);
    let show = tls.certificate.display();
    if left.is_zero() {
        let days = now.duration_since(validity.until).unwrap_or_default();
        let days = days.as_secs() / DAY_SECONDS;
        out.push(format!(
            "the certificate {show} expired {days} days ago; clients will refuse it: renew it"
        ));
    } else if left <= RENEW_BEFORE {
        let days = left.as_secs() / DAY_SECONDS;
        out.push(format!(
            "the certificate {show} expires in {days} days; renew it"
        ));
    }
    if now < validity.from {
        out.push(format!(
            "the certificate {show} is not valid yet; look at it and at the clock"
        ));
    }
    if validity.names.is_empty() {
        out.push(format!(
            "the certificate {show} names no host (subjectAltName); clients will refuse it"
        ));
    }
    out.extend(key_remark(&tls.key));
    out
}

fn key_remark(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.mode();
    let show = key.display();
    (mode & OTHERS != 0).then(|| {
        format!("the key {show} can be read by every user of this host; chmod 600 (or 640) it")
    })
}

/// Changes when either file does, also when a link to it is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp([Option<[i64; 5]>; 2]);

/// The stamp of both files now.
pub(crate) fn stamp(tls: &TlsSettings) -> Stamp {
    let of = |path: &Path| std::fs::metadata(path).ok().map(|m| stamp_of(&m));
    Stamp([of(&tls.certificate), of(&tls.key)])
}

fn stamp_of(metadata: &Metadata) -> [i64; 5] {
    [
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.size().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings(dir: &Path) -> TlsSettings {
        TlsSettings {
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            listen: None,
            reload: Duration::from_secs(10),
        }
    }

    fn validity(from: u64, until: u64) -> Validity {
        let at = |days| SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY_SECONDS);
        Validity {
            from: at(from),
            until: at(until),
            names: vec!["localhost".into()],
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let tls = settings(dir.path());
        std::fs::write(&tls.key, "x").unwrap();
        std::fs::set_permissions(&tls.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * DAY_SECONDS);
        let said = |v: Validity| remarks(&tls, &v, now).join("\n");
        assert_eq!(said(validity(1, 200)), "");
        assert!(said(validity(1, 90)).contains("expired 10 days ago"));
        assert!(said(validity(1, 107)).contains("expires in 7 days"));
        assert!(said(validity(101, 200)).contains("not valid yet"));
        let nameless = Validity {
            names: Vec::new(),
            ..validity(1, 200)
        };
        assert!(said(nameless).contains("subjectAltName"));
        std::fs::set_permissions(&tls.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(said(validity(1, 200)).contains("chmod 600"));
    }

    #[test]
    fn a_switched_link_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let tls = settings(dir.path());
        std::fs::write(dir.path().join("one"), "1").unwrap();
        std::fs::write(dir.path().join("two"), "2").unwrap();
        std::fs::write(&tls.key, "k").unwrap();
        assert_eq!(stamp(&tls), stamp(&tls));
        std::os::unix::fs::symlink(dir.path().join("one"), &tls.certificate).unwrap();
        let before = stamp(&tls);
        std::fs::remove_file(&tls.certificate).unwrap();
        std::os::unix::fs::symlink(dir.path().join("two"), &tls.certificate).unwrap();
        assert_ne!(stamp(&tls), before);
    }

    #[test]
    fn missing_and_oversized_files_name_their_setting() {
        let dir = tempfile::tempdir().unwrap();
        let tls = settings(dir.path());
        let said = |tls: &TlsSettings| format!("{:#}", read(tls).err().unwrap());
        assert!(said(&tls).contains("s3.tls.certificate"));
        std::fs::write(&tls.certificate, "c").unwrap();
        assert!(said(&tls).contains("s3.tls.key"));
        std::fs::write(&tls.key, vec![0; (1 << 20) + 1]).unwrap();
        assert!(said(&tls).contains("larger than"));
    }
}
