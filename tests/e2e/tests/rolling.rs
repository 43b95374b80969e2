//! A whole rack that becomes another binary while it serves a verified load, also with its control plane under a
//! lease, and a binary that starts and never gets well (EF-24, EF-28, issue 3 item 13).

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::{Ended, run};
use palisade_e2e::etcd::Cluster;
use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(400);

/// A rack of processes whose file is changed like this before it starts.
fn rack(change: impl FnOnce(String) -> String) -> TestRack {
    let mut rack = TestRack::new(&Shape { fabric: true, failover: true, ..Shape::default() });
    let text = std::fs::read_to_string(rack.file()).expect("the rack file");
    std::fs::write(rack.file(), change(text)).expect("room for a rack file");
    rack.start(&["--processes"]);
    whole(&rack);
    rack
}

fn volume(status: &Value) -> &Value {
    &status["volumes"][0]
}

#[track_caller]
fn whole(rack: &TestRack) {
    rack.wait_for("a whole pair", SOON, |status| {
        let volume = volume(status);
        volume["state"] == "serving" && volume["joining"] == false && volume["peer_away"] == false
    });
}

/// Verified load on `vol0` by both its addresses, until it is told to end.
struct Load(Child);

impl Load {
    fn start(rack: &TestRack) -> Self {
        let status = rack.status();
        let [first, second] =
            [0, 1].map(|at| volume(&status)["addresses"][at].as_str().expect("an address").to_owned());
        let child = Command::new(palisade())
            .args(["perf", "run", &first, "--also", &second, "--verify", "--json", "--quiet"])
            .args(["--read", "40", "--depth", "16", "--region", "48m", "--reconnect", "120"])
            .args(["--seconds", "1200"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the generator starts");
        Self(child)
    }

    /// Ends it as control-C does; nothing was wrong and nothing failed.
    #[track_caller]
    fn good_end(mut self, rack: &TestRack) {
        assert!(self.0.try_wait().expect("a child").is_none(), "it ended early\n{}", rack.log());
        signal(self.0.id(), Signal::INT);
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        let status = self.0.wait().expect("the generator ends");
        assert!(status.success(), "{status}: {text}\n{}", rack.log());
        let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
        assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
        assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The same program under another name.
fn other_binary(rack: &TestRack) -> PathBuf {
    let path = rack.path("palisade-new");
    if std::fs::hard_link(palisade(), &path).is_err() {
        std::fs::copy(palisade(), &path).expect("room for a copy");
    }
    std::fs::canonicalize(path).expect("it is there")
}

#[track_caller]
fn palisade_with(rack: &TestRack, words: &[&str], binary: &Path) -> Ended {
    let (binary, data) = (binary.display().to_string(), rack.data().display().to_string());
    let rest = ["--binary", &binary, "--json", "--data-dir", &data];
    let args: Vec<&str> = words.iter().copied().chain(rest).collect();
    run(palisade(), &args, SOON)
}

fn node(rack: &TestRack, name: &str) -> Value {
    let status = rack.status();
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).expect("the node").clone()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"))
}

#[test]
fn ef28_a_whole_rack_becomes_another_binary_under_verified_load() {
    let mut rack = rack(|text| text);
    let binary = other_binary(&rack);
    let load = Load::start(&rack);
    rack.wait_for("the load writes", SOON, |status| {
        volume(status)["counters"]["writes"].as_u64() > Some(100)
    });
    let control = rack.pid();
    let said = json(&palisade_with(&rack, &["rack", "upgrade"], &binary).good().out);
    let said = said.as_array().expect("a list");
    let names: Vec<&str> = said.iter().filter_map(|one| one["node"].as_str()).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert!(names[..6].iter().all(|name| name.starts_with("sled-")), "sleds first: {names:?}");
    assert_eq!(names[9], "control");
    load.good_end(&rack);
    let status = rack.status();
    for node in status["nodes"].as_array().expect("nodes") {
        assert_eq!(
            (&node["binary"], &node["state"]),
            (&binary.display().to_string().into(), &"ready".into()),
            "{node}"
        );
    }
    assert_eq!(status["control"]["binary"], binary.display().to_string());
    assert_eq!(status["pid"], control, "control is the same process");
    // Heads that served or followed cost somebody time, and it is said how much.
    for one in said {
        let name = one["node"].as_str().expect("a name");
        let pauses = one["pauses"].as_array().expect("a list");
        let longest = pauses.iter().filter_map(|pause| pause["pause_us"].as_u64()).max();
        eprintln!("{name}: longest pause {longest:?} us of {}", pauses.len());
    }
    let paused = |name: &&Value| !name["pauses"].as_array().expect("a list").is_empty();
    assert!(said.iter().any(|one| paused(&one)), "a role moved: {said:?}");
    whole(&rack);
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn a_binary_that_starts_and_never_gets_well_is_rolled_back_when_its_time_is_over() {
    let mut rack = rack(|text| text.replacen("[timers]\n", "[timers]\ntrial_ms = 3000\n", 1));
    let load = Load::start(&rack);
    let primary = volume(&rack.status())["primary"].as_str().expect("a name").to_owned();
    let (head, sled) = (node(&rack, &primary), node(&rack, "sled-3"));
    let program = palisade().display().to_string();
    let path = rack.path("sleeping");
    let text = format!("#!/bin/sh\ncase \"$1\" in node) exec sleep 1000;; esac\nexec {program} \"$@\"\n");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    let sleeping = std::fs::canonicalize(path).expect("it is there");
    for before in [&sled, &head] {
        let name = before["name"].as_str().expect("a name");
        let ended = palisade_with(&rack, &["node", "upgrade", name], &sleeping);
        assert_eq!(ended.code, Some(1), "{}", ended.out);
        assert!(ended.err.contains("was rolled back"), "{}\n{}", ended.err, rack.log());
        let after = node(&rack, name);
        assert_eq!((&after["binary"], &after["state"]), (&before["binary"], &"ready".into()), "{after}");
        assert_ne!(after["pid"], before["pid"]);
        let told = format!("node {name} as {} was not ready within 3s", sleeping.display());
        assert!(rack.log().contains(&told), "`{told}` in {}", rack.log());
    }
    // A whole rack ends at the first node that does not come up, and says how far it came.
    let ended = palisade_with(&rack, &["rack", "upgrade"], &sleeping);
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert!(
        ended.err.contains("0 of 9 nodes are upgraded") && ended.err.contains("rolled back"),
        "{}",
        ended.err
    );
    whole(&rack);
    load.good_end(&rack);
    assert!(rack.stop().success(), "{}", rack.log());
}

#[test]
fn ef24_every_control_plane_under_a_lease_becomes_another_binary_and_no_io_waits() {
    let Some(cluster) = Cluster::start(1) else { return };
    let keys = format!("store = \"etcd\"\nlease_ms = 3000\nendpoints = [{}]\n", cluster.quoted());
    let mut rack = rack(|text| text.replacen("[control]\n", &format!("[control]\n{keys}"), 1));
    let binary = other_binary(&rack);
    let load = Load::start(&rack);
    // Alone it takes its own lease again.
    let said = json(&palisade_with(&rack, &["node", "upgrade", "control"], &binary).good().out);
    assert_eq!(
        (&said[0]["pid"], &said[0]["pauses"]),
        (&rack.pid().into(), &Value::Array(Vec::new())),
        "{said}"
    );
    assert_eq!(rack.status()["control"]["binary"], binary.display().to_string());
    // With one that stands by the lease moves; both become the binary of before.
    let before = std::fs::canonicalize(palisade()).expect("it is there");
    let log = std::fs::File::options().append(true).open(rack.path("up.log")).expect("a log");
    let mut other = Command::new(&binary)
        .arg("control")
        .arg(rack.file())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(Duration::from_secs(1));
    palisade_with(&rack, &["node", "upgrade", "control"], &before).good();
    let status = rack.status();
    assert_eq!(status["control"]["binary"], before.display().to_string());
    let serves = status["pid"].as_u64().expect("a number") as u32;
    assert!([rack.pid(), other.id()].contains(&serves), "{serves}");
    // It decides, and its children are looked after.
    rack.cli(&["volume", "failover", "vol0"]).good();
    whole(&rack);
    let pid = rack.node_pid("sled-2");
    signal(pid, Signal::KILL);
    rack.wait_for("the sled is started again", SOON, |status| {
        let mut nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes.any(|node| node["name"] == "sled-2" && node["state"] == "ready" && node["pid"] != pid)
    });
    load.good_end(&rack);
    other.kill().expect("killed");
    other.wait().expect("waited for");
    assert!(rack.stop().success(), "{}", rack.log());
}
