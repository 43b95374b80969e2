//! The servers of the NBD bench: ours and the peers, each on the server's core, stopped by a signal while
//! others are measured.

use super::command::{Kept, exists, output, pinned};
use super::skip;
use super::verdict::{Goal, Verdicts};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The rack's volume with log, replica, fence and code.
pub const FULL: &str = "palisade full path";
/// The rack's bare volume.
pub const BARE: &str = "palisade bare volume";
/// The ruler.
pub const SERVER: &str = "bare spinning server";
/// The ruler by TCP.
pub const SERVER_TCP: &str = "bare spinning server, TCP";
/// A peer.
pub const NBDKIT: &str = "nbdkit memory";
/// A peer.
pub const QEMU: &str = "qemu-storage-daemon";
/// Where the ruler listens by TCP.
const BARE_TCP: &str = "127.0.0.1:10899";
/// Bytes that every server serves.
pub const BYTES: u64 = 1 << 30;
/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(60);

/// A running server process.
pub struct Server {
    process: Kept,
}

/// An address on a server.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name in tables.
    pub name: String,
    /// Where, by unix socket.
    pub uri: String,
    /// Where by TCP, when it listens there too.
    pub tcp: Option<String>,
    /// Index of its process.
    pub server: usize,
}

impl Server {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.process.0.id() as i32) {
            let _gone = kill_process(pid, signal);
        }
    }

    /// Takes it off its core.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run again.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }
}

/// All servers that can run here, paused, and a folder for their sockets.
pub struct Servers {
    /// Processes.
    pub list: Vec<Server>,
    /// Exports.
    pub exports: Vec<Export>,
    tcp_server: Option<Export>,
    folder: PathBuf,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &self.list {
            server.resume(); // a stopped process takes no SIGTERM
        }
        self.list.clear();
        let _leftover = std::fs::remove_dir_all(&self.folder);
    }
}

impl Servers {
    /// Starts what can be started, says what cannot.
    pub fn start(rack: &Path) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("palisade-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut all = Self { list: Vec::new(), exports: Vec::new(), tcp_server: None, folder };
        for (name, start) in [
            ("palisade", Self::palisade as fn(&mut Self, &Path) -> Result<(), String>),
            ("bare server", Self::bare),
            (NBDKIT, Self::nbdkit),
            (QEMU, Self::qemu),
        ] {
            if let Err(why) = start(&mut all, rack) {
                skip(name, why);
            }
        }
        Ok(all)
    }

    fn add(&mut self, process: Kept, exports: Vec<(&str, String, Option<String>)>) {
        let server = Server { process };
        server.pause();
        for (name, uri, tcp) in exports {
            self.exports.push(Export { name: name.to_owned(), uri, tcp, server: self.list.len() });
        }
        self.list.push(server);
    }

    /// A file for what a peer has to say, which does not belong between the figures.
    fn log(&self, name: &str) -> Result<Stdio, String> {
        let path = self.folder.join(format!("{name}.log"));
        File::create(&path).map(Stdio::from).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Starts a peer, quietly, and waits until it listens.
    fn peer(&mut self, name: &'static str, mut command: Command, uri: String) -> Result<(), String> {
        let short = name.split(' ').next().unwrap_or(name);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log(short)?);
        let mut process = Kept(command.spawn().map_err(|e| e.to_string())?);
        wait_for(&mut process, || listening(&uri)).map_err(|e| {
            let log = std::fs::read_to_string(self.folder.join(format!("{short}.log"))).unwrap_or_default();
            format!("{e}; its last words: {}", log.lines().last().unwrap_or("none"))
        })?;
        self.add(process, vec![(name, uri, None)]);
        Ok(())
    }

    fn socket(&self, name: &str) -> (PathBuf, String) {
        let path = self.folder.join(format!("{name}.sock"));
        let uri = format!("nbd+unix:///{name}?socket={}", path.display());
        (path, uri)
    }

    /// The rack: its volumes by its status, `vol0` the full path and `bare0` the bare volume.
    fn palisade(&mut self, rack: &Path) -> Result<(), String> {
        let (process, _) = up(rack, &self.folder.join("data"), &self.folder)?;
        let status = self.status()?;
        let mut exports = Vec::new();
        for (volume, name) in [("vol0", FULL), ("bare0", BARE)] {
            let addresses = addresses(&status, volume);
            let tcp = addresses.iter().find(|a| a.starts_with("nbd://")).cloned();
            match addresses.into_iter().find(|a| a.starts_with("nbd+unix://")) {
                Some(uri) => exports.push((name, uri, tcp)),
                None => skip(name, format!("`{volume}` has no unix socket; the peers are compared by those")),
            }
        }
        self.add(process, exports);
        Ok(())
    }

    /// What the rack says about itself (it must not be paused).
    fn status(&self) -> Result<Value, String> {
        let mut command = Command::new(executable()?);
        command.args(["status", "--json", "--data-dir"]).arg(self.folder.join("data"));
        let text = output(command, Duration::from_secs(10))?;
        serde_json::from_str(&text).map_err(|e| format!("status: {e}"))
    }

    /// Bytes written to columns for each user byte that left the log, since the rack's start.
    pub fn flush_ratio(&self) -> Result<f64, String> {
        let server = self.exports.iter().find(|e| e.name == FULL).ok_or("the rack does not run")?.server;
        self.list[server].resume();
        let status = self.status();
        self.list[server].pause();
        let status = status?;
        let counter = |name: &str| {
            let counters = volume(&status, "vol0").and_then(|v| v.get("counters"));
            counters.and_then(|c| c.get(name)).and_then(Value::as_f64).unwrap_or(0.0)
        };
        let user = counter("flushed_bytes") + counter("collected_bytes");
        if user == 0.0 { Err("nothing was flushed".into()) } else { Ok(counter("column_bytes") / user) }
    }

    /// The ruler, by unix socket and a second one by TCP.
    fn bare(&mut self, _rack: &Path) -> Result<(), String> {
        let (path, unix) = self.socket("bare");
        let (tcp, listen) = (format!("nbd://{BARE_TCP}/bare"), format!("unix:{}", path.display()));
        for (name, listen, uri) in [(SERVER, listen.as_str(), unix), (SERVER_TCP, BARE_TCP, tcp)] {
            let mut command = pinned(None, &executable()?);
            command.args(["perf", "bare-nbd", "--core", "0", "--listen", listen]);
            command.args(["--size", &BYTES.to_string()]);
            self.peer(name, command, uri)?;
        }
        // The second one is not a server of its own in the tables, but the TCP side of the first.
        let second = self.exports.pop().ok_or("two were added")?;
        self.tcp_server = Some(second);
        Ok(())
    }

    /// What is compared by TCP: the rack's exports and the ruler.
    pub fn by_tcp(&self) -> Vec<Export> {
        let own = self.exports.iter().filter_map(|export| {
            let uri = export.tcp.clone()?;
            Some(Export { name: format!("{}, TCP", export.name), uri, tcp: None, server: export.server })
        });
        own.chain(self.tcp_server.clone()).collect()
    }

    fn nbdkit(&mut self, _rack: &Path) -> Result<(), String> {
        if !exists("nbdkit") {
            return Err("not installed (make deps)".into());
        }
        let (path, uri) = self.socket("nbdkit");
        let mut command = pinned(Some(0), "nbdkit");
        command.args(["--foreground", "--unix"]).arg(&path).args(["memory", &BYTES.to_string()]);
        self.peer(NBDKIT, command, uri)
    }

    fn qemu(&mut self, _rack: &Path) -> Result<(), String> {
        if !exists("qemu-storage-daemon") {
            return Err("not installed (package qemu-utils or qemu-system-common)".into());
        }
        let memory = Path::new("/dev/shm").join(format!("palisade-bench-{}.img", std::process::id()));
        let file = File::create(&memory).and_then(|f| f.set_len(BYTES).map(|()| f));
        file.map_err(|e| format!("{}: {e}", memory.display()))?;
        let (path, uri) = self.socket("qsd");
        let mut command = pinned(Some(0), "qemu-storage-daemon");
        let image = memory.display();
        command.args(["--blockdev", &format!("driver=file,node-name=f,filename={image},aio=io_uring")]);
        command.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", path.display())]);
        command.args(["--export", "type=nbd,id=e,node-name=f,name=qsd,writable=on"]);
        let started = self.peer(QEMU, command, uri);
        // The daemon holds the file open; its name is not needed any more.
        let _unlinked = std::fs::remove_file(&memory);
        started
    }
}

/// A volume in the rack's status.
fn volume<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let volumes = status.get("volumes")?.as_array()?;
    volumes.iter().find(|v| v.get("name").and_then(Value::as_str) == Some(name))
}

/// All addresses of a volume.
fn addresses(status: &Value, name: &str) -> Vec<String> {
    let list = volume(status, name).and_then(|v| v.get("addresses")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The path of this executable.
pub fn executable() -> Result<String, String> {
    std::env::current_exe().map(|p| p.display().to_string()).map_err(|e| e.to_string())
}

/// Starts `palisade up` and waits for its ready file.
fn up(rack: &Path, data: &Path, folder: &Path) -> Result<(Kept, String), String> {
    if !rack.exists() {
        return Err(format!("{} does not exist; run from the root of the repository", rack.display()));
    }
    let ready = folder.join("ready");
    let _stale = std::fs::remove_file(&ready);
    let log = File::create(folder.join("up.log")).map_err(|e| e.to_string())?;
    let mut command = pinned(None, &executable()?);
    command.arg("up").arg(rack).arg("--data-dir").arg(data).arg("--ready-file").arg(&ready);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut process = Kept(command.spawn().map_err(|e| e.to_string())?);
    let waited = wait_for(&mut process, || std::fs::metadata(&ready).is_ok_and(|m| m.len() > 0));
    let log = std::fs::read_to_string(folder.join("up.log")).unwrap_or_default();
    waited.map_err(|e| format!("{e}; its last words: {}", log.lines().last().unwrap_or("none")))?;
    let text = std::fs::read_to_string(&ready).map_err(|e| e.to_string())?;
    Ok((process, text))
}

fn listening(uri: &str) -> bool {
    use crate::nbd::stream::Stream;
    use crate::nbd::uri::Uri;
    Uri::parse(uri).is_ok_and(|uri| Stream::connect(&uri.place).is_ok())
}

fn wait_for(process: &mut Kept, mut ready: impl FnMut() -> bool) -> Result<(), String> {
    let begin = Instant::now();
    while begin.elapsed() < START {
        if ready() {
            return Ok(());
        }
        if let Ok(Some(status)) = process.0.try_wait() {
            return Err(format!("it ended at once: {status}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("not ready after {} s", START.as_secs()))
}

/// CPU time that an idle rack takes, in per cent of one core.
pub fn idle(rack: &Path, verdicts: &mut Verdicts) {
    const SETTLE: Duration = Duration::from_secs(3);
    const WATCH: Duration = Duration::from_secs(10);
    let measure = || -> Result<f64, String> {
        let folder = std::env::temp_dir().join(format!("palisade-idle-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        let result = up(rack, &folder.join("data"), &folder).and_then(|(process, _)| {
            std::thread::sleep(SETTLE);
            let before = cpu_ticks(process.0.id())?;
            std::thread::sleep(WATCH);
            let ticks = cpu_ticks(process.0.id())? - before;
            Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64 / WATCH.as_secs_f64() * 100.0)
        });
        let _leftover = std::fs::remove_dir_all(&folder);
        result
    };
    match measure() {
        Ok(percent) => {
            println!("idle rack: {percent:.2} % of one core over {} s", WATCH.as_secs());
            verdicts.add("idle rack, % of one core (issue: 2)", percent.max(0.001), Goal::AtMost(1.0));
        }
        Err(why) => skip("idle rack", why),
    }
}

/// User and system ticks of a process.
fn cpu_ticks(pid: u32) -> Result<u64, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| e.to_string())?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = after.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    match fields[..] {
        [user, system] => Ok(user + system),
        _ => Err(format!("/proc/{pid}/stat is not as expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volumes_addresses_are_found_in_the_status() {
        let text = r#"{"volumes":[{"name":"a","addresses":["nbd://h:1/a","nbd+unix:///a?socket=/s"]}]}"#;
        let status: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(addresses(&status, "a"), ["nbd://h:1/a", "nbd+unix:///a?socket=/s"]);
        assert!(addresses(&status, "b").is_empty());
    }

    #[test]
    fn the_cpu_time_of_a_process_is_read() {
        let before = cpu_ticks(std::process::id()).expect("this process");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        assert!(cpu_ticks(std::process::id()).expect("this process") > before);
        assert!(cpu_ticks(0).is_err());
    }
}
