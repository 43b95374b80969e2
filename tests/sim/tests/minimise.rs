//! A failing run is made smaller, by list of faults and by load, and still fails alike; a list of faults plays
//! the same run again.

use palisade_sim::diary::Diary;
use palisade_sim::faults::named;
use palisade_sim::minimise::{Limits, kind_of, minimise};
use palisade_sim::run::run_with;
use palisade_sim::{Canaries, Setup, run};
use std::time::Duration;

/// A failing run of a broken rule in a scenario.
fn failing(scenario: &str, canaries: Canaries) -> Setup {
    let setups = (0..60).map(|seed| Setup { canaries, scenario: named(scenario), ..Setup::new(seed) });
    // What is found only when everything has been waited for takes too long to be run a hundred times.
    let quick = |setup: &Setup| {
        run(setup).violations.first().is_some_and(|violation| kind_of(violation) != "liveness")
    };
    setups.into_iter().find(quick).expect("the broken rule is caught")
}

#[test]
fn the_list_of_faults_of_a_run_plays_the_same_run_again() {
    for setup in [Setup::dense(1), Setup::dense(3), Setup::moving(2), Setup::new(9)] {
        let (first, (struck, _)) = run_with(&setup, None, None);
        assert!(struck.len() > 3, "{}: {} faults", first.scenario, struck.len());
        let (second, (again, _)) = run_with(&setup, Some(&struck), None);
        assert_eq!((first.hash, struck), (second.hash, again), "{}", first.scenario);
    }
}

#[test]
fn a_failing_run_is_made_smaller_and_fails_alike_with_a_readable_trace() {
    let mut canaries = Canaries::default();
    canaries.head.takeover_unreconciled = true;
    let setup = failing("failovers, dense", canaries);
    let limits = Limits { runs: 100, wall: Duration::from_secs(300) };
    let small = minimise(&setup, limits).expect("it fails");
    println!("{:?} -> {:?} in {} runs\n{}", small.before, small.after, small.runs, small.trace);
    assert!(small.after.faults * 2 <= small.before.faults, "{:?} -> {:?}", small.before, small.after);
    // With less load other things happen, so that a run need not fail any more; then few faults must be left.
    let (before, after) = (small.before, small.after);
    let less = after.volumes < before.volumes || after.requests < before.requests;
    assert!(less || after.faults * 10 <= before.faults, "{before:?} -> {after:?}");
    assert!(small.after.lasted < small.before.lasted);
    assert!(small.runs <= limits.runs);
    let (report, _) = run_with(&small.setup, Some(&small.script), Some(Diary::Keep(Default::default())));
    let violation = report.violations.first().expect("the small run fails, too");
    assert_eq!((kind_of(violation), violation), (small.kind, &small.violation));
    assert!(small.trace.lines().count() < 500, "short");
    for part in ["FAULT", "(Serving", "sends to", "is asked by a client"] {
        assert!(small.trace.contains(part), "no {part} in\n{}", small.trace);
    }
}
