//! Power cut: device writes are recorded, every prefix and sampled reorderings between flushes are
//! replayed and recovered, and all that was acknowledged by then is read back (`AckedIsDurable`, P-09).

use palisade_sim::Canaries;
use palisade_sim::cut::{CutPlan, replay_cuts};
use palisade_sim::faults::{Odds, SCENARIOS, Scenario};

fn small(name: &'static str) -> Scenario {
    Scenario { name, volume_blocks: 64, requests: 40, clients: 2, odds: Odds::CALM, ..SCENARIOS[0] }
}

fn assert_recovers(plan: &CutPlan) {
    let report = replay_cuts(plan);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.cuts > 100, "only {} cuts of {} moments", report.cuts, report.moments);
    assert!(report.flushes > 0, "the recorded run flushed nothing");
}

#[test]
fn every_prefix_of_device_writes_recovers_all_acknowledged_data() {
    let scenario = Scenario { sleds: 3, code: (2, 1), ..small("cut, every prefix") };
    let plan = CutPlan { seed: 3, scenario, canaries: Canaries::default(), every: 1, samples: 1 };
    assert_recovers(&plan);
}

#[test]
fn sampled_prefixes_and_reorderings_recover_all_acknowledged_data() {
    for seed in 10..14 {
        let scenario = small("cut, sampled");
        let plan = CutPlan { seed, scenario, canaries: Canaries::default(), every: 11, samples: 4 };
        assert_recovers(&plan);
    }
}
