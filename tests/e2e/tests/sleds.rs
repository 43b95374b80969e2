//! Devices that fail and sleds that are drained and pulled, under verified load (EF-22, EF-23).

use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const REGION: [&str; 2] = ["--region", "32m"];
/// What no load writes: it stays in the extents in which it lies.
const CALM: [&str; 4] = ["--offset", "32m", "--region", "32m"];

fn device<'s>(status: &'s Value, name: &str) -> &'s Value {
    let mut devices = status["devices"].as_array().into_iter().flatten();
    devices.find(|device| device["name"] == name).unwrap_or(&Value::Null)
}

fn node<'s>(status: &'s Value, name: &str) -> &'s Value {
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.find(|node| node["name"] == name).unwrap_or(&Value::Null)
}

/// Nothing lacks a column: any two of the six columns of each extent may be lost.
fn whole(status: &Value) -> bool {
    let volume = &status["volumes"][0];
    volume["degraded_extents"] == 0 && volume["redundancy"] == 2 && volume["extents"].as_u64() > Some(0)
}

/// Contents that lie in columns, verified against a state file.
fn fill(rack: &TestRack) -> String {
    fill_in(rack, "state", &REGION)
}

fn fill_in(rack: &TestRack, state: &str, region: &[&str]) -> String {
    let state = rack.path(state).display().to_string();
    let args =
        ["--read", "0", "--size", "64k", "--pattern", "sequential", "--requests", "512", "--state", &state];
    rack.perf("vol0", &[&args[..], region].concat(), SOON).good();
    rack.cli(&["volume", "flush", "vol0", "--wait"]).good();
    state
}

/// Does something while a client reads, writes and compares; the client meets no error and nothing wrong.
fn under_load(rack: &TestRack, state: &str, seconds: &str, deed: impl FnOnce()) {
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let args = ["--read", "60", "--depth", "8", "--state", state, "--seconds", seconds, "--json"];
            rack.perf("vol0", &[&args[..], &REGION].concat(), SOON).good()
        });
        deed();
        let ended = load.join().expect("the load ends");
        let found: Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    });
}

#[test]
fn ef22_a_device_that_fails_under_verified_load_is_found_out_and_rebuilt_elsewhere() {
    let rack = TestRack::up(&Shape { sleds: 8, drills: true, ..Shape::default() });
    let state = fill(&rack);
    // A quick load writes all of its own region anew before the device counts as failed.
    let calm = fill_in(&rack, "calm", &CALM);
    rack.wait_for("protection is whole, with columns on sled-2", SOON, |status| {
        whole(status) && device(status, "sled-2/0")["held"].as_u64() > Some(0)
    });
    under_load(&rack, &state, "30", || {
        rack.cli(&["device", "drill", "sled-2/0", "error"]).good();
        rack.wait_for("the device counts as failed", SOON, |status| {
            device(status, "sled-2/0")["state"] == "failed"
        });
        rack.wait_for("all columns are elsewhere", SOON, |status| {
            whole(status) && device(status, "sled-2/0")["held"] == 0
        });
    });
    assert!(rack.told("device sled-2/0 is suspect") && rack.told("device sled-2/0 counts as failed"));
    assert!(rack.counter("rebuilt_bytes") > 0);
    let shown = rack.cli(&["status"]).good().out;
    assert!(shown.lines().any(|line| line.contains("sled-2/0") && line.contains("failed")), "{shown}");
    // Full redundancy: two more may fail.
    for sled in ["sled-5/0", "sled-7/0"] {
        rack.cli(&["device", "drill", sled, "error"]).good();
    }
    for (state, region) in [(state, &REGION[..]), (calm, &CALM[..])] {
        let args = ["--verify-only", "--size", "64k", "--state", &state, "--json"];
        let ended = rack.perf("vol0", &[&args[..], region].concat(), SOON).good();
        let found: Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    }
}

#[test]
fn ef23_a_sled_is_drained_under_verified_load_pulled_put_back_and_used_again() {
    let mut rack = TestRack::new(&Shape { sleds: 7, fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let state = fill(&rack);
    let held = |status: &Value| device(status, "sled-3/0")["held"].as_u64();
    rack.wait_for("columns on sled-3", SOON, |status| whole(status) && held(status) > Some(0));
    under_load(&rack, &state, "20", || {
        let drained = rack.cli(&["sled", "drain", "sled-3", "--wait", "--timeout", "80"]).good();
        assert!(drained.out.contains("safe to pull"), "{}", drained.out);
    });
    let status = rack.status();
    assert_eq!(
        (&node(&status, "sled-3")["state"], held(&status)),
        (&"drained".into(), Some(0)),
        "{status:#}"
    );
    assert!(whole(&status) && rack.told("is drained: it is safe to pull"));
    // Pulled: the sled starts again and finds no device. Nobody misses it.
    let (file, away) = (rack.sled_file(3), rack.path("pulled"));
    std::fs::rename(&file, &away).expect("a device file");
    let pid = rack.node_pid("sled-3");
    signal(pid, Signal::KILL);
    rack.wait_for("the device is out", SOON, |status| device(status, "sled-3/0")["state"] == "missing");
    under_load(&rack, &state, "5", || {});
    rack.cli(&["volume", "flush", "vol0", "--wait"]).good();
    let status = rack.status();
    assert!(whole(&status) && status["volumes"][0]["degraded"] == false, "{status:#}");
    // Put back.
    std::fs::rename(&away, &file).expect("a device file");
    signal(rack.node_pid("sled-3"), Signal::KILL);
    rack.wait_for("the device is back", SOON, |status| device(status, "sled-3/0")["state"] == "active");
    assert_eq!(node(&rack.status(), "sled-3")["state"], "drained", "also after its restart");
    rack.cli(&["sled", "resume", "sled-3"]).good();
    under_load(&rack, &state, "10", || {
        rack.wait_for("it gets columns again", SOON, |status| {
            rack.cli(&["volume", "flush", "vol0", "--wait"]).good();
            held(status) > Some(0)
        });
    });
    assert!(rack.stop().success(), "{}", rack.log());
}
