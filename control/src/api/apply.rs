//! Applying a rack file: what it declares and the store lacks is made, what both have is left alone, what
//! only the store has is named, and removed only with `prune` (DESIGN section 1).

use palisade_protocol::sled::format::{FormatError, FormatSpec, Superblock};
use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::{DeviceId, RackId};
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::model::{Command, Role};
use super::rpc::RpcError;
use crate::authority::{DeviceDeclaration, NodeDeclaration, VolumeRequest, VolumeState};
use crate::config::{Code, Device, Rack, Solo, Volume, VolumeKind};

/// What applying a file did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Applied {
    /// Made now (`volume vol0`, `node sled-7`).
    pub created: Vec<String>,
    /// Whose policy is another one now.
    pub changed: Vec<String>,
    /// As they were.
    pub unchanged: Vec<String>,
    /// Removed because the file does not name them.
    pub pruned: Vec<String>,
    /// Where file and store part and nothing was done, with the reason.
    pub parted: Vec<String>,
    /// New nodes that start with the next `up`.
    pub needs_start: Vec<String>,
}

/// Pages of partition records that sled devices are formatted with: room for several thousand partitions.
pub const RECORD_PAGES: u32 = 64;

/// How a sled would lay a device of the file out.
pub fn layout_of(device: &Device, code: &Code) -> Result<Superblock, FormatError> {
    Superblock::plan(&FormatSpec {
        rack: RackId(0),
        device: DeviceId(0),
        device_bytes: device.size_bytes,
        column_bytes: code.column_bytes,
        unit_bytes: u32::try_from(code.unit_bytes).unwrap_or(u32::MAX),
        record_pages: RECORD_PAGES,
    })
}

/// Columns that a device of the file will have; 0 when that is not known before it is opened.
pub fn columns_of(device: &Device, code: &Code) -> u32 {
    layout_of(device, code).map_or(0, |layout| layout.columns)
}

/// The nodes of a file as the authority takes them.
pub fn declarations(rack: &Rack) -> Vec<NodeDeclaration> {
    let heads = rack.heads.iter().map(|head| NodeDeclaration {
        name: head.name.clone(),
        role: Role::Head,
        shelf: head.shelf.clone(),
        power: head.power.clone(),
        devices: vec![DeviceDeclaration { name: head.log.name.clone(), columns: 0 }],
    });
    let sleds = rack.sleds.iter().map(|sled| NodeDeclaration {
        name: sled.name.clone(),
        role: Role::Sled,
        shelf: sled.shelf.clone(),
        power: sled.power.clone(),
        devices: sled
            .devices
            .iter()
            .map(|device| DeviceDeclaration {
                name: device.name.clone(),
                columns: columns_of(device, &rack.code),
            })
            .collect(),
    });
    heads.chain(sleds).collect()
}

/// A volume of a file as the authority takes it; none for a bare one.
pub fn request_of(volume: &Volume) -> Option<VolumeRequest> {
    let VolumeKind::Replicated { primary, secondary, reserves, code, solo } = &volume.kind else {
        return None;
    };
    Some(VolumeRequest {
        name: volume.name.clone(),
        bytes: volume.size_bytes,
        primary: primary.clone(),
        secondary: secondary.clone(),
        reserves: reserves.clone(),
        code: *code,
        solo: *solo,
    })
}

impl Core {
    /// Applies a file to the store and the running nodes.
    pub fn apply(&mut self, rack: Rack, prune: bool) -> Result<Applied, RpcError> {
        let mut applied = Applied::default();
        let running: Vec<String> = self.node_names(&self.rack);
        for declared in declarations(&rack) {
            let what = format!("node {}", declared.name);
            let fresh = self.authority.node_by_name(&declared.name).is_none();
            match self.authority.declare_node(&declared) {
                Ok(changes) => self.carry_out(&changes)?,
                Err(error) => {
                    applied.parted.push(error.to_string());
                    continue;
                }
            }
            if !running.contains(&declared.name) {
                applied.needs_start.push(what.clone());
            }
            if fresh { applied.created.push(what) } else { applied.unchanged.push(what) }
        }
        for volume in &rack.volumes {
            self.apply_volume(volume, &mut applied)?;
        }
        self.part_or_prune(&rack, prune, &mut applied)?;
        self.rack = rack;
        let roster = self.roster();
        self.broadcast(&Command::Roster { roster });
        Ok(applied)
    }

    fn node_names(&self, rack: &Rack) -> Vec<String> {
        let heads = rack.heads.iter().map(|head| head.name.clone());
        heads.chain(rack.sleds.iter().map(|sled| sled.name.clone())).collect()
    }

    fn apply_volume(&mut self, volume: &Volume, applied: &mut Applied) -> Result<(), RpcError> {
        let what = format!("volume {}", volume.name);
        let Some(request) = request_of(volume) else {
            applied.unchanged.push(format!("{what} (bare: it lives in its process only)"));
            return Ok(());
        };
        match self.authority.create_volume(&request) {
            Ok(changes) if changes.records.is_empty() => applied.unchanged.push(what),
            Ok(changes) => {
                let fresh = self.authority.volume_by_name(&volume.name).is_none();
                self.carry_out(&changes)?;
                let list = if fresh { &mut applied.created } else { &mut applied.changed };
                list.push(what);
            }
            Err(crate::authority::VolumeError::Exists(name)) => {
                applied.parted.push(self.how_it_parts(&name, &request));
            }
            Err(error) => applied.parted.push(format!("{what}: {error}")),
        }
        Ok(())
    }

    fn how_it_parts(&self, name: &str, wanted: &VolumeRequest) -> String {
        let Some(volume) = self.authority.volume_by_name(name) else {
            return format!("volume {name} is not in the store");
        };
        let node = |id| self.authority.node(id).map_or_else(String::new, |node| node.name.clone());
        let secondary = volume.secondary.map(|id| node(palisade_protocol::wire::NodeId(id)));
        let mut parts = Vec::new();
        let mut part = |key: &str, file: String, store: String| {
            if file != store {
                parts.push(format!("{key} is {file} in the file and {store} in the rack"));
            }
        };
        part("size", wanted.bytes.to_string(), volume.bytes.to_string());
        part("primary", wanted.primary.clone(), node(volume.primary));
        part("secondary", wanted.secondary.clone().unwrap_or_default(), secondary.unwrap_or_default());
        let reserves = volume.reserves.iter().map(|id| node(palisade_protocol::wire::NodeId(*id)));
        part("reserves", wanted.reserves.join(", "), reserves.collect::<Vec<_>>().join(", "));
        part(
            "code",
            format!("{}+{}", wanted.code.data, wanted.code.parity),
            format!("{}+{}", volume.k, volume.m),
        );
        part("unit", wanted.code.unit_bytes.to_string(), volume.unit_bytes.to_string());
        part("column", wanted.code.column_bytes.to_string(), volume.column_bytes.to_string());
        format!("volume {name}: {} (a volume keeps what it was made with)", parts.join(", "))
    }

    fn part_or_prune(&mut self, rack: &Rack, prune: bool, applied: &mut Applied) -> Result<(), RpcError> {
        let extra: Vec<String> = self
            .authority
            .living()
            .filter(|volume| volume.state == VolumeState::Active && rack.volume(&volume.name).is_none())
            .map(|volume| volume.name.clone())
            .collect();
        for name in extra {
            if !prune {
                applied.parted.push(format!(
                    "volume {name} is in the rack but not in the file: add it, or remove it with `palisade apply --prune`"
                ));
                continue;
            }
            let changes =
                self.authority.delete_volume(&name).map_err(|error| RpcError::refused(error.to_string()))?;
            self.carry_out(&changes)?;
            applied.pruned.push(format!("volume {name}"));
        }
        let named = self.node_names(rack);
        let extra: Vec<String> = self
            .authority
            .nodes()
            .map(|node| node.name.clone())
            .filter(|name| !named.contains(name))
            .collect();
        for name in extra {
            if !prune {
                applied.parted.push(format!("node {name} is in the rack but not in the file"));
                continue;
            }
            match self.authority.remove_node(&name) {
                Ok(changes) => {
                    self.carry_out(&changes)?;
                    applied.pruned.push(format!("node {name}"));
                }
                Err(error) => applied.parted.push(error.to_string()),
            }
        }
        Ok(())
    }

    /// A volume made at run time: sizes and code default to the rack's.
    pub(super) fn volume_request(
        &self,
        name: String,
        bytes: u64,
        primary: Option<String>,
        secondary: Option<String>,
        reserves: Vec<String>,
    ) -> Result<VolumeRequest, RpcError> {
        if !bytes.is_multiple_of(BLOCK as u64) {
            return Err(RpcError::refused(format!("a size of {bytes} bytes is not a multiple of 4096")));
        }
        let heads = self.heads_by_load();
        let primary = match primary {
            Some(name) => name,
            None => heads
                .iter()
                .find(|head| secondary.as_ref() != Some(head) && !reserves.contains(head))
                .cloned()
                .ok_or_else(|| RpcError::refused("the rack has no head for it"))?,
        };
        let free = |head: &&String| **head != primary && !reserves.contains(head);
        let secondary = secondary.or_else(|| heads.iter().find(free).cloned());
        let (code, solo) = (self.rack.code, Solo::default());
        Ok(VolumeRequest { name, bytes, primary, secondary, reserves, code, solo })
    }

    /// Heads that take new volumes, those with the fewest first (EF-26): a primary counts twice.
    fn heads_by_load(&self) -> Vec<String> {
        let load = |node: palisade_protocol::wire::NodeId| {
            self.authority.living().fold(0, |sum, volume| {
                let rank = volume.current().iter().position(|head| *head == node);
                sum + rank.map_or(0, |rank| if rank == 0 { 2 } else { 1 })
            })
        };
        let heads = self
            .authority
            .nodes()
            .filter(|node| node.role == Role::Head && !self.authority.leaves(node.node));
        let mut heads: Vec<_> = heads.map(|node| (load(node.node), node.node, node.name.clone())).collect();
        heads.sort();
        heads.into_iter().map(|(_, _, name)| name).collect()
    }
}
