//! `sim --seconds N` runs fresh seeds for that time and prints, last, how many it ran.
//! `sim --seed N` runs one seed; `--trace` prints everything that happens. `sim --from A --count N` runs a range.
//! A run that fails is made smaller and told for people: the given one, or the first of many.
//! Each fresh seed runs in all ways: where roles stay, where they move (`--moving`: only those), where heads fail
//! over again and again (`--dense`), where they go on alone (`--lone`) and where members are replaced
//! (`--replaced`).
//! `--scenario NAME` runs seeds in a scenario of choice rather than in their own.
//! Exit 1 when a run finds a violation, or when the runs left something unexercised (`--seconds` only).

use palisade_sim::faults::{Scenario, all};
use palisade_sim::minimise::{Limits, minimise};
use palisade_sim::tally::Tally;
use palisade_sim::{Report, Setup, run};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Which table of scenarios a seed picks from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Staying,
    Moving,
    Dense,
    Lone,
    Replaced,
}

/// How many ways there are.
const KINDS: u64 = Kind::ALL.len() as u64;

impl Kind {
    const ALL: [Self; 5] = [Self::Staying, Self::Moving, Self::Dense, Self::Lone, Self::Replaced];

    fn setup(self, seed: u64) -> Setup {
        match self {
            Self::Staying => Setup::new(seed),
            Self::Moving => Setup::moving(seed),
            Self::Dense => Setup::dense(seed),
            Self::Lone => Setup::lone(seed),
            Self::Replaced => Setup::replaced(seed),
        }
    }

    /// How to ask `make sim` for such a run.
    fn name(self) -> &'static str {
        match self {
            Self::Staying => "",
            Self::Moving => " MOVING=1",
            Self::Dense => " DENSE=1",
            Self::Lone => " LONE=1",
            Self::Replaced => " REPLACED=1",
        }
    }
}

struct Wish {
    seconds: u64,
    seed: Option<u64>,
    from: Option<u64>,
    count: u64,
    trace: bool,
    kind: Option<Kind>,
    scenario: Option<Scenario>,
}

fn wish() -> Result<Wish, String> {
    let mut wish =
        Wish { seconds: 10, seed: None, from: None, count: 1, trace: false, kind: None, scenario: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let text = args.next().ok_or(format!("{arg} needs a number"))?;
            text.parse::<u64>().map_err(|_| format!("{arg}: {text} is not a number"))
        };
        match arg.as_str() {
            "--seconds" => wish.seconds = number()?,
            "--seed" => wish.seed = Some(number()?),
            "--from" => wish.from = Some(number()?),
            "--count" => wish.count = number()?,
            "--scenario" => wish.scenario = Some(scenario_of(args.next())?),
            "--trace" => wish.trace = true,
            "--moving" => wish.kind = Some(Kind::Moving),
            "--dense" => wish.kind = Some(Kind::Dense),
            "--lone" => wish.kind = Some(Kind::Lone),
            "--replaced" => wish.kind = Some(Kind::Replaced),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(wish)
}

fn scenario_of(name: Option<String>) -> Result<Scenario, String> {
    let names = || all().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let found = name.and_then(|name| all().find(|scenario| scenario.name == name).copied());
    found.ok_or_else(|| format!("--scenario needs one of: {}", names()))
}

/// The run of a seed, in its own scenario or the wished one.
fn setup(seed: u64, kind: Kind, wish: &Wish) -> Setup {
    let own = kind.setup(seed);
    Setup { scenario: wish.scenario.unwrap_or(own.scenario), ..own }
}

fn show(report: &Report) {
    println!(
        "seed {} ({}): hash {:016x}, {:?} of virtual time",
        report.seed, report.scenario, report.hash, report.lasted
    );
    for violation in &report.violations {
        println!("  VIOLATION {violation}");
    }
}

/// Makes a failing run smaller, and tells what is left of it.
fn tell(setup: &Setup) {
    println!("making the run smaller, for a minute at most ...");
    let Some(small) = minimise(setup, Limits::default()) else { return };
    println!(
        "{:?}\nbecame, in {} runs,\n{:?}\nof the same kind: {}",
        small.before, small.runs, small.after, small.kind
    );
    println!("with {:?} and", small.setup.scenario);
    small.script.iter().for_each(|event| println!("{:>12.3} ms  {}", event.at as f64 / 1e6, event.fault));
    println!("{}", small.trace);
}

fn replay(seed: u64, wish: &Wish) -> ExitCode {
    let mut setup = setup(seed, wish.kind.unwrap_or(Kind::Staying), wish);
    setup.trace = wish.trace;
    let report = run(&setup);
    println!("{}", report.tally);
    show(&report);
    if !report.violations.is_empty() {
        tell(&setup);
    }
    ExitCode::from(u8::from(!report.violations.is_empty()))
}

fn many(wish: &Wish) -> ExitCode {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64 >> 10);
    let first = wish.from.unwrap_or(clock % 1_000_000_000);
    let began = Instant::now();
    let (mut tally, mut ran, mut failed) = (Tally::default(), 0u64, Vec::new());
    let (mut lasted, mut first_failed) = (Duration::ZERO, None);
    let (mut dense, mut over) = (Duration::ZERO, 0);
    // A wished scenario, and a range, is run as it is.
    let every = wish.from.is_none() && wish.scenario.is_none() && wish.kind.is_none();
    let more = |ran: u64| match wish.from {
        Some(_) => ran < wish.count,
        None => began.elapsed() < Duration::from_secs(wish.seconds),
    };
    while more(ran) {
        let kind = wish.kind.unwrap_or(Kind::Staying);
        let (seed, kind) = if every {
            (first + ran / KINDS, Kind::ALL[(ran % KINDS) as usize])
        } else {
            (first + ran, kind)
        };
        let start = Instant::now();
        let report = run(&setup(seed, kind, wish));
        if kind == Kind::Dense {
            (dense, over) = (dense + start.elapsed(), over + report.tally.failovers);
        }
        tally.add(&report.tally);
        lasted += report.lasted;
        if !report.violations.is_empty() {
            show(&report);
            first_failed.get_or_insert_with(|| setup(seed, kind, wish));
            failed.push(format!("{seed}{}", kind.name()));
        }
        ran += 1;
    }
    let wall = began.elapsed();
    first_failed.iter().for_each(tell);
    println!("{tally}");
    let zeroes = if wish.from.is_none() && wish.scenario.is_none() && ran >= 100 {
        tally.zeroes()
    } else {
        Vec::new()
    };
    for zero in &zeroes {
        println!("never exercised: {zero}");
    }
    if !failed.is_empty() {
        println!(
            "failing: {}; replay with make sim SEED=n [MOVING=1|DENSE=1|LONE=1|REPLACED=1]",
            failed.join(", ")
        );
    }
    let rate = |count: u64, wall: Duration| count as f64 * 60.0 / wall.as_secs_f64().max(1e-9);
    println!(
        "{:.0} failovers a minute of wall time; {:.0} in runs dense in them ({over} in {:.1} s)",
        rate(tally.failovers, wall),
        rate(over, dense),
        dense.as_secs_f64()
    );
    println!(
        "{ran} seeds ran, {} failed; {} flips and {} failovers in {:.2} simulated hours, {:.0} s of wall time",
        failed.len(),
        tally.flips,
        tally.failovers,
        lasted.as_secs_f64() / 3600.0,
        wall.as_secs_f64()
    );
    ExitCode::from(u8::from(!failed.is_empty() || !zeroes.is_empty()))
}

fn main() -> ExitCode {
    match wish() {
        Err(why) => {
            eprintln!(
                "{why}\nusage: sim [--seconds N | --seed N [--trace] | --from N --count N] [--moving | --dense | --lone | --replaced] [--scenario NAME]"
            );
            ExitCode::from(2)
        }
        Ok(wish) => match wish.seed {
            Some(seed) => replay(seed, &wish),
            None => many(&wish),
        },
    }
}
