//! Claims of six devices against a stale primary, explored whole; then each rule broken, and found.

use palisade_model::claims::{Bounds, Faults};
use palisade_model::explore::{Rule, must_break, must_hold};

fn claims(set: impl FnOnce(&mut Faults), leaves: u8, restarts: u8) -> Bounds {
    let mut faults = Faults::default();
    set(&mut faults);
    Bounds { leaves, restarts, faults }
}

const FRESH: &str = "a device without a record is reserved by the old primary";
const RETURNS: &str = "a device returns with an old record after the extent was used";

#[test]
fn p25_p26_p27_six_devices_are_claimed_whatever_leaves_and_returns() {
    must_hold("claims", claims(|_| {}, 1, 0), 20_000, &[FRESH, RETURNS]);
}

#[test]
fn p27_a_new_primary_that_starts_again_finds_what_it_had_to_free() {
    must_hold(
        "claims after a restart",
        claims(|_| {}, 1, 1),
        50_000,
        &[FRESH, RETURNS, "everything is done after a restart"],
    );
}

#[test]
fn canary_p25_claims_of_one_column_too_few_are_found() {
    must_break("P-25: k-1 claims", claims(|faults| faults.claim_short = true, 0, 0), &[Rule::FullStripes]);
}

#[test]
fn canary_op12_columns_of_absent_devices_that_count_are_found() {
    let model = claims(|faults| faults.absent_counted = true, 2, 0);
    must_break("OP-12: absent counted", model, &[Rule::FullStripes]);
}

#[test]
fn canary_p26_a_take_over_that_waits_for_a_device_is_found() {
    let model = claims(|faults| faults.waits_for_all = true, 1, 0);
    must_break("P-26: waits for all", model, &[Rule::ServiceReturns]);
}

#[test]
fn canary_p27_a_device_that_is_not_claimed_for_want_of_columns_is_found() {
    let model = claims(|faults| faults.known_only = true, 0, 0);
    must_break("P-27: known devices only", model, &[Rule::Bounded, Rule::ServiceReturns]);
}

#[test]
fn canary_p27_a_claim_without_a_record_is_found() {
    let model = claims(|faults| faults.unrecorded = true, 1, 0);
    must_break("P-27: no record", model, &[Rule::OneWriter]);
}

#[test]
fn canary_p27_devices_that_are_not_listed_are_found() {
    must_break("P-27: no list", claims(|faults| faults.no_list = true, 0, 0), &[Rule::Bounded]);
}

#[test]
fn canary_p27_a_list_from_before_the_claim_is_found() {
    must_break("P-27: listed first", claims(|faults| faults.list_first = true, 0, 0), &[Rule::Bounded]);
}

#[test]
fn canary_p27_columns_of_an_absent_device_that_are_forgotten_are_found() {
    let model = claims(|faults| faults.absent_forgotten = true, 1, 0);
    must_break("P-27: forgotten", model, &[Rule::Bounded]);
}
