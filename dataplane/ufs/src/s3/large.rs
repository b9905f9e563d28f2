//! Objects sent as parts that we cut: those larger than a store takes in one PUT,
//! and those that are gone on with after a failure. The upload is the caller's.

use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;
use md5::{Digest, Md5};
use quickwater_engine::io::BodyDigests;
use quickwater_proto::{
    ETag, PART_NUMBER_MAX, UfsError, UfsErrorKind, UfsObject, UfsPartSeen, UploadRecord,
};
use tokio::sync::mpsc;

use super::S3;
use super::send::Target;
use super::uploads::{completed, upload_id};
use super::write::hand_over;
use crate::config::MIB;
use crate::mailbox::{Incoming, Piece};

/// Size of a part where the caller names none.
const PART_BYTES: u64 = if cfg!(test) { 5 * MIB } else { 64 * MIB };

/// The caller's bytes, cut into parts.
struct Cutter {
    incoming: Incoming,
    rest: Bytes,
}

/// The parts sent, what they are together, and the ETag S3 will show for them.
type Sent = (Vec<CompletedPart>, BodyDigests, ETag);

/// What is sent to which upload.
struct Cut<'c> {
    key: String,
    id: &'c str,
    part_bytes: u64,
    sent: &'c [UfsPartSeen],
}

impl S3 {
    pub(crate) async fn put_in_parts(
        &self,
        upload: &UploadRecord,
        part_bytes: u64,
        sent: &[UfsPartSeen],
        incoming: Incoming,
    ) -> Result<Option<UfsObject>, UfsError> {
        let size = incoming.size();
        let permit = incoming.permit().clone();
        let key = &upload.key;
        let cut = Cut {
            key: self.full_key(key)?,
            id: upload_id(upload)?,
            part_bytes: part_bytes_of(size, part_bytes),
            sent,
        };
        // Without an answer a part is there or not, but never seen.
        let sent = self.send_parts(&cut, incoming).await.map_err(unseen)?;
        let Some((parts, digests, etag)) = sent else {
            return Ok(None);
        };
        let identity = match self.send_complete(key, cut.id, parts, &permit).await {
            Ok(token) => self.identity_of(key, token.as_deref(), size).await?,
            Err(error) => self.completed_anyway(upload, size, &etag, error).await?,
        };
        Ok(Some(UfsObject {
            identity,
            etag: ETag::from_md5(&digests.md5),
            headers: upload.headers.clone(),
            checksums: digests.checksums,
        }))
    }

    async fn send_parts(
        &self,
        cut: &Cut<'_>,
        incoming: Incoming,
    ) -> Result<Option<Sent>, UfsError> {
        let mut left = incoming.size();
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
            let size = left.min(cut.part_bytes);
            left -= size;
            let same = |seen: &&UfsPartSeen| seen.number == number && seen.size == size;
            let seen = cut.sent.iter().find(same).and_then(|seen| seen.md5);
            let done = match seen {
                Some(seen) => cutter.skip(size, seen).await?,
                None => self.send_one(cut, number, size, &mut cutter).await?,
            };
            let Some((md5, tag)) = done else {
                return Ok(None);
            };
            hash.update(md5);
            parts.push(completed(number, &tag));
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

    /// Sends a part; its MD5 and the store's ETag for it.
    async fn send_one(
        &self,
        cut: &Cut<'_>,
        number: u16,
        size: u64,
        cutter: &mut Cutter,
    ) -> Result<Option<([u8; 16], String)>, UfsError> {
        let target = Target::Part {
            key: cut.key.clone(),
            upload: cut.id.to_owned(),
            number,
        };
        let sent = self
            .write_streamed(target, size, None, |feeder| cutter.feed(size, feeder))
            .await?;
        let Some((written, md5)) = sent else {
            return Ok(None);
        };
        let digests = BodyDigests {
            md5,
            checksums: Vec::new(),
        };
        self.confirmed(&written, &digests)?;
        let tag = written.answer().etag.map(ETag::new).ok_or_else(|| {
            UfsError::new(
                UfsErrorKind::Corrupt,
                "the store answered a part without ETag",
            )
        })?;
        Ok(Some((md5, tag.as_str().to_owned())))
    }
}

/// Whole MiB, so that no more parts than allowed are needed.
fn part_bytes_of(size: u64, wanted: u64) -> u64 {
    let least = match wanted {
        0 => PART_BYTES,
        wanted => wanted,
    };
    let needed = size.div_ceil(u64::from(PART_NUMBER_MAX));
    match needed <= least {
        true => least,
        false => needed.next_multiple_of(MIB),
    }
}

fn unseen(error: UfsError) -> UfsError {
    match error.kind {
        UfsErrorKind::Timeout => UfsError::new(UfsErrorKind::Unavailable, error.message),
        _ => error,
    }
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
        while let Some(piece) = self.take(left).await? {
            hash.update(&piece);
            left -= piece.len() as u64;
            hand_over(&feeder, piece).await;
            if left == 0 {
                return Ok(Some(hash.finalize().into()));
            }
        }
        Ok(None)
    }

    /// Passes over a part that the store has, if it has the same bytes.
    async fn skip(
        &mut self,
        size: u64,
        seen: [u8; 16],
    ) -> Result<Option<([u8; 16], String)>, UfsError> {
        let mut left = size;
        let mut hash = Md5::new();
        while let Some(piece) = self.take(left).await? {
            hash.update(&piece);
            left -= piece.len() as u64;
            if left == 0 {
                let md5: [u8; 16] = hash.finalize().into();
                if md5 != seen {
                    let message = "the store has other bytes of a part than we sent";
                    return Err(UfsError::new(UfsErrorKind::Corrupt, message));
                }
                return Ok(Some((md5, hex::encode(md5))));
            }
        }
        Ok(None)
    }

    /// At most `most` bytes, at least one; `None`: the caller gave up.
    async fn take(&mut self, most: u64) -> Result<Option<Bytes>, UfsError> {
        while self.rest.is_empty() {
            match self.incoming.next().await? {
                Some(Piece::Data(data)) => self.rest = data,
                // `Incoming` refuses to finish early.
                Some(Piece::Finish(_)) | None => return Ok(None),
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let take = most.min(self.rest.len());
        Ok(Some(self.rest.split_to(take)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_needs_too_many_parts() {
        for wanted in [0, 5 * MIB, 5 * MIB + 1, 256 * MIB] {
            for size in [1, 5 << 30, 640_000 * MIB, 640_000 * MIB + 1, 5 << 40] {
                let part = part_bytes_of(size, wanted);
                assert!(part >= wanted);
                assert!(size.div_ceil(part) <= u64::from(PART_NUMBER_MAX));
            }
        }
    }
}
