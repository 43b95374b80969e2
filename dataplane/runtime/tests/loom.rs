//! The sleep flag under every schedule that the memory model allows.
//!
//! The shipping source is compiled here a second time, against loom's atomics. The eventfd is modelled
//! by a token that lasts until it is taken; a lost wake-up is a deadlock, which loom reports.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}
#[allow(unreachable_pub)] // Public in the crate that it belongs to.
#[path = "../src/flag.rs"]
mod flag;

use flag::SleepFlag;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

/// What the two ends share: the flag, a queue of which only the length matters, an eventfd.
struct Shared {
    flag: SleepFlag,
    items: AtomicUsize,
    event: Notify,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { flag: SleepFlag::default(), items: AtomicUsize::new(0), event: Notify::new() })
    }

    fn send(&self) {
        self.items.fetch_add(1, Ordering::Release);
        if self.flag.must_wake() {
            self.ring();
        }
    }

    fn ring(&self) {
        self.event.notify();
    }

    /// As the reactor: announce, look once more, sleep.
    fn receive(&self) -> usize {
        loop {
            self.flag.announce();
            let seen = self.items.load(Ordering::Acquire);
            if seen > 0 {
                self.flag.retract();
                return self.items.fetch_sub(seen, Ordering::AcqRel).min(seen);
            }
            self.event.wait();
            self.flag.retract();
        }
    }
}

#[test]
fn a_push_against_a_parking_reactor_always_wakes_it() {
    loom::model(|| {
        let shared = Shared::new();
        let producer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.send())
        };
        assert_eq!(shared.receive(), 1);
        producer.join().expect("producer");
    });
}

#[test]
fn two_producers_and_two_parks_lose_nothing() {
    let mut model = loom::model::Builder::new();
    // All schedules with up to three preemptions; unbounded, this takes minutes.
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Shared::new();
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.send())
            })
            .collect();
        let mut received = 0;
        while received < 2 {
            received += shared.receive();
        }
        producers.into_iter().for_each(|producer| producer.join().expect("producer"));
        assert_eq!(shared.items.load(Ordering::Relaxed), 0);
    });
}

/// The same protocol without its fences must fail, or the model shows nothing.
#[test]
#[should_panic(expected = "deadlock")]
fn canary_without_fences_a_wake_up_is_lost() {
    loom::model(|| {
        let sleeping = Arc::new(AtomicBool::new(false));
        let shared = Shared::new();
        let producer = {
            let (shared, sleeping) = (Arc::clone(&shared), Arc::clone(&sleeping));
            thread::spawn(move || {
                shared.items.store(1, Ordering::Relaxed);
                if sleeping.load(Ordering::Relaxed) {
                    shared.ring();
                }
            })
        };
        sleeping.store(true, Ordering::Relaxed);
        if shared.items.load(Ordering::Relaxed) == 0 {
            shared.event.wait();
        }
        producer.join().expect("producer");
    });
}
