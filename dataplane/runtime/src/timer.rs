//! Timers of a service that has many of them. One with a few keeps plain fields instead.

use crate::clock::Nanos;
use std::collections::BTreeMap;

/// Names a timer until it fires or is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    at: Nanos,
    serial: u64,
}

/// A set of timers; those of equal time fire in the order in which they were set.
#[derive(Debug)]
pub struct Timers<T> {
    set: BTreeMap<TimerId, T>,
    serial: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { set: BTreeMap::new(), serial: 0 }
    }
}

impl<T> Timers<T> {
    /// Sets a timer for `at`, which may lie in the past.
    pub fn set(&mut self, at: Nanos, what: T) -> TimerId {
        self.serial += 1;
        let id = TimerId { at, serial: self.serial };
        self.set.insert(id, what);
        id
    }

    /// Takes a timer back; `None` when it has fired already.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.set.remove(&id)
    }

    /// The next timer that is due, earliest first.
    pub fn pop_due(&mut self, now: Nanos) -> Option<T> {
        let first = self.set.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    /// When the next one is due.
    pub fn deadline(&self) -> Option<Nanos> {
        self.set.first_key_value().map(|(id, _)| id.at)
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_of_time_then_of_setting() {
        let mut timers = Timers::default();
        timers.set(Nanos(20), 'c');
        timers.set(Nanos(10), 'a');
        timers.set(Nanos(10), 'b');
        assert_eq!((timers.deadline(), timers.len()), (Some(Nanos(10)), 3));
        assert_eq!(timers.pop_due(Nanos(9)), None);
        let due: Vec<_> = std::iter::from_fn(|| timers.pop_due(Nanos(10))).collect();
        assert_eq!(due, ['a', 'b']);
        assert_eq!(timers.pop_due(Nanos(25)), Some('c'));
        assert!(timers.is_empty() && timers.deadline().is_none());
    }

    #[test]
    fn a_cancelled_timer_does_not_fire_and_a_fired_one_cannot_be_cancelled() {
        let mut timers = Timers::default();
        let id = timers.set(Nanos(10), 1);
        assert_eq!(timers.cancel(id), Some(1));
        assert_eq!(timers.pop_due(Nanos(99)), None);
        let id = timers.set(Nanos(10), 2);
        assert_eq!(timers.pop_due(Nanos(10)), Some(2));
        assert_eq!(timers.cancel(id), None);
    }
}
