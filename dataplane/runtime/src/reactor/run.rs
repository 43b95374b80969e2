//! The loop around the turns: pinning, idling, stopping.

use super::{Reactor, ReactorStats, Service};
use crate::clock::{Clock, MonoClock, Nanos};
use crate::park::{WaitSet, Waker};
use crate::ring::Sender;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest sleep; a bound on what a mistake in a deadline could cost.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a reactor does when there is no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Polls on: for cores that are the rack's alone.
    Spin,
    /// Polls on for a while, then sleeps until something happens.
    Adaptive {
        /// Microseconds without work before it sleeps. 20 cost nothing while requests come closer.
        spin_us: u32,
    },
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self::Adaptive { spin_us: 20 }
    }
}

/// How a reactor runs.
#[derive(Clone, Copy, Debug)]
pub struct ReactorConfig {
    /// The core to be pinned to.
    pub core: Option<usize>,
    /// What to do without work.
    pub idle: IdlePolicy,
    /// A poll longer than this is slow.
    pub slow: Duration,
    /// How long services may take to finish when the reactor stops.
    pub grace: Duration,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            core: None,
            idle: IdlePolicy::default(),
            slow: Duration::from_millis(2),
            grace: Duration::from_secs(10),
        }
    }
}

/// Asks a reactor to stop, from any thread.
#[derive(Clone, Debug)]
pub struct StopHandle {
    asked: Arc<AtomicBool>,
    waker: Waker,
}

impl StopHandle {
    pub(super) fn new(waker: Waker) -> Self {
        Self { asked: Arc::new(AtomicBool::new(false)), waker }
    }

    /// Services finish what is open, then the loop ends.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

/// How a reactor ended.
#[derive(Debug)]
pub struct ReactorReport {
    /// Whether it ran on the core that it was to be pinned to.
    pub pinned: bool,
    /// Services that had not finished when the grace period was over.
    pub unfinished: Vec<String>,
}

/// A reactor on a thread of its own.
#[derive(Debug)]
pub struct ReactorHandle {
    stop: StopHandle,
    stats: Arc<ReactorStats>,
    inbox: Sender<Box<dyn Service>>,
    thread: JoinHandle<ReactorReport>,
}

impl ReactorHandle {
    /// Asks it to stop; [`ReactorHandle::join`] waits for that.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Its counters.
    pub fn stats(&self) -> Arc<ReactorStats> {
        Arc::clone(&self.stats)
    }

    /// Takes in a service while it runs.
    pub fn inbox(&self) -> Sender<Box<dyn Service>> {
        self.inbox.clone()
    }

    /// Whether its thread has ended, for whatever reason.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end; an error when a service panicked.
    pub fn join(self) -> std::thread::Result<ReactorReport> {
        self.thread.join()
    }
}

impl Reactor {
    /// Runs on a new thread that carries the reactor's name.
    pub fn spawn(self, config: ReactorConfig) -> std::io::Result<ReactorHandle> {
        let (stop, stats, inbox) = (self.stop_handle(), self.stats(), self.inbox());
        let thread = std::thread::Builder::new()
            .name(self.name().to_owned())
            .spawn(move || self.run(config, &MonoClock))?;
        Ok(ReactorHandle { stop, stats, inbox, thread })
    }

    /// Runs on this thread until stopped. Services are dropped here, on the thread that polled them.
    pub fn run(mut self, config: ReactorConfig, clock: &dyn Clock) -> ReactorReport {
        let pinned = config.core.is_none_or(pin);
        // Deadlines are in microseconds; the default slack of 50 us would blur them. Not essential.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
        let slow = u64::try_from(config.slow.as_nanos()).unwrap_or(u64::MAX);
        let mut now = clock.now();
        let mut idle_since = now;
        while !self.stop.is_asked() {
            let (work, end) = self.timed_turn(clock, now, slow);
            now = end;
            if work > 0 {
                idle_since = now;
            } else if let IdlePolicy::Adaptive { spin_us } = config.idle
                && now.since(idle_since) >= Duration::from_micros(u64::from(spin_us))
                && self.park(clock, now, slow)
            {
                now = clock.now();
                idle_since = now;
            }
        }
        let unfinished = self.finish(clock, config.grace);
        self.watch.publish();
        ReactorReport { pinned, unfinished }
    }

    /// A turn that is timed, with slow pollers named; returns the work and the time of its end.
    fn timed_turn(&mut self, clock: &dyn Clock, start: Nanos, slow: u64) -> (usize, Nanos) {
        let mut work = self.take_in();
        let mut explained = false;
        let mut mark = start;
        for slot in &mut self.slots {
            let done = slot.service.turn(start);
            work += done;
            if done > 0 || self.watch.looks_closely() {
                let after = clock.now();
                explained |= self.watch.polled(slot.watch, mark, after, slow);
                mark = after;
            }
        }
        let end = clock.now();
        self.watch.turned(end.0.saturating_sub(start.0), work, slow, explained);
        (work, end)
    }

    /// Sleeps unless a last look finds work; true when it slept.
    fn park(&mut self, clock: &dyn Clock, now: Nanos, slow: u64) -> bool {
        self.watch.publish();
        self.parker.announce();
        let (work, now_after) = self.timed_turn(clock, now, slow);
        let wait = self.deadline().map_or(SLEEP_MAX, |at| at.since(now_after).min(SLEEP_MAX));
        if work > 0 || wait.is_zero() || self.stop.is_asked() {
            self.parker.retract();
            return work > 0;
        }
        let mut set = WaitSet::default();
        for slot in &self.slots {
            slot.service.wait_fds(&mut set);
        }
        self.watch.parked();
        self.parker.sleep(set, Some(wait));
        true
    }

    /// Turns until every service has finished or the grace period is over; names those that have not.
    fn finish(&mut self, clock: &dyn Clock, grace: Duration) -> Vec<String> {
        let end = clock.now() + grace;
        loop {
            let now = clock.now();
            let work = self.turn(now);
            if self.stopping(now) {
                return Vec::new();
            }
            if now >= end {
                break;
            }
            if work == 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        let now = clock.now();
        let busy = self.slots.iter_mut().filter_map(|slot| {
            let done = slot.service.stopping(now);
            (!done).then(|| slot.service.name().to_owned())
        });
        busy.collect()
    }
}

fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}
