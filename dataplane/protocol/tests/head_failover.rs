//! Who is silent, what is proposed about it, and what holds until the outcome is known (MA-13, MA-14,
//! MA-17..19, P-02).

mod head_support;

use head_support::{Rack, Shape, VOLUME};
use palisade_protocol::head::{Clients, FailoverConfig, RoleState, Solo};
use palisade_protocol::wire::*;
use std::time::Duration;

fn rack(seed: u64, change: impl FnOnce(&mut Shape)) -> Rack {
    let mut shape = Shape::new(seed);
    (shape.blocks, shape.failover) = (512, Some(FailoverConfig::default()));
    change(&mut shape);
    let mut rack = Rack::new(shape);
    rack.serve();
    rack
}

/// Waits for the first proposal of a head, and says how long that took.
fn proposal(rack: &mut Rack, at: usize) -> (Proposal, Duration) {
    let start = rack.now;
    rack.run_until("a proposal", |rack| !rack.proposals(at).is_empty());
    (rack.proposals(at).remove(0), rack.now.since(start))
}

/// Grants what was proposed.
fn grant(rack: &mut Rack, at: usize, wish: &Proposal) {
    let heads: Vec<usize> = wish.members.iter().map(|member| member.head.0 as usize - 1).collect();
    let granted = rack.decide(&heads);
    assert_eq!(granted.members, wish.members.to_vec(), "members are named with log and boot (P-03)");
    rack.outcome(at, wish.nonce, ProposalOutcome::Granted(granted));
}

fn clients(rack: &mut Rack, at: usize, connected: u32) {
    let (now, clients) = (rack.now, Clients { connected, associated: 3, busiest: false, io: 7 });
    rack.head(at).set_clients(now, VOLUME, clients);
}

fn serving(rack: &mut Rack, at: usize) -> bool {
    rack.head(at).status().partitions[0].role == RoleState::Serving
}

#[test]
fn ma19_c_a_dead_primary_is_replaced_within_the_default_times() {
    for seed in 0..4 {
        let mut rack = rack(seed, |_| {});
        let expected = rack.assigned.clone().expect("granted").stamp;
        rack.workload(30, 100, 4);
        rack.crash(0);
        let (wish, took) = proposal(&mut rack, 1);
        assert!(took >= Duration::from_millis(75) && took <= Duration::from_millis(225), "{took:?}");
        assert_eq!((wish.expected, wish.why, wish.members.len()), (expected, Why::Silence, 1));
        rack.primary = 1;
        let start = rack.now;
        grant(&mut rack, 1, &wish);
        rack.run_until("service", |rack| rack.serving(2));
        assert!(rack.now.since(start) < Duration::from_millis(75), "the rest of 300 ms");
        rack.verify();
    }
}

#[test]
fn ma15_a_primary_whose_process_is_said_to_be_gone_is_replaced_without_waiting_for_its_silence() {
    for seed in 0..4 {
        let mut rack = rack(seed, |_| {});
        rack.workload(30, 100, 4);
        rack.run_for(Duration::from_secs(1));
        let (boot, id) = (rack.assigned.clone().expect("granted").members[0].boot, NodeId(1));
        rack.crash(0);
        let now = rack.now;
        rack.head(1).peer_gone(now, id, boot);
        let (wish, took) = proposal(&mut rack, 1);
        assert!(took >= Duration::from_millis(50) && took <= Duration::from_millis(80), "{took:?}");
        assert_eq!((wish.why, wish.members.len()), (Why::Silence, 1));
    }
}

#[test]
fn ma13_a_head_that_lives_is_left_in_place_whoever_says_that_its_process_is_gone() {
    let mut rack = rack(1, |shape| shape.solo = Solo::Local);
    rack.run_for(Duration::from_secs(1));
    let members = rack.assigned.clone().expect("granted").members;
    for (at, other) in [(1, 0), (0, 1)] {
        let (now, other) = (rack.now, members[other]);
        rack.head(at).peer_gone(now, other.head, other.boot);
        rack.head(at).peer_gone(now, other.head, BootId(99));
        rack.run_for(Duration::from_secs(1));
        assert!(rack.proposals(at).is_empty(), "it answers");
    }
    assert_eq!(rack.sent["health_ask"], 1, "the secondary asked its primary, once");
}

#[test]
fn ma13_members_that_live_are_not_taken_for_dead_idle_or_busy() {
    let mut rack = rack(1, |shape| shape.solo = Solo::Local);
    rack.run_for(Duration::from_secs(2));
    rack.workload(60, 200, 16);
    rack.flush_all();
    assert!(rack.proposals(0).is_empty() && rack.proposals(1).is_empty());
    let asked = rack.sent.get("health_ask").copied().unwrap_or_default();
    assert_eq!(asked, 0, "nobody was silent");
    assert!(rack.sent["heartbeat"] > 100);
}

#[test]
fn ma13_a_head_that_slept_itself_takes_nobody_for_silent() {
    let mut rack = rack(2, |_| {});
    // Nothing runs for five seconds, not even messages that were under way.
    rack.now = rack.now + Duration::from_secs(5);
    rack.run_for(Duration::from_secs(1));
    assert!(rack.proposals(1).is_empty());
}

#[test]
fn p02_a_proposal_without_an_answer_is_repeated_word_for_word_and_nothing_else_is_proposed() {
    let mut rack = rack(3, |_| {});
    rack.crash(0);
    rack.run_for(Duration::from_secs(2));
    let wishes = rack.proposals(1);
    assert!(wishes.len() > 5, "{}", wishes.len());
    assert!(wishes.iter().all(|wish| *wish == wishes[0]));
    assert!(rack.head(1).status().partitions[0].proposing);
    assert!(!serving(&mut rack, 1), "it does not act on it");
}

#[test]
fn ma19_h_ma18_a_declined_secondary_abandons_and_does_not_try_the_next_number_at_once() {
    let mut rack = rack(4, |_| {});
    rack.crash(0);
    let (wish, _) = proposal(&mut rack, 1);
    let newest = rack.assigned.clone();
    rack.outcome(1, wish.nonce, ProposalOutcome::Declined { newest });
    let before = rack.proposals(1).len();
    rack.run_for(Duration::from_millis(900));
    assert_eq!(rack.proposals(1).len(), before);
    let status = rack.head(1).status().partitions.remove(0);
    assert!(!status.proposing && status.role == RoleState::Following, "it adopts nothing");
    rack.run_for(Duration::from_secs(1));
    let again = rack.proposals(1).pop().expect("the primary is still silent");
    assert_ne!(again.nonce, wish.nonce, "another wish has another name");
    rack.outcome(1, wish.nonce, ProposalOutcome::Declined { newest: None });
    assert!(rack.head(1).status().partitions[0].proposing, "a late answer to the first changes nothing");
}

#[test]
fn ma19_g_a_primary_that_is_cut_off_proposes_nothing_and_steps_down_when_the_cut_heals() {
    let mut rack = rack(5, |_| {});
    rack.workload(20, 100, 4);
    rack.nodes[0].cut = true;
    let stuck = rack.write(0, 8);
    let (wish, _) = proposal(&mut rack, 1);
    grant(&mut rack, 1, &wish);
    rack.run_until("service", |rack| rack.serving(2));
    rack.run_for(Duration::from_secs(1));
    assert!(rack.proposals(0).is_empty() && !rack.done.contains_key(&stuck));
    assert_eq!(rack.proposals(1).iter().filter(|other| **other != wish).count(), 0, "one failover");
    rack.nodes[0].cut = false;
    assert!(matches!(rack.wait(stuck), Err(ClientError::NotServed)), "it learns of the newer pair");
    rack.primary = 1;
    rack.move_to(&[1, 0]);
    rack.verify();
}

#[test]
fn ma19_a_ma14_a_client_that_lost_a_primary_with_clients_is_refused() {
    let mut rack = rack(6, |_| {});
    clients(&mut rack, 0, 1);
    rack.head(1).client_asks(VOLUME, 5);
    rack.head(1).client_asks(VOLUME, 9);
    rack.run_for(Duration::from_secs(1));
    assert!(rack.proposals(1).is_empty());
    assert_eq!(rack.sent["health_ask"], 1, "requests while one is judged are one");
}

#[test]
fn ma19_b_ma16_a_primary_that_all_clients_lost_is_flipped_and_stays_as_secondary() {
    let mut rack = rack(7, |_| {});
    rack.workload(20, 100, 4);
    clients(&mut rack, 0, 0);
    rack.head(1).client_asks(VOLUME, 5);
    let (wish, _) = proposal(&mut rack, 1);
    assert_eq!((wish.why, wish.members.len()), (Why::ClientAsked, 2));
    grant(&mut rack, 1, &wish);
    rack.tell(0);
    rack.primary = 1;
    rack.run_until("service", |rack| rack.serving(2));
    rack.verify();
    // E: no flip-flop while the new primary has clients.
    clients(&mut rack, 1, 2);
    rack.head(0).client_asks(VOLUME, 5);
    rack.run_for(Duration::from_secs(1));
    assert!(rack.proposals(0).is_empty());
}

#[test]
fn ma17_a_primary_that_answers_in_a_rate_pause_stays_and_a_silent_one_does_not() {
    let mut rack = rack(8, |_| {});
    clients(&mut rack, 0, 0);
    rack.head(0).set_rate_pause(VOLUME, true);
    rack.head(1).client_asks(VOLUME, 5);
    rack.run_for(Duration::from_secs(1));
    assert!(rack.proposals(1).is_empty());
    rack.crash(0);
    let (wish, _) = proposal(&mut rack, 1);
    assert_eq!(wish.why, Why::Silence);
}

#[test]
fn p30_a_primary_drops_a_silent_secondary_only_where_one_copy_is_enough() {
    for solo in [Solo::Wait, Solo::Local] {
        let mut rack = rack(9, |shape| shape.solo = solo);
        rack.crash(1);
        rack.run_for(Duration::from_secs(1));
        assert_eq!(rack.proposals(0).is_empty(), solo == Solo::Wait);
    }
}

#[test]
fn ma15_a_secondary_that_is_still_being_refilled_does_not_take_over_alone() {
    let mut rack = rack(12, |shape| shape.solo = Solo::Local);
    rack.crash(1);
    let (wish, _) = proposal(&mut rack, 0);
    grant(&mut rack, 0, &wish);
    let tags: Vec<u64> = (0..20).map(|at| rack.write(at * 8, 8)).collect();
    rack.wait_all(&tags);
    rack.drop_msg = Some(|msg, _, _| matches!(msg, Msg::Replicate { .. }));
    rack.start(1, false);
    rack.run_until("recovery", |rack| rack.recovered.len() == 2);
    rack.decide(&[0, 1]);
    rack.assign();
    let follows = |rack: &mut Rack| rack.head(1).status().partitions[0].role == RoleState::Following;
    rack.run_until("the second head follows", follows);
    rack.crash(0);
    rack.drop_msg = None;
    rack.run_for(Duration::from_secs(2));
    assert!(rack.proposals(1).is_empty(), "it lacks acknowledged writes");
    rack.decide(&[1]);
    rack.tell(1);
    rack.run_for(Duration::from_secs(1));
    assert!(!serving(&mut rack, 1), "nor does it serve when it is told to");
}

/// A primary proposes to drop its secondary: whether a write is acknowledged before the outcome is known.
fn acknowledged_early(change: impl FnOnce(&mut Shape)) -> bool {
    let mut rack = rack(10, |shape| {
        shape.solo = Solo::Local;
        change(shape);
    });
    rack.crash(1);
    let (wish, _) = proposal(&mut rack, 0);
    let write = rack.write(0, 8);
    rack.run_for(Duration::from_secs(2));
    let early = rack.done.contains_key(&write);
    grant(&mut rack, 0, &wish);
    rack.run_until("an answer", |rack| rack.done.contains_key(&write));
    rack.verify();
    early
}

#[test]
fn p02_until_the_outcome_is_known_acknowledgements_need_the_old_members() {
    assert!(!acknowledged_early(|_| {}));
}

#[test]
fn p02_acting_on_a_proposal_is_seen() {
    assert!(acknowledged_early(|shape| shape.faults.act_on_proposal = true));
}

#[test]
fn slow_timers_are_ten_times_as_slow() {
    let mut rack = rack(11, |shape| shape.failover = Some(FailoverConfig::default().slow()));
    rack.crash(0);
    let (_, took) = proposal(&mut rack, 1);
    assert!(took >= Duration::from_millis(750) && took <= Duration::from_millis(2250), "{took:?}");
}

/// A pair that waits where one copy is not enough, and its secondary's wish to go on without a primary that is cut
/// off, which is lost on its way; the cut has healed since.
fn wished_in_vain(seed: u64) -> (Rack, Proposal) {
    let mut rack = rack(seed, |shape| shape.solo = Solo::Wait);
    rack.workload(20, 100, 4);
    rack.nodes[0].cut = true;
    let (wish, _) = proposal(&mut rack, 1);
    rack.nodes[0].cut = false;
    rack.run_for(Duration::from_millis(60));
    (rack, wish)
}

#[test]
fn ma19_i_a_wish_to_go_on_without_a_primary_is_given_up_when_that_one_is_heard_again() {
    for seed in 0..4 {
        let (mut rack, wish) = wished_in_vain(seed);
        let (number, before) = (rack.newest(), rack.proposals(1).len());
        rack.run_for(Duration::from_secs(2));
        assert_eq!(rack.proposals(1).len(), before, "a fault that is over moves nothing");
        let status = rack.head(1).status().partitions.remove(0);
        assert!(!status.proposing && status.role == RoleState::Following, "{status:?}");
        rack.workload(20, 100, 4);
        assert!(rack.serving(number), "nothing moved");
        // Another fault, another wish.
        rack.crash(0);
        rack.run_until("a proposal", |rack| rack.proposals(1).len() > before);
        let again = rack.proposals(1).pop().expect("the primary is dead");
        assert_ne!(again.nonce, wish.nonce, "another wish has another name (P-02)");
        rack.primary = 1;
        grant(&mut rack, 1, &again);
        rack.run_until("service", |rack| rack.serving(number + 1));
    }
}

#[test]
fn p02_a_wish_that_was_given_up_and_is_granted_all_the_same_is_followed() {
    for seed in 0..4 {
        let (mut rack, wish) = wished_in_vain(seed);
        rack.primary = 1;
        rack.decide(&[1]);
        assert_eq!(rack.assigned.as_ref().map(|pair| pair.members.to_vec()), Some(wish.members.to_vec()));
        rack.tell(0);
        rack.tell(1);
        let number = rack.newest();
        rack.run_until("service", move |rack| rack.serving(number));
        assert!(!serving(&mut rack, 0), "one of them");
        rack.move_to(&[1, 0]);
        rack.workload(20, 100, 4);
        rack.verify();
    }
}

#[test]
fn ma19_i_who_waited_for_a_primary_to_come_forward_gives_up_its_wish_when_it_does() {
    for seed in 0..4 {
        let mut rack = rack(seed, |shape| shape.solo = Solo::Wait);
        rack.workload(20, 100, 4);
        // Only the link between them is cut: the authority tells both that the second leads from now on.
        rack.nodes[0].cut = true;
        rack.decide(&[1, 0]);
        rack.primary = 1;
        rack.tell(0);
        rack.tell(1);
        let (wish, took) = proposal(&mut rack, 0);
        assert!(took >= Duration::from_millis(500), "it was patient: {took:?}");
        assert_eq!(
            (wish.members.len(), Some(wish.expected)),
            (1, rack.assigned.as_ref().map(|pair| pair.stamp))
        );
        rack.nodes[0].cut = false;
        let number = rack.newest();
        rack.run_until("service", move |rack| rack.serving(number));
        let before = rack.proposals(0).len();
        rack.run_for(Duration::from_secs(2));
        assert_eq!(rack.proposals(0).len(), before, "it follows: nothing is wished any more");
        let status = rack.head(0).status().partitions.remove(0);
        assert!(!status.proposing && status.role == RoleState::Following, "{status:?}");
        rack.workload(20, 100, 4);
        rack.verify();
    }
}

#[test]
fn p13_what_was_open_when_a_log_failed_is_asked_again_at_the_head_that_follows_and_nothing_acknowledged_is_lost()
 {
    for seed in 0..6 {
        let mut rack = rack(seed, |shape| shape.solo = Solo::Local);
        rack.workload(40, 100, 4);
        let mut tags: Vec<u64> = (0..12).map(|at| rack.write(at * 17, 11)).collect();
        // Some of them are in both logs by then, some in one, some in none.
        rack.run_for(Duration::from_micros(40 * seed));
        rack.nodes[0].disk.dead = true;
        tags.push(rack.write(300, 8));
        let heard: Vec<_> = tags.iter().map(|&tag| rack.wait(tag)).collect();
        let kinds = |heard: &Result<_, _>| matches!(heard, Ok(_) | Err(ClientError::NotServed));
        assert!(heard.iter().all(kinds) && heard.iter().any(Result::is_err), "{heard:?}");
        let (wish, took) = proposal(&mut rack, 1);
        assert!(took <= Duration::from_millis(225), "as fast as after a death: {took:?}");
        assert_eq!((wish.why, wish.members.len()), (Why::Unhealthy, 1), "its health says so (MA-13)");
        rack.primary = 1;
        grant(&mut rack, 1, &wish);
        let number = rack.newest();
        rack.run_until("service", move |rack| rack.serving(number));
        rack.verify();
        let again: Vec<u64> = (0..12).map(|at| rack.write(at * 17, 11)).collect();
        rack.wait_all(&again);
        rack.workload(40, 100, 4);
        rack.verify();
        assert!(!serving(&mut rack, 0));
    }
}
