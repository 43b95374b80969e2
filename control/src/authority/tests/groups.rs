//! Volumes of three heads and more (MA-01, BA-09): the first grant, proposals of several secondaries (MA-15,
//! MA-18, MA-20), boots, and roles that people move.

use palisade_protocol::wire::{Assignment, ProposalOutcome};

use super::propose::wish;
use super::*;

const HEADS: [&str; 3] = ["head-1", "head-2", "head-3"];

fn three(name: &str) -> VolumeRequest {
    VolumeRequest { reserves: vec!["head-3".to_owned()], ..request(name) }
}

/// Three heads up, `trio` on all of them: its first group. `vol0` of the first two is there, too.
fn trio() -> (Rack<Memory>, Assignment) {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    let changes = rack.authority.create_volume(&three("trio")).expect("made");
    rack.carry_out(changes);
    for (boot, name) in (1..).zip(HEADS) {
        rack.boot(name, boot);
    }
    let group = newest(&rack);
    (rack, group)
}

fn newest(rack: &Rack<Memory>) -> Assignment {
    let id = rack.authority.volume_by_name("trio").expect("there").partition();
    rack.authority.query(id).expect("granted")
}

fn names(rack: &Rack<Memory>) -> Vec<String> {
    let volume = rack.authority.volume_by_name("trio").expect("there");
    volume.current().into_iter().map(|head| rack.authority.name_of(head)).collect()
}

#[test]
fn ba09_a_group_of_three_gets_its_first_number_when_all_heads_are_up() {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    let changes = rack.authority.create_volume(&three("trio")).expect("made");
    rack.carry_out(changes);
    rack.boot("head-1", 1);
    rack.boot("head-2", 2);
    let id = rack.authority.volume_by_name("trio").expect("there").partition();
    assert_eq!(rack.authority.query(id), None, "not without the third");
    rack.boot("head-3", 3);
    assert_eq!(names(&rack), HEADS, "in the declared order");
    let spec = rack.authority.partition(id).expect("there");
    assert_eq!((spec.heads, spec.secondary), (3, Some(rack.head("head-2").0)));
    let third = rack.head("head-3");
    assert!(rack.authority.partitions_of(third).iter().any(|spec| spec.partition == id));
}

#[test]
fn ba09_a_volume_keeps_the_heads_that_it_was_made_with_and_takes_no_impossible_ones() {
    let (rack, _) = trio();
    assert_eq!(rack.authority.create_volume(&three("trio")), Ok(Changes::default()), "the same again");
    let fewer = rack.authority.create_volume(&request("trio"));
    assert!(matches!(fewer, Err(VolumeError::Exists(_))), "{fewer:?}");
    let base = three("other");
    let reserves = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cases = [
        (VolumeRequest { reserves: reserves(&["head-2"]), ..base.clone() }, "nor any head twice"),
        (VolumeRequest { reserves: reserves(&["head-3", "head-3"]), ..base.clone() }, "nor any head twice"),
        (VolumeRequest { reserves: reserves(&["head-9"]), ..base.clone() }, "no head `head-9`"),
        (VolumeRequest { secondary: None, ..base.clone() }, "reserve heads and no secondary"),
    ];
    for (wanted, what) in cases {
        let why = rack.authority.create_volume(&wanted).expect_err("refused").to_string();
        assert!(why.contains(what), "{why}");
    }
    let mut rack = rack;
    for name in ["head-4", "head-5"] {
        rack.declare(name, Role::Head, name, format!("{name}/log"), 0);
    }
    let five = VolumeRequest { reserves: reserves(&["head-3", "head-4", "head-5"]), ..base };
    let why = rack.authority.create_volume(&five).expect_err("refused").to_string();
    assert!(why.contains("has 5 heads") && why.contains("at most 4"), "{why}");
}

#[test]
fn ma18_of_two_secondaries_that_propose_the_first_wins_and_the_other_learns_its_group() {
    let (mut rack, group) = trio();
    let [_, second, third] = group.members[..] else { panic!("three members") };
    let (head_2, head_3) = (rack.head("head-2"), rack.head("head-3"));
    let first = rack.authority.propose(head_2, BootId(2), &wish(&group, &[second, third], 1), 0);
    rack.carry_out(first.changes);
    let ProposalOutcome::Granted(granted) = first.outcome else { panic!("declined: {}", first.why) };
    assert_eq!(granted.stamp.number.counter, group.stamp.number.counter + 1);
    let late = wish(&group, &[third, second], 1);
    let loser = rack.authority.propose(head_3, BootId(3), &late, 0);
    assert_eq!(loser.outcome, ProposalOutcome::Declined { newest: Some(granted.clone()) });
    // Asked again, both are told the same (P-02).
    let again = rack.authority.propose(head_3, BootId(3), &late, 0);
    assert_eq!(again.outcome, loser.outcome);
    assert_eq!(names(&rack), ["head-2", "head-3"]);
}

#[test]
fn ma20_a_primary_drops_one_of_two_secondaries_which_may_lead_again_only_once_it_was_refilled() {
    let (mut rack, group) = trio();
    let [first, second, third] = group.members[..] else { panic!("three members") };
    let (head_1, head_3) = (rack.head("head-1"), rack.head("head-3"));
    let verdict = rack.authority.propose(head_1, BootId(1), &wish(&group, &[first, second], 1), 0);
    assert!(matches!(verdict.outcome, ProposalOutcome::Granted(_)), "{}", verdict.why);
    rack.carry_out(verdict.changes);
    let old = rack.authority.propose(head_3, BootId(3), &wish(&group, &[third, second], 1), 0);
    assert!(matches!(old.outcome, ProposalOutcome::Declined { .. }), "never from its old number");
    // It comes back behind the others, and they come from a newer pair than it knows.
    rack.boot("head-3", 4);
    assert_eq!(names(&rack), HEADS);
    let pair = newest(&rack);
    let leads = wish(&pair, &[pair.members[2], second], 1);
    let why = rack.authority.propose(head_3, BootId(4), &leads, 0).why;
    assert!(why.contains("not refilled yet (MA-21)"), "{why}");
    let served = rack.authority.served(head_1, pair.stamp);
    rack.carry_out(served);
    let verdict = rack.authority.propose(head_3, BootId(4), &wish(&pair, &leads.members, 2), 0);
    assert!(matches!(verdict.outcome, ProposalOutcome::Granted(_)), "{}", verdict.why);
}

#[test]
fn ef28_a_switch_over_keeps_the_third_member_and_passes_over_one_that_may_not_lead() {
    let (mut rack, _) = trio();
    let changes = rack.authority.switch_over("trio", "planned").expect("a whole group");
    rack.carry_out(changes);
    assert_eq!(names(&rack), ["head-2", "head-1", "head-3"]);
    let changes = rack.authority.set_draining("head-1", true).expect("known");
    rack.carry_out(changes);
    let changes = rack.authority.switch_over("trio", "planned").expect("the third may lead");
    rack.carry_out(changes);
    assert_eq!(names(&rack), ["head-3", "head-2", "head-1"]);
    let changes = rack.authority.set_draining("head-2", true).expect("known");
    rack.carry_out(changes);
    assert!(matches!(rack.authority.switch_over("trio", "planned"), Err(RoleError::Draining(..))));
}

#[test]
fn ba09_every_head_of_three_that_starts_comes_back_into_its_place() {
    let (mut rack, _) = trio();
    let changes = rack.authority.switch_over("trio", "planned").expect("a whole group");
    rack.carry_out(changes);
    for (boot, name) in (10..).zip(HEADS) {
        let before = newest(&rack).stamp.number;
        rack.boot(name, boot);
        assert_eq!(names(&rack), ["head-2", "head-1", "head-3"]);
        assert!(newest(&rack).stamp.number > before, "every boot gets a new number (P-01)");
    }
}
