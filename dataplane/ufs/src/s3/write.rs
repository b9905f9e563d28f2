//! Writing objects and parts with one streamed request each.
//!
//! A PUT publishes when its last byte arrives, so the bytes that complete the
//! length are held back until the caller has said that all checks passed. Objects
//! of one chunk or less are sent as a whole then, with Content-MD5 and checksum, and
//! so are larger ones whose caller knows both beforehand; the others are compared by
//! ETag (or checksum) afterwards.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::primitives::SdkBody;
use bytes::{Bytes, BytesMut};
use quickwater_engine::io::BodyDigests;
use quickwater_proto::{
    CHUNK_BYTES, ETag, ObjectHeaders, ObjectKey, UfsError, UfsErrorKind, UfsIdentity, UfsObject,
    UploadRecord,
};
use tokio::sync::mpsc;

use super::S3;
use super::body::{channel, stall};
use super::objects::{Confirmed, confirm};
use super::send::{Target, Written};
use super::uploads::upload_id;
use crate::mailbox::{Incoming, Piece};
use crate::mount::within;
use crate::stats::count;

/// Bodies up to this size are collected and sent as a whole.
const COLLECT_BYTES_MAX: u64 = CHUNK_BYTES as u64;

impl S3 {
    pub(crate) async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        incoming: Incoming,
    ) -> Result<Option<UfsObject>, UfsError> {
        if incoming.size() > self.context.config.single_put_bytes_max {
            let message = "larger than a store takes in one PUT";
            return Err(UfsError::new(UfsErrorKind::Unsupported, message));
        }
        let size = incoming.size();
        let target = Target::Object {
            key: self.full_key(key)?,
            headers: headers.clone(),
        };
        let Some((written, digests)) = self.write(target, incoming).await? else {
            return Ok(None);
        };
        self.confirmed(&written, &digests)?;
        let identity = self.identity_of(key, written.answer().etag, size).await?;
        Ok(Some(UfsObject {
            identity,
            etag: ETag::from_md5(&digests.md5),
            headers: headers.clone(),
            checksums: digests.checksums,
        }))
    }

    pub(crate) async fn put_part(
        &self,
        upload: &UploadRecord,
        number: u16,
        incoming: Incoming,
    ) -> Result<Option<UfsObject>, UfsError> {
        let size = incoming.size();
        let target = Target::Part {
            key: self.full_key(&upload.key)?,
            upload: upload_id(upload)?.to_owned(),
            number,
        };
        let Some((written, digests)) = self.write(target, incoming).await? else {
            return Ok(None);
        };
        self.confirmed(&written, &digests)?;
        let token = written.answer().etag.map(ETag::new);
        let token = token.ok_or_else(|| {
            UfsError::new(
                UfsErrorKind::Corrupt,
                "the store answered a part without ETag",
            )
        })?;
        Ok(Some(UfsObject {
            identity: UfsIdentity {
                size,
                modified_ns: now_ns(),
                token: token.as_str().to_owned(),
            },
            etag: ETag::from_md5(&digests.md5),
            headers: ObjectHeaders::default(),
            checksums: digests.checksums,
        }))
    }

    pub(super) fn confirmed(
        &self,
        written: &Written,
        digests: &BodyDigests,
    ) -> Result<(), UfsError> {
        if confirm(&written.answer(), digests)? == Confirmed::LengthOnly {
            count(&self.context.stats.unverified_writes, 1);
        }
        Ok(())
    }

    /// Sends a body that comes from the caller; `None`: the caller gave up.
    async fn write(
        &self,
        target: Target,
        mut incoming: Incoming,
    ) -> Result<Option<(Written, BodyDigests)>, UfsError> {
        if incoming.size() <= COLLECT_BYTES_MAX {
            self.write_collected(target, incoming).await
        } else {
            let size = incoming.size();
            let known = incoming.expected().await?;
            self.write_streamed(target, size, known, |feeder| feed(incoming, feeder))
                .await
        }
    }

    async fn write_collected(
        &self,
        target: Target,
        mut incoming: Incoming,
    ) -> Result<Option<(Written, BodyDigests)>, UfsError> {
        let size = incoming.size();
        let mut pieces = Vec::new();
        let digests = loop {
            match incoming.next().await? {
                None => return Ok(None),
                Some(Piece::Data(data)) => pieces.push(data),
                Some(Piece::Finish(digests)) => break digests,
            }
        };
        let body = SdkBody::from(joined(pieces));
        let _turn = self.turns.take().await?;
        incoming.permit().check()?;
        let deadline = self.context.config.deadline(size);
        let sent = within(
            deadline,
            "write",
            self.send(target, size, body, Some(&digests)),
        );
        let written = sent.await?;
        Ok(Some((written, digests)))
    }

    /// Sends a body while `feed` fills it; the store compares it with what is `known`.
    /// `feed` returns `None` to give up: the connection is broken before the announced
    /// length, so nothing is published.
    pub(super) async fn write_streamed<T, F>(
        &self,
        target: Target,
        size: u64,
        known: Option<BodyDigests>,
        feed: impl FnOnce(mpsc::Sender<Bytes>) -> F,
    ) -> Result<Option<(Written, T)>, UfsError>
    where
        F: Future<Output = Result<Option<T>, UfsError>>,
    {
        let config = &self.context.config;
        let (feeder, body, watch) = channel(size);
        let body = SdkBody::from_body_1_x(body);
        let sending = self.send(target, size, body, known.as_ref());
        let feeding = feed(feeder);
        tokio::pin!(sending);
        let fed = tokio::select! {
            biased;
            fed = feeding => fed?,
            answer = &mut sending => return Err(answered_early(answer)),
            error = stall(&watch, config.idle_timeout, config.deadline(size)) => return Err(error),
        };
        let Some(fed) = fed else { return Ok(None) };
        let written = within(config.request_timeout, "write", sending).await?;
        Ok(Some((written, fed)))
    }

    /// The identity that listings and HEAD show for what was just written: the
    /// answer to a write has no time, so the store is asked. That also compares
    /// the length.
    pub(super) async fn identity_of(
        &self,
        key: &ObjectKey,
        token: Option<&str>,
        size: u64,
    ) -> Result<UfsIdentity, UfsError> {
        let token = token.map(|tag| ETag::new(tag).as_str().to_owned());
        let seen = self.head(key).await;
        match (seen, token) {
            (Ok(object), Some(token)) if object.identity.token != token => {
                // Overwritten by somebody already; the next look will tell.
                Ok(UfsIdentity {
                    size,
                    modified_ns: now_ns(),
                    token,
                })
            }
            (Ok(object), _) if object.identity.size != size => {
                let message = format!("the store has {} of {size} bytes", object.identity.size);
                Err(UfsError::new(UfsErrorKind::Corrupt, message))
            }
            (Ok(object), _) => Ok(object.identity),
            (Err(error), Some(token)) => {
                // The write itself was accepted; without its time the object only
                // looks changed at the next comparison and is read again.
                tracing::debug!(%error, "no look at an object just written");
                Ok(UfsIdentity {
                    size,
                    modified_ns: now_ns(),
                    token,
                })
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// Passes the caller's pieces on, but for the one that completes the length: that
/// one goes when the caller has said that all checks passed.
async fn feed(
    mut incoming: Incoming,
    feeder: mpsc::Sender<Bytes>,
) -> Result<Option<BodyDigests>, UfsError> {
    let mut held = None;
    loop {
        match incoming.next().await? {
            None => return Ok(None),
            Some(Piece::Data(data)) if incoming.remaining() == 0 => held = Some(data),
            Some(Piece::Data(data)) => hand_over(&feeder, data).await,
            Some(Piece::Finish(digests)) => {
                // Without it the store has nothing.
                incoming.permit().check()?;
                if let Some(last) = held {
                    hand_over(&feeder, last).await;
                }
                return Ok(Some(digests));
            }
        }
    }
}

/// Hands a piece to the connection. When that is gone its answer tells why, so
/// this waits to be dropped.
pub(super) async fn hand_over(feeder: &mpsc::Sender<Bytes>, data: Bytes) {
    if feeder.send(data).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn answered_early(answer: Result<Written, UfsError>) -> UfsError {
    answer.err().unwrap_or_else(|| {
        let message = "the store answered before it had the whole body";
        UfsError::new(UfsErrorKind::Corrupt, message)
    })
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

/// Now, in whole seconds as S3 shows times; ns since the Unix epoch.
pub(super) fn now_ns() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs())
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
}
