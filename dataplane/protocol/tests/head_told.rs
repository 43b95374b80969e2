//! What a head says that its log holds of groups, when a control plane asks whose store was put back (P-04).

mod head_support;

use head_support::{Rack, Shape};
use palisade_protocol::head::{RoleState, Solo};
use palisade_protocol::wire::*;

fn rack(seed: u64) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.flush.fill_low, shape.solo, shape.columns) = (512, 60, Solo::Sleds, 60);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// The only pair that a head says it holds, with its log.
fn held(rack: &mut Rack, at: usize) -> Assignment {
    let member = rack.member(at);
    let (log, mut groups) = rack.head(at).groups().expect("its log is read");
    assert_eq!((log, groups.len()), (member.log, 1));
    groups.remove(0)
}

fn bring_back(rack: &mut Rack, at: usize) {
    rack.start(at, false);
    rack.run_until("recovery", |rack| rack.head(at).groups().is_some());
}

#[test]
fn p04_a_head_says_the_newest_pair_that_its_log_holds_over_restarts() {
    let mut rack = rack(1);
    let pair = held(&mut rack, 0);
    assert_eq!((pair.members.len(), pair.stamp.number.counter), (2, rack.newest()));
    assert_eq!(held(&mut rack, 1).stamp, pair.stamp, "who follows has it, too");
    rack.crash(1);
    rack.move_to(&[0]);
    let alone = held(&mut rack, 0);
    assert_eq!((alone.members.len(), alone.stamp.number.counter), (1, rack.newest()));
    bring_back(&mut rack, 1);
    assert_eq!(held(&mut rack, 1).stamp, pair.stamp, "nobody told it");
    rack.crash(0);
    rack.start(0, false);
    assert_eq!(rack.head(0).groups(), None, "before its log is read it has no answer");
    rack.run_until("recovery", |rack| rack.head(0).groups().is_some());
    let again = held(&mut rack, 0);
    assert_eq!((again.stamp, again.members), (alone.stamp, alone.members));
}

#[test]
fn p04_what_was_granted_and_is_not_adopted_yet_counts_already() {
    let mut rack = rack(2);
    let pair = held(&mut rack, 0);
    rack.crash(1);
    rack.decide(&[0]);
    rack.tell(0);
    // No turn was taken since: nothing is durable.
    assert_eq!(held(&mut rack, 0).stamp.number.counter, pair.stamp.number.counter + 1);
}

#[test]
fn p04_p30_one_that_still_reads_the_copies_of_another_says_so() {
    let mut rack = rack(3);
    let base = rack.newest();
    rack.crash(1);
    rack.move_to(&[0]);
    let tag = rack.write(0, 8);
    rack.wait(tag).expect("acknowledged alone, with copies");
    bring_back(&mut rack, 1);
    rack.crash(0);
    rack.decide_salvage(1, base);
    let begun = held(&mut rack, 1);
    assert_eq!(begun.salvage.map(|number| number.counter), Some(base), "no answer yet");
    rack.run_until("service", |rack| rack.head(1).status().partitions[0].role == RoleState::Serving);
    let done = held(&mut rack, 1);
    assert_eq!((done.stamp, done.salvage), (begun.stamp, None), "its log has it all by now");
}
