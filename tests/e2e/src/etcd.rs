//! An etcd of one or several members for tests, on free ports with its data in memory where the host has it;
//! members can be killed, stopped and brought back. All of it ends with the value.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long members may take to come up and elect a leader.
const START: Duration = Duration::from_secs(60);

/// A member.
struct Member {
    name: String,
    client: u16,
    peer: u16,
    child: Option<Child>,
}

/// A cluster.
pub struct Cluster {
    members: Vec<Member>,
    dir: tempfile::TempDir,
}

fn free_ports(count: usize) -> Vec<u16> {
    // All of them are held at the same time, so that no two are the same.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

/// Posts JSON and gives the answer's body; none when nobody answers whole and in time.
pub fn post(port: u16, path: &str, body: &str) -> Option<String> {
    let mut stream =
        TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (status, rest) = answer.split_once("\r\n")?;
    status.contains(" 200").then(|| rest.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()))?
}

impl Cluster {
    /// Starts `count` members and waits until they have a leader. None, said aloud, without etcd on the host.
    pub fn start(count: usize) -> Option<Self> {
        let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: this host has no etcd; scripts/deps.sh installs it");
            return None;
        }
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.expect("temporary directory");
        let ports = free_ports(2 * count);
        let member = |index: usize| Member {
            name: format!("m{index}"),
            client: ports[2 * index],
            peer: ports[2 * index + 1],
            child: None,
        };
        let mut cluster = Self { members: (0..count).map(member).collect(), dir };
        for index in 0..count {
            cluster.restart(index);
        }
        cluster.wait_leader();
        Some(cluster)
    }

    /// Where clients are served, one URL a member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("http://127.0.0.1:{}", member.client)).collect()
    }

    /// `"http://127.0.0.1:1", "http://127.0.0.1:2"`, as a rack file lists them.
    pub fn quoted(&self) -> String {
        let quoted: Vec<String> = self.endpoints().iter().map(|url| format!("\"{url}\"")).collect();
        quoted.join(", ")
    }

    /// Starts a member, with what it had when it was killed.
    pub fn restart(&mut self, index: usize) {
        let peers: Vec<String> =
            self.members.iter().map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer)).collect();
        let member = &mut self.members[index];
        let (client, peer) =
            (format!("http://127.0.0.1:{}", member.client), format!("http://127.0.0.1:{}", member.peer));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.dir.path().join(&member.name)).args([
            "--name",
            &member.name,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &peers.join(","),
        ]);
        command.args(["--logger", "zap", "--log-level", "fatal"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        member.child = Some(child.expect("etcd starts"));
    }

    /// Kills a member, as a power cut would.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().expect("killed");
            child.wait().expect("waited for");
        }
    }

    /// Kills every member.
    pub fn kill_all(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }

    /// The member that leads, as the living ones say.
    pub fn leader(&self) -> Option<usize> {
        let field = |text: &str, name: &str| -> Option<String> {
            let rest = text.split_once(&format!("\"{name}\":\""))?.1;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let said: Vec<Option<String>> = self
            .members
            .iter()
            .map(|member| {
                member.child.as_ref().and_then(|_| post(member.client, "/v3/maintenance/status", "{}"))
            })
            .collect();
        let leader = said.iter().flatten().find_map(|text| field(text, "leader"))?;
        said.iter().position(|text| {
            text.as_ref().and_then(|text| field(text, "member_id")).is_some_and(|id| id == leader)
        })
    }

    /// Waits until there is a leader, and says which.
    pub fn wait_leader(&self) -> usize {
        let end = Instant::now() + START;
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            assert!(Instant::now() < end, "etcd has no leader in {START:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}
