//! A head booted and asks for numbers (P-01, P-03, P-04, EF-14).

use palisade_protocol::wire::{BootId, LogId, NodeId, Stamp};

use super::grant::Grant;
use super::record::{BootJson, LogJson, NodeRecord, Record, VolumeRecord, VolumeState};
use super::{Authority, Changes};
use crate::api::model::Role;
use crate::identity::{Identity, Known};

/// Boots of a node that are remembered, so that a late word of one is told from a new boot.
const OLD_BOOTS: usize = 16;

/// Why a head gets no numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The store does not know it.
    #[error("node {0} is not in the store")]
    UnknownNode(NodeId),
    /// Only heads serve volumes.
    #[error("node {0} is not a head")]
    NotAHead(String),
    /// A word of an earlier boot that came late.
    #[error("{0} booted again since: this boot is over")]
    OldBoot(String),
    /// Another log than the store knows (P-03).
    #[error(
        "{name} came with log {found}, the store knows {known}: another log is another member; bring the old one back, or give it up with `palisade device replace {name}/log`"
    )]
    OtherLog {
        /// The head.
        name: String,
        /// The log it came with.
        found: LogId,
        /// The log it should have.
        known: LogId,
    },
}

impl Authority {
    /// Grants a new number to every partition of which `head` is a member, to the present group (roles stay
    /// where they moved to) with this boot; where the others went on without it, it comes in behind them.
    /// Asked again by the same boot it repeats what stands, and takes it back in where it was left out
    /// meanwhile (it slept, or could not be reached); else it grants nothing. `held` are the
    /// pairs that the head's log holds; one above the store's shows that the store is an older copy.
    pub fn boot(&self, head: NodeId, boot: BootId, log: LogId, held: &[Stamp]) -> Result<Changes, BootError> {
        self.boot_beside(head, boot, log, held, |_| false)
    }

    /// As [`Authority::boot`]; groups of which `guest` says that the head is not to come in yet, because it is to be
    /// their guest first or their lone head is gone, stay as they are.
    pub fn boot_beside(
        &self,
        head: NodeId,
        boot: BootId,
        log: LogId,
        held: &[Stamp],
        guest: impl Fn(&VolumeRecord) -> bool,
    ) -> Result<Changes, BootError> {
        let node = self.nodes.get(&head.0).ok_or(BootError::UnknownNode(head))?;
        self.check_boot(node, boot, log)?;
        let mut changes = Changes::default();
        let mut meta = self.meta.clone();
        let noticed = self.notice_restore(&mut meta, head, held);
        if let Some(why) = &noticed {
            self.doubt_all(&mut meta, why, &mut changes);
        }
        // A boot that holds more than was granted needs numbers above those, though it has some already.
        if node.boot == Some(BootJson(boot)) && noticed.is_none() {
            changes.assignments = self.standing(head, boot);
            self.take_back(node, guest, &mut changes);
            return Ok(changes);
        }
        let mut node = node.clone();
        if let Some(old) = node.boot.replace(BootJson(boot)).filter(|old| old.0 != boot) {
            node.old_boots.push(old);
            let excess = node.old_boots.len().saturating_sub(OLD_BOOTS);
            node.old_boots.drain(..excess);
        }
        node.log = Some(LogJson(log));
        let lookup = |id: NodeId| if id == head { Some(&node) } else { self.nodes.get(&id.0) };
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        // Once that is noticed nothing is granted before every head was heard.
        let granting = noticed.is_none() || self.faults.doubt_skipped;
        for volume in self.volumes.values().filter(|_| granting) {
            if volume.current().contains(&head) {
                grant.renew(volume, "its heads started", lookup);
            } else if volume.heads().contains(&head) && !guest(volume) {
                grant.rejoin(volume, &node);
            }
        }
        changes.put(Record::Node(node));
        changes.put(Record::Meta(meta));
        Ok(changes)
    }

    /// A head that lives and is of no group that it could be of comes in behind those who are.
    fn take_back(&self, node: &NodeRecord, guest: impl Fn(&VolumeRecord) -> bool, changes: &mut Changes) {
        let mut meta = self.meta.clone();
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut *changes };
        let before = grant.changes.records.len();
        for volume in self.volumes.values() {
            let wants = volume.heads().contains(&node.node) && !volume.current().contains(&node.node);
            if wants && !guest(volume) {
                grant.rejoin(volume, node);
            }
        }
        if changes.records.len() > before {
            changes.put(Record::Meta(meta));
        }
    }

    fn check_boot(&self, node: &NodeRecord, boot: BootId, log: LogId) -> Result<(), BootError> {
        if node.role != Role::Head {
            return Err(BootError::NotAHead(node.name.clone()));
        }
        if node.old_boots.contains(&BootJson(boot)) {
            return Err(BootError::OldBoot(node.name.clone()));
        }
        if self.faults.any_log {
            return Ok(());
        }
        let other = |known: LogId| Err(BootError::OtherLog { name: node.name.clone(), found: log, known });
        if let Some(LogJson(known)) = node.log
            && known != log
        {
            return other(known);
        }
        let registered = self.devices.get(&format!("{}/log", node.name)).map(|device| &device.known);
        match registered {
            Some(Known::Active { id: Identity(id) } | Known::Formatting { id: Identity(id) })
                if *id != log.0 =>
            {
                other(LogId(*id))
            }
            _ => Ok(()),
        }
    }

    /// The pairs that name this boot as a member.
    pub(super) fn standing(&self, head: NodeId, boot: BootId) -> Vec<palisade_protocol::wire::Assignment> {
        let names = |volume: &&VolumeRecord| {
            volume.state != VolumeState::Deleted
                && volume.members.iter().any(|member| member.head == head && member.boot == boot)
        };
        self.volumes.values().filter(names).filter_map(VolumeRecord::assignment).collect()
    }
}
