//! `palisade perf …`: the arguments and what each of them starts.
//!
//! The binary lives in `dataplane/node`; it embeds [`PerfArgs`] as one of its subcommands and calls
//! [`run`] with a factory for the targets that only a node can make (`rack:FILE`).

use crate::bench::micro::{MicroArgs, repeat};
use crate::bench::{self, BenchArgs};
use crate::faults::{self, FaultArgs};
use crate::load::check::check;
use crate::load::engine::{Ended, Engine, Outcome};
use crate::load::model::Model;
use crate::load::spec::{Pace, Pattern, Spec};
use crate::load::state;
use crate::nbd::follow::Follower;
use crate::nbd::server::BareServer;
use crate::nbd::target::NbdTarget;
use crate::nbd::uri::{Place, Uri};
use crate::report::progress::Progress;
use crate::report::summary::{Summary, write_files};
use crate::target::device::Device;
use crate::target::mem::Memory;
use crate::target::{Factory, Target, TargetError, Want};
use crate::units::{seconds, size};
use clap::{Args, Subcommand, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

/// Load, baselines and benches.
#[derive(Args, Clone, Debug)]
pub struct PerfArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PerfCommand,
}

/// The verbs of `palisade perf`.
#[derive(Subcommand, Clone, Debug)]
pub enum PerfCommand {
    /// Drive a target with load, and perhaps verify every read.
    Run(RunArgs),
    /// Serve flat memory over NBD with one spinning thread: the baseline of the export.
    BareNbd(BareArgs),
    /// Measure this build against its goals and its peers.
    Bench(BenchArgs),
    /// Hurt a rack of real processes under verified load in every way, and report what its clients saw.
    Faults(FaultArgs),
    /// Repeat one small piece of work, for an instruction counter around it.
    #[command(hide = true)]
    Micro(MicroArgs),
}

/// Where requests go.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternArg {
    /// Every block is as likely.
    Uniform,
    /// Few blocks get most requests.
    Zipf,
    /// One after another.
    Sequential,
}

/// Arguments of `perf run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// nbd://host:port/name, nbd+unix:///name?socket=PATH, mem:SIZE, rack:FILE, block:PATH, nvme:PCI-ADDRESS
    pub target: String,
    /// Another NBD address of the volume, tried when the first one is gone, silent or does not serve it; repeatable
    #[arg(long, value_name = "TARGET")]
    pub also: Vec<String>,
    /// Share of reads in per cent; the rest are writes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read: u8,
    /// Bytes of a request
    #[arg(long, default_value = "4k", value_parser = size)]
    pub size: u64,
    /// Requests in flight
    #[arg(long, default_value_t = 32)]
    pub depth: u32,
    /// Connections that share them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// Open loop: start so many requests a second, latency counted from the intended start
    #[arg(long)]
    pub rate: Option<f64>,
    /// Measured seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Unmeasured seconds before
    #[arg(long, default_value = "0", value_parser = seconds)]
    pub warmup: Duration,
    /// Stop after so many requests
    #[arg(long)]
    pub requests: Option<u64>,
    /// Where requests go
    #[arg(long, value_enum, default_value_t = PatternArg::Uniform)]
    pub pattern: PatternArg,
    /// Skew of zipf
    #[arg(long, default_value_t = 0.99)]
    pub theta: f64,
    /// First byte of the region
    #[arg(long, default_value = "0", value_parser = size)]
    pub offset: u64,
    /// Bytes of the region; 0: to the end
    #[arg(long, default_value = "0", value_parser = size)]
    pub region: u64,
    /// A flush after so many writes; 0: none
    #[arg(long, default_value_t = 0)]
    pub flush_every: u32,
    /// Seed of addresses and contents
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write blocks that describe themselves, check every read, and read everything back at the end
    #[arg(long)]
    pub verify: bool,
    /// With --state: only read back and check what the state file knows
    #[arg(long, requires = "state")]
    pub verify_only: bool,
    /// Keep what was acknowledged in this file; a run that finds one continues from it
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// After a lost connection try for so many seconds to come back
    #[arg(long, default_value = "0", value_parser = seconds)]
    pub reconnect: Duration,
    /// Pin the generator to this core
    #[arg(long)]
    pub core: Option<usize>,
    /// Write PREFIX.json, .hgrm, .hlog and .svg
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// JSON in place of the table
    #[arg(long)]
    pub json: bool,
    /// No progress bar
    #[arg(long)]
    pub quiet: bool,
}

/// Arguments of `perf bare-nbd`.
#[derive(Args, Clone, Debug)]
pub struct BareArgs {
    /// host:port or unix:PATH
    #[arg(long, default_value = "127.0.0.1:10810")]
    pub listen: String,
    /// Bytes to serve
    #[arg(long, default_value = "1g", value_parser = size)]
    pub size: u64,
    /// Pin the server to this core
    #[arg(long)]
    pub core: Option<usize>,
}

/// All went well.
const GOOD: u8 = 0;
/// Wrong data or error answers.
const WRONG: u8 = 1;
/// Unfit arguments, or a target that cannot be used.
const UNFIT: u8 = 2;
/// The target went away.
const GONE: u8 = 3;

/// Runs a perf command; the exit code is 0 when all went well, 1 on wrong data or errors, 2 on unfit
/// arguments, 3 when the target went away (state files are written all the same).
pub fn run(args: &PerfArgs, factory: &dyn Factory) -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(e) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("perf: cannot watch signals: {e}");
        }
    }
    let code = match &args.command {
        PerfCommand::Run(args) => load(args, factory, &stop),
        PerfCommand::BareNbd(args) => bare(args, &stop),
        PerfCommand::Bench(args) => bench::run(args, &stop),
        PerfCommand::Faults(args) => faults::run(args, &stop),
        PerfCommand::Micro(args) => repeat(args),
    };
    ExitCode::from(code.unwrap_or_else(|(code, why)| {
        eprintln!("perf: {why}");
        code
    }))
}

type Failure = (u8, String);

fn unfit(why: impl ToString) -> Failure {
    (UNFIT, why.to_string())
}

/// Pins this thread.
pub(crate) fn pin(core: Option<usize>) -> Result<(), String> {
    let Some(core) = core else { return Ok(()) };
    // Asked first: the call itself does not survive a core number that no host has.
    let there: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    if there.contains(&core) && core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    Err(format!("cannot pin to core {core}; this process may use {there:?}"))
}

fn bare(args: &BareArgs, stop: &AtomicBool) -> Result<u8, Failure> {
    pin(args.core).map_err(unfit)?;
    let place = match args.listen.strip_prefix("unix:") {
        Some(path) => Place::Unix(path.to_owned()),
        None => Place::Tcp(args.listen.clone()),
    };
    let mut server = BareServer::bind(&place, args.size)
        .map_err(|e| unfit(format!("cannot listen on {}: {e}", args.listen)))?;
    println!("bare {} bytes on {}", args.size, args.listen);
    server.run(stop);
    if let Place::Unix(path) = place {
        let _gone = std::fs::remove_file(path);
    }
    Ok(GOOD)
}

impl RunArgs {
    fn spec(&self) -> Result<Spec, Failure> {
        Ok(Spec {
            read_percent: self.read,
            size: u32::try_from(self.size).map_err(|_| unfit("--size is too large"))?,
            depth: self.depth,
            pattern: match self.pattern {
                PatternArg::Uniform => Pattern::Uniform,
                PatternArg::Zipf => Pattern::Zipf(self.theta),
                PatternArg::Sequential => Pattern::Sequential,
            },
            pace: self.rate.map_or(Pace::Closed, Pace::Open),
            offset: self.offset,
            bytes: self.region,
            time: self.seconds,
            warmup: self.warmup,
            requests_max: self.requests,
            flush_every: self.flush_every,
            seed: self.seed,
            reconnect: self.reconnect,
        })
    }

    fn verifies(&self) -> bool {
        self.verify || self.verify_only || self.state.is_some()
    }

    fn open(&self, spec: &Spec, factory: &dyn Factory) -> Result<Box<dyn Target>, Failure> {
        let want = Want {
            slots: spec.depth,
            slot_bytes: spec.size as usize,
            connections: self.connections.min(spec.depth),
            look: self.verifies(),
        };
        let failed = |e: TargetError| match e {
            TargetError::Lost(why) => (GONE, why),
            TargetError::Fatal(why) => (UNFIT, why),
        };
        if let Some(bytes) = self.target.strip_prefix("mem:") {
            let bytes = size(bytes).map_err(unfit)?;
            return Ok(Box::new(Memory::new(bytes, want)));
        }
        if let Some(device) = Device::open(&self.target, want) {
            return Ok(Box::new(device.map_err(failed)?));
        }
        if let Some(target) = factory.open(&self.target, want) {
            return target.map_err(failed);
        }
        let uri = Uri::parse(&self.target).map_err(unfit)?;
        if self.also.is_empty() {
            return Ok(Box::new(NbdTarget::open(uri, want).map_err(failed)?));
        }
        let also: Result<Vec<Uri>, _> = self.also.iter().map(|text| Uri::parse(text)).collect();
        let uris = std::iter::once(uri).chain(also.map_err(unfit)?).collect();
        Ok(Box::new(Follower::open(uris, want).map_err(failed)?))
    }

    /// The model of a verified run: the state file's, or a new one.
    fn model(&self, spec: &Spec) -> Result<Option<Model>, Failure> {
        if !self.verifies() {
            return Ok(None);
        }
        let unit = if spec.size.is_multiple_of(4096) { 4096 } else { 512 };
        let blocks = spec.bytes / u64::from(unit);
        if blocks > state::BLOCKS_MAX {
            return Err(unfit(format!("{blocks} blocks are too many to verify; give a --region")));
        }
        if let Some(path) = self.state.as_deref().filter(|path| self.verify_only || path.exists()) {
            let model = state::load(path).map_err(unfit)?;
            let same = (model.unit, model.offset, model.blocks()) == (unit, spec.offset, blocks);
            if model.unit > spec.size {
                return Err(unfit(format!("{}: checks need --size {} at least", path.display(), model.unit)));
            }
            if !same && !self.verify_only {
                return Err(unfit(format!(
                    "{}: made for another region or request size ({} blocks of {} from {})",
                    path.display(),
                    model.blocks(),
                    model.unit,
                    model.offset
                )));
            }
            return Ok(Some(model));
        }
        // Blocks of an earlier run must not pass for this one's: the seed is mixed with the time.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Some(Model::new(unit, spec.offset, blocks, self.seed ^ now.as_nanos() as u64)))
    }
}

fn load(args: &RunArgs, factory: &dyn Factory, stop: &AtomicBool) -> Result<u8, Failure> {
    pin(args.core).map_err(unfit)?;
    let spec = args.spec()?;
    spec.clone().fit(u64::MAX / 2).map_err(unfit)?; // before any memory is taken
    let mut target = args.open(&spec, factory)?;
    let spec = spec.fit(target.bytes()).map_err(unfit)?;
    let mut model = args.model(&spec)?;
    let started = SystemTime::now();
    let mut progress = Progress::new(spec.warmup + spec.time, args.quiet);
    let mut outcome = if args.verify_only {
        let model = model.as_mut().expect("a verifying run has a model");
        check(target.as_mut(), model, spec.size, spec.depth, stop)
    } else {
        let engine = Engine::new(target.as_mut(), spec.clone(), model.as_mut(), args.state.clone(), stop);
        engine.run(&mut progress)
    };
    progress.finish();
    if let Some(model) = model.as_mut().filter(|_| args.verify && outcome.ended == Ended::Complete) {
        read_back(target.as_mut(), model, &spec, stop, &mut outcome);
    }
    let stages = target.stages();
    let summary = Summary::new(&args.target, &spec, &outcome, &stages);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary).map_err(unfit)?);
    } else {
        print!("{}", summary.table());
    }
    if let Some(prefix) = &args.out {
        write_files(prefix, &summary, &outcome, &stages, &progress.intervals, started)
            .map_err(|e| unfit(format!("cannot write {}: {e}", prefix.display())))?;
    }
    Ok(match outcome.ended {
        _ if outcome.wrong_count > 0 || outcome.errors > 0 => WRONG,
        Ended::Complete | Ended::Stopped => GOOD,
        Ended::Lost(_) => GONE,
        Ended::Fatal(_) => WRONG,
    })
}

/// Reads back what the model knows and adds what it finds to the run's outcome.
fn read_back(
    target: &mut dyn Target,
    model: &mut Model,
    spec: &Spec,
    stop: &AtomicBool,
    outcome: &mut Outcome,
) {
    let back = check(target, model, spec.size, spec.depth, stop);
    outcome.compared += back.compared;
    outcome.errors += back.errors;
    outcome.wrong_count += back.wrong_count;
    outcome.wrong.extend(back.wrong);
    if back.ended != Ended::Complete {
        outcome.ended = back.ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::NoFactory;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        perf: PerfArgs,
    }

    fn code(line: &str) -> Result<u8, Failure> {
        let cli =
            Cli::try_parse_from(std::iter::once("perf").chain(line.split_whitespace())).expect("parses");
        let stop = AtomicBool::new(false);
        match &cli.perf.command {
            PerfCommand::Run(args) => load(args, &NoFactory, &stop),
            PerfCommand::BareNbd(args) => bare(args, &stop),
            PerfCommand::Bench(args) => bench::run(args, &stop),
            PerfCommand::Faults(args) => faults::run(args, &stop),
            PerfCommand::Micro(args) => repeat(args),
        }
    }

    #[test]
    fn a_verified_run_leaves_every_kind_of_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let prefix = dir.path().join("x").join("run");
        let line = format!(
            "run mem:4m --read 50 --verify --requests 5000 --quiet --json --out {} --state {}",
            prefix.display(),
            dir.path().join("state").display()
        );
        assert_eq!(code(&line), Ok(GOOD));
        for ending in [".json", ".read.hgrm", ".write.hgrm", ".hlog", ".svg"] {
            let path = format!("{}{ending}", prefix.display());
            assert!(std::fs::metadata(&path).is_ok_and(|m| m.len() > 100), "{path}");
        }
        // The memory target is empty again: the state file's promises cannot hold.
        let line = format!("run mem:4m --verify-only --quiet --state {}", dir.path().join("state").display());
        assert_eq!(code(&line), Ok(WRONG));
    }

    #[test]
    fn unfit_arguments_are_told_and_not_run() {
        for line in [
            "run mem:4m --size 1000",
            "run mem:4m --depth 0",
            "run mem:4m --depth 4096 --size 32m",
            "run mem:4m --region 8m",
            "run mem:x",
            "run nvme:ffff:ff:1f.7",
            "run block:/nonexistent/disk",
            "run ftp://x/y",
            "run mem:4m --rate 0",
            "run mem:4m --core 9999",
            "run mem:4m --verify-only --state /nonexistent/state",
        ] {
            assert_eq!(code(line).expect_err(line).0, UNFIT, "{line}");
        }
        assert_eq!(code("run nbd://127.0.0.1:1/x").expect_err("nobody listens").0, GONE);
    }
}
