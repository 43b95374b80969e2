//! Logs must not deadlock (P-31): neither writes to blocks whose earlier writes are on their way, nor what a
//! head promised to the partitions that it follows, keep its own partitions from writing.

mod head_support;

use head_support::{Rack, Shape};
use std::time::Duration;

/// Five times the log in overlapping writes, `depth` of them open at once.
fn overwrite(shape: Shape, depth: usize) {
    let (sectors, len) = (64 * 8, 16 * 8);
    let count = 5 * shape.log_segments as usize * shape.segment as usize / (16 * 4096);
    let mut rack = Rack::new(shape);
    rack.serve();
    let mut open = Vec::new();
    for _ in 0..count {
        let first = rack.rand((sectors - len) as u64 / 8) as usize * 8;
        open.push(rack.write(first, len));
        if open.len() >= depth {
            let tag = open.remove(0);
            rack.wait_all(&[tag]);
        }
    }
    rack.wait_all(&open);
    rack.flush_all();
    assert!(rack.counters().writes >= count as u64);
}

#[test]
fn overlapping_writes_of_five_logs_are_all_answered() {
    for seed in 0..2 {
        overwrite(Shape::new(seed), 32);
    }
}

#[test]
fn overlapping_writes_are_answered_though_flushing_is_lazy() {
    let mut shape = Shape::new(3);
    shape.flush.age = Duration::from_secs(2);
    overwrite(shape, 32);
}

#[test]
fn p31_a_promise_to_an_idle_primary_leaves_room_for_the_heads_own_partition() {
    let mut shape = Shape::new(5);
    shape.log_segments = 24;
    let mut rack = Rack::new(shape);
    // The second head follows this one, and promises it room.
    rack.serve();
    rack.serve_other();
    for at in 0..400u64 {
        let tag = rack.write_other(at % 32 * 16);
        rack.wait_all(&[tag]);
    }
    let tag = rack.write(0, 128);
    rack.wait_all(&[tag]);
    rack.verify();
    assert_eq!(rack.counters().writes, 1, "the idle volume still takes its turn");
}
