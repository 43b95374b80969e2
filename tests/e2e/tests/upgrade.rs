//! Nodes that become another binary while their rack serves a verified load (EF-28, issue 3 item 13).

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::{Ended, run};
use palisade_e2e::rack::{Shape, TestRack, signal};
use palisade_e2e::setting;
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(240);

fn rack(processes: bool) -> TestRack {
    let mut rack = TestRack::new(&Shape { fabric: true, failover: true, ..Shape::default() });
    rack.start(if processes { &["--processes"] } else { &[] });
    whole(&rack);
    rack
}

fn volume(status: &Value) -> &Value {
    &status["volumes"][0]
}

/// Waits until the volume is served by a pair that is whole.
#[track_caller]
fn whole(rack: &TestRack) {
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = volume(status);
        volume["state"] == "serving" && volume["joining"] == false && volume["peer_away"] == false
    });
}

fn primary(rack: &TestRack) -> String {
    volume(&rack.status())["primary"].as_str().expect("a name").to_owned()
}

/// Verified load on `vol0` by both its addresses.
fn load(rack: &TestRack, seconds: u64) -> Child {
    let status = rack.status();
    let [first, second] =
        [0, 1].map(|at| volume(&status)["addresses"][at].as_str().expect("an address").to_owned());
    Command::new(palisade())
        .args(["perf", "run", &first, "--also", &second, "--verify", "--json", "--quiet"])
        .args(["--read", "40", "--depth", "32", "--region", "48m", "--reconnect", "60"])
        .args(["--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts")
}

#[track_caller]
fn good_end(rack: &TestRack, load: Child) {
    let output = load.wait_with_output().expect("the generator ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}\n{}", output.status, rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
}

/// The same program under another name.
fn other_binary(rack: &TestRack) -> PathBuf {
    let path = rack.path("palisade-new");
    if std::fs::hard_link(palisade(), &path).is_err() {
        std::fs::copy(palisade(), &path).expect("room for a copy");
    }
    std::fs::canonicalize(path).expect("it is there")
}

/// A program of some lines of shell.
fn script(rack: &TestRack, name: &str, text: &str) -> PathBuf {
    let path = rack.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    std::fs::canonicalize(path).expect("it is there")
}

#[track_caller]
fn upgrade(rack: &TestRack, node: &str, binary: &std::path::Path) -> Ended {
    let (binary, data) = (binary.display().to_string(), rack.data().display().to_string());
    let args = ["node", "upgrade", node, "--binary", &binary, "--json", "--data-dir", &data];
    run(palisade(), &args, SOON)
}

#[track_caller]
fn node(rack: &TestRack, name: &str) -> Value {
    let status = rack.status();
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).expect("the node").clone()
}

#[test]
fn ef28_heads_and_a_sled_become_another_binary_under_verified_load_and_nothing_fails() {
    let mut rack = rack(true);
    let binary = other_binary(&rack);
    let load = load(&rack, setting("PALISADE_E2E_UPGRADE_SECONDS", 30));
    rack.wait_for("the load writes", SOON, |status| {
        volume(status)["counters"]["writes"].as_u64() > Some(100)
    });
    let first = primary(&rack);
    let second = volume(&rack.status())["secondary"].as_str().expect("a name").to_owned();
    for name in [first.as_str(), second.as_str(), "sled-1"] {
        let before = node(&rack, name);
        let ended = upgrade(&rack, name, &binary).good();
        let said: Value = serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}", ended.out));
        let (said, after) = (&said[0], node(&rack, name));
        assert_eq!((&said["node"], &said["pid_before"]), (&name.into(), &before["pid"]), "{said}");
        assert_ne!(after["pid"], before["pid"]);
        assert_eq!((&said["pid"], &said["version"]), (&after["pid"], &after["version"]), "{said}");
        assert_eq!(after["binary"], binary.display().to_string());
        assert_ne!(before["binary"], after["binary"]);
        if name != "sled-1" {
            let pauses = said["pauses"].as_array().expect("a list");
            assert!(!pauses.is_empty(), "{said}\n{}", rack.log());
            assert!(pauses.iter().all(|pause| pause["pause_us"].as_u64() > Some(0)), "{said}");
            // On a busy host a client that asks at the other head may have moved it once more.
            let moved =
                |pause: &Value| pause["why"].as_str().is_some_and(|why| why.starts_with("it moved away"));
            assert!(pauses.iter().any(moved), "{said}\n{}", rack.log());
            eprintln!("{name}: {said}");
            assert_ne!(primary(&rack), name, "it came back behind the other one");
            assert_eq!(after["state"], "ready", "in use again");
        }
    }
    good_end(&rack, load);
    whole(&rack);
    let events = rack.cli(&["events", "--volume", "vol0", "--since", "1h"]).good().out;
    assert!(events.contains("after a pause of"), "people see how long: {events}");
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn a_binary_that_cannot_be_the_node_is_rolled_back_and_the_other_head_serves() {
    let mut rack = rack(true);
    let first = primary(&rack);
    let before = node(&rack, &first);
    // What is no palisade, or reads other formats, is refused before anything moves.
    let strange = script(&rack, "strange", "echo something else");
    let ended = upgrade(&rack, &first, &strange);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("nothing was changed"), "{}", ended.err);
    let ended = upgrade(&rack, "no-such-node", &other_binary(&rack));
    assert!(ended.code == Some(1) && ended.err.contains("no node `no-such-node`"), "{}", ended.err);
    assert_eq!((primary(&rack), node(&rack, &first)["pid"].clone()), (first.clone(), before["pid"].clone()));
    // One that says the right things and ends when it is to be a node.
    let program = palisade().display().to_string();
    let text = format!("case \"$1\" in node) exit 3;; esac\nexec {program} \"$@\"");
    let failing = script(&rack, "failing", &text);
    let ended = upgrade(&rack, &first, &failing);
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert!(ended.err.contains("was rolled back"), "{}\n{}", ended.err, rack.log());
    let after = node(&rack, &first);
    assert_eq!((&after["binary"], &after["state"]), (&before["binary"], &"ready".into()), "{after}");
    assert_ne!(after["pid"], before["pid"]);
    assert_ne!(primary(&rack), first, "the other head serves");
    whole(&rack);
    assert!(rack.log().contains("starting it as before"), "{}", rack.log());
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn nodes_that_share_a_process_are_not_upgraded_one_by_one() {
    let mut rack = rack(false);
    let first = primary(&rack);
    let ended = upgrade(&rack, &first, &other_binary(&rack));
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("up --processes"), "the remedy: {}", ended.err);
    assert_eq!(primary(&rack), first, "nothing moved");
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn control_becomes_another_binary_with_its_nodes_as_they_are() {
    let mut rack = rack(true);
    let binary = other_binary(&rack);
    let load = load(&rack, setting("PALISADE_E2E_CONTROL_SECONDS", 12));
    let pids = |rack: &TestRack| -> Vec<(String, u64)> {
        let status = rack.status();
        let nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.map(|node| (node["name"].to_string(), node["pid"].as_u64().expect("a number"))).collect()
    };
    let before = pids(&rack);
    let first = primary(&rack);
    let said = upgrade(&rack, "control", &binary).good().out;
    let said: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!((&said[0]["pid"], &said[0]["pid_before"]), (&rack.pid().into(), &rack.pid().into()), "{said}");
    assert_eq!(said[0]["pauses"], Value::Array(Vec::new()), "no I/O waits for control (EF-02): {said}");
    let status = rack.status();
    assert_eq!(status["control"]["binary"], binary.display().to_string());
    assert_eq!((pids(&rack), primary(&rack)), (before.clone(), first), "every node is the same process");
    good_end(&rack, load);
    // Its children are still looked after.
    signal(rack.node_pid("sled-2"), Signal::KILL);
    rack.wait_for("the sled is started again", SOON, |status| {
        let nodes = status["nodes"].as_array().expect("nodes").iter();
        let mut of = nodes.filter(|node| node["name"] == "sled-2");
        of.any(|node| node["state"] == "ready" && before.iter().all(|(_, pid)| node["pid"] != *pid))
    });
    // A strange one is refused, and control goes on.
    let strange = script(&rack, "strange", "echo something else");
    let ended = upgrade(&rack, "control", &strange);
    assert!(ended.code == Some(1) && ended.err.contains("nothing was changed"), "{}", ended.err);
    whole(&rack);
    assert!(rack.stop().success(), "{}", rack.log());
}
