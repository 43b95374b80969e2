//! Roles that people move: a planned switch-over of a healthy pair, heads that are drained (EF-28). Whether
//! a head is well is for the caller, who hears of it; here stands what the store can tell.

use palisade_protocol::wire::{NodeId, PartitionId};

use super::grant::Grant;
use super::record::{BootJson, MemberRecord, NodeRecord, Record, VolumeRecord, VolumeState};
use super::{Authority, Changes};
use crate::api::model::Role;

/// Why roles do not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// No such volume.
    #[error("there is no replicated volume `{0}`; `palisade volume list` shows them")]
    NoVolume(String),
    /// No such head.
    #[error("there is no head `{0}`; `palisade status` shows them")]
    NoHead(String),
    /// The group has one member, or none yet.
    #[error("volume `{0}` has no second head at present")]
    NoPeer(String),
    /// The second head may lack acknowledged writes (MA-21).
    #[error("`{1}` came back and is not refilled yet: volume `{0}` stays where it is")]
    Joining(String, String),
    /// The second head is being drained.
    #[error("`{1}` is being drained: volume `{0}` stays where it is")]
    Draining(String, String),
    /// No head of it runs alone with copies on sleds.
    #[error("nothing to salvage: no head of volume `{0}` runs alone with copies on sleds")]
    NoCopies(String),
    /// Nobody who was a full member is there.
    #[error("no head that was a full member of volume `{0}` before is there, with the log it had")]
    NoHeir(String),
    /// The second head has to be left, too (BA-02).
    #[error("`{1}` is isolating, too: volume `{0}` stays where it is")]
    Isolating(String, String),
    /// Groups since a copy of the store are not known (P-04).
    #[error("volume `{0}` is in doubt, nothing is decided about it: {1}")]
    Doubt(String, String),
    /// A member started again and has no number yet.
    #[error("`{1}` started again and has no number of volume `{0}` yet")]
    Stale(String, String),
}

impl Authority {
    /// Grants the group of a volume with the next member in front that may lead, under the next number; the
    /// others keep their order. What is in flight at the old primary is finished or given back by the new one's reconciling (P-13).
    pub fn switch_over(&self, name: &str, why: &str) -> Result<Changes, RoleError> {
        let volume = self.volume_by_name(name).ok_or_else(|| RoleError::NoVolume(name.to_owned()))?;
        self.not_in_doubt(volume)?;
        let [first, others @ ..] = volume.members.as_slice() else {
            return Err(RoleError::NoPeer(name.to_owned()));
        };
        self.started(name, first)?;
        let fit: Vec<Result<(), RoleError>> =
            others.iter().map(|other| self.fit_to_lead(name, other)).collect();
        let Some(target) = fit.iter().position(Result::is_ok) else {
            let why = fit.into_iter().find_map(Result::err);
            return Err(why.unwrap_or_else(|| RoleError::NoPeer(name.to_owned())));
        };
        let mut members = volume.members.clone();
        let target = members.remove(target + 1);
        members.insert(0, target);
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        let volume = grant.prepare(volume, members, why.to_owned());
        changes.put(Record::Volume(volume));
        changes.put(Record::Meta(meta));
        Ok(changes)
    }

    pub(super) fn not_in_doubt(&self, volume: &VolumeRecord) -> Result<(), RoleError> {
        if volume.in_doubt() {
            return Err(RoleError::Doubt(volume.name.clone(), self.doubt_of(volume)));
        }
        Ok(())
    }

    /// Whether a member may become the primary.
    fn fit_to_lead(&self, name: &str, member: &MemberRecord) -> Result<(), RoleError> {
        self.started(name, member)?;
        let target = self.name_of(member.head);
        if member.joining {
            return Err(RoleError::Joining(name.to_owned(), target));
        }
        if self.nodes.get(&member.head.0).is_some_and(|node| node.draining) {
            return Err(RoleError::Draining(name.to_owned(), target));
        }
        if self.isolates(member.head) {
            return Err(RoleError::Isolating(name.to_owned(), target));
        }
        Ok(())
    }

    /// Whether a member is under the boot that its number was granted to.
    fn started(&self, name: &str, member: &MemberRecord) -> Result<(), RoleError> {
        let node = self.nodes.get(&member.head.0);
        if node.and_then(|node| node.boot) != Some(BootJson(member.boot)) {
            return Err(RoleError::Stale(name.to_owned(), self.name_of(member.head)));
        }
        Ok(())
    }

    /// Marks a head as being drained, or as in use again. Roles stay where they are (EF-28): moving them
    /// away is a switch-over each, and nothing moves back.
    pub fn set_draining(&self, name: &str, draining: bool) -> Result<Changes, RoleError> {
        let node = self.node_by_name(name).filter(|node| node.role == Role::Head);
        let node = node.ok_or_else(|| RoleError::NoHead(name.to_owned()))?;
        let mut changes = Changes::default();
        if node.draining != draining {
            changes.put(Record::Node(NodeRecord { draining, ..node.clone() }));
        }
        Ok(changes)
    }

    /// Marks a head as isolating, with the reason, or (an empty one) as in use again (BA-02): its volumes are
    /// to leave it and nothing new is placed on it.
    pub fn set_isolating(&self, name: &str, why: &str) -> Result<Changes, RoleError> {
        let node = self.node_by_name(name).filter(|node| node.role == Role::Head);
        let node = node.ok_or_else(|| RoleError::NoHead(name.to_owned()))?;
        let mut changes = Changes::default();
        if node.isolating.is_empty() != why.is_empty() {
            changes.put(Record::Node(NodeRecord { isolating: why.to_owned(), ..node.clone() }));
            changes.isolating.push(node.node);
        }
        Ok(changes)
    }

    /// Volumes in use that a head serves.
    pub fn served_by(&self, head: NodeId) -> impl Iterator<Item = &VolumeRecord> {
        let serves = move |volume: &&VolumeRecord| {
            volume.state == VolumeState::Active && volume.current_primary() == head
        };
        self.volumes.values().filter(serves)
    }

    /// Whether so many moves were made lately that a primary that answers stays in place (MA-17).
    pub fn paused(&self, partition: PartitionId, now_ms: u64) -> bool {
        self.volumes.get(&partition.0).is_some_and(|volume| volume.paused(now_ms))
    }

    /// A node's name, or its number when the store does not know it.
    pub fn name_of(&self, node: NodeId) -> String {
        self.nodes.get(&node.0).map_or_else(|| node.to_string(), |node| node.name.clone())
    }
}
