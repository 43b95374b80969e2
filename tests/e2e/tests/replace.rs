//! Members that are gone for good, under verified load: another head is filled and takes the place, with nothing
//! lost and nothing wrong (MA-20, MA-21, BA-01, BA-09, EF-19).

use palisade_e2e::binary::palisade;
use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(180);

/// A rack of three heads in which a member that is away for two seconds is replaced.
fn rack() -> TestRack {
    let shape = Shape { fabric: true, failover: true, ..Shape::default() };
    let mut rack = TestRack::new(&shape);
    let text = std::fs::read_to_string(rack.file()).expect("the rack file");
    let text = text.replacen("failover = \"auto\"\n", "failover = \"auto\"\nreplace_after_ms = 2000\n", 1);
    std::fs::write(rack.file(), text).expect("room for a rack file");
    rack.start(&["--processes"]);
    whole(&rack, "head-1", "head-2");
    rack
}

fn volume(status: &Value) -> &Value {
    &status["volumes"][0]
}

/// Waits until the volume is served by this pair, and nothing is lacking.
#[track_caller]
fn whole(rack: &TestRack, primary: &str, secondary: &str) {
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = volume(status);
        let roles = volume["primary"] == primary && volume["secondary"] == secondary;
        let well = volume["state"] == "serving" && volume["joining"] == false && volume["peer_away"] == false;
        roles && well && volume["lacks"] == "" && volume["replacement"] == ""
    });
}

/// Verified load on `vol0` by both its addresses, for so long: a client that follows.
fn load(rack: &TestRack, seconds: u64) -> Child {
    let status = rack.status();
    let addresses = volume(&status)["addresses"].as_array().cloned().unwrap_or_default();
    let [first, second] = [0, 1].map(|at| addresses[at].as_str().expect("an address").to_owned());
    start(rack, seconds, &[&first, "--also", &second, "--reconnect", "120"])
}

/// Verified load by the primary's address alone: it allows no error, no reconnection and no retry.
fn strict_load(rack: &TestRack, seconds: u64) -> Child {
    let status = rack.status();
    let first = volume(&status)["addresses"][0].as_str().expect("an address").to_owned();
    start(rack, seconds, &[&first])
}

fn start(rack: &TestRack, seconds: u64, target: &[&str]) -> Child {
    let load = Command::new(palisade())
        .args(["perf", "run"])
        .args(target)
        .args(["--verify", "--json", "--quiet", "--read", "40", "--depth", "16", "--region", "24m"])
        .args(["--seconds", &seconds.to_string()])
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

#[test]
fn ma21_a_secondary_that_stays_away_is_replaced_by_the_third_head_under_load() {
    let mut rack = rack();
    let load = load(&rack, 20);
    let away = rack.node_pid("head-2");
    signal(away, Signal::STOP);
    whole(&rack, "head-1", "head-3");
    signal(away, Signal::CONT);
    // It is not needed any more, and gives its copy up.
    rack.wait_for("the leftovers are given up", SOON, |_| rack.told("forgot the copy of before"));
    whole(&rack, "head-1", "head-3");
    good_end(&rack, load);
    let events = rack.cli(&["events", "--volume", "vol0"]).good().out;
    assert!(events.contains("heads head-1, head-3 (were head-1, head-2)"), "people see what moved: {events}");
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ba01_a_head_whose_log_was_replaced_is_filled_under_load() {
    let mut rack = rack();
    // Its primary stays what it is: the group that shrinks and grows again costs its clients time, and no error.
    let load = strict_load(&rack, 20);
    // Whoever is there first is filled: here only the head with the new log may be.
    rack.cli(&["head", "isolate", "head-3"]).good();
    rack.cli(&["device", "replace", "head-2/log"]).good();
    let pid = rack.node_pid("head-2");
    std::fs::remove_file(rack.log_file(2)).expect("the old disk is pulled");
    signal(pid, Signal::KILL);
    rack.wait_for("it leaves the group", SOON, |_| {
        rack.cli(&["events", "--volume", "vol0"]).good().out.contains("the log of head-2 was replaced")
    });
    whole(&rack, "head-1", "head-2");
    good_end(&rack, load);
    // What it was filled with is whole: it leads alone.
    rack.cli(&["volume", "failover", "vol0"]).good();
    whole(&rack, "head-2", "head-1");
    rack.perf("vol0", &["--verify", "--read", "50", "--region", "8m", "--seconds", "1"], SOON);
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ef28_a_drained_head_is_safe_to_stop_once_a_third_one_has_its_copies() {
    let mut rack = rack();
    let load = load(&rack, 15);
    let drained = rack.cli(&["head", "drain", "head-2", "--wait", "--timeout", "120"]).good().out;
    assert!(drained.contains("safe to stop"), "{drained}");
    whole(&rack, "head-1", "head-3");
    signal(rack.node_pid("head-2"), Signal::KILL);
    good_end(&rack, load);
    assert!(rack.stop().success(), "{}", rack.log());
}
