//! `canary SWITCH [SCENARIO [FROM [COUNT]]]` looks for seeds that catch a broken rule: runs every scenario,
//! or the named one, with the switch on, and prints for each how many seeds found what. `SWITCH` is
//! `machine.field`, as in `head.ack_before_log`. For whoever writes a canary test.

use palisade_sim::faults::{SCENARIOS, Scenario};
use palisade_sim::{Canaries, Setup, run};
use std::process::ExitCode;

macro_rules! switches {
    ($($machine:ident.$field:ident,)*) => {
        fn set(name: &str) -> Option<Canaries> {
            let mut canaries = Canaries::default();
            match name {
                $(concat!(stringify!($machine), ".", stringify!($field)) => canaries.$machine.$field = true,)*
                _ => return None,
            }
            Some(canaries)
        }
        const NAMES: &[&str] = &[$(concat!(stringify!($machine), ".", stringify!($field)),)*];
    };
}

switches! {
    head.ack_before_peer, head.ack_before_log, head.number_kept_over_restart, head.foreign_log_accepted,
    head.grant_ignored, head.skip_probe, head.skip_reconcile, head.skip_confirm, head.confirm_reuse_old_nonce,
    head.stale_token_retry, head.false_fence_demotes, head.claim_unchecked, head.seal_skipped,
    head.flush_below_k1, head.no_list_after_claim, head.release_early, head.rmw_on_committed,
    head.spend_reserve, head.no_credit, head.no_crc_check, head.read_any_generation,
    log.no_fua, log.ack_with_hole, log.trust_past_hole, log.repoint_unconditional, log.drop_tombstones,
    log.release_before_repoint, log.checkpoint_not_covering, log.trust_checkpoint_marks, log.any_log_id,
    log.no_reserve, log.no_payload_check,
}

fn scan(name: &str, canaries: Canaries, scenario: Scenario, seeds: std::ops::Range<u64>) {
    let count = seeds.end - seeds.start;
    let (mut caught, mut first) = (0, None);
    for seed in seeds {
        let report = run(&Setup { canaries, scenario, ..Setup::new(seed) });
        if let Some(violation) = report.violations.first() {
            caught += 1;
            first.get_or_insert_with(|| {
                format!("seed {seed}: {}", violation.chars().take(150).collect::<String>())
            });
        }
    }
    println!("{name} in \"{}\": {caught} of {count}; {}", scenario.name, first.unwrap_or_default());
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| args.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let Some((name, canaries)) = args.first().and_then(|name| set(name).map(|found| (name, found))) else {
        eprintln!("usage: canary SWITCH [SCENARIO [FROM [COUNT]]]; switches: {}", NAMES.join(", "));
        return ExitCode::from(2);
    };
    let wanted = args.get(1).map(String::as_str).filter(|name| *name != "all");
    let from = number(2, 0);
    for scenario in SCENARIOS.into_iter().filter(|scenario| wanted.is_none_or(|name| name == scenario.name)) {
        scan(name, canaries, scenario, from..from + number(3, 6));
    }
    ExitCode::SUCCESS
}
