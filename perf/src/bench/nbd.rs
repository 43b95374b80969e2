//! NBD, side by side: the rack's full path and bare volume, the bare spinning server, and the peers,
//! through fio and through our polled client.

use super::command::{exists, output, pinned};
use super::fio::{self, Numbers};
use super::servers::{Export, Servers, executable};
use super::verdict::{Goal, Verdicts};
use super::{BenchArgs, median, skip};
use crate::target::Verb;
use serde::Serialize;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Queue depths of the issue.
const DEPTHS: [u32; 3] = [1, 32, 128];
/// The client's core; the servers' is 0.
const CLIENT_CORE: usize = 1;
/// Writes a second of Ceph 16.2 RBD (EC 4+2, depth 32) on this kind of box, recorded once; the peer is too
/// large to install for a bench.
const CEPH_WRITES: f64 = 289.0;

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

/// Measures all points and adds the ratios.
pub fn run(args: &BenchArgs, stop: &AtomicBool, verdicts: &mut Verdicts) -> Result<Vec<Point>, String> {
    let cores = core_affinity::get_core_ids().unwrap_or_default().len();
    if cores < 2 {
        skip("nbd", "it needs two cores, one for the server and one for the client");
        return Ok(Vec::new());
    }
    let servers = Servers::start(&args.rack)?;
    let mut points = Vec::new();
    for client in [Client::Fio, Client::Polled] {
        if client == Client::Fio && !exists("fio") {
            skip("nbd through fio", "fio is not installed (make deps)");
            continue;
        }
        println!("\n4 KiB random, client {client:?} on core {CLIENT_CORE}, server on core 0; us");
        println!(
            "{:<6} {:>4}  {:<24} {:>10} {:>9} {:>9} {:>9} {:>9}",
            "", "QD", "", "IOPS", "mean", "p50", "p99", "p99.9"
        );
        for verb in [Verb::Read, Verb::Write] {
            for depth in DEPTHS {
                points.extend(round_robin(args, &servers, client, verb, depth, stop));
            }
        }
    }
    judge(&points, verdicts);
    Ok(points)
}

/// All servers in turn, round after round.
fn round_robin(
    args: &BenchArgs,
    servers: &Servers,
    client: Client,
    verb: Verb,
    depth: u32,
    stop: &AtomicBool,
) -> Vec<Point> {
    let mut rounds: Vec<Vec<Numbers>> = vec![Vec::new(); servers.exports.len()];
    for _ in 0..args.rounds {
        for (export, rounds) in servers.exports.iter().zip(&mut rounds) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            servers.list[export.server].resume();
            let measured = match client {
                Client::Fio => fio::measure(&export.uri, verb, depth, args.seconds, CLIENT_CORE),
                Client::Polled => polled(&export.uri, verb, depth, args.seconds),
            };
            servers.list[export.server].pause();
            match measured {
                Ok(numbers) => rounds.push(numbers),
                Err(why) => skip(&format!("{} {verb:?} QD {depth}", export.name), why),
            }
        }
    }
    servers.exports.iter().zip(rounds).filter_map(|(e, r)| point(e, client, verb, depth, &r)).collect()
}

fn point(export: &Export, client: Client, verb: Verb, depth: u32, rounds: &[Numbers]) -> Option<Point> {
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
    };
    let verb = if verb == Verb::Read { "read" } else { "write" };
    println!(
        "{verb:<6} {depth:>4}  {:<24} {:>10.0} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
        export.name, numbers.iops, numbers.mean_us, numbers.p50_us, numbers.p99_us, numbers.p999_us
    );
    Some(Point { server: export.name.clone(), client, verb, depth, numbers })
}

/// The polled client, as a process of its own.
fn polled(uri: &str, verb: Verb, depth: u32, time: Duration) -> Result<Numbers, String> {
    let read = if verb == Verb::Read { "100" } else { "0" };
    let mut command = pinned(None, &executable()?);
    command.args(["perf", "run", uri, "--json", "--quiet", "--warmup", "0.3", "--read", read]);
    command.args(["--depth", &depth.to_string(), "--core", &CLIENT_CORE.to_string()]);
    command.args(["--seconds", &time.as_secs_f64().to_string()]);
    let text = output(command, time + Duration::from_secs(90))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let lane = json.get("lanes").and_then(|l| l.get(0)).ok_or("no lane in the client's answer")?;
    let at = |name: &str| lane.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    Ok(Numbers {
        iops: at("iops"),
        mean_us: at("mean_us"),
        p50_us: at("p50_us"),
        p99_us: at("p99_us"),
        p999_us: at("p999_us"),
    })
}

/// The ratios of DESIGN section 6.
fn judge(points: &[Point], verdicts: &mut Verdicts) {
    let iops = |client: Client, server: &str, verb: &str, depth: u32| {
        let is = |p: &&Point| p.client == client && p.server == server && p.verb == verb && p.depth == depth;
        points.iter().find(is).map_or(f64::NAN, |p| p.numbers.iops)
    };
    const BARE: &str = "palisade bare volume";
    const FULL: &str = "palisade full path";
    for client in [Client::Fio, Client::Polled] {
        for verb in ["read", "write"] {
            for depth in DEPTHS {
                let ratio =
                    iops(client, BARE, verb, depth) / iops(client, "bare spinning server", verb, depth);
                let what = format!("bare volume / bare server, {client:?} {verb} QD {depth}");
                verdicts.add(what, ratio, Goal::AtLeast(0.9));
            }
        }
    }
    let nbdkit = [
        ("read", 1, 2.0),
        ("read", 32, 1.3),
        ("read", 128, 1.5),
        ("write", 1, 1.5),
        ("write", 32, 1.0),
        ("write", 128, 1.0),
    ];
    for (peer, goals) in [("nbdkit memory", nbdkit), ("qemu-storage-daemon", nbdkit.map(|g| (g.0, g.1, 1.0)))]
    {
        for (verb, depth, goal) in goals {
            let ratio = iops(Client::Fio, BARE, verb, depth) / iops(Client::Fio, peer, verb, depth);
            verdicts.add(format!("bare volume / {peer}, Fio {verb} QD {depth}"), ratio, Goal::AtLeast(goal));
        }
    }
    let best = DEPTHS.iter().map(|&d| iops(Client::Polled, BARE, "read", d)).fold(0.0, f64::max);
    verdicts.add("bare volume, polled client, reads a second (millions)", best / 1e6, Goal::AtLeast(1.0));
    for depth in [32, 128] {
        let [bare, full] = [BARE, FULL].map(|s| iops(Client::Polled, s, "write", depth));
        let what = format!("bare volume / whole write, Polled QD {depth}");
        verdicts.add(what, bare / full, Goal::AtMost(3.0));
    }
    let full = iops(Client::Fio, FULL, "write", 32);
    verdicts.add("whole write / Ceph 16.2 EC (recorded), Fio QD 32", full / CEPH_WRITES, Goal::AtLeast(20.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_between_points_of_the_same_client_verb_and_depth() {
        let point = |server: &str, client, iops| Point {
            server: server.into(),
            client,
            verb: "read",
            depth: 32,
            numbers: Numbers { iops, ..Numbers::default() },
        };
        let points = [
            point("palisade bare volume", Client::Fio, 90.0),
            point("bare spinning server", Client::Fio, 100.0),
            point("bare spinning server", Client::Polled, 1.0),
            point("nbdkit memory", Client::Fio, 30.0),
        ];
        let mut verdicts = Verdicts::default();
        judge(&points, &mut verdicts);
        let text = serde_json::to_string(&verdicts).expect("JSON");
        assert!(text.contains("bare volume / bare server, Fio read QD 32\",\"value\":0.9"), "{text}");
        assert!(text.contains("bare volume / nbdkit memory, Fio read QD 32\",\"value\":3.0"), "{text}");
        assert!(!text.contains("Polled read"), "what was not measured is left out: {text}");
    }
}
