//! Heads that come back to a group that goes on without them: each is refilled as a guest, from its own log, while
//! clients are served, and joins when it has everything (MA-20, MA-21, P-30).

mod head_support;

use head_support::{Rack, Shape};
use palisade_protocol::head::{RoleState, Solo};
use palisade_protocol::wire::*;
use std::panic::catch_unwind;
use std::time::Duration;

fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    // What has left the log cannot fill another one.
    (shape.blocks, shape.flush.fill_low, shape.solo) = (1024, 60, Solo::Local);
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// The second head dies, the first one goes on alone with so many writes, and the second one is there again.
fn back(rack: &mut Rack, writes: usize) {
    rack.crash(1);
    rack.move_to(&[0]);
    rack.workload(writes, 800, 8);
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
}

/// Either head has everything.
fn serves(rack: &mut Rack) {
    rack.verify();
    rack.move_to(&[1, 0]);
    rack.verify();
    rack.crash(0);
    rack.move_to(&[1]);
    rack.verify();
    rack.workload(30, 800, 8);
    rack.verify();
}

#[test]
fn ma20_a_head_that_comes_back_is_refilled_as_a_guest_and_no_client_waits() {
    for seed in 0..6 {
        let mut rack = rack(seed, |_| {});
        rack.workload(60, 800, 8);
        back(&mut rack, 200);
        rack.take_back(0, 1);
        let (mut rounds, number) = (0, rack.newest());
        while rack.joining(0, 1).is_none() {
            rack.workload(10, 800, 8);
            let status = rack.status();
            assert_eq!(status.role, RoleState::Serving, "seed {seed}: {}", status.why);
            assert_eq!(status.stamp.number.counter, number);
            // Control says it again and again.
            rack.take_back(0, 1);
            rounds += 1;
            assert!(rounds < 400, "seed {seed}: {status:?}");
        }
        assert_eq!(rack.sent("copy"), 0, "seed {seed}: it has a log to follow from");
        assert_eq!(rack.counters().copies, 0);
        rack.join(0, 1);
        serves(&mut rack);
    }
}

#[test]
fn ma20_a_head_that_lacks_more_than_is_remembered_is_filled_while_clients_are_served() {
    let mut rack = rack(30, |_| {});
    rack.workload(40, 800, 8);
    back(&mut rack, 2600);
    rack.flush_all();
    rack.take_back(0, 1);
    let mut rounds = 0;
    while rack.joining(0, 1).is_none() {
        rack.workload(10, 800, 8);
        assert_eq!(rack.status().role, RoleState::Serving, "{}", rack.status().why);
        rack.take_back(0, 1);
        rounds += 1;
        assert!(rounds < 400, "{:?}", rack.status());
    }
    assert!(rack.counters().copies > 0, "from its log it cannot follow");
    rack.join(0, 1);
    serves(&mut rack);
}

/// The second head took operations that no pair committed, and the first one gave out their numbers again.
fn diverges(seed: u64, keep: bool) {
    let mut rack = rack(seed, |shape| shape.faults.keep_divergence = keep);
    rack.workload(30, 100, 4);
    rack.run_for(Duration::from_millis(20));
    rack.move_to(&[1, 0]);
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Replicate { .. }));
    (0..12).for_each(|at| {
        rack.write(at * 8, 8);
    });
    rack.run_for(Duration::from_millis(3));
    rack.crash(1);
    rack.drop_msg = None;
    rack.move_to(&[0]);
    rack.verify();
    let tags: Vec<u64> = (0..20).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.take_back(0, 1);
    rack.join(0, 1);
    rack.verify();
    rack.same_index();
    serves(&mut rack);
}

#[test]
fn p30_what_a_returning_guest_numbered_apart_is_cut_before_it_is_refilled() {
    (0..6).for_each(|seed| diverges(seed, false));
}

#[test]
fn p30_a_divergence_that_a_guest_keeps_is_seen() {
    assert!((0..6).any(|seed| catch_unwind(|| diverges(seed, true)).is_err()));
}

/// The first head numbered what nobody else took, the second one gave out the same operation numbers alone and got
/// nothing acknowledged, and the first one took over again, with all that its log holds.
fn both_numbered_alone(seed: u64, change: impl FnOnce(&mut Shape)) {
    let mut rack = rack(seed, |shape| {
        (shape.solo, shape.columns) = (Solo::Sleds, 60);
        change(shape);
    });
    rack.workload(30, 100, 4);
    rack.run_for(Duration::from_millis(20));
    let base = rack.newest();
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Replicate { .. }));
    (0..20).for_each(|at| {
        rack.write(at * 8, 8);
    });
    rack.run_for(Duration::from_millis(3));
    rack.crash(0);
    // No sled says that it has a copy: the second head acknowledges nothing.
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnWritten { .. }));
    rack.move_to(&[1]);
    (20..32).for_each(|at| {
        rack.write(at * 8, 8);
    });
    rack.run_for(Duration::from_millis(3));
    rack.drop_msg = None;
    rack.crash(1);
    rack.start(0, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.salvage_to(0, base);
    rack.verify();
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.take_back(0, 1);
    rack.join(0, 1);
    rack.verify();
    rack.same_index();
    serves(&mut rack);
}

#[test]
fn p30_logs_are_the_same_as_far_as_numbers_say_and_not_as_far_as_they_go() {
    (0..6).for_each(|seed| both_numbered_alone(seed, |_| {}));
}

#[test]
fn p30_logs_that_are_compared_by_their_ends_are_seen() {
    let by_end = |seed| both_numbered_alone(seed, |shape| shape.faults.compare_by_end = true);
    assert!((0..6).any(|seed| catch_unwind(|| by_end(seed)).is_err()));
}

#[test]
fn ma21_a_guest_that_dies_again_holds_up_nobody_and_comes_back_once_more() {
    for seed in 60..68 {
        let mut rack = rack(seed, |_| {});
        rack.workload(60, 800, 8);
        back(&mut rack, 200);
        rack.take_back(0, 1);
        rack.run_for(Duration::from_micros(100 + 120 * (seed - 60)));
        rack.crash(1);
        rack.decline(0);
        rack.workload(60, 800, 8);
        assert_eq!(rack.status().role, RoleState::Serving);
        rack.run_for(Duration::from_secs(2));
        rack.decline(0);
        rack.workload(60, 800, 8);
        rack.start(1, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.take_back(0, 1);
        rack.join(0, 1);
        assert_eq!(rack.counters().copies, 0, "seed {seed}: its log is what it was");
        serves(&mut rack);
    }
}

#[test]
fn ma20_a_primary_that_dies_with_a_guest_comes_back_and_takes_it_in() {
    for seed in 90..96 {
        let mut rack = rack(seed, |_| {});
        rack.workload(60, 800, 8);
        back(&mut rack, 200);
        rack.take_back(0, 1);
        rack.run_for(Duration::from_micros(100 + 150 * (seed - 90)));
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[0]);
        rack.verify();
        rack.take_back(0, 1);
        rack.join(0, 1);
        serves(&mut rack);
    }
}

#[test]
fn p30_a_lone_head_that_dies_while_it_refills_a_guest_is_salvaged_by_that_guest() {
    for seed in 100..106 {
        let mut rack = rack(seed, |shape| shape.solo = Solo::Sleds);
        rack.workload(60, 800, 8);
        let base = rack.newest();
        back(&mut rack, 120);
        rack.take_back(0, 1);
        rack.run_for(Duration::from_micros(100 + 150 * (seed - 100)));
        rack.decline(0);
        rack.crash(0);
        rack.salvage_to(1, base);
        rack.verify();
    }
}

#[test]
fn ma20_lost_messages_delay_a_guest_and_do_not_hurt_it() {
    fn unlucky(msg: &Msg) -> bool {
        matches!(msg, Msg::Announce { .. } | Msg::Compare { .. } | Msg::Common { .. } | Msg::Announced { .. })
    }
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    for seed in 120..124 {
        let mut rack = rack(seed, |_| {});
        rack.workload(60, 800, 8);
        back(&mut rack, 100);
        // About half of them, in no order that their repeats could follow.
        rack.drop_msg = Some(|msg, _, _| {
            let count = || SEEN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            unlucky(msg) && (count() >> 40).is_multiple_of(2)
        });
        rack.take_back(0, 1);
        rack.workload(60, 800, 8);
        rack.join(0, 1);
        rack.drop_msg = None;
        serves(&mut rack);
    }
}

/// It dies while it takes what a lone head acknowledged, and has to cut again when it asks once more: the other one had
/// let go of what it had sent.
#[test]
fn p30_a_new_primary_that_dies_while_it_is_filled_by_a_lone_head_is_filled_again() {
    let mut amid = 0;
    for step in 0..60 {
        let mut rack = rack(40, |_| {});
        rack.workload(20, 100, 4);
        rack.crash(1);
        rack.move_to(&[0]);
        rack.workload(60, 200, 8);
        rack.start(1, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.decide(&[1, 0]);
        rack.assign();
        rack.primary = 1;
        rack.run_for(Duration::from_micros(100 + 40 * step));
        amid += u64::from(rack.head(1).status().partitions[0].role == RoleState::Reconciling);
        rack.restart(1);
        rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[1].id));
        rack.move_to(&[1, 0]);
        rack.verify();
    }
    assert!(amid > 3, "it died amid that {amid} times");
}
