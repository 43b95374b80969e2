//! A whole rack whose logs and sleds are controllers that its process drives: `palisade bind`, `check`, `up`, load that
//! is verified, kill -9, a clean end.

use palisade_guest::{LOGS, SLEDS, bind, block_device, driver};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a rack may take until it serves, or until it ended, in a machine that is emulated.
const LIMIT: Duration = Duration::from_secs(120);

fn palisade() -> Command {
    Command::new(std::env::var("PALISADE_BIN").expect("the machine says where it is"))
}

/// Runs a command to its end; how it ended, what it reported, and what it complained of.
fn run(command: &mut Command) -> (ExitStatus, String, String) {
    let out = command.output().expect("runs");
    let [said, complained] = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("{command:?}: {}: {said}{complained}", out.status);
    (out.status, said, complained)
}

fn controllers() -> impl Iterator<Item = &'static str> {
    LOGS.into_iter().chain(SLEDS)
}

/// Makes a controller blank: a rack leaves alone what is of another one, such as that of an earlier round.
fn wipe(address: &str) {
    bind(address, "nvme");
    let disk = File::options().write(true).open(block_device(address)).expect("the kernel's disk");
    disk.write_all_at(&vec![0; 4 << 20], 0).expect("written");
    disk.sync_all().expect("written");
}

/// Gives a controller to the kernel's driver, and by command from there to programs.
fn bind_by_command(address: &str) {
    bind(address, "nvme");
    block_device(address);
    let (status, ..) = run(palisade().args(["bind", address]));
    assert!(status.success());
    assert_eq!(driver(address).as_deref(), Some("vfio-pci"));
}

/// The rack file: three heads and 4+2 over six sleds, all on controllers.
fn text(data: &Path) -> String {
    let mut text = format!(
        "[rack]\nname = \"guest\"\ndata = \"{}\"\n\n[reactors]\ncores = [0, 1]\npool = \"64 MiB\"\n\n\
         [timers]\nflush_ms = 500\n\n[limits]\nhot_cache = \"4 MiB\"\n\n\
         [code]\nk = 4\nm = 2\nunit = \"64 KiB\"\ncolumn = \"1 MiB\"\n",
        data.display()
    );
    for (place, address) in LOGS.into_iter().enumerate() {
        let (head, core) = (place + 1, place % 2);
        let _ = write!(
            text,
            "\n[[head]]\nname = \"head-{head}\"\ncore = {core}\nshelf = \"h{head}\"\n\
             nbd = [\"unix:head-{head}.sock\"]\n\
             log = {{ kind = \"nvme\", address = \"{address}\", segment = \"1 MiB\" }}\n"
        );
    }
    for (place, address) in SLEDS.into_iter().enumerate() {
        let (sled, core) = (place + 1, place % 2);
        let _ = write!(
            text,
            "\n[[sled]]\nname = \"sled-{sled}\"\ncore = {core}\nshelf = \"s{sled}\"\n\
             [[sled.device]]\nkind = \"nvme\"\naddress = \"{address}\"\n"
        );
    }
    text + "\n[[volume]]\nname = \"vol0\"\nsize = \"64 MiB\"\nprimary = \"head-1\"\nsecondary = \"head-2\"\n"
}

/// A rack and its process.
struct Rack {
    dir: PathBuf,
    child: Option<Child>,
}

impl Rack {
    /// Writes the rack file to a directory that was not there.
    fn new(name: &str) -> Self {
        let dir = Path::new("/tmp").join(name);
        let _of_an_earlier_round = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("rack.toml"), text(&dir.join("data"))).expect("room for a rack file");
        Self { dir, child: None }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("up.log")).unwrap_or_default()
    }

    /// `palisade check`; whether it found no error, and its findings.
    fn check(&self) -> (bool, String) {
        let (status, said, complained) = run(palisade().args(["check", &self.path("rack.toml")]));
        (status.success(), said + &complained)
    }

    fn begin(&mut self) -> &mut Child {
        let _stale = fs::remove_file(self.dir.join("ready"));
        let log = File::options().create(true).append(true).open(self.dir.join("up.log")).expect("a log");
        let mut command = palisade();
        command.args(["up", &self.path("rack.toml"), "--ready-file", &self.path("ready")]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.child.insert(command.spawn().expect("runs"))
    }

    /// Starts the rack; returns when it serves.
    fn start(&mut self) {
        let end = Instant::now() + LIMIT;
        self.begin();
        while !fs::read_to_string(self.dir.join("ready")).is_ok_and(|text| text.ends_with('\n')) {
            let ended = self.child.as_mut().expect("runs").try_wait().expect("asked");
            assert_eq!(ended, None, "it ended while it was starting");
            assert!(Instant::now() < end, "it does not serve within {LIMIT:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        let mut child = self.child.take().expect("runs");
        loop {
            if let Some(status) = child.try_wait().expect("asked") {
                return status;
            }
            if Instant::now() >= end {
                child.kill().expect("killed");
                child.wait().expect("ended");
                panic!("it does not end within {LIMIT:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("runs"));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
        self.ended()
    }

    fn status(&self) -> serde_json::Value {
        let (status, said, _) = run(palisade().args(["status", "--json", "--data-dir", &self.path("data")]));
        assert!(status.success());
        serde_json::from_str(&said).expect("JSON")
    }

    /// Moves what the logs hold to the sleds; returns when each of them has written and has told so.
    fn flush(&self) {
        let (status, ..) =
            run(palisade().args(["volume", "flush", "vol0", "--wait", "--data-dir", &self.path("data")]));
        assert!(status.success());
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            let devices = status["devices"].as_array().expect("devices");
            let written = |device: &&serde_json::Value| {
                device["counters"]["bytes_written"].as_u64().is_some_and(|bytes| bytes > 1 << 20)
            };
            if devices.iter().filter(written).count() == SLEDS.len() {
                return;
            }
            assert!(Instant::now() < end, "{status:#}");
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// `palisade perf run` on the volume, which remembers what was acknowledged.
    fn perf(&self, args: &[&str]) -> Command {
        let ready = fs::read_to_string(self.dir.join("ready")).expect("it serves");
        let uri =
            ready.split_whitespace().find(|word| word.starts_with("nbd")).expect("an address").to_owned();
        let mut command = palisade();
        command.args(["perf", "run", &uri, "--quiet", "--json", "--region", "16m"]);
        command.args(["--state", &self.path("state")]).args(args);
        command
    }

    /// Runs load to its end, which must be good and have compared something.
    fn good(&self, args: &[&str]) {
        let (status, said, _) = run(&mut self.perf(args));
        assert!(status.success());
        let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!((&report["wrong"], &report["errors"]), (&0.into(), &0.into()), "{report}");
        assert!(report["compared_blocks"].as_u64().is_some_and(|count| count > 100), "{report}");
    }

    /// Reads everything that was acknowledged, and compares.
    fn verify(&self) {
        self.good(&["--verify-only"]);
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if thread::panicking() {
            println!("the rack's log:\n{}", self.log());
        }
    }
}

#[test]
#[ignore = "make guest"]
fn a_rack_on_controllers_keeps_what_it_acknowledged_over_kill_9() {
    controllers().for_each(wipe);
    controllers().for_each(bind_by_command);
    let mut rack = Rack::new("rack");
    let (good, said) = rack.check();
    assert!(good, "{said}");
    rack.start();
    let status = rack.status().to_string();
    for address in controllers() {
        assert!(status.contains(&format!("\"nvme {address} (polled)\"")), "{address}: {status}");
    }
    rack.good(&[
        "--read",
        "40",
        "--depth",
        "16",
        "--flush-every",
        "200",
        "--verify",
        "--seconds",
        "60",
        "--requests",
        "6000",
    ]);
    rack.flush();
    rack.verify();

    let mut load = rack.perf(&["--read", "40", "--depth", "16", "--flush-every", "200", "--seconds", "300"]);
    let mut child = load.stdout(Stdio::null()).spawn().expect("runs");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(child.try_wait().expect("asked"), None, "the load goes on");
    rack.kill();
    // 3: the target went away, and nothing was wrong before.
    assert_eq!(child.wait().expect("ended").code(), Some(3));
    rack.start();
    rack.verify();
    assert!(rack.stop().success());
    // After a clean end, too.
    rack.start();
    rack.verify();
    assert!(rack.stop().success());
}

#[test]
#[ignore = "make guest"]
fn a_controller_that_the_kernel_has_is_named_by_check_and_when_the_rack_starts() {
    for address in controllers() {
        bind(address, "vfio-pci");
    }
    let mut rack = Rack::new("unbound");
    for address in [LOGS[1], SLEDS[4]] {
        bind(address, "nvme");
        let disk = block_device(address);
        let (good, said) = rack.check();
        assert!(!good && said.contains(address) && said.contains("is with nvme"), "{said}");
        assert!(said.contains(&format!("palisade bind {address}")), "{said}");
        rack.begin();
        let status = rack.ended();
        let said = rack.log();
        assert!(!status.success() && said.contains(&format!("palisade bind {address}")), "{status}: {said}");
        assert_eq!(driver(address).as_deref(), Some("nvme"), "it stays where it is");
        assert!(disk.exists());
        bind_by_command(address);
    }
    let (good, said) = rack.check();
    assert!(good, "{said}");
}
