//! Objects larger than a store takes in one PUT: our own multipart upload.

use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;
use md5::{Digest, Md5};
use quickwater_engine::io::BodyDigests;
use quickwater_proto::{
    ETag, ObjectHeaders, ObjectKey, PART_NUMBER_MAX, UfsError, UfsErrorKind, UfsObject,
};
use tokio::sync::mpsc;

use super::S3;
use super::send::Target;
use super::uploads::OPAQUE;
use super::write::hand_over;
use crate::config::MIB;
use crate::mailbox::{Incoming, Piece};

/// Smallest part we send but for the last.
const PART_BYTES_MIN: u64 = if cfg!(test) { 5 * MIB } else { 64 * MIB };

/// The caller's bytes, cut into parts.
struct Cutter {
    incoming: Incoming,
    rest: Bytes,
}

/// The parts sent, what they are together, and the ETag S3 will show for them.
type Sent = (Vec<CompletedPart>, BodyDigests, ETag);

impl S3 {
    pub(super) async fn put_large(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        incoming: Incoming,
    ) -> Result<Option<UfsObject>, UfsError> {
        let size = incoming.size();
        let full_key = self.full_key(key)?;
        let name = self.create_upload(key, headers).await?;
        let id = name.strip_prefix(OPAQUE).unwrap_or(&name);
        let done = match self.send_parts(&full_key, id, incoming).await {
            Ok(Some((parts, digests, etag))) => match self.send_complete(key, id, parts).await {
                Ok(token) => self.identity_of(key, token.as_deref(), size).await,
                Err(error) => self.completed_anyway(key, size, &etag, error).await,
            }
            .map(|identity| Some((identity, digests))),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(done, Ok(Some(_)))
            // Of this and a Complete that is still under way the store lets one win.
            && let Err(error) = self.send_abort(&full_key, id).await
        {
            tracing::warn!(%error, "the store keeps parts of a write given up");
        }
        let Some((identity, digests)) = done? else {
            return Ok(None);
        };
        Ok(Some(UfsObject {
            identity,
            etag: ETag::from_md5(&digests.md5),
            headers: headers.clone(),
            checksums: digests.checksums,
        }))
    }

    async fn send_parts(
        &self,
        key: &str,
        id: &str,
        incoming: Incoming,
    ) -> Result<Option<Sent>, UfsError> {
        let mut left = incoming.size();
        let part_bytes = part_bytes(left);
        let mut cutter = Cutter {
            incoming,
            rest: Bytes::new(),
        };
        let mut parts = Vec::new();
        let mut hash = Md5::new();
        for number in 1..=PART_NUMBER_MAX {
            if left == 0 {
                break;
            }
            let size = left.min(part_bytes);
            left -= size;
            let target = Target::Part {
                key: key.to_owned(),
                upload: id.to_owned(),
                number,
            };
            let sent = self
                .write_streamed(target, size, None, |feeder| cutter.feed(size, feeder))
                .await?;
            let Some((written, md5)) = sent else {
                return Ok(None);
            };
            hash.update(md5);
            self.confirmed(
                &written,
                &BodyDigests {
                    md5,
                    checksums: Vec::new(),
                },
            )?;
            let tag = written.answer().etag.ok_or_else(|| {
                UfsError::new(
                    UfsErrorKind::Corrupt,
                    "the store answered a part without ETag",
                )
            })?;
            let part = CompletedPart::builder()
                .part_number(i32::from(number))
                .e_tag(tag);
            parts.push(part.build());
        }
        match cutter.incoming.next().await? {
            Some(Piece::Finish(digests)) => {
                let etag = format!("{}-{}", hex::encode(hash.finalize()), parts.len());
                Ok(Some((parts, digests, ETag::new(&etag))))
            }
            Some(Piece::Data(_)) => Err(UfsError::new(
                UfsErrorKind::Invalid,
                "more bytes than announced",
            )),
            None => Ok(None),
        }
    }
}

/// Whole MiB, so that no more parts than allowed are needed.
fn part_bytes(size: u64) -> u64 {
    size.div_ceil(u64::from(PART_NUMBER_MAX))
        .next_multiple_of(MIB)
        .max(PART_BYTES_MIN)
}

impl Cutter {
    /// Feeds one part and returns its MD5; `None`: the caller gave up.
    async fn feed(
        &mut self,
        size: u64,
        feeder: mpsc::Sender<Bytes>,
    ) -> Result<Option<[u8; 16]>, UfsError> {
        let mut left = size;
        let mut hash = Md5::new();
        while left > 0 {
            if self.rest.is_empty() {
                match self.incoming.next().await? {
                    Some(Piece::Data(data)) => self.rest = data,
                    // `Incoming` refuses to finish early.
                    Some(Piece::Finish(_)) | None => return Ok(None),
                }
            }
            let take = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.rest.len());
            let piece = self.rest.split_to(take);
            hash.update(&piece);
            left -= take as u64;
            hand_over(&feeder, piece).await;
        }
        Ok(Some(hash.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_needs_too_many_parts() {
        for size in [1, 5 << 30, 640_000 * MIB, 640_000 * MIB + 1, 5 << 40] {
            assert!(size.div_ceil(part_bytes(size)) <= u64::from(PART_NUMBER_MAX));
        }
    }
}
