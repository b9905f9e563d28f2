//! The MD5 of one stream: state, the bytes that do not fill a block yet, padding.

use crate::{BLOCK_BYTES, scalar};

/// The initial state (RFC 1321 §3.3).
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// Bytes of the length at the end of the padding.
const LENGTH_BYTES: usize = 8;

/// MD5 of a stream that comes in pieces.
#[derive(Clone)]
pub struct Md5 {
    pub(crate) state: [u32; 4],
    /// The first `length % BLOCK_BYTES` bytes count.
    partial: [u8; BLOCK_BYTES],
    length: u64,
}

impl Md5 {
    /// Nothing hashed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: INITIAL,
            partial: [0; BLOCK_BYTES],
            length: 0,
        }
    }

    /// The MD5 of bytes that are all there.
    #[must_use]
    pub fn digest(data: &[u8]) -> [u8; 16] {
        let mut md5 = Self::new();
        md5.update(data);
        md5.finish()
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Takes the next bytes, at scalar speed.
    pub fn update(&mut self, data: &[u8]) {
        let (head, blocks, tail) = self.split(data);
        self.take_head(head);
        scalar::compress(&mut self.state, blocks);
        self.length += blocks.len() as u64;
        self.take_tail(tail);
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let held = self.held();
        let mut end = [0; 2 * BLOCK_BYTES];
        end[..held].copy_from_slice(&self.partial[..held]);
        end[held] = 0x80;
        let blocks = (held + 1 + LENGTH_BYTES).div_ceil(BLOCK_BYTES);
        let end = &mut end[..blocks * BLOCK_BYTES];
        let at = end.len() - LENGTH_BYTES;
        end[at..].copy_from_slice(&bits.to_le_bytes());
        scalar::compress(&mut self.state, end);
        let mut digest = [0; 16];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_le_bytes();
        }
        digest
    }

    /// Bytes of `data` that fill the block begun, whole blocks, the rest.
    pub(crate) fn split<'a>(&self, data: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let head = match self.held() {
            0 => 0,
            held => (BLOCK_BYTES - held).min(data.len()),
        };
        let (head, rest) = data.split_at(head);
        let (blocks, tail) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
        (head, blocks, tail)
    }

    /// Takes the first part of a split.
    pub(crate) fn take_head(&mut self, head: &[u8]) {
        self.take_tail(head);
        if !head.is_empty() && self.held() == 0 {
            scalar::compress(&mut self.state, &self.partial);
        }
    }

    /// Takes the last part of a split: it fits into the block begun.
    pub(crate) fn take_tail(&mut self, tail: &[u8]) {
        let held = self.held();
        self.partial[held..held + tail.len()].copy_from_slice(tail);
        self.length += tail.len() as u64;
    }

    /// Counts the bytes of blocks that were hashed into `state` from outside.
    pub(crate) const fn took(&mut self, bytes: usize) {
        self.length += bytes as u64;
    }

    const fn held(&self) -> usize {
        (self.length % BLOCK_BYTES as u64) as usize
    }
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Md5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Md5")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
