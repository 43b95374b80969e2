//! The end of a log that rotted (P-06): what one member's log lost there comes from the other's, whichever
//! dies, because nothing tells a rotten last record from a torn one.

mod head_support;

use head_support::{Rack, Shape, VOLUME};
use palisade_protocol::wire::*;
use std::time::Duration;

/// A rack whose writes all lie in the logs, with `writes` of them in flight at the end.
fn written(seed: u64) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.hot_bytes, shape.flush.age) = (0, Duration::from_secs(3600));
    let mut rack = Rack::new(shape);
    rack.serve();
    for round in 0..4 {
        let tags: Vec<u64> = (0..24).map(|at| rack.write((round * 24 + at) * 16, 16)).collect();
        rack.wait_all(&tags);
    }
    rack
}

/// Kills `dead`, lets every block of client data in the log of `rotten` rot, and checks that all comes back.
fn comes_back(seed: u64, dead: &[usize], rotten: usize) {
    let mut rack = written(seed);
    for &at in dead {
        rack.crash(at);
    }
    assert!(rack.rot(rotten, 1) > 0);
    for &at in dead {
        rack.start(at, false);
    }
    rack.serve();
    rack.verify();
    // What came back is in both logs again: the other one may be the only one that is whole.
    rack.workload(40, 100, 4);
    rack.restart_heads();
    rack.serve();
    rack.verify();
}

/// Lets whole records of one head rot, both copies of their headers too, while later ones stay.
fn records_are_lost(seed: u64, rotten: usize) {
    let mut rack = written(seed);
    rack.crash(0);
    rack.crash(1);
    let bytes = &mut rack.nodes[rotten].disk.bytes;
    let held: Vec<usize> =
        bytes.chunks_exact(4096).enumerate().filter(|(_, b)| b[0] != 0).map(|(i, _)| i).collect();
    for block in &held[held.len() - 150..held.len() - 60] {
        bytes[block * 4096 + 9] ^= 4;
    }
    rack.start(0, false);
    rack.start(1, false);
    rack.serve();
    rack.verify();
    assert!(
        rack.events
            .iter()
            .any(|event| matches!(event, Event::Corrupt { what, .. } if what.contains("are lost")))
    );
    rack.workload(40, 100, 4);
    rack.restart(0);
    rack.restart(1);
    rack.serve();
    rack.verify();
}

#[test]
fn p06_records_that_one_log_lost_are_filled_from_the_other() {
    for seed in 50..53 {
        records_are_lost(seed, 0);
        records_are_lost(seed, 1);
    }
}

#[test]
fn p06_rot_at_the_end_of_the_primarys_log_is_filled_from_the_secondary() {
    for seed in 0..4 {
        comes_back(seed, &[0, 1], 0);
    }
}

#[test]
fn p06_rot_at_the_end_of_the_secondarys_log_is_filled_from_the_primary() {
    for seed in 10..14 {
        comes_back(seed, &[0, 1], 1);
    }
}

#[test]
fn p06_a_primary_that_lost_what_its_living_secondary_has_committed_is_filled() {
    for seed in 20..24 {
        comes_back(seed, &[0], 0);
    }
}

#[test]
fn p06_a_secondary_that_lost_what_its_living_primary_has_committed_is_filled() {
    for seed in 30..34 {
        comes_back(seed, &[1], 1);
    }
}

/// From its answer to a probe on a secondary is bound: it holds nothing more for an older number.
#[test]
fn p01_a_secondary_that_answered_a_probe_takes_nothing_under_an_older_number() {
    let mut rack = written(40);
    let old = rack.assigned.clone().expect("served");
    let number = Number { epoch: 1, counter: old.stamp.number.counter + 10 };
    let mut members = old.members.clone();
    // The primary's next boot, which would cut what its earlier one still sends.
    members[0].boot = BootId(0xfeed);
    let adopt = Adopt {
        partition: VOLUME,
        number,
        grant: GrantId(77),
        members: members.iter().copied().collect(),
        tail: Op(u64::MAX >> 1),
    };
    rack.deliver_to(1, members[0].head, members[0].boot, Msg::Probe { adopt, held: old.stamp });
    let tag = rack.write(0, 8);
    rack.run_for(Duration::from_secs(1));
    assert!(!rack.done.contains_key(&tag), "the write of the older number is not acknowledged");
}

/// The newest records rot at one member whose checkpoint covers them: no torn write, and all comes back from
/// the other one, also when both start again before the next checkpoint.
fn covered_records_rot(seed: u64, rotten: usize) {
    let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(seed) });
    rack.serve();
    let before = rack.counters().checkpoints;
    let mut at = 0;
    while rack.counters().checkpoints == before || at % 24 != 0 {
        let tag = rack.write(at % 96 * 16, 16);
        rack.wait_all(&[tag]);
        at += 1;
        assert!(at < 4000, "a checkpoint comes");
    }
    rack.crash(0);
    rack.crash(1);
    let bytes = &mut rack.nodes[rotten].disk.bytes;
    let held: Vec<usize> =
        bytes.chunks_exact(4096).enumerate().filter(|(_, b)| b[0] != 0).map(|(i, _)| i).collect();
    for block in &held[held.len() - 90..] {
        bytes[block * 4096 + 9] ^= 4;
    }
    for _ in 0..2 {
        rack.start(0, false);
        rack.start(1, false);
        rack.serve();
        rack.verify();
        rack.crash(0);
        rack.crash(1);
    }
}

#[test]
fn p06_records_that_rotted_behind_a_checkpoint_come_back_from_the_other_log() {
    for seed in 70..76 {
        covered_records_rot(seed, 0);
        covered_records_rot(seed, 1);
    }
}

/// A secondary whose disk was put back to an old image lacks operations whose places in the primary's log
/// were given back. The primary says that it needs a whole copy, and goes on.
#[test]
fn p06_operations_whose_log_was_given_back_are_not_read_from_it() {
    for seed in 80..84 {
        let mut rack = Rack::new(Shape { hot_bytes: 0, ..Shape::new(seed) });
        rack.serve();
        rack.workload(20, 100, 4);
        let image = rack.nodes[1].disk.bytes.clone();
        // Few operations, so that the primary still knows them all, of more bytes than its log holds.
        for _ in 0..24 {
            let tags: Vec<u64> = (0..16).map(|at| rack.write(at * 64, 64)).collect();
            rack.wait_all(&tags);
            rack.flush_all();
        }
        rack.crash(1);
        rack.nodes[1].disk.bytes = image;
        rack.start(1, false);
        rack.grant();
        rack.run_for(Duration::from_secs(2));
        assert!(rack.events.iter().any(|event| matches!(event, Event::PeerAway { .. })), "{:?}", rack.events);
    }
}
