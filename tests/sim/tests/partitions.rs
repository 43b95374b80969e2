//! Who is cut off from whom decides what must happen: rows of MA-19 in which the topology matters, an authority
//! that is away for long (EF-24), networks that are bad beside a good one (EF-31), and clients that ask a head
//! which does not lead (MA-10).

use palisade_protocol::head::Solo;
use palisade_protocol::wire::NodeId;
use palisade_sim::Canaries;
use palisade_sim::drill::Drill;
use palisade_sim::fault::Fault;
use palisade_sim::faults::{BASE, NetMode, Odds, PathFault, Scenario};
use palisade_sim::links::AUTHORITY;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// The heads, as they begin: primary and secondary.
const P: NodeId = NodeId(1);
const S: NodeId = NodeId(2);
/// Longer than any test cuts anything.
const LONG: Duration = Duration::from_secs(60);

/// One volume, two clients, default times, no faults of its own.
const PAIR: Scenario = Scenario {
    name: "partitions",
    sleds: 3,
    code: (2, 1),
    volume_blocks: 128,
    requests: 1_000_000,
    clients: 2,
    depth: (1, 2),
    moves: true,
    odds: Odds { raced: 0.0, ..Odds::CALM },
    ..BASE
};

/// The volume may run on one copy.
const ONE_COPY: Scenario = Scenario { solo: Solo::Local, ..PAIR };

fn sleds() -> [NodeId; 3] {
    [NodeId(11), NodeId(12), NodeId(13)]
}

fn drill(seed: u64, scenario: Scenario) -> Drill {
    let drill = Drill::new(seed, scenario, Canaries::default());
    assert_eq!(drill.primary(0), P);
    drill
}

/// Lets everything heal, and goes through the reckoning of a run.
fn heals(drill: Drill) {
    let (violations, _) = drill.finish();
    assert!(violations.is_empty(), "{violations:#?}");
}

fn members(drill: &Drill) -> Vec<NodeId> {
    drill.newest(0).members.iter().map(|member| member.head).collect()
}

/// Waits until the secondary took over.
fn taken_over(drill: &mut Drill) {
    assert!(drill.until(MS * 2000, |drill| drill.primary(0) == S), "the secondary takes over: {drill:?}");
    assert_eq!(drill.tally().failovers, 1);
}

#[test]
fn ma19_f_a_client_that_is_still_at_the_old_primary_is_refused_and_redirected_and_reads_nothing_old() {
    for seed in 0..6 {
        let mut drill = drill(seed, PAIR);
        let a = Drill::client(0, 0);
        // The old primary reaches its client and all sleds; the other head and the authority it does not.
        drill.part(&[P, a], &[S, AUTHORITY], MS * 900);
        taken_over(&mut drill);
        let (well, _) = drill.answers(0, 0);
        assert_eq!(drill.client_is_at(0, 0), P);
        drill.run(MS * 300);
        let (open, refused) = (drill.open(0, 0), drill.answers(0, 0).1);
        assert!(
            open + refused > 0,
            "its requests wait for a confirm, or are refused once sleds told of the other"
        );
        assert_eq!(drill.answers(0, 0).0, well, "nothing is answered by the old primary (MA-07)");
        let follows = |drill: &Drill| drill.client_is_at(0, 0) == S && drill.answers(0, 0).0 > well + 10;
        assert!(drill.until(MS * 3000, follows), "redirected, and served: {drill:?}");
        assert!(drill.answers(0, 0).1 > 0, "it was told by the old primary (MA-10)");
        assert_eq!(drill.tally().failovers, 1);
        heals(drill);
    }
}

#[test]
fn ma19_g_primary_and_client_cut_off_from_secondary_and_authority_cost_one_failover_until_healing() {
    for seed in 0..6 {
        let mut drill = drill(seed, PAIR);
        let (a, b) = (Drill::client(0, 0), Drill::client(0, 1));
        let others: Vec<NodeId> = [S, b, AUTHORITY].into_iter().chain(sleds()).collect();
        drill.part(&[P, a], &others, MS * 2500);
        taken_over(&mut drill);
        // Answers to what both held when they were cut apart are on their way.
        drill.run(MS * 100);
        let (well, number) = (drill.answers(0, 0).0, drill.newest(0).stamp.number);
        // Not beyond the end of the cut: then it follows, and answers what the new primary holds too.
        drill.run(MS * 1000);
        assert_eq!(drill.answers(0, 0).0, well, "the old primary answers nobody");
        assert_eq!(drill.newest(0).stamp.number, number, "nobody proposes anything more");
        assert_eq!((drill.primary(0), members(&drill)), (S, vec![S]));
        assert!(drill.answers(0, 1).0 > 0);
        let whole = |drill: &Drill| drill.all_whole() && members(drill) == [S, P];
        assert!(drill.until(MS * 4000, whole), "it heals: {drill:?}");
        assert_eq!(drill.tally().failovers, 1, "no second one");
        heals(drill);
    }
}

#[test]
fn ma19_h_with_the_authority_on_its_side_the_primary_drops_the_secondary_and_goes_on() {
    for seed in 0..6 {
        let mut drill = drill(seed, ONE_COPY);
        let (a, b) = (Drill::client(0, 0), Drill::client(0, 1));
        let mine: Vec<NodeId> = [P, a, AUTHORITY].into_iter().chain(sleds()).collect();
        drill.part(&mine, &[S, b], MS * 700);
        assert!(drill.until(MS * 600, |drill| members(drill) == [P]), "it is left alone: {drill:?}");
        let well = drill.answers(0, 0).0;
        let goes_on = |drill: &Drill| drill.answers(0, 0).0 > well + 20;
        assert!(drill.until(MS * 500, goes_on), "client A is served: {drill:?}");
        assert_eq!((drill.primary(0), drill.tally().failovers), (P, 0), "the other one is not authorised");
        assert!(drill.until(MS * 8000, Drill::all_whole), "it heals: {drill:?}");
        assert_eq!((drill.primary(0), drill.tally().failovers), (P, 0));
        heals(drill);
    }
}

#[test]
fn ma19_h_where_one_copy_is_not_enough_nothing_moves_and_writes_wait() {
    let mut drill = drill(3, PAIR);
    let mine: Vec<NodeId> = [P, AUTHORITY].into_iter().chain(sleds()).collect();
    drill.part(&mine, &[S], MS * 1500);
    let number = drill.newest(0).stamp.number;
    drill.run(MS * 1400);
    assert_eq!((drill.primary(0), drill.newest(0).stamp.number), (P, number));
    let well = drill.answers(0, 0).0;
    assert!(drill.until(MS * 2000, |drill| drill.answers(0, 0).0 > well + 20), "{drill:?}");
    heals(drill);
}

#[test]
fn ma19_i_with_only_the_link_between_the_heads_cut_the_first_proposal_wins_and_the_loser_abandons() {
    let (mut kept, mut moved) = (0, 0);
    for seed in 0..12 {
        let mut drill = drill(seed, ONE_COPY);
        drill.part(&[P], &[S], MS * 600);
        let decided = |drill: &Drill| members(drill).len() == 1;
        assert!(drill.until(MS * 550, decided), "somebody wins: {drill:?}");
        let winner = members(&drill)[0];
        drill.run(MS * 1500);
        assert!(drill.until(MS * 8000, Drill::all_whole), "it heals: {drill:?}");
        assert_eq!(drill.primary(0), winner, "the loser abandons, for good");
        assert_eq!(drill.tally().failovers, u64::from(winner == S), "nothing moves again");
        *(if winner == P { &mut kept } else { &mut moved }) += 1;
        heals(drill);
    }
    assert!(kept > 0 && moved > 0, "either may be first: {kept} {moved}");
}

#[test]
fn ma19_i_where_one_copy_is_not_enough_the_secondarys_proposal_is_the_only_one() {
    // In some of these the old primary's wish to go on without a new one that it does not hear is lost on its way.
    for seed in 0..14 {
        let mut drill = drill(seed, PAIR);
        drill.part(&[P], &[S], MS * 900);
        taken_over(&mut drill);
        drill.run(MS * 1500);
        assert!(drill.until(MS * 8000, Drill::all_whole), "it heals: {drill:?}");
        assert_eq!((drill.primary(0), drill.tally().failovers), (S, 1), "one fault, one move");
        heals(drill);
    }
}

#[test]
fn ma19_i_what_an_authority_that_was_away_did_not_hear_moves_nothing_once_the_cut_is_over() {
    for seed in 0..4 {
        let mut drill = drill(seed, PAIR);
        let number = drill.newest(0).stamp.number;
        drill.fault(Fault::Authority { away: 900_000_000 });
        drill.part(&[P], &[S], MS * 700);
        drill.run(MS * 890);
        let well = drill.answers(0, 0).0;
        drill.run(MS * 1500);
        assert_eq!((drill.primary(0), drill.newest(0).stamp.number), (P, number), "the secondary gave it up");
        assert_eq!((drill.tally().moves, drill.tally().failovers), (0, 0));
        assert!(drill.answers(0, 0).0 > well + 20, "clients went on with their primary: {drill:?}");
        heals(drill);
    }
}

#[test]
fn ef24_while_the_authority_is_away_no_role_moves_and_io_goes_on() {
    for seed in 0..4 {
        let mut drill = drill(seed, PAIR);
        let number = drill.newest(0).stamp.number;
        drill.fault(Fault::Authority { away: 4_000_000_000 });
        let before = drill.answers(0, 0).0;
        drill.run(MS * 1500);
        let going_on = drill.answers(0, 0).0;
        assert!(going_on > before + 100, "I/O goes on: {before} {going_on}");
        // The primary is lost as well: nobody may take its place.
        drill.fault(Fault::Kill { node: P, power: true, away: 20_000_000_000 });
        drill.run(MS * 2000);
        assert_eq!((drill.primary(0), drill.newest(0).stamp.number), (P, number));
        assert_eq!((drill.tally().failovers, drill.tally().moves), (0, 0));
        taken_over(&mut drill);
        heals(drill);
    }
}

#[test]
fn ef31_a_bad_network_beside_a_good_one_changes_neither_tokens_nor_results() {
    let bad = [
        PathFault::Cut,
        PathFault::OneWay,
        PathFault::Lossy(40),
        PathFault::Slow(30),
        PathFault::Flapping(15),
    ];
    for (seed, how) in bad.into_iter().enumerate() {
        let mut drill = drill(seed as u64, Scenario { net: NetMode::Fabric, requests: 1_000_000, ..PAIR });
        let number = drill.newest(0).stamp.number;
        for path in [1, 0] {
            let nodes: Vec<NodeId> = [P, S].into_iter().chain(sleds()).collect();
            for (at, from) in nodes.iter().enumerate() {
                for to in &nodes[at + 1..] {
                    let lasting = 700_000_000;
                    drill.fault(Fault::Path { from: *from, to: *to, path, how, lasting });
                }
            }
            let before = drill.answers(0, 0).0;
            drill.run(MS * 700);
            assert!(drill.answers(0, 0).0 > before + 50, "{how:?} on network {path}: {drill:?}");
            drill.run(MS * 300);
        }
        assert_eq!(drill.newest(0).stamp.number, number, "{how:?}: no number, so no token, changed");
        assert_eq!((drill.answers(0, 0).1, drill.answers(0, 1).1), (0, 0), "{how:?}: nothing was refused");
        let tally = drill.tally();
        assert_eq!((tally.moves, tally.granted), (0, 0), "{how:?}");
        if !matches!(how, PathFault::Slow(_)) {
            assert!(tally.swallowed > 10 && tally.carried_around > 0, "{how:?}: {tally}");
        }
        heals(drill);
    }
}

#[test]
fn ef17_a_primary_whose_clock_jumped_while_it_slept_steps_down_and_follows() {
    for seed in 0..4 {
        let mut drill = drill(seed, PAIR);
        drill.fault(Fault::Sleep { node: P, lasting: 800_000_000, jump: 100_000_000_000 });
        taken_over(&mut drill);
        let whole = |drill: &Drill| drill.all_whole() && members(drill) == [S, P];
        assert!(drill.until(MS * 5000, whole), "it follows: {drill:?}");
        assert_eq!((drill.tally().failovers, drill.tally().jumps), (1, 1));
        heals(drill);
    }
}

#[test]
fn ma10_a_client_that_asks_a_head_that_never_led_is_sent_to_the_primary_and_nothing_moves() {
    let mut drill = drill(1, PAIR);
    drill.send_client_to(0, 1, S);
    let well = drill.answers(0, 1).0;
    let back = |drill: &Drill| drill.client_is_at(0, 1) == P && drill.answers(0, 1).0 > well + 5;
    assert!(drill.until(MS * 500, back), "{drill:?}");
    assert!(drill.tally().redirected > 0 && drill.answers(0, 1).1 > 0);
    assert_eq!((drill.primary(0), drill.tally().failovers), (P, 0));
    heals(drill);
}

#[test]
fn ma19_cuts_one_way_end_in_one_leader_whichever_way_they_go() {
    for (seed, (from, to)) in [(P, S), (S, P), (P, AUTHORITY), (AUTHORITY, P)].into_iter().enumerate() {
        let mut drill = drill(seed as u64, PAIR);
        drill.fault(Fault::Cut { from, to, both: false, lasting: LONG.as_nanos() as u64 });
        drill.run(MS * 2500);
        assert!(drill.tally().failovers <= 1, "{from} -> {to}: no flip-flop: {drill:?}");
        heals(drill);
    }
}
