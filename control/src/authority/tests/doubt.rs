//! Stores that were put back: P-04, P-30, MA-04, MA-05.

use palisade_protocol::wire::{Assignment, Member, Proposal, ProposalOutcome};

use super::propose::wish;
use super::*;
use crate::config::Solo;

const VOL0: PartitionId = PartitionId(1);
/// Of head-1 and of head-2 before anything was put back.
const BOOTS: [u128; 2] = [1, 2];

impl<S: Store> Rack<S> {
    /// Every head says that it holds the pair of `stamp` with the members that the store knows; what is granted.
    pub(super) fn all_heard(&mut self, stamp: Stamp) -> Assignment {
        let members = self.volume().members.iter().map(MemberRecord::member).collect();
        let pair = Assignment::plain(stamp, members);
        let heads: Vec<String> = self.heads();
        let mut granted = Vec::new();
        for name in heads {
            granted = self.says(&name, std::slice::from_ref(&pair)).assignments;
        }
        granted.pop().expect("granted when the last one was heard")
    }

    fn heads(&self) -> Vec<String> {
        let heads = self.authority.nodes().filter(|node| node.role == Role::Head);
        heads.map(|node| node.name.clone()).collect()
    }

    /// A head that is up says what its log holds.
    fn says(&mut self, name: &str, holds: &[Assignment]) -> Changes {
        let node = self.authority.node_by_name(name).expect("known");
        let boot = node.boot.expect("it started").0;
        let changes = self.authority.heard(node.node, boot, log_of(node.node), holds);
        self.carry_out(changes)
    }

    fn volume(&self) -> VolumeRecord {
        self.authority.volume(VOL0).expect("there").clone()
    }

    fn newest_pair(&self) -> Assignment {
        self.volume().assignment().expect("granted")
    }

    fn awaited(&self) -> Vec<String> {
        let volume = self.volume();
        self.authority.awaited(&volume).map(|node| node.name.clone()).collect()
    }

    fn parts_with(&mut self, name: &str, boot: u128, nonce: u64) -> Assignment {
        let (newest, head) = (self.newest_pair(), self.head(name));
        let me: Vec<Member> = newest.members.iter().copied().filter(|member| member.head == head).collect();
        self.proposes(name, boot, &wish(&newest, &me, nonce)).expect("granted")
    }

    fn proposes(&mut self, name: &str, boot: u128, wish: &Proposal) -> Result<Assignment, String> {
        let verdict = self.authority.propose(self.head(name), BootId(boot), wish, 0);
        self.carry_out(verdict.changes);
        match verdict.outcome {
            ProposalOutcome::Granted(pair) => Ok(pair),
            ProposalOutcome::Declined { .. } => Err(verdict.why),
        }
    }

    fn without(&mut self, heads: &[&str], accepted: bool) -> Result<Assignment, DoubtError> {
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        let changes = self.authority.go_on_without("vol0", &heads, accepted)?;
        self.carry_out(changes);
        Ok(self.newest_pair())
    }

    fn put_back(&mut self, copy: S) {
        let opening = self.authority.opening() + 1;
        let faults = self.authority.faults;
        self.store = copy;
        let loaded = Authority::load(self.store.load().expect("readable")).expect("loaded");
        self.authority = loaded.opened(opening);
        self.authority.break_rules(faults);
    }
}

fn members(pair: &Assignment) -> Vec<u32> {
    pair.members.iter().map(|member| member.head.0).collect()
}

/// Both heads served; then the store is copied and head-1 goes on alone. The pair of the copy, and the lone one.
fn parted(solo: Solo) -> (Rack<Memory>, Memory, Assignment, Assignment) {
    let mut rack = Rack::full();
    let changes = rack.authority.create_volume(&VolumeRequest { solo, ..request("vol0") }).expect("changed");
    rack.carry_out(changes);
    rack.boot("head-1", BOOTS[0]);
    let pair = rack.boot("head-2", BOOTS[1]).assignments[0].clone();
    let copy = rack.store.clone();
    let alone = rack.parts_with("head-1", BOOTS[0], 1);
    (rack, copy, pair, alone)
}

/// The store of before head-1 went on alone is put back, and that is known.
fn doubtful(solo: Solo) -> (Rack<Memory>, Assignment, Assignment) {
    let (mut rack, copy, pair, alone) = parted(solo);
    rack.put_back(copy);
    let changes = rack.authority.put_back("people said so");
    rack.carry_out(changes);
    (rack, pair, alone)
}

#[test]
fn p04_p30_who_was_left_out_since_the_copy_does_not_lead_before_every_head_was_heard() {
    let (mut rack, pair, _) = doubtful(Solo::Local);
    assert_eq!(rack.awaited(), ["head-1", "head-2"]);
    let second = pair.members[1];
    let why = rack.proposes("head-2", 2, &wish(&pair, &[second], 1)).expect_err("head-1 went on alone");
    assert!(why.contains("in doubt") && why.contains("P-04"), "{why}");
    assert_eq!(rack.says("head-2", std::slice::from_ref(&pair)).assignments, [], "head-1 was not heard");
    assert_eq!(rack.awaited(), ["head-1"]);
    let why = rack.proposes("head-2", 2, &wish(&pair, &[second], 2)).expect_err("still");
    assert!(why.contains("in doubt"), "{why}");
    assert_eq!(rack.boot("head-2", 7).assignments, [], "nor by starting again");
    // Nothing else decides either.
    let refused = rack.authority.switch_over("vol0", "planned").expect_err("refused").to_string();
    assert!(refused.contains("in doubt") && refused.contains("head-1"), "{refused}");
    let head = rack.head("head-1");
    assert!(matches!(rack.authority.leave_out(VOL0, head, true, "gone"), Err(ReplaceError::Doubt(..))));
    assert!(matches!(rack.authority.salvage("vol0", "gone", |_| true), Err(RoleError::Doubt(..))));
    assert!(matches!(rack.authority.give_back(VOL0, "it is back"), Err(RoleError::Doubt(..))));
    let chosen = Chosen { head, leaving: None, why: String::new(), by_hand: true };
    assert!(matches!(rack.authority.replace(VOL0, chosen, 0), Err(ReplaceError::Doubt(..))));
    assert_eq!(rack.authority.served(pair.members[0].head, pair.stamp), Changes::default());
    assert_eq!(rack.authority.leftovers(&rack.volume()), [], "nobody is told to forget a copy");
}

#[test]
fn p04_ma04_a_volume_goes_on_from_the_newest_group_that_a_head_holds() {
    let (mut rack, pair, alone) = doubtful(Solo::Local);
    rack.says("head-2", std::slice::from_ref(&pair));
    let changes = rack.says("head-1", std::slice::from_ref(&alone));
    let [granted] = changes.assignments.as_slice() else { panic!("one pair: {changes:?}") };
    assert_eq!(members(granted), members(&alone), "head-1 leads, alone as before");
    assert!(granted.stamp.number > alone.stamp.number && granted.stamp.number.epoch == 2);
    assert!(rack.volume().doubt.is_none());
    // Head-2 comes in behind, and may not lead before it was refilled.
    let both = rack.boot("head-2", 8).assignments[0].clone();
    assert_eq!(members(&both), members(&pair));
    let turned: Vec<Member> = both.members.iter().rev().copied().collect();
    let why = rack.proposes("head-2", 8, &wish(&both, &turned, 1)).expect_err("not refilled");
    assert!(why.contains("not refilled"), "{why}");
}

#[test]
fn p04_a_copy_that_lacks_nothing_goes_on_as_it_was() {
    let mut rack = Rack::full();
    rack.boot("head-1", 1);
    let pair = rack.boot("head-2", 2).assignments[0].clone();
    let changes = rack.authority.put_back("the directory was copied");
    rack.carry_out(changes);
    let granted = rack.all_heard(pair.stamp);
    assert_eq!(granted.members, pair.members);
    assert!(granted.stamp.number > pair.stamp.number);
    let turned: Vec<Member> = granted.members.iter().rev().copied().collect();
    rack.proposes("head-2", 2, &wish(&granted, &turned, 1)).expect("head-2 is a full member still");
}

/// Head-3, which the copy knows as idle, was filled since, and then went on alone.
#[test]
fn p04_ma21_a_head_that_the_copy_does_not_connect_with_the_volume_is_heard_too() {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    rack.boot("head-3", 3);
    rack.boot("head-1", 1);
    let pair = rack.boot("head-2", 2).assignments[0].clone();
    let copy = rack.store.clone();
    let third = rack.authority.member(rack.head("head-3")).expect("up");
    let chosen =
        Chosen { head: third.head, leaving: Some(pair.members[1].head), why: String::new(), by_hand: true };
    let changes = rack.authority.replace(VOL0, chosen, 0).expect("chosen");
    rack.carry_out(changes);
    let group = [pair.members[0], third];
    let joined =
        rack.proposes("head-1", 1, &Proposal { caught_up: true, ..wish(&pair, &group, 1) }).expect("vouched");
    let alone = rack.proposes("head-3", 3, &wish(&joined, &[third], 1)).expect("alone");
    rack.put_back(copy);
    let changes = rack.authority.put_back("people said so");
    rack.carry_out(changes);
    rack.says("head-1", std::slice::from_ref(&pair));
    assert_eq!(rack.says("head-2", std::slice::from_ref(&pair)).assignments, [], "head-3 was not heard");
    assert_eq!(rack.awaited(), ["head-3"]);
    let refused = rack.authority.remove_node("head-3").expect_err("its word is waited for").to_string();
    assert!(refused.contains("in doubt"), "{refused}");
    let granted = rack.says("head-3", std::slice::from_ref(&alone)).assignments;
    assert_eq!(members(&granted[0]), [third.head.0]);
    assert_eq!(rack.volume().left.len(), 2, "the others may come back behind it");
}

#[test]
fn p04_people_go_on_without_a_head_that_never_answers_once_they_know_what_may_be_lost() {
    let (mut rack, pair, _) = doubtful(Solo::Local);
    assert_eq!(rack.without(&["head-1"], true), Err(DoubtError::Nobody("vol0".to_owned())));
    rack.says("head-2", std::slice::from_ref(&pair));
    assert!(matches!(rack.without(&["head-2"], true), Err(DoubtError::Heard(..))));
    assert!(matches!(rack.without(&["head-9"], true), Err(DoubtError::NoHead(_))));
    let why = rack.without(&["head-1"], false).expect_err("not accepted").to_string();
    assert!(why.contains("in the log of head-1 only") && why.contains("--accept-loss"), "{why}");
    assert_eq!(rack.awaited(), ["head-1"], "asking changes nothing");
    let granted = rack.without(&["head-1"], true).expect("accepted");
    assert_eq!(members(&granted), [pair.members[1].head.0], "head-2 leads");
    assert!(granted.stamp.number.epoch == 2 && !granted.copies);
    assert_eq!(rack.without(&["head-1"], true), Err(DoubtError::NoDoubt("vol0".to_owned())));
    // Head-1 comes back behind, as one that has to be refilled.
    let both = rack.boot("head-1", 9).assignments[0].clone();
    assert_eq!(members(&both), [pair.members[1].head.0, pair.members[0].head.0]);
    assert!(rack.volume().members[1].joining);
}

#[test]
fn p30_who_goes_on_alone_by_the_word_of_people_makes_copies_where_the_policy_says_so() {
    let (mut rack, pair, _) = doubtful(Solo::Sleds);
    rack.says("head-2", std::slice::from_ref(&pair));
    let granted = rack.without(&["head-1"], true).expect("accepted");
    assert!(granted.copies && granted.salvage.is_none());
    let none = rack.authority.salvage("vol0", "", |_| true);
    assert_eq!(none, Err(RoleError::NoHeir("vol0".to_owned())), "head-1 lacks what is in no copy");
}

/// The copy is of a time when head-1 ran alone with copies; head-1 is gone for good, and its copies are not.
#[test]
fn p30_ma20_a_lone_head_of_the_copy_that_is_gone_is_salvaged_after_the_doubt() {
    let (mut rack, _, pair, alone) = parted(Solo::Sleds);
    assert!(alone.copies);
    let changes = rack.authority.put_back("people said so");
    rack.carry_out(changes);
    rack.says("head-2", std::slice::from_ref(&pair));
    rack.without(&["head-1"], true).expect("accepted");
    assert_eq!(members(&rack.newest_pair()), members(&alone), "nobody of its group is left");
    let changes = rack.authority.salvage("vol0", "it is gone", |_| true).expect("head-2 is heir");
    rack.carry_out(changes);
    assert_eq!(rack.newest_pair().salvage, Some(pair.stamp.number));
}

#[test]
fn p04_one_number_of_two_grants_is_for_people_to_settle() {
    let (mut rack, pair, alone) = doubtful(Solo::Local);
    let stamp = Stamp { grant: GrantId(alone.stamp.grant.0 ^ 1), ..alone.stamp };
    let other = Assignment::plain(stamp, vec![pair.members[1]]);
    rack.says("head-1", std::slice::from_ref(&alone));
    assert_eq!(rack.says("head-2", &[other]).assignments, [], "both acknowledged");
    let why = rack.authority.obstacle(&rack.volume()).expect("in doubt");
    assert!(why.contains("one number of two grants") && why.contains("volume settle vol0"), "{why}");
    let granted = rack.without(&["head-2"], true).expect("head-1's counts");
    assert_eq!(members(&granted), members(&alone));
}

#[test]
fn p03_p04_a_log_whose_word_is_waited_for_is_not_given_up() {
    let (mut rack, pair, _) = doubtful(Solo::Local);
    let log = Identity(log_of(rack.head("head-1")).0);
    let (_, changes) = rack.authority.decide_device("head-1/log", &Medium::Blank, log).expect("known");
    rack.carry_out(changes);
    let refused = rack.authority.replace_device("head-1/log", false).expect_err("refused").to_string();
    assert!(refused.contains("vol0") && refused.contains("settle vol0 --without head-1"), "{refused}");
    rack.says("head-2", std::slice::from_ref(&pair));
    rack.without(&["head-1"], true).expect("accepted");
    assert!(rack.authority.replace_device("head-1/log", false).is_ok());
}

#[test]
fn p04_what_heads_said_outlives_control_and_is_asked_anew_when_the_store_is_put_back_again() {
    let (mut rack, pair, alone) = doubtful(Solo::Local);
    rack.says("head-2", std::slice::from_ref(&pair));
    let again = rack.store.clone();
    rack.put_back(again);
    assert_eq!(rack.awaited(), ["head-1"], "after a restart of control");
    let (head, log) = (rack.head("head-2"), log_of(rack.head("head-2")));
    // Head-2 was heard with an older pair than it comes with now: the copy was put back once more.
    let stamp = Stamp { number: Number { epoch: 1, counter: 9 }, ..pair.stamp };
    let changes = rack.authority.boot(head, BootId(5), log, &[stamp]).expect("noticed");
    rack.carry_out(changes);
    assert_eq!(rack.awaited(), ["head-1", "head-2"]);
    // The head that went on alone comes with what the store knows to be forgotten: no more news.
    let first = rack.head("head-1");
    let changes = rack.authority.boot(first, BootId(6), log_of(first), &[alone.stamp]).expect("known");
    rack.carry_out(changes);
    assert_eq!(rack.awaited(), ["head-1", "head-2"]);
}

#[test]
fn p04_a_late_word_and_a_word_of_another_log_do_not_count() {
    let (mut rack, pair, _) = doubtful(Solo::Local);
    let head = rack.head("head-1");
    let late = rack.authority.heard(head, BootId(77), log_of(head), std::slice::from_ref(&pair));
    assert_eq!(late, Changes::default());
    let blank = rack.authority.heard(head, BootId(1), LogId(5), &[]);
    assert_eq!(blank, Changes::default(), "a blank log knows nothing");
    rack.says("head-1", std::slice::from_ref(&pair));
    assert_eq!(rack.awaited(), ["head-2"]);
}

#[test]
fn p04_a_proposal_hears_nothing_in_doubt_and_its_answer_after_that() {
    let (mut rack, pair, _) = doubtful(Solo::Local);
    let asked = wish(&pair, &[pair.members[1]], 1);
    let verdict = rack.authority.propose(rack.head("head-2"), BootId(2), &asked, 0);
    assert!(verdict.withheld && verdict.changes == Changes::default(), "{verdict:?}");
    rack.all_heard(pair.stamp);
    let verdict = rack.authority.propose(rack.head("head-2"), BootId(2), &asked, 0);
    assert!(!verdict.withheld, "{verdict:?}");
    let why = rack.proposes("head-2", 2, &asked).expect_err("the pair has an epoch of its own now");
    assert!(why.contains("another pair is the newest"), "{why}");
}

#[test]
fn canary_p04_an_answer_in_doubt_is_seen() {
    let (mut rack, pair, _) = doubtful(Solo::Local);
    rack.authority.break_rules(Faults { doubt_answered: true, ..Faults::default() });
    let asked = wish(&pair, &[pair.members[1]], 1);
    let verdict = rack.authority.propose(rack.head("head-2"), BootId(2), &asked, 0);
    assert!(!verdict.withheld && matches!(verdict.outcome, ProposalOutcome::Declined { .. }), "{verdict:?}");
}

#[test]
fn a_store_with_doubts_is_not_for_programs_that_know_of_none_and_one_without_is() {
    let (mut rack, ..) = parted(Solo::Local);
    assert_eq!(rack.authority.meta().format, 2);
    let changes = rack.authority.put_back("people said so");
    rack.carry_out(changes);
    assert_eq!(rack.authority.meta().format, FORMAT);
    let text = serde_json::to_string(&Record::Volume(rack.volume())).expect("JSON");
    assert!(text.contains(r#""doubt":{"why":"people said so"}"#), "{text}");
}

#[test]
fn canary_p04_a_store_that_was_put_back_and_decides_at_once_is_seen() {
    for (broken, lost) in [(false, false), (true, true)] {
        let (mut rack, copy, pair, alone) = parted(Solo::Local);
        rack.authority.break_rules(Faults { doubt_skipped: broken, ..Faults::default() });
        rack.put_back(copy);
        let changes = rack.authority.put_back("people said so");
        rack.store.commit(&changes.records).expect("written");
        rack.authority.apply(&changes);
        let head = rack.head("head-2");
        let wish = wish(&pair, &[pair.members[1]], 1);
        let verdict = rack.authority.propose(head, BootId(2), &wish, 0);
        let granted = matches!(verdict.outcome, ProposalOutcome::Granted(_));
        assert_eq!(granted, lost, "head-1 acknowledged alone under {}", alone.stamp.number);
    }
}
