//! Reading: one conditional GET of the range, streamed frame by frame.

use std::ops::Range;
use std::time::{Duration, Instant};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use quickwater_proto::{CHUNK_BYTES, ETag, ObjectKey, UfsError, UfsErrorKind, UfsIdentity};
use tokio::time::timeout;

use super::S3;
use super::errors::failed;
use crate::mailbox::Outgoing;

/// Bytes collected while the caller is busy, before the connection is made to wait.
const BATCH_BYTES: usize = CHUNK_BYTES as usize / 4;

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Source {
    body: ByteStream,
    left: u64,
}

impl S3 {
    pub(crate) async fn open_read(
        &self,
        key: &ObjectKey,
        expect: &UfsIdentity,
        range: Range<u64>,
    ) -> Result<Source, UfsError> {
        let length = range.end - range.start;
        if length == 0 {
            let found = self.head(key).await?;
            if found.identity.token != expect.token {
                return Err(changed(key));
            }
            return Ok(Source {
                body: ByteStream::default(),
                left: 0,
            });
        }
        let mut request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full_key(key)?)
            .if_match(format!("\"{}\"", expect.token));
        if length < expect.size {
            request = request.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request.customize().config_override(self.repeatable());
        let answer = self.request("get", async {
            request.send().await.map_err(|e| failed("get", false, &e))
        });
        let answer = answer.await?;
        check(key, expect, &range, &answer)?;
        Ok(Source {
            body: answer.body,
            left: length,
        })
    }

    /// Sends all bytes, or the error that ends them.
    pub(crate) async fn stream(
        &self,
        mut source: Source,
        outgoing: Outgoing,
    ) -> Result<(), UfsError> {
        let config = &self.context.config;
        let total = config.deadline(source.left);
        let mut waited = Duration::ZERO;
        let mut batch: Vec<Bytes> = Vec::new();
        let mut collected = 0;
        while source.left > 0 {
            let begun = Instant::now();
            let limit = config.idle_timeout.min(total.saturating_sub(waited));
            let frame = tokio::select! {
                frame = source.next(limit) => frame,
                () = outgoing.closed() => return Ok(()),
            };
            waited += begun.elapsed();
            match frame {
                Ok(frame) => {
                    collected += frame.len();
                    batch.push(frame);
                }
                Err(error) => {
                    outgoing.fail(error.clone()).await;
                    return Err(error);
                }
            }
            // Small frames travel together while the caller is busy.
            if source.left == 0 || collected >= BATCH_BYTES || outgoing.has_room() {
                collected = 0;
                if !outgoing.send(std::mem::take(&mut batch)).await {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Source {
    /// The next bytes. With the last ones the end of the body is checked too.
    async fn next(&mut self, limit: Duration) -> Result<Bytes, UfsError> {
        let frame = timeout(limit, self.body.try_next()).await.map_err(|_| {
            let message = format!("get: no bytes came for {} ms", limit.as_millis());
            UfsError::new(UfsErrorKind::Timeout, message)
        })?;
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(self.wrong_length("ended early")),
            // hyper reports a connection that ends inside a body as an error.
            Err(error) => return Err(self.wrong_length(&format!("broke off ({error})"))),
        };
        self.left = self
            .left
            .checked_sub(frame.len() as u64)
            .ok_or_else(|| self.wrong_length("was longer than announced"))?;
        Ok(frame)
    }

    fn wrong_length(&self, how: &str) -> UfsError {
        let message = format!("get: the body {how}, {} bytes before its end", self.left);
        UfsError::new(UfsErrorKind::Corrupt, message)
    }
}

fn changed(key: &ObjectKey) -> UfsError {
    UfsError::new(
        UfsErrorKind::Changed,
        format!("'{key}' was changed in the store"),
    )
}

/// Whether the answer is the range of the content that was asked for; stores that
/// ignore If-Match or Range are found out here.
fn check(
    key: &ObjectKey,
    expect: &UfsIdentity,
    range: &Range<u64>,
    answer: &GetObjectOutput,
) -> Result<(), UfsError> {
    if answer
        .e_tag()
        .is_none_or(|tag| ETag::new(tag).as_str() != expect.token)
    {
        return Err(changed(key));
    }
    let length = answer.content_length().and_then(|l| u64::try_from(l).ok());
    let ranged = range.end - range.start < expect.size;
    let announced = format!("bytes {}-{}/{}", range.start, range.end - 1, expect.size);
    let right_range = !ranged || answer.content_range() == Some(announced.as_str());
    if length != Some(range.end - range.start) || !right_range {
        let message = format!(
            "get: the store announced {length:?} bytes ({:?}) instead of range {range:?}",
            answer.content_range()
        );
        return Err(UfsError::new(UfsErrorKind::Corrupt, message));
    }
    Ok(())
}
