//! The one place where a number is raised (EF-14): to the heads in their present roles at a boot, to a
//! proposed group, to a group in another order. Roles stand in the last granted group; the rack file
//! declares only the first (EF-28).

use std::hash::Hasher;

use palisade_protocol::wire::{NodeId, Number, PartitionId};
use siphasher::sip::SipHasher24;

use super::record::{
    FORMAT_ROLES, LEFT_MAX, LogJson, MemberRecord, Meta, NodeRecord, Record, VolumeRecord, VolumeState,
};
use super::{Authority, Changes, Faults};

/// A group that came into force, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The volume.
    pub partition: PartitionId,
    /// The number that the group got.
    pub number: Number,
    /// Heads before, primary first; empty before the first grant.
    pub from: Vec<NodeId>,
    /// Heads now.
    pub to: Vec<NodeId>,
    /// Why.
    pub why: String,
}

/// A grant in the making.
pub(super) struct Grant<'a> {
    pub(super) authority: &'a Authority,
    pub(super) meta: &'a mut Meta,
    pub(super) changes: &'a mut Changes,
}

impl Grant<'_> {
    /// The volume under its next number with this group; the caller puts its record. Everybody concerned is
    /// noted in the changes.
    pub(super) fn prepare(
        &mut self,
        volume: &VolumeRecord,
        members: Vec<MemberRecord>,
        why: String,
    ) -> VolumeRecord {
        let (before, first) = (volume, volume.members.is_empty());
        let mut volume = volume.clone();
        volume.replace_members(members);
        if !(self.authority.faults.number_kept && volume.counter > 0) {
            volume.epoch = self.meta.epoch;
            volume.counter += 1;
            self.meta.grants += 1;
            self.meta.format = self.meta.format.max(FORMAT_ROLES);
            assert!(volume.number() > before.number(), "numbers rise (EF-14)");
            volume.grant = grant_id(self.meta.incarnation, self.authority.opening, &volume);
        }
        volume.remember_alone(before);
        self.changes.assignments.extend(volume.assignment());
        let from = if first { Vec::new() } else { before.current() };
        let to = volume.current();
        if from != to {
            if !first {
                self.changes.created.push(volume.partition());
            }
            if !first && volume.state == VolumeState::Deleting && from.first() != to.first() {
                self.changes.deleting.push((volume.current_primary(), volume.partition()));
            }
            let (partition, number) = (volume.partition(), volume.number());
            self.changes.moves.push(Move { partition, number, from, to, why });
        }
        volume
    }

    /// Grants the next number to the present group, if every member has a boot and the log it always had
    /// (P-03). A group is never granted without a member that it had: that would be acknowledging alone
    /// (`SoloByLeave`).
    pub(super) fn renew<'n>(
        &mut self,
        volume: &VolumeRecord,
        why: &str,
        lookup: impl Fn(NodeId) -> Option<&'n NodeRecord>,
    ) {
        if volume.state == VolumeState::Deleted || volume.in_doubt() {
            return;
        }
        if let Some(why) = obstacle(volume, self.authority.faults, &lookup) {
            self.changes.notes.push(format!("volume {} gets no number: {why}", volume.name));
            return;
        }
        let renewed = volume.current().into_iter().filter_map(lookup).filter_map(|node| {
            let known = volume.members.iter().find(|known| known.head == node.node);
            let joining = known.is_some_and(|known| known.joining);
            Some(MemberRecord { head: node.node, log: node.log?.0, boot: node.boot?.0, joining, lost: false })
        });
        let volume = self.prepare(volume, renewed.collect(), why.to_owned());
        self.changes.put(Record::Volume(volume));
    }

    /// A head that started is not of the present group: it joins behind those who are, if the group is short
    /// and it comes with the log that it had as a member (P-03). It is refilled before it may take over.
    pub(super) fn rejoin(&mut self, volume: &VolumeRecord, node: &NodeRecord) {
        let short = volume.members.len() < volume.declared().count();
        // A volume does not come back to where it has to leave (BA-02).
        if !short || volume.state != VolumeState::Active || !node.isolating.is_empty() || volume.in_doubt() {
            return;
        }
        let (Some(log), Some(boot)) = (node.log, node.boot) else { return };
        let same_log =
            |left: &&MemberRecord| left.head == node.node && LogJson(left.log) == log && !left.lost;
        if !volume.left.iter().any(|left| same_log(&left)) {
            self.changes.notes.push(format!(
                "volume {}: {} has another log than when it was a member, or a damaged one: it has to be filled",
                volume.name, node.name
            ));
            return;
        }
        let joiner = MemberRecord { head: node.node, log: log.0, boot: boot.0, joining: true, lost: false };
        let members = volume.members.iter().copied().chain([joiner]).collect();
        let volume = self.prepare(volume, members, format!("{} came back", node.name));
        self.changes.put(Record::Volume(volume));
    }
}

impl VolumeRecord {
    /// Takes a group over and remembers who left.
    pub(super) fn replace_members(&mut self, members: Vec<MemberRecord>) {
        let stays = |head: NodeId| members.iter().any(|member| member.head == head);
        let leaving = self.members.iter().filter(|old| !stays(old.head));
        let mut left = self.left.clone();
        for old in leaving {
            left.retain(|known| known.head != old.head);
            left.push(*old);
        }
        left.retain(|known| !stays(known.head));
        let excess = left.len().saturating_sub(LEFT_MAX);
        left.drain(..excess);
        self.left = left;
        self.members = members;
        let here = |head: NodeId| self.members.iter().any(|member| member.head == head);
        let replaced = self.replacement.take();
        self.replacement = replaced.filter(|chosen| {
            !here(chosen.head) || chosen.leaving.is_some_and(|leaving| here(NodeId(leaving)))
        });
    }
}

/// Why a volume cannot be granted now; for `status`.
pub(super) fn obstacle<'n>(
    volume: &VolumeRecord,
    faults: Faults,
    lookup: impl Fn(NodeId) -> Option<&'n NodeRecord>,
) -> Option<String> {
    for head in volume.current() {
        let Some(node) = lookup(head) else { return Some(format!("head {head} is not in the store")) };
        let (Some(_), Some(LogJson(log))) = (node.boot, node.log) else {
            if faults.lone_group && head != volume.current_primary() {
                continue;
            }
            return Some(format!("{} has not started yet", node.name));
        };
        let before = volume.members.iter().find(|member| member.head == head);
        if let Some(before) = before
            && before.log != log
            && !faults.any_log
        {
            return Some(format!(
                "the log of {} was replaced: it holds nothing of this volume until it is filled from another head",
                node.name
            ));
        }
    }
    None
}

/// Grant ids of two stores, and of two openings of one, differ even for one number (P-04). Never 0.
fn grant_id(incarnation: u64, opening: u64, volume: &VolumeRecord) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(incarnation, volume.id);
    hasher.write_u64(opening);
    hasher.write_u32(volume.epoch);
    hasher.write_u64(volume.counter);
    hasher.finish().max(1)
}
