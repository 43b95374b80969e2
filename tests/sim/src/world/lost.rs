//! Logs that are lost, heads that people have isolate, and what may be lost at all (P-03, P-30, BA-02).

use super::{Happening, World};
use crate::host::{Input, Words};
use crate::links::AUTHORITY;
use crate::rack::{blank_log, log_id};
use crate::tally::{Moment, Role};
use palisade_control::authority::{MemberRecord, VolumeRecord};
use palisade_protocol::wire::*;

impl World {
    /// A head's process ended; control sees that, and tells the others (MA-15).
    pub(super) fn gone(&mut self, head: NodeId, words: &[Words]) {
        if !self.scenario.replaces {
            return;
        }
        self.care.said.remove(&head);
        self.care.hollow.retain(|(of, _)| *of != head);
        let hollow = words.iter().filter(|words| words.needs_copy == Some(head));
        self.care.hollow.extend(hollow.map(|words| (head, words.partition)));
        if self.authority_up && self.links.open(head, AUTHORITY) {
            let boot = self.nodes[&head].boot;
            let others = self.ids_of(Role::Head).into_iter().filter(|other| *other != head);
            others.for_each(|other| self.tell_head(other, vec![Input::Gone(head, boot)]));
        }
    }

    /// Who gives a full copy now, and to whom.
    pub(crate) fn copies(&self) -> Vec<(NodeId, NodeId)> {
        let heads = self.nodes.values().filter(|node| node.role == Role::Head);
        let words = heads.filter_map(|node| Some((node.id, node.host.as_ref()?.words().0)));
        let fills =
            words.map(|(giver, words)| words.into_iter().filter_map(move |it| Some((giver, it.fills?))));
        fills.flatten().collect()
    }

    /// Whether what was acknowledged outlives the log of a head: of each volume somebody else holds all of it, or
    /// can take it over from copies on sleds. One is asked now that no decision is under way.
    pub(crate) fn may_lose_log(&self, head: NodeId) -> bool {
        // Who is filled empties its log as soon as it hears of it.
        let copies = self.copies();
        let taken = |head: NodeId| copies.iter().any(|(_, taker)| *taker == head);
        let holds = |volume: &VolumeRecord, member: &MemberRecord| {
            let node = &self.nodes[&member.head];
            let words = node.host.as_ref().map(|host| host.words().0);
            let hollow = match words {
                Some(words) => words
                    .iter()
                    .find(|words| words.partition == volume.partition())
                    .is_none_or(|words| words.needs_copy == Some(member.head)),
                None => self.care.hollow.contains(&(member.head, volume.partition())),
            };
            let whole = node.formatted && log_id(node.id, node.logs_lost) == member.log;
            member.head != head && whole && !hollow && !member.joining && !taken(member.head)
        };
        let survives = |volume: &VolumeRecord| {
            let heir = volume.alone.as_ref().is_some_and(|alone| {
                alone.copies && !alone.salvage && alone.members.iter().any(|heir| holds(volume, heir))
            });
            heir || volume.members.iter().any(|member| holds(volume, member))
        };
        self.deciding.is_none() && self.grants.authority().volumes().all(survives)
    }

    /// A head dies, its log is gone, people give that up, and a blank one takes its place.
    pub(super) fn lose_log(&mut self, head: NodeId, away: u64) {
        if !self.may_lose_log(head) {
            return;
        }
        self.tally.lost_logs += 1;
        self.kill(head, true, Moment::Idle);
        let disk = blank_log(&self.scenario, head);
        let node = self.node_mut(head);
        node.disks[0] = disk;
        node.logs_lost += 1;
        node.formatted = false;
        // What it wished and was not asked about yet never arrives: it would be alone with nothing.
        node.lost_under = Some(node.boot);
        self.care.given_up.insert(head);
        self.after(away, Happening::Start { node: head });
    }

    /// Whether a head may not make a log in the place of one that it lost: nobody gave that up yet.
    pub(super) fn waits_for_people(&self, head: NodeId) -> bool {
        self.care.given_up.contains(&head)
    }

    /// People have heads isolate for a while.
    pub(super) fn mark(&mut self, node: NodeId, all: bool, lasting: u64) {
        self.tally.marks += 1;
        for head in self.ids_of(Role::Head).into_iter().filter(|head| all || *head == node) {
            *self.care.marked.entry(head).or_default() += 1;
        }
        self.after(lasting, Happening::Unmark { node, all });
    }

    pub(super) fn unmark(&mut self, node: NodeId, all: bool) {
        for head in self.ids_of(Role::Head).into_iter().filter(|head| all || *head == node) {
            if let Some(count) = self.care.marked.get_mut(&head) {
                *count = count.saturating_sub(1);
            }
        }
        self.care.marked.retain(|_, count| *count > 0);
    }

    pub(super) fn unmark_all(&mut self) {
        self.care.marked.clear();
    }
}
