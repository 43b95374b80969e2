//! Who wants the device back: the kernel says so when somebody is about to unplug it, or when its link failed.
//!
//! A thread waits for that, because asking takes a system call, and those who poll a device make none.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The thread and what it found.
pub(crate) struct Watch {
    asked: Arc<AtomicBool>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to wait; returns the descriptors for the kernel to signal: the request, the error.
    pub(crate) fn start() -> io::Result<(Self, [OwnedFd; 2])> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (request, error, stop) = (new()?, new()?, new()?);
        let given = [request.try_clone()?, error.try_clone()?];
        let asked = Arc::new(AtomicBool::new(false));
        let (flag, end) = (Arc::clone(&asked), stop.try_clone()?);
        let thread = std::thread::Builder::new().name("vfio-watch".to_owned()).spawn(move || {
            loop {
                let mut fds = [&request, &error, &end].map(|fd| PollFd::new(fd, PollFlags::IN));
                if poll(&mut fds, None).is_err() {
                    continue; // interrupted
                }
                if !fds[2].revents().is_empty() {
                    return;
                }
                flag.store(true, Ordering::Release);
                // Signals stay readable; there is nothing more to learn, only the end to wait for.
                let _end = poll(&mut [PollFd::new(&end, PollFlags::IN)], None);
                return;
            }
        })?;
        Ok((Self { asked, stop, thread: Some(thread) }, given))
    }

    /// Whether the device was asked back.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_signal_is_seen_and_the_thread_ends_with_its_owner() {
        for which in 0..2 {
            let (watch, given) = Watch::start().expect("starts");
            assert!(!watch.is_asked());
            rustix::io::write(&given[which], &1u64.to_ne_bytes()).expect("signals");
            let end = Instant::now() + Duration::from_secs(20);
            while !watch.is_asked() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(watch.is_asked());
        }
        drop(Watch::start().expect("starts"));
    }
}
