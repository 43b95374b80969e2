//! The faults, one after the other: what each does to a rack, and when it counts as over.

use super::damage;
use super::rack::{HOSTS, Shape, signal};
use super::scene::Scene;
use super::{FaultArgs, Trouble};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

type Deed = fn(&mut Scene, &FaultArgs) -> Result<(), Trouble>;

/// A kind of fault.
pub(super) struct Fault {
    /// Its name: of files, and for `--only`.
    pub(super) name: &'static str,
    /// What is done.
    pub(super) what: &'static str,
    /// What it needs of its rack.
    pub(super) shape: Shape,
    /// Does it, as often as it is to be done.
    pub(super) deed: Deed,
}

/// How long control is away.
const AWAY: Duration = Duration::from_secs(2);
/// A flush is in the midst of its column writes so long after it was asked for.
const FLUSHING: Duration = Duration::from_millis(12);
/// How often a primary is stopped until some of its column writes are late, and how long a flush goes on before.
const LATE_ROUNDS: u32 = 3;
const LATE_FLUSHING: Duration = Duration::from_millis(90);
/// Rot is over when none was found for so long.
const QUIET: Duration = Duration::from_secs(4);
/// How long a network stays cut, and a disk full.
const CUT: Duration = Duration::from_secs(3);

/// All of them, in the order of the report.
pub(super) fn all() -> Vec<Fault> {
    processes().into_iter().chain(below()).collect()
}

fn fault(name: &'static str, what: &'static str, shape: Shape, deed: Deed) -> Fault {
    Fault { name, what, shape, deed }
}

/// Processes that are killed or stopped.
fn processes() -> Vec<Fault> {
    let wait = Shape::default();
    vec![
        fault("kill-primary", "SIGKILL of the primary head, `solo = \"wait\"`", wait, kill_primary),
        fault(
            "kill-primary-solo-local",
            "SIGKILL of the primary head, `solo = \"local\"`",
            Shape { solo: "local", ..wait },
            kill_primary,
        ),
        fault(
            "kill-primary-of-three",
            "SIGKILL of the primary head, `solo = \"wait\"` and a third member",
            Shape { reserve: true, ..wait },
            kill_primary,
        ),
        fault("kill-secondary", "SIGKILL of the secondary head", wait, kill_secondary),
        fault("kill-sled", "SIGKILL of a sled", wait, kill_sled),
        fault(
            "kill-control",
            "SIGKILL of control, started again after 2 s",
            Shape { apart: true, ..wait },
            kill_control,
        ),
        fault(
            "stop-primary",
            "SIGSTOP of the primary head, SIGCONT after each of --stops",
            wait,
            stop_primary,
        ),
        fault(
            "late-writes",
            "SIGSTOP of the primary head while column writes are on their way, SIGCONT after 2 s",
            wait,
            late_writes,
        ),
    ]
}

/// Networks and disks.
fn below() -> Vec<Fault> {
    let wait = Shape::default();
    vec![
        fault(
            "cut-network",
            "one of two networks cut for 3 s, both ways, for everybody",
            Shape { networks: true, ..wait },
            cut_network,
        ),
        fault(
            "cut-to-primary",
            "one way, for 3 s: nobody reaches the primary on any network, it reaches everybody",
            Shape { networks: true, ..wait },
            cut_to_primary,
        ),
        fault(
            "cut-between-heads",
            "both ways, for 3 s: primary and secondary do not reach each other on any network",
            Shape { networks: true, ..wait },
            cut_between_heads,
        ),
        fault(
            "corrupt-sled",
            "200 bits flipped in the device file of a running sled",
            Shape { scrub: "64 MiB", ..wait },
            corrupt_sled,
        ),
        fault(
            "full-sled",
            "the disk below a sled's device file is full (ENOSPC)",
            Shape { small_disk: Some(("sled-3", "24m")), ..wait },
            full_sled,
        ),
        fault(
            "full-log",
            "the disk below the primary's log file is full (ENOSPC)",
            Shape { small_disk: Some(("head-1", "600m")), log: "512 MiB", ..wait },
            full_log,
        ),
    ]
}

fn kill_primary(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for _ in 0..args.kills {
        let [primary, _] = scene.rack.whole()?;
        let pid = scene.rack.pid(&primary)?;
        scene.begin();
        signal(pid, Signal::KILL);
        scene.rack.taken_over(&primary)?;
        scene.rack.whole()?;
        scene.end()?;
    }
    Ok(())
}

/// Kills a node and waits until another process of it is there.
fn kill(scene: &mut Scene, node: &str) -> Result<(), Trouble> {
    let pid = scene.rack.pid(node)?;
    scene.begin();
    signal(pid, Signal::KILL);
    scene.rack.wait("another process of the node", |status| {
        let nodes = status["nodes"].as_array();
        let node = nodes.into_iter().flatten().find(|entry| entry["name"] == node);
        node.is_some_and(|node| {
            node["state"] == "ready"
                && node["pid"].as_u64().is_some_and(|now| now > 0 && now != u64::from(pid))
        })
    })?;
    Ok(())
}

fn kill_secondary(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for _ in 0..args.others {
        let [_, secondary] = scene.rack.whole()?;
        kill(scene, &secondary)?;
        scene.rack.whole()?;
        scene.end()?;
    }
    Ok(())
}

fn kill_sled(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for _ in 0..args.others {
        kill(scene, "sled-2")?;
        scene.rack.protected()?;
        scene.end()?;
    }
    Ok(())
}

fn kill_control(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for _ in 0..args.others {
        scene.begin();
        scene.rack.kill_own("control")?;
        std::thread::sleep(AWAY);
        scene.rack.start_control()?;
        scene.rack.protected()?;
        scene.rack.whole()?;
        scene.end()?;
    }
    Ok(())
}

/// A counter of all devices together.
fn devices(status: &Value, counter: &str) -> u64 {
    let devices = status["devices"].as_array();
    devices.into_iter().flatten().filter_map(|device| device["counters"][counter].as_u64()).sum()
}

/// Late writes that sleds refused, whatever gave them away.
fn refused(status: &Value) -> u64 {
    let kinds = ["refused_fenced", "refused_no_token", "refused_stale_number"];
    kinds.iter().map(|kind| devices(status, kind)).sum()
}

fn stop_primary(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for stop in &args.stops {
        let [primary, _] = scene.rack.whole()?;
        let (pid, before) = (scene.rack.pid(&primary)?, refused(&scene.rack.status()?));
        // It falls asleep with column writes under way, as far as that can be brought about.
        scene.rack.call("volume.flush", &json!({ "name": "vol0" }))?;
        std::thread::sleep(FLUSHING);
        let begun = Instant::now();
        scene.begin();
        signal(pid, Signal::STOP);
        let moved = scene.rack.taken_over(&primary);
        std::thread::sleep(stop.saturating_sub(begun.elapsed()));
        signal(pid, Signal::CONT);
        moved?;
        let [_, second] = scene.rack.whole()?;
        let same = scene.rack.pid(&primary)? == pid;
        scene.end()?;
        let late = refused(&scene.rack.status()?) - before;
        let told = scene.rounds.last().map_or(0, |round| {
            round
                .events
                .iter()
                .filter(|(_, what)| {
                    what.contains(&format!("{primary}: ")) && what.contains("stopped, number")
                })
                .count()
        });
        scene.notes.push(format!(
            "stopped for {:.0} s: {late} late writes refused at the sleds; `{primary}` {}{}",
            stop.as_secs_f64(),
            if told > 0 { "demoted itself" } else { "heard of its demotion before it noticed anything" },
            if same && second == primary { ", and the same process follows" } else { "" }
        ));
        if !(same && second == primary) {
            return Err(Trouble::Failed(format!("{primary} does not follow after its sleep: {second} does")));
        }
    }
    Ok(())
}

/// The primary sleeps with column writes that have left it and have not arrived; when it wakes they arrive at sleds
/// that serve another one by then. Every one of them has to be refused.
fn late_writes(scene: &mut Scene, _args: &FaultArgs) -> Result<(), Trouble> {
    let mut all = 0;
    for _ in 0..LATE_ROUNDS {
        let [primary, _] = scene.rack.whole()?;
        let (pid, before) = (scene.rack.pid(&primary)?, refused(&scene.rack.status()?));
        let drill = |how: &str| {
            let params = json!({ "name": format!("{primary}/log"), "drill": how });
            scene.rack.call("device.drill", &params)
        };
        drill("late")?;
        scene.rack.call("volume.flush", &json!({ "name": "vol0" }))?;
        std::thread::sleep(LATE_FLUSHING);
        let begun = Instant::now();
        scene.begin();
        signal(pid, Signal::STOP);
        let moved = scene.rack.taken_over(&primary);
        std::thread::sleep(AWAY.saturating_sub(begun.elapsed()));
        signal(pid, Signal::CONT);
        moved?;
        let params = json!({ "name": format!("{primary}/log"), "drill": "clear" });
        scene.rack.call("device.drill", &params)?;
        scene.rack.whole()?;
        scene.end()?;
        all += refused(&scene.rack.status()?) - before;
        if all > 0 {
            break;
        }
    }
    if all == 0 {
        return Err(Trouble::Failed("no late write of the old primary was refused by a sled".to_owned()));
    }
    scene.notes.push(format!("{all} late writes of the old primary refused at the sleds"));
    Ok(())
}

/// Rules for what goes from one port (or any) to another (or any), on both networks.
fn rules(from: Option<u16>, to: Option<u16>) -> Vec<String> {
    let side =
        |name: &str, port: Option<u16>| port.map_or_else(String::new, |port| format!(" {name} {port}"));
    let ports = side("sport", from) + &side("dport", to);
    HOSTS.iter().map(|host| format!("rule add pref 5 to {host} ipproto udp{ports} blackhole")).collect()
}

/// Cuts, waits for what shall come of it, and heals.
fn cut(
    scene: &mut Scene,
    rules: &[String],
    meanwhile: impl FnOnce(&Scene) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    scene.begin();
    rules.iter().try_for_each(|rule| scene.rack.ip(rule))?;
    let came = meanwhile(scene);
    for _ in rules {
        scene.rack.ip("rule del pref 5")?;
    }
    came?;
    scene.rack.whole()?;
    scene.rack.protected()?;
    scene.end()
}

fn cut_network(scene: &mut Scene, _args: &FaultArgs) -> Result<(), Trouble> {
    for host in HOSTS {
        cut(scene, &[format!("rule add pref 5 to {host} blackhole")], |_| {
            std::thread::sleep(CUT);
            Ok(())
        })?;
    }
    Ok(())
}

fn cut_to_primary(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for _ in 0..args.others {
        let [primary, _] = scene.rack.whole()?;
        let rules = rules(None, Some(scene.rack.port(&primary)));
        // Roles need not move: the primary's heartbeats are heard. Reads and writes wait for who takes them over, or
        // for the cut to heal.
        cut(scene, &rules, |_| {
            std::thread::sleep(CUT);
            Ok(())
        })?;
    }
    Ok(())
}

fn cut_between_heads(scene: &mut Scene, args: &FaultArgs) -> Result<(), Trouble> {
    for _ in 0..args.others {
        let [primary, secondary] = scene.rack.whole()?;
        let ports = [&primary, &secondary].map(|head| scene.rack.port(head));
        let mut both = rules(Some(ports[0]), Some(ports[1]));
        both.extend(rules(Some(ports[1]), Some(ports[0])));
        cut(scene, &both, |_| {
            std::thread::sleep(CUT);
            Ok(())
        })?;
    }
    Ok(())
}

/// A counter of the volume's primary.
fn counter(status: &Value, name: &str) -> u64 {
    status["volumes"][0]["counters"][name].as_u64().unwrap_or(0)
}

fn flush(scene: &Scene) -> Result<(), Trouble> {
    let params = json!({ "name": "vol0", "wait": true, "timeout_s": 20 });
    Ok(scene.rack.call("volume.flush", &params).map(|_| ())?)
}

fn corrupt_sled(scene: &mut Scene, _args: &FaultArgs) -> Result<(), Trouble> {
    flush(scene)?;
    let before = counter(&scene.rack.status()?, "corrupt");
    let file = scene.rack.sled_file("sled-3");
    scene.begin();
    let flipped = damage::flip(&file, 200)?;
    // Found by readers and by scrub, and written anew, until nothing more is found for a while.
    let (mut last, mut since) = (before, Instant::now());
    let found = scene.rack.wait("what rotted is found and written anew", |status| {
        let now = counter(status, "corrupt");
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > before && since.elapsed() >= QUIET && status["volumes"][0]["degraded_extents"] == 0
    })?;
    scene.end()?;
    scene.notes.push(format!(
        "{flipped} bits flipped, {} damaged pieces found by reads and scrub, none passed on",
        counter(&found, "corrupt") - before
    ));
    Ok(())
}

fn full_sled(scene: &mut Scene, _args: &FaultArgs) -> Result<(), Trouble> {
    let folder = scene.rack.inside(&scene.rack.data().join("sled-3"))?;
    scene.begin();
    let filler = damage::fill(&folder)?;
    // What is written there fails once; then the sled takes no new data, says so, and columns go elsewhere.
    let noticed = scene.rack.device("sled-3/0", "full: no space left");
    std::thread::sleep(CUT);
    std::fs::remove_file(&filler).map_err(|e| format!("{}: {e}", filler.display()))?;
    noticed?;
    // By itself.
    scene.rack.device("sled-3/0", "active")?;
    scene.rack.protected()?;
    scene.end()
}

fn full_log(scene: &mut Scene, _args: &FaultArgs) -> Result<(), Trouble> {
    let folder = scene.rack.inside(&scene.rack.data().join("head-1"))?;
    scene.begin();
    let filler = damage::fill(&folder)?;
    let restarted = scene.rack.taken_over("head-1").and_then(|()| {
        // A log that failed stays so until its process starts again. While the disk is full that waits.
        signal(scene.rack.pid("head-1")?, Signal::KILL);
        scene.rack.says("head-1", "failed", "no space left")
    });
    std::fs::remove_file(&filler).map_err(|e| format!("{}: {e}", filler.display()))?;
    restarted?;
    scene.rack.whole()?;
    scene.rack.protected()?;
    scene.end()
}
