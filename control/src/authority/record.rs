//! What the store keeps, one record per noun. Described in docs/FORMATS/control.md.

use palisade_protocol::wire::{
    Assignment, BootId, GrantId, LogId, Member, NodeId, Number, PartitionId, Proposal, RackId, Stamp,
};
use serde::{Deserialize, Serialize};

use super::alone::AloneRecord;
use super::doubt::DoubtRecord;
use crate::api::events::EventEntry;
use crate::api::json;
use crate::api::model::Role;
use crate::config::{Code, Solo};
use crate::identity::Known;

/// Format of the records; a newer one is refused. 2: roles move, so that a program which grants to the
/// declared heads whatever happened since would hand a volume to a head that lacks acknowledged writes.
/// Stores of format 1 are read, and become 2 with the first grant. 3: volumes are in doubt, about which a
/// program that knows nothing of doubts would decide; a store becomes 3 when that is written first.
pub const FORMAT: u32 = 3;
/// Format of a store in which roles moved.
pub(super) const FORMAT_ROLES: u32 = 2;

/// Heads beside the current group whose last membership is remembered, per volume.
pub(super) const LEFT_MAX: usize = 8;

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
    /// Of a grant, for people; one slot of a ring.
    Event(EventRecord),
}

impl Record {
    /// Where it lies in the store.
    pub fn key(&self) -> String {
        match self {
            Self::Meta(_) => "meta".to_owned(),
            Self::Node(node) => node_key(&node.name),
            Self::Device(device) => device_key(&device.name),
            Self::Volume(volume) => format!("volume/{:020}", volume.id),
            Self::Event(event) => event_key(event.seq),
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

/// Events that a store keeps; an older one gives its slot to the newest.
pub const EVENTS_KEPT: u64 = 512;

/// Key of the slot of an event.
fn event_key(seq: u64) -> String {
    format!("event/{:03}", seq % EVENTS_KEPT)
}

/// An event that outlives control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Rises by one from event to event.
    pub seq: u64,
    /// What happened.
    pub event: EventEntry,
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
    /// Being drained: of a head volumes move away, of a sled columns (EF-23), and nothing new is placed on it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
    /// Of a head: why its volumes are to leave it (BA-02); empty when they are not. Cleared by people only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub isolating: String,
}

fn is_false(value: &bool) -> bool {
    !value
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
    /// It came back after the others had gone on without it, and may lack what they acknowledged: it must
    /// not become the primary before one who serves the group has refilled it (MA-21).
    #[serde(default, skip_serializing_if = "is_false")]
    pub joining: bool,
    /// It is no member any more, and cannot be refilled from the latest operations (EF-19).
    #[serde(default, skip_serializing_if = "is_false")]
    pub lost: bool,
}

impl MemberRecord {
    /// As machines take it.
    pub fn member(&self) -> Member {
        Member { head: self.head, log: self.log, boot: self.boot }
    }
}

/// A proposal that was decided, so that it is answered alike when it comes again (P-02, BA-06).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PermissionRecord {
    /// Boot of the proposer.
    #[serde(with = "json::uuid")]
    pub boot: BootId,
    /// What was proposed.
    #[serde(with = "json::proposal")]
    pub proposal: Proposal,
    /// The head that proposed.
    #[serde(with = "json::node")]
    pub proposer: NodeId,
    /// The pair that was granted; none when it was declined.
    #[serde(with = "json::maybe_assignment", default)]
    pub granted: Option<Assignment>,
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
    /// The head that was declared to serve it; `members` says who does.
    #[serde(with = "json::node")]
    pub primary: NodeId,
    /// The head that was declared to follow.
    pub secondary: Option<u32>,
    /// Heads that were declared to follow, too, in order (BA-09).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserves: Vec<u32>,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Last granted number; zero before the first.
    pub epoch: u32,
    /// Last granted number.
    pub counter: u64,
    /// Its grant.
    pub grant: u64,
    /// Group of the last grant, primary first: the roles as they are. Empty before the first.
    pub members: Vec<MemberRecord>,
    /// Its sandbox.
    pub sandbox: Vec<SandboxRecord>,
    /// Heads that were members and are none now, newest last, with the log they had (P-03).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<MemberRecord>,
    /// The newest decided proposal of each head (P-02, BA-06).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<PermissionRecord>,
    /// When the primary changed though the old one answered, in milliseconds since 1970, newest last
    /// (MA-17).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved_ms: Vec<u64>,
    /// Whether one head may serve it alone (P-30).
    #[serde(default)]
    pub solo: Solo,
    /// One head runs alone, or did until the group that is coming up serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<AloneRecord>,
    /// The head that is being filled to become a member (MA-21); one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<ReplacementRecord>,
    /// The store was put back: groups since the copy are not known (P-04).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Box<DoubtRecord>>,
}

/// A head that is to become a member: the primary fills it (BA-01) and then proposes the group with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacementRecord {
    /// The head.
    #[serde(with = "json::node")]
    pub head: NodeId,
    /// The member that leaves once it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<u32>,
    /// Why.
    pub why: String,
    /// Chosen by people: it is not given up when nothing is lacking any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub by_hand: bool,
    /// It was a member, and comes back with the log that it had: it is refilled from that, if that is possible, and
    /// keeps it when the choice ends (MA-20).
    #[serde(default, skip_serializing_if = "is_false")]
    pub follows: bool,
    /// When it was chosen, in milliseconds since 1970.
    pub since_ms: u64,
}

impl VolumeRecord {
    /// Its partition.
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.id)
    }

    /// Heads that were declared to be its members, primary first.
    pub fn declared(&self) -> impl Iterator<Item = NodeId> {
        let reserves = self.reserves.iter().copied().map(NodeId);
        std::iter::once(self.primary).chain(self.secondary.map(NodeId)).chain(reserves)
    }

    /// Heads in their present roles, primary first: the last group, or the declared one before the first.
    pub fn current(&self) -> Vec<NodeId> {
        if self.members.is_empty() {
            return self.declared().collect();
        }
        self.members.iter().map(|member| member.head).collect()
    }

    /// The head that serves it, or is to.
    pub fn current_primary(&self) -> NodeId {
        self.members.first().map_or(self.primary, |member| member.head)
    }

    /// The head that follows, or is to when it comes back.
    pub fn second(&self) -> Option<NodeId> {
        let primary = self.current_primary();
        self.current().get(1).copied().or_else(|| self.declared().find(|head| *head != primary))
    }

    /// Every head that has to do with it: members in order, then declared ones, then those that left, then
    /// the one that is being filled.
    pub fn heads(&self) -> Vec<NodeId> {
        let mut heads = self.current();
        let others = self.declared().chain(self.left.iter().map(|member| member.head));
        for head in others.chain(self.replacement.iter().map(|chosen| chosen.head)) {
            if !heads.contains(&head) {
                heads.push(head);
            }
        }
        heads
    }

    /// Whether somebody else than the declared heads in the declared roles has it.
    pub fn moved(&self) -> bool {
        !self.members.is_empty() && !self.declared().eq(self.members.iter().map(|member| member.head))
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
        let stamp = Stamp { partition: self.partition(), number: self.number(), grant: GrantId(self.grant) };
        let members = self.members.iter().map(MemberRecord::member).collect();
        Some(Assignment { stamp, members, copies: self.copies(), salvage: self.salvage_above() })
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
