//! Free slots of a class: a lock-free stack, so that the slot freed last, still in the cache, is the
//! next to be used. (A queue would walk through the whole class and miss the cache at every turn.)
//!
//! Any core may push and pop. The head carries a tag that each pop raises: a popper that slept while its
//! slot left and came back (ABA) fails its exchange instead of installing a stale successor. The tag
//! wraps after 2^32 pops, which a popper would have to sleep through exactly.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// No slot.
const NONE: u32 = u32::MAX;

/// The stack. Its hot words have a cache line to themselves.
#[repr(align(64))]
pub(crate) struct FreeList {
    /// Tag in the upper half, top slot in the lower.
    head: AtomicU64,
    /// How many are on the stack; for statistics only.
    count: AtomicU32,
    /// The slot below each slot on the stack.
    below: Box<[AtomicU32]>,
}

fn pack(tag: u32, slot: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(slot)
}

impl FreeList {
    /// All of `slots` slots, the lowest on top.
    pub(crate) fn full(slots: u32) -> Self {
        assert!(slots < NONE, "a class has fewer than 2^32 - 1 slots");
        let below = (0..slots).map(|slot| AtomicU32::new(if slot + 1 < slots { slot + 1 } else { NONE }));
        let top = if slots == 0 { NONE } else { 0 };
        Self { head: AtomicU64::new(pack(0, top)), count: AtomicU32::new(slots), below: below.collect() }
    }

    /// Takes the top slot; nobody else has it until it is pushed again.
    pub(crate) fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let slot = head as u32;
            if slot == NONE {
                return None;
            }
            // May be stale when another core was faster; then the tag makes the exchange fail.
            let below = self.below[slot as usize].load(Ordering::Relaxed);
            let next = pack(((head >> 32) as u32).wrapping_add(1), below);
            match self.head.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    return Some(slot);
                }
                Err(seen) => head = seen,
            }
        }
    }

    /// Gives a slot back. Its last user's accesses happen before those of whoever pops it.
    pub(crate) fn push(&self, slot: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.below[slot as usize].store(head as u32, Ordering::Relaxed);
            let next = pack((head >> 32) as u32, slot);
            match self.head.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.count.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(seen) => head = seen,
            }
        }
    }

    /// Slots on the stack; exact only while nobody pushes or pops.
    pub(crate) fn len(&self) -> usize {
        // A pop may count before the push that fed it does; never show the wrap of that moment.
        (self.count.load(Ordering::Relaxed) as i32).max(0) as usize
    }
}
