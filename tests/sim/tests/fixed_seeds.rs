//! The fixed set: every seed runs twice to the same event hash, none finds a violation, and together they
//! exercise everything (`Tally::zeroes`). Seeds that once failed stay in the list of their own.

use palisade_sim::tally::Tally;
use palisade_sim::{Setup, run};

/// Consecutive, so that every scenario comes up equally often.
const FIXED: std::ops::Range<u64> = 0..30;

/// Seeds that once found a violation; each line says which.
const REGRESSIONS: [u64; 0] = [];

/// Runs a seed twice and adds the first run to the tally.
fn twice(seed: u64, tally: &mut Tally) {
    let (first, second) = (run(&Setup::new(seed)), run(&Setup::new(seed)));
    assert!(first.violations.is_empty(), "seed {seed} ({}): {:#?}", first.scenario, first.violations);
    assert_eq!(first.hash, second.hash, "seed {seed} ({}) did not run alike twice", first.scenario);
    tally.add(&first.tally);
}

#[test]
fn fixed_seeds_run_clean_and_alike_twice_and_exercise_everything() {
    let mut tally = Tally::default();
    FIXED.for_each(|seed| twice(seed, &mut tally));
    println!("{tally}");
    let zeroes = tally.zeroes();
    assert!(zeroes.is_empty(), "the fixed seeds never exercised: {zeroes:?}\n{tally}");
}

#[test]
fn seeds_that_once_failed_run_clean() {
    let mut tally = Tally::default();
    REGRESSIONS.iter().for_each(|seed| twice(*seed, &mut tally));
    assert_eq!(tally.runs, REGRESSIONS.len() as u64);
}
