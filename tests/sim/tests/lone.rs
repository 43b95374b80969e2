//! Heads that are left alone go on with copies on sleds, are lost or fall asleep, and are followed (P-30, MA-20,
//! SoloByLeave). All checks of the other runs hold here too: `AckedIsDurable` by what is read in the end,
//! `NewestWins` block by block; and the rules that this rests on are missed when they are broken.

use palisade_sim::Canaries;
use palisade_sim::faults::named;
use palisade_sim::tally::Tally;
use palisade_sim::{Setup, run};
use std::panic::catch_unwind;

/// Consecutive, so that every kind of run comes up equally often.
const FIXED: std::ops::Range<u64> = 0..18;

#[test]
fn p30_lone_heads_with_copies_on_sleds_are_followed_and_nothing_acknowledged_is_lost() {
    let mut tally = Tally::default();
    for seed in FIXED {
        let setup = Setup::lone(seed);
        let (first, second) = (run(&setup), run(&setup));
        assert!(first.violations.is_empty(), "seed {seed} ({}): {:#?}", first.scenario, first.violations);
        assert_eq!(first.hash, second.hash, "seed {seed} ({}) did not run alike twice", first.scenario);
        tally.add(&first.tally);
    }
    println!("{tally}");
    assert!(tally.alone > 0 && tally.salvages > 0, "never exercised: {tally}");
}

/// Runs a scenario with a switch on, until a seed is caught.
fn catches(what: &str, set: impl FnOnce(&mut Canaries)) {
    let mut canaries = Canaries::default();
    set(&mut canaries);
    for seed in 0..120 {
        let setup = Setup { canaries, scenario: named("lone heads"), ..Setup::new(seed) };
        let found = catch_unwind(|| run(&setup).violations.into_iter().next());
        if let Some(violation) = found.unwrap_or_else(|_| Some("a machine's own assertion".to_owned())) {
            println!("{what}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{what} was not caught");
}

#[test]
fn p30_acknowledging_before_the_copies_is_caught_where_lone_heads_are_lost() {
    catches("before the copies", |canaries| canaries.head.solo_before_copies = true);
}
