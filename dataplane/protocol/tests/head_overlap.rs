//! Logs must not deadlock (P-31): neither writes to blocks whose earlier writes are on their way, nor what a
//! head promised to the partitions that it follows, keep its own partitions from writing.

mod head_support;

use head_support::{Rack, Shape};
use palisade_dma::Pool;
use palisade_protocol::wire::*;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// The watermark told last, and how many messages told nothing but credit.
static TOLD: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Loses seven of eight messages that bring nothing but credit.
fn credit_is_lost(msg: &Msg, _from: NodeId, _to: NodeId) -> bool {
    let Msg::Replicated { durable, .. } = msg else { return false };
    let [last, count] = &TOLD;
    last.swap(durable.0, Ordering::Relaxed) == durable.0 && count.fetch_add(1, Ordering::Relaxed) % 8 != 7
}

/// The secondary's log makes room and its word of that is lost, while nothing else is under way.
#[test]
fn p31_credit_that_was_lost_on_the_way_is_asked_for_again() {
    for seed in 8..12 {
        let mut rack = Rack::new(Shape { log_segments: 20, ..Shape::new(seed) });
        rack.serve();
        rack.drop_msg = Some(credit_is_lost);
        for round in 0..40 {
            let tags: Vec<u64> = (0..24).map(|at| rack.write((round * 24 + at) % 120 * 256, 256)).collect();
            rack.wait_all(&tags);
        }
        assert_eq!(rack.counters().writes, 40 * 24, "seed {seed}");
        rack.drop_msg = None;
        rack.verify();
    }
}

/// One head follows many partitions whose primary is idle, and leads one itself; each of them can write.
#[test]
fn p31_promises_to_idle_primaries_starve_no_other_partition_of_the_same_pair() {
    let mut rack = Rack::new(Shape::new(6));
    // The first one is promised room while it is alone on that head.
    rack.serve();
    let more: Vec<PartitionId> = (20..26).map(PartitionId).collect();
    for &partition in &more {
        rack.serve_more(partition, 0);
    }
    rack.serve_other();
    for &partition in more.iter().rev() {
        let tags: Vec<u64> = (0..8).map(|at| rack.write_more(partition, 0, at * 16, at + 1)).collect();
        rack.wait_all(&tags);
    }
    let tags = [rack.write_other(0), rack.write_other(16)];
    rack.wait_all(&tags);
    rack.workload(40, 60, 4);
    rack.verify();
}

/// Blocks 0..64 of the volume that a read cannot give; all others are right.
fn unreadable(rack: &mut Rack) -> Vec<usize> {
    let mut lost = Vec::new();
    for block in 0..64 {
        let tag = rack.submit(ClientVerb::Read { offset: block as u64 * 4096, len: 4096 });
        match rack.wait(tag) {
            Err(ClientError::Unreadable) => lost.push(block),
            other => rack.check(block * 8, other),
        }
    }
    lost
}

#[test]
fn p31_a_block_that_rotted_in_both_logs_stops_no_log_and_stays_an_error_until_it_is_written() {
    let mut shape = Shape::new(7);
    (shape.log_segments, shape.hot_bytes) = (20, 0);
    let mut rack = Rack::new(shape);
    rack.serve();
    let tags: Vec<u64> = (0..64).map(|block| rack.write(block * 8, 8)).collect();
    rack.wait_all(&tags);
    // The same block in both logs: they hold the same writes in the same order.
    assert_eq!((rack.rot(0, 64), rack.rot(1, 64)), (1, 1));
    // Several times the log in other blocks: the segment of the rotten one has to go, after six tries that are five
    // seconds apart and wait for a batch to be full.
    for round in 0..60 {
        let tags: Vec<u64> = (0..32).map(|at| rack.write((64 + (round * 32 + at) % 512) * 8, 8)).collect();
        rack.wait_all(&tags);
        rack.run_for(Duration::from_secs(2));
    }
    let lost = unreadable(&mut rack);
    assert_eq!(
        lost.len(),
        1,
        "{lost:?} {:#?} {:#?}",
        rack.counters(),
        rack.events.iter().rev().take(12).collect::<Vec<_>>()
    );
    assert!(
        rack.events.iter().any(|event| matches!(event, Event::Corrupt { what, .. } if what.contains("lost")))
    );
    for at in 0..2 {
        rack.restart(at);
    }
    rack.serve();
    assert_eq!(unreadable(&mut rack), lost, "a restart makes nothing of it");
    let tag = rack.write(lost[0] * 8, 8);
    rack.wait_all(&[tag]);
    assert_eq!(unreadable(&mut rack), Vec::<usize>::new());
}

#[test]
fn p31_clients_that_hold_all_buffers_they_get_do_not_stop_the_flush_that_ends_their_waiting() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(731) });
    rack.serve();
    let tags: Vec<u64> = (0..32).map(|at| rack.write(at * 128, 128)).collect();
    rack.wait_all(&tags);
    let sizes = [256 << 10, 64 << 10, 4 << 10];
    let all =
        |pool: &Pool| sizes.map(|size| std::iter::from_fn(|| pool.alloc_client(size)).collect::<Vec<_>>());
    let held = all(&rack.pool);
    assert!(held.iter().all(|class| !class.is_empty()));
    rack.flush_all();
    assert!(rack.counters().repoints > 0);
    drop(held);
    rack.verify();
}
