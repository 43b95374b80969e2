//! Another head takes over from the copies of a lone one: whatever is lost, rotten, torn, older or still living
//! (P-30, P-01, MA-20, OP-01, OP-12).

mod head_support;

use head_support::alone::{alone, begin, bring_back, lose_and_salvage, rack};
use head_support::{Rack, Shape};
use palisade_protocol::head::RoleState;
use palisade_protocol::wire::*;
use std::panic::catch_unwind;
use std::time::Duration;

fn role(rack: &mut Rack, at: usize) -> RoleState {
    rack.head(at).status().partitions[0].role
}

/// Two sleds are gone for good when the other head salvages.
fn two_sleds_lost(seed: u64, gone: [usize; 2], change: impl FnOnce(&mut Shape)) {
    let mut rack = rack(seed, change);
    rack.workload(10, 100, 4);
    alone(&mut rack);
    rack.workload(20, 100, 4);
    bring_back(&mut rack, 1);
    rack.crash(0);
    gone.iter().for_each(|at| rack.crash(2 + at));
    rack.salvage_to(1, 1);
    rack.verify();
}

fn pairs() -> impl Iterator<Item = [usize; 2]> {
    (0..6).flat_map(|first| (first + 1..6).map(move |second| [first, second]))
}

#[test]
fn op12_any_m_sleds_may_be_lost_with_the_lone_head() {
    pairs().for_each(|gone| two_sleds_lost(5, gone, |_| {}));
}

#[test]
fn p30_one_copy_fewer_than_is_needed_is_seen() {
    let lost = |gone| two_sleds_lost(5, gone, |shape| shape.faults.solo_m_copies = true);
    assert!(pairs().any(|gone| catch_unwind(|| lost(gone)).is_err()));
}

#[test]
fn p30_rotten_copies_are_passed_over_while_one_is_whole() {
    for whole in 0..6 {
        let mut rack = rack(6, |_| {});
        rack.workload(10, 100, 4);
        alone(&mut rack);
        rack.workload(40, 200, 8);
        bring_back(&mut rack, 1);
        rack.crash(0);
        // Two copies of each chapter at most: whichever sleds have them, one stays whole.
        let hurt: usize = [whole, (whole + 1) % 6].into_iter().map(|at| rack.rot(2 + at, 1)).sum();
        rack.salvage_to(1, 1);
        rack.verify();
        assert!(hurt > 0);
    }
}

#[test]
fn p30_a_hole_in_what_was_acknowledged_stops_the_head_and_old_data_is_never_served() {
    let mut rack = rack(7, |_| {});
    rack.workload(10, 100, 4);
    alone(&mut rack);
    rack.workload(30, 200, 8);
    bring_back(&mut rack, 1);
    rack.crash(0);
    let hurt: usize = (0..6).map(|at| rack.rot(2 + at, 1)).sum();
    rack.decide_salvage(1, 1);
    rack.run_for(Duration::from_secs(5));
    assert!(hurt > 0 && !rack.serving(rack.newest()));
    assert_eq!(role(&mut rack, 1), RoleState::Stopped);
    let told = |event: &Event| matches!(event, Event::Corrupt { place: "journal", what } if what.contains("incomplete"));
    assert!(rack.events.iter().any(told), "{:?}", rack.events.last());
    let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
    assert!(matches!(rack.wait(read), Err(ClientError::NotServed)));
}

#[test]
fn op12_with_more_than_m_sleds_away_a_salvage_waits_for_them() {
    let mut rack = rack(8, |_| {});
    rack.workload(10, 100, 4);
    alone(&mut rack);
    rack.workload(30, 200, 8);
    bring_back(&mut rack, 1);
    rack.crash(0);
    (0..3).for_each(|at| rack.crash(2 + at));
    rack.decide_salvage(1, 1);
    rack.run_for(Duration::from_secs(5));
    assert!(!rack.serving(rack.newest()));
    assert!(rack.status().why.contains("takes over from sleds"), "{}", rack.status().why);
    rack.start(2, false);
    let number = rack.newest();
    rack.run_until("service", |rack| rack.serving(number));
    rack.verify();
}

/// Copies of what the lone head's own log never got: after its restart those operation numbers name other writes.
fn torn(seed: u64, change: impl FnOnce(&mut Shape)) {
    let mut rack = rack(seed, change);
    rack.workload(20, 100, 4);
    alone(&mut rack);
    rack.workload(10, 100, 4);
    rack.nodes[0].stall = true;
    begin(&mut rack, 12, 20_000);
    rack.nodes[0].stall = false;
    rack.restart(0);
    rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[0].id));
    rack.move_to(&[0]);
    rack.verify();
    let tags: Vec<u64> = (0..12).rev().map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    lose_and_salvage(&mut rack, 1);
    rack.verify();
}

#[test]
fn p01_copies_of_an_older_number_are_void_where_a_newer_one_begins() {
    (0..4).for_each(|seed| torn(seed, |_| {}));
}

#[test]
fn p01_a_salvage_that_trusts_older_numbers_is_seen() {
    let trusts = |seed| torn(seed, |shape| shape.faults.salvage_trusts_older = true);
    assert!((0..4).any(|seed| catch_unwind(|| trusts(seed)).is_err()));
}

/// The old head lives on, cut off from the other one only, and goes on writing while that one salvages.
fn lives_on(seed: u64, change: impl FnOnce(&mut Shape)) {
    let mut rack = rack(seed, change);
    rack.workload(20, 100, 4);
    alone(&mut rack);
    rack.workload(20, 100, 4);
    bring_back(&mut rack, 1);
    rack.drop_msg = Some(|_, from, to| from.0 + to.0 == 3);
    rack.decide_salvage(1, 1);
    rack.primary = 0;
    let number = rack.newest();
    let mut at = 0;
    let mut tags = Vec::new();
    while !rack.serving(number) {
        if tags.len() < 400 {
            tags.push(rack.write(at % 64 * 8, 8));
            at += 1;
        }
        rack.run_for(Duration::from_micros(40));
    }
    rack.run_for(Duration::from_secs(1));
    rack.primary = 1;
    rack.verify();
}

#[test]
fn op01_what_the_old_head_writes_during_a_salvage_is_taken_over_or_refused() {
    (0..6).for_each(|seed| lives_on(seed, |_| {}));
}

#[test]
fn op01_a_salvage_without_claims_is_seen() {
    let unclaimed = |seed| lives_on(seed, |shape| shape.faults.salvage_unclaimed = true);
    assert!((0..6).any(|seed| catch_unwind(|| unclaimed(seed)).is_err()));
}

#[test]
fn p30_a_salvage_that_dies_half_way_begins_anew_and_ends() {
    for seed in 0..8 {
        let mut rack = rack(seed, |_| {});
        rack.workload(20, 100, 4);
        alone(&mut rack);
        rack.workload(60, 200, 8);
        bring_back(&mut rack, 1);
        rack.crash(0);
        for round in 0..3 {
            rack.decide_salvage(1, 1);
            rack.run_for(Duration::from_micros(500 + 900 * (seed + round)));
            rack.restart(1);
            rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[1].id));
        }
        rack.salvage_to(1, 1);
        rack.verify();
    }
}

#[test]
fn ma20_a_head_that_was_being_refilled_when_the_lone_one_died_salvages_the_rest() {
    for seed in 0..6 {
        let mut rack = rack(seed, |_| {});
        rack.workload(20, 100, 4);
        alone(&mut rack);
        rack.workload(60, 200, 8);
        bring_back(&mut rack, 1);
        rack.decide(&[0, 1]);
        rack.assign();
        rack.run_for(Duration::from_micros(60 + 150 * seed));
        rack.crash(0);
        // It may hold the new pair durably, and lacks what was acknowledged before it.
        rack.restart(1);
        rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[1].id));
        rack.salvage_to(1, 1);
        rack.verify();
    }
}

#[test]
fn ma20_the_lone_head_comes_back_after_a_salvage_and_its_divergence_is_discarded() {
    for seed in 0..6 {
        let mut rack = rack(seed, |_| {});
        rack.workload(20, 100, 4);
        alone(&mut rack);
        rack.workload(20, 100, 4);
        // Numbered and logged, on too few sleds.
        rack.drop_msg = Some(|msg, _, to| matches!(msg, Msg::ColumnWrite { .. }) && to.0 % 2 == 0);
        begin(&mut rack, 12, 5_000);
        bring_back(&mut rack, 1);
        rack.crash(0);
        rack.drop_msg = None;
        rack.salvage_to(1, 1);
        rack.verify();
        rack.workload(30, 100, 4);
        rack.start(0, false);
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        rack.move_to(&[1, 0]);
        rack.verify();
        rack.move_to(&[0, 1]);
        rack.verify();
    }
}

#[test]
fn ef11_every_geometry_salvages_with_m_sleds_lost() {
    for (k, m, sleds) in [(2, 1, 3), (4, 2, 6), (8, 3, 11)] {
        let mut rack = rack(12, |shape| (shape.k, shape.m, shape.sleds) = (k, m, sleds));
        rack.workload(20, 100, 4);
        alone(&mut rack);
        rack.workload(40, 200, 8);
        bring_back(&mut rack, 1);
        rack.crash(0);
        (0..usize::from(m)).for_each(|at| rack.crash(2 + at));
        rack.salvage_to(1, 1);
        rack.verify();
    }
}

#[test]
fn p01_what_both_heads_acknowledged_after_the_solo_run_outlives_copies_of_older_numbers() {
    for seed in 0..8 {
        let mut rack = rack(seed, |_| {});
        rack.workload(20, 100, 4);
        alone(&mut rack);
        rack.workload(10, 100, 4);
        // Copies of what its own log never gets.
        rack.nodes[0].stall = true;
        begin(&mut rack, 12, 20_000);
        rack.nodes[0].stall = false;
        rack.crash(0);
        (0..2).for_each(|at| rack.start(at, false));
        rack.run_until("recovery", |rack| rack.recovered.len() == 2);
        // Nothing is given back before the primary dies, and its secondary does not hear what is committed.
        rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnRelease { .. }));
        rack.move_to(&[0, 1]);
        rack.drop_msg = Some(|msg, _, _| {
            let watermark = matches!(msg, Msg::Replicate { entries, .. } if entries.is_empty());
            watermark || matches!(msg, Msg::ColumnRelease { .. })
        });
        let tags: Vec<u64> = (0..12).rev().map(|at| rack.write(at * 8, 8)).collect();
        rack.wait_all(&tags);
        rack.crash(0);
        rack.drop_msg = None;
        rack.salvage_to(1, 1);
        rack.verify();
    }
}

/// Copies that nobody needs any more may be given back, or rot, in any order: they are not read at all.
#[test]
fn p30_copies_of_numbers_older_than_the_end_of_the_own_log_are_not_read() {
    for seed in 0..4 {
        let mut rack = rack(seed, |_| {});
        rack.workload(20, 100, 4);
        alone(&mut rack);
        rack.workload(30, 200, 8);
        bring_back(&mut rack, 1);
        rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnRelease { .. }));
        rack.move_to(&[0, 1]);
        let tags: Vec<u64> = (0..12).map(|at| rack.write(at * 8, 8)).collect();
        rack.wait_all(&tags);
        rack.crash(0);
        rack.drop_msg = None;
        let hurt: usize = (0..6).map(|at| rack.rot(2 + at, 1)).sum();
        rack.salvage_to(1, 1);
        rack.verify();
        assert!(hurt > 0, "seed {seed}: there was something to fall over");
    }
}
