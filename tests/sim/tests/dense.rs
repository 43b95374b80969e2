//! Failover after failover: heads that lead are killed or cut off as soon as their groups are whole, with jumping
//! clocks, sleeping heads, long losses of the authority, clients that ask the wrong head, and bad networks
//! (MA-09, MA-10, MA-15, EF-31). All checks of the other runs hold here, too.

use palisade_sim::dense::DENSE;
use palisade_sim::tally::Tally;
use palisade_sim::{Setup, run};

/// Consecutive, so that every kind of run comes up equally often.
const FIXED: std::ops::Range<u64> = 0..8;

/// Seeds that once found a violation, with what was violated.
const REGRESSIONS: [u64; 1] = [
    // NewestWins: an update whose client hung up was taken for done when its living head began to serve. It was the
    // check that erred.
    7,
];

#[test]
fn failover_after_failover_keeps_every_acknowledged_write_and_runs_alike_twice() {
    let mut tally = Tally::default();
    for seed in FIXED.chain(REGRESSIONS) {
        let setup = Setup::dense(seed);
        let (first, second) = (run(&setup), run(&setup));
        assert!(first.violations.is_empty(), "seed {seed} ({}): {:#?}", first.scenario, first.violations);
        assert_eq!(first.hash, second.hash, "seed {seed} ({}) did not run alike twice", first.scenario);
        tally.add(&first.tally);
    }
    println!("{tally}");
    let zeroes = tally.dense_zeroes();
    assert!(zeroes.is_empty(), "never exercised: {zeroes:?}\n{tally}");
    let per_run = tally.failovers / tally.runs;
    assert!(per_run >= 15, "dense in failovers: {per_run} a run");
    assert_eq!(FIXED.end % DENSE.len() as u64, 0, "every kind of run equally often");
}
