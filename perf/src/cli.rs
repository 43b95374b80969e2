//! `palisade perf …`: the arguments and what each of them starts.
//!
//! The binary lives in `dataplane/node`; it embeds [`PerfArgs`] as one of its subcommands and calls
//! [`run`] with a factory for the targets that only a node can make (`rack:FILE`).

use crate::target::Factory;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Load, baselines and benches.
#[derive(Args, Clone, Debug)]
pub struct PerfArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PerfCommand,
}

/// The verbs of `palisade perf`.
#[derive(Subcommand, Clone, Debug)]
pub enum PerfCommand {}

/// Runs a perf command; the exit code is 0 when all went well, 1 on wrong data or errors, 2 on unfit
/// arguments, 3 when the target went away (state files are written all the same).
pub fn run(args: &PerfArgs, _factory: &dyn Factory) -> ExitCode {
    match args.command {}
}
