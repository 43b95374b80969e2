//! Time as a port: services get `now` as an argument, only a reactor's loop reads a clock.

use rustix::time::{ClockId, clock_gettime};
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Monotonic nanoseconds. All clocks of a host that are not manual count from the same start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// Time since `earlier`, zero when that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Nanos {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// A source of time.
pub trait Clock: Send {
    /// The time now; never less than an earlier answer.
    fn now(&self) -> Nanos;
}

/// The host's monotonic clock, read without a system call.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonoClock;

impl Clock for MonoClock {
    fn now(&self) -> Nanos {
        let at = clock_gettime(ClockId::Monotonic);
        Nanos(at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64)
    }
}

/// A clock that tests and simulations move. Clones share the time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Arc<AtomicU64>,
}

impl ManualClock {
    /// Moves time forward.
    pub fn advance(&self, span: Duration) {
        let next = self.now() + span;
        self.now.store(next.0, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.now.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_clock_never_goes_back() {
        let mut last = MonoClock.now();
        for _ in 0..1000 {
            let now = MonoClock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn clones_of_a_manual_clock_share_the_time() {
        let clock = ManualClock::default();
        let twin = clock.clone();
        clock.advance(Duration::from_millis(3));
        assert_eq!(twin.now(), Nanos(3_000_000));
        assert_eq!(Nanos(5) - Nanos(9), Duration::ZERO);
    }
}
