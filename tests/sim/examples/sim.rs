//! `sim --seconds N` runs fresh seeds for that time and prints, last, how many it ran.
//! `sim --seed N [--quiet]` replays one seed with its trace. `sim --from A --count N` runs a range.
//! Each seed runs twice then: where roles stay, and where they move (`--moving`: the latter only).
//! `--scenario NAME` runs seeds in a scenario of choice rather than in their own.
//! Exit 1 when a run finds a violation, or when the runs left something unexercised (`--seconds` only).

use palisade_sim::faults::{MOVING, SCENARIOS, Scenario};
use palisade_sim::tally::Tally;
use palisade_sim::{Report, Setup, run};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

struct Wish {
    seconds: u64,
    seed: Option<u64>,
    from: Option<u64>,
    count: u64,
    quiet: bool,
    moving: bool,
    scenario: Option<Scenario>,
}

fn wish() -> Result<Wish, String> {
    let mut wish =
        Wish { seconds: 10, seed: None, from: None, count: 1, quiet: false, moving: false, scenario: None };
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
            "--quiet" => wish.quiet = true,
            "--moving" => wish.moving = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(wish)
}

fn scenario_of(name: Option<String>) -> Result<Scenario, String> {
    let all = || SCENARIOS.into_iter().chain(MOVING);
    let names = || all().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let found = name.and_then(|name| all().find(|scenario| scenario.name == name));
    found.ok_or_else(|| format!("--scenario needs one of: {}", names()))
}

/// The run of a seed, in its own scenario or the wished one.
fn setup(seed: u64, moving: bool, wish: &Wish) -> Setup {
    let own = if moving { Setup::moving(seed) } else { Setup::new(seed) };
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

fn replay(seed: u64, wish: &Wish) -> ExitCode {
    let mut setup = setup(seed, wish.moving, wish);
    setup.trace = !wish.quiet;
    let report = run(&setup);
    println!("{}", report.tally);
    show(&report);
    ExitCode::from(u8::from(!report.violations.is_empty()))
}

fn many(wish: &Wish) -> ExitCode {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64 >> 10);
    let first = wish.from.unwrap_or(clock % 1_000_000_000);
    let began = Instant::now();
    let (mut tally, mut ran, mut failed) = (Tally::default(), 0u64, Vec::new());
    let mut lasted = Duration::ZERO;
    // A wished scenario, and a range, is run as it is.
    let both = wish.from.is_none() && wish.scenario.is_none() && !wish.moving;
    let more = |ran: u64| match wish.from {
        Some(_) => ran < wish.count,
        None => began.elapsed() < Duration::from_secs(wish.seconds),
    };
    while more(ran) {
        let (seed, moving) = if both { (first + ran / 2, ran % 2 == 1) } else { (first + ran, wish.moving) };
        let report = run(&setup(seed, moving, wish));
        tally.add(&report.tally);
        lasted += report.lasted;
        if !report.violations.is_empty() {
            show(&report);
            failed.push(format!("{seed}{}", if moving { " MOVING=1" } else { "" }));
        }
        ran += 1;
    }
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
        println!("failing: {}; replay with make sim SEED=n [MOVING=1]", failed.join(", "));
    }
    println!(
        "{ran} seeds ran, {} failed; {} flips and {} failovers in {:.2} simulated hours, {:.0} s of wall time",
        failed.len(),
        tally.flips,
        tally.failovers,
        lasted.as_secs_f64() / 3600.0,
        began.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(!failed.is_empty() || !zeroes.is_empty()))
}

fn main() -> ExitCode {
    match wish() {
        Err(why) => {
            eprintln!(
                "{why}\nusage: sim [--seconds N | --seed N [--quiet] | --from N --count N] [--moving] [--scenario NAME]"
            );
            ExitCode::from(2)
        }
        Ok(wish) => match wish.seed {
            Some(seed) => replay(seed, &wish),
            None => many(&wish),
        },
    }
}
