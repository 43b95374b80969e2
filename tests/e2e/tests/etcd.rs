//! A rack whose control keeps its decisions in etcd and runs under a lease (EF-24): etcd dies, the process that
//! has the lease is stopped and another is killed, all under verified load that allows no error.

use palisade_e2e::binary::palisade;
use palisade_e2e::etcd::Cluster;
use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a change of state may take on a busy host.
const SOON: Duration = Duration::from_secs(90);

/// A rack file with the etcd store.
fn rack(shape: &Shape, cluster: &Cluster) -> TestRack {
    let rack = TestRack::new(shape);
    let keys =
        format!("\n[control]\nstore = \"etcd\"\nlease_ms = 3000\nendpoints = [{}]\n", cluster.quoted());
    let mut file = std::fs::File::options().append(true).open(rack.file()).expect("a rack file");
    file.write_all(keys.as_bytes()).expect("room for it");
    rack
}

/// Verified load that allows no error: no reconnection, no retry. It runs until it is stopped.
struct Load(Child);

impl Load {
    fn start(rack: &TestRack) -> Self {
        let child = Command::new(palisade())
            .args(["perf", "run", &rack.uri("vol0"), "--verify", "--json", "--quiet"])
            .args(["--read", "40", "--depth", "8", "--region", "32m", "--seconds", "600"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the generator starts");
        Self(child)
    }

    /// Ends it as control-C does.
    #[track_caller]
    fn good_end(mut self, rack: &TestRack) {
        assert!(self.0.try_wait().expect("a child").is_none(), "it ended early\n{}", rack.log());
        signal(self.0.id(), Signal::INT);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().expect("piped"), &mut text).expect("text");
        let status = self.0.wait().expect("the generator ends");
        assert!(status.success(), "{status}: {text}\n{}", rack.log());
        let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
        assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn served(rack: &TestRack) -> u64 {
    rack.counter("writes") + rack.counter("reads")
}

/// Waits until clients were served so many more requests.
#[track_caller]
fn wait_for_io(rack: &TestRack) {
    let before = served(rack);
    rack.wait_for("I/O goes on", SOON, |status| {
        let count = |name: &str| status["volumes"][0]["counters"][name].as_u64().unwrap_or(0);
        count("writes") + count("reads") > before + 200
    });
}

/// Waits for a state of control, in a process if one is named; for a while nobody may answer at all.
#[track_caller]
fn wait_for_control(rack: &TestRack, state: &str, pid: Option<u32>) {
    let begin = Instant::now();
    loop {
        let ended = rack.cli(&["status", "--json"]);
        let status: Value = serde_json::from_str(&ended.out).unwrap_or_default();
        if status["control"]["state"] == state && pid.is_none_or(|pid| status["pid"] == pid) {
            return;
        }
        let said = format!("{} {}", status["control"], ended.err);
        assert!(begin.elapsed() < SOON, "control is not {state} {pid:?}: {said}\n{}", rack.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs a command until it succeeds: a busy host may cost control its lease for a moment.
#[track_caller]
fn insist(rack: &TestRack, args: &[&str]) {
    let begin = Instant::now();
    loop {
        let ended = rack.cli(args);
        // An answer that was lost on its way: it was carried out.
        if ended.code == Some(0) || ended.err.contains("exists already") {
            return;
        }
        assert!(begin.elapsed() < SOON, "{args:?}: {}\n{}", ended.err, rack.log());
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Control decides: a volume is made, which takes numbers.
#[track_caller]
fn decides(rack: &TestRack, volume: &str) {
    let heads = ["--primary", "head-2", "--secondary", "head-3"];
    let words = ["volume", "create", volume, "--size", "4 MiB"];
    insist(rack, &words.into_iter().chain(heads).collect::<Vec<_>>());
    rack.wait_for("the new volume", SOON, |status| {
        let volumes = status["volumes"].as_array().into_iter().flatten();
        volumes.into_iter().any(|v| v["name"] == volume && v["state"] == "serving")
    });
}

#[test]
fn ef24_etcd_dies_under_verified_load_and_no_request_fails() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let mut rack = rack(&Shape::default(), &cluster);
    rack.start(&[]);
    let shown = rack.cli(&["status"]).good().out;
    assert!(shown.contains("control serving: process"), "{shown}");
    let load = Load::start(&rack);
    wait_for_io(&rack);

    cluster.kill_all();
    wait_for_control(&rack, "waiting", None);
    wait_for_io(&rack);
    let refused = rack.cli(&["volume", "create", "more", "--size", "4 MiB"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.err.contains("nothing is decided at present"), "{}", refused.err);
    let shown = rack.cli(&["status"]).good().out;
    assert!(shown.contains("control waiting, nothing is decided: ") && shown.contains("etcd"), "{shown}");
    let events = rack.cli(&["events"]).good().out;
    assert!(events.contains("the control plane is waiting"), "{events}");

    cluster.restart(0);
    wait_for_control(&rack, "serving", None);
    decides(&rack, "vol1");
    insist(&rack, &["volume", "failover", "vol1"]);
    wait_for_io(&rack);
    load.good_end(&rack);
    assert!(rack.stop().success());
}

/// `palisade control` beside the rack.
fn stand_by(rack: &TestRack) -> Child {
    let log = std::fs::File::options().append(true).open(rack.path("up.log")).expect("a log");
    let mut command = Command::new(palisade());
    command.arg("control").arg(rack.file()).stdin(Stdio::null()).stdout(log.try_clone().expect("a file"));
    command.stderr(log).spawn().expect("the binary starts")
}

#[test]
fn ef24_the_control_plane_moves_when_its_holder_is_stopped_or_killed_and_io_goes_on() {
    let Some(cluster) = Cluster::start(1) else { return };
    let mut rack = rack(&Shape { fabric: true, ..Shape::default() }, &cluster);
    rack.start(&["--processes"]);
    let first = rack.pid();
    wait_for_control(&rack, "serving", Some(first));
    let mut other = stand_by(&rack);
    let load = Load::start(&rack);
    wait_for_io(&rack);

    signal(first, Signal::STOP);
    wait_for_control(&rack, "serving", Some(other.id()));
    decides(&rack, "vol1");
    wait_for_io(&rack);
    signal(first, Signal::CONT);
    insist(&rack, &["volume", "failover", "vol1"]);
    wait_for_control(&rack, "serving", Some(other.id()));

    other.kill().expect("killed");
    other.wait().expect("waited for");
    wait_for_control(&rack, "serving", Some(first));
    decides(&rack, "vol2");
    insist(&rack, &["volume", "failover", "vol1"]);
    wait_for_io(&rack);
    load.good_end(&rack);
    assert!(rack.stop().success());
}
