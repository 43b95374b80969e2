//! Canaries: each test-only switch of the machines breaks one rule; runs with the switch on must be
//! caught, and by the check that names the rule's invariant. What one thread or one rack of fixed roles
//! cannot show is shown by named tests of the machines themselves (docs/PROOF.md).

use palisade_sim::Canaries;
use palisade_sim::faults::{Scenario, named};
use palisade_sim::fences::run_fences;
use palisade_sim::{Setup, run};
use std::panic::catch_unwind;

/// Runs rogue heads against sleds with a switch on, until a seed is caught by one of `checks`.
fn fence_catches(what: &str, checks: &[&str], set: impl FnOnce(&mut Canaries)) {
    let mut canaries = Canaries::default();
    set(&mut canaries);
    let mut others = Vec::new();
    for seed in 0..40 {
        let (report, _) = run_fences(seed, canaries);
        for violation in report.violations {
            if checks.iter().any(|check| violation.contains(check)) {
                println!("{what}: seed {seed}: {violation}");
                return;
            }
            others.push(violation);
        }
    }
    panic!("{what} was not caught by {checks:?}; other findings: {others:#?}");
}

macro_rules! fence_canary {
    ($test:ident, $field:ident, $($check:literal),+) => {
        #[test]
        fn $test() {
            fence_catches(stringify!($field), &[$($check),+], |canaries| canaries.sled.$field = true);
        }
    };
}

fence_canary!(p15_unchecked_column_reads_are_caught, read_unchecked, "NothingSilent");
fence_canary!(p16_a_permit_that_ends_at_submit_is_caught, permit_ends_at_submit, "FenceDrains", "OneWriter");
fence_canary!(
    p17_serving_before_recovery_is_caught,
    serve_before_recovery,
    "FenceIsDurable",
    "OneWriter",
    "AckedIsDurable",
    "FullStripes"
);
fence_canary!(
    p19_ignored_generations_are_caught,
    ignore_generation,
    "AckedIsDurable",
    "NothingSilent",
    "FullStripes"
);
fence_canary!(
    p20_a_pending_number_that_does_not_count_is_caught,
    pending_not_stored,
    "FenceIsDurable",
    "OneWriter",
    "FalseFence"
);
fence_canary!(p21_accepting_any_token_is_caught, accept_any_token, "ForgedToken");
fence_canary!(p22_voiding_tokens_by_a_doubled_reserve_is_caught, dup_reserve_voids, "FalseFence");
fence_canary!(one_writer_accepting_an_old_number_is_caught, accept_old_number, "OneWriter");
fence_canary!(fence_drains_granting_without_drain_is_caught, no_drain, "FenceDrains", "OneWriter");
fence_canary!(fence_is_durable_a_token_before_its_record_is_caught, token_before_record, "FenceIsDurable");
fence_canary!(p09_records_without_fua_are_caught, record_without_fua, "FenceIsDurable");
fence_canary!(p09_column_data_without_fua_is_caught, data_without_fua, "AckedIsDurable");

/// A scenario for canaries. Where sectors rot, scrub has heads mend them before the broken rule can show, so
/// that it rests.
fn scene(name: &str) -> Scenario {
    let scenario = named(name);
    let scrub_ms = if name == "rot" { 3_600_000 } else { scenario.scrub_ms };
    Scenario { scrub_ms, ..scenario }
}

/// Runs the whole rack in a scenario with a switch on, until a seed is caught. Without switches these
/// seeds are clean (`fixed_seeds`), so any finding is the canary's.
fn rack_catches(what: &str, scenario: &str, set: impl FnOnce(&mut Canaries)) {
    let mut canaries = Canaries::default();
    set(&mut canaries);
    for seed in 0..160 {
        let setup = Setup { canaries, scenario: scene(scenario), ..Setup::new(seed) };
        // A machine that finds its own state impossible has noticed the broken rule, too.
        let found = catch_unwind(|| run(&setup).violations.into_iter().next());
        if let Some(violation) = found.unwrap_or_else(|_| Some("a machine's own assertion".to_owned())) {
            println!("{what}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{what} was not caught in \"{scenario}\"");
}

macro_rules! rack_canary {
    ($test:ident, $machine:ident.$field:ident, $scenario:literal) => {
        #[test]
        fn $test() {
            rack_catches(stringify!($field), $scenario, |canaries| canaries.$machine.$field = true);
        }
    };
}

rack_canary!(p06_acknowledging_before_the_peer_is_caught, head.ack_before_peer, "unruly");
rack_canary!(p06_acknowledging_before_the_own_log_is_caught, head.ack_before_log, "slow log");
rack_canary!(p10_merging_onto_committed_bytes_is_caught, head.rmw_on_committed, "unruly");
rack_canary!(p12_reads_without_confirm_are_caught, head.skip_confirm, "unruly");
rack_canary!(p12_a_confirm_of_before_the_read_is_caught, head.confirm_reuse_old_nonce, "unruly");
rack_canary!(p06_taking_the_own_logs_end_for_the_end_is_caught, head.skip_probe, "rot");
rack_canary!(p13_serving_before_reconciling_is_caught, head.skip_reconcile, "crashes");
rack_canary!(p25_flushing_below_the_minimum_is_caught, head.flush_below_k1, "small code");
rack_canary!(nothing_silent_unchecked_reads_are_caught, head.no_crc_check, "rot");
rack_canary!(p15_reads_of_any_generation_are_caught, head.read_any_generation, "unruly");

rack_canary!(p06_trusting_records_past_a_hole_is_caught, log.trust_past_hole, "slow log");
rack_canary!(p07_an_unconditional_replay_is_caught, log.repoint_unconditional, "crashes");
rack_canary!(p08_releasing_metadata_uncovered_is_caught, log.checkpoint_not_covering, "crashes");
rack_canary!(p09_appends_without_fua_are_caught, log.no_fua, "power cuts");
