//! What others may see of the authority: lookups, the roster, partitions as heads need them.

use std::collections::BTreeSet;

use palisade_protocol::wire::{Assignment, BootId, DeviceId, NodeId, PartitionId, RackId};

use super::Authority;
use super::device::active_id;
use super::grant::obstacle;
use super::record::{DeviceRecord, Meta, NodeRecord, VolumeRecord, VolumeState};
use crate::api::model::{DeviceSpec, PartitionSpec};
use crate::config::Solo;

impl Authority {
    /// Identity of the rack.
    pub fn rack(&self) -> RackId {
        self.meta.rack
    }

    /// Rack-wide record.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// Devices and logs by name.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.devices.values()
    }

    /// Volumes by id, deleted ones included.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values()
    }

    /// Volumes that are not gone.
    pub fn living(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values().filter(|volume| volume.state != VolumeState::Deleted)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id.0)
    }

    /// A node by name.
    pub fn node_by_name(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// A volume by partition.
    pub fn volume(&self, partition: PartitionId) -> Option<&VolumeRecord> {
        self.volumes.get(&partition.0)
    }

    /// A volume in use by name.
    pub fn volume_by_name(&self, name: &str) -> Option<&VolumeRecord> {
        self.volumes.values().find(|volume| volume.name == name && volume.state == VolumeState::Active)
    }

    /// The newest pair of a partition.
    pub fn assignment(&self, partition: PartitionId) -> Option<Assignment> {
        self.volumes.get(&partition.0)?.assignment()
    }

    /// The newest pairs of a head, for the boot they were granted to.
    pub fn assignments_of(&self, head: NodeId) -> Vec<Assignment> {
        let boot = self.nodes.get(&head.0).and_then(|node| node.boot).map(|boot| boot.0);
        boot.map_or_else(Vec::new, |boot: BootId| self.standing(head, boot))
    }

    /// The newest pairs of groups that a head has left, so that it hears that it is out, however late.
    pub fn without(&self, head: NodeId) -> Vec<Assignment> {
        let filled = |volume: &VolumeRecord| {
            let chosen = volume.replacement.as_ref().is_some_and(|chosen| chosen.head == head);
            chosen && volume.left.iter().all(|left| left.head != head)
        };
        let out = |volume: &&VolumeRecord| {
            volume.heads().contains(&head) && !volume.current().contains(&head) && !filled(volume)
        };
        self.living().filter(out).filter_map(VolumeRecord::assignment).collect()
    }

    /// Why a volume cannot be granted a number now; none when nothing is in the way.
    pub fn obstacle(&self, volume: &VolumeRecord) -> Option<String> {
        if volume.in_doubt() {
            return Some(self.doubt_of(volume));
        }
        obstacle(volume, self.faults, |id| self.nodes.get(&id.0))
    }

    /// A partition as its member heads need it.
    pub fn partition(&self, partition: PartitionId) -> Option<PartitionSpec> {
        let volume = self.volumes.get(&partition.0).filter(|volume| volume.state != VolumeState::Deleted)?;
        Some(PartitionSpec {
            partition,
            name: volume.name.clone(),
            bytes: volume.bytes,
            k: volume.k,
            m: volume.m,
            unit_bytes: volume.unit_bytes,
            column_bytes: volume.column_bytes,
            columns_min: volume.columns_min,
            primary: volume.current_primary(),
            secondary: volume.second().map(|head| head.0),
            heads: volume.heads().len() as u8,
            solo: if volume.secondary.is_none() { Solo::Local } else { volume.solo },
            devices: self.targets(volume),
            deleting: volume.state == VolumeState::Deleting,
        })
    }

    /// Partitions of a head.
    pub fn partitions_of(&self, head: NodeId) -> Vec<PartitionSpec> {
        self.living()
            .filter(|volume| volume.heads().contains(&head))
            .filter_map(|volume| self.partition(volume.partition()))
            .collect()
    }

    /// Devices with an identity, which may hold columns.
    fn targets(&self, volume: &VolumeRecord) -> Vec<DeviceSpec> {
        let shelves: BTreeSet<&str> = self.nodes.values().map(|node| node.shelf.as_str()).collect();
        let target = |device: &DeviceRecord| {
            let node = self.nodes.get(&device.node.0)?;
            let shelf = node.shelf.as_str();
            let sandbox = volume.sandbox.iter().find(|range| range.device == device.name);
            Some(DeviceSpec {
                sled: device.node,
                device: DeviceId(active_id(device)?.0),
                shelf: shelves.iter().position(|name| *name == shelf)? as u32,
                sandbox: sandbox.map(|range| (range.first, range.last)),
                leave: node.draining,
            })
        };
        self.devices.values().filter(|device| !device.log).filter_map(target).collect()
    }
}
