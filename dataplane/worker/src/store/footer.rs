//! What frames a segment on disk: its header and, once sealed, its record list.
//!
//! Absent: IO. The header is the first 4 KiB block and names the lap. The footer
//! ends with the segment: entries first, a trailer in the last 64 bytes. Both
//! carry the store's secrets as record heads do.

use quickwater_engine::io::ChunkId;
use quickwater_proto::BlobId;

use super::record::{Secrets, UNIT_BYTES, crc32c, u16_at, u32_at, u64_at, u128_at};

const HEADER_MAGIC: [u8; 8] = *b"QWSEGMNT";
const FOOTER_MAGIC: [u8; 8] = *b"QWFOOTER";
const FRAME_VERSION: u16 = 1;
const HEADER_BYTES: usize = 52;
const ENTRY_BYTES: usize = 32;
const TRAILER_BYTES: usize = 64;
const PINNED_FLAG: u32 = 1;

/// One record in a footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it holds.
    pub(super) chunk: ChunkId,
    /// Units from the segment's begin.
    pub(super) offset: u32,
    /// Bytes of data.
    pub(super) data_len: u32,
    /// Was pinned when written.
    pub(super) pinned: bool,
}

/// The end of a footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Which segment.
    pub(super) segment: u32,
    /// Which lap of it.
    pub(super) generation: u64,
    /// Records listed.
    pub(super) count: u32,
    entries_crc: u32,
}

/// Bytes on disk of a footer with `count` entries.
pub(super) fn footer_bytes(count: usize) -> usize {
    (count * ENTRY_BYTES + TRAILER_BYTES).next_multiple_of(UNIT_BYTES)
}

/// The header block of a lap.
pub(super) fn encode_header(
    secrets: &Secrets,
    segment: u32,
    generation: u64,
    segment_bytes: u64,
) -> [u8; UNIT_BYTES] {
    let mut out = [0u8; UNIT_BYTES];
    out[0..8].copy_from_slice(&HEADER_MAGIC);
    out[8..24].copy_from_slice(&secrets.mark);
    out[24..26].copy_from_slice(&FRAME_VERSION.to_le_bytes());
    out[28..32].copy_from_slice(&segment.to_le_bytes());
    out[32..40].copy_from_slice(&generation.to_le_bytes());
    out[40..48].copy_from_slice(&segment_bytes.to_le_bytes());
    let crc = crc32c(&[&secrets.seed, &out[..48]]);
    out[48..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The generation in a header block, if it is an intact one of this segment.
pub(super) fn decode_header(
    secrets: &Secrets,
    segment: u32,
    segment_bytes: u64,
    block: &[u8],
) -> Option<u64> {
    let intact = block.get(..8)? == HEADER_MAGIC
        && block.get(8..24)? == secrets.mark
        && u16_at(block, 24)? == FRAME_VERSION
        && u32_at(block, 28)? == segment
        && u64_at(block, 40)? == segment_bytes
        && u32_at(block, 48)? == crc32c(&[&secrets.seed, block.get(..48)?]);
    intact.then(|| u64_at(block, 32)).flatten()
}

/// A whole footer, [`footer_bytes`] long, to be written so that it ends with
/// the segment.
pub(super) fn encode_footer(
    secrets: &Secrets,
    segment: u32,
    generation: u64,
    entries: &[Entry],
) -> Vec<u8> {
    let mut out = vec![0u8; footer_bytes(entries.len())];
    for (slot, entry) in out.chunks_exact_mut(ENTRY_BYTES).zip(entries) {
        let flags = if entry.pinned { PINNED_FLAG } else { 0 };
        slot[0..16].copy_from_slice(&entry.chunk.blob.0.to_le_bytes());
        slot[16..20].copy_from_slice(&entry.chunk.index.to_le_bytes());
        slot[20..24].copy_from_slice(&entry.offset.to_le_bytes());
        slot[24..28].copy_from_slice(&entry.data_len.to_le_bytes());
        slot[28..32].copy_from_slice(&flags.to_le_bytes());
    }
    let listed = entries.len() * ENTRY_BYTES;
    let entries_crc = crc32c(&[&secrets.seed, &out[..listed]]);
    let at = out.len() - TRAILER_BYTES;
    let trailer = &mut out[at..];
    trailer[0..8].copy_from_slice(&FOOTER_MAGIC);
    trailer[8..24].copy_from_slice(&secrets.mark);
    trailer[24..26].copy_from_slice(&FRAME_VERSION.to_le_bytes());
    trailer[28..32].copy_from_slice(&segment.to_le_bytes());
    trailer[32..40].copy_from_slice(&generation.to_le_bytes());
    trailer[40..44].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    trailer[44..48].copy_from_slice(&entries_crc.to_le_bytes());
    let crc = crc32c(&[&secrets.seed, &trailer[..60]]);
    trailer[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The trailer in the last bytes of `block`, if it is an intact one.
pub(super) fn decode_trailer(secrets: &Secrets, block: &[u8]) -> Option<Trailer> {
    let trailer = block.get(block.len().checked_sub(TRAILER_BYTES)?..)?;
    let intact = trailer.get(..8)? == FOOTER_MAGIC
        && trailer.get(8..24)? == secrets.mark
        && u16_at(trailer, 24)? == FRAME_VERSION
        && u32_at(trailer, 60)? == crc32c(&[&secrets.seed, trailer.get(..60)?]);
    if !intact {
        return None;
    }
    Some(Trailer {
        segment: u32_at(trailer, 28)?,
        generation: u64_at(trailer, 32)?,
        count: u32_at(trailer, 40)?,
        entries_crc: u32_at(trailer, 44)?,
    })
}

/// The entries of the footer `bytes`, if they are what `trailer` sealed.
pub(super) fn decode_entries(
    secrets: &Secrets,
    trailer: &Trailer,
    bytes: &[u8],
) -> Option<Vec<Entry>> {
    let listed = bytes.get(..trailer.count as usize * ENTRY_BYTES)?;
    if crc32c(&[&secrets.seed, listed]) != trailer.entries_crc {
        return None;
    }
    listed.chunks_exact(ENTRY_BYTES).map(decode_entry).collect()
}

fn decode_entry(slot: &[u8]) -> Option<Entry> {
    Some(Entry {
        chunk: ChunkId {
            blob: BlobId(u128_at(slot, 0)?),
            index: u32_at(slot, 16)?,
        },
        offset: u32_at(slot, 20)?,
        data_len: u32_at(slot, 24)?,
        pinned: u32_at(slot, 28)? & PINNED_FLAG != 0,
    })
}
