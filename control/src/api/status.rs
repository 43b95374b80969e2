//! The picture of a rack that `status`, `check`, metrics and the ready file show. Made from the store, the
//! rack file and the last words of the nodes; usable without any of the nodes.

use std::collections::BTreeMap;

use palisade_protocol::wire::NodeId;
use serde::{Deserialize, Serialize};

pub use super::events::EventEntry;
use super::events::now_ms;
use super::model::Role;
use super::{devices, isolating, members, sleds};
use crate::authority::{Authority, DeviceRecord, NodeRecord, VolumeRecord, VolumeState};
use crate::config::{Rack, Solo, VolumeKind, size::show_size};
use crate::identity::Known;
use crate::report::{NodeReport, NodeState, PartitionReport, PathReport};

/// A rack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// API version.
    pub api: u32,
    /// Name.
    pub name: String,
    /// Identity.
    pub rack: String,
    /// Data directory.
    pub data: String,
    /// Process that serves control; 0 when the picture comes from the store alone.
    pub pid: u32,
    /// Whether every volume is served.
    pub ready: bool,
    /// Nodes by id.
    pub nodes: Vec<NodeStatus>,
    /// Volumes by id, then bare ones.
    pub volumes: Vec<VolumeStatus>,
    /// Devices and logs by name.
    pub devices: Vec<DeviceStatus>,
    /// The networks between nodes of different processes, as each node sees them (EF-31).
    pub paths: Vec<PathEntry>,
    /// What happened lately, oldest first.
    pub events: Vec<EventEntry>,
    /// The control plane that says all this.
    pub control: ControlStatus,
}

/// A control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlStatus {
    /// Where its decisions are: `embedded`, `memory` or `etcd`.
    pub store: String,
    /// `serving`; with etcd also `unsure` (etcd is silent and the lease runs on) and `waiting` (without the
    /// lease). It decides nothing unless it is `serving`.
    pub state: String,
    /// Why not `serving`.
    pub why: String,
    /// Who has the lease, as far as is known; empty without etcd.
    pub holder: String,
    /// Version of its program.
    pub version: String,
    /// Path of its program, as it was started.
    pub binary: String,
    /// When it began, in milliseconds since 1970: another program in the same process begins anew.
    pub began_ms: u64,
    /// The revision of etcd at which the lease was taken: it rises from holder to holder; 0 without.
    pub tenure: u64,
}

/// One network from a node to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathEntry {
    /// The node that says so.
    pub node: String,
    /// The other one.
    pub peer: String,
    /// What it says.
    #[serde(flatten)]
    pub report: PathReport,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// `head` or `sled`.
    pub role: String,
    /// Id.
    pub node: u32,
    /// Process; 0 when it is away.
    pub pid: u32,
    /// Version of its program; empty when it is away.
    pub version: String,
    /// Path of its program, as it was started.
    pub binary: String,
    /// `starting`, `ready`, `failed` or `away`; a ready head may be `draining`, `drained` or
    /// `isolating`; a sled that is
    /// `drained` is safe to pull, and stays that when it is away.
    pub state: String,
    /// Why not `ready`.
    pub why: String,
    /// Heads: why volumes have to leave it (BA-02), whatever its state is; empty when they need not.
    pub isolating: String,
    /// Heads: what control finds wrong with it at present; not enough by itself for volumes to leave it.
    pub ailing: String,
    /// Fault domain.
    pub shelf: String,
    /// Sleds that are being drained: columns that are still there.
    pub columns_left: u64,
    /// Heads: log size in bytes.
    pub log_bytes: u64,
    /// Heads: free log space in bytes.
    pub log_free_bytes: u64,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// Name.
    pub name: String,
    /// Id, and its partition's; 0 for a bare volume.
    pub id: u64,
    /// Size.
    pub bytes: u64,
    /// First address.
    pub address: String,
    /// Every address of every member, the primary's first.
    pub addresses: Vec<String>,
    /// Name of the primary at present; empty for a bare volume.
    pub primary: String,
    /// Name of the secondary at present; empty when there is none.
    pub secondary: String,
    /// Names of the further members at present, in order (BA-09).
    pub reserves: Vec<String>,
    /// Name of the head that was declared to be the primary.
    pub declared_primary: String,
    /// Name of the head that was declared to be the secondary.
    pub declared_secondary: String,
    /// Names of the further heads that were declared.
    pub declared_reserves: Vec<String>,
    /// `wait` or `local`: whether one head may serve it alone.
    pub solo: String,
    /// A member came back and is not refilled yet: it cannot take over.
    pub joining: bool,
    /// So many moves lately that a primary that answers stays in place.
    pub paused: bool,
    /// Name of the head that is being filled to become a member (MA-21); empty when there is none.
    pub replacement: String,
    /// Why it is.
    pub replacement_why: String,
    /// Bytes of index and log that it has got, as blocks of 4 KiB count.
    pub filled_bytes: u64,
    /// Bytes that it has to get in all; 0 before the copy began.
    pub fill_bytes: u64,
    /// How often the copy was begun.
    pub fill_rounds: u64,
    /// Names of members that it has to leave (BA-02); one that goes on alone by leave is none.
    pub isolating: Vec<String>,
    /// Why its groups are not known, and what ends that (P-04); empty when they are.
    pub doubt: String,
    /// What its group lacks, and what becomes of that; empty when it lacks nothing.
    pub lacks: String,
    /// Counter of the newest number; rises with each grant.
    pub sequence: u64,
    /// Newest number with its epoch.
    pub number: String,
    /// `replicated` or `bare`.
    pub kind: String,
    /// Data and parity columns.
    pub code: String,
    /// `serving`, `reconciling`, `waiting`, `stopped`, `deleting` or `away`.
    pub state: String,
    /// Why it is not served.
    pub why: String,
    /// Extents that lack columns, or devices that are away: data is whole, protection is not.
    pub degraded: bool,
    /// Extents that lack good columns.
    pub degraded_extents: u64,
    /// Columns that the most endangered extent can still lose; below zero data is lost. None without extents.
    pub redundancy: Option<i8>,
    /// Bytes that live in extents that lack good columns: what a rebuild has to do; `rebuilt_bytes` of the
    /// counters is what it did.
    pub rebuild_bytes: u64,
    /// Whole extents that are to leave sleds that are being drained (EF-23).
    pub leaving_extents: u64,
    /// Bytes that live in them.
    pub leaving_bytes: u64,
    /// Devices of the rack that did not grant the newest number.
    pub devices_away: u64,
    /// Whether the secondary is away (requests wait).
    pub peer_away: bool,
    /// Commands that wait.
    pub waiting: u64,
    /// Commands in progress.
    pub active: u64,
    /// Bytes that are in the log only.
    pub log_bytes: u64,
    /// Extents.
    pub extents: u64,
    /// Counters of the primary by name.
    pub counters: BTreeMap<String, u64>,
}

/// A device or log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    /// `sled-1/0`, `head-1/log`.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its identity; empty before it is formatted.
    pub id: String,
    /// `active`, `new`, `formatting`, `replacing`, `missing`, what its sled says, or what heads think of it:
    /// `suspect` or `failed` (EF-22).
    pub state: String,
    /// What is wrong with it.
    pub trouble: String,
    /// `file PATH`, `block PATH`, or `memory (durable for the life of its process)` (P-09).
    pub medium: String,
    /// Columns in all; 0 for logs.
    pub columns: u64,
    /// Free columns.
    pub free: u64,
    /// Columns that served volumes have there.
    pub held: u64,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// A node that is connected.
#[derive(Clone, Copy, Debug)]
pub struct Live<'r> {
    /// Its process.
    pub pid: u32,
    /// Version of its program.
    pub version: &'r str,
    /// Path of its program.
    pub binary: &'r str,
    /// Its last picture.
    pub report: &'r NodeReport,
    /// Nothing was heard for longer than `health_ms`.
    pub silent: bool,
}

impl Status {
    /// Puts the picture together. `live` is by node id.
    pub fn of(authority: &Authority, rack: Option<&Rack>, live: &BTreeMap<u32, Live<'_>>) -> Self {
        let mut volumes: Vec<VolumeStatus> =
            authority.living().map(|volume| volume_status(authority, rack, live, volume)).collect();
        // A head at rest asks no sled and notices nothing: what nodes said of their devices counts too.
        let missing = |device: &&DeviceRecord| {
            let known = matches!(device.known, Known::Active { .. } | Known::Formatting { .. });
            let drained = authority.node(device.node).is_some_and(|node| node.draining);
            !device.log && known && !device.trouble.is_empty() && !drained
        };
        let away = authority.devices().filter(missing).count() as u64;
        for volume in &mut volumes {
            volume.devices_away = volume.devices_away.max(away);
            volume.degraded |= away > 0;
        }
        volumes.extend(rack.into_iter().flat_map(|rack| &rack.volumes).filter_map(bare_status));
        let served = |v: &VolumeStatus| v.state == "serving" || v.state == "deleting";
        Self {
            api: super::API_VERSION,
            name: authority.meta().name.clone(),
            rack: authority.rack().to_string(),
            data: rack.map_or(String::new(), |rack| rack.data.display().to_string()),
            pid: 0,
            ready: volumes.iter().all(served),
            nodes: authority.nodes().map(|node| node_status(authority, node, live)).collect(),
            volumes,
            devices: authority
                .devices()
                .map(|device| devices::status(authority, rack, live, device))
                .collect(),
            paths: path_entries(authority, live),
            events: Vec::new(),
            control: ControlStatus::default(),
        }
    }

    /// One line a volume, as `up` prints them and writes them to the ready file.
    pub fn ready_lines(&self) -> Vec<String> {
        self.volumes.iter().filter(|volume| volume.state != "deleting").map(VolumeStatus::line).collect()
    }
}

impl VolumeStatus {
    /// Its policy as the file would say it.
    pub fn policy(&self) -> Solo {
        match self.solo.as_str() {
            "local" => Solo::Local,
            "sleds" => Solo::Sleds,
            _ => Solo::Wait,
        }
    }

    /// The members beside the primary, in order.
    pub fn followers(&self) -> String {
        let names = std::iter::once(&self.secondary).chain(&self.reserves);
        names.map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// `volume vol0 4.0 GiB nbd://127.0.0.1:10809/vol0 primary head-1 secondary head-2`.
    pub fn line(&self) -> String {
        let mut line = format!("volume {} {} {}", self.name, show_size(self.bytes), self.address);
        if self.kind == "bare" {
            line.push_str(" bare");
        } else {
            line.push_str(&format!(" primary {}", self.primary));
            if !self.secondary.is_empty() {
                line.push_str(&format!(" secondary {}", self.secondary));
            }
            if !self.reserves.is_empty() {
                line.push_str(&format!(" reserves {}", self.reserves.join(",")));
            }
        }
        line
    }
}

fn path_entries(authority: &Authority, live: &BTreeMap<u32, Live<'_>>) -> Vec<PathEntry> {
    let mut entries = Vec::new();
    for (node, live) in live.iter().filter(|(_, live)| !live.silent) {
        entries.extend(live.report.paths.iter().map(|report| PathEntry {
            node: authority.name_of(NodeId(*node)),
            peer: authority.name_of(NodeId(report.to)),
            report: report.clone(),
        }));
    }
    entries
}

fn node_status(authority: &Authority, node: &NodeRecord, live: &BTreeMap<u32, Live<'_>>) -> NodeStatus {
    let mut status = NodeStatus {
        name: node.name.clone(),
        role: node.role.name().to_owned(),
        node: node.node.0,
        state: "away".to_owned(),
        shelf: node.shelf.clone(),
        isolating: node.isolating.clone(),
        ..NodeStatus::default()
    };
    let all = live;
    let Some(live) = live.get(&node.node.0) else {
        status.why = "its process is not connected".to_owned();
        sleds::show(&mut status, authority, all, node);
        return status;
    };
    let block = palisade_protocol::wire::limits::BLOCK as u64;
    status.pid = live.pid;
    live.version.clone_into(&mut status.version);
    live.binary.clone_into(&mut status.binary);
    status.state = state_name(live.report.state).to_owned();
    status.why = live.report.why.clone();
    if live.silent {
        status.state = "away".to_owned();
        status.why = "its process does not speak".to_owned();
    }
    sleds::show(&mut status, authority, all, node);
    if node.draining && node.role == Role::Head && status.state == "ready" {
        members::show_drained(&mut status, authority, node);
    }
    isolating::show(&mut status, node);
    status.log_bytes = live.report.log_blocks.saturating_mul(block);
    status.log_free_bytes = live.report.log_free.saturating_mul(block);
    status.counters = live.report.counters.clone();
    status
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "starting",
        NodeState::Ready => "ready",
        NodeState::Failed => "failed",
        NodeState::Away => "away",
    }
}

fn volume_status(
    authority: &Authority,
    rack: Option<&Rack>,
    live: &BTreeMap<u32, Live<'_>>,
    volume: &VolumeRecord,
) -> VolumeStatus {
    let mut status = named(authority, rack, volume);
    let head = live.get(&volume.current_primary().0).filter(|live| !live.silent);
    let report =
        head.and_then(|live| live.report.partitions.iter().find(|report| report.partition == volume.id));
    match report {
        Some(report) => fill(&mut status, report),
        None if head.is_some() => {
            status.state = "waiting".to_owned();
            status.why = format!("its primary {} has not taken it up yet", status.primary);
        }
        None => status.state = "away".to_owned(),
    }
    if status.state != "serving"
        && let Some(why) = authority.obstacle(volume)
    {
        status.state = "waiting".to_owned();
        status.why = why;
    }
    if status.state == "away" {
        status.why = format!("its primary {} is not there", status.primary);
    }
    if volume.state == VolumeState::Deleting {
        status.state = "deleting".to_owned();
    }
    status.isolating = isolating::members(authority, live, volume);
    status
}

/// What the store and the file say of a volume.
fn named(authority: &Authority, rack: Option<&Rack>, volume: &VolumeRecord) -> VolumeStatus {
    let members: Vec<String> = volume.current().into_iter().map(|head| authority.name_of(head)).collect();
    let heads = members.iter().filter_map(|name| rack?.head(name));
    let addresses: Vec<String> =
        heads.flat_map(|head| &head.nbd).map(|address| address.uri(&volume.name)).collect();
    let declared = volume.secondary.map(|head| authority.name_of(NodeId(head)));
    let solo = match volume.solo {
        Solo::Wait => "wait",
        Solo::Sleds => "sleds",
        Solo::Local => "local",
    };
    VolumeStatus {
        name: volume.name.clone(),
        id: volume.id,
        bytes: volume.bytes,
        address: addresses.first().cloned().unwrap_or_default(),
        addresses,
        primary: members.first().cloned().unwrap_or_default(),
        secondary: members.get(1).cloned().unwrap_or_default(),
        reserves: members.iter().skip(2).cloned().collect(),
        declared_primary: authority.name_of(volume.primary),
        declared_secondary: declared.unwrap_or_default(),
        declared_reserves: volume.reserves.iter().map(|head| authority.name_of(NodeId(*head))).collect(),
        solo: solo.to_owned(),
        joining: volume.members.iter().any(|member| member.joining),
        paused: volume.paused(now_ms()),
        replacement: volume.replacement.as_ref().map_or_else(String::new, |it| authority.name_of(it.head)),
        replacement_why: volume.replacement.as_ref().map_or_else(String::new, |it| it.why.clone()),
        doubt: authority.doubt_of(volume),
        sequence: volume.counter,
        number: volume.number().to_string(),
        kind: "replicated".to_owned(),
        code: format!("{}+{}", volume.k, volume.m),
        ..VolumeStatus::default()
    }
}

fn fill(status: &mut VolumeStatus, report: &PartitionReport) {
    status.state = match report.role.as_str() {
        "serving" | "reconciling" | "stopped" => report.role.clone(),
        _ => "waiting".to_owned(),
    };
    status.why = report.why.clone();
    status.degraded_extents = report.degraded;
    status.devices_away = report.unclaimed;
    status.redundancy = report.redundancy;
    let block = palisade_protocol::wire::limits::BLOCK as u64;
    status.rebuild_bytes = report.rebuild_blocks.saturating_mul(block);
    status.leaving_extents = report.leaving;
    status.leaving_bytes = report.leaving_blocks.saturating_mul(block);
    status.degraded = report.degraded > 0 || report.unclaimed > 0;
    status.peer_away = report.peer_away;
    if let Some(fill) = &report.fill {
        status.filled_bytes = fill.blocks_done.saturating_mul(block);
        status.fill_bytes = fill.blocks_all.saturating_mul(block);
        status.fill_rounds = fill.rounds;
    }
    status.waiting = report.waiting;
    status.active = report.active;
    status.log_bytes = report.log_blocks.saturating_mul(block);
    status.extents = report.extents;
    status.counters = report.counters.clone();
}

fn bare_status(volume: &crate::config::Volume) -> Option<VolumeStatus> {
    let VolumeKind::Bare { nbd, .. } = &volume.kind else { return None };
    let addresses: Vec<String> = nbd.iter().map(|address| address.uri(&volume.name)).collect();
    Some(VolumeStatus {
        name: volume.name.clone(),
        bytes: volume.size_bytes,
        address: addresses.first().cloned().unwrap_or_default(),
        addresses,
        kind: "bare".to_owned(),
        state: "serving".to_owned(),
        ..VolumeStatus::default()
    })
}
