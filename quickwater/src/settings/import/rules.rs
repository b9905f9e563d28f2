//! Which property becomes which setting. One table, longest names first where
//! they share a beginning.

use super::values;

/// What becomes of a property.
pub(super) enum Outcome {
    /// This setting gets this text.
    Set(&'static str, String),
    /// It holds here without a setting.
    Needless(String),
    /// It cannot be translated, and why.
    Not(String),
}

type Convert = fn(&str) -> Result<String, String>;

/// Properties with a setting of the same meaning.
const SETTINGS: &[(&str, &str, Convert)] = &[
    // The write cache.
    (
        "alluxio.worker.page.store.pinned.file.capacity.limit.ratio",
        "write_cache.dirty_ratio",
        same,
    ),
    (
        "alluxio.worker.write.cache.async.persist.retry.initial.interval",
        "write_cache.persist_retry_initial",
        values::duration,
    ),
    (
        "alluxio.worker.write.cache.async.persist.retry.max.interval",
        "write_cache.persist_retry_max",
        values::duration,
    ),
    (
        "alluxio.write.cache.async.persist.thread.pool.size",
        "write_cache.persist_concurrency",
        same,
    ),
    (
        "alluxio.write.cache.async.check.orphan.timeout",
        "write_cache.orphan_timeout",
        values::duration,
    ),
    (
        "alluxio.write.cache.async.file.check.period",
        "write_cache.orphan_period",
        values::duration,
    ),
    (
        "alluxio.worker.mark.writing.files.duration",
        "write_cache.writing_timeout",
        values::duration,
    ),
    // The page store.
    (
        "alluxio.worker.page.store.sizes",
        "store.capacity",
        values::sum,
    ),
    (
        "alluxio.worker.page.store.size",
        "store.capacity",
        values::sum,
    ),
    // The S3 API.
    (
        "alluxio.proxy.s3.header.metadata.max.size",
        "s3.user_metadata_limit",
        size,
    ),
    // The UFS.
    ("alluxio.dora.client.ufs.root", "ufs.uri", same),
    ("alluxio.underfs.s3.endpoint.region", "ufs.options", region),
    ("alluxio.underfs.s3.region", "ufs.options", region),
    ("alluxio.underfs.s3.endpoint", "ufs.options", endpoint),
    (
        "alluxio.underfs.s3.disable.dns.buckets",
        "ufs.options",
        path_style,
    ),
    (
        "alluxio.underfs.s3.upload.threads.max",
        "ufs.concurrency",
        same,
    ),
    (
        "alluxio.underfs.s3.socket.timeout",
        "ufs.timeout.idle",
        values::duration,
    ),
    (
        "alluxio.user.file.metadata.sync.interval",
        "metadata_ttl",
        ttl,
    ),
];

/// Properties that need no setting.
const NEEDLESS: &[(&str, &str)] = &[
    (
        "alluxio.write.cache.enabled",
        "the write cache is there always; path policies (`quickwater pathconfig`) say which paths use WRITE_BACK or TRANSIENT",
    ),
    (
        "alluxio.worker.s3.api.enabled",
        "the S3 endpoint is there always",
    ),
    (
        "alluxio.worker.s3.redirect.enabled",
        "clients are never redirected",
    ),
    (
        "alluxio.worker.page.store.page.size",
        "objects are cached in pieces of 1 MiB, small ones whole",
    ),
    (
        "alluxio.worker.page.store.type",
        "there is one kind of store",
    ),
    (
        "alluxio.foundationdb.cluster.file.path",
        "metadata is kept by the service itself, without a database beside it",
    ),
    (
        "alluxio.underfs.s3.streaming.upload.enabled",
        "uploads stream always",
    ),
    (
        "alluxio.underfs.s3.streaming.upload.partition.size",
        "the size of parts is chosen by the size of the object",
    ),
];

/// Properties without a counterpart.
const NOT: &[(&str, &str)] = &[
    (
        "alluxio.worker.s3.only.https.access",
        "the endpoint speaks plain HTTP; let a proxy in front of it end TLS, or listen on 127.0.0.1 only",
    ),
    (
        "alluxio.proxy.s3.tagging.restrictions.enabled",
        "the limits of S3 on tags hold always (10 tags an object, 50 a bucket)",
    ),
    (
        "alluxio.security.authentication.type",
        "signatures are checked (SigV4): clients need the key pair in DIR/credentials; `s3.auth = \"simple\"` takes any signature",
    ),
    (
        "alluxio.worker.page.store.dirs",
        "the store has one directory: put `dir` on that disk (several disks: stripe them)",
    ),
    ("alluxio.worker.page.store.dir", "put `dir` on that disk"),
];

/// Families of properties without a counterpart, by how their names begin.
const FAMILIES: &[(&str, &str)] = &[
    ("alluxio.master.", "there is no master"),
    ("alluxio.coordinator.", "there is no coordinator"),
    ("alluxio.job.", "there are no job workers"),
    ("alluxio.fuse.", "there is no FUSE mount"),
    ("alluxio.etcd.", "membership needs no etcd"),
    ("alluxio.hadoop.", "there is no HDFS client"),
    ("alluxio.underfs.hdfs.", "HDFS is not a UFS here"),
    ("alluxio.underfs.", "this UFS option has no counterpart"),
    (
        "alluxio.security.",
        "access is by S3 signatures and the admin token only",
    ),
    (
        "alluxio.user.",
        "clients are S3 clients and have their own settings",
    ),
    ("alluxio.worker.page.store.", "the store has no such choice"),
    (
        "alluxio.proxy.",
        "there is no proxy: every node is the endpoint",
    ),
];

/// Endings of names whose values are never shown.
const SECRETS: &[&str] = &[
    "accesskeyid",
    "secretkey",
    "password",
    "token",
    "secret",
    "credential",
];

/// Decides on one property.
pub(super) fn apply(property: &str, value: &str) -> Outcome {
    if is_secret(property) {
        return Outcome::Not(
            "secrets are never settings: put the pair into the environment of the service as NAME_ACCESS_KEY_ID and NAME_SECRET_ACCESS_KEY and set `ufs.options` credentials=env:NAME".into(),
        );
    }
    if let Some((_, key, convert)) = SETTINGS.iter().find(|(name, ..)| *name == property) {
        return match convert(value) {
            Ok(text) => Outcome::Set(key, text),
            Err(why) => Outcome::Not(why),
        };
    }
    if let Some((_, why)) = NEEDLESS.iter().find(|(name, _)| *name == property) {
        return Outcome::Needless((*why).into());
    }
    if let Some((_, why)) = NOT.iter().find(|(name, _)| *name == property) {
        return Outcome::Not((*why).into());
    }
    let family = FAMILIES
        .iter()
        .find(|(start, _)| property.starts_with(start));
    Outcome::Not(family.map_or("not known here", |(_, why)| why).into())
}

/// Whether the value must not be shown.
pub(super) fn is_secret(property: &str) -> bool {
    let name = property.to_ascii_lowercase().replace(['.', '_', '-'], "");
    SECRETS.iter().any(|ending| name.ends_with(ending))
}

fn same(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn size(text: &str) -> Result<String, String> {
    values::bytes(text).map(values::size)
}

fn region(text: &str) -> Result<String, String> {
    Ok(format!("region={text}"))
}

fn endpoint(text: &str) -> Result<String, String> {
    match text.contains("://") {
        true => Ok(format!("endpoint={text}")),
        false => Ok(format!("endpoint=https://{text}")),
    }
}

fn path_style(text: &str) -> Result<String, String> {
    Ok(format!("path_style={text}"))
}

/// -1: never looked up again; 0: always.
fn ttl(text: &str) -> Result<String, String> {
    match text.trim().starts_with('-') {
        true => Ok("never".into()),
        false => values::duration(text),
    }
}
