//! The shipping authority under two and three heads, explored whole; then each of its rules broken, and found.

use palisade_control::authority::{Authority, Faults};
use palisade_control::config::Solo;
use palisade_model::explore::{Rule, must_break, must_hold};
use palisade_model::roles::{Bounds, Start};

const ACKED: &str = "a write is acknowledged";
const MOVED: &str = "another head serves what was acknowledged";
const REFILLED: &str = "one that came back may lead again";
const LOST: &str = "a loser hears of the winner";

fn broken(breaks: fn(&mut Authority), bounds: Bounds) -> Bounds {
    Bounds { breaks, ..bounds }
}

/// Head 0 is alone, takes heads in, and is overtaken.
fn join() -> Bounds {
    Bounds { start: Start::Alone, heads: 3, declared: 3, joins: true, ..Bounds::default() }
}

/// The store is put back once.
fn put_back() -> Bounds {
    Bounds { writes: 0, restores: 1, reboots: 1, proposals: 1, grants: 2, ..Bounds::default() }
}

#[test]
fn ma05_ma15_a_pair_moves_by_proposals_that_come_late_twice_or_never() {
    let bounds = Bounds { writes: 2, proposals: 3, ..Bounds::default() };
    must_hold("a pair", bounds, 10_000, &[ACKED, MOVED, REFILLED, LOST]);
}

#[test]
fn p01_heads_reboot_at_every_step() {
    must_hold("reboots", Bounds { reboots: 1, ..Bounds::default() }, 30_000, &[ACKED, MOVED, REFILLED]);
}

#[test]
fn solo_by_leave_the_first_group_is_whole() {
    let bounds = Bounds { start: Start::Fresh, reboots: 1, ..Bounds::default() };
    must_hold("a first group", bounds, 10_000, &[ACKED, MOVED]);
}

#[test]
fn ma18_ma19_d_secondaries_race_and_one_wins() {
    let bounds = Bounds { heads: 3, declared: 3, grants: 2, ..Bounds::default() };
    must_hold("three", bounds, 30_000, &[ACKED, MOVED, LOST, "a group of three"]);
}

#[test]
fn ma21_heads_join_filled_or_come_back_unfilled_and_take_over() {
    let bounds = Bounds { start: Start::Alone, writes: 2, ..Bounds::default() };
    must_hold("a return", bounds, 10_000, &[ACKED, MOVED, REFILLED]);
    must_hold("joins", Bounds { grants: 2, ..join() }, 50_000, &[ACKED, MOVED, REFILLED, "a group of three"]);
}

#[test]
fn ef28_switch_overs_drains_and_deaths_of_control() {
    let bounds = Bounds { switches: 2, drains: 1, crashes: 1, proposals: 1, ..Bounds::default() };
    must_hold("switch-overs", bounds, 30_000, &[ACKED, MOVED, "a head is drained"]);
}

#[test]
fn p03_logs_are_replaced_and_their_heads_are_no_members() {
    must_hold("replaced logs", Bounds { replaced: 1, ..Bounds::default() }, 3000, &[ACKED, MOVED]);
}

#[test]
fn p04_a_store_is_put_back_and_grants_no_pair_twice() {
    must_hold("a store put back", put_back(), 5000, &["an epoch begins"]);
    let bounds = Bounds { mark_kept: true, crashes: 1, ..put_back() };
    must_hold("a store put back beside its mark", bounds, 5000, &["an epoch begins"]);
}

/// The store is put back, that is known, and a head may have gone on alone since.
fn known_put_back() -> Bounds {
    Bounds { mark_kept: true, restores: 1, proposals: 2, grants: 2, ..Bounds::default() }
}

const SETTLED: &str = "a doubt is settled";

#[test]
fn p04_p30_a_store_that_is_put_back_loses_nothing_once_that_is_known() {
    must_hold("a known put-back", known_put_back(), 3000, &[ACKED, MOVED, SETTLED, "an epoch begins"]);
    let bounds = Bounds { reboots: 1, proposals: 1, ..known_put_back() };
    must_hold("a known put-back, and reboots", bounds, 3000, &[ACKED, SETTLED]);
    let bounds = Bounds { crashes: 1, proposals: 1, ..known_put_back() };
    must_hold("a known put-back, and deaths of control", bounds, 3000, &[ACKED, SETTLED]);
}

/// Head 0 is alone; after the copy it takes head 2 in, which may go on alone. Head 1 was left out before.
fn joined_since() -> Bounds {
    Bounds { start: Start::Alone, heads: 3, joins: true, away: 1 << 1, grants: 3, ..known_put_back() }
}

#[test]
fn p04_ma21_a_head_that_joined_since_the_copy_and_went_on_alone_is_heard() {
    must_hold("joins and a known put-back", joined_since(), 3000, &[ACKED, SETTLED]);
}

/// Heads go alone with copies on sleds, and are followed from them.
fn copies() -> Bounds {
    Bounds { solo: Solo::Sleds, salvages: 1, proposals: 1, writes: 2, ..Bounds::default() }
}

const SALVAGED: &str = "a lone head is salvaged";

#[test]
fn p30_ma20_lone_heads_are_salvaged_from_their_copies() {
    must_hold("salvages", copies(), 3000, &[ACKED, MOVED, SALVAGED]);
    let bounds = Bounds { reboots: 1, writes: 1, ..copies() };
    must_hold("salvages and reboots", bounds, 3000, &[ACKED, SALVAGED]);
    let bounds = Bounds { replaced: 1, writes: 1, ..copies() };
    must_hold("salvages and replaced logs", bounds, 1000, &[ACKED, SALVAGED]);
    let bounds = Bounds { proposals: 2, writes: 1, grants: 2, ..copies() };
    must_hold("salvages and proposals after them", bounds, 3000, &[ACKED, MOVED, SALVAGED]);
    let bounds = Bounds { crashes: 1, writes: 1, ..copies() };
    must_hold("salvages and deaths of control", bounds, 1000, &[ACKED, SALVAGED]);
    let bounds = Bounds { restores: 1, mark_kept: true, writes: 1, ..copies() };
    must_hold("salvages and a known put-back", bounds, 3000, &[ACKED, SALVAGED, SETTLED]);
}

#[test]
fn canary_p30_a_salvage_without_claims_is_found() {
    let bounds = Bounds { salvage_unclaimed: true, ..copies() };
    must_break("P-30: unclaimed", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p30_a_salvage_of_copies_on_too_few_sleds_is_found() {
    let bounds = Bounds { copies_short: true, ..copies() };
    must_break("P-30: m copies", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p30_a_salvage_that_reads_no_copies_is_found() {
    let bounds = Bounds { copies_unread: true, ..copies() };
    must_break("P-30: copies unread", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn ma20_ma21_control_chooses_heads_and_leaves_members_out() {
    let bounds = Bounds { leave_outs: 2, proposals: 1, ..Bounds::default() };
    must_hold("left out", bounds, 2000, &[ACKED, MOVED, REFILLED]);
    let bounds = Bounds {
        heads: 3,
        away: 1 << 1,
        choices: 1,
        leave_outs: 1,
        proposals: 1,
        grants: 2,
        joins: true,
        ..Bounds::default()
    };
    must_hold("chosen and left out", bounds, 1000, &[ACKED, "a chosen head joins"]);
}

#[test]
fn canary_p04_a_put_back_store_that_decides_at_once_is_found() {
    let skip = |at: &mut Authority| at.break_rules(Faults { doubt_skipped: true, ..Faults::default() });
    must_break("P-04: no doubt", broken(skip, known_put_back()), &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p04_a_put_back_store_that_asks_its_members_only_is_found() {
    let few = |at: &mut Authority| at.break_rules(Faults { members_heard_only: true, ..Faults::default() });
    must_break("P-04: members only", broken(few, joined_since()), &[Rule::AckedIsDurable]);
}

/// What is declined in doubt may have been granted by the store that was put back.
#[test]
fn canary_p04_proposals_that_are_answered_in_doubt_are_found() {
    let answer = |at: &mut Authority| at.break_rules(Faults { doubt_answered: true, ..Faults::default() });
    must_break("P-04: answered in doubt", broken(answer, joined_since()), &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p04_a_head_that_answers_before_it_heard_what_was_said_earlier_is_found() {
    let bounds = Bounds { told_early: true, ..known_put_back() };
    must_break("P-04: told early", bounds, &[Rule::AckedIsDurable]);
}

#[test]
fn service_returns_from_every_state_once_faults_stop() {
    let settles = Bounds { settles: true, writes: 0, ..Bounds::default() };
    must_hold("a pair settles", settles.clone(), 500, &[]);
    let bounds = Bounds { reboots: 1, ..settles.clone() };
    must_hold("a pair that reboots settles", bounds, 2000, &[]);
    let bounds = Bounds { start: Start::Fresh, reboots: 1, proposals: 1, ..settles.clone() };
    must_hold("a first group settles", bounds, 300, &[]);
    let bounds = Bounds { heads: 3, declared: 3, grants: 2, ..settles.clone() };
    must_hold("three settle", bounds, 2000, &[]);
    let bounds = Bounds { settles: true, writes: 0, grants: 1, ..join() };
    must_hold("joins settle", bounds, 300, &[]);
    let bounds = Bounds { switches: 1, drains: 1, crashes: 1, proposals: 1, grants: 2, ..settles };
    must_hold("switch-overs settle", bounds, 1000, &[]);
}

#[test]
fn canary_p02_a_proposal_that_is_asked_once_strands_the_volume_and_is_found() {
    let bounds = Bounds { settles: true, asks_once: true, writes: 0, ..Bounds::default() };
    must_break("P-02: not repeated", bounds, &[Rule::ServiceReturns]);
}

#[test]
fn canary_p02_acknowledging_without_the_one_that_joins_is_found() {
    must_break("P-02: old set", Bounds { ack_on_old_set: true, ..join() }, &[Rule::AckedIsDurable]);
}

#[test]
fn canary_ma05_an_answer_before_it_is_durable_is_found() {
    let bounds = Bounds { answer_first: true, ..Bounds::default() };
    must_break("MA-05: answered first", bounds, &[Rule::OneWinner, Rule::AckedIsDurable]);
}

#[test]
fn canary_ma05_a_proposal_on_an_older_pair_is_found() {
    let skip = |at: &mut Authority| at.break_rules(Faults { compare_skipped: true, ..Faults::default() });
    must_break("MA-05: not compared", broken(skip, Bounds::default()), &[Rule::OneWinner]);
}

#[test]
fn canary_ba06_a_forgotten_answer_is_found() {
    let forget =
        |at: &mut Authority| at.break_rules(Faults { permission_forgotten: true, ..Faults::default() });
    must_break("BA-06: forgotten", broken(forget, Bounds::default()), &[Rule::OneWinner]);
}

#[test]
fn canary_ma21_one_that_came_back_and_leads_unfilled_is_found() {
    let trust = |at: &mut Authority| at.break_rules(Faults { joiner_trusted: true, ..Faults::default() });
    must_break("MA-21: trusted", broken(trust, join()), &[Rule::AckedIsDurable]);
}

#[test]
fn canary_solo_by_leave_a_group_without_its_secondary_is_found() {
    let lone = |at: &mut Authority| at.break_rules(Faults { lone_group: true, ..Faults::default() });
    let bounds = Bounds { start: Start::Fresh, ..Bounds::default() };
    must_break("SoloByLeave: a lone group", broken(lone, bounds), &[Rule::SoloByLeave]);
}

#[test]
fn canary_p03_another_log_that_stands_for_the_old_one_is_found() {
    let any = |at: &mut Authority| at.break_rules(Faults { any_log: true, ..Faults::default() });
    let bounds = Bounds { replaced: 1, ..Bounds::default() };
    must_break("P-03: any log", broken(any, bounds), &[Rule::AckedIsDurable]);
}

#[test]
fn canary_p01_a_number_kept_over_a_reboot_is_found() {
    let keep = |at: &mut Authority| at.break_rules(Faults { number_kept: true, ..Faults::default() });
    let bounds = Bounds { reboots: 1, ..Bounds::default() };
    must_break("P-01: number kept", broken(keep, bounds), &[Rule::NumbersRise]);
}

#[test]
fn canary_p04_a_put_back_store_that_goes_on_in_its_epoch_is_found() {
    let keep = |at: &mut Authority| at.break_rules(Faults { epoch_kept: true, ..Faults::default() });
    must_break("P-04: epoch kept", broken(keep, put_back()), &[Rule::NumbersRise]);
}
