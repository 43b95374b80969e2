//! The flag between a reactor that goes to sleep and cores that hand it work.
//!
//! Protocol: the sleeper *announces*, looks at every input once more, and sleeps only if all were
//! empty. A producer publishes its item first and asks [`SleepFlag::must_wake`] afterwards. Both sides
//! put a full fence between their store and their load, so at least one sees the other: either the
//! sleeper finds the item, or the producer finds the announcement and writes the eventfd. Writing the
//! eventfd only then keeps a system call off the path between two busy cores.
//!
//! All changes are read-modify-writes, so that they form one chain: with plain stores a producer that
//! clears the flag late could be ordered beside a newer announcement (loom allows that, and although
//! the language does not, the plain store saves nothing where it is used).
//!
//! `tests/loom.rs` compiles this file against loom and runs all schedules.

use crate::sync::{AtomicBool, Ordering, fence};

/// Whether a reactor sleeps, or is about to.
#[derive(Debug)]
pub struct SleepFlag {
    sleeping: AtomicBool,
}

impl SleepFlag {
    /// An awake one.
    pub fn new() -> Self {
        Self { sleeping: AtomicBool::new(false) }
    }

    /// Sleeper: says that it will sleep. It must look at its inputs once more after this.
    pub fn announce(&self) {
        self.sleeping.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Sleeper: awake again, or never slept.
    pub fn retract(&self) {
        self.sleeping.swap(false, Ordering::Relaxed);
    }

    /// Producer, after it published something: whether it is the one that must wake the sleeper.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}

impl Default for SleepFlag {
    fn default() -> Self {
        Self::new()
    }
}
