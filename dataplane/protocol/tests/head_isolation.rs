//! Members that all isolate (BA-02): one of them goes on alone, the right one, and only then.

mod head_support;

use head_support::{Rack, Shape, VOLUME};
use palisade_protocol::head::{FailoverConfig, RoleState, Solo};
use palisade_protocol::wire::*;
use std::time::Duration;

/// A head that is no member at first, in racks with one reserve.
const THIRD: usize = 8;

fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.failover, shape.solo) = (512, Some(FailoverConfig::default()), Solo::Local);
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

fn isolate(rack: &mut Rack, at: usize, severity: Severity) {
    rack.head(at).set_isolating(Some(severity));
}

/// Wishes to be alone because everybody isolates.
fn wishes(rack: &Rack, at: usize) -> Vec<Proposal> {
    rack.proposals(at).into_iter().filter(|wish| wish.why == Why::Isolation).collect()
}

fn isolates(rack: &mut Rack, at: usize) -> bool {
    rack.head(at).status().partitions[0].isolating
}

fn grant(rack: &mut Rack, at: usize, wish: &Proposal) {
    let granted = rack.decide(&[at]);
    assert_eq!(granted.members, wish.members.to_vec());
    rack.outcome(at, wish.nonce, ProposalOutcome::Granted(granted));
}

#[test]
fn ba02_both_isolate_under_load_and_the_better_one_goes_on_alone_under_the_next_number() {
    for seed in 0..4 {
        let mut rack = rack(seed, |_| {});
        rack.workload(30, 100, 4);
        let before = rack.assigned.clone().expect("granted").stamp;
        isolate(&mut rack, 0, Severity::Errors);
        rack.run_for(Duration::from_millis(100));
        isolate(&mut rack, 1, Severity::Warning);
        let write = rack.write(0, 8);
        rack.run_until("a wish", |rack| !wishes(rack, 1).is_empty());
        let wish = wishes(&rack, 1).remove(0);
        assert_eq!((wish.expected, wish.members.len(), wish.caught_up), (before, 1, false));
        assert!(wishes(&rack, 0).is_empty(), "the worse one wishes nothing");
        assert!(rack.wait(write).is_ok(), "the pair serves until the grant");
        assert!(isolates(&mut rack, 1), "not undone before the grant");
        rack.primary = 1;
        grant(&mut rack, 1, &wish);
        rack.run_until("service", |rack| rack.serving(2));
        assert!(!isolates(&mut rack, 1), "undone for the volume");
        rack.workload(20, 100, 4);
        rack.verify();
        // A healthy peer takes over (here the other one, which is well again), and nothing is missing.
        rack.head(0).set_isolating(None);
        rack.move_to(&[1, 0]);
        rack.move_to(&[0, 1]);
        rack.verify();
        assert_eq!(
            wishes(&rack, 0).len() + wishes(&rack, 1).iter().filter(|other| **other != wish).count(),
            0
        );
    }
}

#[test]
fn ba02_of_equal_scores_there_is_one_winner() {
    let mut rack = rack(11, |_| {});
    rack.workload(10, 100, 4);
    isolate(&mut rack, 1, Severity::Planned);
    isolate(&mut rack, 0, Severity::Planned);
    rack.run_until("a wish", |rack| !wishes(rack, 0).is_empty());
    rack.run_for(Duration::from_secs(2));
    assert!(wishes(&rack, 1).is_empty(), "the lower node id wins");
    let wish = wishes(&rack, 0).remove(0);
    assert!(wishes(&rack, 0).iter().all(|other| *other == wish), "repeated word for word (P-02)");
    grant(&mut rack, 0, &wish);
    rack.run_until("service", |rack| rack.serving(2));
    rack.verify();
}

#[test]
fn ba02_one_that_is_well_leaves_it_to_the_normal_path() {
    let mut rack = rack(12, |_| {});
    isolate(&mut rack, 0, Severity::Errors);
    rack.run_for(Duration::from_secs(2));
    isolate(&mut rack, 1, Severity::Errors);
    // Well again before it is asked: the answer says so.
    rack.head(1).set_isolating(None);
    rack.run_for(Duration::from_secs(2));
    assert!(wishes(&rack, 0).is_empty() && wishes(&rack, 1).is_empty());
    assert!(rack.serving(1), "the primary serves until control moves it");
    rack.verify();
}

#[test]
fn ba02_a_silent_other_one_is_for_the_ordinary_failover() {
    let mut rack = rack(13, |_| {});
    isolate(&mut rack, 1, Severity::Warning);
    rack.crash(0);
    rack.run_until("a proposal", |rack| !rack.proposals(1).is_empty());
    rack.run_for(Duration::from_secs(2));
    let wish = rack.proposals(1).remove(0);
    assert_eq!(wish.why, Why::Silence, "MA-14, not the handshake");
    rack.primary = 1;
    grant(&mut rack, 1, &wish);
    rack.run_until("service", |rack| rack.serving(2));
    assert!(isolates(&mut rack, 1), "an ordinary grant lifts nothing");
    rack.verify();
}

#[test]
fn ba02_who_may_lack_acknowledged_writes_never_wins_through_health() {
    let mut rack = rack(14, |_| {});
    rack.workload(20, 100, 4);
    // It comes back and is not refilled yet: it never hears the announce.
    rack.nodes[1].cut = true;
    rack.decide(&[0]);
    rack.assign();
    rack.run_until("service", |rack| rack.serving(2));
    rack.workload(20, 100, 4);
    isolate(&mut rack, 0, Severity::Errors);
    isolate(&mut rack, 1, Severity::Planned);
    rack.decide(&[0, 1]);
    rack.nodes[1].cut = false;
    rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::Replicate { .. }));
    rack.assign();
    rack.run_for(Duration::from_secs(2));
    assert!(wishes(&rack, 1).is_empty(), "however well it is");
    rack.let_go();
    rack.run_until("an end", |rack| {
        rack.serving(1) || !wishes(rack, 0).is_empty() || !wishes(rack, 1).is_empty()
    });
    rack.run_for(Duration::from_secs(1));
    assert!(!wishes(&rack, 1).is_empty(), "refilled, it is the better one");
}

#[test]
fn ba02_a_pair_that_waits_for_two_copies_is_not_taken_apart() {
    let mut rack = rack(15, |shape| shape.solo = Solo::Wait);
    isolate(&mut rack, 0, Severity::Warning);
    isolate(&mut rack, 1, Severity::Warning);
    let write = rack.write(0, 8);
    assert!(rack.wait(write).is_ok());
    rack.run_for(Duration::from_secs(2));
    assert!(
        rack.proposals(0).is_empty() && rack.proposals(1).is_empty(),
        "its writes would stop for nothing"
    );
    assert_eq!(rack.head(0).status().partitions[0].role, RoleState::Serving);
    rack.verify();
}

#[test]
fn ba02_going_alone_unasked_is_found() {
    let mut rack = rack(16, |shape| shape.faults.isolation_assumed = true);
    isolate(&mut rack, 0, Severity::Warning);
    rack.run_for(Duration::from_secs(1));
    assert!(!wishes(&rack, 0).is_empty(), "the other one is well: this must not be wished");
    assert_eq!(wishes(&rack, 0)[0].partition, VOLUME);
}

/// The head `at` goes on alone, because everybody isolates.
fn goes_alone(rack: &mut Rack, at: usize) {
    rack.run_until("a wish", |rack| !wishes(rack, at).is_empty());
    let wish = wishes(rack, at).remove(0);
    rack.primary = at;
    grant(rack, at, &wish);
    rack.assign();
    let number = rack.newest();
    rack.run_until("service", move |rack| rack.serving(number));
}

/// As [`rack`], with a third head that holds nothing.
fn with_a_third(seed: u64, solo: Solo) -> Rack {
    let mut rack = rack(seed, |shape| (shape.reserves, shape.solo, shape.columns) = (1, solo, 60));
    rack.move_to(&[0, 1]);
    rack.replace_log(THIRD);
    rack.workload(40, 100, 4);
    rack
}

#[test]
fn ba02_what_a_log_did_of_late_decides_between_two_that_isolate_for_the_same_reason() {
    let mut rack = rack(17, |_| {});
    rack.workload(200, 100, 4);
    assert_eq!(rack.head(0).status().medium.success, 1000);
    rack.nodes[0].slow = Duration::from_millis(120);
    rack.workload(40, 100, 4);
    let [first, second] = [0, 1].map(|at| rack.head(at).status().medium);
    assert!(first.slow >= 10 && first.success < 950, "{first:?}");
    assert!(first.append > Some(Duration::from_millis(60)), "{first:?}");
    assert!(
        second.slow == 0 && second.append < Some(Duration::from_millis(5)),
        "its own log only: {second:?}"
    );
    assert_eq!((first.errors, second.errors, second.success), (0, 0, 1000));
    isolate(&mut rack, 0, Severity::Warning);
    isolate(&mut rack, 1, Severity::Warning);
    goes_alone(&mut rack, 1);
    assert!(wishes(&rack, 0).is_empty(), "though it has the lower node id");
    rack.workload(20, 100, 4);
    rack.verify();
}

#[test]
fn ba02_errors_of_the_log_are_counted_and_a_full_one_is_not_ill() {
    let mut rack = rack(18, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[1].disk.full = true;
    rack.write(0, 8);
    rack.run_until("an end of its log", |rack| rack.head(1).status().log_failed);
    let full = rack.head(1).status().medium;
    assert_eq!((full.errors, full.success), (0, 1000), "no room is no fault of the device: {full:?}");
    rack.nodes[0].disk.dead = true;
    rack.write(0, 8);
    rack.run_until("an end of its log", |rack| rack.head(0).status().log_failed);
    let dead = rack.head(0).status().medium;
    assert!(dead.errors > 0 && dead.success < 1000, "{dead:?}");
}

#[test]
fn ba02_an_append_that_never_ends_shows_though_nothing_was_measured() {
    let mut rack = rack(19, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[1].stall = true;
    rack.write(0, 8);
    rack.run_for(Duration::from_secs(3));
    let stuck = rack.head(1).status().medium;
    assert!(stuck.append > Some(Duration::from_secs(2)), "{stuck:?}");
    assert!(rack.head(0).status().medium.append < Some(Duration::from_millis(5)), "the other one is well");
}

#[test]
fn ba02_with_copies_on_sleds_the_better_one_goes_on_alone_and_its_copies_outlive_it() {
    let mut rack = rack(20, |shape| (shape.solo, shape.columns) = (Solo::Sleds, 60));
    rack.workload(40, 100, 4);
    isolate(&mut rack, 0, Severity::Errors);
    isolate(&mut rack, 1, Severity::Planned);
    goes_alone(&mut rack, 1);
    rack.workload(60, 100, 4);
    rack.verify();
    assert!(
        rack.counters().journal_units > 0 && rack.status().alone,
        "P-30: sleds hold what it acknowledges"
    );
    // It dies for good. The stale one is told to take over from the copies, and not before.
    rack.crash(1);
    rack.run_for(Duration::from_secs(3));
    assert!(rack.proposals(0).iter().all(|wish| wish.expected.number.counter < rack.newest()));
    rack.head(0).set_isolating(None);
    let pair = rack.newest() - 1;
    rack.salvage_to(0, pair);
    rack.verify();
}

#[test]
fn ba02_when_the_lone_one_dies_the_stale_other_is_not_promoted_and_its_data_returns_with_it() {
    let mut rack = rack(21, |_| {});
    rack.workload(40, 100, 4);
    isolate(&mut rack, 0, Severity::Errors);
    isolate(&mut rack, 1, Severity::Warning);
    goes_alone(&mut rack, 1);
    rack.workload(60, 100, 4);
    let before = rack.proposals(0).len();
    rack.crash(1);
    // Well again by now, asked by clients, and told that the other process is gone: all for nothing.
    rack.head(0).set_isolating(None);
    for _ in 0..10 {
        rack.head(0).client_asks(VOLUME, 100);
        rack.run_for(Duration::from_millis(500));
    }
    assert_eq!(rack.proposals(0).len(), before, "it lacks acknowledged writes: it proposes nothing");
    assert_ne!(rack.head(0).status().partitions[0].role, RoleState::Serving);
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.move_to(&[1]);
    rack.verify();
}

#[test]
fn ba02_a_third_head_is_filled_and_takes_over_from_the_one_that_went_on_alone() {
    for (seed, solo) in [(22, Solo::Local), (23, Solo::Sleds), (24, Solo::Local), (25, Solo::Sleds)] {
        let mut rack = with_a_third(seed, solo);
        isolate(&mut rack, 0, Severity::Network);
        rack.run_for(Duration::from_millis(100));
        isolate(&mut rack, 1, Severity::Warning);
        goes_alone(&mut rack, 1);
        rack.fill(1, THIRD);
        rack.workload(60, 100, 4);
        rack.join(1, THIRD);
        assert!(!isolates(&mut rack, 1), "the volume may stay until the healthy one leads");
        rack.workload(20, 100, 4);
        rack.move_to(&[THIRD, 1]);
        rack.workload(20, 100, 4);
        rack.verify();
        // The one that carried it leaves, too.
        rack.move_to(&[THIRD]);
        rack.verify();
        let later = wishes(&rack, 1).into_iter().filter(|wish| wish.expected.number.counter > 2).count();
        assert_eq!(later, 0, "one step to be alone, and no other");
    }
}

#[test]
fn ba02_when_the_new_peer_dies_another_is_filled_and_nothing_is_lost() {
    let mut rack = rack(26, |shape| shape.reserves = 2);
    rack.move_to(&[0, 1]);
    let fourth = THIRD + 1;
    rack.replace_log(THIRD);
    rack.replace_log(fourth);
    rack.workload(60, 100, 4);
    isolate(&mut rack, 0, Severity::Errors);
    isolate(&mut rack, 1, Severity::Warning);
    goes_alone(&mut rack, 1);
    rack.hold_msg = Some(|msg, _, _| matches!(msg, Msg::Copied { .. }));
    rack.fill(1, THIRD);
    rack.run_for(Duration::from_millis(200));
    rack.crash(THIRD);
    rack.let_go();
    rack.workload(40, 100, 4);
    rack.fill(1, fourth);
    rack.join(1, fourth);
    rack.move_to(&[fourth, 1]);
    rack.workload(20, 100, 4);
    rack.verify();
}

#[test]
fn ba02_members_that_wait_for_two_copies_are_replaced_one_by_one_and_serve_all_the_time() {
    let mut rack = with_a_third(27, Solo::Wait);
    isolate(&mut rack, 0, Severity::Warning);
    isolate(&mut rack, 1, Severity::Warning);
    rack.run_for(Duration::from_secs(1));
    rack.fill(0, THIRD);
    rack.workload(40, 100, 4);
    rack.run_until("a group with the filled head", |rack| rack.joining(0, THIRD).is_some());
    let wish = rack.joining(0, THIRD).expect("it is there");
    assert_eq!(wish.members.len(), 3, "P-30: nobody leaves before another has the copy");
    let granted = rack.decide(&[0, 1, THIRD]);
    rack.outcome(0, wish.nonce, ProposalOutcome::Granted(granted));
    rack.assign();
    rack.workload(20, 100, 4);
    rack.move_to(&[THIRD, 0]);
    rack.workload(20, 100, 4);
    rack.verify();
    assert!(wishes(&rack, 0).is_empty() && wishes(&rack, 1).is_empty());
}
