//! Groups of two and three heads, explored whole; then each rule broken, and found.

use palisade_model::explore::{Rule, must_break, must_hold};
use palisade_model::group::{Bounds, Faults};

fn broken(set: impl FnOnce(&mut Faults), bounds: Bounds) -> Bounds {
    let mut faults = Faults::default();
    set(&mut faults);
    Bounds { faults, ..bounds }
}

/// A head alone, a second one that joins and may take over.
fn join() -> Bounds {
    Bounds { members: 1, joins: true, writes: 2, numbers: 3, ..Bounds::default() }
}

const TAKE_OVER: &[&str] = &["a write is acknowledged", "the other head serves what was acknowledged"];

#[test]
fn a_pair_of_heads_takes_over_flips_and_runs_alone() {
    let bounds = Bounds { flips: true, numbers: 3, ..Bounds::default() };
    must_hold("take-over of two", bounds, 10_000, TAKE_OVER);
}

#[test]
fn heads_restart_at_every_step_p01() {
    let bounds = Bounds { restarts: 2, writes: 1, numbers: 3, ..Bounds::default() };
    must_hold("restarts", bounds, 10_000, TAKE_OVER);
}

#[test]
fn reads_are_confirmed_over_take_overs_and_flips_p12_p13() {
    let bounds = Bounds { reads: 2, writes: 1, numbers: 2, flips: true, ..Bounds::default() };
    must_hold("reads", bounds, 3000, &["a read is confirmed", TAKE_OVER[1]]);
}

#[test]
fn reads_after_restarts_give_the_newest() {
    let bounds = Bounds { reads: 1, writes: 1, restarts: 1, ..Bounds::default() };
    must_hold("reads and a restart", bounds, 3000, &["a read is confirmed", TAKE_OVER[1]]);
}

#[test]
fn a_lone_head_takes_a_peer_in_and_is_overtaken_p02() {
    must_hold("a join", join(), 10_000, &["a group grows", TAKE_OVER[1]]);
}

#[test]
fn a_log_is_replaced_and_its_head_is_no_member_p03() {
    let bounds = Bounds { replaced: 1, writes: 1, ..Bounds::default() };
    must_hold("a replaced log", bounds, 300, TAKE_OVER);
}

#[test]
fn a_left_out_peer_returns_and_what_diverged_is_discarded_p30() {
    let bounds = Bounds { joins: true, writes: 2, numbers: 3, ..Bounds::default() };
    must_hold("a return", bounds, 5000, TAKE_OVER);
}

#[test]
fn a_third_head_joins_a_pair_and_takes_over() {
    let bounds = Bounds { heads: 3, joins: true, writes: 1, numbers: 3, ..Bounds::default() };
    must_hold("a third head", bounds, 10_000, &["a group grows", TAKE_OVER[0], TAKE_OVER[1]]);
}

#[test]
fn canary_p01_a_number_kept_over_a_restart_is_found() {
    let bounds = broken(|faults| faults.number_kept = true, Bounds { restarts: 1, ..Bounds::default() });
    must_break("P-01: number kept", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p02_acknowledging_on_the_old_set_while_a_join_is_pending_is_found() {
    let bounds = broken(|faults| faults.ack_on_old_set = true, join());
    must_break("P-02: ack on the old set", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p02_reading_on_the_old_set_while_a_join_is_pending_is_found() {
    let bounds = Bounds { writes: 1, reads: 1, ..join() };
    let bounds = broken(|faults| faults.ack_on_old_set = true, bounds);
    must_break("P-02: read on the old set", bounds, &[Rule::NewestWins, Rule::AckedIsDurable]);
}

#[test]
fn canary_p03_a_foreign_log_taken_as_a_member_is_found() {
    let bounds = Bounds { replaced: 1, writes: 1, ..Bounds::default() };
    let bounds = broken(|faults| faults.foreign_log = true, bounds);
    must_break("P-03: a foreign log", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p06_an_acknowledgement_before_the_secondary_is_durable_is_found() {
    let bounds = broken(|faults| faults.ack_before_durable = true, Bounds::default());
    must_break("P-06: ack before durable", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p12_a_late_confirm_that_is_trusted_is_found() {
    let bounds = Bounds { reads: 2, writes: 1, numbers: 2, ..Bounds::default() };
    let bounds = broken(|faults| faults.late_confirm = true, bounds);
    must_break("P-12: late confirm trusted", bounds, &[Rule::NewestWins]);
}

#[test]
fn canary_p13_a_skipped_reconcile_is_found() {
    let bounds = Bounds { reads: 1, writes: 1, numbers: 2, ..Bounds::default() };
    let bounds = broken(|faults| faults.reconcile_skipped = true, bounds);
    must_break("P-13: reconcile skipped", bounds, &[Rule::NewestWins]);
}

#[test]
fn canary_ba01_a_member_that_was_never_filled_is_found() {
    let bounds = broken(|faults| faults.join_unfilled = true, join());
    must_break("BA-01: joined unfilled", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p30_divergence_that_is_kept_is_found() {
    let bounds = Bounds { joins: true, ..Bounds::default() };
    let bounds = broken(|faults| faults.divergence_kept = true, bounds);
    must_break("P-30: divergence kept", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_ma10_a_candidate_that_still_leads_is_found() {
    let bounds = broken(|faults| faults.candidate_leads = true, Bounds { joins: true, ..Bounds::default() });
    must_break("MA-10: a candidate leads", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_solo_by_leave_a_peer_left_out_without_asking_is_found() {
    let bounds = broken(|faults| faults.solo_without_leave = true, Bounds::default());
    must_break("SoloByLeave: no leave", bounds, &[Rule::SoloByLeave]);
}

#[test]
fn canary_ma06_replication_under_a_lower_number_is_found() {
    let bounds =
        broken(|faults| faults.lower_number_taken = true, Bounds { flips: true, ..Bounds::default() });
    must_break("MA-06: lower number taken", bounds, &[Rule::AckedIsDurable, Rule::NewestWins]);
}
