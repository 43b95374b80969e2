//! Extents, running alone and the authority's store, explored whole; then each rule broken, and found.

use palisade_model::explore::{Rule, must_break, must_hold};
use palisade_model::{authority, extents, solo};

fn extent(set: impl FnOnce(&mut extents::Faults), breaks: u8) -> extents::Bounds {
    let mut faults = extents::Faults::default();
    set(&mut faults);
    extents::Bounds { breaks, faults }
}

fn alone(set: impl FnOnce(&mut solo::Faults)) -> solo::Bounds {
    let mut faults = solo::Faults::default();
    set(&mut faults);
    solo::Bounds { writes: 2, deaths: 2, faults }
}

fn store(set: impl FnOnce(&mut authority::Faults)) -> authority::Bounds {
    let mut faults = authority::Faults::default();
    set(&mut faults);
    authority::Bounds { boots: 3, restores: 1, crashes: 1, mark_kept: false, faults }
}

#[test]
fn an_extent_is_flushed_claimed_and_sealed_p24_p25_p26() {
    let reached = &[
        "the old head's stripe is indexed",
        "the new head's stripe is indexed",
        "an extent is used before every sled is claimed",
        "a unit lands behind the claim of another",
    ];
    must_hold("an extent", extent(|_| {}, 1), 1000, reached);
}

#[test]
fn a_head_runs_alone_and_its_log_dies_p30() {
    let reached = &["a write is acknowledged alone", "the other goes on after a log died"];
    must_hold("alone", alone(|_| {}), 1000, reached);
}

#[test]
fn canary_p25_a_claim_with_one_column_too_few_is_found() {
    let model = extent(|faults| faults.claim_short = true, 0);
    must_break("P-25: k-1 claims", model, &[Rule::OneWriter, Rule::FullStripes]);
}

#[test]
fn canary_p25_a_flush_with_one_acknowledgement_too_few_is_found() {
    must_break("P-25: k-1 acks", extent(|faults| faults.flush_short = true, 0), &[Rule::FullStripes]);
}

#[test]
fn canary_p24_an_extent_that_is_not_sealed_is_found() {
    must_break("P-24: not sealed", extent(|faults| faults.not_sealed = true, 0), &[Rule::FullStripes]);
}

#[test]
fn canary_p24_a_column_replaced_in_place_is_found() {
    must_break("P-24: substituted", extent(|faults| faults.substituted = true, 1), &[Rule::FullStripes]);
}

#[test]
fn canary_ef16_a_claimed_sled_that_takes_old_units_is_found() {
    must_break("EF-16: not fenced", extent(|faults| faults.not_fenced = true, 0), &[Rule::OneWriter]);
}

#[test]
fn canary_op08_a_repoint_of_the_old_number_is_found() {
    let model = extent(|faults| faults.late_repoint = true, 0);
    must_break("OP-08: a late repoint", model, &[Rule::NewestWins]);
}

#[test]
fn canary_solo_by_leave_running_alone_without_leave_is_found() {
    must_break("P-30: no leave", alone(|faults| faults.without_leave = true), &[Rule::SoloByLeave]);
}

#[test]
fn canary_p30_a_lone_log_without_copies_is_found() {
    must_break("P-30: no copy", alone(|faults| faults.no_copy = true), &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p30_a_single_copy_is_found() {
    must_break("P-30: one copy", alone(|faults| faults.one_copy = true), &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p30_copies_that_nobody_reads_are_found() {
    must_break("P-30: copies ignored", alone(|faults| faults.copy_ignored = true), &[Rule::AckedIsDurable]);
}

#[test]
fn a_store_crashes_and_an_older_copy_is_restored_p04() {
    let reached = &[
        "both heads write, one after the other",
        "an epoch begins",
        "a sled stops two grants of one number",
    ];
    must_hold("a restored store", store(|_| {}), 1000, reached);
}

#[test]
fn the_mark_beside_the_store_tells_of_an_older_copy_p04() {
    let bounds = authority::Bounds { mark_kept: true, ..store(|_| {}) };
    must_hold("a restored store with its mark", bounds, 1000, &["an epoch begins"]);
}

#[test]
fn canary_p04_a_restored_store_that_grants_again_is_found() {
    let bounds = store(|faults| (faults.epoch_kept, faults.grant_ignored) = (true, true));
    must_break("P-04: granted again", bounds, &[Rule::NumbersRise]);
}

#[test]
fn canary_p04_a_sled_that_ignores_grants_is_found() {
    must_break("P-04: grants ignored", store(|faults| faults.grant_ignored = true), &[Rule::NumbersRise]);
}

#[test]
fn canary_p04_a_grant_id_that_follows_from_the_number_is_found() {
    let model = store(|faults| faults.id_from_number = true);
    must_break("P-04: ids of a restored store repeat", model, &[Rule::NumbersRise]);
}

#[test]
fn canary_ef14_an_answer_before_it_is_durable_is_found() {
    must_break("EF-14: answered first", store(|faults| faults.answer_first = true), &[Rule::NumbersRise]);
}

#[test]
fn canary_p01_a_number_that_a_new_boot_gets_again_is_found() {
    must_break("P-01: number kept", store(|faults| faults.number_kept = true), &[Rule::NumbersRise]);
}
