//! A rack of its own: files in a temporary directory, one `palisade up` process.

use crate::binary::palisade;
use crate::clients::{Ended, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a rack may take until it serves.
const START: Duration = Duration::from_secs(180);
/// How long it may take to stop cleanly.
const STOP: Duration = Duration::from_secs(120);

/// The shape of a test rack.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Size of `vol0`.
    pub volume: &'static str,
    /// Size of each head's log.
    pub log: &'static str,
    /// Size of each sled's device.
    pub sled: &'static str,
    /// Number of sleds, each on a shelf of its own.
    pub sleds: usize,
    /// Fabric addresses, for racks of several processes.
    pub fabric: bool,
    /// Host addresses of two networks: each node has a fabric address on both (EF-31).
    pub networks: Option<[&'static str; 2]>,
    /// Devices may be made to fail while the rack runs.
    pub drills: bool,
    /// After how many milliseconds log data is flushed though the log is not full.
    pub flush_ms: u64,
    /// Bytes a second that each device scrubs.
    pub scrub: &'static str,
    /// Heads move roles by themselves.
    pub failover: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            volume: "128 MiB",
            log: "128 MiB",
            sled: "256 MiB",
            sleds: 6,
            fabric: false,
            networks: None,
            drills: false,
            flush_ms: 2000,
            scrub: "640 KiB",
            failover: false,
        }
    }
}

impl Shape {
    /// The rack file: 4+2 over the sleds, three heads, files below the data directory.
    pub fn text(&self, data: &Path) -> String {
        let mut text = format!(
            "[rack]\nname = \"e2e\"\ndata = \"{}\"\ndrills = {}\n\n[reactors]\ncores = [0, 1]\npool = \"64 MiB\"\n\
             huge_pages = \"never\"\n\n[timers]\nflush_ms = {}\n\n[limits]\nscrub = \"{}\"\n\n[code]\nk = 4\nm = 2\nunit = \"64 KiB\"\ncolumn = \"1 MiB\"\n",
            data.display(),
            self.drills,
            self.flush_ms,
            self.scrub
        );
        let mut port = free_port_range();
        let mut fabric = |text: &mut String| {
            if let Some([first, second]) = self.networks {
                let _ = writeln!(text, "fabric = [\"{first}:{port}\", \"{second}:{port}\"]");
                port += 1;
            } else if self.fabric {
                let _ = writeln!(text, "fabric = \"127.0.0.1:{port}\"");
                port += 1;
            }
        };
        for head in 1..=3 {
            let _ = writeln!(
                text,
                "\n[[head]]\nname = \"head-{head}\"\ncore = {}\nshelf = \"h{head}\"",
                head % 2
            );
            let _ = writeln!(text, "nbd = [\"unix:head-{head}.sock\"]");
            fabric(&mut text);
            let _ = writeln!(
                text,
                "log = {{ kind = \"file\", size = \"{}\", segment = \"1 MiB\", sparse = true }}",
                self.log
            );
        }
        for sled in 1..=self.sleds {
            let _ = writeln!(
                text,
                "\n[[sled]]\nname = \"sled-{sled}\"\ncore = {}\nshelf = \"s{sled}\"",
                sled % 2
            );
            fabric(&mut text);
            let _ =
                writeln!(text, "[[sled.device]]\nkind = \"file\"\nsize = \"{}\"\nsparse = true", self.sled);
        }
        let _ = writeln!(
            text,
            "\n[[volume]]\nname = \"vol0\"\nsize = \"{}\"\nprimary = \"head-1\"\nsecondary = \"head-2\"",
            self.volume
        );
        if self.failover {
            text = text.replacen("[timers]\n", "[control]\nfailover = \"auto\"\n\n[timers]\n", 1);
        }
        text
    }
}

/// The first of some ports that nobody uses now.
fn free_port_range() -> u16 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("bound").port();
    port.min(u16::MAX - 16)
}

/// A rack and its process.
pub struct TestRack {
    dir: TempDir,
    child: Option<Child>,
    ready: String,
}

impl TestRack {
    /// Writes the rack file; nothing runs yet.
    pub fn new(shape: &Shape) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let rack = Self { dir, child: None, ready: String::new() };
        std::fs::write(rack.file(), shape.text(&rack.data())).expect("room for a rack file");
        rack
    }

    /// A rack that serves.
    pub fn up(shape: &Shape) -> Self {
        let mut rack = Self::new(shape);
        rack.start(&[]);
        rack
    }

    /// The directory of everything.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The rack file.
    pub fn file(&self) -> PathBuf {
        self.path("rack.toml")
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The log file of a head, counted from 1.
    pub fn log_file(&self, head: usize) -> PathBuf {
        self.data().join(format!("head-{head}")).join("log")
    }

    /// The device file of a sled, counted from 1.
    pub fn sled_file(&self, sled: usize) -> PathBuf {
        self.data().join(format!("sled-{sled}")).join("0")
    }

    /// What the processes wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    /// The ready file's text.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// Starts `palisade up` and waits until it serves.
    ///
    /// # Panics
    /// With the log, when it ends or does not serve in time.
    #[track_caller]
    pub fn start(&mut self, more: &[&str]) {
        self.start_by(&[], more);
    }

    /// The same by another program, which is given the command line and becomes it.
    ///
    /// # Panics
    /// As [`TestRack::start`].
    #[track_caller]
    pub fn start_by(&mut self, by: &[&str], more: &[&str]) {
        assert!(self.child.is_none(), "the rack runs already");
        let ready = self.path("ready");
        let _stale = std::fs::remove_file(&ready);
        let log = File::options().create(true).append(true).open(self.path("up.log")).expect("a log file");
        let mut command = match by.split_first() {
            None => Command::new(palisade()),
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(palisade());
                command
            }
        };
        command.arg("up").arg(self.file()).arg("--ready-file").arg(&ready).args(more);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let mut child = command.spawn().expect("the binary starts");
        let begin = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(&ready)
                && text.ends_with('\n')
            {
                self.ready = text;
                break;
            }
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                panic!("the rack ended while starting: {status}\n{}", self.log());
            }
            if begin.elapsed() > START {
                let _gone = child.kill();
                panic!("the rack does not serve after {START:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child = Some(child);
    }

    /// Where a volume is, by the ready file.
    ///
    /// # Panics
    /// When the ready file does not name it.
    #[track_caller]
    pub fn uri(&self, volume: &str) -> String {
        let line = self.ready.lines().find(|line| line.split_whitespace().nth(1) == Some(volume));
        let line = line.unwrap_or_else(|| panic!("no volume {volume} in:\n{}", self.ready));
        let uri = line.split_whitespace().find(|word| word.starts_with("nbd"));
        uri.unwrap_or_else(|| panic!("no address in: {line}")).to_owned()
    }

    /// Kills every process of the rack at once, as a lost host would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the rack runs");
        for pid in descendants(child.id()) {
            signal(pid, Signal::KILL);
        }
        let _gone = child.kill();
        let _reaped = child.wait();
    }

    /// Asks for a clean end and waits for it.
    ///
    /// # Panics
    /// When it does not come in time.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the rack runs");
        signal(child.id(), Signal::TERM);
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return status;
            }
            if begin.elapsed() > STOP {
                let _gone = child.kill();
                let _reaped = child.wait();
                panic!("no clean end within {STOP:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process id of `palisade up`.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the rack runs").id()
    }

    /// Runs `palisade ARGS --data-dir DATA`.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Ended {
        let data = self.data().display().to_string();
        let all: Vec<&str> = args.iter().copied().chain(["--data-dir", &data]).collect();
        run(palisade(), &all, Duration::from_secs(90))
    }

    /// `palisade status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let text = self.cli(&["status", "--json"]).good().out;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("status is no JSON: {e}\n{text}"))
    }

    /// A counter of the primary of `vol0`, by its status; 0 when it was not counted yet.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["volumes"][0]["counters"][name].as_u64().unwrap_or(0)
    }

    /// Waits until the status is as wanted; pictures are about a second old.
    ///
    /// # Panics
    /// With the status and the log, when it does not come to be so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, mut wanted: impl FnMut(&Value) -> bool) {
        let begin = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(begin.elapsed() < limit, "not within {limit:?}: {what}\n{status:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether an event of the status, or of the log, contains `what`.
    #[track_caller]
    pub fn told(&self, what: &str) -> bool {
        let status = self.status();
        let mut events = status["events"].as_array().into_iter().flatten();
        events.any(|event| event["what"].as_str().is_some_and(|text| text.contains(what)))
            || self.log().contains(what)
    }

    /// The process id of a node, by its status.
    #[track_caller]
    pub fn node_pid(&self, name: &str) -> u32 {
        let status = self.status();
        let nodes = status["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|node| node["name"] == name);
        let pid = node.and_then(|node| node["pid"].as_u64());
        pid.unwrap_or_else(|| panic!("no pid of {name} in {status}")) as u32
    }

    /// Runs `palisade perf run` on a volume.
    #[track_caller]
    pub fn perf(&self, volume: &str, args: &[&str], limit: Duration) -> Ended {
        let uri = self.uri(volume);
        let all: Vec<&str> =
            ["perf", "run", &uri, "--quiet"].into_iter().chain(args.iter().copied()).collect();
        run(palisade(), &all, limit)
    }
}

impl Drop for TestRack {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("the rack's log:\n{}", self.log());
        }
    }
}

/// Sends a signal; a process that is gone does not mind.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _gone = kill_process(pid, signal);
    }
}

/// Processes below one, by /proc.
fn descendants(root: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = after.split_whitespace().nth(1).and_then(|p| p.parse().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}
