//! What a reactor knows about its own turns: a histogram of turn times and the names of slow pollers.
//!
//! A turn that took long delays every service of the core, so the one to blame is named. Reading the
//! clock after every poll would cost more than an idle poll itself; so the clock is read after polls
//! that did work, and after every poll for a while once a slow turn could not be explained that way.

use crate::clock::Nanos;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Turns in which every poll is timed after a slow turn without a culprit.
const CLOSE_LOOK: u32 = 10_000;
/// Turn times between two publications of the histogram.
const PUBLISH: u32 = 4096;
/// Longest turn time that the histogram tells from longer ones: a minute.
const LONGEST: u64 = 60_000_000_000;

/// A service that held its core for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowPoller {
    /// Its name.
    pub service: String,
    /// How many of its polls were slow.
    pub count: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
}

/// Counters of a reactor, read by other threads.
#[derive(Debug)]
pub struct ReactorStats {
    /// Turns of the loop.
    pub turns: AtomicU64,
    /// Turns that found work.
    pub busy_turns: AtomicU64,
    /// Times it went to sleep.
    pub parks: AtomicU64,
    /// Polls that exceeded the slow limit.
    pub slow_polls: AtomicU64,
    shown: Mutex<Shown>,
}

/// What is copied out now and then; the reactor only ever *tries* its lock.
#[derive(Debug)]
struct Shown {
    turn_ns: Histogram<u64>,
    slow: Vec<SlowPoller>,
}

impl ReactorStats {
    /// Times of turns that did work, in nanoseconds, as of the last publication.
    pub fn turn_times(&self) -> Histogram<u64> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).turn_ns.clone()
    }

    /// Services that held the core for too long, as of the last publication.
    pub fn slow_pollers(&self) -> Vec<SlowPoller> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).slow.clone()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 2).expect("two digits up to a minute are valid bounds")
}

/// The reactor's own side of the statistics.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<ReactorStats>,
    turn_ns: Histogram<u64>,
    seen: Vec<SlowPoller>,
    unpublished: u32,
    close_look: u32,
    turns: u64,
    busy: u64,
}

impl Default for Watch {
    fn default() -> Self {
        let shown = Mutex::new(Shown { turn_ns: histogram(), slow: Vec::new() });
        let zero = || AtomicU64::new(0);
        let shared = Arc::new(ReactorStats {
            turns: zero(),
            busy_turns: zero(),
            parks: zero(),
            slow_polls: zero(),
            shown,
        });
        Self {
            shared,
            turn_ns: histogram(),
            seen: Vec::new(),
            unpublished: 0,
            close_look: 0,
            turns: 0,
            busy: 0,
        }
    }
}

impl Watch {
    pub(crate) fn shared(&self) -> Arc<ReactorStats> {
        Arc::clone(&self.shared)
    }

    /// Makes room for a service; returns its index.
    pub(crate) fn enter(&mut self, name: &str) -> usize {
        self.seen.push(SlowPoller { service: name.to_owned(), count: 0, longest_ns: 0 });
        self.seen.len() - 1
    }

    /// Whether polls that did nothing are to be timed too.
    pub(crate) fn looks_closely(&self) -> bool {
        self.close_look > 0
    }

    /// A poll took from `start` to `end`; true when that was slow.
    pub(crate) fn polled(&mut self, index: usize, start: Nanos, end: Nanos, slow: u64) -> bool {
        let took = end.0.saturating_sub(start.0);
        if took <= slow {
            return false;
        }
        let seen = &mut self.seen[index];
        seen.count += 1;
        seen.longest_ns = seen.longest_ns.max(took);
        self.shared.slow_polls.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A turn ended. `explained` says whether a slow poll was named in it.
    pub(crate) fn turned(&mut self, took: u64, work: usize, slow: u64, explained: bool) {
        self.turns += 1;
        self.close_look = self.close_look.saturating_sub(1);
        let is_slow = took > slow;
        if work == 0 && !is_slow {
            return;
        }
        self.busy += u64::from(work > 0);
        self.turn_ns.saturating_record(took);
        self.unpublished += 1;
        if is_slow && !explained {
            self.close_look = CLOSE_LOOK;
        }
        if self.unpublished >= PUBLISH || is_slow {
            self.publish();
        }
    }

    /// Copies the counters out; skipped when a reader holds the lock.
    pub(crate) fn publish(&mut self) {
        self.shared.turns.store(self.turns, Ordering::Relaxed);
        self.shared.busy_turns.store(self.busy, Ordering::Relaxed);
        if self.unpublished == 0 {
            return;
        }
        let Ok(mut shown) = self.shared.shown.try_lock() else { return };
        if shown.turn_ns.add(&self.turn_ns).is_ok() {
            self.turn_ns.reset();
        }
        shown.slow.clear();
        shown.slow.extend(self.seen.iter().filter(|seen| seen.count > 0).cloned());
        self.unpublished = 0;
    }

    pub(crate) fn parked(&self) {
        self.shared.parks.fetch_add(1, Ordering::Relaxed);
    }
}
