//! Runs that the model of roles (`tests/model/src/roles`) found: P-02, P-04.

use palisade_protocol::wire::ProposalOutcome;

use super::propose::wish;
use super::*;

/// Head-2 proposed to lead, and the answer was lost; then its log is given up while it still waits.
#[test]
fn p02_an_answer_stands_also_for_a_boot_that_is_over_since() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    let pair = rack.boot("head-2", 2).assignments[0].clone();
    let head = rack.head("head-2");
    let turned: Vec<_> = pair.members.iter().rev().copied().collect();
    let asked = wish(&pair, &turned, 1);
    let first = rack.authority.propose(head, BootId(2), &asked, 0);
    rack.carry_out(first.changes);
    assert!(matches!(first.outcome, ProposalOutcome::Granted(_)), "{}", first.why);
    let medium = rack.authority.decide_device("head-2/log", &Medium::Blank, Identity(log_of(head).0));
    let changes = medium.expect("a log that the store knows").1;
    rack.carry_out(changes);
    let changes = rack.authority.replace_device("head-2/log", false).expect("given up");
    rack.carry_out(changes);
    let again = rack.authority.propose(head, BootId(2), &asked, 0);
    assert_eq!((again.outcome, again.changes), (first.outcome, Changes::default()), "{}", again.why);
    let other = rack.authority.propose(head, BootId(2), &wish(&pair, &turned, 2), 0);
    assert_eq!(other.why, "it comes from a boot that is over", "what was not decided is not any more");
}

/// The store is put back while heads run: they hold more than it granted, under boots that it knows.
#[test]
fn p04_a_running_head_that_holds_forgotten_numbers_gets_newer_ones() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    let known = rack.boot("head-2", 2).assignments[0].clone();
    let forgotten = Stamp {
        number: Number { counter: known.stamp.number.counter + 3, ..known.stamp.number },
        ..known.stamp
    };
    let head = rack.head("head-1");
    let ask = |rack: &mut Rack<Memory>, held: Stamp| {
        let changes = rack.authority.boot(head, BootId(1), log_of(head), &[held]).expect("its boot is known");
        rack.carry_out(changes)
    };
    assert_eq!(
        ask(&mut rack, known.stamp).assignments,
        std::slice::from_ref(&known),
        "nothing was forgotten"
    );
    assert_eq!(ask(&mut rack, forgotten).assignments, [], "nothing before every head was heard");
    let renewed = &rack.all_heard(forgotten);
    assert!(renewed.stamp.number > forgotten.number, "{} after {}", renewed.stamp.number, forgotten.number);
    assert_eq!(renewed.members, known.members, "the group and its boots stay");
    let node = rack.authority.node(head).expect("known");
    assert!(node.old_boots.is_empty(), "the boot goes on: {:?}", node.old_boots);
    let again = ask(&mut rack, forgotten);
    assert_eq!(again.assignments, std::slice::from_ref(renewed), "asked again it is answered alike");
    assert!(again.records.is_empty(), "{:?}", again.records);
}
