//! What node processes report to control: readiness, status with counters and histograms, events.
//! Never needed for correctness except `HeadReady` (which asks for numbers), `Propose` (which asks for another
//! group) and the answers.

use std::collections::BTreeMap;

use palisade_protocol::fabric::{PathState, PathStatus};
use palisade_protocol::head::{
    DeviceStatus, FillStatus, HeadStatus, MediumStatus, PartitionStatus, RoleState, STAGES,
};
use palisade_protocol::wire::{Assignment, BootId, DeviceId, LogId, NodeId, PartitionId, Proposal, Stamp};
use serde::{Deserialize, Serialize};

use crate::api::json;
use crate::metrics::HistSnapshot;

/// From a node process to control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// A head read its log and waits for numbers (P-01). Kept by the agent and said again after a
    /// reconnection.
    HeadReady {
        /// The head.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Its boot.
        #[serde(with = "json::uuid")]
        boot: BootId,
        /// Its log (P-03).
        #[serde(with = "json::uuid")]
        log: LogId,
        /// The pairs that its log holds: a number above what the store granted shows that the store was
        /// restored from an older copy (P-04).
        #[serde(with = "json::stamps")]
        held: Vec<Stamp>,
    },
    /// A sled read its devices and serves. Kept and said again as above.
    SledReady {
        /// The sled.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Its boot.
        #[serde(with = "json::uuid")]
        boot: BootId,
    },
    /// A picture of the process's nodes, about once a second.
    Status {
        /// One each.
        nodes: Vec<NodeReport>,
    },
    /// Something happened that people may want to know.
    Event {
        /// Where.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Whether it needs attention.
        warning: bool,
        /// What.
        what: String,
        /// The partition that it is about, if it is about one.
        #[serde(default)]
        partition: Option<u64>,
    },
    /// A head wants another group (MA-05); answered by `Command::Outcome`. Repeated by the head until then.
    Propose {
        /// The proposer.
        #[serde(with = "json::node")]
        node: NodeId,
        /// What it wants.
        #[serde(with = "json::proposal")]
        proposal: Proposal,
    },
    /// A flush ended; `error` says why not everything is in extents.
    Flushed {
        /// Of the command.
        tag: u64,
        /// None when all is well.
        error: Option<String>,
    },
    /// A drill is in force, or is not because of `error`.
    Drilled {
        /// Of the command.
        tag: u64,
        /// None when it is in force.
        error: Option<String>,
    },
    /// The node gives its place to another binary and will be back soon, or does not because of `error`.
    Upgrading {
        /// Of the command.
        tag: u64,
        /// None when it goes.
        error: Option<String>,
    },
    /// The head stopped, begins or goes on to serve a partition: what pauses are measured by.
    Role {
        /// The head.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
        /// What.
        step: RoleStep,
        /// When, in microseconds since 1970 by the clock of its host.
        at_us: u64,
    },
    /// What the log of a head holds of groups, as `Command::Tell` asked (P-04).
    Groups {
        /// The head.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Its boot.
        #[serde(with = "json::uuid")]
        boot: BootId,
        /// Its log (P-03).
        #[serde(with = "json::uuid")]
        log: LogId,
        /// Of the command.
        #[serde(with = "json::number")]
        ask: u64,
        /// The newest pair of each partition; one with `salvage` is not in force yet.
        #[serde(with = "json::assignments")]
        groups: Vec<Assignment>,
    },
    /// Which pairs the devices of a sled have records of, as `Command::Tell` asked (P-04).
    Records {
        /// The sled.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Of the command.
        #[serde(with = "json::number")]
        ask: u64,
        /// The highest one of each partition.
        #[serde(with = "json::stamps")]
        held: Vec<Stamp>,
    },
    /// A head forgot a partition that it is no member of any more.
    Forgotten {
        /// Where.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Which.
        #[serde(with = "json::partition")]
        partition: PartitionId,
    },
    /// A partition is deleted on this node, its columns are free.
    Deleted {
        /// Where.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Which.
        #[serde(with = "json::partition")]
        partition: PartitionId,
    },
}

/// How the role of a head changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleStep {
    /// It does not serve any more.
    Stopped,
    /// It was told to lead under another number, and answers nobody until it serves.
    Assigned,
    /// It serves.
    Serving,
}

/// What a node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Opening devices, reading its log.
    #[default]
    Starting,
    /// Working.
    Ready,
    /// Cannot work; `why` tells.
    Failed,
    /// Not connected to control (set by control, never reported).
    Away,
}

/// A node for `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: NodeState,
    /// Why not more, for people.
    pub why: String,
    /// Heads: log blocks in all.
    pub log_blocks: u64,
    /// Heads: log blocks free.
    pub log_free: u64,
    /// Heads: blocks of further volumes that checkpoints in the log have room for (P-32); none: not known.
    pub log_room: Option<u64>,
    /// Heads: what the log's device did of late.
    pub log_device: Option<MediumReport>,
    /// Heads: partitions.
    pub partitions: Vec<PartitionReport>,
    /// Sleds: devices.
    pub devices: Vec<DeviceReport>,
    /// The networks to the nodes of other processes that it talks to (EF-31).
    pub paths: Vec<PathReport>,
    /// Counters by name; they only rise within a boot.
    pub counters: BTreeMap<String, u64>,
    /// Histograms by name, in nanoseconds (turn time of the reactor, …).
    pub histograms: BTreeMap<String, HistSnapshot>,
}

/// The device of a head's log, as the head notices it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MediumReport {
    /// Commands that failed since the head's process started.
    pub errors: u64,
    /// Of the commands of late, those in a thousand that went well and were not slow.
    pub success: u16,
    /// Smoothed time of appends in microseconds, or how long one takes that does not end; none: nothing was
    /// written of late.
    pub append_us: Option<u64>,
}

impl From<&MediumStatus> for MediumReport {
    fn from(status: &MediumStatus) -> Self {
        let us = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self { errors: status.errors, success: status.success, append_us: status.append.map(us) }
    }
}

/// One network from a node to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathReport {
    /// Number of the other node.
    pub to: u32,
    /// The network, counted from 1.
    pub network: u8,
    /// `up`, `suspect` or `down`.
    pub state: String,
    /// Smoothed round trip in microseconds; 0 when none was measured.
    pub rtt_us: u64,
    /// Lost datagrams in a million, of late.
    pub loss_ppm: u32,
    /// Datagrams sent that had to be acknowledged.
    pub sent: u64,
    /// Of those, counted as lost and sent again.
    pub resent: u64,
}

impl From<&PathStatus> for PathReport {
    fn from(status: &PathStatus) -> Self {
        let state = match status.state {
            PathState::Up => "up",
            PathState::Suspect => "suspect",
            PathState::Down => "down",
        };
        Self {
            to: status.peer.0,
            network: status.path.0 + 1,
            state: state.to_owned(),
            rtt_us: status.rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            loss_ppm: status.loss_ppm,
            sent: status.sent,
            resent: status.resent,
        }
    }
}

/// A partition on a head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionReport {
    /// The partition.
    pub partition: u64,
    /// `idle`, `reconciling`, `serving`, `following` or `stopped`.
    pub role: String,
    /// Why it does not serve or follow.
    pub why: String,
    /// Epoch of its durable number.
    pub epoch: u32,
    /// Counter of its durable number.
    pub counter: u64,
    /// Last committed operation.
    pub committed: u64,
    /// Last numbered operation.
    pub tail: u64,
    /// Commands that wait.
    pub waiting: u64,
    /// Commands in progress.
    pub active: u64,
    /// Whether the other member is away.
    pub peer_away: bool,
    /// Whether it has to leave this head (BA-02): the head isolates, and no grant lifted that for this volume.
    pub isolating: bool,
    /// A member (this head, or its peer) whose log cannot follow any more: it has to be filled (EF-19).
    pub needs_copy: Option<u32>,
    /// The head that is being filled (BA-01).
    pub fill: Option<FillReport>,
    /// Blocks in the log only.
    pub log_blocks: u64,
    /// Extents.
    pub extents: u64,
    /// Extents that lack good columns.
    pub degraded: u64,
    /// Blocks that live in extents.
    pub extent_blocks: u64,
    /// Blocks that extents have room for.
    pub extent_room: u64,
    /// Devices that did not grant the current number (primary only); drained ones without columns aside.
    pub unclaimed: u64,
    /// Columns that the most endangered extent can still lose; below zero data is lost.
    pub redundancy: Option<i8>,
    /// Extents to rebuild (those of `degraded`): blocks that live in them.
    pub rebuild_blocks: u64,
    /// Whole extents with columns on sleds that are being drained (EF-23).
    pub leaving: u64,
    /// Blocks that live in them.
    pub leaving_blocks: u64,
    /// What the primary thinks of the devices that may hold its columns (EF-22).
    pub devices: Vec<DeviceThought>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Stage histograms by name, in nanoseconds.
    pub stages: BTreeMap<String, HistSnapshot>,
}

/// How far a head is filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FillReport {
    /// The head.
    pub head: u32,
    /// Blocks of the index and the log that it has.
    pub blocks_done: u64,
    /// All that it has to get.
    pub blocks_all: u64,
    /// How often it was begun.
    pub rounds: u64,
}

impl From<&FillStatus> for FillReport {
    fn from(status: &FillStatus) -> Self {
        let FillStatus { member, blocks_done, blocks_all, rounds } = *status;
        Self { head: member.head.0, blocks_done, blocks_all, rounds: rounds.into() }
    }
}

/// A sled's device as a primary sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceThought {
    /// Its identity.
    #[serde(with = "json::uuid")]
    pub device: DeviceId,
    /// `good`, `suspect` or `failed`.
    pub health: String,
    /// Whether it knows that it is to leave it (EF-23).
    #[serde(default)]
    pub leave: bool,
    /// Columns that it has there, one in the making and such that are being given back included.
    #[serde(default)]
    pub held: u64,
}

/// A device of a sled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Its name (`sled-1/0`).
    pub name: String,
    /// Its identity.
    #[serde(with = "json::uuid")]
    pub device: DeviceId,
    /// Columns in all.
    pub columns: u64,
    /// Columns free.
    pub free: u64,
    /// `ok`, `suspect`, `failed`, ….
    pub state: String,
    /// Counters by name.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

fn role_name(role: RoleState) -> &'static str {
    match role {
        RoleState::Idle => "idle",
        RoleState::Reconciling => "reconciling",
        RoleState::Serving => "serving",
        RoleState::Following => "following",
        RoleState::Stopped => "stopped",
    }
}

impl From<&PartitionStatus> for PartitionReport {
    fn from(status: &PartitionStatus) -> Self {
        let mut counters = BTreeMap::new();
        status.stats.counters.each(|name, value| {
            counters.insert(name.to_owned(), value);
        });
        let missed = |device: &&DeviceStatus| !(device.claimed || device.leave && device.held == 0);
        let stage = |stage| (stage_name(stage), HistSnapshot::of(status.stats.histogram(stage)));
        Self {
            partition: status.partition.0,
            role: role_name(status.role).to_owned(),
            why: status.why.to_owned(),
            epoch: status.stamp.number.epoch,
            counter: status.stamp.number.counter,
            committed: status.committed.0,
            tail: status.tail.0,
            waiting: status.waiting.into(),
            active: status.active.into(),
            peer_away: status.peer_away,
            isolating: status.isolating,
            needs_copy: status.needs_copy.map(|head| head.0),
            fill: status.fill.as_ref().map(FillReport::from),
            log_blocks: status.log_blocks,
            extents: status.extents.into(),
            degraded: status.degraded.into(),
            extent_blocks: status.extent_blocks,
            extent_room: status.extent_room,
            unclaimed: status.devices.iter().filter(missed).count() as u64,
            redundancy: status.redundancy,
            rebuild_blocks: status.rebuild.blocks,
            leaving: status.leaving.extents.into(),
            leaving_blocks: status.leaving.blocks,
            devices: status.devices.iter().map(thought).collect(),
            counters,
            stages: STAGES.into_iter().map(stage).filter(|(_, hist)| hist.count > 0).collect(),
        }
    }
}

fn thought(status: &DeviceStatus) -> DeviceThought {
    let (device, leave, held) = (status.device, status.leave, status.held.into());
    DeviceThought { device, health: status.health.name().to_owned(), leave, held }
}

fn stage_name(stage: palisade_protocol::head::Stage) -> String {
    stage.name().to_owned()
}

fn medium_counters(medium: &MediumStatus) -> BTreeMap<String, u64> {
    let counters = [("log_ops", medium.ops), ("log_errors", medium.errors), ("log_slow", medium.slow)];
    counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl NodeReport {
    /// A head's picture.
    pub fn of_head(name: &str, status: &HeadStatus) -> Self {
        let (state, why) = if status.log_failed && !status.log_why.is_empty() {
            (NodeState::Failed, status.log_why.as_str())
        } else if status.log_failed {
            (NodeState::Failed, "the log device failed")
        } else if status.recovered {
            (NodeState::Ready, "")
        } else {
            (NodeState::Starting, "reading the log")
        };
        Self {
            name: name.to_owned(),
            state,
            why: why.to_owned(),
            log_blocks: status.log_blocks,
            log_free: status.log_free,
            log_room: status.recovered.then_some(status.log_room),
            log_device: status.recovered.then(|| MediumReport::from(&status.medium)),
            counters: medium_counters(&status.medium),
            partitions: status.partitions.iter().map(PartitionReport::from).collect(),
            ..Self::default()
        }
    }
}
