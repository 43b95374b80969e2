//! Groups of three and four: every member counts for acknowledgements and reads, and the group goes on without
//! whoever is lost (MA-01, MA-07, MA-08, MA-15, MA-18..20, BA-09).

mod head_support;

use head_support::{Rack, Shape, VOLUME};
use palisade_protocol::head::{Clients, FailoverConfig, RoleState, Solo};
use palisade_protocol::wire::*;
use std::time::Duration;

/// The third and the fourth head stand behind six sleds.
const THIRD: usize = 8;
const FOURTH: usize = 9;

fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.reserves) = (512, 1);
    shape.failover = Some(FailoverConfig::default());
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// Without timers that propose: what happens is what the test says.
fn still(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    rack(seed, |shape| {
        shape.failover = None;
        change(shape);
    })
}

/// Place of a head in the rack's nodes.
fn place(rack: &Rack, head: NodeId) -> usize {
    rack.nodes.iter().position(|node| node.id == head).expect("a node")
}

fn heads_of(rack: &Rack, wish: &Proposal) -> Vec<usize> {
    wish.members.iter().map(|member| place(rack, member.head)).collect()
}

/// Waits for the first proposal of a head against the newest pair.
fn proposal(rack: &mut Rack, at: usize) -> Proposal {
    let newest = rack.assigned.clone().expect("granted").stamp;
    let wished = move |rack: &Rack| rack.proposals(at).into_iter().find(|wish| wish.expected == newest);
    rack.run_until("a proposal", |rack| wished(rack).is_some());
    wished(rack).expect("it was there")
}

/// Grants what was proposed: to the proposer at once, and to the others as control tells them.
fn grant(rack: &mut Rack, at: usize, wish: &Proposal) -> u64 {
    let heads = heads_of(rack, wish);
    let granted = rack.decide(&heads);
    assert_eq!(granted.members, wish.members.to_vec(), "members are named with log and boot (P-03)");
    rack.primary = at;
    let number = granted.stamp.number.counter;
    rack.outcome(at, wish.nonce, ProposalOutcome::Granted(granted));
    number
}

/// Grants it, and waits for service.
fn moved(rack: &mut Rack, at: usize, wish: &Proposal) {
    let number = grant(rack, at, wish);
    rack.run_until("service", move |rack| rack.serving(number));
}

fn clients(rack: &mut Rack, at: usize, connected: u32) {
    let (now, clients) = (rack.now, Clients { connected, associated: 3, busiest: false, io: 7 });
    rack.head(at).set_clients(now, VOLUME, clients);
}

fn role(rack: &mut Rack, at: usize) -> RoleState {
    rack.head(at).status().partitions[0].role
}

fn follows(rack: &mut Rack, at: usize, stamp: Stamp) -> bool {
    let status = rack.head(at).status().partitions.remove(0);
    status.role == RoleState::Following && status.stamp == stamp
}

#[test]
fn ma01_groups_of_three_and_four_serve_flush_collect_and_lose_nothing() {
    for reserves in [1, 2] {
        let mut rack = still(reserves as u64, |shape| shape.reserves = reserves);
        rack.workload(150, 300, 8);
        rack.flush_all();
        rack.workload(100, 300, 8);
        rack.verify();
        rack.restart_heads();
        rack.recovered.clear();
        rack.serve();
        rack.verify();
        let log = rack.status().log_blocks;
        assert!(log < 300, "the log was given back where all have the repoints: {log} blocks");
    }
}

/// One secondary of two gets nothing: whether a write, and a read, are answered all the same.
fn answered_without(
    seed: u64,
    lost: fn(&Msg, NodeId, NodeId) -> bool,
    change: fn(&mut Shape),
) -> (bool, bool) {
    let mut rack = still(seed, change);
    rack.workload(20, 100, 4);
    rack.drop_msg = Some(lost);
    let write = rack.write(0, 8);
    let read = rack.submit(ClientVerb::Read { offset: 64 << 12, len: 4096 });
    rack.run_for(Duration::from_secs(2));
    let early = (rack.done.contains_key(&write), rack.done.contains_key(&read));
    rack.drop_msg = None;
    rack.run_until("answers", |rack| rack.done.contains_key(&write) && rack.done.contains_key(&read));
    rack.verify();
    early
}

fn lost_to_second(msg: &Msg, _: NodeId, to: NodeId) -> bool {
    to == NodeId(2) && matches!(msg, Msg::Replicate { .. } | Msg::Confirm { .. })
}

fn lost_to_third(msg: &Msg, _: NodeId, to: NodeId) -> bool {
    to == NodeId(3) && matches!(msg, Msg::Replicate { .. } | Msg::Confirm { .. })
}

#[test]
fn ma07_ma08_every_secondary_has_to_hold_a_write_and_to_confirm_a_read() {
    for lost in [lost_to_second as fn(&Msg, NodeId, NodeId) -> bool, lost_to_third] {
        assert_eq!(answered_without(3, lost, |_| {}), (false, false));
    }
}

#[test]
fn ma07_ma08_one_secondary_that_speaks_for_all_is_seen() {
    let early = answered_without(3, lost_to_third, |shape| shape.faults.first_peer_speaks_for_all = true);
    assert_eq!(early, (true, true));
}

#[test]
fn p12_reads_of_a_turn_cost_one_question_to_each_secondary() {
    let mut rack = still(4, |_| {});
    rack.workload(20, 100, 4);
    let before = rack.sent.get("confirm").copied().unwrap_or_default();
    let verb = |at: u64| ClientVerb::Read { offset: at << 12, len: 4096 };
    let tags: Vec<u64> = (0..16).map(|at| rack.submit(verb(at))).collect();
    for tag in tags {
        assert!(rack.wait(tag).is_ok());
    }
    assert_eq!(rack.sent["confirm"] - before, 2);
}

#[test]
fn p31_the_least_credit_of_all_secondaries_counts() {
    let mut rack = still(5, |shape| shape.blocks = 2048);
    rack.drop_msg = Some(|msg, from, _| {
        from == NodeId(3) && matches!(msg, Msg::Replicated { durable, .. } if durable.0 > 8)
    });
    let tags: Vec<u64> = (0..200).map(|at| rack.write(at * 64, 64)).collect();
    rack.run_for(Duration::from_secs(1));
    let sent = rack.status().tail.0;
    assert!((8..200).contains(&sent), "the third gave no more credit: {sent} operations");
    rack.drop_msg = None;
    rack.wait_all(&tags);
}

#[test]
fn p06_p13_a_new_primary_takes_the_end_of_the_log_from_whoever_has_it() {
    // What was numbered last reached the third head only; the second takes over, with or without it.
    for with_third in [true, false] {
        let mut rack = still(6, |_| {});
        rack.workload(20, 100, 4);
        let common = rack.status().tail;
        rack.drop_msg = Some(|msg, _, to| to == NodeId(2) && matches!(msg, Msg::Replicate { .. }));
        let tags: Vec<u64> = (0..12).map(|at| rack.write(at * 8, 8)).collect();
        rack.run_for(Duration::from_millis(50));
        assert!(tags.iter().all(|tag| !rack.done.contains_key(tag)), "the second head has none of them");
        rack.crash(0);
        rack.drop_msg = None;
        rack.move_to(if with_third { &[1, THIRD] } else { &[1] });
        assert_eq!(rack.status().tail.0, common.0 + if with_third { 12 } else { 0 });
        rack.verify();
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.contains(&NodeId(1)));
        rack.move_to(&[1, 0, THIRD]);
        rack.workload(20, 100, 4);
        // Each of the others serves the same.
        rack.move_to(&[THIRD, 1, 0]);
        rack.verify();
        rack.move_to(&[0, THIRD, 1]);
        rack.verify();
    }
}

#[test]
fn p06_the_tail_is_not_fixed_before_every_member_was_asked() {
    let mut rack = still(7, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[THIRD].cut = true;
    rack.decide(&[1, 0, THIRD]);
    rack.assign();
    rack.primary = 1;
    rack.run_for(Duration::from_secs(2));
    assert_eq!(role(&mut rack, 1), RoleState::Reconciling);
    rack.nodes[THIRD].cut = false;
    rack.run_until("service", |rack| rack.serving(2));
    rack.verify();
}

#[test]
fn p30_a_member_that_went_another_way_is_cut_and_refilled_among_several() {
    for seed in 0..3 {
        let mut rack = still(10 + seed, |_| {});
        rack.workload(20, 100, 4);
        // The first head numbers operations that nobody else gets, and is left behind.
        rack.drop_msg = Some(|msg, from, _| from == NodeId(1) && matches!(msg, Msg::Replicate { .. }));
        let lost: Vec<u64> = (0..9).map(|at| rack.write(at * 8, 8)).collect();
        rack.run_for(Duration::from_millis(50));
        assert!(lost.iter().all(|tag| !rack.done.contains_key(tag)));
        rack.crash(0);
        rack.drop_msg = None;
        rack.move_to(&[1, THIRD]);
        // The same blocks under the same operation numbers, without it: two copies are enough to go on.
        let tags: Vec<u64> = (0..9).map(|at| rack.write(at * 8, 8)).collect();
        rack.wait_all(&tags);
        rack.restart(0);
        rack.run_until("recovery", |rack| rack.recovered.contains(&NodeId(1)));
        rack.move_to(&[1, THIRD, 0]);
        rack.move_to(&[0, 1, THIRD]);
        rack.verify();
    }
}

#[test]
fn ma20_a_silent_secondary_of_several_is_left_behind_and_nothing_is_acknowledged_before() {
    for (seed, solo) in [(20, Solo::Wait), (21, Solo::Local)] {
        let mut rack = rack(seed, |shape| shape.solo = solo);
        rack.workload(20, 100, 4);
        rack.crash(THIRD);
        let write = rack.write(0, 8);
        let wish = proposal(&mut rack, 0);
        assert_eq!((heads_of(&rack, &wish), wish.why), (vec![0, 1], Why::Silence));
        rack.run_for(Duration::from_secs(1));
        assert!(!rack.done.contains_key(&write), "held until the outcome is known (P-02)");
        assert_eq!(rack.proposals(1).len(), 0, "the other secondary hears its primary");
        grant(&mut rack, 0, &wish);
        assert!(rack.wait(write).is_ok());
        let stamp = rack.assigned.clone().expect("granted").stamp;
        assert!(follows(&mut rack, 1, stamp), "the survivor holds the new group (MA-22)");
        rack.workload(20, 100, 4);
        rack.verify();
        // One of two is left: what one head alone may do is the volume's policy.
        rack.crash(1);
        rack.run_for(Duration::from_secs(1));
        let alone = rack.proposals(0).iter().any(|wish| wish.members.len() == 1);
        assert_eq!(alone, solo == Solo::Local);
    }
}

#[test]
fn ma20_a_member_that_was_left_behind_is_never_promoted_from_its_old_number() {
    let mut rack = rack(22, |_| {});
    rack.workload(20, 100, 4);
    let old = rack.assigned.clone().expect("granted").stamp;
    rack.nodes[THIRD].cut = true;
    let wish = proposal(&mut rack, 0);
    moved(&mut rack, 0, &wish);
    let tags: Vec<u64> = (0..9).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    rack.nodes[THIRD].cut = false;
    rack.run_for(Duration::from_secs(3));
    for wish in rack.proposals(THIRD) {
        assert_eq!(wish.expected, old, "the authority declines what is made against an old pair");
    }
    assert_ne!(role(&mut rack, THIRD), RoleState::Serving);
    rack.verify();
}

#[test]
fn ma20_a_new_primary_whose_secondary_dies_while_it_asks_goes_on_with_the_others() {
    for seed in 0..3 {
        let mut rack = rack(30 + seed, |shape| shape.reserves = 2);
        rack.workload(30, 100, 4);
        let tags: Vec<u64> = (0..9).map(|at| rack.write(at * 8, 8)).collect();
        rack.wait_all(&tags);
        rack.crash(0);
        let wish = proposal(&mut rack, 1);
        assert_eq!(heads_of(&rack, &wish), vec![1, THIRD, FOURTH]);
        rack.crash(THIRD);
        grant(&mut rack, 1, &wish);
        let next = proposal(&mut rack, 1);
        assert_eq!(heads_of(&rack, &next), vec![1, FOURTH]);
        moved(&mut rack, 1, &next);
        rack.verify();
    }
}

#[test]
fn ma15_the_surviving_secondaries_follow_the_one_that_took_over() {
    for seed in 0..4 {
        let mut rack = rack(40 + seed, |_| {});
        rack.workload(30, 100, 4);
        rack.crash(0);
        let wish = proposal(&mut rack, 1);
        assert_eq!((heads_of(&rack, &wish), wish.why), (vec![1, THIRD], Why::Silence));
        moved(&mut rack, 1, &wish);
        let stamp = rack.assigned.clone().expect("granted").stamp;
        assert!(follows(&mut rack, THIRD, stamp));
        let write = rack.write(0, 8);
        assert!(rack.wait(write).is_ok(), "two copies are enough to go on");
        rack.verify();
    }
}

#[test]
fn ma18_ma19_d_of_two_secondaries_that_clients_ask_one_wins_and_the_other_follows_it() {
    for seed in 0..4 {
        let mut rack = rack(50 + seed, |_| {});
        rack.workload(30, 100, 4);
        rack.crash(0);
        for at in [1, THIRD] {
            rack.head(at).client_asks(VOLUME, 5);
        }
        let (first, second) = (proposal(&mut rack, 1), proposal(&mut rack, THIRD));
        assert_eq!(first.expected, second.expected);
        assert_eq!(heads_of(&rack, &second), vec![THIRD, 1]);
        let number = grant(&mut rack, 1, &first);
        let newest = rack.assigned.clone();
        let tried = rack.proposals(THIRD).len();
        rack.outcome(THIRD, second.nonce, ProposalOutcome::Declined { newest });
        rack.run_until("service", move |rack| rack.serving(number));
        let stamp = rack.assigned.clone().expect("granted").stamp;
        rack.run_until("the loser follows", |rack| follows(rack, THIRD, stamp));
        rack.run_for(Duration::from_secs(3));
        assert_eq!(rack.proposals(THIRD).len(), tried, "it does not try the next number");
        rack.verify();
    }
}

#[test]
fn ma19_e_a_client_that_reaches_the_loser_only_moves_nothing_while_the_winner_has_clients() {
    let mut rack = rack(54, |_| {});
    rack.crash(0);
    let wish = proposal(&mut rack, 1);
    moved(&mut rack, 1, &wish);
    clients(&mut rack, 1, 2);
    let tried = rack.proposals(THIRD).len();
    rack.head(THIRD).client_asks(VOLUME, 5);
    rack.run_for(Duration::from_secs(1));
    assert_eq!(rack.proposals(THIRD).len(), tried);
    // When all clients have lost the winner, its turn comes.
    clients(&mut rack, 1, 0);
    rack.head(THIRD).client_asks(VOLUME, 5);
    let wish = proposal(&mut rack, THIRD);
    assert_eq!((heads_of(&rack, &wish), wish.why), (vec![THIRD, 1], Why::ClientAsked));
}

#[test]
fn ma19_f_a_client_that_stayed_with_the_old_primary_is_refused_by_every_confirm() {
    let mut rack = rack(55, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[0].cut = true;
    let wish = proposal(&mut rack, 1);
    assert_eq!(heads_of(&rack, &wish), vec![1, THIRD]);
    moved(&mut rack, 1, &wish);
    rack.run_for(Duration::from_millis(100));
    let write = rack.write(0, 8);
    assert!(rack.wait(write).is_ok());
    // Its link to one of the two heals, and a client reads there.
    rack.nodes[0].cut = false;
    rack.drop_msg =
        Some(|_, from, to| (from, to) == (NodeId(1), NodeId(2)) || (from, to) == (NodeId(2), NodeId(1)));
    rack.primary = 0;
    let read = rack.submit(ClientVerb::Read { offset: 0, len: 4096 });
    assert!(matches!(rack.wait(read), Err(ClientError::NotServed)), "the third head names the newer pair");
    rack.drop_msg = None;
    rack.primary = 1;
    rack.verify();
}

/// The link between the first two heads is cut both ways.
fn first_link(_: &Msg, from: NodeId, to: NodeId) -> bool {
    from.0 + to.0 == 3
}

#[test]
fn ma19_i_where_only_one_link_is_cut_the_first_proposal_wins_and_the_other_is_abandoned() {
    for primary_first in [true, false] {
        let mut rack = rack(56, |_| {});
        rack.workload(20, 100, 4);
        rack.drop_msg = Some(first_link);
        let (drops, takes) = (proposal(&mut rack, 0), proposal(&mut rack, 1));
        assert_eq!(heads_of(&rack, &drops), vec![0, THIRD], "the primary wants to go on without the second");
        assert_eq!(heads_of(&rack, &takes), vec![1, THIRD], "the second head wants to take over");
        let (winner, wins, loser, loses) =
            if primary_first { (0, &drops, 1, &takes) } else { (1, &takes, 0, &drops) };
        let number = grant(&mut rack, winner, wins);
        let newest = rack.assigned.clone();
        rack.outcome(loser, loses.nonce, ProposalOutcome::Declined { newest });
        rack.run_until("service", move |rack| rack.serving(number));
        rack.run_for(Duration::from_millis(500));
        assert_ne!(role(&mut rack, loser), RoleState::Serving, "never two");
        let stamp = rack.assigned.clone().expect("granted").stamp;
        assert!(follows(&mut rack, THIRD, stamp), "the third goes along with the winner");
        for wish in rack.proposals(loser).iter().chain(&rack.proposals(THIRD)) {
            assert!(wish.expected.number < stamp.number, "nobody tries the next number");
        }
        let write = rack.write(0, 8);
        assert!(rack.wait(write).is_ok());
        rack.verify();
    }
}

#[test]
fn ma15_a_secondary_that_hears_nobody_gives_the_others_time_to_go_on_without_it() {
    let mut rack = rack(57, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[THIRD].cut = true;
    let wish = proposal(&mut rack, 0);
    assert!(rack.proposals(THIRD).is_empty(), "the primary was first");
    moved(&mut rack, 0, &wish);
    let alone = rack
        .proposals(THIRD)
        .iter()
        .all(|wish| wish.expected.number < rack.assigned.clone().expect("granted").stamp.number);
    assert!(alone);
    rack.verify();
}

#[test]
fn p06_op27_a_rotten_block_of_the_log_comes_from_whichever_member_still_has_it() {
    let mut rack = still(60, |shape| shape.hot_bytes = 0);
    let tags: Vec<u64> = (0..40).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    assert!(rack.rot_blocks(0, 0..40) > 0 && rack.rot_blocks(1, 0..40) > 0);
    rack.verify();
    assert!(rack.counters().repaired > 0, "the third head had them all");
}

/// What a third head tells of its log stays on its way.
fn third_announces(msg: &Msg, from: NodeId, _: NodeId) -> bool {
    from == NodeId(3) && matches!(msg, Msg::Announced { .. })
}

#[test]
fn ba01_a_member_that_has_not_answered_yet_is_not_taken_for_one_that_needs_a_copy() {
    let mut rack = still(61, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[1].cut = true;
    rack.move_to(&[0, THIRD]);
    for _ in 0..4 {
        rack.workload(60, 500, 8);
        rack.flush_all();
        rack.run_for(Duration::from_secs(1));
    }
    // The log was given back, so that the second head cannot follow from it; the third has everything.
    rack.nodes[1].cut = false;
    rack.hold_msg = Some(third_announces);
    rack.decide(&[0, 1, THIRD]);
    rack.assign();
    let away = |rack: &Rack, head: u32| {
        let of = |event: &&Event| matches!(event, Event::PeerAway { peer, .. } if *peer == NodeId(head));
        rack.events.iter().filter(of).count()
    };
    let notes = |rack: &Rack| {
        let of = |event: &&Event| matches!(event, Event::Note(text) if text.contains("secondary 3 holds"));
        rack.events.iter().filter(of).count()
    };
    rack.run_until("the second needs a copy", |rack| away(rack, 2) > 0);
    assert_eq!(notes(&rack), 0);
    rack.let_go();
    rack.run_for(Duration::from_millis(100));
    assert_eq!((notes(&rack), away(&rack, 3)), (0, 0));
}

#[test]
fn ma15_a_primary_that_dies_before_it_comes_forward_is_replaced_by_those_who_were_told() {
    for seed in 0..3 {
        let mut rack = rack(70 + seed, |_| {});
        rack.workload(30, 100, 4);
        // The second head starts again, and all get a new number; the primary dies before it speaks of it.
        rack.restart(1);
        rack.run_until("recovery", |rack| rack.recovered.contains(&NodeId(2)));
        let granted = rack.decide(&[0, 1, THIRD]);
        rack.crash(0);
        rack.tell(1);
        rack.tell(THIRD);
        let start = rack.now;
        let found = |rack: &Rack| {
            let of = |at: usize| rack.proposals(at).into_iter().find(|wish| wish.expected == granted.stamp);
            [1, THIRD].into_iter().find_map(|at| of(at).map(|wish| (at, wish)))
        };
        rack.run_until("a proposal", |rack| found(rack).is_some());
        assert!(rack.now.since(start) >= Duration::from_millis(200), "it may have been on its way");
        let (at, wish) = found(&rack).expect("it was there");
        assert_eq!(wish.members.len(), 2, "the other one is heard");
        moved(&mut rack, at, &wish);
        rack.verify();
    }
}

#[test]
fn ma15_a_primary_that_lives_and_is_told_late_is_waited_for() {
    let mut rack = rack(73, |_| {});
    rack.workload(30, 100, 4);
    rack.restart(1);
    rack.run_until("recovery", |rack| rack.recovered.contains(&NodeId(2)));
    rack.decide(&[0, 1, THIRD]);
    rack.tell(1);
    rack.tell(THIRD);
    rack.run_for(Duration::from_millis(700));
    rack.tell(0);
    rack.run_until("service", |rack| rack.serving(2));
    rack.run_for(Duration::from_millis(500));
    assert!([1, THIRD].into_iter().all(|at| rack.proposals(at).is_empty()), "its signs of life count");
    rack.verify();
}
