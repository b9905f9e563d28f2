//! What a record looks like on disk: head, checksums, footprint. Absent: IO.
//!
//! A record begins on a 4 KiB border. Data shorter than [`COMPACT_LIMIT`] follows
//! its head at once, so a small object is one short read; longer data begins on
//! the next 4 KiB border behind the head, so a chunk is read straight to where
//! it is sent from. Numbers are little-endian.
//!
//! The head holds a checksum per 64 KiB block of data. Each is seeded with the
//! blob, the chunk, the block's number and the data length, so a block in the
//! wrong place is found. The head's own checksum is seeded with a secret of the
//! store, and the head repeats another secret: bytes a client sends can never
//! pass for a head.

use crc_fast::{CrcAlgorithm, Digest};
use quickwater_engine::io::ChunkId;
use quickwater_proto::{BlobId, CHUNK_BYTES};

/// Granule of the store: records begin and end on such a border.
pub(super) const UNIT_BYTES: usize = 4096;
/// Bytes of data under one checksum.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// Data shorter than this follows its head directly.
pub(super) const COMPACT_LIMIT: usize = 64 << 10;
/// Most blocks of a record.
pub(super) const BLOCKS_MAX: usize = CHUNK_BYTES as usize / BLOCK_BYTES;
/// Version of the record format.
const RECORD_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"QWRECORD";
const PINNED_FLAG: u16 = 1;
/// Where the block checksums begin in a head.
const FIXED_BYTES: usize = 76;
/// Where the head's own checksum lies.
const HEAD_CRC_AT: usize = 72;

/// Secrets of one store, from its FORMAT file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secrets {
    /// Repeated in every head, header and footer.
    pub(super) mark: [u8; 16],
    /// Seeds their checksums; written nowhere else.
    pub(super) seed: [u8; 16],
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which segment.
    pub(super) segment: u32,
    /// Which lap of it.
    pub(super) generation: u64,
    /// Units of [`UNIT_BYTES`] from the segment's begin.
    pub(super) offset: u32,
}

/// A record's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Where it was written.
    pub(super) place: Place,
    /// What it holds.
    pub(super) chunk: ChunkId,
    /// Bytes of data.
    pub(super) data_len: u32,
    /// Must not be evicted until released.
    pub(super) pinned: bool,
    /// One checksum per block.
    pub(super) crcs: [u32; BLOCKS_MAX],
}

/// Blocks that `data_len` bytes fill.
pub(super) fn block_count(data_len: usize) -> usize {
    data_len.div_ceil(BLOCK_BYTES)
}

/// Bytes of the head of a record with `data_len` bytes of data.
pub(super) fn head_bytes(data_len: usize) -> usize {
    (FIXED_BYTES + 4 * block_count(data_len).max(1)).next_multiple_of(16)
}

/// Where the data begins in the record.
pub(super) fn data_at(data_len: usize) -> usize {
    if data_len < COMPACT_LIMIT {
        head_bytes(data_len)
    } else {
        UNIT_BYTES
    }
}

/// Bytes a record takes on disk.
pub(super) fn footprint(data_len: usize) -> usize {
    (data_at(data_len) + data_len).next_multiple_of(UNIT_BYTES)
}

/// A CRC-32C over several pieces.
pub(super) fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    // The value of a 32-bit CRC always fits.
    digest.finalize() as u32
}

/// Checksum of block `block` of a chunk with `data_len` bytes.
pub(super) fn block_crc(chunk: ChunkId, data_len: u32, block: usize, bytes: &[u8]) -> u32 {
    let mut seed = [0u8; 28];
    seed[..16].copy_from_slice(&chunk.blob.0.to_le_bytes());
    seed[16..20].copy_from_slice(&chunk.index.to_le_bytes());
    seed[20..24].copy_from_slice(&data_len.to_le_bytes());
    seed[24..].copy_from_slice(&(block as u32).to_le_bytes());
    crc32c(&[&seed, bytes])
}

impl Head {
    /// Makes the head of `data`.
    pub(super) fn new(place: Place, chunk: ChunkId, pinned: bool, data: &[u8]) -> Self {
        let data_len = data.len() as u32;
        let mut crcs = [0; BLOCKS_MAX];
        for (block, (crc, bytes)) in crcs.iter_mut().zip(data.chunks(BLOCK_BYTES)).enumerate() {
            *crc = block_crc(chunk, data_len, block, bytes);
        }
        Self {
            place,
            chunk,
            data_len,
            pinned,
            crcs,
        }
    }

    /// Writes the head to the begin of `out`, which must hold
    /// [`head_bytes`], and returns how many bytes it took.
    pub(super) fn encode(&self, secrets: &Secrets, out: &mut [u8]) -> usize {
        let len = head_bytes(self.data_len as usize);
        let out = &mut out[..len];
        out.fill(0);
        let flags = if self.pinned { PINNED_FLAG } else { 0 };
        out[0..8].copy_from_slice(&MAGIC);
        out[8..24].copy_from_slice(&secrets.mark);
        out[24..26].copy_from_slice(&RECORD_VERSION.to_le_bytes());
        out[26..28].copy_from_slice(&flags.to_le_bytes());
        out[28..32].copy_from_slice(&self.place.segment.to_le_bytes());
        out[32..40].copy_from_slice(&self.place.generation.to_le_bytes());
        out[40..44].copy_from_slice(&self.place.offset.to_le_bytes());
        out[44..48].copy_from_slice(&self.data_len.to_le_bytes());
        out[48..64].copy_from_slice(&self.chunk.blob.0.to_le_bytes());
        out[64..68].copy_from_slice(&self.chunk.index.to_le_bytes());
        out[68..72].copy_from_slice(&(len as u32).to_le_bytes());
        let blocks = block_count(self.data_len as usize);
        for (slot, crc) in out[FIXED_BYTES..]
            .chunks_exact_mut(4)
            .zip(&self.crcs[..blocks])
        {
            slot.copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c(&[&secrets.seed, out]);
        out[HEAD_CRC_AT..FIXED_BYTES].copy_from_slice(&crc.to_le_bytes());
        len
    }

    /// Reads a head from the begin of `bytes`; `None` when there is no intact
    /// one of this store and version.
    pub(super) fn decode(secrets: &Secrets, bytes: &[u8]) -> Option<Self> {
        if bytes.get(..8)? != MAGIC || bytes.get(8..24)? != secrets.mark {
            return None;
        }
        let data_len = u32_at(bytes, 44)?;
        if u16_at(bytes, 24)? != RECORD_VERSION || data_len > CHUNK_BYTES {
            return None;
        }
        let len = head_bytes(data_len as usize);
        if u32_at(bytes, 68)? as usize != len {
            return None;
        }
        let head = bytes.get(..len)?;
        let rest = &head[FIXED_BYTES..];
        let crc = crc32c(&[&secrets.seed, &head[..HEAD_CRC_AT], &[0; 4], rest]);
        if crc != u32_at(head, HEAD_CRC_AT)? {
            return None;
        }
        let mut crcs = [0; BLOCKS_MAX];
        let blocks = block_count(data_len as usize);
        for (crc, slot) in crcs[..blocks].iter_mut().zip(rest.chunks_exact(4)) {
            *crc = u32_at(slot, 0)?;
        }
        Some(Self {
            place: Place {
                segment: u32_at(head, 28)?,
                generation: u64_at(head, 32)?,
                offset: u32_at(head, 40)?,
            },
            chunk: ChunkId {
                blob: BlobId(u128_at(head, 48)?),
                index: u32_at(head, 64)?,
            },
            data_len,
            pinned: u16_at(head, 26)? & PINNED_FLAG != 0,
            crcs,
        })
    }

    /// Whether `bytes`, the data from the begin of block `first` on, are what
    /// was written. `bytes` must end at a block's end or at the data's end.
    pub(super) fn verifies(&self, first: usize, bytes: &[u8]) -> bool {
        let expected = self.crcs.get(first..).unwrap_or_default();
        let blocks = bytes.chunks(BLOCK_BYTES);
        blocks.len() <= expected.len()
            && blocks.zip(expected).enumerate().all(|(at, (bytes, crc))| {
                block_crc(self.chunk, self.data_len, first + at, bytes) == *crc
            })
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Reads a number at `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

/// Reads a number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

/// Reads a number at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

/// Reads a number at `at`.
pub(super) fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    array_at(bytes, at).map(u128::from_le_bytes)
}
