//! The fence under rogue heads: `OneWriter`, `FenceDrains`, `FenceIsDurable`, `FullStripes` and the
//! durability of acknowledged column writes (EF-15, EF-16, EF-18; P-16..P-22).

use palisade_sim::Canaries;
use palisade_sim::fences::run_fences;
use std::collections::BTreeMap;

#[test]
fn rogue_heads_break_no_fence_and_every_seed_runs_alike_twice() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut followed = 0;
    for seed in 0..20 {
        let (first, answers) = run_fences(seed, Canaries::default());
        let (second, _) = run_fences(seed, Canaries::default());
        assert!(first.violations.is_empty(), "seed {seed}: {:#?}", first.violations);
        assert_eq!(first.hash, second.hash, "seed {seed} did not run alike twice");
        followed += first.tally.followed_writes;
        for (name, count) in answers {
            *seen.entry(name).or_default() += count;
        }
    }
    assert!(followed > 1000, "only {followed} column writes reached a medium");
    for name in ["ok", "fenced", "no token", "not owner", "stale number", "read right"] {
        assert!(seen.get(name).is_some_and(|count| *count > 10), "{name} is rare: {seen:?}");
    }
}
