//! What control and the nodes' agents say to one another, beside the reports: roster, partitions,
//! admissions, commands. Serialisable, and convertible to what machines take.

use std::net::SocketAddr;

use palisade_protocol::head::{self, DeviceTarget, PartitionConfig};
use palisade_protocol::wire::{Assignment, BootId, DeviceId, Geometry, Member, NodeId, PartitionId, RackId};
use serde::{Deserialize, Serialize};

use super::json;
use crate::config::NbdAddress;
use crate::identity::Known;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves volumes.
    Head,
    /// Holds columns.
    Sled,
}

impl Role {
    /// Its name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Sled => "sled",
        }
    }
}

/// A node as every other one knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Its name in the rack file.
    pub name: String,
    /// Its number; given once.
    #[serde(with = "json::node")]
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Where it takes datagrams, when it can be a process of its own.
    pub fabric: Option<SocketAddr>,
    /// Where it takes them on the second network, when it is on one (EF-31).
    #[serde(default)]
    pub second: Option<SocketAddr>,
    /// Heads: where clients reach it (MA-10).
    #[serde(default)]
    pub nbd: Vec<NbdAddress>,
}

impl RosterEntry {
    /// Its addresses in the order of the networks.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.fabric.into_iter().chain(self.second).collect()
    }
}

/// A device that may hold columns of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// The sled that serves it.
    #[serde(with = "json::node")]
    pub sled: NodeId,
    /// The device.
    #[serde(with = "json::uuid")]
    pub device: DeviceId,
    /// Number of its shelf.
    pub shelf: u32,
    /// Preferred columns `[first, last)` (EF-13); none when nothing was left to set aside.
    pub sandbox: Option<(u32, u32)>,
    /// Its sled is being drained (EF-23).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave: bool,
}

impl DeviceSpec {
    /// As the head takes it.
    pub fn target(&self) -> DeviceTarget {
        let Self { sled, device, shelf, sandbox, leave } = *self;
        DeviceTarget { sled, device, shelf, sandbox, leave }
    }
}

/// A replicated volume, as its member heads need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSpec {
    /// The partition (its value is the volume's, for now).
    #[serde(with = "json::partition")]
    pub partition: PartitionId,
    /// Volume name, and name of its export.
    pub name: String,
    /// Volume size.
    pub bytes: u64,
    /// Data columns.
    pub k: u8,
    /// Parity columns.
    pub m: u8,
    /// Stripe unit in bytes.
    pub unit_bytes: u64,
    /// Column size in bytes.
    pub column_bytes: u64,
    /// Fewest columns of a flush (P-25).
    pub columns_min: u8,
    /// The head that serves it at present, and exports it.
    #[serde(with = "json::node")]
    pub primary: NodeId,
    /// The head that follows, or is to when it comes back; none for a volume that was made with one head.
    pub secondary: Option<u32>,
    /// Heads that are of its group, were, or are declared to be.
    #[serde(default = "most_heads")]
    pub heads: u8,
    /// Whether a group of one may acknowledge writes (P-30); so may a volume that was made with one head.
    #[serde(default)]
    pub solo: crate::config::Solo,
    /// Devices that may hold its columns.
    pub devices: Vec<DeviceSpec>,
    /// Whether it is being deleted: tell the primary so once it serves.
    pub deleting: bool,
}

/// Of a control plane that does not say how many heads there are.
fn most_heads() -> u8 {
    palisade_protocol::wire::limits::MEMBERS_MAX as u8
}

impl PartitionSpec {
    /// As the head takes it.
    pub fn config(&self) -> PartitionConfig {
        let block = palisade_protocol::wire::limits::BLOCK as u64;
        PartitionConfig {
            partition: self.partition,
            blocks: self.bytes / block,
            geometry: Geometry {
                k: self.k,
                m: self.m,
                unit_blocks: (self.unit_bytes / block) as u16,
                stripes: (self.column_bytes / self.unit_bytes.max(1)) as u32,
            },
            columns_min: self.columns_min,
            devices: self.devices.iter().map(DeviceSpec::target).collect(),
            solo: match (self.secondary, self.solo) {
                (Some(_), crate::config::Solo::Wait) => head::Solo::Wait,
                (Some(_), crate::config::Solo::Sleds) => head::Solo::Sleds,
                _ => head::Solo::Local,
            },
            heads: self.heads,
        }
    }
}

/// A node that a process brings along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHello {
    /// Its name in the rack file.
    pub name: String,
    /// Its boot, drawn at this start (P-01).
    #[serde(with = "json::uuid")]
    pub boot: BootId,
}

/// A device of an admitted node, and what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmittedDevice {
    /// `NODE/log`, `NODE/0`, ….
    pub name: String,
    /// What the store knows.
    pub known: Known,
}

/// An admitted node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmittedNode {
    /// Its name.
    pub name: String,
    /// Its number.
    #[serde(with = "json::node")]
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// Its devices.
    pub devices: Vec<AdmittedDevice>,
    /// Heads: partitions that it is a member of.
    pub partitions: Vec<PartitionSpec>,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The rack's identity, for media and messages.
    #[serde(with = "json::uuid")]
    pub rack: RackId,
    /// The nodes of this process, in the order of registration.
    pub nodes: Vec<AdmittedNode>,
    /// Every node of the rack.
    pub roster: Vec<RosterEntry>,
}

/// What control tells a process, always naming the node it is for. All are idempotent and are repeated
/// after a reconnection, in this order per node: partitions, then assignments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// A number was granted, durably (EF-14).
    Assign {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The pair. A head that it does not name is out of the group.
        #[serde(with = "json::assignment")]
        assignment: Assignment,
        /// So many moves lately that a primary that answers stays in place (MA-17).
        #[serde(default)]
        paused: bool,
    },
    /// What became of a proposal ([`Report::Propose`]), durably.
    Outcome {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
        /// Of the proposal.
        #[serde(with = "json::number")]
        nonce: u64,
        /// Whether it was granted.
        granted: bool,
        /// Granted: the pair. Declined: the newest one, if there is one.
        #[serde(with = "json::maybe_assignment", default)]
        pair: Option<Assignment>,
    },
    /// The connection of another head's process ended: it is dead, or cut off from control. A hint, by which the
    /// head asks it at once instead of waiting for its silence; repeated by nobody.
    Gone {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The other head.
        #[serde(with = "json::node")]
        gone: NodeId,
        /// Its boot of then.
        #[serde(with = "json::uuid")]
        boot: BootId,
    },
    /// A partition that concerns the head exists, or what is said of it changed. Its primary exports it.
    CreatePartition {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        spec: PartitionSpec,
    },
    /// Delete a partition: its primary releases the columns and reports [`Report::Deleted`]; after that
    /// control tells the secondary to forget it.
    DeletePartition {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
    },
    /// Which devices may hold columns changed.
    SetDevices {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
        /// Its devices.
        devices: Vec<DeviceSpec>,
    },
    /// Move everything acknowledged so far into extents, then report [`Report::Flushed`] with the tag.
    Flush {
        /// For whom (the primary).
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
        /// Comes back.
        tag: u64,
    },
    /// Make a device fail on purpose, or end that; report [`Report::Drilled`] with the tag.
    Drill {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Name of the device.
        device: String,
        /// How it fails.
        drill: Drill,
        /// Comes back.
        tag: u64,
    },
    /// Give the node's place to another binary, in good order; report [`Report::Upgrading`] with the tag.
    Upgrade {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Path of the binary.
        binary: String,
        /// Comes back.
        tag: u64,
    },
    /// Fill a head, so that it can become a member (MA-21, BA-01); the primary proposes the group with it.
    Fill {
        /// For whom (the primary).
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
        /// The head, under its present boot; the primary itself: nobody is to be filled any more.
        #[serde(with = "json::member")]
        member: Member,
        /// It was a member, with the log that it has: it is refilled from that, if it can be (MA-20).
        #[serde(default)]
        follows: bool,
    },
    /// Forget a partition that the head is no member of any more: index and log entries go, columns stay with
    /// those who are. Report [`Report::Forgotten`].
    Forget {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// The partition.
        #[serde(with = "json::partition")]
        partition: PartitionId,
    },
    /// Say what the media hold of groups (P-04): a sled, whose records show whether the store was put back from an
    /// older copy, answers with [`Report::Records`]; a head, when it was, with [`Report::Groups`]. A head does so
    /// once all that was told before was taken up, so that a grant of before that was on its way still counts.
    Tell {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// Comes back; another one for each opening of the store.
        #[serde(with = "json::number")]
        ask: u64,
    },
    /// Whether volumes have to leave the head (BA-02).
    Isolate {
        /// For whom.
        #[serde(with = "json::node")]
        node: NodeId,
        /// How bad it is; none when they need not.
        severity: Option<Severity>,
    },
    /// The nodes of the rack changed.
    Roster {
        /// All of them.
        roster: Vec<RosterEntry>,
    },
}

/// Why volumes have to leave a head (BA-02), worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Its log errs.
    Errors,
    /// Its networks do.
    Network,
    /// It is thought to fail soon.
    Warning,
    /// People want it to be left.
    Planned,
}

impl Severity {
    /// As the head takes it.
    pub fn wire(self) -> palisade_protocol::wire::Severity {
        use palisade_protocol::wire::Severity as Wire;
        match self {
            Self::Errors => Wire::Errors,
            Self::Network => Wire::Network,
            Self::Warning => Wire::Warning,
            Self::Planned => Wire::Planned,
        }
    }
}

/// How a device fails in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Drill {
    /// Every request fails.
    Error,
    /// Every read comes back with flipped bits.
    Corrupt,
    /// Every request takes a tenth of a second longer.
    Slow,
    /// A head's log device stands for the head: its column writes leave it later, so that some are under way
    /// whenever its process stops.
    Late,
    /// The drill is over.
    Clear,
}

pub use crate::report::Report;
