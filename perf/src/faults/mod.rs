//! `palisade perf faults`: a rack of real processes under verified load, hurt in one way after the other, and a
//! report of what its clients saw.
//!
//! Every fault has a rack of its own (`up --processes`, default timers, roles that move by themselves), and two
//! clients: one reads, one mostly writes; both follow the volume to its other address and compare every block.
//! What a host does not allow (namespaces, mounts, foreign clients) is skipped, aloud.

mod calls;
mod damage;
mod foreign;
mod kinds;
mod load;
mod rack;
pub(crate) mod rebuild;
mod rpc;
mod scene;
mod timeline;
mod write;

use crate::load::spec::Pace;
use crate::units::seconds;
use clap::Args;
use kinds::Fault;
pub(crate) use scene::Pause;
use scene::{Scene, pauses};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calls::Call;
use write::timeline_of;

/// The name of what is no drill: calls to control while clients are at work.
const CALLS: &str = "control-calls";

/// Arguments of `perf faults`.
#[derive(Args, Clone, Debug)]
pub struct FaultArgs {
    /// How often a primary is killed, in each of the drills that do that
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kills: u32,
    /// How often the other faults are done
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub others: u32,
    /// For how long a primary is stopped; one value for each time
    #[arg(long, default_value = "1,5", value_delimiter = ',', value_parser = seconds)]
    pub stops: Vec<Duration>,
    /// Undisturbed load before and after each fault
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub calm: Duration,
    /// Requests in flight of each of the two clients
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub depth: u32,
    /// Requests a second of each of them (default: the next one when one was answered)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Only this drill, or those whose names contain this; repeatable
    #[arg(long)]
    pub only: Vec<String>,
    /// Where racks have their files (default: the directory for temporary files)
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The binary that racks are of (default: this one)
    #[arg(long)]
    pub palisade: Option<PathBuf>,
    /// Leave the files of the racks where they are
    #[arg(long)]
    pub keep: bool,
    /// Write FAULTS.md and faults/*.svg into this folder
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print all results as JSON in place of the table
    #[arg(long)]
    pub json: bool,
}

impl FaultArgs {
    /// When the clients ask.
    fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Closed, |rate| Pace::Open(f64::from(rate)))
    }

    /// Where racks have their files.
    fn folder(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Whether a drill is asked for: by its whole name, or by a part of it that is no drill's whole name.
    fn wants(&self, name: &str) -> bool {
        let whole = |only: &str| names().contains(&only);
        let fits = |only: &String| if whole(only) { name == only } else { name.contains(only.as_str()) };
        self.only.is_empty() || self.only.iter().any(fits)
    }

    /// Why what was asked for would not run: no drill is called so.
    fn refuse(&self) -> Result<(), (u8, String)> {
        let names = names();
        let unknown = |only: &&String| !names.iter().any(|name| name.contains(only.as_str()));
        match self.only.iter().find(unknown) {
            Some(only) => Err((2, format!("no drill is called `{only}`; there are {}", names.join(", ")))),
            None => Ok(()),
        }
    }

    /// What a bench asks for.
    pub(crate) fn of_bench(kills: u32) -> Self {
        Self {
            kills,
            others: 1,
            stops: Vec::new(),
            calm: Duration::from_secs(1),
            depth: 32,
            rate: None,
            only: Vec::new(),
            dir: None,
            palisade: None,
            keep: false,
            out: None,
            json: false,
        }
    }
}

/// What `--only` chooses from.
fn names() -> Vec<&'static str> {
    let drills = kinds::all().into_iter().map(|fault| fault.name);
    drills.chain(foreign::ALL.map(|(name, ..)| name)).chain([CALLS]).collect()
}

/// Why a drill has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Trouble {
    /// This host does not allow it.
    #[error("skipped: {0}")]
    Skipped(String),
    /// The rack did not do what it must, or the drill itself failed.
    #[error("failed: {0}")]
    Failed(String),
}

impl<T: Into<String>> From<T> for Trouble {
    fn from(why: T) -> Self {
        Self::Failed(why.into())
    }
}

/// What one drill showed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub name: String,
    /// What was done.
    pub what: String,
    /// Empty when all went well; else "skipped: …" or "failed: …".
    pub trouble: String,
    /// One for each time that the fault was done.
    pub pauses: Vec<Pause>,
    /// Error answers to clients.
    pub errors: u64,
    /// Blocks that were not what they must be.
    pub wrong: u64,
    /// Blocks that were compared.
    pub compared: u64,
    /// How often clients connected anew.
    pub reconnects: u64,
    /// The first errors and wrong blocks, in words.
    pub findings: Vec<String>,
    /// What is to be said beside the figures.
    pub notes: Vec<String>,
    /// What the rack told of the first time: milliseconds after its begin, and words.
    pub events: Vec<(u64, String)>,
    /// The timeline as SVG, for files.
    #[serde(skip)]
    pub svg: String,
}

impl Row {
    fn bad(&self) -> bool {
        self.errors > 0 || self.wrong > 0 || self.trouble.starts_with("failed")
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Results {
    /// The machine, with its load before the run.
    pub machine: String,
    /// The version of the source, when it is known.
    pub commit: String,
    /// One for each drill.
    pub rows: Vec<Row>,
    /// Calls to control while reactors are saturated.
    pub calls: Vec<Call>,
}

/// Runs the drills; the exit code is 0 when no client saw an error or a wrong block and no drill failed. Pauses
/// are told and decide nothing: a busy machine has longer ones.
pub fn run(args: &FaultArgs, stop: &AtomicBool) -> Result<u8, (u8, String)> {
    args.refuse()?;
    let mut results =
        Results { machine: crate::bench::machine(), commit: write::commit(), ..Results::default() };
    let say = |row: &Row| {
        if !args.json {
            println!("{}", write::line(row));
        }
    };
    if !args.json {
        println!("faults: {}", results.machine);
        println!("{}", write::HEAD);
    }
    for fault in kinds::all().iter().filter(|fault| args.wants(fault.name)) {
        if stop.load(Ordering::Relaxed) {
            return Err((1, "stopped".to_owned()));
        }
        let row = one(fault, args);
        say(&row);
        results.rows.push(row);
    }
    for (name, what, drill) in foreign::ALL {
        if args.wants(name) && !stop.load(Ordering::Relaxed) {
            let row = Row { name: name.to_owned(), what: what.to_owned(), ..Row::default() };
            let row = drill(args, row.clone())
                .unwrap_or_else(|trouble| Row { trouble: trouble.to_string(), ..row });
            say(&row);
            results.rows.push(row);
        }
    }
    if args.wants(CALLS) && !stop.load(Ordering::Relaxed) {
        results.calls = calls::measure(args).map_err(|trouble| (1, format!("control calls: {trouble}")))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&results).map_err(|e| (1, e.to_string()))?);
    } else {
        print!("{}", write::calls(&results.calls));
    }
    if let Some(out) = &args.out {
        write::files(out, &results).map_err(|e| (1, format!("cannot write to {}: {e}", out.display())))?;
    }
    Ok(u8::from(results.rows.iter().any(Row::bad)))
}

/// One drill from its rack's start to its end.
fn one(fault: &Fault, args: &FaultArgs) -> Row {
    let mut row = Row { name: fault.name.to_owned(), what: fault.what.to_owned(), ..Row::default() };
    if let Err(trouble) = drill(fault, args, &mut row) {
        row.trouble = trouble.to_string();
    }
    row
}

fn drill(fault: &Fault, args: &FaultArgs, row: &mut Row) -> Result<(), Trouble> {
    let mut scene = Scene::set(fault.shape, args)?;
    let done = (fault.deed)(&mut scene, args);
    let (both, rounds, notes) = match scene.finish() {
        Ok(found) => found,
        Err(trouble) => return Err(done.err().unwrap_or(trouble)),
    };
    row.errors = both.sum(|outcome| outcome.errors);
    row.wrong = both.sum(|outcome| outcome.wrong_count);
    row.compared = both.sum(|outcome| outcome.compared);
    row.reconnects = both.sum(|outcome| outcome.reconnects);
    (row.findings, row.notes) = (both.findings(), notes);
    row.events = rounds.first().map(|round| round.events.clone()).unwrap_or_default();
    row.svg = timeline_of(fault.what, &both, &rounds);
    row.pauses = pauses(&both, &rounds)?;
    done
}

/// The drills that a bench holds against its goals.
pub(crate) fn killed_primaries(kills: u32) -> Vec<Row> {
    let args = FaultArgs::of_bench(kills);
    kinds::all()
        .iter()
        .filter(|fault| fault.name.starts_with("kill-primary"))
        .map(|fault| one(fault, &args))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_that_there_is_not_is_refused_by_name() {
        let args = |only: &str| FaultArgs { only: vec![only.to_owned()], ..FaultArgs::of_bench(1) };
        let (code, why) = args("kill-primry").refuse().err().unwrap_or_default();
        assert_eq!(code, 2);
        assert!(why.contains("`kill-primry`") && why.contains(CALLS), "{why}");
        for name in names() {
            assert!(args(name).refuse().is_ok() && args(name).wants(name), "{name}");
        }
        assert!(args("primary").refuse().is_ok(), "a part of a name");
    }
}
