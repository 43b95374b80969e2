//! The free list under every schedule: no slot is handed out twice, none is lost, and what its last
//! user wrote is seen by the next.

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
#[path = "../src/free.rs"]
mod free;

use free::FreeList;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Loom's cell panics when two accesses are not ordered: two owners of one slot would show.
struct Slots {
    free: FreeList,
    bytes: Vec<UnsafeCell<u32>>,
}

fn use_one(slots: &Slots) {
    if let Some(slot) = slots.free.pop() {
        slots.bytes[slot as usize].with_mut(|_| ());
        slots.free.push(slot);
    }
}

fn model(slots: u32, threads: usize, rounds: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let bytes = (0..slots).map(|_| UnsafeCell::new(0)).collect();
        let shared = Arc::new(Slots { free: FreeList::full(slots), bytes });
        let others: Vec<_> = (1..threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || (0..rounds).for_each(|_| use_one(&shared)))
            })
            .collect();
        (0..rounds).for_each(|_| use_one(&shared));
        others.into_iter().for_each(|other| other.join().expect("thread"));
        assert_eq!(shared.free.len(), slots as usize);
        let mut left: Vec<_> = std::iter::from_fn(|| shared.free.pop()).collect();
        left.sort_unstable();
        assert_eq!(left, (0..slots).collect::<Vec<_>>());
    });
}

#[test]
fn two_threads_never_hold_one_slot_together() {
    model(1, 2, 2);
    model(2, 2, 2);
}

#[test]
fn a_slot_that_leaves_and_comes_back_confuses_nobody() {
    model(2, 3, 1);
}
