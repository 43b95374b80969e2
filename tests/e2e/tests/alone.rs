//! A head that runs alone with copies on sleds, and is lost with its log: another that was a member takes over from
//! the copies, and nothing that was acknowledged is missing (P-30, MA-20). Under verified load throughout.

use palisade_e2e::binary::palisade;
use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(180);
/// Writes that a lone head answers before it is lost.
const ALONE: u64 = 1000;
/// Writes under way at once.
const DEPTH: u64 = 16;

/// A rack of processes whose volume goes on alone with copies on sleds; a lone head is followed after so long.
fn rack(salvage_after_ms: u64) -> TestRack {
    let shape = Shape { fabric: true, failover: true, flush_ms: 600_000, ..Shape::default() };
    let mut rack = TestRack::new(&shape);
    let text = std::fs::read_to_string(rack.file()).expect("the rack file");
    let text = text
        .replacen("secondary = \"head-2\"", "secondary = \"head-2\"\nsolo = \"sleds\"", 1)
        .replacen("failover = \"auto\"\n", "failover = \"auto\"\nreplace_after_ms = \"off\"\n", 1)
        .replacen("[timers]\n", &format!("[timers]\nsalvage_after_ms = {salvage_after_ms}\n"), 1);
    std::fs::write(rack.file(), text).expect("room for a rack file");
    rack.start(&["--processes"]);
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = volume(status);
        volume["state"] == "serving" && volume["peer_away"] == false && volume["primary"] == "head-1"
    });
    rack
}

fn volume(status: &Value) -> &Value {
    &status["volumes"][0]
}

fn load(rack: &TestRack) -> Child {
    let status = rack.status();
    let [first, second] =
        [0, 1].map(|at| volume(&status)["addresses"][at].as_str().expect("an address").to_owned());
    Command::new(palisade())
        .args(["perf", "run", &first, "--also", &second, "--verify", "--json", "--quiet"])
        .args(["--read", "30", "--depth", &DEPTH.to_string(), "--region", "24m"])
        .args(["--reconnect", "120", "--seconds", "900"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts")
}

/// Ends the load; nothing was wrong and nothing failed.
#[track_caller]
fn good_end(rack: &TestRack, mut load: Child) {
    assert!(load.try_wait().expect("a child").is_none(), "it ended early\n{}", rack.log());
    signal(load.id(), Signal::INT);
    let mut text = String::new();
    load.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    let status = load.wait().expect("the generator ends");
    assert!(status.success(), "{status}: {text}\n{}", rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
}

/// Waits for so many more writes at this primary.
#[track_caller]
fn writes(rack: &TestRack, primary: &str, more: u64) {
    let count = |status: &Value| volume(status)["counters"]["writes"].as_u64().unwrap_or(0);
    let mut first = None;
    rack.wait_for("writes go on", SOON, |status| {
        let here = volume(status)["primary"] == primary && volume(status)["state"] == "serving";
        here && count(status) >= *first.get_or_insert_with(|| count(status)) + more
    });
}

/// The secondary stops, the primary goes on alone, and is then lost with its log; the secondary wakes up.
#[track_caller]
fn lose_the_lone_head(rack: &TestRack, comes_back: bool) {
    writes(rack, "head-1", 200);
    let away = rack.node_pid("head-2");
    signal(away, Signal::STOP);
    rack.wait_for("one head alone", SOON, |status| {
        let volume = volume(status);
        let alone = volume["secondary"] == "" && volume["primary"] == "head-1";
        // Who is alone control knows at once. The reason is the head's own word, and so are the counters beside it:
        // from here on they count what it answered alone, and not what a report before that had still to tell.
        alone && volume["state"] == "serving" && volume["why"] == "runs alone, copies on sleds"
    });
    // Far beyond what was under way when they parted, which the other one finds in its sockets when it wakes up, and
    // none of it is in an extent.
    writes(rack, "head-1", ALONE);
    let pid = rack.node_pid("head-1");
    // Its process comes back without a log, or is silent.
    let end = if comes_back { Signal::KILL } else { Signal::STOP };
    std::fs::remove_file(rack.log_file(1)).expect("the disk is pulled");
    signal(pid, end);
    signal(away, Signal::CONT);
}

/// The second head has everything, and is written on.
#[track_caller]
fn serves_on(rack: &mut TestRack, load: Child) {
    writes(rack, "head-2", 300);
    good_end(rack, load);
    let status = rack.status();
    let salvaged = volume(&status)["counters"]["salvaged"].as_u64();
    assert!(salvaged >= Some(ALONE - DEPTH), "{salvaged:?}\n{status:#}\n{}", rack.log());
    let events = rack.cli(&["events", "--volume", "vol0"]).good().out;
    assert!(events.contains("heads head-2 (were head-1"), "people see what moved: {events}");
    // Its process comes back and has no log; when that is given up another head is filled, and the pair is whole again.
    let pid = rack.node_pid("head-1");
    signal(pid, Signal::KILL);
    rack.wait_for("a head without its log", SOON, |status| {
        let mut nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.any(|node| node["name"] == "head-1" && node["state"] == "failed" && node["pid"] != pid)
    });
    rack.cli(&["device", "replace", "head-1/log"]).good();
    signal(rack.node_pid("head-1"), Signal::KILL);
    rack.wait_for("a head with a blank log", SOON, |status| {
        let mut nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.any(|node| node["name"] == "head-1" && node["state"] == "ready")
    });
    // Whoever was fit when the disk was given up is filled; a busy host may move the role meanwhile.
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = volume(status);
        let well = volume["joining"] == false && volume["peer_away"] == false && volume["secondary"] != "";
        well && volume["state"] == "serving" && volume["lacks"] == ""
    });
    rack.perf("vol0", &["--verify", "--read", "50", "--region", "8m", "--seconds", "1"], SOON);
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn p30_a_lone_head_that_is_lost_with_its_log_is_followed_by_itself_and_nothing_is_missing() {
    let mut rack = rack(1500);
    let load = load(&rack);
    lose_the_lone_head(&rack, true);
    serves_on(&mut rack, load);
}

#[test]
fn p30_people_salvage_what_a_lone_head_acknowledged_that_is_lost_with_its_log() {
    let mut rack = rack(3_600_000);
    let load = load(&rack);
    writes(&rack, "head-1", 50);
    let early = loop {
        let said = rack.cli(&["volume", "salvage", "vol0"]);
        // Right after its start control listens to sleds first.
        if !said.err.contains("ask again") {
            break said;
        }
    };
    assert!(
        early.code == Some(1) && early.err.contains("head-1, which has `vol0`, is there"),
        "{}",
        early.err
    );
    let unknown = rack.cli(&["volume", "salvage", "vol7"]);
    assert!(unknown.code == Some(1) && unknown.err.contains("vol7"), "{}", unknown.err);
    lose_the_lone_head(&rack, false);
    rack.wait_for("the heir", SOON, |status| {
        let mut nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.any(|node| node["name"] == "head-2" && node["state"] == "ready")
    });
    assert_eq!(volume(&rack.status())["primary"], "head-1", "nobody takes over unasked");
    // The lone head only sleeps; it is gone for control when it was silent for a while.
    let mut said = rack.cli(&["volume", "salvage", "vol0"]);
    while said.code != Some(0) {
        assert!(said.err.contains("is there"), "{}", said.err);
        std::thread::sleep(Duration::from_millis(300));
        said = rack.cli(&["volume", "salvage", "vol0"]);
    }
    let said = said.out;
    assert!(said.contains("volume vol0: head-2 takes it over under number"), "{said}");
    serves_on(&mut rack, load);
}
