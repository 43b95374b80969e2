//! Flush, column reads, repair and collection, against a model of acknowledged writes.

mod head_support;

use head_support::*;
use palisade_protocol::wire::*;
use std::time::Duration;

#[test]
fn flushed_data_is_read_from_columns() {
    for seed in 100..104 {
        let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(seed) });
        rack.serve();
        rack.workload(300, 512, 8);
        rack.flush_all();
        let counters = rack.counters();
        assert!(counters.flushes > 0 && counters.repoints > 0);
        rack.verify();
        assert!(rack.sent["column_read"] > 0);
        rack.workload(100, 512, 8);
        rack.verify();
        rack.restart(0);
        rack.serve();
        rack.verify();
    }
}

/// A virtual machine that is paused while reads are under way: when it goes on no column was silent.
#[test]
fn ef06_a_head_that_slept_with_reads_under_way_asks_again_and_calls_nothing_lost() {
    for seed in 150..154 {
        let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(seed) });
        rack.serve();
        let tag = rack.write(0, 8);
        rack.wait_all(&[tag]);
        rack.flush_all();
        rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnData { .. }));
        let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
        rack.run_for(Duration::from_millis(60));
        rack.drop_msg = None;
        rack.now = rack.now + Duration::from_secs(10);
        let result = rack.wait(read);
        rack.check(0, result);
        assert!(!rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })), "seed {seed}");
    }
}

#[test]
fn any_two_of_six_sleds_may_be_gone() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(110) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    for a in 0..6 {
        for b in a + 1..6 {
            rack.nodes[2 + a].disk.dead = true;
            rack.nodes[2 + b].disk.dead = true;
            for first in (0..2048).step_by(512) {
                rack.read(first, 512);
            }
            rack.nodes[2 + a].disk.dead = false;
            rack.nodes[2 + b].disk.dead = false;
            rack.restart(2 + a);
            rack.restart(2 + b);
            rack.run_for(Duration::from_millis(50));
        }
    }
    assert!(rack.counters().degraded_reads > 0);
}

#[test]
fn three_gone_is_an_error_that_names_the_extent() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(111) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    for at in 0..3 {
        rack.crash(2 + at);
    }
    let mut lost = 0;
    for first in (0..2048).step_by(8) {
        let tag = rack.submit(ClientVerb::Read { offset: first as u64 * 512, len: 4096 });
        match rack.wait(tag) {
            Err(ClientError::Unreadable) => lost += 1,
            other => rack.check(first, other),
        }
    }
    assert!(lost > 0);
    assert!(rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })));
}

#[test]
fn a_small_log_slows_writers_and_loses_nothing() {
    let mut shape = Shape::new(120);
    shape.log_segments = 20;
    let mut rack = Rack::new(shape);
    rack.serve();
    // Ten times over the log's size.
    rack.workload(2500, 2000, 32);
    rack.verify();
    let counters = rack.counters();
    assert!(counters.waits > 0 && counters.checkpoints > 0, "{counters:?}");
    rack.restart(0);
    rack.serve();
    rack.verify();
}

#[test]
fn the_collector_bounds_space_under_overwrite() {
    let mut shape = Shape::new(121);
    shape.blocks = 1024;
    shape.columns = 16;
    shape.flush.fill_low = 5;
    let mut rack = Rack::new(shape);
    rack.serve();
    for _ in 0..10 {
        for first in (0..1024 * 8).step_by(256) {
            let tag = rack.write(first, 256);
            rack.wait_all(&[tag]);
        }
        rack.flush_all();
    }
    rack.verify();
    rack.run_for(Duration::from_secs(2));
    let counters = rack.counters();
    assert!(counters.collections + counters.extents_released > 0, "{counters:?}");
    assert!(counters.columns_released > 0, "{counters:?}");
    // 1024 blocks in extents of 256: four full ones, and what the threshold lets stay.
    let status = rack.status();
    assert!(status.extents <= 10, "{} extents", status.extents);
}

#[test]
fn rot_in_the_log_is_fetched_from_the_peer() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(122) });
    rack.serve();
    let tags: Vec<u64> = (0..64).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    assert_eq!(rack.rot(0, 3), 22, "every third block");
    rack.verify();
    let counters = rack.counters();
    assert!(counters.corrupt > 0 && counters.repaired == counters.corrupt, "{counters:?}");
    rack.run_for(Duration::from_millis(10));
    rack.verify();
    assert_eq!(rack.counters().corrupt, counters.corrupt, "what was repaired stays repaired");
}

#[test]
fn a_rotten_column_gives_right_data_and_is_rewritten() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(123) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    // At most two sleds; one whose columns are all parity holds nothing that the client knows.
    let hurt = (2..8).filter(|&device| rack.rot(device, 2) > 0).take(2).count();
    assert!(hurt > 0, "no column rotted");
    rack.verify();
    rack.run_for(Duration::from_secs(3));
    rack.verify();
    let counters = rack.counters();
    assert!(counters.corrupt > 0 && counters.repaired > 0, "{counters:?}");
    assert_eq!(rack.status().degraded, 0);
}

#[test]
fn what_scrub_finds_rotten_is_rewritten_though_nobody_reads_it() {
    let scrub_gap = Duration::from_millis(10);
    let mut rack = Rack::new(Shape { hot_bytes: 0, scrub_gap, ..Shape::new(125) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    assert!(rack.rot(2, 2) + rack.rot(3, 2) > 0);
    // The sleds are in the middle of their first pass, or rest after it: a restart begins another.
    for at in [2, 3] {
        rack.restart(at);
    }
    rack.run_for(Duration::from_secs(30));
    let counters = rack.counters();
    assert!(counters.corrupt > 0 && counters.repaired > 0, "{counters:?}");
    assert_eq!((rack.status().degraded, counters.degraded_reads > 0), (0, true));
    rack.verify();
    assert_eq!(rack.counters().corrupt, counters.corrupt, "nothing rotten is left to be read");
}

#[test]
fn a_deleted_partition_gives_its_columns_back() {
    let mut rack = Rack::new(Shape::new(124));
    rack.serve();
    let free = |rack: &mut Rack| -> u32 { (0..6).map(|at| rack.sled(at).status().devices[0].free).sum() };
    let before = free(&mut rack);
    rack.workload(200, 1024, 8);
    rack.flush_all();
    assert!(free(&mut rack) < before);
    rack.delete();
    rack.run_until("deletion", |rack| rack.events.iter().any(|event| matches!(event, Event::Deleted { .. })));
    assert_eq!(free(&mut rack), before);
}

#[test]
fn overwrites_and_trims_during_a_flush_stay_newest() {
    for seed in 130..138 {
        let mut shape = Shape { hot_bytes: 0, ..Shape::new(seed) };
        shape.flush.fill_low = 0;
        shape.flush.fill_high = 1;
        let mut rack = Rack::new(shape);
        rack.serve();
        rack.workload(800, 64, 4);
        rack.verify();
        rack.flush_all();
        rack.verify();
        assert!(rack.counters().flushes > 0);
        rack.restart(0);
        rack.serve();
        rack.verify();
    }
}

#[test]
fn one_sled_gone_flush_goes_on_with_five_columns() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(140) });
    rack.crash(2);
    rack.serve();
    rack.workload(200, 512, 8);
    rack.flush_all();
    rack.verify();
    assert!(rack.status().degraded > 0);
    rack.start(2, false);
    rack.run_for(Duration::from_secs(5));
    rack.verify();
    assert_eq!(rack.status().degraded, 0, "rebuilt once the sled is back (P-25)");
}

#[test]
fn two_sleds_gone_flush_waits_and_writes_go_on() {
    let mut rack = Rack::new(Shape::new(141));
    rack.crash(2);
    rack.crash(3);
    rack.serve();
    rack.workload(200, 512, 8);
    rack.verify();
    assert_eq!(rack.counters().flushes, 0, "never below k + 1 columns (P-25)");
}

#[test]
fn two_primaries_that_follow_each_other_do_not_starve_in_full_logs() {
    let mut shape = Shape::new(150);
    shape.log_segments = 20;
    shape.columns = 60;
    let mut rack = Rack::new(shape);
    rack.serve();
    rack.serve_other();
    let mut open = std::collections::VecDeque::new();
    // Each partition alone would fill both logs several times over.
    for at in 0..400u64 {
        let first = (at as usize * 128) % (4096 * 8);
        open.push_back(rack.write(first, 128));
        open.push_back(rack.write_other(at * 16 % 4096));
        while open.len() > 24 {
            let tag = open.pop_front().expect("not empty");
            rack.wait_all(&[tag]);
        }
    }
    rack.wait_all(open.make_contiguous());
    rack.verify();
}

#[test]
fn a_cut_between_the_heads_only_delays() {
    let mut rack = Rack::new(Shape::new(151));
    rack.serve();
    for _ in 0..5 {
        let tags: Vec<u64> = (0..20).map(|at| rack.write(at * 8, 8)).collect();
        rack.nodes[1].cut = true;
        rack.run_for(Duration::from_millis(700));
        rack.nodes[1].cut = false;
        rack.wait_all(&tags);
        rack.workload(30, 300, 4);
    }
    rack.verify();
    assert!(rack.counters().resends > 0);
}

/// A rack whose primary's log fails with changes, a read and a flush under way; what clients hear of the changes.
fn log_fails(seed: u64, secondary: bool) -> (Rack, Vec<ClientError>) {
    let mut rack = Rack::new(Shape { secondary, hot_bytes: 0, ..Shape::new(seed) });
    rack.serve();
    rack.workload(30, 300, 4);
    rack.nodes[0].disk.dead = true;
    let verb = ClientVerb::Read { offset: 0, len: 8 * SECTOR as u32 };
    let (read, flush) = (rack.submit(verb), rack.start_flush());
    let tags = [rack.write(0, 8), rack.write(17, 3), rack.trim(64, 16)];
    let heard: Vec<_> = tags.iter().map(|&tag| rack.wait(tag).expect_err("its log is gone")).collect();
    // Sleds may have given the bytes before.
    let result = rack.wait(read);
    assert!(result.is_ok() || matches!(result, Err(ref error) if heard.contains(error)), "{result:?}");
    assert!(
        matches!(rack.wait(flush), Err(ClientError::NotServed)),
        "whoever asked asks the head that follows"
    );
    assert!(rack.events.iter().any(|event| matches!(event, Event::DeviceFailed { .. })));
    (rack, heard)
}

#[test]
fn p06_a_failed_log_device_ends_service_acknowledges_nothing_and_sends_clients_to_the_other_head() {
    for seed in 0..4 {
        let (mut rack, heard) = log_fails(152 + seed, true);
        assert!(heard.iter().all(|error| *error == ClientError::NotServed), "{heard:?}");
        let tag = rack.write(0, 8);
        assert!(matches!(rack.wait(tag), Err(ClientError::NotServed)), "nor what comes later");
        rack.move_to(&[1]);
        rack.verify();
    }
}

#[test]
fn a_failed_log_device_is_an_error_of_a_volume_that_never_has_another_head() {
    let (_, heard) = log_fails(152, false);
    assert!(heard.iter().all(|error| *error == ClientError::Device), "{heard:?}");
}

#[test]
fn a_silent_sled_is_hedged_and_then_done_without() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(153) });
    rack.serve();
    rack.workload(200, 256, 8);
    rack.flush_all();
    // Of the first two either may hold parity only, of four not all.
    for silent in [[2, 3], [4, 5]] {
        silent.iter().for_each(|&at| rack.nodes[at].stall = true);
        for first in (0..2048).step_by(64) {
            rack.read(first, 64);
        }
        silent.iter().for_each(|&at| rack.nodes[at].stall = false);
    }
    let counters = rack.counters();
    assert!(counters.hedged > 0 && counters.degraded_reads > 0, "{counters:?}");
}

/// The column that was wanted lies on a sled that was silent a moment ago, and two others fall silent: it is
/// asked after all.
#[test]
fn a_column_that_was_passed_over_is_asked_before_its_blocks_count_as_lost() {
    for seed in 160..168 {
        let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(seed) });
        rack.serve();
        rack.workload(200, 256, 8);
        rack.flush_all();
        for silent in [[2, 3], [4, 5], [6, 7], [3, 4], [2, 7]] {
            silent.iter().for_each(|&at| rack.nodes[at].stall = true);
            for first in (0..2048).step_by(64) {
                rack.read(first, 64);
            }
            silent.iter().for_each(|&at| rack.nodes[at].stall = false);
        }
        assert!(rack.counters().degraded_reads > 0, "{:?}", rack.counters());
        assert!(!rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })));
    }
}

#[test]
fn ef17_a_fenced_flush_demotes_and_ends_service() {
    let mut rack = Rack::new(Shape::new(154));
    rack.serve();
    rack.workload(100, 256, 8);
    rack.flush_all();
    rack.usurp(1000);
    rack.workload(20, 256, 4);
    rack.start_flush();
    rack.run_until("demotion", |rack| rack.events.iter().any(|event| matches!(event, Event::Demoted { .. })));
    let tag = rack.write(0, 8);
    assert!(matches!(rack.wait(tag), Err(ClientError::NotServed)));
}

/// P-32: the collector's extent does not shut the flush out.
#[test]
fn a_flush_ends_while_the_collector_has_an_extent_open() {
    let mut rack = Rack::new(Shape::new(500));
    rack.serve();
    rack.workload(10, 64, 8);
    rack.flush_all();
    // The new primary seals a sparse extent, which is collected at once.
    rack.restart(0);
    rack.serve();
    rack.workload(5, 64, 8);
    rack.flush_all();
    rack.verify();
    assert!(rack.counters().flushes > 0);
}

/// A turn that encoded a whole batch kept clients waiting for all of it.
#[test]
fn a_batch_is_encoded_one_stripe_a_turn() {
    let mut rack = Rack::new(Shape { hot_bytes: 64 << 20, ..Shape::new(190) });
    rack.serve();
    let shape = rack.shape.clone();
    let units = usize::from(shape.k) * usize::from(shape.unit_blocks);
    let tags: Vec<u64> = (0..4 * units).map(|block| rack.write(block * 8, 8)).collect();
    rack.wait_all(&tags);
    let stripe = (units * 4096 * 6 / 4) as u64;
    let tag = rack.start_flush();
    let (mut seen, mut turns) = (0, 0);
    for _ in 0..100_000 {
        if seen >= 4 * stripe {
            break;
        }
        rack.step();
        let bytes = rack.counters().column_bytes;
        assert!(bytes - seen <= stripe, "{} bytes of columns in one turn", bytes - seen);
        turns += usize::from(bytes > seen);
        seen = bytes;
    }
    assert_eq!(turns, 4);
    assert!(rack.wait(tag).is_ok());
    assert_eq!(rack.counters().flushes, 1, "all four are one batch");
    rack.verify();
}
