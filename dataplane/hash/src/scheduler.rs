//! When a shard hashes what: the streams that have bytes waiting, side by side,
//! in slices. Absent: the clock, tasks, IO; the caller runs slices and lets other
//! work go on in between.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use crate::{Kernel, LANES_MAX, Lane, Md5};

/// Most bytes of one lane that are hashed before other work gets its turn: about
/// 80 us of one stream, 140 us of sixteen.
pub const SLICE_BYTES: usize = 64 << 10;
/// Fewest bytes of a slice, unless the lane has fewer: a pass has a fixed cost.
const SLICE_BYTES_MIN: usize = 4 << 10;
/// Most turns other work gets to bring company to a stream that waits.
const GATHER_TURNS_MAX: usize = 16;

/// A stream of the scheduler. Not to be used after [`Scheduler::leave`].
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(usize);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: no bytes wait, or nobody waits for them and company may come.
    Rest,
    /// Let other work have one turn and call [`Scheduler::gathered`].
    Gather,
    /// Call [`Scheduler::run`].
    Run,
}

/// The streams of one shard. `B` owns the bytes until they are hashed.
///
/// A stream hands over one buffer at a time, so there are never more buffers
/// here than streams.
#[derive(Debug)]
pub struct Scheduler<B> {
    kernel: Kernel,
    streams: Vec<Option<Stream<B>>>,
    free: Vec<usize>,
    /// Streams whose buffer is not hashed yet, in the order of service.
    queue: VecDeque<usize>,
    /// Streams that will bring a buffer and have none here.
    coming: usize,
    /// Streams in the queue that somebody waits for.
    awaited: usize,
    /// Turns left to wait for company.
    patience: usize,
}

#[derive(Debug)]
struct Stream<B> {
    md5: Md5,
    /// After this buffer comes another one.
    more: bool,
    work: Work<B>,
}

#[derive(Debug)]
enum Work<B> {
    None,
    Queued {
        buffer: B,
        /// Bytes hashed already.
        at: usize,
        waiter: Option<Waker>,
    },
    Hashed(B),
}

impl<B: AsRef<[u8]>> Scheduler<B> {
    /// No streams yet.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            streams: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            coming: 0,
            awaited: 0,
            patience: 0,
        }
    }

    /// A new stream. Say `more` if it will bring bytes.
    pub fn join(&mut self, more: bool) -> Ticket {
        let stream = Stream {
            md5: Md5::new(),
            more,
            work: Work::None,
        };
        self.coming += usize::from(more);
        let index = self.free.pop().unwrap_or(self.streams.len());
        match self.streams.get_mut(index) {
            Some(place) => *place = Some(stream),
            None => self.streams.push(Some(stream)),
        }
        Ticket(index)
    }

    /// Hands over the next bytes of a stream; `more` if others will follow.
    ///
    /// # Errors
    /// The buffer back: the stream's last one was not collected.
    pub fn submit(&mut self, ticket: &Ticket, buffer: B, more: bool) -> Result<(), B> {
        let Some(Some(stream)) = self.streams.get_mut(ticket.0) else {
            return Err(buffer);
        };
        if !matches!(stream.work, Work::None) {
            return Err(buffer);
        }
        self.coming -= usize::from(stream.more);
        stream.more = more;
        stream.work = Work::Queued {
            buffer,
            at: 0,
            waiter: None,
        };
        self.queue.push_back(ticket.0);
        Ok(())
    }

    /// The stream's buffer once its bytes are hashed; `None`: it has none here.
    pub fn collect(&mut self, ticket: &Ticket, waker: &Waker) -> Poll<Option<B>> {
        let Some(Some(stream)) = self.streams.get_mut(ticket.0) else {
            return Poll::Ready(None);
        };
        match &mut stream.work {
            Work::Queued { buffer, at, waiter } => {
                if waiter.replace(waker.clone()).is_none() {
                    if self.awaited == 0 {
                        let left = buffer.as_ref().len() - *at;
                        self.patience = left.div_ceil(SLICE_BYTES).min(GATHER_TURNS_MAX);
                    }
                    self.awaited += 1;
                }
                Poll::Pending
            }
            work => match std::mem::replace(work, Work::None) {
                Work::Hashed(buffer) => Poll::Ready(Some(buffer)),
                _ => Poll::Ready(None),
            },
        }
    }

    /// Ends a stream: the MD5 of all buffers that were hashed whole. Bytes still
    /// queued are dropped (and their part in the MD5 is missing from its length).
    pub fn leave(&mut self, ticket: &Ticket) -> Md5 {
        let Some(stream) = self.streams.get_mut(ticket.0).and_then(Option::take) else {
            return Md5::new();
        };
        self.free.push(ticket.0);
        match stream.work {
            Work::Queued { waiter, .. } => {
                self.queue.retain(|index| *index != ticket.0);
                self.awaited -= usize::from(waiter.is_some());
            }
            _ => self.coming -= usize::from(stream.more),
        }
        stream.md5
    }

    /// What to do now.
    #[must_use]
    pub fn decide(&self) -> Decision {
        if self.queue.is_empty() {
            return Decision::Rest;
        }
        // A pass costs the same with one stream as with all lanes in use.
        if self.coming == 0 || self.queue.len() >= self.kernel.lanes() {
            return Decision::Run;
        }
        match (self.awaited, self.patience) {
            (0, _) => Decision::Rest,
            (_, 0) => Decision::Run,
            _ => Decision::Gather,
        }
    }

    /// Other work had a turn.
    pub fn gathered(&mut self) {
        self.patience = self.patience.saturating_sub(1);
    }

    /// Hashes one slice of the streams at the front of the queue, and adds those
    /// who waited for what is now finished to `woken`.
    pub fn run(&mut self, woken: &mut Vec<Waker>) {
        let chosen = self.queue.len().min(self.kernel.lanes()).min(LANES_MAX);
        let mut members = [0; LANES_MAX];
        for (member, index) in members.iter_mut().zip(self.queue.drain(..chosen)) {
            *member = index;
        }
        let members = &members[..chosen];
        let bytes = self.slice_bytes(members);
        self.hash(members, bytes);
        for &index in members {
            self.advance(index, bytes, woken);
        }
    }

    /// Ends with the shortest lane, so that another can take its place.
    fn slice_bytes(&self, members: &[usize]) -> usize {
        let left = members.iter().map(|index| self.left(*index).len());
        let shortest = left.min().unwrap_or_default();
        shortest.clamp(SLICE_BYTES_MIN, SLICE_BYTES)
    }

    /// The bytes of a stream not hashed yet.
    fn left(&self, index: usize) -> &[u8] {
        match self.stream(index).map(|stream| &stream.work) {
            Some(Work::Queued { buffer, at, .. }) => &buffer.as_ref()[*at..],
            _ => &[],
        }
    }

    fn hash(&mut self, members: &[usize], bytes: usize) {
        let mut states: [Md5; LANES_MAX] = std::array::from_fn(|lane| {
            let stream = members.get(lane).and_then(|index| self.stream(*index));
            stream.map_or_else(Md5::new, |stream| stream.md5.clone())
        });
        let mut lane = 0;
        let mut lanes = states.each_mut().map(|md5| {
            let left = members.get(lane).map_or(&[][..], |index| self.left(*index));
            lane += 1;
            let data = &left[..bytes.min(left.len())];
            Lane { md5, data }
        });
        self.kernel.update(&mut lanes[..members.len()]);
        for (index, md5) in members.iter().zip(states) {
            if let Some(Some(stream)) = self.streams.get_mut(*index) {
                stream.md5 = md5;
            }
        }
    }

    /// After a slice: back into the queue, or done.
    fn advance(&mut self, index: usize, bytes: usize, woken: &mut Vec<Waker>) {
        let Some(Some(stream)) = self.streams.get_mut(index) else {
            return;
        };
        match std::mem::replace(&mut stream.work, Work::None) {
            Work::Queued {
                buffer,
                mut at,
                waiter,
            } => {
                at += bytes;
                if at < buffer.as_ref().len() {
                    // At the end: a small object need not wait for large ones.
                    stream.work = Work::Queued { buffer, at, waiter };
                    self.queue.push_back(index);
                    return;
                }
                stream.work = Work::Hashed(buffer);
                self.coming += usize::from(stream.more);
                self.awaited -= usize::from(waiter.is_some());
                woken.extend(waiter);
            }
            other => stream.work = other,
        }
    }

    fn stream(&self, index: usize) -> Option<&Stream<B>> {
        self.streams.get(index).and_then(Option::as_ref)
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
