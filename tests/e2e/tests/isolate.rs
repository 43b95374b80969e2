//! Heads that volumes have to leave, under verified load: both members at once, and one whose log device is found to
//! be slow by the rack itself (BA-02).

use palisade_e2e::binary::palisade;
use palisade_e2e::rack::{Shape, TestRack};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(180);

/// A rack of three heads with lines for `[control]` and for the volume.
fn rack(control: &str, volume: &str) -> TestRack {
    let shape = Shape { fabric: true, failover: true, drills: true, ..Shape::default() };
    let mut rack = TestRack::new(&shape);
    let text = std::fs::read_to_string(rack.file()).expect("the rack file");
    let text = text.replacen("failover = \"auto\"\n", &format!("failover = \"auto\"\n{control}\n"), 1);
    // A busy host is to move no role before the test does.
    let text = text.replacen("[timers]\n", "[timers]\nsilence_ms = 2000\nconfirm_ms = 1000\n", 1);
    let members = "secondary = \"head-2\"\n";
    let text = text.replacen(members, &format!("{members}{volume}\n"), 1);
    std::fs::write(rack.file(), text).expect("room for a rack file");
    rack.start(&["--processes"]);
    rack.wait_for("a whole pair", SOON, |status| pair(status, "head-1", "head-2"));
    rack
}

fn volume(status: &Value) -> &Value {
    &status["volumes"][0]
}

fn node<'s>(status: &'s Value, name: &str) -> &'s Value {
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).expect("it is of the rack")
}

/// Whether the volume is served by this pair, and nobody is being refilled.
fn pair(status: &Value, primary: &str, secondary: &str) -> bool {
    let volume = volume(status);
    let roles = volume["primary"] == primary && volume["secondary"] == secondary;
    roles && volume["state"] == "serving" && volume["joining"] == false && volume["peer_away"] == false
}

/// Verified load on `vol0`, for so long, by a client that knows the addresses of all three heads.
fn load(rack: &TestRack, seconds: u64) -> Child {
    let address =
        |head| format!("nbd+unix:///vol0?socket={}", rack.data().join(format!("head-{head}.sock")).display());
    let load = Command::new(palisade())
        .args(["perf", "run", &address(1), "--also", &address(2), "--also", &address(3)])
        .args(["--verify", "--json", "--quiet", "--read", "40", "--depth", "16", "--region", "24m"])
        .args(["--reconnect", "120", "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts");
    rack.wait_for("the load writes", SOON, |status| {
        volume(status)["counters"]["writes"].as_u64() > Some(100)
    });
    load
}

/// The end of a load in which nothing was wrong and nothing failed.
#[track_caller]
fn good_end(rack: &TestRack, load: Child) {
    let output = load.wait_with_output().expect("the generator ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}\n{}", output.status, rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
}

/// The groups that came into force, as (number, heads).
fn groups(rack: &TestRack) -> Vec<(u64, Vec<String>)> {
    let text = rack.cli(&["events", "--volume", "vol0", "--json"]).good().out;
    let events: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    let group = |event: &Value| {
        let number = event["number"].as_str()?.rsplit(['.', '/', ':']).next()?.parse().ok()?;
        let heads = event["to"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Some((number, heads))
    };
    events.iter().filter_map(group).collect()
}

#[test]
fn ba02_both_isolate_under_load_the_better_one_goes_on_alone_and_a_healthy_third_takes_over() {
    let mut rack = rack("isolate_after_ms = \"off\"", "solo = \"sleds\"");
    let load = load(&rack, 40);
    // What makes head-1 the worse one of two that people want to be left: its log was slow of late.
    rack.cli(&["device", "drill", "head-1/log", "slow"]).good();
    rack.wait_for("slow appends", SOON, |status| {
        node(status, "head-1")["counters"]["log_slow"].as_u64() > Some(20)
    });
    // Nobody is there who could take a place: else the one that is marked first would be replaced at once.
    rack.cli(&["head", "isolate", "head-3"]).good();
    let before = volume(&rack.status())["sequence"].as_u64().expect("a number");
    // The secondary first: no well member is left to which the volume could move when the primary follows.
    let begin = Instant::now();
    rack.cli(&["head", "isolate", "head-2"]).good();
    rack.cli(&["head", "isolate", "head-1"]).good();
    let apart = begin.elapsed();
    rack.wait_for("a new group", SOON, |status| volume(status)["sequence"].as_u64() > Some(before));
    let next = groups(&rack).into_iter().find(|(number, _)| *number == before + 1).expect("it is kept");
    assert_eq!(
        next.1,
        ["head-2"],
        "one step to be alone, both isolated within {apart:?}: {:?}",
        groups(&rack)
    );
    // I/O goes on there: counters are a head's own.
    rack.wait_for("I/O goes on", SOON, |status| {
        let volume = volume(status);
        volume["primary"] != "head-1" && volume["counters"]["writes"].as_u64() > Some(0)
    });
    rack.cli(&["device", "drill", "head-1/log", "clear"]).good();
    rack.cli(&["head", "rejoin", "head-3"]).good();
    rack.wait_for("a healthy head leads", SOON, |status| pair(status, "head-3", "head-2"));
    let status = rack.status();
    for head in ["head-1", "head-2"] {
        assert_eq!(node(&status, head)["isolating"], "asked for by hand", "the hosts keep their marks");
    }
    assert_eq!(node(&status, "head-3")["isolating"], "");
    good_end(&rack, load);
    // One of them is in use again, and takes the place of the one that still isolates.
    rack.cli(&["head", "rejoin", "head-1"]).good();
    rack.wait_for("a whole pair", SOON, |status| {
        pair(status, "head-3", "head-1") && volume(status)["lacks"] == ""
    });
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ba02_a_head_whose_log_device_becomes_slow_isolates_by_itself_and_is_left_under_load() {
    let mut rack = rack("isolate_after_ms = 2000", "");
    let load = load(&rack, 30);
    rack.cli(&["device", "drill", "head-1/log", "slow"]).good();
    rack.wait_for("a mark", SOON, |status| {
        let why = node(status, "head-1")["isolating"].as_str().unwrap_or_default();
        why.starts_with("its log device is slow: an append takes ")
    });
    rack.wait_for("its volume leaves it", SOON, |status| {
        pair(status, "head-2", "head-3") && volume(status)["lacks"] == ""
    });
    good_end(&rack, load);
    rack.cli(&["device", "drill", "head-1/log", "clear"]).good();
    let status = rack.status();
    assert_eq!(node(&status, "head-1")["state"], "isolating", "people take it into use again");
    assert!(rack.cli(&["status"]).good().out.contains("isolating"));
    rack.cli(&["head", "rejoin", "head-1"]).good();
    rack.wait_for("it is in use again", SOON, |status| node(status, "head-1")["state"] == "ready");
    assert!(rack.stop().success(), "{}", rack.log());
}
