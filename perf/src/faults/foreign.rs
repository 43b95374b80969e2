//! Clients that are not ours, while primaries are killed: fio and qemu-io know one address; a script that asks
//! `status` starts them again at the next one.

use super::rack::{DrillRack, Shape, signal};
use super::{FaultArgs, Row, Trouble};
use crate::bench::command::exists;
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

/// A drill with a foreign client: it completes the row.
type Drill = fn(&FaultArgs, Row) -> Result<Row, Trouble>;

/// All of them.
pub(super) const ALL: [(&str, &str, Drill); 2] = [
    ("fio", "SIGKILL of the primary while fio writes, reads and verifies", fio),
    ("qemu-io", "SIGKILL of the primary while qemu-io writes and compares patterns", qemu_io),
];

/// Seconds of one fio run that is hurt.
const FIO_SECONDS: u64 = 4;
/// When its primary is killed.
const FIO_KILL: Duration = Duration::from_millis(1500);
/// Longest life of one client process, in seconds.
const LIMIT: &str = "60";
/// Tries until a client must have ended well after one kill.
const TRIES: u32 = 200;
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(50);
/// Bytes of a pattern.
const PATTERN: u64 = 64 << 10;
/// Patterns that are written between two kills.
const PATTERNS: u64 = 24;

/// How one client process ended.
enum Ended {
    Well,
    /// It found wrong data.
    Wrong(String),
    /// Its connection ended, or it was not served.
    Lost,
}

/// Runs a client to its end.
fn run(program: &str, args: &[String]) -> Result<Ended, Trouble> {
    let output = Command::new("timeout").arg(LIMIT).arg(program).args(args).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let wrong =
        ["verification failed", "verify failed", "verify:", "bad header", "Invalid or incomplete multibyte"];
    let line = text.lines().find(|line| wrong.iter().any(|sign| line.contains(sign)));
    Ok(match line {
        Some(line) => Ended::Wrong(format!("{program}: {line}")),
        None if output.status.success() && !text.contains("failed:") => Ended::Well,
        None => Ended::Lost,
    })
}

/// Runs a client at the addresses of `status`, by turns, until it ends well; how often it was started again.
fn by_turns(
    rack: &DrillRack,
    row: &mut Row,
    program: &str,
    args: impl Fn(&str) -> Vec<String>,
) -> Result<(), Trouble> {
    for attempt in 0..TRIES {
        let addresses = rack.addresses()?;
        let address = addresses.get(attempt as usize % addresses.len().max(1));
        match run(program, &args(address.ok_or("the volume has no address")?))? {
            Ended::Well => return Ok(()),
            Ended::Wrong(what) => {
                row.wrong += 1;
                row.findings.push(what);
                return Ok(());
            }
            Ended::Lost => row.reconnects += 1,
        }
        std::thread::sleep(AGAIN);
    }
    Err(Trouble::Failed(format!("{program} did not end well in {TRIES} tries")))
}

fn installed(program: &str) -> Result<(), Trouble> {
    if exists(program) { Ok(()) } else { Err(Trouble::Skipped(format!("`{program}` is not installed"))) }
}

/// Kills the primary, and waits until another head serves.
fn kill(rack: &DrillRack) -> Result<(), Trouble> {
    let [primary, _] = rack.whole()?;
    signal(rack.pid(&primary)?, Signal::KILL);
    rack.taken_over(&primary)
}

/// Arguments of fio at an address.
fn job(address: &str, more: &[&str]) -> Vec<String> {
    let fixed = ["--name=drill", "--ioengine=nbd", "--bs=4k", "--iodepth=32", "--verify=crc32c"];
    let state = ["--verify_fatal=1", "--verify_state_save=0"];
    let words = fixed.iter().chain(&state).chain(more).map(|word| (*word).to_owned());
    words.chain([format!("--uri={address}")]).collect()
}

fn fio(args: &FaultArgs, mut row: Row) -> Result<Row, Trouble> {
    installed("fio")?;
    let rack = DrillRack::start(args, Shape::default())?;
    // One region is written before all kills and verified after them, another is worked on while they happen.
    let kept = |rw: &'static str| {
        move |address: &str| job(address, &[rw, "--offset=64m", "--size=16m", "--do_verify=0"])
    };
    by_turns(&rack, &mut row, "fio", kept("--rw=write"))?;
    let seconds = format!("--runtime={FIO_SECONDS}");
    for _ in 0..args.others {
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                std::thread::sleep(FIO_KILL);
                kill(&rack)
            });
            let mixed = ["--rw=randrw", "--size=32m", "--time_based", &seconds];
            by_turns(&rack, &mut row, "fio", |address| job(address, &mixed))?;
            killer.join().map_err(|_| "the killer panicked")?
        })?;
        rack.whole()?;
    }
    by_turns(&rack, &mut row, "fio", kept("--rw=read"))?;
    row.compared += (16 << 20) / 4096;
    row.notes.push(format!(
        "{} kills; fio started again {} times at the next address; what it wrote before all kills verified after them",
        args.others, row.reconnects
    ));
    Ok(row)
}

fn qemu_io(args: &FaultArgs, mut row: Row) -> Result<Row, Trouble> {
    installed("qemu-io")?;
    let rack = DrillRack::start(args, Shape::default())?;
    let commands = |address: &str, commands: &[String]| {
        let fixed = ["-f", "raw", address].map(str::to_owned);
        fixed.into_iter().chain(commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()])).collect()
    };
    let pattern = |at: u64| 1 + at % 250;
    let read = |at: u64| format!("read -P {} {} {PATTERN}", pattern(at), at * PATTERN);
    let mut next = 0;
    for _ in 0..args.others {
        let end = next + PATTERNS;
        let killer = std::thread::scope(|scope| {
            let killer = scope.spawn(|| kill(&rack));
            for at in next..end {
                let both = [format!("write -P {} {} {PATTERN}", pattern(at), at * PATTERN), read(at)];
                by_turns(&rack, &mut row, "qemu-io", |address| commands(address, &both))?;
            }
            killer.join().map_err(|_| Trouble::Failed("the killer panicked".to_owned()))
        })?;
        killer?;
        rack.whole()?;
        next = end;
    }
    let all: Vec<String> = (0..next).map(read).collect();
    by_turns(&rack, &mut row, "qemu-io", |address| commands(address, &all))?;
    row.compared += next * PATTERN / 4096;
    row.notes.push(format!(
        "{} kills; qemu-io started again {} times at the next address; every pattern compared at the end",
        args.others, row.reconnects
    ));
    Ok(row)
}
