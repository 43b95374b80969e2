//! The gate of a partition on a device: counts what is in flight, and closes.
//!
//! P-16: core A passes the check, core B closes, sees nothing in flight and grants, A submits. So a write
//! is counted *before* it is checked, in the same word that holds the closed flag: either the closer sees the
//! count, or the writer sees the flag. One sled service owns its devices wholly, so today only one thread
//! comes here; the word is atomic all the same, and the argument is proven over all thread schedules,
//! because the rule must not depend on how services are laid over cores.

use std::sync::atomic::{AtomicU64, Ordering};

/// The closed flag; the bits below it count.
const CLOSED: u64 = 1 << 63;

/// The atomic word under a gate, so that the schedules of one that is watched can be explored.
pub trait Word {
    /// A word that holds `value`.
    fn new(value: u64) -> Self;
    /// Adds and returns what was there before.
    fn fetch_add(&self, by: u64) -> u64;
    /// Subtracts and returns what was there before.
    fn fetch_sub(&self, by: u64) -> u64;
    /// Sets bits and returns what was there before.
    fn fetch_or(&self, bits: u64) -> u64;
    /// Clears all but `bits` and returns what was there before.
    fn fetch_and(&self, bits: u64) -> u64;
    /// What is there.
    fn load(&self) -> u64;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    fn fetch_add(&self, by: u64) -> u64 {
        self.fetch_add(by, Ordering::AcqRel)
    }
    fn fetch_sub(&self, by: u64) -> u64 {
        self.fetch_sub(by, Ordering::AcqRel)
    }
    fn fetch_or(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::AcqRel)
    }
    fn fetch_and(&self, bits: u64) -> u64 {
        self.fetch_and(bits, Ordering::AcqRel)
    }
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
}

/// One counted passage. It must be given back by [`Gate::leave`]; a lost one keeps its gate from ever being
/// drained, which refuses grants rather than breaking them.
#[derive(Debug)]
#[must_use = "a pass that is not given back keeps its gate from draining"]
pub struct Pass {
    _counted: (),
}

/// Counts passages, refuses them while closed.
#[derive(Debug)]
pub struct Gate<W = AtomicU64>(W);

impl<W: Word> Gate<W> {
    /// A closed gate with nothing in flight.
    pub fn closed() -> Self {
        Self(W::new(CLOSED))
    }

    /// Counts a passage, unless the gate is closed.
    #[inline]
    pub fn enter(&self) -> Option<Pass> {
        if self.0.fetch_add(1) & CLOSED != 0 {
            // A refused count stands for a moment only; it can delay a drain but never hide a passage.
            self.0.fetch_sub(1);
            return None;
        }
        Some(Pass { _counted: () })
    }

    /// Ends a passage.
    #[inline]
    pub fn leave(&self, pass: Pass) {
        let before = self.0.fetch_sub(1);
        assert!(before & !CLOSED != 0, "a pass leaves a gate that counted it");
        let Pass { _counted: () } = pass;
    }

    /// Refuses passages from now on.
    pub fn close(&self) {
        self.0.fetch_or(CLOSED);
    }

    /// Admits passages again.
    pub fn open(&self) {
        self.0.fetch_and(!CLOSED);
    }

    /// Whether it is closed and nothing is in flight.
    pub fn drained(&self) -> bool {
        self.0.load() == CLOSED
    }

    /// Passages in flight.
    pub fn count(&self) -> u64 {
        self.0.load() & !CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64 as Watched, Ordering::*};

    impl Word for Watched {
        fn new(value: u64) -> Self {
            Self::new(value)
        }
        fn fetch_add(&self, by: u64) -> u64 {
            self.fetch_add(by, AcqRel)
        }
        fn fetch_sub(&self, by: u64) -> u64 {
            self.fetch_sub(by, AcqRel)
        }
        fn fetch_or(&self, bits: u64) -> u64 {
            self.fetch_or(bits, AcqRel)
        }
        fn fetch_and(&self, bits: u64) -> u64 {
            self.fetch_and(bits, AcqRel)
        }
        fn load(&self) -> u64 {
            self.load(Acquire)
        }
    }

    #[test]
    fn a_gate_counts_and_drains() {
        let gate: Gate = Gate::closed();
        assert!(gate.drained() && gate.enter().is_none());
        gate.open();
        let pass = gate.enter().expect("open");
        gate.close();
        assert!(!gate.drained() && gate.count() == 1 && gate.enter().is_none());
        gate.leave(pass);
        assert!(gate.drained());
    }

    /// A writer that enters with `enter` writes the medium; a closer drains, then grants and writes what the
    /// new holder writes. The medium must end with the new holder's bytes.
    fn race(enter: fn(&Gate<Watched>) -> Option<Pass>) {
        loom::model(move || {
            let gate = Arc::new(Gate::<Watched>::closed());
            gate.open();
            let medium = Arc::new(Watched::new(0));
            let writer = {
                let (gate, medium) = (gate.clone(), medium.clone());
                loom::thread::spawn(move || {
                    if let Some(pass) = enter(&gate) {
                        medium.store(1, Relaxed);
                        gate.leave(pass);
                    }
                })
            };
            gate.close();
            while !gate.drained() {
                loom::thread::yield_now();
            }
            medium.store(2, Relaxed);
            writer.join().expect("writer ends");
            assert_eq!(medium.load(Relaxed), 2, "a write of the old holder landed after the grant");
        });
    }

    #[test]
    fn loom_p16_no_write_of_the_old_holder_lands_after_a_drain() {
        race(Gate::enter);
    }

    #[test]
    #[should_panic(expected = "landed after the grant")]
    fn loom_p16_checking_before_counting_is_caught() {
        race(|gate| {
            if gate.0.load(Acquire) & CLOSED != 0 {
                return None;
            }
            gate.0.fetch_add(1, AcqRel);
            Some(Pass { _counted: () })
        });
    }
}
