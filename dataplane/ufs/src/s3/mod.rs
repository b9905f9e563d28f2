//! An S3 store as a UFS, by aws-sdk-s3.
//!
//! Requests that change nothing are tried up to three times; a write is sent
//! once, because a second one could undo what came in between. The key in the
//! store is the location's prefix plus the key.

mod body;
mod clock;
mod connect;
mod errors;
mod large;
mod listing;
mod objects;
mod read;
mod send;
mod uploads;
mod write;

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use quickwater_proto::{KEY_BYTES_MAX, ObjectKey, UfsError, UfsErrorKind, UfsObject};

use crate::client::UfsReport;
use crate::location::S3Location;
use crate::mount::{Context, Turns, within};
use crate::standing::Permit;
use errors::{failed, failed_on_object, is_bare_not_found};
pub(crate) use uploads::id_of;

/// What the name of the object begins with that a write probe makes and removes.
const PROBE_KEY: &str = ".quickwater-probe-";
/// What is in it.
const PROBE_BYTES: &[u8] = b"probe";

/// A mounted bucket or prefix of a store.
#[derive(Debug)]
pub(crate) struct S3 {
    client: Client,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    tls: bool,
    context: Arc<Context>,
    turns: Arc<Turns>,
}

/// The SDK has `Expires` as a time; we pass it on as it was sent.
macro_rules! with_expires {
    ($request:expr, $expires:expr) => {{
        let expires: Option<String> = $expires;
        $request.mutate_request(move |request| {
            if let Some(expires) = &expires
                // What is no header value was refused by the S3 front.
                && let Err(error) = request.headers_mut().try_insert("expires", expires.clone())
            {
                tracing::debug!(%error, "Expires not passed on");
            }
        })
    }};
}
use with_expires;

impl S3 {
    pub(crate) async fn open(
        location: &S3Location,
        context: Arc<Context>,
        turns: Arc<Turns>,
    ) -> Result<Self, UfsError> {
        let config = &context.config;
        let connecting = connect::client(location, config);
        Ok(Self {
            client: within(config.request_timeout, "credentials", connecting).await?,
            bucket: location.bucket.clone(),
            prefix: location.prefix.clone(),
            tls: location
                .endpoint
                .as_ref()
                .is_none_or(|e| e.starts_with("https://")),
            context,
            turns,
        })
    }

    /// Settings of a request that may be repeated.
    fn repeatable(&self) -> Builder {
        let config = &self.context.config;
        let attempt = config.request_timeout / connect::READ_ATTEMPTS;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(config.connect_timeout.min(attempt))
            .operation_attempt_timeout(attempt)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(connect::READ_ATTEMPTS)
            .with_initial_backoff(attempt / 10)
            .with_max_backoff(attempt / 3);
        Builder::new()
            .retry_config(retries)
            .timeout_config(timeouts)
    }

    /// Runs one request when it is its turn.
    async fn request<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, UfsError>>,
    ) -> Result<T, UfsError> {
        let _turn = self.turns.take().await?;
        within(self.context.config.request_timeout, what, work).await
    }

    fn full_key(&self, key: &ObjectKey) -> Result<String, UfsError> {
        full_key(&self.prefix, key)
    }

    pub(crate) async fn head(&self, key: &ObjectKey) -> Result<UfsObject, UfsError> {
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full_key(key)?)
            .checksum_mode(ChecksumMode::Enabled)
            .customize()
            .config_override(self.repeatable());
        let head = self.request("head", async {
            Ok(match request.send().await {
                Ok(head) => Some(head),
                Err(error) if is_bare_not_found(&error) => None,
                Err(error) => return Err(failed_on_object("head", false, &error)),
            })
        });
        match head.await? {
            Some(head) => objects::object(&head),
            None => Err(self.missing(key).await),
        }
    }

    /// What a HEAD's 404 means: it has no body that would tell an object that is not
    /// there from a bucket that is not (S3 "HeadObject"). A GET's has.
    async fn missing(&self, key: &ObjectKey) -> UfsError {
        let full = match self.full_key(key) {
            Ok(full) => full,
            Err(error) => return error,
        };
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(full)
            .range("bytes=0-0")
            .customize()
            .config_override(self.repeatable());
        let get = self.request("get after a 404", async {
            let what = "get after a 404";
            let answer = request.send().await;
            answer.map_err(|e| failed_on_object(what, false, &e))
        });
        match get.await {
            Err(error) => error,
            Ok(_) => UfsError::new(
                UfsErrorKind::Unavailable,
                "the object came while it was looked for",
            ),
        }
    }

    pub(crate) async fn delete(&self, key: &ObjectKey, permit: &Permit) -> Result<(), UfsError> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.full_key(key)?);
        let deleted = self.request("delete", async {
            permit.check()?;
            let answer = request.send().await;
            answer.map_err(|e| failed_on_object("delete", true, &e))
        });
        match deleted.await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == UfsErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// There is nothing to make for a prefix; the store's bucket must be there.
    pub(crate) async fn create_location(&self) -> Result<(), UfsError> {
        let request = self
            .client
            .head_bucket()
            .bucket(&self.bucket)
            .customize()
            .config_override(self.repeatable());
        self.request("head bucket", async {
            match request.send().await {
                Ok(_) => Ok(()),
                Err(error) if is_bare_not_found(&error) => {
                    let message = format!("the store has no bucket '{}'", self.bucket);
                    Err(UfsError::new(UfsErrorKind::NotFound, message))
                }
                Err(error) => Err(failed("head bucket", false, &error)),
            }
        })
        .await
    }

    /// There is nothing to remove of a prefix without keys.
    pub(crate) async fn remove_location(&self) -> Result<(), UfsError> {
        if self.is_empty().await? {
            return Ok(());
        }
        let message = format!("s3://{}/{} is not empty", self.bucket, self.prefix);
        Err(UfsError::new(UfsErrorKind::Invalid, message))
    }

    pub(crate) async fn check(&self, write_probe: bool) -> Result<UfsReport, UfsError> {
        if let Err(error) = self.is_empty().await {
            // Without a bucket that is what is to be said.
            self.create_location().await?;
            return Err(error);
        }
        let mut report = UfsReport {
            writable: None,
            remarks: Vec::new(),
        };
        if write_probe {
            let probed = self.request("write probe", self.probe()).await;
            report.writable = Some(probed.is_ok());
            report.remarks.extend(probed.err().map(|e| e.to_string()));
        }
        Ok(report)
    }

    /// Writes an object that nobody else has, reads it back and deletes it, whatever it read.
    async fn probe(&self) -> Result<(), UfsError> {
        // Two at a time must not delete each other's.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let key = format!("{}{PROBE_KEY}{random:016x}", self.prefix);
        let put = self.client.put_object().bucket(&self.bucket).key(&key);
        let put = put.body(Bytes::from_static(PROBE_BYTES).into());
        put.send().await.map_err(|e| failed("put", true, &e))?;
        let read = self.read_probe(&key).await;
        let delete = self.client.delete_object().bucket(&self.bucket).key(&key);
        let deleted = delete.send().await.map_err(|e| {
            let mut error = failed("delete", true, &e);
            error.message.push_str(&format!("; '{key}' is left there"));
            error
        });
        read.and(deleted.map(drop))
    }

    async fn read_probe(&self, key: &str) -> Result<(), UfsError> {
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        let answer = get.send().await.map_err(|e| failed("get", false, &e))?;
        let body = answer.body.collect().await;
        let body = body.map_err(|e| {
            let message = format!("get: the body broke off: {e}");
            UfsError::new(UfsErrorKind::Unavailable, message)
        })?;
        if body.into_bytes() == PROBE_BYTES {
            return Ok(());
        }
        let message = "get: other bytes than were written";
        Err(UfsError::new(UfsErrorKind::Corrupt, message))
    }
}

/// The key in the store of an object of a location (S3 "Object key names": 1,024 bytes).
pub(crate) fn full_key(prefix: &str, key: &ObjectKey) -> Result<String, UfsError> {
    let full = format!("{prefix}{}", key.as_str());
    if full.len() > KEY_BYTES_MAX {
        let most = KEY_BYTES_MAX.saturating_sub(prefix.len());
        let message = format!(
            "the key has {} bytes; with the prefix of this bucket's location at most {most} fit",
            key.as_str().len()
        );
        return Err(UfsError::new(UfsErrorKind::Unsupported, message));
    }
    Ok(full)
}
