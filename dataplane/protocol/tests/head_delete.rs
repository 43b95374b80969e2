//! Deleting partitions while other things go on (OP-18): it ends, and every column comes back.

mod head_support;

use head_support::*;
use palisade_protocol::wire::*;
use std::time::Duration;

fn free(rack: &mut Rack) -> u32 {
    (0..6).map(|at| rack.sled(at).status().devices[0].free).sum()
}

fn deleted(rack: &mut Rack) {
    rack.events.clear();
    rack.delete();
    rack.run_until("deletion", |rack| rack.events.iter().any(|event| matches!(event, Event::Deleted { .. })));
}

/// A rack that flushes at any fill, with data, and what its sleds had free before.
fn flushing(seed: u64) -> (Rack, u32) {
    let mut shape = Shape { hot_bytes: 0, blocks: 1024, ..Shape::new(seed) };
    shape.flush.fill_low = 0;
    shape.flush.fill_high = 1;
    let mut rack = Rack::new(shape);
    rack.serve();
    let before = free(&mut rack);
    rack.workload(60, 512, 8);
    (rack, before)
}

#[test]
fn a_partition_deleted_in_the_middle_of_a_flush_gives_its_columns_back() {
    for seed in 300..330 {
        let (mut rack, before) = flushing(seed);
        let wait = rack.rand(8_000_000);
        rack.run_for(Duration::from_nanos(wait));
        let flush = rack.start_flush();
        rack.workload(1, 512, 1);
        deleted(&mut rack);
        assert!(rack.done.contains_key(&flush), "seed {seed}: whoever waits for a flush is answered");
        assert_eq!(free(&mut rack), before, "seed {seed}");
    }
}

#[test]
fn a_failed_device_is_not_asked_for_its_columns_over_and_over() {
    let (mut rack, _) = flushing(370);
    rack.flush_all();
    rack.nodes[7].disk.gone = true;
    rack.workload(60, 512, 8);
    rack.flush_all();
    rack.delete();
    rack.run_for(Duration::from_secs(2));
    let before = rack.sent["column_list"];
    rack.run_for(Duration::from_secs(10));
    let asked = rack.sent["column_list"] - before;
    assert!((1..20).contains(&asked), "{asked} questions in ten seconds (`Bounded`)");
}

#[test]
fn a_shortage_of_long_ago_refuses_no_write_today_p_32() {
    let mut rack = Rack::new(Shape::new(371));
    rack.crash(2);
    rack.crash(3);
    rack.serve();
    let write = rack.write(0, 64);
    rack.wait_all(&[write]);
    rack.run_for(Duration::from_secs(1));
    let flush = rack.start_flush();
    rack.run_for(Duration::from_millis(300));
    assert!(!rack.done.contains_key(&flush), "too few sleds for it");
    let trim = rack.trim(0, 64);
    rack.wait_all(&[trim]);
    assert!(rack.wait(flush).is_ok(), "nothing is left to flush");
    rack.start(2, false);
    rack.start(3, false);
    rack.run_for(Duration::from_secs(10));
    // More than the window holds, so that some wait.
    let tags: Vec<u64> = (0..2000).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
}

#[test]
fn a_deletion_goes_on_when_one_member_restarts() {
    for seed in 330..342 {
        let (mut rack, before) = flushing(seed);
        rack.nodes[7].cut = true;
        rack.delete();
        rack.run_for(Duration::from_millis(if seed % 4 < 2 { 50 } else { 3000 }));
        rack.restart((seed % 2) as usize);
        rack.serve();
        rack.nodes[7].cut = false;
        deleted(&mut rack);
        assert_eq!(free(&mut rack), before, "seed {seed}");
    }
}

#[test]
fn a_deletion_ends_though_one_member_has_forgotten_the_partition() {
    for at in 0..2 {
        let (mut rack, before) = flushing(350 + at as u64);
        rack.nodes[7].cut = true;
        rack.delete();
        // Writes to the sled that is away are given up, then the partition is deleted on both.
        rack.run_for(Duration::from_secs(5));
        assert!(rack.events.iter().all(|event| !matches!(event, Event::Deleted { .. })));
        // As when checkpoints that no longer list it have replaced all its log records.
        rack.crash(at);
        rack.nodes[at].disk.bytes.fill(0);
        rack.start(at, true);
        rack.serve();
        rack.nodes[7].cut = false;
        deleted(&mut rack);
        assert_eq!(free(&mut rack), before, "member {at}");
    }
}
