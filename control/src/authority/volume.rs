//! Volumes: made, deleted, forgotten (EF-26 in its one-rack form).

use palisade_protocol::wire::limits::{BLOCK, MEMBERS_MAX};
use palisade_protocol::wire::{NodeId, PartitionId};

use super::grant::Grant;
use super::record::{Record, VolumeRecord, VolumeState};
use super::sandbox::spread;
use super::{Authority, Changes};
use crate::api::model::Role;
use crate::config::size::show_size;
use crate::config::{Code, Solo};

/// A volume to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Name.
    pub name: String,
    /// Size, a multiple of 4 KiB.
    pub bytes: u64,
    /// Name of the primary.
    pub primary: String,
    /// Name of the secondary; another head (EF-26).
    pub secondary: Option<String>,
    /// Names of further heads that follow, in order (BA-09); only beside a secondary.
    pub reserves: Vec<String>,
    /// Code and geometry.
    pub code: Code,
    /// Whether one head may serve it alone (P-30).
    pub solo: Solo,
}

/// Why a volume cannot be made or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The name is taken.
    #[error("a volume `{0}` exists already: give another name, or delete it first")]
    Exists(String),
    /// The name is unusable.
    #[error("`{0}` is no name: use 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// No such volume.
    #[error("there is no volume `{0}`; `palisade volume list` shows them")]
    Unknown(String),
    /// No such head.
    #[error("there is no head `{0}`; `palisade status` shows them")]
    NoHead(String),
    /// A head that new volumes stay away from.
    #[error("`{0}` is being drained: name another head, or `palisade head resume {0}`")]
    Draining(String),
    /// A head that volumes have to leave (BA-02).
    #[error("`{0}` is isolating: name another head, or `palisade head rejoin {0}`")]
    Isolating(String),
    /// One head in both roles (EF-26).
    #[error("`{0}` cannot be primary and secondary of one volume, nor any head twice: name other heads")]
    SameHead(String),
    /// Further heads without a second one.
    #[error("volume `{0}` has reserve heads and no secondary: name the first of them as secondary")]
    NoSecondary(String),
    /// More heads than a group has members.
    #[error("volume `{0}` has {1} heads: a group has at most {MEMBERS_MAX} members")]
    TooManyHeads(String, usize),
    /// The size is nothing, or no whole number of blocks.
    #[error("a size of {0} bytes is not a positive multiple of 4096")]
    Size(u64),
    /// Its columns cannot be placed.
    #[error("{0}")]
    Placement(String),
    /// More than the sleds hold.
    #[error(
        "{} with parity do not fit the sleds, which have columns for {}: make it smaller, delete another, or add devices",
        show_size(*wanted), show_size(*room)
    )]
    Capacity {
        /// Bytes with parity.
        wanted: u64,
        /// Bytes that columns hold.
        room: u64,
    },
}

/// Whether a text may name a volume or node: it stands in paths, URIs and metrics.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !name.starts_with('.')
}

impl Authority {
    /// Makes a volume and, when all its heads are up, grants its first number. Asking again for the very same
    /// volume changes at most its policy: the heads are those that it was made with, wherever it is now.
    pub fn create_volume(&self, request: &VolumeRequest) -> Result<Changes, VolumeError> {
        if !is_name(&request.name) {
            return Err(VolumeError::Name(request.name.clone()));
        }
        if request.bytes == 0 || !request.bytes.is_multiple_of(BLOCK as u64) {
            return Err(VolumeError::Size(request.bytes));
        }
        let heads = self.heads_of(request)?;
        let volume = self.shape(request, &heads);
        if let Some(old) = self.volume_by_name(&request.name) {
            let same = VolumeRecord {
                id: old.id,
                epoch: old.epoch,
                counter: old.counter,
                grant: old.grant,
                members: old.members.clone(),
                sandbox: old.sandbox.clone(),
                left: old.left.clone(),
                permissions: old.permissions.clone(),
                moved_ms: old.moved_ms.clone(),
                solo: old.solo,
                alone: old.alone.clone(),
                replacement: old.replacement.clone(),
                doubt: old.doubt.clone(),
                ..volume
            } == *old;
            return if same {
                Ok(old.with_policy(request.solo))
            } else {
                Err(VolumeError::Exists(request.name.clone()))
            };
        }
        for head in heads {
            let node = self.nodes.get(&head.0);
            if node.is_some_and(|node| node.draining) {
                return Err(VolumeError::Draining(self.name_of(head)));
            }
            if node.is_some_and(|node| !node.isolating.is_empty()) {
                return Err(VolumeError::Isolating(self.name_of(head)));
            }
        }
        self.check_room(request)?;
        let mut changes = Changes::default();
        let mut meta = self.meta.clone();
        meta.next_volume += 1;
        let volume = VolumeRecord { sandbox: self.allocate(&volume), ..volume };
        changes.created.push(volume.partition());
        changes.put(Record::Volume(volume.clone()));
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        grant.renew(&volume, "it was made", |id| self.nodes.get(&id.0));
        changes.put(Record::Meta(meta));
        Ok(changes)
    }

    /// The heads of a volume to make, primary first.
    fn heads_of(&self, request: &VolumeRequest) -> Result<Vec<NodeId>, VolumeError> {
        let names = [&request.primary].into_iter().chain(&request.secondary).chain(&request.reserves);
        let mut heads: Vec<NodeId> = Vec::new();
        for name in names {
            let head = self.head_by_name(name)?;
            if heads.contains(&head) {
                return Err(VolumeError::SameHead(name.clone()));
            }
            heads.push(head);
        }
        if request.secondary.is_none() && !request.reserves.is_empty() {
            return Err(VolumeError::NoSecondary(request.name.clone()));
        }
        if heads.len() > MEMBERS_MAX {
            return Err(VolumeError::TooManyHeads(request.name.clone(), heads.len()));
        }
        Ok(heads)
    }

    /// The record of a volume of these heads, primary first.
    fn shape(&self, request: &VolumeRequest, heads: &[NodeId]) -> VolumeRecord {
        VolumeRecord {
            id: self.meta.next_volume,
            name: request.name.clone(),
            bytes: request.bytes,
            k: request.code.data,
            m: request.code.parity,
            unit_bytes: request.code.unit_bytes,
            column_bytes: request.code.column_bytes,
            columns_min: request.code.min_columns,
            shared_shelves: request.code.shared_shelves,
            primary: heads.first().copied().unwrap_or_default(),
            secondary: heads.get(1).map(|head| head.0),
            reserves: heads.iter().skip(2).map(|head| head.0).collect(),
            state: VolumeState::Active,
            epoch: 0,
            counter: 0,
            grant: 0,
            members: Vec::new(),
            sandbox: Vec::new(),
            left: Vec::new(),
            permissions: Vec::new(),
            moved_ms: Vec::new(),
            solo: request.solo,
            alone: None,
            replacement: None,
            doubt: None,
        }
    }

    /// Placement and capacity, as far as the store knows its sleds; a rack without sleds in the store (a
    /// simulator that places by itself) is not judged.
    fn check_room(&self, request: &VolumeRequest) -> Result<(), VolumeError> {
        let sleds = || self.nodes.values().filter(|node| node.role == Role::Sled);
        if sleds().next().is_none() {
            return Ok(());
        }
        let code = &request.code;
        spread(sleds().map(|node| node.shelf.as_str()), code.columns(), code.shared_shelves)
            .map_err(VolumeError::Placement)?;
        let devices = || self.devices.values().filter(|device| !device.log);
        if devices().any(|device| device.columns == 0) {
            return Ok(());
        }
        let room = devices().map(|device| u64::from(device.columns)).sum::<u64>() * code.column_bytes;
        let wanted = request.bytes / u64::from(code.data.max(1)) * code.columns() as u64;
        if wanted > room { Err(VolumeError::Capacity { wanted, room }) } else { Ok(()) }
    }

    fn head_by_name(&self, name: &str) -> Result<NodeId, VolumeError> {
        self.node_by_name(name)
            .filter(|node| node.role == Role::Head)
            .map(|node| node.node)
            .ok_or_else(|| VolumeError::NoHead(name.to_owned()))
    }

    /// Marks a volume for deletion; its primary is told, and reports when its columns are free.
    pub fn delete_volume(&self, name: &str) -> Result<Changes, VolumeError> {
        let volume = self.volume_by_name(name).ok_or_else(|| VolumeError::Unknown(name.to_owned()))?;
        let mut changes = Changes::default();
        changes.deleting.push((volume.current_primary(), volume.partition()));
        changes.put(Record::Volume(VolumeRecord { state: VolumeState::Deleting, ..volume.clone() }));
        Ok(changes)
    }

    /// A head says that a partition is gone there. From the primary that ends the volume: its record stays
    /// as a tombstone and every other head that had it is told to forget it.
    pub fn volume_deleted(&self, head: NodeId, partition: PartitionId) -> Changes {
        let mut changes = Changes::default();
        let Some(volume) = self.volumes.get(&partition.0) else { return changes };
        if volume.current_primary() != head || volume.state != VolumeState::Deleting {
            return changes;
        }
        let others = volume.heads().into_iter().filter(|other| *other != head);
        changes.deleting.extend(others.map(|other| (other, partition)));
        let (state, sandbox) = (VolumeState::Deleted, Vec::new());
        changes.put(Record::Volume(VolumeRecord { state, sandbox, ..volume.clone() }));
        changes
    }
}

impl VolumeRecord {
    /// What it takes to give the volume this policy; its heads are told.
    fn with_policy(&self, solo: Solo) -> Changes {
        let mut changes = Changes::default();
        if self.solo != solo {
            changes.created.push(self.partition());
            changes.put(Record::Volume(VolumeRecord { solo, ..self.clone() }));
        }
        changes
    }
}
