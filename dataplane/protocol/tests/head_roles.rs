//! Roles that move while both heads live: flips, take-overs, a group of one and the way back, a primary that
//! was superseded in its sleep (EF-17, EF-19, OP-10, MA-09, MA-15, MA-16, P-13, P-22, P-24, P-30).

mod head_support;

use head_support::{Rack, Shape, VOLUME};
use palisade_protocol::head::{RoleState, Solo};
use palisade_protocol::wire::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.flush.fill_low) = (512, 5);
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// Role of the volume on a head.
fn role(rack: &mut Rack, at: usize) -> RoleState {
    rack.head(at).status().partitions[0].role
}

fn demoted(rack: &Rack) -> usize {
    rack.events.iter().filter(|event| matches!(event, Event::Demoted { .. })).count()
}

/// Starts writes over `blocks` blocks and lets `micros` pass.
fn begin(rack: &mut Rack, count: usize, micros: u64) -> Vec<u64> {
    let tags = (0..count).map(|at| rack.write(at * 8, 8)).collect();
    rack.run_for(Duration::from_micros(micros));
    tags
}

/// Every command is answered; says how many were refused.
fn refused(rack: &mut Rack, tags: &[u64]) -> usize {
    let answers: Vec<_> = tags.iter().map(|&tag| rack.wait(tag)).collect();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(ClientError::NotServed))).count();
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), refused, "no other error");
    refused
}

#[test]
fn ma16_a_flip_under_load_loses_nothing_and_answers_every_client() {
    let mut not_served = 0;
    for seed in 0..4 {
        let mut rack = rack(seed, |_| {});
        rack.workload(60, 200, 8);
        for round in 0..4 {
            let heads = if round % 2 == 0 { [1, 0] } else { [0, 1] };
            let tags = begin(&mut rack, 40, 30 + 60 * seed);
            rack.move_to(&heads);
            not_served += refused(&mut rack, &tags);
            rack.verify();
            rack.workload(30, 200, 8);
            rack.run_for(Duration::from_millis(5));
            assert_eq!(role(&mut rack, heads[0]), RoleState::Serving);
            assert_eq!(role(&mut rack, heads[1]), RoleState::Following);
        }
        rack.flush_all();
        rack.verify();
        assert!(demoted(&rack) >= 4, "seed {seed}: the old primary steps down each time");
    }
    assert!(not_served > 0, "some clients were in the middle of it");
}

#[test]
fn p24_the_extent_that_the_old_primary_filled_is_sealed_by_the_new_one() {
    let mut rack = rack(3, |shape| shape.flush.fill_low = 0);
    rack.workload(80, 300, 8);
    rack.flush_all();
    let before = rack.status().extents;
    assert!(before > 0);
    rack.move_to(&[1, 0]);
    rack.workload(80, 300, 8);
    rack.flush_all();
    let number = rack.status().stamp.number;
    rack.verify();
    assert_eq!(number.counter, 2);
    let counters = rack.counters();
    assert!(counters.extents_created > 0 && counters.flushes > 0, "it writes to extents of its own");
    rack.move_to(&[0, 1]);
    rack.verify();
}

#[test]
fn ef19_a_take_over_alone_serves_reads_and_writes_wait_for_a_second_member() {
    for seed in 0..6 {
        let mut rack = rack(seed, |_| {});
        rack.workload(60, 200, 8);
        begin(&mut rack, 40, 40 + 30 * seed);
        rack.crash(0);
        rack.move_to(&[1]);
        rack.verify();
        let write = rack.write(0, 8);
        rack.run_for(Duration::from_secs(2));
        let status = rack.status();
        assert!(status.alone && status.waiting == 1 && !rack.done.contains_key(&write), "P-30: {status:?}");
        assert!(status.why.contains("alone"), "{}", status.why);
        rack.start(0, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[1, 0]);
        rack.wait_all(&[write]);
        rack.workload(40, 200, 8);
        rack.verify();
        rack.move_to(&[0, 1]);
        rack.verify();
    }
}

#[test]
fn p30_a_primary_that_is_left_alone_answers_for_what_only_it_holds_when_another_holds_it_too() {
    for seed in 5..9 {
        let mut rack = rack(seed, |_| {});
        rack.workload(30, 200, 8);
        rack.crash(1);
        let mut tags = begin(&mut rack, 10, 2_000);
        // Parts of blocks, of which some have to be read before they are numbered, and clears of many blocks.
        tags.extend((0..6).map(|at| rack.write(800 + at * 80 + 1, 1)));
        tags.push(rack.trim(640, 8 * 9 + 1));
        rack.run_for(Duration::from_micros(100 * seed));
        rack.move_to(&[0]);
        rack.run_for(Duration::from_secs(1));
        assert!(tags.iter().all(|tag| !rack.done.contains_key(tag)), "seed {seed}: one copy is not enough");
        let tail = rack.status().tail;
        rack.run_for(Duration::from_secs(1));
        assert_eq!(rack.status().tail, tail, "seed {seed}: nothing is numbered alone");
        rack.start(1, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[0, 1]);
        assert_eq!(refused(&mut rack, &tags), 0, "seed {seed}: no client hears of it");
        rack.move_to(&[1, 0]);
        rack.verify();
        rack.move_to(&[0, 1]);
        // What is withheld when the other one, which never had it, gets the role, is refused.
        rack.crash(1);
        let late = begin(&mut rack, 5, 2_000);
        rack.move_to(&[0]);
        rack.start(1, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[1, 0]);
        assert_eq!(refused(&mut rack, &late), 5, "seed {seed}: another head leads");
        rack.run_for(Duration::from_secs(1));
        rack.move_to(&[0, 1]);
    }
}

/// A primary numbers writes that never reach the secondary, dies, and the secondary goes on alone with other
/// writes of the same operation numbers; then the dead one returns, and gets the role back.
fn diverges(seed: u64, change: impl FnOnce(&mut Shape)) {
    let mut rack = rack(seed, |shape| {
        shape.solo = Solo::Local;
        change(shape);
    });
    rack.workload(30, 100, 4);
    rack.run_for(Duration::from_millis(20));
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Replicate { .. }));
    begin(&mut rack, 12, 3_000);
    rack.crash(0);
    rack.drop_msg = None;
    rack.move_to(&[1]);
    rack.verify();
    let tags: Vec<u64> = (0..20).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    rack.start(0, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[1, 0]);
    rack.verify();
    rack.move_to(&[0, 1]);
    rack.verify();
    rack.restart_heads();
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[0, 1]);
    rack.verify();
}

#[test]
fn p30_what_the_returning_head_numbered_apart_is_cut_before_it_is_refilled() {
    (0..6).for_each(|seed| diverges(seed, |_| {}));
}

/// A primary numbers writes that reach nobody and sleeps; the other serves without them, and then the sleeper
/// gets the role back before it has followed. Says whether a write shows that reads went without.
fn comes_to_life(seed: u64, keep: bool) -> bool {
    let mut rack = rack(seed, |shape| shape.faults.keep_divergence = keep);
    rack.workload(20, 50, 4);
    rack.run_for(Duration::from_millis(20));
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Replicate { .. }));
    let tags = begin(&mut rack, 6, 3_000);
    rack.nodes[0].cut = true;
    rack.drop_msg = None;
    rack.decide(&[1]);
    rack.tell(1);
    rack.run_until("service", |rack| rack.serving(2));
    let before = rack.head(1).status().partitions[0].tail;
    rack.nodes[0].cut = false;
    rack.decide(&[0, 1]);
    rack.assign();
    rack.run_until("service", |rack| rack.serving(3));
    let after = rack.head(0).status().partitions[0].committed;
    assert_eq!(tags.len(), 6);
    after.0 >= before.0 + 6
}

#[test]
fn ma20_what_a_head_numbered_apart_does_not_come_to_life_when_it_leads_again() {
    assert!((0..4).all(|seed| !comes_to_life(seed, false)));
    assert!((0..4).any(|seed| comes_to_life(seed, true)));
}

#[test]
fn p30_a_divergence_that_is_kept_is_seen() {
    let kept = |seed| diverges(seed, |shape| shape.faults.keep_divergence = true);
    assert!((0..6).any(|seed| catch_unwind(|| kept(seed)).is_err()));
}

#[test]
fn p30_a_volume_that_may_run_on_one_copy_is_written_alone_and_refills_its_second_head() {
    // What has left the log cannot fill another one.
    let mut rack = rack(8, |shape| (shape.solo, shape.flush.fill_low) = (Solo::Local, 60));
    rack.workload(40, 200, 8);
    rack.crash(0);
    rack.move_to(&[1]);
    rack.workload(60, 200, 8);
    rack.verify();
    rack.start(0, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[1, 0]);
    rack.workload(40, 200, 8);
    rack.crash(1);
    rack.move_to(&[0]);
    rack.verify();
}

#[test]
fn p30_a_second_head_that_needs_what_has_left_the_log_is_filled_before_the_volume_serves() {
    let mut rack = rack(8, |shape| shape.solo = Solo::Local);
    rack.workload(40, 200, 8);
    rack.crash(0);
    rack.move_to(&[1]);
    rack.workload(60, 200, 8);
    rack.flush_all();
    rack.workload(60, 200, 8);
    rack.flush_all();
    rack.verify();
    rack.start(0, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    // Nothing of a copy passes: the second head is named, and requests wait.
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Copy { .. }));
    rack.decide(&[1, 0]);
    rack.assign();
    rack.run_for(Duration::from_secs(2));
    let status = rack.head(1).status().partitions.remove(0);
    assert!(status.peer_away && status.role == RoleState::Reconciling, "{status:?}");
    assert_eq!(status.needs_copy, Some(rack.nodes[0].id));
    // The lone head still has everything.
    rack.primary = 1;
    rack.move_to(&[1]);
    rack.verify();
    rack.drop_msg = None;
    rack.move_to(&[1, 0]);
    rack.verify();
    rack.move_to(&[0, 1]);
    rack.verify();
}

/// The primary sleeps (nothing reaches it and nothing leaves it) while the other takes over; then it wakes
/// with its queue. Says how many of its clients were refused.
fn sleeps(seed: u64, change: impl FnOnce(&mut Shape)) -> usize {
    let mut rack = rack(seed, |shape| {
        shape.solo = Solo::Local;
        change(shape);
    });
    rack.workload(60, 200, 8);
    let mut tags = begin(&mut rack, 20, 60);
    rack.nodes[0].cut = true;
    tags.extend((0..10).map(|at| rack.write(400 + at * 8, 8)));
    let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
    rack.decide(&[1]);
    rack.tell(1);
    rack.run_until("service", |rack| rack.serving(2));
    rack.nodes[0].cut = false;
    tags.push(read);
    let refused = refused(&mut rack, &tags);
    assert_eq!(role(&mut rack, 0), RoleState::Stopped);
    assert!(demoted(&rack) > 0, "seed {seed}: it learns of the newer number by itself (P-22)");
    rack.primary = 1;
    rack.verify();
    rack.workload(30, 200, 8);
    rack.move_to(&[1, 0]);
    rack.verify();
    rack.move_to(&[0, 1]);
    rack.verify();
    refused
}

#[test]
fn ef17_a_primary_that_slept_through_a_take_over_refuses_what_it_held_and_follows() {
    assert!((0..6).map(|seed| sleeps(seed, |_| {})).sum::<usize>() > 0);
}

#[test]
fn p22_a_superseded_primary_that_answers_nobody_is_seen() {
    let mut rack = rack(4, |shape| shape.faults.serve_superseded = true);
    let tags = begin(&mut rack, 20, 40);
    rack.move_to(&[1, 0]);
    rack.run_for(Duration::from_secs(3));
    let answered = tags.iter().filter(|tag| rack.done.contains_key(tag)).count();
    let well = tags.iter().filter(|tag| matches!(rack.done.get(tag), Some(Ok(_)))).count();
    assert!(answered < 20 || well > 0, "clients wait for ever, or a follower answers them");
}

#[test]
fn p13_a_take_over_without_reconcile_is_seen() {
    let lost = |seed| {
        let mut rack = rack(seed, |shape| shape.faults.takeover_unreconciled = true);
        // What is committed is told with the next operation, which never comes.
        let tags = begin(&mut rack, 20, 0);
        rack.wait_all(&tags);
        rack.crash(0);
        rack.move_to(&[1]);
        rack.verify();
    };
    assert!((0..6).any(|seed| catch_unwind(|| lost(seed)).is_err()));
}

#[test]
fn p30_a_lone_head_that_acknowledges_unasked_is_seen() {
    for (unasked, answered) in [(false, false), (true, true)] {
        let mut rack = rack(6, |shape| shape.faults.solo_unasked = unasked);
        rack.crash(0);
        rack.move_to(&[1]);
        let write = rack.write(0, 8);
        rack.run_for(Duration::from_secs(1));
        assert_eq!(rack.done.contains_key(&write), answered);
    }
}

#[test]
fn solo_by_leave_a_primary_whose_secondary_is_away_acknowledges_nothing() {
    for (without, answered) in [(false, false), (true, true)] {
        let mut rack = rack(7, |shape| {
            shape.solo = Solo::Local;
            shape.faults.solo_without_leave = without;
        });
        rack.crash(1);
        let write = rack.write(0, 8);
        rack.run_for(Duration::from_secs(3));
        assert_eq!(rack.done.contains_key(&write), answered, "the authority has not given leave");
    }
}

#[test]
fn p01_an_older_assignment_that_comes_late_changes_nothing() {
    let mut rack = rack(9, |_| {});
    let old = rack.assigned.clone();
    rack.move_to(&[1, 0]);
    let newest = std::mem::replace(&mut rack.assigned, old);
    rack.assign();
    rack.run_for(Duration::from_millis(300));
    assert_eq!(role(&mut rack, 1), RoleState::Serving);
    assert_eq!(role(&mut rack, 0), RoleState::Following);
    rack.assigned = newest;
    rack.verify();
    assert_eq!(rack.status().partition, VOLUME);
}

#[test]
fn ma09_flips_and_deaths_in_any_order_keep_every_acknowledged_write() {
    for seed in 20..26 {
        let run = AssertUnwindSafe(|| {
            let mut rack = rack(seed, |_| {});
            let mut heads = [0, 1];
            for _ in 0..8 {
                rack.workload(20, 150, 8);
                let tags = begin(&mut rack, 30, 20 * (seed % 7));
                if rack.rand(2) == 0 {
                    heads.swap(0, 1);
                    rack.move_to(&heads);
                    refused(&mut rack, &tags);
                } else {
                    let [first, second] = heads;
                    rack.crash(first);
                    rack.move_to(&[second]);
                    rack.start(first, false);
                    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
                    heads = [second, first];
                    rack.move_to(&heads);
                }
                rack.verify();
            }
        });
        assert!(catch_unwind(run).is_ok(), "seed {seed}");
    }
}
