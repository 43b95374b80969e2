//! The rack of a drill: a rack file in a directory of its own, real processes, and what hurts them.

use super::rpc;
use super::{FaultArgs, Trouble};
use crate::bench::command::{Kept, exists};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a rack may take until it serves, or to become what a drill waits for.
const SOON: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The same where speeds are measured: control has no core of its own, and looks take time from reactors.
const LOOK_LARGE: Duration = Duration::from_millis(100);
/// Addresses of the two networks, where a drill cuts them.
pub(super) const HOSTS: [&str; 2] = ["10.77.1.1", "10.77.2.1"];
/// Gives a network namespace the addresses in `$1`, and makes room for rules before the local table.
const NETWORKS: &str = "ip link set lo up && ip rule add pref 10 lookup local && ip rule del pref 0 && \
                        for host in $1; do ip addr add $host/32 dev lo || exit 1; done; shift; exec \"$@\"";
/// Mounts a small disk on `$1`, seen by the rack alone.
const SMALL_DISK: &str = "mount -t tmpfs -o size=$2 drill \"$1\" && shift 2 && exec \"$@\"";

/// What a drill needs of its rack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// `wait` or `local`.
    pub(super) solo: &'static str,
    /// Two networks in a namespace of the rack's own.
    pub(super) networks: bool,
    /// Control is a process of its own, and this process keeps the nodes.
    pub(super) apart: bool,
    /// The node whose files lie on a small disk, and the size of that.
    pub(super) small_disk: Option<(&'static str, &'static str)>,
    /// Sleds.
    pub(super) sleds: usize,
    /// The volume has a third member: what two hold is acknowledged when one dies.
    pub(super) reserve: bool,
    /// A volume of two gibibytes in columns of 8 MiB, all nodes in one process, where speeds are measured and not pauses:
    /// ten processes on two cores show what the kernel's scheduler does.
    pub(super) large: bool,
    /// Scrub, bytes a second of each device.
    pub(super) scrub: &'static str,
    /// Size of each head's log.
    pub(super) log: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            solo: "wait",
            networks: false,
            apart: false,
            small_disk: None,
            sleds: 7,
            reserve: false,
            large: false,
            scrub: "640 KiB",
            log: "128 MiB",
        }
    }
}

impl Shape {
    fn nodes(&self) -> Vec<String> {
        let sleds = (1..=self.sleds).map(|sled| format!("sled-{sled}"));
        let heads = if self.reserve { 3 } else { 2 };
        sleds.chain((1..=heads).map(|head| format!("head-{head}"))).collect()
    }

    /// Bytes of the volume; of a device and a column, in MiB.
    fn sizes(&self) -> (u64, [u32; 2]) {
        if self.large { (2 << 30, [1024, 8]) } else { (128 << 20, [256, 1]) }
    }

    /// Bytes of the volume.
    pub(super) fn volume_bytes(&self) -> u64 {
        self.sizes().0
    }

    /// The rack file: default timers, roles that move by themselves.
    fn text(&self, data: &Path, first_port: u16) -> String {
        let (volume, [device, column]) = self.sizes();
        let log = if self.large { "512 MiB" } else { self.log };
        // Disks are filled below the files of drills; where speed is measured, files have their blocks as usual.
        let sparse = !self.large;
        let mut text = format!(
            "[rack]\nname = \"drill\"\ndata = \"{}\"\ndrills = true\n\n[control]\nfailover = \"auto\"\n\n[reactors]\n\
             cores = [0, 1]\npool = \"64 MiB\"\nhuge_pages = \"never\"\n\n[limits]\nscrub = \"{}\"\n\n\
             [code]\nk = 4\nm = 2\nunit = \"64 KiB\"\ncolumn = \"{column} MiB\"\n",
            data.display(),
            self.scrub
        );
        for (at, name) in self.nodes().iter().enumerate() {
            let (port, head) = (first_port + at as u16, name.starts_with("head"));
            let kind = if head { "head" } else { "sled" };
            let _ = writeln!(text, "\n[[{kind}]]\nname = \"{name}\"\ncore = {}\nshelf = \"{name}\"", at % 2);
            let _ = match self.networks {
                true => writeln!(text, "fabric = [\"{}:{port}\", \"{}:{port}\"]", HOSTS[0], HOSTS[1]),
                false => writeln!(text, "fabric = \"127.0.0.1:{port}\""),
            };
            let _ = match head {
                true => writeln!(
                    text,
                    "nbd = [\"unix:{name}.sock\"]\nlog = {{ kind = \"file\", size = \"{log}\", segment = \"1 MiB\", sparse = {sparse} }}"
                ),
                false => {
                    writeln!(
                        text,
                        "[[sled.device]]\nkind = \"file\"\nsize = \"{device} MiB\"\nsparse = {sparse}"
                    )
                }
            };
        }
        let _ = writeln!(
            text,
            "\n[[volume]]\nname = \"vol0\"\nsize = \"{} MiB\"\nprimary = \"head-1\"\nsecondary = \"head-2\"\n\
             solo = \"{}\"",
            volume >> 20,
            self.solo
        );
        if self.reserve {
            text.push_str("reserves = [\"head-3\"]\n");
        }
        text
    }
}

/// The first of some ports that nobody uses now.
fn free_ports() -> Result<u16, String> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    Ok(socket.map_err(|e| format!("no free port: {e}"))?.port().min(u16::MAX - 64))
}

/// A running rack; everything of it goes when it is dropped.
pub(super) struct DrillRack {
    folder: PathBuf,
    binary: PathBuf,
    first_port: u16,
    shape: Shape,
    keep: bool,
    up: Option<Kept>,
    /// Kept by this process, where control is apart: name and process.
    own: Vec<(String, Kept)>,
}

impl DrillRack {
    /// Starts a rack and waits until it serves.
    pub(super) fn start(args: &FaultArgs, shape: Shape) -> Result<Self, Trouble> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = args.folder().join(format!("palisade-drill-{}-{count}", std::process::id()));
        std::fs::create_dir_all(folder.join("data")).map_err(|e| format!("{}: {e}", folder.display()))?;
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let binary = args.palisade.clone().unwrap_or(own);
        let first_port = free_ports()?;
        let mut rack = Self { folder, binary, first_port, shape, keep: args.keep, up: None, own: Vec::new() };
        let text = shape.text(&rack.data(), first_port);
        std::fs::write(rack.file(), text).map_err(|e| format!("{}: {e}", rack.file().display()))?;
        if shape.apart {
            rack.start_apart()?;
        } else {
            rack.up = Some(Kept(rack.spawn(rack.up_command()?)?));
        }
        rack.wait("the rack serves", |status| status["ready"] == true)?;
        rack.whole()?;
        Ok(rack)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("rack.toml")
    }

    /// The data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn up_command(&self) -> Result<Command, Trouble> {
        let script = match self.shape {
            Shape { networks: true, .. } => Some(("-n", NETWORKS, vec![HOSTS.join(" ")])),
            Shape { small_disk: Some((node, size)), .. } => {
                let on = self.data().join(node);
                std::fs::create_dir_all(&on).map_err(|e| format!("{}: {e}", on.display()))?;
                Some(("-m", SMALL_DISK, vec![on.display().to_string(), size.to_owned()]))
            }
            _ => None,
        };
        let mut command = match script {
            None => Command::new(&self.binary),
            Some((kind, script, words)) => {
                allowed(kind)?;
                let mut command = Command::new("unshare");
                command.args([kind, "sh", "-c", script, "sh"]).args(words).arg(&self.binary);
                command
            }
        };
        command.arg("up").arg(self.file());
        if !self.shape.large {
            command.arg("--processes");
        }
        Ok(command)
    }

    fn spawn(&self, mut command: Command) -> Result<std::process::Child, Trouble> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.map_err(|e| format!("{}: {e}", self.folder.display()))?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        command.spawn().map_err(|e| Trouble::Failed(format!("{}: {e}", self.binary.display())))
    }

    /// Starts control alone, for a rack that is apart.
    pub(super) fn start_control(&mut self) -> Result<(), Trouble> {
        let mut command = Command::new(&self.binary);
        command.arg("control").arg(self.file());
        let child = self.spawn(command)?;
        self.own.push(("control".to_owned(), Kept(child)));
        Ok(())
    }

    fn start_apart(&mut self) -> Result<(), Trouble> {
        self.start_control()?;
        self.wait("control serves", |_| true)?;
        for name in self.shape.nodes() {
            let mut command = Command::new(&self.binary);
            command.arg("node").arg(self.file()).args(["--name", &name]);
            let child = self.spawn(command)?;
            self.own.push((name, Kept(child)));
        }
        Ok(())
    }

    /// Kills a process that this one keeps, and forgets it.
    pub(super) fn kill_own(&mut self, name: &str) -> Result<(), Trouble> {
        let at = self.own.iter().position(|(own, _)| own == name);
        let (_, kept) = self.own.remove(at.ok_or_else(|| format!("{name} is not kept here"))?);
        drop(kept);
        Ok(())
    }

    /// A call to control.
    pub(super) fn call(&self, method: &str, params: &Value) -> Result<Value, String> {
        rpc::call(&self.data().join("control.sock"), method, params)
    }

    /// The status.
    pub(super) fn status(&self) -> Result<Value, String> {
        self.call("rack.status", &json!({}))
    }

    /// Waits until the status is as wanted, and gives it.
    pub(super) fn wait(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Result<Value, Trouble> {
        let begin = Instant::now();
        loop {
            let status = self.status();
            if let Ok(status) = &status
                && wanted(status)
            {
                return Ok(status.clone());
            }
            if self.ended() {
                return Err(Trouble::Failed(format!("the rack ended before this: {what}{}", self.words())));
            }
            if begin.elapsed() > SOON {
                let found = status.map_or_else(|e| e, |status| in_short(&status["volumes"][0]));
                return Err(Trouble::Failed(format!("not within {SOON:?}: {what}; {found}{}", self.words())));
            }
            std::thread::sleep(if self.shape.large { LOOK_LARGE } else { LOOK });
        }
    }

    /// Whether the process of the whole rack is over, which no drill means to do.
    fn ended(&self) -> bool {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let over = |up: &Kept| waitid(WaitId::Pid(Pid::from_child(&up.0)), how);
        self.up.as_ref().is_some_and(|up| matches!(over(up), Ok(Some(_))))
    }

    /// The last words of the rack's processes.
    fn words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(4).collect();
        last.into_iter().rev().map(|line| format!("\n  {line}")).collect()
    }

    /// Waits until the volume is served by a whole pair: who leads, who follows.
    pub(super) fn whole(&self) -> Result<[String; 2], Trouble> {
        let reserves = usize::from(self.shape.reserve);
        let status = self.wait("the volume is served by a whole pair", |status| {
            let volume = &status["volumes"][0];
            volume["state"] == "serving"
                && volume["joining"] == false
                && volume["peer_away"] == false
                && volume["reserves"].as_array().map_or(0, Vec::len) == reserves
                && ["primary", "secondary"]
                    .iter()
                    .all(|role| volume[role].as_str().is_some_and(|n| !n.is_empty()))
        })?;
        let name = |role: &str| status["volumes"][0][role].as_str().unwrap_or_default().to_owned();
        Ok([name("primary"), name("secondary")])
    }

    /// Waits until another head than `old` serves the volume.
    pub(super) fn taken_over(&self, old: &str) -> Result<(), Trouble> {
        let elsewhere = |status: &Value| {
            let volume = &status["volumes"][0];
            volume["primary"] != old && volume["state"] == "serving"
        };
        self.wait("another head takes over", elsewhere).map(|_| ())
    }

    /// Waits until no extent lacks a column and every node is there.
    pub(super) fn protected(&self) -> Result<(), Trouble> {
        let protected = |status: &Value| {
            let nodes = status["nodes"].as_array();
            status["volumes"][0]["degraded"] == false
                && nodes.is_some_and(|nodes| nodes.iter().all(|node| node["state"] == "ready"))
        };
        self.wait("protection is whole", protected).map(|_| ())
    }

    /// Where the volume is, the primary's address first.
    pub(super) fn addresses(&self) -> Result<Vec<String>, String> {
        let status = self.status()?;
        let list = status["volumes"][0]["addresses"].as_array().cloned().unwrap_or_default();
        Ok(list.iter().filter_map(|address| address.as_str().map(str::to_owned)).collect())
    }

    /// Process of a node.
    pub(super) fn pid(&self, node: &str) -> Result<u32, Trouble> {
        let is = |entry: &&Value| entry["name"] == node;
        let status = self.wait("a process of the node", |status| {
            let nodes = status["nodes"].as_array();
            nodes.into_iter().flatten().find(is).is_some_and(|node| node["pid"].as_u64() > Some(0))
        })?;
        let nodes = status["nodes"].as_array();
        let pid = nodes.into_iter().flatten().find(is).and_then(|node| node["pid"].as_u64());
        Ok(pid.ok_or_else(|| format!("no process of {node}"))? as u32)
    }

    /// Waits until a node says of itself that it is in a state, for a reason that contains some words.
    pub(super) fn says(&self, node: &str, state: &str, why: &str) -> Result<(), Trouble> {
        let said = |status: &Value| {
            let nodes = status["nodes"].as_array();
            let node = nodes.into_iter().flatten().find(|entry| entry["name"] == node);
            node.is_some_and(|node| {
                node["state"] == state && node["why"].as_str().is_some_and(|said| said.contains(why))
            })
        };
        self.wait(&format!("{node} is {state}: {why}"), said).map(|_| ())
    }

    /// Waits until a device's state begins with some words.
    pub(super) fn device(&self, name: &str, state: &str) -> Result<(), Trouble> {
        let said = |status: &Value| {
            let devices = status["devices"].as_array();
            let device = devices.into_iter().flatten().find(|entry| entry["name"] == name);
            device.is_some_and(|device| device["state"].as_str().is_some_and(|said| said.starts_with(state)))
        };
        self.wait(&format!("{name} is {state}"), said).map(|_| ())
    }

    /// The file of a sled's device.
    pub(super) fn sled_file(&self, sled: &str) -> PathBuf {
        self.data().join(sled).join("0")
    }

    /// A path as the rack's processes see it, where they have a mount of their own.
    pub(super) fn inside(&self, path: &Path) -> Result<PathBuf, Trouble> {
        let up = self.up.as_ref().ok_or("no such process")?;
        let root = PathBuf::from(format!("/proc/{}/root", up.0.id()));
        Ok(root.join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// Runs `ip` in the rack's network namespace.
    pub(super) fn ip(&self, words: &str) -> Result<(), Trouble> {
        let pid = self.up.as_ref().ok_or("no such process")?.0.id().to_string();
        let status = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(words.split(' ')).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            other => Err(Trouble::Failed(format!("ip {words}: {other:?}"))),
        }
    }

    /// The fabric port of a node.
    pub(super) fn port(&self, node: &str) -> u16 {
        let at = self.shape.nodes().iter().position(|name| name == node).unwrap_or_default();
        self.first_port + at as u16
    }

    /// What happened at or after a time (milliseconds since 1970): when, and what.
    pub(super) fn events(&self, since_ms: u64) -> Result<Vec<(u64, String)>, String> {
        let events = self.call("events", &json!({}))?;
        let read = |event: &Value| {
            Some((
                event["time_ms"].as_u64()?,
                format!("{}: {}", event["node"].as_str()?, event["what"].as_str()?),
            ))
        };
        let all = events.as_array().into_iter().flatten().filter_map(read);
        Ok(all.filter(|(at, _)| *at >= since_ms).collect())
    }
}

impl Drop for DrillRack {
    fn drop(&mut self) {
        if let Some(up) = self.up.take() {
            for pid in descendants(up.0.id()) {
                signal(pid, Signal::KILL);
            }
        }
        self.own.clear();
        if !self.keep {
            let _leftover = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// What matters of a volume's state when something does not come about.
fn in_short(volume: &Value) -> String {
    let keys = ["state", "why", "primary", "secondary", "number", "joining", "peer_away", "degraded_extents"];
    let words: Vec<String> = keys.iter().map(|key| format!("{key} {}", volume[key])).collect();
    words.join(", ")
}

/// Whether this host allows a namespace of a kind (`-n`, `-m`).
fn allowed(kind: &str) -> Result<(), Trouble> {
    let tools = ["unshare", "nsenter", "ip", "mount"];
    if let Some(tool) = tools.iter().find(|tool| !exists(tool) && !Path::new("/usr/sbin").join(tool).exists())
    {
        return Err(Trouble::Skipped(format!("`{tool}` is not installed")));
    }
    let tried = Command::new("unshare").args([kind, "true"]).stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Trouble::Skipped(format!("this host allows no namespace (unshare {kind})"))),
    }
}

/// Sends a signal; a process that is gone does not mind.
pub(super) fn signal(pid: u32, signal: Signal) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rack_that_ends_before_it_serves_is_not_waited_for() {
        let args = FaultArgs { palisade: Some("/bin/false".into()), ..FaultArgs::of_bench(1) };
        let why = DrillRack::start(&args, Shape { large: true, ..Shape::default() }).err();
        assert!(matches!(&why, Some(Trouble::Failed(why)) if why.contains("the rack ended")), "{why:?}");
    }

    #[test]
    fn the_rack_file_names_every_node_once_with_a_port_of_its_own() {
        let shape = Shape { networks: true, solo: "local", ..Shape::default() };
        let text = shape.text(Path::new("/x"), 20_000);
        assert_eq!(text.matches("[[sled]]").count(), 7);
        assert_eq!(text.matches("[[head]]").count(), 2);
        for at in 0..9 {
            assert_eq!(text.matches(&format!(":{}\"", 20_000 + at)).count(), 2, "{text}");
        }
        assert!(text.contains("solo = \"local\"") && text.contains("failover = \"auto\""));
        let text = Shape { reserve: true, large: true, ..shape }.text(Path::new("/x"), 20_000);
        assert_eq!(text.matches("[[head]]").count(), 3);
        assert!(text.contains("reserves = [\"head-3\"]") && text.contains("size = \"1024 MiB\""));
    }
}
