//! Roles that move under load: flips, take-overs after silence, heads that sleep and wake with full queues, an
//! authority whose answers are lost or late (MA-09, MA-15, MA-16, MA-18, P-02, P-12, P-13, P-22, P-30). All
//! checks of the other runs hold here too; and each rule that these moves rest on is missed when it is broken.

use palisade_sim::Canaries;
use palisade_sim::faults::named;
use palisade_sim::tally::Tally;
use palisade_sim::{Setup, run};
use std::panic::catch_unwind;

/// Consecutive, so that every kind of run comes up equally often.
const FIXED: std::ops::Range<u64> = 0..32;

#[test]
fn moving_roles_keep_every_acknowledged_write_and_run_alike_twice() {
    let mut tally = Tally::default();
    for seed in FIXED {
        let setup = Setup::moving(seed);
        let (first, second) = (run(&setup), run(&setup));
        assert!(first.violations.is_empty(), "seed {seed} ({}): {:#?}", first.scenario, first.violations);
        assert_eq!(first.hash, second.hash, "seed {seed} ({}) did not run alike twice", first.scenario);
        tally.add(&first.tally);
    }
    println!("{tally}");
    let zeroes = tally.moving_zeroes();
    assert!(zeroes.is_empty(), "never exercised: {zeroes:?}\n{tally}");
}

/// Runs a scenario with a switch on, until a seed is caught.
fn catches(what: &str, scenario: &str, set: impl FnOnce(&mut Canaries)) {
    let mut canaries = Canaries::default();
    set(&mut canaries);
    for seed in 0..120 {
        let setup = Setup { canaries, scenario: named(scenario), ..Setup::new(seed) };
        let found = catch_unwind(|| run(&setup).violations.into_iter().next());
        if let Some(violation) = found.unwrap_or_else(|_| Some("a machine's own assertion".to_owned())) {
            println!("{what}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{what} was not caught in \"{scenario}\"");
}

#[test]
fn p13_a_take_over_without_reconcile_is_caught() {
    catches("takeover", "failovers", |canaries| canaries.head.takeover_unreconciled = true);
}

#[test]
fn p22_a_superseded_primary_that_answers_nobody_is_caught() {
    catches("superseded", "flips", |canaries| canaries.head.serve_superseded = true);
}

#[test]
fn solo_by_leave_acknowledging_alone_without_it_is_caught() {
    catches("alone", "failovers", |canaries| canaries.head.solo_without_leave = true);
}

#[test]
fn p30_a_lone_head_that_acknowledges_unasked_is_caught() {
    catches("unasked", "failovers", |canaries| canaries.head.solo_unasked = true);
}

#[test]
fn p12_reads_without_confirm_are_caught_where_roles_move() {
    catches("confirm", "failovers", |canaries| canaries.head.skip_confirm = true);
}

#[test]
fn ma08_one_secondary_of_two_that_speaks_for_both_is_caught() {
    catches("first peer", "a group of three", |canaries| canaries.head.first_peer_speaks_for_all = true);
}
