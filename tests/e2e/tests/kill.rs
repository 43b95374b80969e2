//! kill -9 of the whole rack, and of single nodes, under verified load.

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::rack::{Shape, TestRack, signal};
use palisade_e2e::setting;
use rustix::process::Signal;
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);
const LOAD: [&str; 8] = ["--read", "40", "--depth", "32", "--region", "48m", "--flush-every", "200"];

/// Starts verified load on `vol0`; back once the rack has counted so many of its writes.
#[track_caller]
fn load(rack: &TestRack, args: &[&str], writes: u64) -> Child {
    let before = rack.counter("writes");
    let child = Command::new(palisade())
        .args(["perf", "run", &rack.uri("vol0"), "--quiet"])
        .args(args)
        .args(LOAD)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the generator starts");
    rack.wait_for("the generator writes", SOON, |status| {
        status["volumes"][0]["counters"]["writes"].as_u64() >= Some(before + writes)
    });
    child
}

#[test]
fn every_acknowledged_block_reads_back_after_kill_9_of_the_whole_rack() {
    let rounds = setting("PALISADE_E2E_KILLS", 5);
    let mut rack = TestRack::new(&Shape::default());
    let state = rack.path("state").display().to_string();
    for round in 0..rounds {
        rack.start(&[]);
        if round > 0 {
            let check = rack.perf(
                "vol0",
                &["--verify-only", "--state", &state, "--region", "48m"],
                Duration::from_secs(120),
            );
            assert_eq!(check.code, Some(0), "round {round}: {}{}", check.out, check.err);
        }
        let args = ["--state", &state, "--seconds", "300"];
        let mut load = load(&rack, &args, 300 + round % 7 * 130);
        rack.kill();
        let status = load.wait().expect("the generator ends");
        assert_eq!(
            status.code(),
            Some(3),
            "round {round}: the generator saw wrong data or no loss: {status}"
        );
    }
    rack.start(&[]);
    let args = ["--verify-only", "--state", &state, "--region", "48m", "--json"];
    let check = rack.perf("vol0", &args, Duration::from_secs(120)).good();
    let json: serde_json::Value = serde_json::from_str(&check.out).expect("JSON");
    assert!(json["compared_blocks"].as_u64() > Some(100), "{json}");
    assert!(rack.stop().success(), "{}", rack.log());
}

/// Verified load while `hurt` does something to the rack.
fn load_while(rack: &TestRack, hurt: impl FnOnce()) {
    let args = ["--verify", "--seconds", "10", "--reconnect", "40"];
    let mut load = load(rack, &args, 20);
    hurt();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = load.try_wait().expect("a child can be waited for") {
            break status;
        }
        assert!(begin.elapsed() < Duration::from_secs(150), "requests hang\n{}", rack.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "the generator found something wrong: {status}");
}

#[test]
fn a_killed_secondary_makes_requests_wait_and_never_fail() {
    let mut rack = TestRack::new(&Shape { fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let pid = rack.node_pid("head-2");
    assert_ne!(pid, rack.pid(), "each node is a process of its own");
    load_while(&rack, || signal(pid, Signal::KILL));
    rack.wait_for("the dead node was started again", SOON, |status| {
        let nodes = status["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|node| node["name"] == "head-2").expect("head-2");
        node["state"] == "ready" && node["pid"].as_u64() != Some(u64::from(pid))
    });
}

#[test]
fn a_killed_primary_comes_back_under_a_new_number_with_every_write() {
    let mut rack = TestRack::new(&Shape { fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let (pid, before) = (rack.node_pid("head-1"), rack.status()["volumes"][0]["sequence"].clone());
    load_while(&rack, || signal(pid, Signal::KILL));
    rack.wait_for("P-01: a boot gets a new number", SOON, |status| {
        status["volumes"][0]["state"] == "serving" && status["volumes"][0]["sequence"] != before
    });
}

#[test]
fn a_killed_sled_is_no_reason_for_an_error() {
    let mut rack = TestRack::new(&Shape { fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let pid = rack.node_pid("sled-3");
    load_while(&rack, || signal(pid, Signal::KILL));
}

/// P-11: the head has no secondary, so that a write waits without a number; its client dies; the write must not
/// be carried out later, when the client's successor has read the old contents.
#[test]
fn a_write_that_waited_is_not_carried_out_after_its_client_is_gone() {
    let mut rack = TestRack::new(&Shape { fabric: true, ..Shape::default() });
    rack.start(&["--processes"]);
    let uri = rack.uri("vol0");
    let io = |what: &str| run("qemu-io", &["-f", "raw", "-c", what, &uri], Duration::from_secs(60));
    io("write -P 0xaa 0 64k").good();
    let (primary, secondary) = (rack.node_pid("head-1"), rack.node_pid("head-2"));
    signal(secondary, Signal::STOP);
    signal(primary, Signal::KILL);
    let volume = |status: &Value| status["volumes"][0].clone();
    let limit = SOON;
    rack.wait_for("the primary waits for its secondary", limit, |status| {
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let again = nodes.filter(|node| node["name"] == "head-1").all(|node| node["pid"] != primary);
        again && volume(status)["state"] == "reconciling"
    });
    let mut client = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write -P 0xbb 0 64k", &uri])
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-io starts");
    rack.wait_for("its write waits", limit, |status| volume(status)["waiting"].as_u64() > Some(0));
    client.kill().expect("it runs");
    client.wait().expect("it ends");
    rack.wait_for("nothing waits any more", limit, |status| volume(status)["waiting"] == 0);
    signal(secondary, Signal::CONT);
    rack.wait_for("the volume is served", limit, |status| volume(status)["state"] == "serving");
    let read = io("read -P 0xaa 0 64k").good();
    assert!(!read.out.contains("Pattern verification failed"), "{}", read.out);
    io("write -P 0xcc 0 64k").good();
}
