//! Copies for heads with little room: logs that are smaller than what is not flushed, pools that are empty (BA-01, P-31).

mod head_support;

use head_support::blank::{alone, rack, serves};
use head_support::{BLOCK, Rack, Shape};
use palisade_protocol::head::Solo;
use palisade_protocol::wire::*;
use std::time::Duration;

#[test]
fn p31_a_head_whose_log_is_small_takes_a_copy_as_the_primary_flushes() {
    let mut rack = alone(130, |shape| (shape.log_segments, shape.flush.fill_low) = (14, 30));
    rack.fill(0, 1);
    let mut rounds = 0;
    while rack.joining(0, 1).is_none() {
        rack.workload(40, 800, 8);
        rounds += 1;
        assert!(rounds < 400, "{:?}", rack.status().fill);
    }
    rack.join(0, 1);
    rack.workload(200, 800, 8);
    serves(&mut rack);
}

/// The pool of both heads and all sleds is empty again and again while a copy is under way: it waits, and ends.
#[test]
fn p31_a_copy_ends_though_the_pool_is_empty_at_times() {
    for seed in 131..134 {
        let mut rack = alone(seed, |_| {});
        rack.fill(0, 1);
        let mut rounds = 0;
        while rack.joining(0, 1).is_none() {
            let mut hoard = Vec::new();
            for size in [256 << 10, 64 << 10, BLOCK] {
                hoard.extend(std::iter::from_fn(|| rack.pool.alloc(size)));
            }
            rack.run_for(Duration::from_millis(3));
            // Some come back, then all.
            hoard.truncate(hoard.len() / 50);
            rack.run_for(Duration::from_micros(300));
            drop(hoard);
            rack.run_for(Duration::from_micros(200));
            rounds += 1;
            assert!(rounds < 2000, "{:?}", rack.status().fill);
        }
        assert!(rounds > 1, "the pool was empty while it was filled");
        rack.join(0, 1);
        serves(&mut rack);
    }
}

/// The first head alone holds more that is not flushed than the log of the blank one can take, and would not flush for
/// itself for long.
fn small(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut rack = alone(seed, |shape| {
        (shape.blocks, shape.flush.fill_low, shape.log_segments) = (4096, 95, 120);
        (shape.flush.fill_high, shape.flush.age, shape.columns) = (98, Duration::from_secs(3600), 64);
        change(shape);
    });
    let tags: Vec<u64> = (0..60).map(|at| rack.write(at * 512, 512)).collect();
    rack.wait_all(&tags);
    let unflushed = rack.status().log_blocks;
    // 12 segments of 512 KiB, a part of which is reserve.
    let small = 12 * (512 << 10) + (4 << 20);
    rack.nodes[1].disk.bytes.truncate(small);
    assert!(unflushed as usize * BLOCK > small, "{unflushed} blocks");
    rack.replace_log(1);
    rack.fill(0, 1);
    rack
}

/// What is not flushed at the primary is more than the log of the head that is filled can hold: the primary
/// flushes until it fits, though its own log has room.
#[test]
fn p31_a_head_whose_log_is_smaller_than_what_is_not_flushed_is_filled() {
    for seed in 135..138 {
        let mut rack = small(seed, |_| {});
        rack.join(0, 1);
        assert_eq!(rack.counters().copies, 1, "seed {seed}: what waits for room is no reason to begin anew");
        rack.workload(100, 3000, 8);
        serves(&mut rack);
    }
}

/// Clients go on meanwhile with writes over all of the volume, faster than its log could take.
#[test]
fn p31_writes_go_on_while_a_head_with_a_smaller_log_is_filled() {
    for seed in 138..140 {
        let mut rack = small(seed, |_| {});
        let (mut rounds, mut next) = (0, 0);
        while rack.joining(0, 1).is_none() {
            let mut tags = Vec::new();
            for _ in 0..8 {
                next = (next + 7) % 60;
                tags.push(rack.write(next * 512, 128));
            }
            rack.wait_all(&tags);
            rounds += 1;
            assert!(rounds < 2000, "seed {seed}: {:?}", rack.status().fill);
        }
        assert!(rounds > 1, "seed {seed}: under load");
        rack.join(0, 1);
        rack.workload(100, 3000, 8);
        serves(&mut rack);
    }
}

/// Words about room are lost: it is asked for again.
#[test]
fn p31_a_head_with_a_smaller_log_is_filled_though_its_words_are_lost() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let mut rack = small(141, |_| {});
    rack.drop_msg = Some(|msg, _, _| {
        matches!(msg, Msg::Copied { .. }) && !SEEN.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    });
    rack.join(0, 1);
    rack.drop_msg = None;
    serves(&mut rack);
}

/// Alone, with one copy that is not enough, nothing is flushed (P-30): a log that is too small for what is not flushed
/// is named to people, nothing is lost, and a log that is large enough is filled.
#[test]
fn p31_where_nothing_is_flushed_people_are_told_of_a_log_that_is_too_small() {
    let mut rack = rack(142, |shape| {
        (shape.blocks, shape.flush.fill_low, shape.log_segments) = (4096, 95, 120);
        (shape.flush.fill_high, shape.solo) = (98, Solo::Wait);
    });
    let tags: Vec<u64> = (0..60).map(|at| rack.write(at * 512, 512)).collect();
    rack.wait_all(&tags);
    rack.crash(1);
    rack.move_to(&[0]);
    let size = rack.nodes[1].disk.bytes.len();
    rack.nodes[1].disk.bytes.truncate(12 * (512 << 10) + (4 << 20));
    rack.replace_log(1);
    rack.fill(0, 1);
    let told =
        |event: &Event| matches!(event, Event::Attention(what) if what.contains("cannot be filled: its log"));
    rack.run_until("word of it", |rack| rack.events.iter().any(told));
    rack.run_for(Duration::from_secs(10));
    assert_eq!(rack.events.iter().filter(|event| told(event)).count(), 1, "once");
    assert_eq!(rack.joining(0, 1), None);
    rack.verify();
    rack.nodes[1].disk.bytes.resize(size, 0);
    rack.replace_log(1);
    rack.fill(0, 1);
    rack.join(0, 1);
    rack.workload(30, 800, 8);
    rack.same_index();
    rack.move_to(&[1, 0]);
    rack.verify();
}
