//! Bodies that tell which write they are of.

use std::ops::Range;

use quickwater_engine::io::{Body, BodyDigests, Buffer};
use quickwater_proto::{CHUNK_BYTES, ETag};

use crate::world::SimBuffer;

/// The bytes of a content: its number, again and again. Mostly small, now and
/// then of two chunks, or none.
pub fn bytes_of(content: u64) -> Vec<u8> {
    let size = match content % 9 {
        4 => CHUNK_BYTES as usize + 16,
        7 => 0,
        small => 16 + 8 * small as usize,
    };
    let mut bytes = content.to_be_bytes().repeat(size / 8);
    bytes.truncate(size);
    bytes
}

/// The content an ETag stands for; panics when the bytes are not of it.
pub fn content_of(etag: &ETag, bytes: &[u8]) -> u64 {
    let content = content_of_etag(etag);
    assert!(bytes == bytes_of(content), "spliced or damaged bytes");
    content
}

fn md5_of(content: u64) -> [u8; 16] {
    let mut md5 = [0; 16];
    md5[..8].copy_from_slice(&content.to_be_bytes());
    md5
}

/// What a multipart upload of the content shows.
pub fn etag_of_parts(content: u64) -> ETag {
    ETag::new(&format!("{content:016x}{:016x}-2", 0))
}

/// Every ETag here begins with the content.
pub fn content_of_etag(etag: &ETag) -> u64 {
    u64::from_str_radix(&etag.as_str()[..16], 16).unwrap()
}

/// A body that gives the bytes of `content` from `at` to `end`.
pub struct ContentBody {
    content: u64,
    at: usize,
    end: usize,
    length: usize,
}

impl ContentBody {
    pub fn whole(content: u64) -> Self {
        Self::part(content, 0..bytes_of(content).len())
    }

    pub fn part(content: u64, range: Range<usize>) -> Self {
        Self {
            content,
            at: range.start,
            end: range.end,
            length: range.len(),
        }
    }
}

impl Body for ContentBody {
    type Buffer = SimBuffer;
    type Error = String;

    fn length(&self) -> u64 {
        self.length as u64
    }

    async fn next(&mut self) -> Result<Option<SimBuffer>, String> {
        let len = (self.end - self.at).min(CHUNK_BYTES as usize);
        if len == 0 {
            return Ok(None);
        }
        let mut buffer = SimBuffer(Vec::new());
        buffer.set_len(len);
        let bytes = bytes_of(self.content);
        buffer
            .as_mut_slice()
            .copy_from_slice(&bytes[self.at..self.at + len]);
        self.at += len;
        Ok(Some(buffer))
    }

    fn finish(&mut self) -> Result<BodyDigests, String> {
        Ok(BodyDigests {
            md5: md5_of(self.content),
            checksums: Vec::new(),
        })
    }
}
