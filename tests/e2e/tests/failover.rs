//! Heads that die and heads that sleep, under verified load, in racks whose roles move by themselves (MA-15,
//! EF-17, EF-19). The client knows both addresses of the volume and follows (MA-11). While one head is gone reads are
//! served and writes wait (P-30): the other is there again within the length of the load.

use palisade_e2e::binary::palisade;
use palisade_e2e::rack::{Shape, TestRack, signal};
use palisade_e2e::setting;
use rustix::process::Signal;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

fn rack() -> TestRack {
    let mut rack = TestRack::new(&Shape { fabric: true, failover: true, ..Shape::default() });
    rack.start(&["--processes"]);
    whole(&rack);
    rack
}

fn volume(status: &Value) -> &Value {
    &status["volumes"][0]
}

/// Waits until the volume is served by a pair that is whole; says who leads it and who follows.
#[track_caller]
fn whole(rack: &TestRack) -> [String; 2] {
    let mut pair = [String::new(), String::new()];
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = volume(status);
        let name = |role: &str| volume[role].as_str().unwrap_or_default().to_owned();
        pair = [name("primary"), name("secondary")];
        volume["state"] == "serving"
            && volume["joining"] == false
            && volume["peer_away"] == false
            && pair.iter().all(|head| !head.is_empty())
    });
    pair
}

/// Verified load on `vol0` by both its addresses, as JSON.
fn load(rack: &TestRack, seconds: u64) -> Child {
    let status = rack.status();
    let addresses = volume(&status)["addresses"].as_array().cloned().unwrap_or_default();
    let [first, second] = [0, 1].map(|at| addresses[at].as_str().expect("an address").to_owned());
    Command::new(palisade())
        .args(["perf", "run", &first, "--also", &second, "--verify", "--json", "--quiet"])
        .args(["--read", "40", "--depth", "32", "--region", "48m", "--reconnect", "60"])
        .args(["--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts")
}

/// The end of a load in which nothing was wrong and nothing failed; says how often it had to go elsewhere.
#[track_caller]
fn good_end(rack: &TestRack, load: Child) -> u64 {
    let output = load.wait_with_output().expect("the generator ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}\n{}", output.status, rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
    found["reconnects"].as_u64().expect("a count")
}

/// Waits until another head than `old` leads.
#[track_caller]
fn taken_over(rack: &TestRack, old: &str) {
    rack.wait_for("a take-over", SOON, |status| {
        let volume = volume(status);
        volume["primary"] != old && volume["state"] == "serving"
    });
}

#[test]
fn ma15_killed_primaries_are_followed_and_no_acknowledged_block_is_lost() {
    let kills = setting("PALISADE_E2E_FAILOVERS", 2);
    let mut rack = rack();
    let load = load(&rack, 8 + 8 * kills);
    for _ in 0..kills {
        let [primary, _] = whole(&rack);
        signal(rack.node_pid(&primary), Signal::KILL);
        taken_over(&rack, &primary);
        // Its process is started again, and it comes back behind.
        let [_, second] = whole(&rack);
        assert_eq!(second, primary, "it comes back as secondary");
    }
    assert!(good_end(&rack, load) >= 1, "the client had to follow");
    let events = rack.cli(&["events"]).good().out;
    assert!(events.contains("silence"), "people see why: {events}");
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ef17_a_primary_that_slept_through_a_take_over_demotes_itself_and_follows() {
    let mut rack = rack();
    let [primary, _] = whole(&rack);
    let pid = rack.node_pid(&primary);
    let load = load(&rack, 20);
    rack.wait_for("the load writes", SOON, |status| {
        volume(status)["counters"]["writes"].as_u64() > Some(100)
    });
    signal(pid, Signal::STOP);
    taken_over(&rack, &primary);
    std::thread::sleep(Duration::from_secs(setting("PALISADE_E2E_SLEEP", 3)));
    signal(pid, Signal::CONT);
    let [_, second] = whole(&rack);
    assert_eq!((second, rack.node_pid(&primary)), (primary, pid), "the same process follows now");
    assert!(good_end(&rack, load) >= 1);
    assert!(rack.stop().success(), "{}", rack.log());
}
