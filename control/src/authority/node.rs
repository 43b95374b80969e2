//! Nodes and the devices they are declared with.

use palisade_protocol::wire::NodeId;

use super::record::{DeviceRecord, NodeRecord, Record, VolumeRecord, device_key, node_key};
use super::{Authority, Changes};
use crate::api::model::Role;
use crate::identity::Known;

/// A node as the rack file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDeclaration {
    /// Name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Fault domain.
    pub shelf: String,
    /// Fault domain.
    pub power: String,
    /// Its devices; for a head exactly its log.
    pub devices: Vec<DeviceDeclaration>,
}

/// A device as the rack file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDeclaration {
    /// `NODE/0`, `NODE/log`.
    pub name: String,
    /// Columns that it should have; 0 when not known.
    pub columns: u32,
}

/// Why a node cannot be as declared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The name has the other role in the store.
    #[error("`{0}` is a {1} in the store: roles do not change, choose another name")]
    Role(String, &'static str),
    /// It serves volumes or holds devices with data.
    #[error("`{0}` is still in use: {1}")]
    InUse(String, String),
}

impl Authority {
    /// Makes the store know a node and its devices. Empty changes when it does already.
    pub fn declare_node(&self, declared: &NodeDeclaration) -> Result<Changes, NodeError> {
        let mut changes = Changes::default();
        let node = match self.node_by_name(&declared.name) {
            Some(node) if node.role != declared.role => {
                return Err(NodeError::Role(declared.name.clone(), node.role.name()));
            }
            Some(node) => {
                if (&node.shelf, &node.power) != (&declared.shelf, &declared.power) {
                    let (shelf, power) = (declared.shelf.clone(), declared.power.clone());
                    changes.put(Record::Node(NodeRecord { shelf, power, ..node.clone() }));
                }
                node.node
            }
            None => self.new_node(declared, &mut changes),
        };
        for device in &declared.devices {
            let known = self.devices.get(&device.name);
            let same = known.is_some_and(|known| known.columns == device.columns && known.node == node);
            if same {
                continue;
            }
            changes.put(Record::Device(DeviceRecord {
                name: device.name.clone(),
                node,
                log: declared.role == Role::Head,
                columns: device.columns,
                known: known.map_or(Known::Unknown, |known| known.known.clone()),
                trouble: known.map_or(String::new(), |known| known.trouble.clone()),
            }));
        }
        Ok(changes)
    }

    fn new_node(&self, declared: &NodeDeclaration, changes: &mut Changes) -> NodeId {
        let node = NodeId(self.meta.next_node);
        let mut meta = self.meta.clone();
        meta.next_node += 1;
        changes.put(Record::Meta(meta));
        changes.put(Record::Node(NodeRecord {
            name: declared.name.clone(),
            node,
            role: declared.role,
            shelf: declared.shelf.clone(),
            power: declared.power.clone(),
            boot: None,
            log: None,
            old_boots: Vec::new(),
            draining: false,
            isolating: String::new(),
        }));
        node
    }

    /// Forgets a node that nothing needs any more: a head without volumes, or a sled whose devices were
    /// never formatted or were given up.
    pub fn remove_node(&self, name: &str) -> Result<Changes, NodeError> {
        let mut changes = Changes::default();
        let Some(node) = self.node_by_name(name) else { return Ok(changes) };
        let in_use = |why: String| Err(NodeError::InUse(name.to_owned(), why));
        let needs = |volume: &&VolumeRecord| {
            volume.current().contains(&node.node) || volume.declared().any(|head| head == node.node)
        };
        if let Some(volume) = self.living().find(needs) {
            return in_use(format!("volume `{}` is served by it", volume.name));
        }
        if let Some(volume) = self.needs_word_of(node.node) {
            return in_use(format!("volume `{}` is in doubt and waits for its word", volume.name));
        }
        for device in self.devices.values().filter(|device| device.node == node.node) {
            let holds_columns = !device.log && matches!(device.known, Known::Active { .. });
            if holds_columns {
                return in_use(format!(
                    "device `{}` may hold data; give it up with `palisade device replace {}` first",
                    device.name, device.name
                ));
            }
            changes.records.push((device_key(&device.name), None));
        }
        changes.records.push((node_key(name), None));
        Ok(changes)
    }
}
