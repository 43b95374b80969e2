//! Sleeping until something happens: an eventfd for other cores, file descriptors for the kernel.

use crate::flag::SleepFlag;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use smallvec::SmallVec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// What both ends share.
#[derive(Debug)]
struct Shared {
    flag: SleepFlag,
    event: OwnedFd,
}

/// Wakes one sleeper. Cheap to call while the sleeper is awake: a fence and a load, no system call.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

impl Waker {
    /// Call after publishing what the sleeper is to find.
    pub fn wake(&self) {
        if self.shared.flag.must_wake() {
            // The counter saturates long after 2^63 wake-ups; a full one is readable all the same.
            let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
        }
    }
}

/// File descriptors that are to end a sleep. Up to 32 cost no allocation.
#[derive(Debug, Default)]
pub struct WaitSet<'a> {
    fds: SmallVec<[PollFd<'a>; 32]>,
}

impl<'a> WaitSet<'a> {
    /// Wake when `fd` has something to read.
    pub fn readable(&mut self, fd: BorrowedFd<'a>) {
        self.fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
    }

    /// Wake when `fd` takes bytes again, or has something to read.
    pub fn writable(&mut self, fd: BorrowedFd<'a>) {
        self.fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN | PollFlags::OUT));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.fds.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fds.is_empty()
    }
}

/// The sleeper's end; one per thread.
#[derive(Debug)]
pub struct Parker {
    shared: Arc<Shared>,
}

impl Parker {
    /// Makes the eventfd; fails when the process has no descriptors left.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { shared: Arc::new(Shared { flag: SleepFlag::new(), event }) })
    }

    /// A handle that wakes this sleeper.
    pub fn waker(&self) -> Waker {
        Waker { shared: Arc::clone(&self.shared) }
    }

    /// First half of a sleep. Look at every input once more, then call [`Parker::sleep`] or
    /// [`Parker::retract`].
    pub fn announce(&self) {
        self.shared.flag.announce();
    }

    /// The look found something: no sleep.
    pub fn retract(&self) {
        self.shared.flag.retract();
    }

    /// Second half: sleeps until a waker, a descriptor of `set` or the time-out.
    pub fn sleep<'a>(&'a self, mut set: WaitSet<'a>, timeout: Option<Duration>) {
        set.readable(self.shared.event.as_fd());
        let timeout = timeout.map(|span| Timespec {
            tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(span.subsec_nanos()),
        });
        // EINTR and every other answer end the sleep alike: the caller looks at all inputs anyway.
        let woken = poll(&mut set.fds, timeout.as_ref());
        self.shared.flag.retract();
        let own = set.fds.last().is_some_and(|fd| !fd.revents().is_empty());
        if woken.is_ok_and(|count| count > 0) && own {
            let mut counter = [0; 8];
            // Not blocking; an empty counter is an answer too.
            let _ = rustix::io::read(&self.shared.event, &mut counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_wake_before_the_sleep_is_not_lost() {
        let parker = Parker::new().expect("eventfd");
        parker.announce();
        parker.waker().wake();
        let start = Instant::now();
        parker.sleep(WaitSet::default(), Some(Duration::from_secs(5)));
        assert!(start.elapsed() < Duration::from_secs(4));
        // Its token is used up: the next sleep lasts.
        parker.announce();
        let start = Instant::now();
        parker.sleep(WaitSet::default(), Some(Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(19));
    }

    #[test]
    fn a_readable_descriptor_ends_the_sleep() {
        let parker = Parker::new().expect("eventfd");
        let other = eventfd(1, EventfdFlags::NONBLOCK).expect("eventfd");
        parker.announce();
        let mut set = WaitSet::default();
        set.readable(other.as_fd());
        assert_eq!((set.len(), set.is_empty()), (1, false));
        let start = Instant::now();
        parker.sleep(set, Some(Duration::from_secs(5)));
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}
