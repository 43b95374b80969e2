//! What the tests of control as a whole share: a rack of the example file, calls on its socket, and heads
//! without a data plane, whose words are said by hand.

#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use palisade_control::agent::{Agent, AgentConfig, Command, Decision, Identity, Medium, NodeHello, Report};
use palisade_control::api::client::Client;
use palisade_control::api::status::Status;
use palisade_control::config::{self, Rack};
use palisade_control::report::{NodeReport, NodeState, PartitionReport, PathReport};
use palisade_protocol::wire::{Assignment, BootId, LogId, Member, NodeId};
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(90);

pub fn text() -> String {
    // Port 0 is not for rack files; the tests serve no metrics except where they say so.
    include_str!("../../../configs/one-box.toml").replace("metrics = \"127.0.0.1:9464\"", "")
}

pub fn rack(data: &Path) -> Rack {
    config::parse(&text(), Some(data)).rack
}

pub fn call(socket: &Path, method: &str, params: Value) -> Result<Value, String> {
    let mut client = Client::connect(socket).map_err(|error| error.to_string())?;
    client.call(method, params, PATIENCE).map_err(|error| error.to_string())
}

pub fn status(socket: &Path) -> Status {
    serde_json::from_value(call(socket, "rack.status", json!({})).expect("answered")).expect("a status")
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A head without a data plane.
pub struct FakeHead {
    pub agent: Agent,
    pub name: String,
    pub node: NodeId,
    pub boot: BootId,
    log: Cell<LogId>,
}

impl FakeHead {
    pub fn start(socket: &Path, name: &str, boot: u128) -> Self {
        let boot = BootId(boot);
        let config = AgentConfig {
            socket: socket.to_path_buf(),
            nodes: vec![NodeHello { name: name.to_owned(), boot }],
        };
        let (agent, admission) = Agent::join(config, PATIENCE).expect("admitted");
        let node = admission.nodes[0].node;
        let head = Self { agent, name: name.to_owned(), node, boot, log: Cell::new(LogId(0)) };
        head.become_ready();
        head
    }

    pub fn become_ready(&self) {
        let device = format!("{}/log", self.name);
        let medium = Medium::Ours { id: self.log() };
        let decision = match self.agent.decide(&device, &medium).expect("decided") {
            Decision::Refuse { .. } => self.agent.decide(&device, &Medium::Blank).expect("decided"),
            decision => decision,
        };
        let log = match decision {
            Decision::Format { id } => {
                self.agent.formatted(&device, id).expect("confirmed");
                id
            }
            Decision::Open { id } => id,
            other => panic!("{other:?}"),
        };
        let (node, boot) = (self.node, self.boot);
        self.log.set(LogId(log.0));
        let ready = Report::HeadReady { node, boot, log: LogId(log.0), held: Vec::new() };
        assert!(self.agent.reporter().send(ready));
    }

    /// The identity that the store knows, as the medium would carry it.
    pub fn log(&self) -> Identity {
        use palisade_control::agent::Known;
        match self.agent.admission().expect("admitted").nodes[0].devices[0].known {
            Known::Active { id } | Known::Formatting { id } => id,
            _ => Identity(0),
        }
    }

    pub fn next(&self) -> Command {
        self.agent.commands().recv_timeout(PATIENCE).expect("a command in time")
    }

    pub fn assignment(&self) -> Assignment {
        loop {
            if let Command::Assign { node, assignment, .. } = self.next() {
                assert_eq!(node, self.node);
                return assignment;
            }
        }
    }

    /// Waits until it is asked what its log holds of groups, and says that (P-04).
    pub fn tell(&self, groups: &[Assignment]) {
        loop {
            if let Command::Tell { node, ask } = self.next() {
                assert_eq!(node, self.node);
                let (boot, log, groups) = (self.boot, self.log.get(), groups.to_vec());
                assert!(self.agent.reporter().send(Report::Groups { node, boot, log, ask, groups }));
                return;
            }
        }
    }

    pub fn say_serving(&self, assignment: &Assignment, role: &str) {
        self.say_of(assignment, PartitionReport { role: role.to_owned(), ..PartitionReport::default() });
    }

    /// As a member of a group, whose log the agent knew when it joined.
    pub fn member(&self) -> Member {
        Member { head: self.node, log: self.log.get(), boot: self.boot }
    }

    /// It lives and serves nothing; `room` is that of its log.
    pub fn say_nothing_served(&self, room: Option<u64>) {
        let report = NodeReport {
            name: self.name.clone(),
            state: NodeState::Ready,
            log_room: room,
            ..NodeReport::default()
        };
        assert!(self.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }

    /// It says this of itself.
    pub fn say(&self, report: NodeReport) {
        let report = NodeReport { name: self.name.clone(), ..report };
        assert!(self.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }

    /// It says in what state its only network to another node is, and nothing of partitions.
    pub fn say_path(&self, to: NodeId, state: &str) {
        let path = PathReport { to: to.0, network: 1, state: state.to_owned(), ..PathReport::default() };
        let report = NodeReport {
            name: self.name.clone(),
            state: NodeState::Ready,
            paths: vec![path],
            ..NodeReport::default()
        };
        assert!(self.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }

    /// What it says of several partitions at once, each under its pair.
    pub fn say_all(&self, said: &[(&Assignment, PartitionReport)]) {
        let of = |(assignment, report): &(&Assignment, PartitionReport)| PartitionReport {
            partition: assignment.stamp.partition.0,
            epoch: assignment.stamp.number.epoch,
            counter: assignment.stamp.number.counter,
            ..report.clone()
        };
        let report = NodeReport {
            name: self.name.clone(),
            state: NodeState::Ready,
            partitions: said.iter().map(of).collect(),
            ..NodeReport::default()
        };
        assert!(self.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }

    /// What it says of the partition, under a pair.
    pub fn say_of(&self, assignment: &Assignment, said: PartitionReport) {
        let partition = PartitionReport {
            partition: assignment.stamp.partition.0,
            epoch: assignment.stamp.number.epoch,
            counter: assignment.stamp.number.counter,
            ..said
        };
        let report = NodeReport {
            name: self.name.clone(),
            state: NodeState::Ready,
            partitions: vec![partition],
            ..NodeReport::default()
        };
        assert!(self.agent.reporter().send(Report::Status { nodes: vec![report] }));
    }
}
