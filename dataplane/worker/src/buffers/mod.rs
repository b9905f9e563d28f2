//! Pooled, aligned buffers that are reused for ever; absent: allocation per request.
//!
//! A pool carves one huge-page arena into large buffers (one chunk) and small
//! ones (small objects). Every buffer has room in front of its content, so that
//! a record head or an HTTP head can be placed there without a copy, and a
//! little slack behind it for reads that must end on a 4 KiB border. When no
//! buffer is free the answer is [`Exhausted`]; the heap is never a fallback.

mod arena;
mod buffer;
mod pool;
mod transfer;

pub use arena::ArenaError;
pub(crate) use arena::{Slot, carve};
pub use buffer::PoolBuf;
pub use pool::{Exhausted, Pool, PoolConfig, PoolError, PoolStats};
pub use transfer::{FillTail, Window};
pub(crate) use transfer::{contents, fill};

/// Alignment of every buffer in memory and of every transfer of an O_DIRECT file.
pub const ALIGN_BYTES: usize = 4096;
/// Room in front of the content of a fresh buffer.
pub const FRONT_ROOM_BYTES: usize = 8192;
/// Slack behind the largest content, for transfers that end on a 4 KiB border.
pub const TAIL_SLACK_BYTES: usize = 4096;
/// Most content bytes of a large buffer: one chunk.
pub const LARGE_BYTES: usize = quickwater_proto::CHUNK_BYTES as usize;
/// Most content bytes of a small buffer.
pub const SMALL_BYTES: usize = 64 << 10;

/// Memory one large buffer takes.
const LARGE_STRIDE_BYTES: usize = FRONT_ROOM_BYTES + LARGE_BYTES + TAIL_SLACK_BYTES;
/// Memory one small buffer takes.
const SMALL_STRIDE_BYTES: usize = FRONT_ROOM_BYTES + SMALL_BYTES + TAIL_SLACK_BYTES;

const _: () = assert!(LARGE_STRIDE_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(SMALL_STRIDE_BYTES.is_multiple_of(ALIGN_BYTES));

#[cfg(test)]
mod tests;
