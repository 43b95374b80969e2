//! Proposals of heads: MA-04, MA-05, MA-17, MA-18, MA-21, BA-06, P-01..P-04, `SoloByLeave`.

use palisade_protocol::wire::{Assignment, Member, Proposal, ProposalOutcome, Why};

use super::*;
use crate::config::Solo;

impl<S: Store> Rack<S> {
    /// Both heads are up; the pair that vol0 got, head-1 before head-2.
    fn paired(&mut self) -> Assignment {
        self.boot("head-1", 1);
        let changes = self.boot("head-2", 2);
        changes.assignments.first().cloned().expect("granted")
    }

    /// What is answered, carried out.
    fn ask(&mut self, name: &str, boot: u128, wish: &Proposal) -> ProposalOutcome {
        self.ask_at(name, boot, wish, 0).0
    }

    fn ask_at(&mut self, name: &str, boot: u128, wish: &Proposal, now_ms: u64) -> (ProposalOutcome, String) {
        let verdict = self.authority.propose(self.head(name), BootId(boot), wish, now_ms);
        self.carry_out(verdict.changes);
        (verdict.outcome, verdict.why)
    }

    fn granted(&mut self, name: &str, boot: u128, wish: &Proposal) -> Assignment {
        match self.ask_at(name, boot, wish, 0) {
            (ProposalOutcome::Granted(assignment), _) => assignment,
            (_, why) => panic!("declined: {why}"),
        }
    }

    /// Why it is declined; the newest pair comes along and nothing moved.
    fn refused(&mut self, name: &str, boot: u128, wish: &Proposal) -> String {
        let newest = self.authority.query(wish.partition);
        let (outcome, why) = self.ask_at(name, boot, wish, 0);
        assert_eq!(outcome, ProposalOutcome::Declined { newest: newest.clone() }, "{why}");
        assert_eq!(self.authority.query(wish.partition), newest, "a declined proposal moves nothing");
        assert!(!why.is_empty(), "a reason is given");
        why
    }

    fn member(&self, name: &str, boot: u128) -> Member {
        let head = self.head(name);
        Member { head, log: log_of(head), boot: BootId(boot) }
    }

    /// vol0 may run alone.
    fn alone_allowed(&mut self) {
        let request = VolumeRequest { solo: Solo::Local, ..request("vol0") };
        let changes = self.authority.create_volume(&request).expect("its policy changes");
        self.carry_out(changes);
    }

    /// head-2 took over alone, head-1 came back as boot 3.
    fn came_back(&mut self) -> Assignment {
        let pair = self.paired();
        let alone = wish(&pair, &[pair.members[1]], 1);
        self.granted("head-2", 2, &alone);
        self.boot("head-1", 3).assignments[0].clone()
    }
}

pub(super) fn wish(pair: &Assignment, members: &[Member], nonce: u64) -> Proposal {
    let members = members.iter().copied().collect();
    let (expected, why) = (pair.stamp, Why::Silence);
    Proposal { partition: expected.partition, expected, members, nonce, why, caught_up: false }
}

fn turned(pair: &Assignment) -> Vec<Member> {
    pair.members.iter().rev().copied().collect()
}

fn heads_of(pair: &Assignment) -> Vec<NodeId> {
    pair.members.iter().map(|member| member.head).collect()
}

#[test]
fn ma05_only_the_newest_pair_can_be_changed_and_the_next_number_is_durable() {
    let mut rack = Rack::full();
    let pair = rack.paired();
    let next = rack.granted("head-2", 2, &wish(&pair, &turned(&pair), 1));
    assert_eq!(next.stamp.number.counter, pair.stamp.number.counter + 1, "EF-14");
    assert_ne!(next.stamp.grant, pair.stamp.grant);
    assert_eq!(next.members, turned(&pair), "the order says the roles (MA-04)");
    let reloaded = Rack::on(rack.store.clone());
    assert_eq!(
        reloaded.authority.query(pair.stamp.partition),
        Some(next.clone()),
        "durable before it is told"
    );
    let why = rack.refused("head-1", 1, &wish(&pair, &[pair.members[0]], 1));
    assert!(why.contains("another pair"), "{why}");
    let forged = Stamp { grant: GrantId(next.stamp.grant.0 ^ 1), ..next.stamp };
    let forged = Assignment::plain(forged, next.members.clone());
    rack.refused("head-2", 2, &wish(&forged, &turned(&next), 2));
}

#[test]
fn ma18_of_two_racing_members_the_first_wins_and_the_other_hears_the_winner() {
    let mut rack = Rack::full();
    let pair = rack.paired();
    let (drop_second, take_over) = (wish(&pair, &[pair.members[0]], 1), wish(&pair, &[pair.members[1]], 1));
    let won = rack.granted("head-2", 2, &take_over);
    let lost = rack.ask("head-1", 1, &drop_second);
    assert_eq!(lost, ProposalOutcome::Declined { newest: Some(won) });
}

#[test]
fn p02_a_repeated_proposal_gets_the_same_answer_whatever_came_after() {
    let mut rack = Rack::full();
    let pair = rack.paired();
    let first = wish(&pair, &turned(&pair), 7);
    let granted = rack.granted("head-2", 2, &first);
    let verdict = rack.authority.propose(rack.head("head-2"), BootId(2), &first, 0);
    assert_eq!(verdict.changes, Changes::default(), "nothing is granted twice");
    assert_eq!(verdict.outcome, ProposalOutcome::Granted(granted.clone()));
    rack.boot("head-1", 3);
    let mut rack = Rack::on(rack.store.clone());
    assert_eq!(rack.granted("head-2", 2, &first), granted, "also by a control that started again");
}

#[test]
fn p02_a_nonce_names_one_content_and_a_declined_proposal_stays_declined() {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    let pair = rack.paired();
    let later = rack.member("head-3", 9);
    let group = [pair.members[0], later];
    let early = Proposal { caught_up: true, ..wish(&pair, &group, 4) };
    assert!(rack.refused("head-1", 1, &early).contains("P-01"), "head-3 has not started");
    rack.boot("head-3", 9);
    assert!(rack.refused("head-1", 1, &early).contains("declined before"), "though it would be granted now");
    let other = Proposal { members: turned(&pair).into_iter().collect(), ..early };
    assert!(rack.refused("head-1", 1, &other).contains("another proposal"));
    rack.granted("head-1", 1, &Proposal { nonce: 5, ..other.clone() });
    assert!(rack.refused("head-1", 1, &other).contains("followed"), "a late copy of an earlier one");
}

#[test]
fn ma04_proposer_and_primary_are_of_the_old_group_and_no_head_stands_twice() {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    let pair = rack.paired();
    rack.boot("head-3", 9);
    let stranger = rack.member("head-3", 9);
    let [first, second] = [pair.members[0], pair.members[1]];
    let why = rack.refused("head-3", 9, &wish(&pair, &[second, first], 1));
    assert!(why.contains("proposer is not of"), "{why}");
    let vouched = |members: &[Member], nonce| Proposal { caught_up: true, ..wish(&pair, members, nonce) };
    let why = rack.refused("head-1", 1, &vouched(&[stranger, first], 1));
    assert!(why.contains("primary is not of"), "{why}");
    let why = rack.refused("head-1", 1, &wish(&pair, &[first, first], 2));
    assert!(why.contains("twice"), "{why}");
    let why = rack.refused("head-1", 1, &wish(&pair, &[], 3));
    assert!(why.contains("1 to 4"), "{why}");
    let nowhere = Proposal { partition: PartitionId(77), ..wish(&pair, &[first], 4) };
    assert_eq!(rack.ask("head-1", 1, &nowhere), ProposalOutcome::Declined { newest: None });
}

#[test]
fn p01_p03_members_are_heads_under_their_newest_boot_with_the_log_they_had() {
    let mut rack = Rack::full();
    let pair = rack.paired();
    let [first, second] = [pair.members[0], pair.members[1]];
    let other_boot = Member { boot: BootId(8), ..first };
    assert!(rack.refused("head-2", 2, &wish(&pair, &[second, other_boot], 1)).contains("P-01"));
    let other_log = Member { log: LogId(5), ..first };
    assert!(rack.refused("head-2", 2, &wish(&pair, &[second, other_log], 2)).contains("P-03"));
    let pair = rack.boot("head-2", 3).assignments[0].clone();
    let why = rack.refused("head-2", 2, &wish(&pair, &turned(&pair), 3));
    assert!(why.contains("boot that is over"), "{why}");
}

#[test]
fn solo_by_leave_a_head_is_alone_only_after_it_asked_and_stays_so_over_its_restarts() {
    let mut rack = Rack::full();
    let pair = rack.paired();
    for boot in 3..6 {
        assert_eq!(rack.boot("head-2", boot).assignments[0].members.len(), 2, "no boot drops anybody");
    }
    let pair = Assignment { stamp: rack.authority.query(pair.stamp.partition).expect("some").stamp, ..pair };
    let granted = rack.granted("head-2", 5, &wish(&pair, &[rack.member("head-2", 5)], 1));
    assert_eq!(heads_of(&granted), [rack.head("head-2")]);
    let spec = rack.authority.partition(pair.stamp.partition).expect("there");
    assert_eq!(
        (spec.solo, spec.secondary),
        (Solo::Wait, Some(rack.head("head-1").0)),
        "P-30: it waits for head-1"
    );
    rack.alone_allowed();
    assert_eq!(rack.authority.partition(pair.stamp.partition).expect("there").solo, Solo::Local);
    let again = rack.boot("head-2", 6).assignments[0].clone();
    assert_eq!(
        heads_of(&again),
        [rack.head("head-2")],
        "who was alone starts alone: the other lacks its writes"
    );
    assert!(again.stamp.number > granted.stamp.number);
}

#[test]
fn ma21_who_came_back_cannot_take_over_before_it_is_refilled() {
    let mut rack = Rack::full();
    let pair = rack.came_back();
    assert_eq!(heads_of(&pair), [rack.head("head-2"), rack.head("head-1")]);
    assert!(rack.refused("head-1", 3, &wish(&pair, &turned(&pair), 1)).contains("refilled"));
    assert!(rack.authority.switch_over("vol0", "planned").is_err());
    // Restarts of either change nothing about that.
    let pair = rack.boot("head-2", 4).assignments[0].clone();
    assert!(rack.refused("head-1", 3, &wish(&pair, &[pair.members[1]], 2)).contains("refilled"));
    let stale = rack.authority.served(rack.head("head-1"), pair.stamp);
    assert_eq!(stale, Changes::default(), "only the primary's word counts");
    let served = rack.authority.served(rack.head("head-2"), pair.stamp);
    rack.carry_out(served);
    assert_eq!(rack.authority.served(rack.head("head-2"), pair.stamp), Changes::default());
    let turned = rack.granted("head-1", 3, &wish(&pair, &turned(&pair), 3));
    assert_eq!(heads_of(&turned), [rack.head("head-1"), rack.head("head-2")]);
}

#[test]
fn ma21_a_new_member_joins_on_the_primarys_word_only() {
    let mut rack = Rack::full();
    rack.declare("head-3", Role::Head, "head-3", "head-3/log".to_owned(), 0);
    let pair = rack.paired();
    rack.boot("head-3", 9);
    let [first, second] = [pair.members[0], pair.members[1]];
    let group = [first, rack.member("head-3", 9)];
    assert!(rack.refused("head-1", 1, &wish(&pair, &group, 1)).contains("vouches"));
    let vouched = |by: Member, nonce| {
        let members = [by, rack.member("head-3", 9)];
        Proposal { caught_up: true, why: Why::Joined, ..wish(&pair, &members, nonce) }
    };
    let (by_second, by_first) = (vouched(second, 1), vouched(first, 2));
    assert!(rack.refused("head-2", 2, &by_second).contains("vouches"), "a secondary cannot know");
    let joined = rack.granted("head-1", 1, &by_first);
    assert_eq!(heads_of(&joined), [rack.head("head-1"), rack.head("head-3")]);
    let again = rack.boot("head-2", 5);
    assert_eq!(again.assignments, [], "the group is whole without the one that left");
    let pair = joined;
    rack.granted("head-3", 9, &wish(&pair, &[pair.members[1], pair.members[0]], 1));
}

#[test]
fn ma17_moves_of_an_answering_primary_are_counted_within_a_window() {
    let mut rack = Rack::full();
    let mut pair = rack.paired();
    let id = pair.stamp.partition;
    let mut flip = |rack: &mut Rack<Memory>, nonce, why, now_ms| {
        let by = if heads_of(&pair)[0] == rack.head("head-1") { ("head-2", 2) } else { ("head-1", 1) };
        let wish = Proposal { why, ..wish(&pair, &turned(&pair), nonce) };
        let (outcome, why) = rack.ask_at(by.0, by.1, &wish, now_ms);
        let ProposalOutcome::Granted(next) = outcome else { panic!("declined: {why}") };
        pair = next;
    };
    for nonce in 1..=4 {
        flip(&mut rack, nonce, Why::Silence, 1_000);
    }
    assert!(!rack.authority.paused(id, 1_000), "a silent primary may always be replaced");
    flip(&mut rack, 5, Why::ClientAsked, 1_000);
    flip(&mut rack, 6, Why::Unhealthy, 2_000);
    assert!(!rack.authority.paused(id, 2_000));
    flip(&mut rack, 7, Why::ClientAsked, 3_000);
    assert!(rack.authority.paused(id, 3_000), "three within ten minutes");
    let reloaded = Rack::on(rack.store.clone());
    assert!(reloaded.authority.paused(id, 3_000), "it is kept");
    assert!(!rack.authority.paused(id, 1_000 + PAUSE_WINDOW_MS), "the first no longer counts");
    assert!(!rack.authority.paused(id, 0), "a clock that was set back pauses nothing");
    flip(&mut rack, 8, Why::Silence, 3_000);
}

#[test]
fn a_proposal_on_an_older_pair_that_is_granted_is_seen_ma_05() {
    canary(Faults { compare_skipped: true, ..Faults::default() }, |rack| {
        let (old, newest) = (rack.paired(), rack.boot("head-2", 3).assignments[0].clone());
        let members = turned(&newest);
        let verdict = rack.authority.propose(rack.head("head-2"), BootId(3), &wish(&old, &members, 1), 0);
        matches!(verdict.outcome, ProposalOutcome::Granted(_))
    });
}

#[test]
fn a_forgotten_answer_is_seen_p_02() {
    canary(Faults { permission_forgotten: true, ..Faults::default() }, |rack| {
        let pair = rack.paired();
        let wish = wish(&pair, &turned(&pair), 1);
        let head = rack.head("head-2");
        let first = rack.authority.propose(head, BootId(2), &wish, 0);
        rack.authority.apply(&first.changes);
        rack.authority.propose(head, BootId(2), &wish, 0).outcome != first.outcome
    });
}

/// Whether what head-1 wants of its group is granted, with a rule broken or not.
fn granted_in(rack: &Rack<Memory>, pair: &Assignment, members: &[Member]) -> bool {
    let by = rack.head("head-1");
    let boot = pair.member(by).expect("a member").boot;
    let verdict = rack.authority.propose(by, boot, &wish(pair, members, 9), 0);
    matches!(verdict.outcome, ProposalOutcome::Granted(_))
}

#[test]
fn a_take_over_by_one_that_came_back_is_seen_ma_21() {
    for (broken, expected) in [(false, false), (true, true)] {
        let mut rack = Rack::full();
        let pair = rack.came_back();
        rack.authority.break_rules(Faults { joiner_trusted: broken, ..Faults::default() });
        assert_eq!(granted_in(&rack, &pair, &turned(&pair)), expected);
    }
}
