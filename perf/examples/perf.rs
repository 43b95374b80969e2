//! `palisade perf` without the rest of the binary, for work on the generator itself.
//!
//! `cargo run --release -p palisade-perf --example perf -- perf run mem:1g`

use clap::{Parser, Subcommand};
use palisade_perf::cli::{PerfArgs, run};
use palisade_perf::target::NoFactory;
use std::process::ExitCode;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Load, baselines and benches.
    Perf(PerfArgs),
}

fn main() -> ExitCode {
    let Verb::Perf(args) = Cli::parse().verb;
    run(&args, &NoFactory)
}
