//! What must not stay behind: columns of answers that came too late (P-27), marks of extents that are gone,
//! reads given up while good units are there (OP-27), commands of lost connections (P-11).

mod head_support;

use head_support::*;
use palisade_protocol::wire::*;
use std::time::Duration;

/// The first sled.
const SLED: NodeId = NodeId(11);

/// Columns of the first sled that somebody holds.
fn used(rack: &mut Rack) -> u32 {
    let status = rack.sled(0).status();
    status.devices[0].columns - status.devices[0].free
}

/// Runs until every extent is whole and the first sled holds a column for each, and no other.
fn settle(rack: &mut Rack) {
    rack.run_until("every column has an extent", |rack| {
        let status = rack.status();
        status.degraded == 0 && status.extents > 0 && used(rack) == status.extents
    });
}

#[test]
fn p27_a_column_whose_answer_was_lost_comes_back_under_the_same_number() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(600) });
    rack.serve();
    rack.drop_msg = Some(|msg, from, _| {
        from == SLED && matches!(msg, Msg::ColumnReserved { .. } | Msg::ColumnListed { .. })
    });
    rack.workload(200, 512, 8);
    rack.flush_all();
    assert!(used(&mut rack) > 0 && rack.status().degraded > 0, "reserved, and the head was never told");
    rack.drop_msg = None;
    settle(&mut rack);
    assert!(rack.counters().orphans > 0);
    rack.verify();
}

#[test]
fn p27_a_column_reserved_after_the_head_gave_up_comes_back() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(601) });
    rack.serve();
    rack.hold_msg = Some(|msg, _, to| to == SLED && matches!(msg, Msg::ColumnReserve { .. }));
    rack.workload(200, 512, 8);
    rack.flush_all();
    // The device has been listed since, and shows nothing.
    rack.run_for(Duration::from_millis(500));
    assert_eq!(used(&mut rack), 0);
    assert!(rack.let_go() > 0);
    rack.run_for(Duration::from_millis(50));
    settle(&mut rack);
    rack.verify();
}

#[test]
fn an_extent_that_could_not_be_read_is_forgotten_once_it_is_released() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(602) });
    rack.serve();
    rack.write_in_order(256);
    // Five of six, so at least three data columns.
    assert!((2..7).map(|at| rack.rot(at, 1)).sum::<usize>() > 0);
    let verb = ClientVerb::Read { offset: 0, len: BLOCK as u32 };
    let tag = rack.submit(verb);
    assert!(matches!(rack.wait(tag), Err(ClientError::Unreadable)));
    assert!(rack.status().lost > 0);
    // Written anew, nothing refers to the old extents any more.
    rack.write_in_order(256);
    rack.run_until("the dead extents go", |rack| rack.status().lost == 0);
    assert!(rack.counters().extents_released > 0);
    rack.run_for(Duration::from_secs(2));
    assert_eq!((rack.status().lost, rack.status().degraded), (0, 0));
    rack.verify();
}

/// Each of the four data columns rots in a stripe of its own, so that more than m columns are marked; each stripe
/// has lost one unit. All this is read before the extent is written anew.
#[test]
fn op27_columns_marked_rotten_are_read_when_nothing_else_is_left() {
    let mut shape = Shape { hot_bytes: 0, columns: 1, ..Shape::new(603) };
    shape.flush.reserve_columns = 0;
    let mut rack = Rack::new(shape);
    rack.serve();
    rack.write_in_order(256);
    assert_eq!(rack.status().extents, 2, "a full one, and the next one");
    let hurt: Vec<usize> =
        (0..6).filter(|sled| rack.rot_blocks(2 + sled, sled * 16..sled * 16 + 16) > 0).collect();
    assert_eq!(hurt.len(), 4, "a data column each");
    for _ in 0..2 {
        for first in (0..256 * 8).step_by(128) {
            rack.read(first, 128);
        }
    }
    assert_eq!(rack.counters().corrupt, 4, "each column is marked");
    assert_eq!(rack.counters().collected_bytes, 0, "and nothing is written anew yet");
    assert!(!rack.events.iter().any(|event| matches!(event, Event::DataLost { .. })));
    // One marked column alone still gives what it holds, and no more.
    let last = hurt[3];
    (0..6).filter(|sled| *sled != last).for_each(|sled| rack.crash(2 + sled));
    let mut good = 0;
    for lba in 128..144 {
        let verb = ClientVerb::Read { offset: (lba * BLOCK) as u64, len: BLOCK as u32 };
        let tag = rack.submit(verb);
        match rack.wait(tag) {
            Err(ClientError::Unreadable) => {}
            found => {
                rack.check(lba * 8, found);
                good += 1;
            }
        }
    }
    assert_eq!(good, 4, "its unit of the stripe");
}

#[test]
fn p11_commands_of_a_lost_connection_that_have_no_number_are_never_carried_out() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(604) });
    rack.serve();
    rack.write_in_order(64);
    // Before the log is read, and while the head waits for its number.
    for recovered in [false, true] {
        rack.restart(0);
        if recovered {
            rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        }
        let gone: Vec<u64> = (0..8).map(|at| rack.write(at * 8, 8)).collect();
        let kept = rack.write(100, 8);
        assert_eq!(rack.abort(&gone), 8);
        for tag in gone {
            assert!(matches!(rack.wait(tag), Err(ClientError::NotServed)), "its tag is free again");
        }
        rack.serve();
        rack.wait_all(&[kept]);
        rack.verify();
    }
    // Writes below a block whose old bytes are still on their way.
    rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnRead { .. }));
    let gone = [rack.write(3, 2), rack.write(17, 5)];
    rack.run_for(Duration::from_millis(5));
    assert_eq!(rack.abort(&gone), 2);
    assert!(rack.let_go() > 0);
    for tag in gone {
        assert!(matches!(rack.wait(tag), Err(ClientError::NotServed)));
    }
    rack.verify();
    assert!(rack.head(0).idle(), "nothing is left open");
}

/// A device that was given up is no longer served, so nothing says that its columns are lost.
#[test]
fn extents_on_a_device_that_was_given_up_count_as_degraded_until_they_are_rewritten() {
    let mut rack = Rack::new(Shape { hot_bytes: 0, sleds: 7, ..Shape::new(605) });
    rack.serve();
    rack.workload(200, 512, 8);
    rack.flush_all();
    assert_eq!(rack.status().degraded, 0);
    let devices = rack.partition().devices;
    let now = rack.now;
    rack.head(0).set_devices(now, VOLUME, devices[2..].to_vec());
    assert!(rack.status().degraded > 0, "columns of two devices are gone, and five are too few to rewrite");
    rack.run_for(Duration::from_secs(2));
    assert!(rack.status().degraded > 0);
    let now = rack.now;
    rack.head(0).set_devices(now, VOLUME, devices[1..].to_vec());
    rack.run_until("all extents are rewritten", |rack| rack.status().degraded == 0);
    (0..3).for_each(|sled| rack.crash(2 + sled));
    rack.verify();
}

/// One partition waits for its secondary with a few writes that nothing can commit; the other goes on, many times
/// around the log. Then the head crashes, too, and still has the writes.
#[test]
fn p31_writes_that_wait_for_a_secondary_do_not_hold_up_the_log_of_other_partitions() {
    for seed in 610..614 {
        let mut shape = Shape { blocks: 1024, log_segments: 24, ..Shape::new(seed) };
        shape.flush.fill_low = 20;
        shape.columns = 48;
        let mut rack = Rack::new(shape);
        rack.serve();
        rack.workload(50, 256, 8);
        rack.serve_alone(0);
        rack.crash(1);
        let first = rack.rand(64) as usize;
        let waiting: Vec<u64> = (0..6).map(|at| rack.write((first + 20 * at) * 8, 8 + 8 * at)).collect();
        let trim = rack.trim(2000, 64);
        rack.run_for(Duration::from_millis(20));
        let laps = if seed % 2 == 0 { 5 } else { 9 };
        let log = 24 * (512 << 10) / (64 << 10);
        for at in 0..laps * log {
            let tag = rack.write_alone(0, at % 64 * 16, seed + at);
            rack.wait_all(&[tag]);
        }
        assert!(waiting.iter().all(|tag| !rack.done.contains_key(tag)), "they wait still");
        if seed < 612 {
            rack.crash(0);
            rack.start(0, false);
        }
        rack.start(1, false);
        rack.serve();
        // What the primary's log held is committed now, whether or not somebody was left to be told.
        for at in 0..6 {
            let sectors = (first + 20 * at) * 8..(first + 20 * at) * 8 + 8 + 8 * at;
            for held in &mut rack.model[sectors] {
                held.drain(..held.len() - 1);
            }
        }
        rack.model[2000..2064].fill(vec![0]);
        rack.verify();
        if seed >= 612 {
            rack.wait_all(&waiting);
            rack.wait_all(&[trim]);
        }
        assert_eq!(rack.counters().corrupt, 0);
    }
}

/// Heads crash at any moment while they move what waits: a primary without its secondary, or a secondary
/// without its primary, which holds writes that nobody has acknowledged. Then both are there again.
#[test]
fn p31_a_head_that_crashes_while_it_moves_what_waits_still_has_it() {
    for seed in 620..630 {
        let mut shape = Shape { blocks: 1024, log_segments: 24, ..Shape::new(seed) };
        shape.flush.fill_low = 20;
        shape.columns = 64;
        let mut rack = Rack::new(shape);
        rack.serve();
        rack.workload(50, 256, 8);
        let (alive, away) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        if away == 1 {
            rack.crash(1);
        }
        let first = rack.rand(64) as usize;
        let writes: Vec<u64> =
            (0..12).map(|at| rack.write((first + 20 * at) * 8, 8 + 8 * (at % 6))).collect();
        // A secondary has got all, some or none of them when its primary dies.
        let span = if away == 1 { 20_000 } else { rack.rand(120) };
        rack.run_for(Duration::from_micros(span));
        if away == 0 {
            rack.crash(0);
        }
        for life in 0..4 {
            rack.serve_alone(alive);
            let span = 100 + rack.rand(60);
            for at in 0..span {
                let tag = rack.write_alone(alive, at % 64 * 16, seed + at + life);
                rack.wait_all(&[tag]);
            }
            rack.write_alone(alive, 0, seed);
            let span = rack.rand(3000);
            rack.run_for(Duration::from_micros(span));
            rack.crash(alive);
            rack.start(alive, false);
            rack.run_for(Duration::from_millis(50));
        }
        rack.start(away, false);
        rack.serve();
        if away == 1 {
            // What the primary's log held is committed now.
            for at in 0..writes.len() {
                let sectors = (first + 20 * at) * 8..(first + 20 * at) * 8 + 8 + 8 * (at % 6);
                for held in &mut rack.model[sectors] {
                    held.drain(..held.len() - 1);
                }
            }
        }
        rack.verify();
        rack.workload(50, 256, 8);
        rack.restart_heads();
        rack.serve();
        rack.verify();
        assert_eq!(rack.counters().corrupt, 0);
    }
}
