//! A client in a network namespace of its own, whose only link to the heads is really cut, under verified load: no
//! packet passes, nobody is told. It goes on where it was, or connects anew, and nothing is wrong (MA-11, MA-12, P-11).

use palisade_e2e::binary::palisade;
use palisade_e2e::clients::run;
use palisade_e2e::rack::{Shape, TestRack, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
/// Pictures of the rack are no older than this.
const SETTLED: Duration = Duration::from_secs(3);
/// Makes the rack's end of the link, and becomes the rack.
const SETUP: &str = "ip link set lo up && ip link add r0 type veth peer name c0 && \
                     ip addr add 10.88.0.1/24 dev r0 && ip link set r0 up && exec \"$@\"";

/// A rack in one namespace and the host of its client in another, with a link between them.
struct Scene {
    rack: TestRack,
    host: Child,
}

impl Scene {
    /// None, said aloud, where the machine allows no namespaces or links.
    fn start() -> Option<Self> {
        let probe = ["-n", "sh", "-c", "ip link add r0 type veth peer name c0"];
        if !Command::new("unshare").args(probe).status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: this host allows no network namespaces or no veth links");
            return None;
        }
        let mut rack = TestRack::new(&Shape { fabric: true, failover: true, ..Shape::default() });
        let mut text = std::fs::read_to_string(rack.file()).expect("the rack file");
        for head in 1..=3 {
            let (unix, tcp) = (format!("unix:head-{head}.sock"), format!("10.88.0.1:{}", 10_808 + head));
            text = text.replacen(&unix, &tcp, 1);
        }
        std::fs::write(rack.file(), text).expect("room for a rack file");
        rack.start_by(&["unshare", "-n", "sh", "-c", SETUP, "sh"], &["--processes"]);
        rack.wait_for("a whole pair", SOON, |status| {
            let volume = &status["volumes"][0];
            volume["state"] == "serving" && volume["peer_away"] == false && volume["joining"] == false
        });
        let host = Command::new("unshare").args(["-n", "sleep", "3600"]).spawn().expect("a namespace");
        let scene = Self { rack, host };
        // Until it has unshared, its process is in the namespace of this one.
        let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default();
        while of(scene.host.id()) == own {
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = scene.host.id().to_string();
        scene.at_rack(&format!("link set c0 netns {pid}"));
        scene.at_client("addr add 10.88.0.2/24 dev c0");
        scene.at_client("link set c0 up");
        Some(scene)
    }

    #[track_caller]
    fn at_rack(&self, words: &str) {
        ip(self.rack.pid(), words);
    }

    #[track_caller]
    fn at_client(&self, words: &str) {
        ip(self.host.id(), words);
    }

    /// Verified load from the client's host, by both addresses, until it is told to end.
    fn load(&self) -> Child {
        let pid = self.host.id().to_string();
        let status = self.rack.status();
        let [first, second] =
            [0, 1].map(|at| status["volumes"][0]["addresses"][at].as_str().expect("an address").to_owned());
        assert!(first.contains("10.88.0.1"), "{first}");
        Command::new("nsenter")
            .args(["-t", &pid, "-n"])
            .arg(palisade())
            .args(["perf", "run", &first, "--also", &second, "--verify", "--json", "--quiet"])
            .args([
                "--read",
                "40",
                "--depth",
                "16",
                "--region",
                "4m",
                "--reconnect",
                "120",
                "--seconds",
                "900",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the generator starts")
    }

    fn served(&self) -> u64 {
        self.rack.counter("writes") + self.rack.counter("reads")
    }

    /// Waits until the client was served more.
    #[track_caller]
    fn goes_on(&self) {
        // Pictures are about a second old: those of before the cut are over.
        std::thread::sleep(Duration::from_millis(1500));
        let before = self.served();
        self.rack.wait_for("I/O goes on", SOON, |status| {
            let count = |name: &str| status["volumes"][0]["counters"][name].as_u64().unwrap_or(0);
            count("writes") + count("reads") > before + 200
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ended = self.host.kill();
        let _reaped = self.host.wait();
    }
}

/// Runs `ip` in the namespace of a process.
#[track_caller]
fn ip(pid: u32, words: &str) {
    let pid = pid.to_string();
    let all: Vec<&str> = ["-t", &pid, "-n", "ip"].into_iter().chain(words.split(' ')).collect();
    run("nsenter", &all, SOON).good();
}

#[test]
fn ma11_a_client_whose_link_is_cut_goes_on_and_finds_nothing_wrong() {
    let Some(mut scene) = Scene::start() else { return };
    let mut load = scene.load();
    scene.goes_on();
    // Shorter than the client's patience, longer than it, and longer than the heads keep a silent connection.
    for cut in [Duration::from_millis(700), Duration::from_secs(5), Duration::from_secs(14)] {
        scene.at_client("link set c0 down");
        std::thread::sleep(cut.min(SETTLED));
        let quiet = scene.served();
        std::thread::sleep(cut.saturating_sub(SETTLED));
        if cut > SETTLED {
            assert_eq!(scene.served(), quiet, "nothing passes a cut link");
        }
        scene.at_client("link set c0 up");
        scene.goes_on();
    }
    // What is lost at random is only sent again.
    scene.at_rack("link set r0 down");
    scene.at_rack("link set r0 up");
    scene.goes_on();
    assert!(load.try_wait().expect("a child").is_none(), "it ended early\n{}", scene.rack.log());
    signal(load.id(), Signal::INT);
    let mut text = String::new();
    load.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    let status = load.wait().expect("the generator ends");
    assert!(status.success(), "{status}: {text}\n{}", scene.rack.log());
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}"));
    assert_eq!((&found["errors"], &found["wrong"]), (&0.into(), &0.into()), "{found}");
    assert!(found["reconnects"].as_u64() >= Some(1), "it gave the silent connection up: {found}");
    assert!(found["compared_blocks"].as_u64() > Some(100), "{found}");
    eprintln!("{} reconnects, {} blocks compared", found["reconnects"], found["compared_blocks"]);
    assert!(scene.rack.stop().success(), "{}", scene.rack.log());
}
