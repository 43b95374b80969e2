//! Clients at the wrong head (MA-10, MA-11, MA-14, MA-22): standard ones are told where the volume is, the
//! load generator follows.

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::rack::{Shape, TestRack};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);

fn rack(failover: bool) -> TestRack {
    let mut rack = TestRack::new(&Shape { fabric: true, failover, ..Shape::default() });
    rack.start(&["--processes"]);
    served_by(&rack, "head-1");
    rack
}

/// Waits until a whole pair serves the volume, led by `head`.
#[track_caller]
fn served_by(rack: &TestRack, head: &str) {
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = &status["volumes"][0];
        volume["primary"] == head
            && volume["state"] == "serving"
            && volume["joining"] == false
            && volume["peer_away"] == false
    });
}

/// Addresses of the volume, the primary's first.
fn addresses(rack: &TestRack) -> [String; 2] {
    let status = rack.status();
    let found = &status["volumes"][0]["addresses"];
    [0, 1].map(|at| found[at].as_str().expect("an address").to_owned())
}

#[test]
fn ma10_standard_clients_at_the_wrong_head_are_told_where_the_volume_is() {
    let mut rack = rack(false);
    let [first, second] = addresses(&rack);
    // libnbd shows the server's words only where it is asked for more.
    let nbdinfo = vec!["LIBNBD_DEBUG=1", "nbdinfo", &second];
    let qemu_io = vec!["qemu-io", "-f", "raw", &second, "-c", "read 0 4k"];
    for args in [nbdinfo, qemu_io] {
        let program = "env";
        let ended = run(program, &args, SOON);
        assert_ne!(ended.code, Some(0), "{args:?}");
        let said = ended.out + &ended.err;
        assert!(said.contains("is served by head-1: connect to"), "{args:?}: {said}");
    }
    // Without a failover by themselves, heads stay where they are, whoever asks.
    served_by(&rack, "head-1");
    rack.cli(&["volume", "failover", "vol0"]).good();
    served_by(&rack, "head-2");
    assert_eq!(addresses(&rack), [second.clone(), first.clone()]);
    let ended = run("env", &["LIBNBD_DEBUG=1", "nbdinfo", &first], SOON);
    assert!((ended.out + &ended.err).contains("is served by head-2: connect to"));
    run("nbdinfo", &[&second], SOON).good();
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ma14_a_client_that_only_knows_the_secondary_brings_an_unused_volume_there() {
    let mut rack = rack(true);
    let [_, second] = addresses(&rack);
    // It cannot follow: the first try is refused and begins the decision, a later one is served here.
    let args = ["-f", "raw", &second, "-c", "write -P 0x5a 0 64k", "-c", "read -P 0x5a 0 64k"];
    let begin = Instant::now();
    let mut tries = 0;
    while run("qemu-io", &args, SOON).code != Some(0) {
        tries += 1;
        assert!(begin.elapsed() < SOON, "{}", rack.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(tries >= 1, "it was led by the other head");
    served_by(&rack, "head-2");
    let events = rack.cli(&["events"]).good().out;
    assert!(events.contains("a client asked"), "people see why: {events}");
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ma22_a_client_that_knows_one_address_of_a_moving_volume_follows_it() {
    let mut rack = rack(false);
    let [first, _] = addresses(&rack);
    // Only the address that it starts with: the others it hears of from the heads.
    let load = Command::new(palisade())
        .args(["perf", "run", &first, "--also", &first, "--verify", "--json", "--quiet"])
        .args(["--read", "40", "--depth", "32", "--region", "48m", "--reconnect", "60", "--seconds", "12"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts");
    for head in ["head-2", "head-1", "head-2"] {
        std::thread::sleep(Duration::from_secs(2));
        rack.wait_for("a switch-over", SOON, |_| rack.cli(&["volume", "failover", "vol0"]).code == Some(0));
        served_by(&rack, head);
    }
    let output = load.wait_with_output().expect("the generator ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}\n{}", output.status, rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["reconnects"].as_u64() >= Some(3), "{found}");
    assert!(rack.stop().success(), "{}", rack.log());
}
