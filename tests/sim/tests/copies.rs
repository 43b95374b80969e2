//! Members that are replaced under load: logs are lost and blank ones take their place, heads are away for longer than
//! operations are remembered, givers and takers of copies die amid them, heads isolate, clocks jump and run wrong
//! (MA-20, MA-21, BA-01, BA-02, EF-19, P-03, P-30). All checks of the other runs hold here, too.

use palisade_protocol::head::Solo;
use palisade_protocol::wire::NodeId;
use palisade_sim::drill::Drill;
use palisade_sim::fault::Fault;
use palisade_sim::faults::{BASE, Odds, Scenario};
use palisade_sim::links::AUTHORITY;
use palisade_sim::replaced::REPLACED;
use palisade_sim::tally::Tally;
use palisade_sim::{Canaries, Setup, run};
use std::time::Duration;

/// Longer than any test cuts anything.
const LONG: Duration = Duration::from_secs(60);

/// Consecutive, so that every kind of run comes up equally often.
const FIXED: std::ops::Range<u64> = 0..24;

#[test]
fn replaced_members_keep_every_acknowledged_write_and_run_alike_twice() {
    let mut tally = Tally::default();
    for seed in FIXED {
        let setup = Setup::replaced(seed);
        let (first, second) = (run(&setup), run(&setup));
        assert!(first.violations.is_empty(), "seed {seed} ({}): {:#?}", first.scenario, first.violations);
        assert_eq!(first.hash, second.hash, "seed {seed} ({}) did not run alike twice", first.scenario);
        tally.add(&first.tally);
    }
    println!("{tally}");
    let zeroes = tally.replaced_zeroes();
    assert!(zeroes.is_empty(), "never exercised: {zeroes:?}\n{tally}");
    assert_eq!((FIXED.end - FIXED.start) % REPLACED.len() as u64, 0, "every kind of run equally often");
}

/// The first head is cut off from everybody but one client, and replaced by the third; then that client asks it. What
/// history finds, where nobody looks into heads and messages.
fn reads_at_a_replaced_head(seed: u64, canaries: Canaries) -> Vec<String> {
    let [first, second, third] = [1, 2, 3].map(NodeId);
    let scenario =
        Scenario { heads: 3, volumes: 1, replaces: true, solo: Solo::Local, depth: (16, 16), ..PAIR };
    let mut drill = Drill::by_history(seed, scenario, canaries);
    let others = [2, 3, 11, 12, 13].map(NodeId);
    drill.part(&[first], &[&others[..], &[AUTHORITY]].concat(), LONG);
    let replaced = drill.until(Duration::from_secs(4), |drill| {
        let pair = drill.newest(0);
        pair.members.len() == 2 && pair.member(first).is_none() && pair.member(third).is_some()
    });
    assert!(replaced, "seed {seed}: {drill:?}");
    drill.run(Duration::from_millis(300));
    drill.part(&[Drill::client(0, 0)], &[second, third], LONG);
    drill.send_client_to(0, 0, first);
    drill.run(Duration::from_millis(300));
    drill.finish().0
}

#[test]
fn newest_wins_stale_reads_at_replaced_heads_are_found_by_history_alone() {
    let mut canaries = Canaries::default();
    for seed in 0..4 {
        let violations = reads_at_a_replaced_head(seed, canaries);
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    }
    canaries.head.skip_confirm = true;
    let found: Vec<String> = (0..12).flat_map(|seed| reads_at_a_replaced_head(seed, canaries)).collect();
    let stale = |what: &&String| what.contains("partition 1: ") && what.contains(": sector ");
    assert!(found.iter().any(|what| stale(&what)), "history finds it: {found:#?}");
    assert!(found.iter().all(|what| stale(&what)), "and nothing else does: {found:#?}");
}

/// Whoever falls out again soon after it was taken back has to rest before it is taken back once more.
#[test]
fn ma20_a_head_that_falls_out_again_and_again_rests_before_it_is_taken_back() {
    let scenario = Scenario { replaces: true, solo: Solo::Local, ..PAIR };
    let mut drill = Drill::new(1, scenario, Canaries::default());
    let second = Duration::from_secs(1);
    for _ in 0..4 {
        drill.fault(Fault::Sleep { node: NodeId(2), lasting: 400_000_000, jump: 0 });
        let members = |drill: &Drill| drill.newest(0).members.len();
        assert!(drill.until(second, |drill| members(drill) == 1), "it is left out: {drill:?}");
        assert!(drill.until(second * 10, |drill| members(drill) == 2), "it is taken back: {drill:?}");
        assert!(drill.until(second, Drill::all_whole), "it follows: {drill:?}");
    }
    assert!(drill.tally().taken_back > 0 && drill.tally().rested > 0);
    let (violations, _) = drill.finish();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// One volume, two clients, default times, no faults of its own.
const PAIR: Scenario = Scenario {
    name: "clocks",
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

/// Answers of the first client from now on, within so many milliseconds.
fn answers_within(drill: &mut Drill, ms: u64) -> u64 {
    let before = drill.answers(0, 0).0;
    drill.run(Duration::from_millis(ms));
    drill.answers(0, 0).0 - before
}

/// Who was not there cannot tell who was silent: a clock that jumped looks like that to its owner.
#[test]
fn ma15_clocks_of_running_heads_that_jump_move_no_role() {
    for seed in 0..4 {
        let mut drill = Drill::new(seed, PAIR, Canaries::default());
        let number = drill.newest(0).stamp.number;
        for ahead in [200, 3_000, 60_000] {
            for node in [1, 2, 11].map(NodeId) {
                drill.fault(Fault::Jump { node, ahead: ahead * 1_000_000 });
                assert!(answers_within(&mut drill, 300) > 0, "seed {seed}: I/O goes on: {drill:?}");
            }
        }
        assert_eq!((drill.newest(0).stamp.number, drill.tally().failovers), (number, 0), "seed {seed}");
        let (violations, _) = drill.finish();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

#[test]
fn ma15_clocks_that_run_a_fifth_fast_or_slow_move_no_role_and_heads_that_die_are_followed() {
    for (seed, paces) in [[20, 0], [0, 20], [20, -20], [-20, 20]].into_iter().enumerate() {
        let mut drill = Drill::new(seed as u64, PAIR, Canaries::default());
        let number = drill.newest(0).stamp.number;
        let lasting = Duration::from_secs(60).as_nanos() as u64;
        for (node, percent) in [1, 2].map(NodeId).into_iter().zip(paces) {
            drill.fault(Fault::Pace { node, percent, lasting });
        }
        assert!(answers_within(&mut drill, 1_000) > 0);
        assert_eq!(drill.newest(0).stamp.number, number, "{paces:?}");
        drill.fault(Fault::Kill { node: NodeId(1), power: true, away: 800_000_000 });
        let followed = drill.until(Duration::from_secs(3), |drill| drill.primary(0) == NodeId(2));
        assert!(followed, "{paces:?}: {drill:?}");
        let (violations, _) = drill.finish();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// All nodes stop and go on together, with clocks that jumped as far as they stopped, or more.
#[test]
fn ma15_a_host_that_is_paused_with_all_its_nodes_goes_on_with_the_roles_that_they_had() {
    for (seed, jump) in [0, 500, 10_000].into_iter().enumerate() {
        let mut drill = Drill::new(seed as u64, PAIR, Canaries::default());
        let number = drill.newest(0).stamp.number;
        for lasting in [150, 700] {
            drill.fault(Fault::Pause { lasting: lasting * 1_000_000, jump: jump * 1_000_000 });
            drill.run(Duration::from_millis(lasting));
            assert!(answers_within(&mut drill, 400) > 0, "it goes on: {drill:?}");
        }
        assert_eq!(drill.newest(0).stamp.number, number, "no role moved");
        let (violations, _) = drill.finish();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}
