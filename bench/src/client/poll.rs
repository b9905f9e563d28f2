//! An epoll instance and a timer on it. Readable is level-triggered; writable is
//! asked for only while a send is blocked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// Events taken at once.
const EVENTS_MAX: usize = 256;
/// Waits shorter than this use the timer; epoll's own timeout is in milliseconds.
const EXACT_BELOW: Duration = Duration::from_millis(2);
/// Token of the timer.
const TIMER: u64 = u64::MAX;

/// What happened on a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Waits for sockets.
pub(crate) struct Poll {
    epoll: OwnedFd,
    timer: OwnedFd,
    events: Vec<epoll::Event>,
    ready: Vec<Ready>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(
            &epoll,
            &timer,
            epoll::EventData::new_u64(TIMER),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            epoll,
            timer,
            events: Vec::with_capacity(EVENTS_MAX),
            ready: Vec::with_capacity(EVENTS_MAX),
        })
    }

    pub(crate) fn add(&self, socket: impl AsFd, token: usize, writable: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, flags(writable))?)
    }

    /// Whether writable is waited for, too.
    pub(crate) fn modify(&self, socket: impl AsFd, token: usize, writable: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::modify(&self.epoll, socket, data, flags(writable))?)
    }

    /// Waits until something is ready or the time is over; may return earlier.
    /// Short times are for the timer, which is exact but costs a system call.
    pub(crate) fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        if at_most >= EXACT_BELOW {
            let millis = Duration::from_millis(u64::try_from(at_most.as_millis()).unwrap_or(1000));
            return self.block(Some(&timespec(millis)));
        }
        let once = Itimerspec {
            it_interval: Timespec::default(),
            // Zero would disarm it.
            it_value: timespec(at_most.max(Duration::from_nanos(1))),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.block(None)
    }

    fn block(&mut self, timeout: Option<&Timespec>) -> io::Result<()> {
        self.events.clear();
        self.ready.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            timeout,
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            let (flags, token) = (event.flags, event.data.u64());
            if token == TIMER {
                // Read so that it is quiet again; the time itself is of no interest.
                let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
                continue;
            }
            let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            self.ready.push(Ready {
                token: usize::try_from(token).unwrap_or(usize::MAX),
                readable: broken || flags.contains(epoll::EventFlags::IN),
                writable: broken || flags.contains(epoll::EventFlags::OUT),
            });
        }
        Ok(())
    }

    /// What is ready, by position.
    pub(crate) fn ready(&self, position: usize) -> Option<Ready> {
        self.ready.get(position).copied()
    }
}

fn flags(writable: bool) -> epoll::EventFlags {
    if writable {
        epoll::EventFlags::IN | epoll::EventFlags::OUT
    } else {
        epoll::EventFlags::IN
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
