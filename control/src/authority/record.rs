//! What the store keeps, one record per noun. Described in docs/FORMATS/control.md.

use palisade_protocol::wire::{
    Assignment, BootId, GrantId, LogId, Member, NodeId, Number, PartitionId, RackId, Stamp,
};
use serde::{Deserialize, Serialize};

use crate::api::json;
use crate::api::model::Role;
use crate::config::Code;
use crate::identity::Known;

/// Format of the records; a newer one is refused.
pub const FORMAT: u32 = 1;

/// Any record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// Of the rack as a whole.
    Meta(Meta),
    /// Of a node.
    Node(NodeRecord),
    /// Of a device or log.
    Device(DeviceRecord),
    /// Of a volume, living or deleted.
    Volume(VolumeRecord),
}

impl Record {
    /// Where it lies in the store.
    pub fn key(&self) -> String {
        match self {
            Self::Meta(_) => "meta".to_owned(),
            Self::Node(node) => node_key(&node.name),
            Self::Device(device) => device_key(&device.name),
            Self::Volume(volume) => format!("volume/{:020}", volume.id),
        }
    }
}

/// Key of a node's record.
pub(super) fn node_key(name: &str) -> String {
    format!("node/{name}")
}

/// Key of a device's record.
pub(super) fn device_key(name: &str) -> String {
    format!("device/{name}")
}

/// The rack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// [`FORMAT`].
    pub format: u32,
    /// Identity of the rack.
    #[serde(with = "json::uuid")]
    pub rack: RackId,
    /// Its name.
    pub name: String,
    /// Random per store: two stores that grant one number give different grant ids (P-04).
    pub incarnation: u64,
    /// First part of every number granted from now on.
    pub epoch: u32,
    /// Next node id.
    pub next_node: u32,
    /// Next volume id; never reused.
    pub next_volume: u64,
    /// Grants ever made; a copy of the store with fewer is an older one.
    pub grants: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name in the rack file.
    pub name: String,
    /// Its id; given once.
    #[serde(with = "json::node")]
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Fault domain.
    pub shelf: String,
    /// Fault domain.
    pub power: String,
    /// Newest boot that asked for numbers.
    pub boot: Option<BootJson>,
    /// Its log (P-03); none before the first boot and after `device replace`.
    pub log: Option<LogJson>,
    /// Boots before; a late word of one of them is refused.
    pub old_boots: Vec<BootJson>,
}

/// A boot id in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootJson(#[serde(with = "json::uuid")] pub BootId);

/// A log id in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogJson(#[serde(with = "json::uuid")] pub LogId);

/// A device of a sled, or a head's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// `NODE/0`, `NODE/log`.
    pub name: String,
    /// Its node.
    #[serde(with = "json::node")]
    pub node: NodeId,
    /// Whether it is a head's log.
    pub log: bool,
    /// Columns that it should have; 0 when that is not known before it is opened.
    pub columns: u32,
    /// Identity and state.
    pub known: Known,
    /// Seen missing or refused at the last start, and why; empty when it is there.
    pub trouble: String,
}

/// A member of the last granted group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The head.
    #[serde(with = "json::node")]
    pub head: NodeId,
    /// Its log.
    #[serde(with = "json::uuid")]
    pub log: LogId,
    /// Its boot.
    #[serde(with = "json::uuid")]
    pub boot: BootId,
}

/// Columns of a device set aside for a volume (EF-13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The device.
    pub device: String,
    /// First column.
    pub first: u32,
    /// One after the last.
    pub last: u32,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// In use.
    Active,
    /// To be deleted; its heads still get numbers, so that they can release its columns.
    Deleting,
    /// Gone; the record stays so that its id is never given again (P-27).
    Deleted,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its id, and for now its partition's.
    pub id: u64,
    /// Its name; free for another volume once it is being deleted.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Data columns.
    pub k: u8,
    /// Parity columns.
    pub m: u8,
    /// Stripe unit.
    pub unit_bytes: u64,
    /// Column size.
    pub column_bytes: u64,
    /// Fewest columns of a flush (P-25).
    pub columns_min: u8,
    /// Whether columns of one extent may share a shelf.
    pub shared_shelves: bool,
    /// The head that serves it.
    #[serde(with = "json::node")]
    pub primary: NodeId,
    /// The head that follows.
    pub secondary: Option<u32>,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Last granted number; zero before the first.
    pub epoch: u32,
    /// Last granted number.
    pub counter: u64,
    /// Its grant.
    pub grant: u64,
    /// Group of the last grant; empty before the first.
    pub members: Vec<MemberRecord>,
    /// Its sandbox.
    pub sandbox: Vec<SandboxRecord>,
}

impl VolumeRecord {
    /// Its partition.
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.id)
    }

    /// Heads that should be its members, primary first.
    pub fn heads(&self) -> Vec<NodeId> {
        std::iter::once(self.primary).chain(self.secondary.map(NodeId)).collect()
    }

    /// Last granted number.
    pub fn number(&self) -> Number {
        Number { epoch: self.epoch, counter: self.counter }
    }

    /// The last granted pair, if one was granted.
    pub fn assignment(&self) -> Option<Assignment> {
        if self.members.is_empty() {
            return None;
        }
        let member = |m: &MemberRecord| Member { head: m.head, log: m.log, boot: m.boot };
        let stamp = Stamp { partition: self.partition(), number: self.number(), grant: GrantId(self.grant) };
        Some(Assignment { stamp, members: self.members.iter().map(member).collect() })
    }

    /// Its code and geometry.
    pub fn code(&self) -> Code {
        Code {
            data: self.k,
            parity: self.m,
            unit_bytes: self.unit_bytes,
            column_bytes: self.column_bytes,
            min_columns: self.columns_min,
            shared_shelves: self.shared_shelves,
        }
    }
}
