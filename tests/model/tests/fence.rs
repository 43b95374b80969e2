//! The shipping sled's fence, explored whole; then each of its rules broken, and found.

use palisade_model::explore::{Rule, must_break, must_hold};
use palisade_model::fence::Bench;
use palisade_protocol::sled::Faults;

const ALL: &[&str] = &["two heads write", "a head is refused", "every head is granted"];

fn broken(set: impl FnOnce(&mut Faults), bench: Bench) -> Bench {
    let mut faults = Faults::default();
    set(&mut faults);
    Bench { faults, ..bench }
}

fn crash() -> Bench {
    Bench { crashes: 1, writes: 1, reserves: 2, ..Bench::default() }
}

#[test]
fn three_heads_race_and_messages_come_twice_and_late_ef15() {
    let bench = Bench { numbers: vec![5, 6, 7], reserves: 2, writes: 2, ..Bench::default() };
    must_hold("three heads race", bench, 500, ALL);
}

#[test]
fn the_sled_crashes_at_every_step_ef18_fence_is_durable() {
    let bench = Bench { crashes: 1, tears: true, reserves: 2, writes: 2, ..Bench::default() };
    must_hold("a crash", bench, 500, ALL);
}

#[test]
fn the_sled_crashes_and_a_slot_rots_p18() {
    let bench = Bench { crashes: 1, rots: 1, reserves: 2, writes: 1, ..Bench::default() };
    must_hold("a crash, a rotten slot", bench, 500, &["a head is refused", "a grant after a restart"]);
}

#[test]
fn device_commands_fail_and_drains_take_too_long_op05() {
    let bench = Bench { numbers: vec![5, 6, 7], fails: 1, waits: 1, writes: 1, ..Bench::default() };
    must_hold("a failure, a slow drain", bench, 500, &["a head is refused", "every head is granted"]);
}

#[test]
fn a_column_changes_hands_and_old_messages_arrive_p19() {
    let bench = Bench { gives: 2, writes: 2, numbers: vec![5, 6], ..Bench::default() };
    must_hold("generations", bench, 500, &["a head is refused"]);
}

#[test]
fn canary_p16_a_permit_that_ends_at_submit_is_found() {
    let bench = broken(|faults| faults.permit_ends_at_submit = true, Bench::default());
    must_break("P-16: a permit ends at submit", bench, &[Rule::FenceDrains]);
}

#[test]
fn canary_p16_no_drain_is_found() {
    let bench = broken(|faults| faults.no_drain = true, Bench::default());
    must_break("P-16: no drain", bench, &[Rule::FenceDrains]);
}

#[test]
fn canary_p17_an_old_process_whose_writes_go_on_is_found() {
    let bench = Bench { orphans: true, ..crash() };
    must_break("P-17: the old process writes on", bench, &[Rule::FenceDrains, Rule::FenceIsDurable]);
}

#[test]
fn canary_p17_serving_before_the_records_are_read_is_found() {
    let bench = broken(|faults| faults.serve_before_recovery = true, crash());
    must_break("P-17: serves before recovery", bench, &[Rule::NumbersRise, Rule::FenceIsDurable]);
}

#[test]
fn canary_p18_a_trusted_rotten_slot_is_found() {
    let bench = broken(|faults| faults.trust_rotten_slot = true, Bench { rots: 1, ..crash() });
    must_break("P-18: slot rot trusted", bench, &[Rule::NumbersRise]);
}

#[test]
fn canary_p19_an_ignored_generation_is_found() {
    let bench = Bench { gives: 1, writes: 1, ..Bench::default() };
    let bench = broken(|faults| faults.ignore_generation = true, bench);
    must_break("P-19: column generation ignored", bench, &[Rule::OneWriter]);
}

#[test]
fn canary_p20_a_pending_number_that_does_not_count_is_found() {
    let bench = Bench { numbers: vec![5, 6, 7], ..Bench::default() };
    let bench = broken(|faults| faults.pending_not_stored = true, bench);
    must_break("P-20: overlapping reserves", bench, &[Rule::NumbersRise, Rule::NoFalseFence]);
}

#[test]
fn canary_p22_a_repeated_reserve_that_voids_tokens_is_found() {
    let bench = broken(|faults| faults.dup_reserve_voids = true, crash());
    must_break("P-22: a repeat voids tokens", bench, &[Rule::NoFalseFence]);
}

#[test]
fn canary_one_writer_an_accepted_old_number_is_found() {
    let bench = broken(|faults| faults.accept_old_number = true, Bench::default());
    must_break("OneWriter: old numbers pass", bench, &[Rule::OneWriter]);
}

#[test]
fn canary_fence_is_durable_a_token_before_the_record_is_found() {
    let bench = broken(|faults| faults.token_before_record = true, Bench::default());
    must_break("FenceIsDurable: token before record", bench, &[Rule::FenceIsDurable]);
}

#[test]
fn canary_fence_is_durable_a_record_in_a_cache_is_found() {
    let bench = broken(|faults| faults.record_without_fua = true, crash());
    must_break("FenceIsDurable: record without FUA", bench, &[Rule::FenceIsDurable]);
}

#[test]
fn canary_p09_data_in_a_cache_is_found() {
    let bench = broken(|faults| faults.data_without_fua = true, Bench::default());
    must_break("P-09: data without FUA", bench, &[Rule::AckedIsDurable]);
}
