//! A lone head whose writes have copies on sleds: what it acknowledges and reads, where the copies lie and how long
//! (P-30, P-12, P-22, P-28). How another head takes over from them is `head_salvage`.

mod head_support;

use head_support::alone::{alone, begin, bring_back, lose_and_salvage, rack};
use head_support::{Rack, Shape};
use palisade_protocol::wire::*;
use std::panic::catch_unwind;
use std::time::Duration;

/// Columns in use on all sleds that run.
fn used(rack: &mut Rack) -> u32 {
    let sleds = rack.shape.sleds;
    (0..sleds)
        .map(|at| rack.sled(at).status().devices.remove(0))
        .map(|device| device.columns - device.free)
        .sum()
}

#[test]
fn p30_what_a_lone_head_acknowledged_with_copies_on_sleds_is_salvaged_when_its_disk_is_lost() {
    for seed in 0..6 {
        let mut rack = rack(seed, |_| {});
        rack.workload(40, 200, 8);
        // Some operations are on their way when the secondary dies.
        begin(&mut rack, 30, 20 + 30 * seed);
        alone(&mut rack);
        rack.workload(60, 300, 8);
        rack.verify();
        assert!(rack.counters().journal_units > 0, "copies were made");
        assert!(rack.status().alone && rack.status().why.contains("copies on sleds"));
        lose_and_salvage(&mut rack, 1);
        assert!(rack.counters().salvaged > 0);
        rack.verify();
        rack.workload(40, 300, 8);
        rack.verify();
    }
}

/// A lone head writes while nothing that it sends to the sleds but claims and reserves arrives. Says how many
/// writes it acknowledged meanwhile.
fn without_copies(change: impl FnOnce(&mut Shape)) -> usize {
    let mut rack = rack(3, change);
    rack.workload(20, 100, 4);
    alone(&mut rack);
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::ColumnWritten { .. }));
    let tags = begin(&mut rack, 10, 300_000);
    let acked = tags.iter().filter(|tag| rack.done.contains_key(tag)).count();
    rack.drop_msg = None;
    rack.wait_all(&tags);
    rack.verify();
    acked
}

#[test]
fn p30_a_lone_head_acknowledges_nothing_before_the_sleds_hold_its_copies() {
    assert_eq!(without_copies(|_| {}), 0);
}

#[test]
fn p30_a_lone_head_that_acknowledges_before_the_copies_is_seen() {
    assert!(without_copies(|shape| shape.faults.solo_before_copies = true) > 0);
}

#[test]
fn p30_without_the_leave_to_copy_a_lone_head_lets_writes_wait() {
    let mut rack = rack(4, |_| {});
    rack.workload(20, 100, 4);
    rack.crash(1);
    let mut assignment = rack.decide(&[0]);
    assignment.copies = false;
    rack.assigned = Some(assignment);
    rack.assign();
    rack.run_until("service", |rack| rack.serving(2));
    let write = rack.write(0, 8);
    rack.run_for(Duration::from_secs(1));
    assert!(!rack.done.contains_key(&write) && rack.status().waiting == 1, "what was granted counts");
    assert_eq!(rack.counters().journal_units, 0);
}

/// The lone head dies `micros` after it began to write; everything it acknowledged has to be there.
fn dies_after(seed: u64, micros: u64) {
    let mut rack = rack(seed, |_| {});
    rack.workload(10, 100, 4);
    begin(&mut rack, 10, 30);
    alone(&mut rack);
    begin(&mut rack, 40, micros);
    lose_and_salvage(&mut rack, 1);
    rack.verify();
    rack.workload(10, 100, 4);
    rack.verify();
}

#[test]
fn p30_a_lone_head_may_die_at_any_point() {
    for step in 0..40 {
        dies_after(step, 15 * step);
    }
}

#[test]
fn p30_a_sled_that_fails_while_a_head_is_alone_ends_a_chapter_and_nothing_else() {
    for seed in 0..4 {
        let mut rack = rack(seed, |_| {});
        rack.workload(10, 100, 4);
        alone(&mut rack);
        for at in 0..6 {
            rack.workload(10, 200, 8);
            let tags = begin(&mut rack, 8, 60);
            rack.crash(2 + at);
            rack.wait_all(&tags);
            rack.start(2 + at, false);
        }
        rack.verify();
        // Another one is dead for good.
        rack.crash(2);
        rack.workload(20, 200, 8);
        lose_and_salvage(&mut rack, 1);
        rack.verify();
    }
}

#[test]
fn p30_with_too_few_sleds_writes_wait_and_go_on_when_one_is_back() {
    let mut rack = rack(9, |_| {});
    rack.workload(10, 100, 4);
    (0..4).for_each(|at| rack.crash(2 + at));
    alone(&mut rack);
    let tags = begin(&mut rack, 4, 3_000_000);
    assert!(tags.iter().all(|tag| !rack.done.contains_key(tag)), "two sleds are no three copies");
    assert!(rack.status().why.contains("writes wait"), "{}", rack.status().why);
    rack.start(2, false);
    rack.wait_all(&tags);
    (1..4).for_each(|at| rack.start(2 + at, false));
    lose_and_salvage(&mut rack, 1);
    rack.verify();
}

/// A lone head sleeps, cut off from all, while the other one salvages and serves newer data; then it wakes with
/// reads and writes in its queue. Says how many of them it answered well.
fn sleeps(seed: u64, change: impl FnOnce(&mut Shape)) -> usize {
    let mut rack = rack(seed, change);
    rack.workload(20, 100, 4);
    alone(&mut rack);
    rack.workload(20, 100, 4);
    bring_back(&mut rack, 1);
    rack.nodes[0].cut = true;
    let mut tags: Vec<u64> = (0..6).map(|at| rack.write(at * 8, 8)).collect();
    rack.decide_salvage(1, 1);
    let number = rack.newest();
    rack.run_until("service", |rack| rack.serving(number));
    let newer: Vec<u64> = (0..20).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&newer);
    rack.primary = 0;
    tags.extend((0..6).map(|at| rack.submit(ClientVerb::Read { offset: at * 4096, len: 4096 })));
    rack.run_for(Duration::from_millis(2));
    rack.nodes[0].cut = false;
    let answers: Vec<_> = tags.iter().map(|&tag| rack.wait(tag)).collect();
    rack.primary = 1;
    rack.verify();
    rack.move_to(&[1, 0]);
    rack.verify();
    rack.workload(20, 100, 4);
    rack.move_to(&[0, 1]);
    rack.verify();
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[test]
fn p22_a_lone_head_that_slept_through_a_salvage_acknowledges_and_reads_nothing_more() {
    (0..4).for_each(|seed| assert_eq!(sleeps(seed, |_| {}), 0, "seed {seed}"));
}

#[test]
fn p12_reads_of_a_superseded_lone_head_are_seen_when_no_sled_vouches_for_them() {
    assert!(sleeps(1, |shape| shape.faults.solo_unvouched = true) > 0);
}

#[test]
fn p12_reads_of_a_lone_head_need_more_than_m_sleds_to_vouch() {
    let mut rack = rack(10, |_| {});
    rack.workload(20, 100, 4);
    alone(&mut rack);
    rack.workload(20, 100, 4);
    (0..4).for_each(|at| rack.crash(2 + at));
    let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
    rack.run_for(Duration::from_secs(3));
    assert!(!rack.done.contains_key(&read), "two of six cannot know");
    rack.start(2, false);
    let answer = rack.wait(read);
    rack.check(0, answer);
    assert!(rack.counters().vouches > 0);
}

/// The lone head restarts alone again and again, each time with writes on their way.
fn restarts_alone(seed: u64, rounds: u64, change: impl FnOnce(&mut Shape)) {
    let mut rack = rack(seed, change);
    rack.workload(20, 100, 4);
    alone(&mut rack);
    for round in 0..rounds {
        rack.workload(10, 150, 8);
        begin(&mut rack, 12, 20 + 40 * ((seed + round) % 5));
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[0].id));
        rack.move_to(&[0]);
        rack.verify();
    }
    lose_and_salvage(&mut rack, 1);
    rack.verify();
    rack.start(0, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[1, 0]);
    rack.verify();
}

#[test]
fn p30_a_lone_head_that_restarts_alone_goes_on_with_its_copies() {
    (0..8).for_each(|seed| restarts_alone(seed, 3, |_| {}));
}

#[test]
fn p30_journal_columns_that_are_given_back_while_one_head_is_alone_are_missed() {
    let lost = |seed| restarts_alone(seed, 2, |shape| shape.faults.journal_given_back = true);
    assert!((0..4).any(|seed| catch_unwind(|| lost(seed)).is_err()));
}

#[test]
fn p28_journal_columns_are_given_back_once_two_heads_serve_and_not_before() {
    let mut rack = rack(11, |_| {});
    rack.workload(20, 100, 4);
    rack.flush_all();
    rack.run_for(Duration::from_secs(1));
    let before = used(&mut rack);
    alone(&mut rack);
    rack.workload(60, 200, 8);
    let written = used(&mut rack);
    assert!(written >= before + 3, "three copies lie on sleds: {written} after {before}");
    rack.restart(0);
    rack.run_until("recovery", |rack| rack.recovered.contains(&rack.nodes[0].id));
    rack.move_to(&[0]);
    rack.run_for(Duration::from_secs(5));
    assert!(used(&mut rack) >= written, "alone still");
    bring_back(&mut rack, 1);
    rack.move_to(&[0, 1]);
    rack.verify();
    let limit = before + 6;
    rack.run_until("columns are given back", |rack| used(rack) <= limit);
    rack.crash(0);
    rack.move_to(&[1]);
    rack.verify();
}

#[test]
fn p30_largest_writes_and_clears_span_units_and_chapters() {
    for seed in 0..4 {
        let mut rack = rack(seed, |shape| (shape.unit_blocks, shape.stripes, shape.columns) = (2, 8, 200));
        rack.workload(10, 100, 4);
        alone(&mut rack);
        let mut tags: Vec<u64> = (0..6).map(|at| rack.write(at * 512, 512)).collect();
        tags.push(rack.trim(100, 900));
        tags.push(rack.write(3 * 512 + 8, 504));
        rack.wait_all(&tags);
        rack.verify();
        lose_and_salvage(&mut rack, 1);
        rack.verify();
    }
}

#[test]
fn p30_a_journal_of_many_times_the_log_is_taken_over_block_by_block() {
    let mut rack = rack(13, |shape| (shape.log_segments, shape.columns, shape.stripes) = (12, 100, 32));
    alone(&mut rack);
    for _ in 0..12 {
        let tags: Vec<u64> = (0..8).map(|at| rack.write(at * 512, 512)).collect();
        rack.wait_all(&tags);
    }
    rack.verify();
    lose_and_salvage(&mut rack, 1);
    assert!(rack.counters().salvaged >= 90, "{}", rack.counters().salvaged);
    rack.verify();
}
