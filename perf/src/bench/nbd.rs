//! NBD, side by side: the rack's full path and bare volume, the bare spinning server, and the peers,
//! through fio and through our polled client. All by unix socket; a last, short table is by TCP.
//!
//! Every export is filled first, so that nobody answers reads from holes. A client whose server hangs is
//! killed soon, and that row's remaining rounds are left out.

use super::command::{exists, output, pinned};
use super::fio::{self, Numbers, PATIENCE, WARM_UP};
use super::servers::{BYTES, Export, FULL, Servers, executable};
use super::verdict::{Goal, Verdicts};
use super::{BenchArgs, median, micro, ratios, skip};
use crate::target::Verb;
use serde::Serialize;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Queue depths of the issue.
pub(super) const DEPTHS: [u32; 3] = [1, 32, 128];
/// The depth of the table by TCP.
const TCP_DEPTH: u32 = 32;
/// The client's core; the servers' is 0.
const CLIENT_CORE: usize = 1;
/// How the exports are filled.
const FILL_BYTES: u64 = 64 << 10;
/// How long that may take.
const FILL_TIME: Duration = Duration::from_secs(30);
/// Then the rack flushes for a while before anything is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// Who drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Client {
    /// fio's nbd engine (libnbd).
    Fio,
    /// `palisade perf run`.
    Polled,
}

/// The medians of one point.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Which server.
    pub server: String,
    /// Which client.
    pub client: Client,
    /// "read" or "write".
    pub verb: &'static str,
    /// Requests in flight.
    pub depth: u32,
    /// The numbers.
    pub numbers: Numbers,
}

/// One row's circumstances.
#[derive(Clone, Copy)]
struct Row {
    client: Client,
    verb: Verb,
    depth: u32,
}

/// Measures all points and adds the ratios.
pub fn run(args: &BenchArgs, stop: &AtomicBool, verdicts: &mut Verdicts) -> Result<Vec<Point>, String> {
    let cores = core_affinity::get_core_ids().unwrap_or_default().len();
    if cores < 2 {
        skip("nbd", "it needs two cores, one for the server and one for the client");
        return Ok(Vec::new());
    }
    let servers = Servers::start(&args.rack)?;
    fill(&servers, stop);
    let mut points = Vec::new();
    for client in [Client::Fio, Client::Polled] {
        if client == Client::Fio && !exists("fio") {
            skip("nbd through fio", "fio is not installed (make deps)");
            continue;
        }
        header(client, "unix sockets");
        for verb in [Verb::Read, Verb::Write] {
            for depth in DEPTHS {
                let row = Row { client, verb, depth };
                points.extend(round_robin(args, &servers, &servers.exports, row, stop));
            }
        }
    }
    header(Client::Polled, "TCP");
    for verb in [Verb::Read, Verb::Write] {
        let row = Row { client: Client::Polled, verb, depth: TCP_DEPTH };
        points.extend(round_robin(args, &servers, &servers.by_tcp(), row, stop));
    }
    instructions();
    ratios::judge(&points, verdicts);
    match servers.flush_ratio() {
        Ok(ratio) => verdicts.add("flush bytes / user bytes", ratio, Goal::AtMost(1.55)),
        Err(why) => skip("flush bytes / user bytes", why),
    }
    Ok(points)
}

fn header(client: Client, family: &str) {
    println!("\n4 KiB random, {family}, client {client:?} on core {CLIENT_CORE}, server on core 0; us");
    println!(
        "{:<6} {:>4}  {:<26} {:>10} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "", "QD", "", "IOPS", "mean", "p50", "p99", "p99.9", "client"
    );
}

/// Writes every export once from end to end.
fn fill(servers: &Servers, stop: &AtomicBool) {
    for export in &servers.exports {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        servers.list[export.server].resume();
        let begin = Instant::now();
        let filled = fill_one(&export.uri);
        if export.name == FULL {
            std::thread::sleep(SETTLE);
        }
        servers.list[export.server].pause();
        match filled {
            Ok(()) => println!("filled {} in {:.1} s", export.name, begin.elapsed().as_secs_f64()),
            Err(why) => skip(&format!("filling {}", export.name), why),
        }
    }
}

fn fill_one(uri: &str) -> Result<(), String> {
    let mut command = pinned(None, &executable()?);
    command.args(["perf", "run", uri, "--json", "--quiet", "--read", "0", "--pattern", "sequential"]);
    command.args(["--size", &FILL_BYTES.to_string(), "--requests", &(BYTES / FILL_BYTES).to_string()]);
    command.args(["--depth", "16", "--core", &CLIENT_CORE.to_string()]);
    command.args(["--seconds", &FILL_TIME.as_secs().to_string()]);
    output(command, FILL_TIME + PATIENCE).map(drop)
}

/// All servers in turn, round after round.
fn round_robin(
    args: &BenchArgs,
    servers: &Servers,
    exports: &[Export],
    row: Row,
    stop: &AtomicBool,
) -> Vec<Point> {
    let mut rounds: Vec<Vec<Numbers>> = vec![Vec::new(); exports.len()];
    let mut hung = vec![false; exports.len()];
    for _ in 0..args.rounds {
        for (at, export) in exports.iter().enumerate() {
            if hung[at] || stop.load(Ordering::Relaxed) {
                continue;
            }
            servers.list[export.server].resume();
            let measured = match row.client {
                Client::Fio => fio::measure(&export.uri, row.verb, row.depth, args.seconds, CLIENT_CORE),
                Client::Polled => polled(&export.uri, row.verb, row.depth, args.seconds),
            };
            servers.list[export.server].pause();
            match measured {
                Ok(numbers) => rounds[at].push(numbers),
                Err(why) => {
                    hung[at] = true;
                    let what = format!("{}, {} QD {}", export.name, lane(row.verb), row.depth);
                    skip(&format!("{what}, and its other rounds"), why);
                }
            }
        }
    }
    exports.iter().zip(rounds).filter_map(|(export, rounds)| point(export, row, &rounds)).collect()
}

fn lane(verb: Verb) -> &'static str {
    if verb == Verb::Read { "read" } else { "write" }
}

fn point(export: &Export, row: Row, rounds: &[Numbers]) -> Option<Point> {
    if rounds.is_empty() {
        return None;
    }
    let of = |pick: fn(&Numbers) -> f64| median(rounds.iter().map(pick).collect());
    let numbers = Numbers {
        iops: of(|n| n.iops),
        mean_us: of(|n| n.mean_us),
        p50_us: of(|n| n.p50_us),
        p99_us: of(|n| n.p99_us),
        p999_us: of(|n| n.p999_us),
        client_busy: of(|n| n.client_busy),
    };
    let (verb, depth) = (lane(row.verb), row.depth);
    println!(
        "{verb:<6} {depth:>4}  {:<26} {:>10.0} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>5.0} %",
        export.name,
        numbers.iops,
        numbers.mean_us,
        numbers.p50_us,
        numbers.p99_us,
        numbers.p999_us,
        numbers.client_busy
    );
    Some(Point { server: export.name.clone(), client: row.client, verb, depth, numbers })
}

/// The polled client, as a process of its own.
fn polled(uri: &str, verb: Verb, depth: u32, time: Duration) -> Result<Numbers, String> {
    let read = if verb == Verb::Read { "100" } else { "0" };
    let mut command = pinned(None, &executable()?);
    command.args(["perf", "run", uri, "--json", "--quiet", "--read", read]);
    command.args(["--warmup", &WARM_UP.as_secs_f64().to_string()]);
    command.args(["--depth", &depth.to_string(), "--core", &CLIENT_CORE.to_string()]);
    command.args(["--seconds", &time.as_secs_f64().to_string()]);
    let text = output(command, WARM_UP + time + PATIENCE)?;
    let json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let lane = json.get("lanes").and_then(|l| l.get(0)).ok_or("no lane in the client's answer")?;
    let at = |name: &str| lane.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    Ok(Numbers {
        iops: at("iops"),
        mean_us: at("mean_us"),
        p50_us: at("p50_us"),
        p99_us: at("p99_us"),
        p999_us: at("p999_us"),
        client_busy: 100.0, // it spins
    })
}

/// What one request costs the export's machine, beside the rows that it stands in.
fn instructions() {
    for (name, what) in [
        ("nbd-read", "read"),
        ("nbd-write", "write"),
        ("nbd-read-beside", "read of a bare volume"),
        ("nbd-write-beside", "write of a bare volume"),
    ] {
        match micro::instructions(name) {
            Ok(count) => println!("NBD machine, instructions of a 4 KiB {what}: {count:.0} (callgrind)"),
            Err(why) => skip(&format!("instructions of a {what}"), why),
        }
    }
}
