//! How monoio reads into and writes from buffers; absent: sockets and files.
#![expect(
    unsafe_code,
    reason = "monoio's buffer traits are unsafe: the kernel works on the memory"
)]

use std::ops::Range;

use monoio::buf::{IoBuf, IoBufMut};

use super::buffer::PoolBuf;

// SAFETY: the memory belongs to the pool's arena and does not move when the
// handle does; the content lies inside it and is initialised.
unsafe impl IoBuf for PoolBuf {
    fn read_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

/// What a buffer holds.
pub(crate) fn contents<B: IoBuf>(buffer: &B) -> &[u8] {
    // SAFETY: the trait promises that many initialised bytes there, which stay put
    // while the buffer is borrowed.
    unsafe { std::slice::from_raw_parts(buffer.read_ptr(), buffer.bytes_init()) }
}

/// Writes as many of `bytes` to the beginning of a buffer as it takes, and says how
/// many: what a read of a socket would do.
pub(crate) fn fill<B: IoBufMut>(buffer: &mut B, bytes: &[u8]) -> usize {
    let count = bytes.len().min(buffer.bytes_total());
    // SAFETY: the trait promises that much room there; the buffer is borrowed for
    // writing, so `bytes` is not part of it.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.write_ptr(), count);
        buffer.set_init(count);
    }
    count
}

/// Receives behind the content of a buffer, at most `max` bytes, and makes what
/// came part of the content.
#[derive(Debug)]
pub struct FillTail {
    buf: PoolBuf,
    at: usize,
    room: usize,
}

impl FillTail {
    /// Wraps `buf`; at most `max` bytes and never more than its tail room.
    #[must_use]
    pub fn new(buf: PoolBuf, max: usize) -> Self {
        let (at, room) = (buf.end(), buf.tail_room().min(max));
        Self { buf, at, room }
    }

    /// Most bytes it will take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// The buffer with its content extended.
    #[must_use]
    pub fn into_inner(self) -> PoolBuf {
        self.buf
    }
}

// SAFETY: `at..at+room` lies inside the arena slot owned by `buf`, which does
// not move; `set_init` keeps the content within it.
unsafe impl IoBufMut for FillTail {
    fn write_ptr(&mut self) -> *mut u8 {
        self.buf.memory_mut()[self.at..].as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.room
    }

    unsafe fn set_init(&mut self, pos: usize) {
        let start = self.buf.start();
        self.buf.set_range(start..self.at + pos.min(self.room));
    }
}

/// A part of a buffer's whole memory, whatever its content: for transfers at
/// aligned offsets. The content range of the buffer is left alone.
#[derive(Debug)]
pub struct Window {
    buf: PoolBuf,
    range: Range<usize>,
}

impl Window {
    /// Wraps `range` of the memory (cut to it when too long).
    #[must_use]
    pub fn new(buf: PoolBuf, range: Range<usize>) -> Self {
        let limit = buf.memory().len();
        debug_assert!(range.start <= range.end && range.end <= limit, "{range:?}");
        let end = range.end.min(limit);
        let start = range.start.min(end);
        Self {
            buf,
            range: start..end,
        }
    }

    /// The buffer.
    #[must_use]
    pub fn into_inner(self) -> PoolBuf {
        self.buf
    }
}

// SAFETY: the range lies inside the arena slot owned by `buf`, which does not
// move; arena memory is always initialised.
unsafe impl IoBuf for Window {
    fn read_ptr(&self) -> *const u8 {
        self.buf.memory()[self.range.clone()].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.range.len()
    }
}

// SAFETY: as above; the window has a fixed size, so nothing is to be recorded.
unsafe impl IoBufMut for Window {
    fn write_ptr(&mut self) -> *mut u8 {
        let range = self.range.clone();
        self.buf.memory_mut()[range].as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.range.len()
    }

    unsafe fn set_init(&mut self, _pos: usize) {}
}
