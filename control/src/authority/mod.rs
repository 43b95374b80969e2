//! Who may write: nodes, devices, volumes, sequence numbers (EF-14), groups (MA-05), sandboxes (EF-13), in one
//! pure machine.
//!
//! Contract: a method looks at the state and returns [`Changes`] without changing anything. The caller
//! makes `records` durable in its store, then calls [`Authority::apply`], then sends what `Changes`
//! says. So a number is durable before it is released, and a crash anywhere loses or repeats a grant but
//! never gives it twice. One serial caller; no clock, no socket, no randomness in here: the simulator
//! runs it as it is.

mod alone;
mod boot;
mod device;
mod doubt;
mod faults;
mod grant;
mod node;
mod propose;
mod record;
mod replace;
mod rest;
mod roles;
mod sandbox;
mod view;
mod volume;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use palisade_protocol::wire::{Assignment, NodeId, PartitionId, RackId};

pub use alone::AloneRecord;
pub use boot::BootError;
pub use device::DeviceError;
pub use doubt::{DoubtError, DoubtRecord, HeardRecord};
pub use faults::Faults;
pub use grant::Move;
pub use node::{DeviceDeclaration, NodeDeclaration, NodeError};
pub use propose::{PAUSE_MOVES, PAUSE_WINDOW_MS, Verdict};
pub use record::{
    DeviceRecord, EVENTS_KEPT, EventRecord, FORMAT, MemberRecord, Meta, NodeRecord, PermissionRecord, Record,
    ReplacementRecord, SandboxRecord, VolumeRecord, VolumeState,
};
pub use replace::{Chosen, ReplaceError};
pub use rest::Rests;
pub use roles::RoleError;
pub use sandbox::spread;
pub(crate) use volume::is_name;
pub use volume::{VolumeError, VolumeRequest};

/// A record to write (`Some`) or remove (`None`), by key.
pub type Change = (String, Option<Record>);

/// What a decision changes, and whom to tell once `records` are durable and applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// For the store, as one transaction.
    pub records: Vec<Change>,
    /// For every member of each.
    pub assignments: Vec<Assignment>,
    /// Partitions whose declaration is new or changed: tell their members.
    pub created: Vec<PartitionId>,
    /// Partitions to delete: tell these heads.
    pub deleting: Vec<(NodeId, PartitionId)>,
    /// Partitions whose devices changed: tell their members.
    pub devices: Vec<PartitionId>,
    /// Heads whose volumes are to leave them, or not any more: tell them.
    pub isolating: Vec<NodeId>,
    /// Partitions that heads hold leftovers of: tell them to forget those.
    pub forgetting: Vec<(NodeId, PartitionId)>,
    /// Groups that are new, for people.
    pub moves: Vec<Move>,
    /// For people: what was noticed on the way.
    pub notes: Vec<String>,
}

impl Changes {
    fn put(&mut self, record: Record) {
        self.records.push((record.key(), Some(record)));
    }

    /// What was decided on top of these changes, for the same transaction: of each record the last word alone, because
    /// a transaction of etcd names no key twice.
    pub fn append(&mut self, more: Self) {
        let Self { records, assignments, created, deleting, devices, isolating, forgetting, moves, notes } =
            more;
        self.records.retain(|(key, _)| records.iter().all(|(later, _)| later != key));
        self.records.extend(records);
        self.assignments.extend(assignments);
        self.created.extend(created);
        self.deleting.extend(deleting);
        self.devices.extend(devices);
        self.isolating.extend(isolating);
        self.forgetting.extend(forgetting);
        self.moves.extend(moves);
        self.notes.extend(notes);
    }
}

/// The state of the rack's membership and numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Authority {
    meta: Meta,
    nodes: BTreeMap<u32, NodeRecord>,
    devices: BTreeMap<String, DeviceRecord>,
    volumes: BTreeMap<u64, VolumeRecord>,
    /// Random, of this opening of the store; see [`Authority::opened`].
    opening: u64,
    faults: Faults,
}

/// Why records of a store are no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Nothing is there: make one with [`Authority::found`].
    #[error("the store is empty")]
    Empty,
    /// A newer program wrote it.
    #[error("the store has format {0}, this program reads up to {FORMAT}: use a newer palisade")]
    Newer(u32),
    /// A record under a key that is not its own.
    #[error("the store is damaged: record `{0}` does not belong to its key")]
    Key(String),
}

impl Authority {
    /// The first record of a new rack. `rack` and `incarnation` are random; epochs start at 1. Media of
    /// an older rack carry another rack id, so a store made anew can never meet its own old numbers (P-04).
    pub fn found(rack: RackId, incarnation: u64, name: &str) -> Changes {
        let meta = Meta {
            format: record::FORMAT_ROLES,
            rack,
            name: name.to_owned(),
            incarnation,
            epoch: 1,
            next_node: 1,
            next_volume: 1,
            grants: 0,
        };
        let mut changes = Changes::default();
        changes.put(Record::Meta(meta));
        changes
    }

    /// The state that records describe.
    pub fn load(records: impl IntoIterator<Item = (String, Record)>) -> Result<Self, LoadError> {
        let mut meta = None;
        let (mut nodes, mut devices, mut volumes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (key, record) in records {
            if record.key() != key {
                return Err(LoadError::Key(key));
            }
            match record {
                Record::Meta(found) => meta = Some(found),
                Record::Node(node) => drop(nodes.insert(node.node.0, node)),
                Record::Device(device) => drop(devices.insert(device.name.clone(), device)),
                Record::Volume(volume) => drop(volumes.insert(volume.id, volume)),
                Record::Event(_) => {}
            }
        }
        let meta = meta.ok_or(LoadError::Empty)?;
        if meta.format > FORMAT {
            return Err(LoadError::Newer(meta.format));
        }
        Ok(Self { meta, nodes, devices, volumes, opening: 0, faults: Faults::default() })
    }

    /// Grants of this opening of the store get ids of their own: a store that was put back to an older copy,
    /// mark and all, may grant a number again, and only the id tells the two grants apart then (P-04).
    pub fn opened(self, random: u64) -> Self {
        Self { opening: random, ..self }
    }

    /// The random value of [`Authority::opened`].
    pub fn opening(&self) -> u64 {
        self.opening
    }

    /// Takes over records that are durable by now.
    pub fn apply(&mut self, changes: &Changes) {
        for (key, record) in &changes.records {
            match record {
                Some(Record::Meta(meta)) => self.meta = meta.clone(),
                Some(Record::Node(node)) => drop(self.nodes.insert(node.node.0, node.clone())),
                Some(Record::Device(device)) => {
                    self.devices.insert(device.name.clone(), device.clone());
                }
                Some(Record::Volume(volume)) => drop(self.volumes.insert(volume.id, volume.clone())),
                Some(Record::Event(_)) => {}
                None => {
                    self.devices.retain(|name, _| record::device_key(name) != *key);
                    self.nodes.retain(|_, node| record::node_key(&node.name) != *key);
                }
            }
        }
    }

    /// The store was restored from a copy that misses grants up to `grants` of epoch `epoch`: every number
    /// from now on is above all that were ever granted, and its volumes are in doubt (P-04).
    pub fn restored(&self, epoch: u32, grants: u64) -> Changes {
        let mut changes = Changes::default();
        let mut meta = self.meta.clone();
        if !self.faults.epoch_kept {
            meta.epoch = meta.epoch.max(epoch).saturating_add(1);
        }
        let forgotten = grants.saturating_sub(meta.grants);
        let why = format!("the store was put back from an older copy that lacks {forgotten} grants");
        meta.grants = meta.grants.max(grants);
        self.doubt_all(&mut meta, &why, &mut changes);
        changes.put(Record::Meta(meta));
        changes
    }
}
