//! `make bench`: the ratios of DESIGN section 6 that exist so far, in one run on one machine.
//!
//! Servers run on core 0, clients on core 1. Servers that are compared take turns (A B C A B C …) and the
//! median of the rounds counts; a server that is not being measured is stopped by a signal, so that a
//! spinning one does not take the core from another. What cannot run here is skipped, aloud.
//!
//! The bench drives the very binary it is part of: `perf bare-nbd`, `perf run` and `up` of the same
//! executable.

pub mod command;
pub mod fio;
pub mod micro;
pub mod nbd;
mod ratios;
mod recovery;
pub mod servers;
pub mod verdict;

use crate::units::seconds;
use clap::Args;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use verdict::Verdicts;

/// Arguments of `perf bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Measured seconds of each point
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Only sections whose name contains this: micro, nbd, idle, failover, rebuild
    #[arg(long)]
    pub only: Option<String>,
    /// The rack of the full path and the bare volume
    #[arg(long, default_value = "configs/one-box-memory.toml")]
    pub rack: PathBuf,
    /// The rack whose idle cost is measured
    #[arg(long, default_value = "configs/one-box.toml")]
    pub idle_rack: PathBuf,
    /// Write all numbers as JSON to this file
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Everything measured, for JSON.
#[derive(Debug, Default, serde::Serialize)]
struct Results {
    machine: String,
    nbd: Vec<nbd::Point>,
    micro: Vec<micro::Figure>,
    verdicts: Verdicts,
}

/// What `--only` chooses from.
const SECTIONS: [&str; 5] = ["micro", "idle", "nbd", "failover", "rebuild"];

/// Why nothing would run: a name that no section has is a slip of the pen, and no run without findings.
fn refuse(args: &BenchArgs) -> Result<(), (u8, String)> {
    match &args.only {
        Some(only) if !SECTIONS.iter().any(|name| name.contains(only.as_str())) => {
            Err((2, format!("no section is called `{only}`; there are {}", SECTIONS.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Runs the benches; the exit code is 0 when everything that could run did (missed goals are told, they
/// do not fail the run: a shared machine misses them for reasons of its own).
pub fn run(args: &BenchArgs, stop: &AtomicBool) -> Result<u8, (u8, String)> {
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    refuse(args)?;
    let [micro, idle, nbd, failover, rebuild] = SECTIONS.map(wanted);
    let mut results = Results { machine: machine(), ..Results::default() };
    println!("bench: {}", results.machine);
    println!("bench: {} round(s) of {:.1} s each, medians", args.rounds, args.seconds.as_secs_f64());
    if micro {
        results.micro = micro::run(&mut results.verdicts);
    }
    if idle {
        servers::idle(&args.idle_rack, &mut results.verdicts);
    }
    if nbd {
        results.nbd = nbd::run(args, stop, &mut results.verdicts).map_err(|why| (1, why))?;
    }
    if failover {
        recovery::failover(args.rounds, &mut results.verdicts);
    }
    if rebuild {
        recovery::rebuild(&mut results.verdicts);
    }
    println!();
    results.verdicts.print();
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&results).map_err(|e| (1, e.to_string()))?;
        std::fs::write(path, text + "\n")
            .map_err(|e| (1, format!("cannot write {}: {e}", path.display())))?;
    }
    Ok(0)
}

/// The machine in one line.
pub(crate) fn machine() -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("?");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = text("/proc/sys/kernel/osrelease");
    let load = text("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{model}, {cores} cores, Linux {}, load before the run {load}", kernel.trim())
}

/// Says that something is not measured here, and why.
pub(crate) fn skip(what: &str, why: impl std::fmt::Display) {
    println!("SKIPPED {what}: {why}");
}

/// The median of some numbers (the lower of the middle two); zero of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_there_is_not_is_refused_by_name() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: BenchArgs,
        }
        let args = |only: &str| <Line as clap::Parser>::parse_from(["bench", "--only", only]).args;
        let (code, why) = refuse(&args("rebild")).err().unwrap_or_default();
        assert_eq!(code, 2);
        assert!(why.contains("`rebild`") && why.contains("rebuild"), "{why}");
        for name in SECTIONS {
            assert!(refuse(&args(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn medians_are_of_the_sorted_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
