//! Devices and logs: the "never reformat silently" decision against the store (DESIGN section 1, P-03).

use palisade_protocol::wire::PartitionId;

use super::record::{DeviceRecord, NodeRecord, Record};
use super::{Authority, Changes};
use crate::api::model::Role;
use crate::identity::{Decision, Identity, Known, Medium, decide};

/// Why a device request fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such device.
    #[error("the store knows no device `{0}`; `palisade device list` shows them")]
    Unknown(String),
    /// No such sled.
    #[error("there is no sled `{0}`; `palisade status` shows them")]
    NoSled(String),
    /// A confirmation of a format that was not decided.
    #[error("device `{0}` was not to be formatted with identity {1}")]
    NotDecided(String, Identity),
    /// Its log may be the only one that has acknowledged writes.
    #[error(
        "`{0}` cannot be given up now: volume `{1}` is in doubt since the store was put back, and this log may hold writes that nobody else has; bring its head up, or go on without it with `palisade volume settle {1} --without {2}`"
    )]
    Doubt(String, String, String),
    /// It may hold copies of what a lone head that is away acknowledged (P-30).
    #[error(
        "`{0}` cannot be given up now: {2} served volume `{1}` alone, with copies on sleds, and is away; a blank device in this place would count as asked though copies were on it. Bring {2} back, or take its copies over first (`palisade volume salvage {1}`)"
    )]
    Copies(String, String, String),
    /// It is the log of the last head that can take over from a lone head's copies (P-30).
    #[error(
        "`{0}` cannot be given up now: {2} served volume `{1}` alone, with copies on sleds, and is away; only this log holds what came before those. Bring {2} back, or take its copies over first (`palisade volume salvage {1}`)"
    )]
    Heir(String, String, String),
    /// The device was never formatted.
    #[error("device `{0}` was never formatted, there is nothing to replace")]
    Fresh(String),
}

impl Authority {
    /// What to do with the medium found in a device's place. `fresh` is a random identity to use if it is
    /// to be formatted.
    pub fn decide_device(
        &self,
        name: &str,
        medium: &Medium,
        fresh: Identity,
    ) -> Result<(Decision, Changes), DeviceError> {
        let device = self.devices.get(name).ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
        let owner = match medium {
            Medium::Ours { id } => self.devices.values().find(|other| active_id(other) == Some(*id)),
            _ => None,
        };
        let mut changes = Changes::default();
        let mut decision = decide(&device.known, medium, fresh);
        if let (Some(owner), Medium::Ours { id }) = (owner, medium)
            && owner.name != device.name
        {
            decision = self.moved(device, owner, *id, &mut changes);
        }
        let mut after = device.clone();
        after.trouble.clear();
        match &decision {
            Decision::Format { id } => after.known = Known::Formatting { id: *id },
            Decision::Open { id } => after.known = Known::Active { id: *id },
            Decision::Missing { why } | Decision::Refuse { why } => after.trouble = why.clone(),
        }
        if after != *device {
            if after.known != device.known {
                changes.devices = self.partitions();
            }
            changes.put(Record::Device(after));
        }
        Ok((decision, changes))
    }

    /// A sled device may move to another place of the rack (its columns travel with it); a head's log may
    /// not, because groups name (head, log).
    fn moved(
        &self,
        device: &DeviceRecord,
        owner: &DeviceRecord,
        id: Identity,
        changes: &mut Changes,
    ) -> Decision {
        if device.log || owner.log {
            let why =
                format!("it carries the identity of `{}`: a log belongs to its head (P-03)", owner.name);
            return Decision::Refuse { why };
        }
        if let Known::Active { id: own } = device.known {
            let why = format!(
                "it carries the identity of `{}`, while {own} is expected here; give that one up with `palisade device replace {}`",
                owner.name, device.name
            );
            return Decision::Refuse { why };
        }
        let known = Known::Replacing { old: id, force: false };
        let trouble = format!("moved to `{}`", device.name);
        changes.put(Record::Device(DeviceRecord { known, trouble, ..owner.clone() }));
        changes.notes.push(format!("device {id} moved from `{}` to `{}`", owner.name, device.name));
        Decision::Open { id }
    }

    /// The node formatted the device as decided.
    pub fn device_formatted(&self, name: &str, id: Identity) -> Result<Changes, DeviceError> {
        let device = self.devices.get(name).ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
        let mut changes = Changes::default();
        match &device.known {
            Known::Active { id: known } if *known == id => {}
            Known::Formatting { id: known } if *known == id => {
                changes.put(Record::Device(DeviceRecord {
                    known: Known::Active { id },
                    trouble: String::new(),
                    ..device.clone()
                }));
                changes.devices = self.partitions();
            }
            _ => return Err(DeviceError::NotDecided(name.to_owned(), id)),
        }
        Ok(changes)
    }

    /// The operator gives a device up: what comes in its place may be formatted, over a foreign signature
    /// only with `force`. Giving up a head's log makes the head a new member (P-03).
    pub fn replace_device(&self, name: &str, force: bool) -> Result<Changes, DeviceError> {
        let device = self.devices.get(name).ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
        let old = match &device.known {
            Known::Active { id } | Known::Formatting { id } => *id,
            Known::Replacing { old, .. } => *old,
            Known::Unknown => return Err(DeviceError::Fresh(name.to_owned())),
        };
        if device.log
            && let Some(volume) = self.needs_word_of(device.node)
        {
            let head = self.name_of(device.node);
            return Err(DeviceError::Doubt(name.to_owned(), volume.name.clone(), head));
        }
        let mut changes = Changes::default();
        let known = Known::Replacing { old, force };
        changes.put(Record::Device(DeviceRecord { known, ..device.clone() }));
        if device.log
            && let Some(node) = self.nodes.get(&device.node.0)
        {
            let mut node = node.clone();
            node.log = None;
            node.old_boots.extend(node.boot.take());
            changes.put(Record::Node(node));
        }
        changes.devices = self.partitions();
        Ok(changes)
    }

    /// Marks a sled as being drained, or as in use again (EF-23): heads place no new columns on it and move
    /// what lies there elsewhere.
    pub fn drain_sled(&self, name: &str, draining: bool) -> Result<Changes, DeviceError> {
        let node = self.node_by_name(name).filter(|node| node.role == Role::Sled);
        let node = node.ok_or_else(|| DeviceError::NoSled(name.to_owned()))?;
        let mut changes = Changes::default();
        if node.draining != draining {
            changes.put(Record::Node(NodeRecord { draining, ..node.clone() }));
            changes.devices = self.partitions();
        }
        Ok(changes)
    }

    /// Words with the names of devices in the place of their identities.
    pub fn name_devices(&self, what: &str) -> String {
        let mut what = what.to_owned();
        for device in self.devices.values() {
            let id = active_id(device).map(|id| id.to_string());
            if let Some(id) = id.filter(|id| what.contains(id)) {
                what = what.replace(&id, &device.name);
            }
        }
        what
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.living().map(|volume| volume.partition()).collect()
    }
}

/// The identity of a device that may hold data.
pub(super) fn active_id(device: &DeviceRecord) -> Option<Identity> {
    match device.known {
        Known::Active { id } | Known::Formatting { id } => Some(id),
        _ => None,
    }
}
