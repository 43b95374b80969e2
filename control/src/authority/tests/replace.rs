//! Members that are replaced: MA-20, MA-21, EF-19, BA-09, P-03.

use palisade_protocol::wire::{Member, Proposal, ProposalOutcome, Why};

use super::*;

const VOL0: PartitionId = PartitionId(1);

/// head-1 and head-2 serve vol0; head-3 and head-4 are up and idle, the latter on the shelf of head-1.
fn spare() -> Rack<Memory> {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    rack.declare("head-4", Role::Head, "head-1", "head-4/log".to_owned(), 0);
    for (boot, name) in (1..).zip(["head-1", "head-2", "head-3", "head-4"]) {
        rack.boot(name, boot);
    }
    rack
}

fn current(rack: &Rack<Memory>) -> Vec<String> {
    let volume = rack.authority.volume(VOL0).expect("there");
    volume.current().into_iter().map(|head| rack.authority.name_of(head)).collect()
}

fn chosen(rack: &Rack<Memory>, head: &str, leaving: Option<&str>) -> Chosen {
    let leaving = leaving.map(|name| rack.head(name));
    Chosen { head: rack.head(head), leaving, why: "head-2 is away".to_owned(), by_hand: false }
}

fn choose(rack: &mut Rack<Memory>, head: &str, leaving: Option<&str>) -> Changes {
    let changes = rack.authority.replace(VOL0, chosen(rack, head, leaving), 7).expect("chosen");
    rack.carry_out(changes)
}

fn candidates(rack: &Rack<Memory>, leaving: Option<&str>) -> Vec<String> {
    let volume = rack.authority.volume(VOL0).expect("there");
    let leaving = leaving.map(|name| rack.head(name));
    let found = rack.authority.candidates(volume, leaving);
    found.into_iter().map(|head| rack.authority.name_of(head)).collect()
}

/// The primary vouches for a group.
fn propose(rack: &mut Rack<Memory>, nonce: u64, heads: &[&str]) -> (ProposalOutcome, String) {
    let volume = rack.authority.volume(VOL0).expect("there");
    let (expected, primary) = (volume.stamp().expect("granted"), volume.current_primary());
    let members: Vec<Member> =
        heads.iter().map(|name| rack.authority.member(rack.head(name)).expect("it started")).collect();
    let proposal = Proposal {
        partition: VOL0,
        expected,
        members: members.iter().copied().collect(),
        nonce,
        why: Why::Silence,
        caught_up: true,
    };
    let boot = rack.authority.member(primary).expect("it started").boot;
    let verdict = rack.authority.propose(primary, boot, &proposal, 0);
    rack.carry_out(verdict.changes);
    (verdict.outcome, verdict.why)
}

#[test]
fn ba09_candidates_are_living_heads_on_other_shelves_with_the_fewest_volumes() {
    let mut rack = spare();
    assert_eq!(candidates(&rack, Some("head-2")), ["head-3", "head-4"], "head-4 shares a shelf with head-1");
    assert_eq!(candidates(&rack, Some("head-1")), ["head-3", "head-4"], "by their ids then");
    let onto = VolumeRequest {
        primary: "head-3".to_owned(),
        secondary: Some("head-1".to_owned()),
        ..request("vol1")
    };
    let changes = rack.authority.create_volume(&onto).expect("made");
    rack.carry_out(changes);
    assert_eq!(candidates(&rack, Some("head-1")), ["head-4", "head-3"], "head-3 has a volume by now");
    let changes = rack.authority.set_isolating("head-4", "its log errs").expect("known");
    rack.carry_out(changes);
    assert_eq!(candidates(&rack, Some("head-1")), ["head-3"], "BA-02: nothing goes to an isolating head");
    let changes = rack.authority.set_draining("head-3", true).expect("known");
    rack.carry_out(changes);
    assert_eq!(candidates(&rack, Some("head-1")), Vec::<String>::new());
}

#[test]
fn ma21_a_choice_is_durable_and_ends_when_the_group_has_it() {
    let mut rack = spare();
    let changes = choose(&mut rack, "head-3", Some("head-2"));
    assert_eq!(changes.created, [VOL0], "its heads and the candidate hear of the partition");
    assert_eq!(changes.assignments, Vec::new(), "nothing moves before it is complete");
    let volume = rack.authority.volume(VOL0).expect("there").clone();
    assert!(volume.heads().contains(&rack.head("head-3")));
    assert_eq!(
        rack.authority.without(rack.head("head-3")),
        [],
        "it never was a member: there is none to leave"
    );
    assert!(rack.authority.partitions_of(rack.head("head-3")).iter().any(|spec| spec.partition == VOL0));
    let (outcome, why) = propose(&mut rack, 1, &["head-1", "head-3"]);
    assert!(matches!(outcome, ProposalOutcome::Granted(_)), "{why}");
    assert_eq!(current(&rack), ["head-1", "head-3"]);
    let volume = rack.authority.volume(VOL0).expect("there");
    assert_eq!(volume.replacement, None, "the search is over");
    assert!(volume.members.iter().all(|member| !member.joining), "its primary vouched for it");
    assert_eq!(rack.authority.leftovers(volume), [rack.head("head-2")], "whose copy is a leftover now");
    let changes = rack.authority.forgotten(rack.head("head-2"), VOL0);
    rack.carry_out(changes);
    let volume = rack.authority.volume(VOL0).expect("there").clone();
    assert_eq!(rack.authority.leftovers(&volume), []);
    rack.boot("head-2", 12);
    assert_eq!(current(&rack), ["head-1", "head-3"], "EF-28: who comes back late is not needed");
    assert_eq!(
        rack.authority.create_volume(&request("vol0")),
        Ok(Changes::default()),
        "the file is still right"
    );
}

#[test]
fn ma21_a_third_member_that_nobody_chose_is_declined() {
    let mut rack = spare();
    let (_, why) = propose(&mut rack, 1, &["head-1", "head-2", "head-3"]);
    assert!(why.contains("head-3 is not a head that this volume waits for"), "{why}");
    assert_eq!(current(&rack), ["head-1", "head-2"]);
    choose(&mut rack, "head-3", Some("head-2"));
    let (outcome, why) = propose(&mut rack, 2, &["head-1", "head-2", "head-3"]);
    assert!(matches!(outcome, ProposalOutcome::Granted(_)), "{why}");
    let chosen = rack.authority.volume(VOL0).expect("there").replacement.clone().expect("until head-2 left");
    assert_eq!(chosen.leaving, Some(rack.head("head-2").0));
    let head = rack.head("head-2");
    let changes = rack.authority.leave_out(VOL0, head, false, "head-3 took its place").expect("left");
    rack.carry_out(changes);
    assert_eq!(current(&rack), ["head-1", "head-3"]);
    assert_eq!(rack.authority.volume(VOL0).expect("there").replacement, None);
}

#[test]
fn ma21_a_head_that_nobody_chose_and_joins_is_what_the_check_is_for() {
    let mut rack = spare();
    rack.authority.break_rules(Faults { anybody_joins: true, ..Faults::default() });
    let (outcome, _) = propose(&mut rack, 1, &["head-1", "head-2", "head-3"]);
    assert!(matches!(outcome, ProposalOutcome::Granted(_)), "the switch breaks exactly that");
}

#[test]
fn ma21_what_cannot_be_chosen_is_said() {
    let mut rack = spare();
    let refused = |rack: &Rack<Memory>, head: &str| {
        rack.authority.replace(VOL0, chosen(rack, head, None), 0).expect_err("refused").to_string()
    };
    assert!(refused(&rack, "head-2").contains("is a member of volume `vol0` already"));
    assert!(refused(&rack, "sled-1").contains("no head `sled-1`"));
    let changes = rack.authority.set_isolating("head-3", "its log errs").expect("known");
    rack.carry_out(changes);
    assert!(
        refused(&rack, "head-3")
            .contains("`head-3` is isolating: name another head, or `palisade head rejoin")
    );
    assert!(
        rack.authority
            .create_volume(&VolumeRequest { primary: "head-3".to_owned(), ..request("vol1") })
            .is_err()
    );
    let unknown = rack.authority.replace(PartitionId(9), chosen(&rack, "head-4", None), 0);
    assert!(matches!(unknown, Err(ReplaceError::NoVolume(_))));
    let mut fresh = Rack::full();
    fresh.boot("head-1", 1);
    let early = fresh.authority.replace(VOL0, chosen(&fresh, "head-2", None), 0);
    assert!(matches!(early, Err(ReplaceError::NoGroup(_))), "{early:?}");
}

#[test]
fn ma21_the_old_member_that_is_back_first_ends_nothing_by_itself_and_a_choice_can_be_given_up() {
    let mut rack = spare();
    let (first, third) = (rack.head("head-1"), rack.head("head-3"));
    let changes = rack.authority.leave_out(VOL0, rack.head("head-2"), false, "away").expect("left");
    rack.carry_out(changes);
    choose(&mut rack, "head-3", None);
    rack.boot("head-2", 12);
    assert_eq!(current(&rack), ["head-1", "head-2"], "it comes in behind, with the log that it had");
    let changes = rack.authority.end_replacement(VOL0, "nothing is lacking");
    assert_eq!(changes.forgetting, [(third, VOL0)], "what it got is no use any more");
    rack.carry_out(changes);
    assert_eq!(rack.authority.volume(VOL0).expect("there").replacement, None);
    assert!(!rack.authority.volume(VOL0).expect("there").heads().contains(&third));
    assert_eq!(rack.authority.volume(VOL0).expect("there").current_primary(), first);
}

#[test]
fn p03_a_member_whose_log_was_replaced_leaves_and_joins_as_a_new_one() {
    for (lost, stays) in [("head-2", "head-1"), ("head-1", "head-2")] {
        let mut rack = spare();
        let node = rack.head(lost);
        let (decision, changes) = rack
            .authority
            .decide_device(&format!("{lost}/log"), &Medium::Blank, Identity(log_of(node).0))
            .expect("known");
        rack.carry_out(changes);
        let Decision::Format { id } = decision else { panic!("{decision:?}") };
        let changes = rack.authority.device_formatted(&format!("{lost}/log"), id).expect("decided");
        rack.carry_out(changes);
        let changes = rack.authority.replace_device(&format!("{lost}/log"), false).expect("known");
        rack.carry_out(changes);
        let member = *rack
            .authority
            .volume(VOL0)
            .expect("there")
            .members
            .iter()
            .find(|m| m.head == node)
            .expect("one");
        assert!(rack.authority.lost_its_log(&member));
        let changes = rack.authority.leave_out(VOL0, node, true, "its log was replaced").expect("left");
        rack.carry_out(changes);
        assert_eq!(current(&rack), [stays], "EF-19: the whole one leads");
        let volume = rack.authority.volume(VOL0).expect("there");
        assert!(!rack.authority.may_come_back(volume), "nobody holds a copy that could be refilled");
        let last = rack.authority.leave_out(VOL0, rack.head(stays), false, "too").expect_err("refused");
        assert!(matches!(last, ReplaceError::Needed(..)), "{last}");
    }
}

#[test]
fn ma21_who_is_not_refilled_does_not_lead_when_the_primary_leaves() {
    let mut rack = spare();
    let changes = rack.authority.leave_out(VOL0, rack.head("head-2"), false, "away").expect("left");
    rack.carry_out(changes);
    rack.boot("head-2", 12);
    assert_eq!(current(&rack), ["head-1", "head-2"]);
    let first = rack.head("head-1");
    let refused = rack.authority.leave_out(VOL0, first, false, "broken").expect_err("head-2 may lack writes");
    assert!(refused.to_string().contains("nobody else holds all that was acknowledged"), "{refused}");
    let stamp = rack.authority.volume(VOL0).and_then(VolumeRecord::stamp).expect("granted");
    let changes = rack.authority.served(first, stamp);
    rack.carry_out(changes);
    let changes = rack.authority.leave_out(VOL0, first, false, "broken").expect("refilled by now");
    rack.carry_out(changes);
    assert_eq!(current(&rack), ["head-2"]);
}

#[test]
fn ba02_an_isolating_head_gets_no_role_and_keeps_its_mark_over_boots() {
    let mut rack = spare();
    let changes = rack.authority.set_isolating("head-2", "its log errs").expect("known");
    let head = rack.head("head-2");
    assert_eq!(changes.isolating, [head], "it hears of it");
    rack.carry_out(changes);
    assert_eq!(rack.authority.set_isolating("head-2", "again"), Ok(Changes::default()));
    assert!(matches!(rack.authority.switch_over("vol0", "planned"), Err(RoleError::Isolating(..))));
    rack.boot("head-2", 12);
    assert!(rack.authority.leaves(head), "a restart heals no disk");
    let changes = rack.authority.set_isolating("head-2", "").expect("known");
    rack.carry_out(changes);
    assert!(!rack.authority.leaves(head));
    assert!(rack.authority.switch_over("vol0", "planned").is_ok());
    assert!(matches!(rack.authority.set_isolating("sled-1", "x"), Err(RoleError::NoHead(_))));
}

#[test]
fn ba02_alone_where_everybody_isolates_is_granted_only_then_and_nobody_comes_back_to_it() {
    let mut rack = spare();
    let lone = |rack: &Rack<Memory>, nonce| {
        let volume = rack.authority.volume(VOL0).expect("there");
        let me = rack.authority.member(rack.head("head-2")).expect("it started");
        Proposal {
            partition: VOL0,
            expected: volume.stamp().expect("granted"),
            members: [me].into_iter().collect(),
            nonce,
            why: Why::Isolation,
            caught_up: false,
        }
    };
    let ask = |rack: &mut Rack<Memory>, proposal: &Proposal| {
        let verdict = rack.authority.propose(rack.head("head-2"), BootId(2), proposal, 0);
        rack.carry_out(verdict.changes);
        (matches!(verdict.outcome, ProposalOutcome::Granted(_)), verdict.why)
    };
    let changes = rack.authority.set_isolating("head-2", "its log errs").expect("known");
    rack.carry_out(changes);
    let wish = lone(&rack, 1);
    let (granted, why) = ask(&mut rack, &wish);
    assert!(!granted && why.contains("head-1 does not isolate"), "step 4: the peer is well again: {why}");
    let changes = rack.authority.set_isolating("head-1", "its log errs").expect("known");
    rack.carry_out(changes);
    let before = rack.authority.volume(VOL0).expect("there").counter;
    let wish = lone(&rack, 2);
    let (granted, why) = ask(&mut rack, &wish);
    assert!(granted, "{why}");
    assert_eq!(current(&rack), ["head-2"]);
    assert_eq!(rack.authority.volume(VOL0).expect("there").counter, before + 1, "one step");
    rack.boot("head-1", 11);
    assert_eq!(current(&rack), ["head-2"], "head-1 isolates still: it is not taken back");
    assert!(rack.authority.leaves(rack.head("head-2")), "the host's mark stays");
    assert_eq!(candidates(&rack, None), ["head-3", "head-4"]);
}

#[test]
fn ef19_who_left_and_cannot_follow_is_not_taken_back_but_filled() {
    let mut rack = spare();
    let second = rack.head("head-2");
    let changes = rack.authority.leave_out(VOL0, second, false, "it lacks too much").expect("left");
    rack.carry_out(changes);
    let volume = rack.authority.volume(VOL0).expect("there");
    assert!(rack.authority.may_come_back(volume));
    let changes = rack.authority.cannot_follow(second, VOL0);
    rack.carry_out(changes);
    let volume = rack.authority.volume(VOL0).expect("there");
    assert!(!rack.authority.may_come_back(volume));
    rack.boot("head-2", 12);
    assert_eq!(current(&rack), ["head-1"], "it would only hold up the others");
    assert_eq!(candidates(&rack, None)[0], "head-2", "declared heads come first");
    choose(&mut rack, "head-2", None);
    let (outcome, why) = propose(&mut rack, 1, &["head-1", "head-2"]);
    assert!(matches!(outcome, ProposalOutcome::Granted(_)), "{why}");
    let volume = rack.authority.volume(VOL0).expect("there");
    assert!(volume.members.iter().all(|member| !member.lost && !member.joining) && volume.left.is_empty());
    assert_eq!(rack.authority.cannot_follow(second, VOL0), Changes::default(), "a member is another matter");
}
