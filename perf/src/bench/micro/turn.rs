//! A reactor turn in which nobody has anything to do, with ten services.

use super::Work;
use palisade_runtime::{Nanos, Reactor, Service};
use std::hint::black_box;

/// A service that looks and finds nothing.
struct Idle {
    inbox: Vec<u64>,
    deadline: Option<Nanos>,
}

impl Service for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn turn(&mut self, now: Nanos) -> usize {
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        black_box(self.inbox.len()) + usize::from(due)
    }

    fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }
}

/// One turn of the shipping loop over ten of them.
pub(super) fn work() -> Work {
    let mut reactor = Reactor::new("bench").expect("file descriptors for a waker");
    for _ in 0..10 {
        reactor.add(Box::new(Idle { inbox: Vec::new(), deadline: None }));
    }
    let mut now = Nanos::default();
    let call = move || {
        now = black_box(now);
        assert_eq!(reactor.turn(now), 0);
    };
    Work { name: "idle-turn", call: Box::new(call), goal: Some(100.0) }
}
