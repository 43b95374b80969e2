//! Each rule of the log, broken on purpose, is noticed.

mod log_support;

use log_support::*;
use palisade_protocol::log::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether some random life with the rule broken goes wrong.
fn noticed(set: impl Fn(&mut Faults)) -> bool {
    let mut faults = Faults::default();
    set(&mut faults);
    (1..=30).any(|seed| catch_unwind(AssertUnwindSafe(|| live(seed, 1000, faults))).is_err())
}

#[test]
fn appends_without_fua_are_noticed_p_09() {
    assert!(noticed(|f| f.no_fua = true));
}

#[test]
fn acknowledging_over_a_hole_is_noticed_p_06() {
    assert!(noticed(|f| f.ack_with_hole = true));
}

#[test]
fn trusting_records_beyond_a_hole_is_noticed_p_06() {
    assert!(noticed(|f| f.trust_past_hole = true));
}

#[test]
fn taking_payload_unverified_is_noticed_nothing_silent() {
    assert!(noticed(|f| f.no_payload_check = true));
}

#[test]
fn releasing_live_segments_is_noticed_release_last() {
    assert!(noticed(|f| f.release_before_repoint = true));
}

#[test]
fn releasing_metadata_without_a_checkpoint_is_noticed_p_08() {
    assert!(noticed(|f| f.checkpoint_not_covering = true));
}

#[test]
fn an_unconditional_repoint_is_noticed_p_07() {
    assert!(noticed(|f| f.repoint_unconditional = true));
}
