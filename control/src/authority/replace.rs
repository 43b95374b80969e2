//! Members that are replaced (MA-20, MA-21, BA-09, EF-19, EF-20): who becomes a candidate, and who leaves.
//!
//! One choice per volume, durable, so that whoever decides next goes on with it. The primary fills the chosen
//! head and vouches for it in an ordinary proposal; only then is it a member. What makes a choice wise (who is
//! away for how long, who has room) is for the caller, who hears of it; here stands what the store can tell.

use palisade_protocol::wire::limits::MEMBERS_MAX;
use palisade_protocol::wire::{Member, NodeId, PartitionId};

use super::grant::Grant;
use super::record::{MemberRecord, NodeRecord, Record, ReplacementRecord, VolumeRecord, VolumeState};
use super::{Authority, Changes};
use crate::api::model::Role;

/// A head that was chosen for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The head.
    pub head: NodeId,
    /// The member that leaves once it is one.
    pub leaving: Option<NodeId>,
    /// Why.
    pub why: String,
    /// By people.
    pub by_hand: bool,
}

/// Why no member is replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// No such volume.
    #[error("there is no replicated volume `{0}`; `palisade volume list` shows them")]
    NoVolume(String),
    /// No such head.
    #[error("there is no head `{0}`; `palisade status` shows them")]
    NoHead(String),
    /// Nobody serves it who could fill another.
    #[error("volume `{0}` was never served: there is nothing to fill a head with")]
    NoGroup(String),
    /// It is a member.
    #[error("`{1}` is a member of volume `{0}` already")]
    Member(String, String),
    /// New copies stay away from it.
    #[error("`{0}` is {1}: name another head, or `palisade head {2} {0}` first")]
    Leaving(String, &'static str, &'static str),
    /// The group has as many members as there can be.
    #[error("volume `{0}` has {MEMBERS_MAX} members: no more fit")]
    Full(String),
    /// Groups since a copy of the store are not known (P-04).
    #[error("volume `{0}` is in doubt, nothing is decided about it: {1}")]
    Doubt(String, String),
    /// Whoever stays would lack acknowledged writes, or nobody stays.
    #[error(
        "`{1}` cannot leave volume `{0}`: nobody else holds all that was acknowledged (SoloByLeave, MA-21)"
    )]
    Needed(String, String),
}

impl VolumeRecord {
    /// Members that it was declared with.
    pub fn wanted(&self) -> usize {
        self.declared().count()
    }

    /// Whether a head may join a group of so many: it was chosen, or it makes the group no larger than declared.
    pub(super) fn awaits(&self, head: NodeId, members: usize) -> bool {
        members <= self.wanted() || self.replacement.as_ref().is_some_and(|chosen| chosen.head == head)
    }

    /// Whether a head is of the newest group.
    pub fn has_member(&self, head: NodeId) -> bool {
        self.members.iter().any(|member| member.head == head)
    }
}

impl Authority {
    /// A head under its present boot, with its log; none before it started.
    pub fn member(&self, head: NodeId) -> Option<Member> {
        let node = self.nodes.get(&head.0).filter(|node| node.role == Role::Head)?;
        Some(Member { head, log: node.log?.0, boot: node.boot?.0 })
    }

    /// Whether a head is marked as isolating (BA-02).
    pub fn isolates(&self, head: NodeId) -> bool {
        self.nodes.get(&head.0).is_some_and(|node| !node.isolating.is_empty())
    }

    /// Whether volumes have to leave a head: it is drained, or it isolates.
    pub fn leaves(&self, head: NodeId) -> bool {
        self.nodes.get(&head.0).is_some_and(|node| node.draining || !node.isolating.is_empty())
    }

    /// A member whose log is another one by now, or was given up: what it held of the volume is gone (P-03).
    pub fn lost_its_log(&self, member: &MemberRecord) -> bool {
        self.nodes.get(&member.head.0).is_none_or(|node| node.log.is_none_or(|log| log.0 != member.log))
    }

    /// Whether a head that is no member holds a copy that may be refilled from the latest operations.
    pub fn may_come_back(&self, volume: &VolumeRecord) -> bool {
        self.may_return(volume).next().is_some()
    }

    /// Heads that are no members and hold such copies.
    pub fn may_return(&self, volume: &VolumeRecord) -> impl Iterator<Item = NodeId> {
        let back = |left: &&MemberRecord| !left.lost && !self.lost_its_log(left) && !self.leaves(left.head);
        volume.left.iter().filter(back).map(|left| left.head)
    }

    /// Whether a head is one of those.
    pub fn may_follow(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        self.may_return(volume).any(|other| other == head)
    }

    /// Heads that may become members of a volume, best first: declared ones, then those on another shelf and
    /// another power than who stays, then those with the fewest volumes.
    pub fn candidates(&self, volume: &VolumeRecord, leaving: Option<NodeId>) -> Vec<NodeId> {
        let stays = |member: &&MemberRecord| Some(member.head) != leaving;
        let stay: Vec<&NodeRecord> =
            volume.members.iter().filter(stays).filter_map(|member| self.nodes.get(&member.head.0)).collect();
        let fit = |node: &&NodeRecord| {
            let free = !volume.has_member(node.node) && !self.leaves(node.node);
            node.role == Role::Head && free && self.member(node.node).is_some()
        };
        let rank = |node: &NodeRecord| {
            let shelf = stay.iter().filter(|other| other.shelf == node.shelf).count();
            let power =
                stay.iter().filter(|other| !node.power.is_empty() && other.power == node.power).count();
            let declared = volume.declared().any(|head| head == node.node);
            let volumes = self.living().filter(|other| other.current().contains(&node.node)).count();
            (!declared, shelf, power, volumes, node.node)
        };
        let mut ranked: Vec<_> = self.nodes.values().filter(fit).map(rank).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., node)| node).collect()
    }

    /// Chooses a head to become a member (MA-21); another choice ends. Its primary is to fill it.
    pub fn replace(
        &self,
        partition: PartitionId,
        chosen: Chosen,
        now_ms: u64,
    ) -> Result<Changes, ReplaceError> {
        let volume = self.volumes.get(&partition.0).filter(|volume| volume.state == VolumeState::Active);
        let volume = volume.ok_or_else(|| ReplaceError::NoVolume(partition.to_string()))?;
        self.doubtless(volume)?;
        let Chosen { head, leaving, why, by_hand } = chosen;
        let name = self.name_of(head);
        let node = self.nodes.get(&head.0).filter(|node| node.role == Role::Head);
        let node = node.ok_or_else(|| ReplaceError::NoHead(name.clone()))?;
        if volume.members.is_empty() {
            return Err(ReplaceError::NoGroup(volume.name.clone()));
        }
        if volume.has_member(head) {
            return Err(ReplaceError::Member(volume.name.clone(), name));
        }
        if volume.members.len() >= MEMBERS_MAX {
            return Err(ReplaceError::Full(volume.name.clone()));
        }
        if node.draining {
            return Err(ReplaceError::Leaving(name, "being drained", "resume"));
        }
        if !node.isolating.is_empty() {
            return Err(ReplaceError::Leaving(name, "isolating", "rejoin"));
        }
        let leaving = leaving.map(|head| head.0);
        let follows = self.may_follow(volume, head);
        let record = ReplacementRecord { head, leaving, why, by_hand, follows, since_ms: now_ms };
        let mut changes = Changes::default();
        let how = if follows { "refilled" } else { "filled" };
        changes.notes.push(format!(
            "volume {}: {} is {how} to become a member: {}",
            volume.name, node.name, record.why
        ));
        changes.created.push(partition);
        changes.put(Record::Volume(VolumeRecord { replacement: Some(record), ..volume.clone() }));
        Ok(changes)
    }

    fn doubtless(&self, volume: &VolumeRecord) -> Result<(), ReplaceError> {
        if volume.in_doubt() {
            return Err(ReplaceError::Doubt(volume.name.clone(), self.doubt_of(volume)));
        }
        Ok(())
    }

    /// Ends a choice. The head that was to be filled is told to forget what it got; one that was a member has a copy
    /// of its own, which may be the only one besides what a lone head left on sleds (P-30).
    pub fn end_replacement(&self, partition: PartitionId, why: &str) -> Changes {
        let mut changes = Changes::default();
        // In doubt: the head may be a member by now.
        let volume = self.volumes.get(&partition.0).filter(|volume| !volume.in_doubt());
        let Some(volume) = volume else { return changes };
        let Some(chosen) = &volume.replacement else { return changes };
        let name = self.name_of(chosen.head);
        changes.notes.push(format!("volume {}: {name} is not filled any more: {why}", volume.name));
        if !volume.has_member(chosen.head) && !chosen.follows {
            changes.forgetting.push((chosen.head, partition));
        }
        changes.put(Record::Volume(VolumeRecord { replacement: None, ..volume.clone() }));
        changes
    }

    /// Grants the group without one of its members, under the next number (MA-20, EF-19). The first of those
    /// who stay and hold all that was acknowledged leads. `lost`: what the member held is gone, so that it
    /// cannot come back as who it was.
    pub fn leave_out(
        &self,
        partition: PartitionId,
        head: NodeId,
        lost: bool,
        why: &str,
    ) -> Result<Changes, ReplaceError> {
        let volume = self.volumes.get(&partition.0).filter(|volume| volume.state != VolumeState::Deleted);
        let volume = volume.ok_or_else(|| ReplaceError::NoVolume(partition.to_string()))?;
        self.doubtless(volume)?;
        let needed = || ReplaceError::Needed(volume.name.clone(), self.name_of(head));
        if !volume.has_member(head) {
            return Ok(Changes::default());
        }
        let primary = volume.current_primary();
        let stay: Vec<MemberRecord> = volume
            .members
            .iter()
            .filter(|member| member.head != head && !self.lost_its_log(member))
            .filter_map(|member| {
                let boot = self.member(member.head)?.boot;
                Some(MemberRecord { boot, ..*member })
            })
            .collect();
        // Who leads stays who leads; else the first that was refilled.
        let whole = |member: &MemberRecord| member.head == primary || !member.joining;
        let first = stay.iter().position(whole).ok_or_else(needed)?;
        let mut members = stay;
        members[..=first].rotate_right(1);
        let (mut changes, mut meta) = (Changes::default(), self.meta.clone());
        let mut grant = Grant { authority: self, meta: &mut meta, changes: &mut changes };
        let mut volume = grant.prepare(volume, members, why.to_owned());
        volume.left.iter_mut().filter(|left| left.head == head).for_each(|left| left.lost |= lost);
        changes.put(Record::Volume(volume));
        changes.put(Record::Meta(meta));
        Ok(changes)
    }

    /// A head says that it cannot be refilled from the latest operations: it does not come back as who it was, and
    /// takes over from no copies of a lone head, which say only what came after what it held (P-30).
    pub fn cannot_follow(&self, head: NodeId, partition: PartitionId) -> Changes {
        let mut changes = Changes::default();
        let Some(before) = self.volumes.get(&partition.0) else { return changes };
        let mut volume = before.clone();
        volume.left.iter_mut().filter(|left| left.head == head).for_each(|left| left.lost = true);
        if volume.current_primary() != head
            && let Some(alone) = volume.alone.as_mut().filter(|alone| alone.lone.head != head)
        {
            alone.members.retain(|heir| heir.head != head);
        }
        if volume != *before {
            changes.put(Record::Volume(volume));
        }
        changes
    }

    /// Copies that heads hold of volumes whose whole group serves without them (MA-21): they are told to
    /// forget those. `well` says whether the primary serves and all its members answer.
    pub fn leftovers(&self, volume: &VolumeRecord) -> Vec<NodeId> {
        let whole = volume.members.len() >= volume.wanted()
            && volume.state == VolumeState::Active
            && volume.replacement.is_none()
            && !volume.in_doubt()
            && volume.members.iter().all(|member| !member.joining);
        let left = volume.left.iter().map(|left| left.head);
        if whole { left.collect() } else { Vec::new() }
    }

    /// A head forgot a partition: it is no member that could come back.
    pub fn forgotten(&self, head: NodeId, partition: PartitionId) -> Changes {
        let mut changes = Changes::default();
        let Some(volume) = self.volumes.get(&partition.0) else { return changes };
        if volume.left.iter().any(|left| left.head == head) {
            let mut volume = volume.clone();
            volume.left.retain(|left| left.head != head);
            changes.put(Record::Volume(volume));
        }
        changes
    }
}
