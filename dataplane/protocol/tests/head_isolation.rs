//! Members that all isolate (BA-02): one of them goes on alone, the right one, and only then.

mod head_support;

use head_support::{Rack, Shape, VOLUME};
use palisade_protocol::head::{FailoverConfig, RoleState, Solo};
use palisade_protocol::wire::*;
use std::time::Duration;

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
