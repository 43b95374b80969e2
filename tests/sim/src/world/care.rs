//! Control's part beside the authority, where members are replaced (MA-20, MA-21, BA-02, EF-19): it hears heads,
//! and does about groups what `palisade_control::api` does (`replace`, `moving`, `alone`), with the shipping
//! authority's decisions, under virtual time and with shorter patience. What it remembers is gone when it dies.

use super::{Happening, World};
use crate::grants::{head_name, log_name, volume_name};
use crate::host::{Input, Words};
use crate::links::AUTHORITY;
use crate::tally::Role;
use palisade_control::authority::{Changes, Chosen, MemberRecord, Rests, VolumeRecord};
use palisade_protocol::head::RoleState;
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two reports of a head, in nanoseconds.
const REPORT_NS: u64 = 30_000_000;
/// Who said nothing for so long is away.
const PATIENCE: Duration = Duration::from_millis(150);
/// A member that was away for so long is replaced; a lone head is followed.
const REPLACE_AFTER: Duration = Duration::from_millis(300);
const SALVAGE_AFTER: Duration = Duration::from_millis(200);
/// Before a command that was not followed is said again.
const SAY_AGAIN: Duration = Duration::from_millis(200);
/// A chosen head that was away for so long is replaced by another.
const CANDIDATE_PATIENCE: Duration = Duration::from_millis(400);

/// Last words of a head.
#[derive(Debug)]
pub(super) struct Said {
    boot: BootId,
    heard: Time,
    words: Vec<Words>,
    room: u64,
}

/// What control remembers of heads and groups, and what people want of it.
#[derive(Debug, Default)]
pub(super) struct Care {
    pub(super) said: BTreeMap<NodeId, Said>,
    rests: Rests,
    /// Since when a volume lacks a member, and since when a lone head is away.
    lacks: BTreeMap<u64, Time>,
    lone_gone: BTreeMap<NodeId, Time>,
    /// Since when the chosen head of a volume is away.
    absent: BTreeMap<u64, (NodeId, Time)>,
    told: BTreeMap<(u64, NodeId), Time>,
    /// Heads that people have isolate, by how often they asked; and whose logs they gave up.
    pub(super) marked: BTreeMap<NodeId, u32>,
    pub(super) given_up: BTreeSet<NodeId>,
    /// Partitions of which a dead head held nothing whole.
    pub(super) hollow: BTreeSet<(NodeId, PartitionId)>,
}

/// What a group lacks: why, who leaves once another is there, and whether nobody comes back by itself.
struct Lack {
    why: String,
    leaving: Option<NodeId>,
    at_once: bool,
}

/// What is to be done about a volume.
#[allow(clippy::large_enum_variant)] // Made and taken once a look; boxing would cost more.
enum Step {
    Decide(Changes),
    Fill,
    Forget(NodeId),
    Nothing,
}

/// Changes, if there are any.
fn some(changes: Changes) -> Option<Changes> {
    (!changes.records.is_empty()).then_some(changes)
}

impl World {
    /// A head tells control how it is, again and again.
    pub(super) fn report(&mut self, head: NodeId, life: u64) {
        let node = &self.nodes[&head];
        let Some(host) = node.host.as_ref().filter(|_| node.life == life) else { return };
        if node.asleep.is_none() && self.links.open(head, AUTHORITY) {
            let ((words, room), boot) = (host.words(), node.boot);
            let travel = self.net_dice.range(50_000, 2_000_000);
            self.after(travel, Happening::Said { head, boot, words, room });
        }
        self.after(REPORT_NS, Happening::Report { head, life });
    }

    /// Control hears a head, and does what is due: one decision at a time.
    pub(super) fn said(&mut self, head: NodeId, boot: BootId, words: Vec<Words>, room: u64) {
        if !self.authority_up {
            return;
        }
        let heard = self.now;
        self.care.said.insert(head, Said { boot, heard, words, room });
        if self.deciding.is_some() {
            return;
        }
        let due = self.wished().or_else(|| self.note_damage(head)).or_else(|| self.take_back(head));
        if let Some(changes) = due.or_else(|| self.follow_lone()).or_else(|| self.look_after_groups()) {
            self.store(changes.into());
        }
    }

    /// What people asked for: heads that isolate, logs that are given up. They ask until it is done.
    fn wished(&mut self) -> Option<Changes> {
        let authority = self.grants.authority();
        let wrong = |head: &NodeId| authority.isolates(*head) != self.care.marked.contains_key(head);
        if let Some(head) = self.ids_of(Role::Head).into_iter().find(wrong) {
            let why = if self.care.marked.contains_key(&head) { "asked for by hand" } else { "" };
            return authority.set_isolating(&head_name(head), why).ok().and_then(some);
        }
        // They ask until it is durable that the log is given up.
        self.care.given_up.retain(|head| authority.node(*head).is_some_and(|node| node.log.is_some()));
        let mut given_up = self.care.given_up.iter();
        given_up.find_map(|head| authority.replace_device(&log_name(*head), false).ok().and_then(some))
    }

    /// A head that holds nothing whole cannot come back from what it has.
    fn note_damage(&self, head: NodeId) -> Option<Changes> {
        let own = |words: &&Words| words.needs_copy == Some(head);
        let damaged = self.care.said[&head].words.iter().filter(own);
        damaged.map(|words| self.grants.authority().cannot_follow(head, words.partition)).find_map(some)
    }

    /// A head that was left out comes in again, after its rest.
    fn take_back(&mut self, head: NodeId) -> Option<Changes> {
        let authority = self.grants.authority();
        let record = authority.node(head)?;
        let (boot, log) = (record.boot?.0, record.log?.0);
        if self.care.said[&head].boot != boot {
            return None;
        }
        let out = |volume: &VolumeRecord| self.waits_for_lone(volume, head);
        let changes = authority.boot_beside(head, boot, log, &[], out).ok().and_then(some)?;
        let now = self.now.since(self.began);
        if self.care.rests.rests(head, now) {
            self.tally.rested += 1;
            return None;
        }
        self.care.rests.taken_back(head, now);
        self.tally.taken_back += 1;
        Some(changes)
    }

    fn can_serve(&self, volume: &VolumeRecord) -> bool {
        let lost = volume.members.first().is_some_and(|lone| self.grants.authority().lost_its_log(lone));
        self.is_heard(volume.current_primary()) && !lost
    }

    /// Nobody comes in behind a lone head that is gone: who could take over from its copies could not any more. Where
    /// no log is ever lost, it comes back.
    pub(super) fn waits_for_lone(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        let lone = self.scenario.replaces && volume.copies() && volume.current_primary() != head;
        lone && !self.can_serve(volume)
    }

    /// Lone heads with copies on sleds that are away, or came back with another log, are followed (P-30).
    fn follow_lone(&mut self) -> Option<Changes> {
        let authority = self.grants.authority();
        let gone: Vec<(NodeId, u64)> = authority
            .salvageable()
            .filter(|volume| !self.can_serve(volume))
            .map(|volume| (volume.current_primary(), volume.id))
            .collect();
        self.care.lone_gone.retain(|head, _| gone.iter().any(|(other, _)| other == head));
        let now = self.now;
        gone.into_iter().find_map(|(head, id)| {
            let since = *self.care.lone_gone.entry(head).or_insert(now);
            let due = now.since(since) >= SALVAGE_AFTER;
            let well = |member: &MemberRecord| self.is_heard(member.head);
            let name = volume_name(PartitionId(id));
            let changes = due.then(|| self.grants.authority().salvage(&name, "gone", well).ok());
            changes.flatten().and_then(some)
        })
    }

    fn look_after_groups(&mut self) -> Option<Changes> {
        let volumes: Vec<VolumeRecord> =
            self.grants.authority().volumes().filter(|volume| !volume.members.is_empty()).cloned().collect();
        for volume in volumes {
            match self.look_after(&volume) {
                Step::Decide(changes) => return Some(changes),
                Step::Fill => {
                    self.care.told.insert((volume.id, volume.current_primary()), self.now);
                    self.tell_fill(&volume);
                }
                Step::Forget(head) => {
                    self.care.told.insert((volume.id, head), self.now);
                    self.tell_head(head, vec![Input::Forget(volume.partition())]);
                }
                Step::Nothing => {}
            }
        }
        None
    }

    fn look_after(&mut self, volume: &VolumeRecord) -> Step {
        if let Some(changes) = self.urgent(volume) {
            return some(changes).map_or(Step::Nothing, Step::Decide);
        }
        let lack = self.lack(volume);
        let now = self.now;
        let since = match &lack {
            Some(_) => *self.care.lacks.entry(volume.id).or_insert(now),
            None => {
                self.care.lacks.remove(&volume.id);
                now
            }
        };
        self.decide(volume, lack, since)
    }

    /// What does not wait for anybody to come back; empty: it has to be done and cannot be now.
    fn urgent(&self, volume: &VolumeRecord) -> Option<Changes> {
        let authority = self.grants.authority();
        let partition = volume.partition();
        let leave_out = |head, lost| authority.leave_out(partition, head, lost, "sim").unwrap_or_default();
        let primary = volume.current_primary();
        let runs_on =
            |member: &MemberRecord| self.care.said.get(&member.head).is_some_and(|it| it.boot == member.boot);
        let lost = volume.members.iter().find(|member| authority.lost_its_log(member) && !runs_on(member));
        if let Some(lost) = lost {
            return Some(leave_out(lost.head, true));
        }
        let joining = volume.members.iter().any(|member| member.joining);
        let leaving = volume.replacement.as_ref().filter(|chosen| volume.has_member(chosen.head));
        if let Some(chosen) = leaving.filter(|_| !joining) {
            let leaving = NodeId(chosen.leaving?);
            return Some(if leaving == primary { self.switch(volume) } else { leave_out(leaving, false) });
        }
        if volume.members.len() > volume.wanted() && volume.replacement.is_none() && !joining {
            let spare = |head: &NodeId| volume.declared().all(|declared| declared != *head);
            let rest = || volume.members.iter().skip(1).map(|member| member.head);
            return Some(leave_out(rest().rfind(spare).or_else(|| rest().next_back())?, false));
        }
        let void = |it: &Words| it.needs_copy == Some(primary) && it.number == Number::ZERO;
        if volume.is_back() && self.said_of(volume, primary).is_some_and(void) {
            return Some(authority.give_back(partition, "sim").unwrap_or_default());
        }
        let damaged = self.said_of(volume, primary).is_some_and(|it| it.needs_copy == Some(primary));
        let whole = |head: NodeId| {
            self.said_of(volume, head)
                .is_some_and(|it| it.role == RoleState::Following && it.needs_copy.is_none())
        };
        let other = volume.members.iter().skip(1).find(|member| !member.joining && whole(member.head));
        if damaged && other.is_some() {
            return Some(leave_out(primary, true));
        }
        let moves = authority.leaves(primary) && !joining && other.is_some();
        let to = volume.members.iter().skip(1).find(|other| !authority.leaves(other.head));
        (moves && to.is_some()).then(|| self.switch(volume))
    }

    /// A switch-over of a group that is well, or nothing.
    fn switch(&self, volume: &VolumeRecord) -> Changes {
        let well = volume.current().iter().all(|head| self.is_heard(*head));
        let said = self.said_of(volume, volume.current_primary());
        let serves = said.is_some_and(|it| it.role == RoleState::Serving && !it.peer_away);
        let changes = self.grants.authority().switch_over(&volume.name, "sim").ok();
        changes.filter(|_| well && serves).unwrap_or_default()
    }

    /// What the group of a volume lacks now, by the words of its primary.
    fn lack(&self, volume: &VolumeRecord) -> Option<Lack> {
        let authority = self.grants.authority();
        let primary = volume.current_primary();
        let mut others = volume.members.iter().skip(1).map(|member| member.head);
        if let Some(head) = others.clone().find(|head| authority.leaves(*head)) {
            return Some(Lack { why: format!("{head} isolates"), leaving: Some(head), at_once: true });
        }
        if volume.members.len() < volume.wanted() {
            let at_once = !authority.may_come_back(volume) || authority.leaves(primary);
            return Some(Lack { why: "short".to_owned(), leaving: None, at_once });
        }
        let said = self.said_of(volume, primary)?;
        let held_up = said.peer_away || said.needs_copy.is_some_and(|head| head != primary);
        let filled = said.fills.is_some_and(|head| volume.has_member(head));
        if !held_up || filled || !matches!(said.role, RoleState::Serving | RoleState::Reconciling) {
            return None;
        }
        let asked = said.needs_copy.filter(|head| others.clone().any(|other| other == *head));
        let silent = others.clone().find(|head| !self.is_heard(*head));
        let only = (volume.members.len() == 2).then(|| others.next()).flatten();
        let away = asked.or(silent).or(only)?;
        Some(Lack { why: format!("{away} is away"), leaving: Some(away), at_once: false })
    }

    fn decide(&mut self, volume: &VolumeRecord, lack: Option<Lack>, since: Time) -> Step {
        let partition = volume.partition();
        if let Some(chosen) = &volume.replacement {
            if lack.is_none() {
                let changes = self.grants.authority().end_replacement(partition, "it lacks nothing");
                return Step::Decide(changes);
            }
            return self.follow_up(volume, chosen.head);
        }
        let said = self.said_of(volume, volume.current_primary());
        let Some(Lack { why, leaving, at_once }) = lack else {
            let well = said.is_some_and(|it| it.role == RoleState::Serving && !it.peer_away);
            let due = |head: &NodeId| well && self.is_heard(*head) && self.may_say(volume, *head);
            let leftovers = self.grants.authority().leftovers(volume);
            return leftovers.into_iter().find(due).map_or(Step::Nothing, Step::Forget);
        };
        if !at_once && self.now < since + REPLACE_AFTER {
            return Step::Nothing;
        }
        if let (Some(away), Some(RoleState::Reconciling)) = (leaving, said.map(|it| it.role)) {
            let changes = self.grants.authority().leave_out(partition, away, false, &why);
            return changes.ok().and_then(some).map_or(Step::Nothing, Step::Decide);
        }
        self.choose(volume, leaving, why, None).map_or(Step::Nothing, Step::Decide)
    }

    /// A head was chosen: it is filled, or another one is chosen when it is away for long.
    fn follow_up(&mut self, volume: &VolumeRecord, head: NodeId) -> Step {
        let leaves = self.grants.authority().leaves(head);
        if self.is_heard(head) && !leaves {
            self.care.absent.remove(&volume.id);
            return if self.may_say(volume, volume.current_primary()) { Step::Fill } else { Step::Nothing };
        }
        let now = self.now;
        let absent = self.care.absent.entry(volume.id).or_insert((head, now));
        if absent.0 != head {
            *absent = (head, now);
        }
        if !leaves && now < absent.1 + CANDIDATE_PATIENCE {
            return Step::Nothing;
        }
        let Some(chosen) = &volume.replacement else { return Step::Nothing };
        let (leaving, why) = (chosen.leaving.map(NodeId), chosen.why.clone());
        match self.choose(volume, leaving, why, Some(head)) {
            Some(changes) => Step::Decide(changes),
            None if leaves => {
                let why = "it is to be left itself";
                Step::Decide(self.grants.authority().end_replacement(volume.partition(), why))
            }
            None => Step::Nothing,
        }
    }

    /// The best head becomes the chosen one, if there is one.
    fn choose(
        &mut self,
        volume: &VolumeRecord,
        leaving: Option<NodeId>,
        why: String,
        but: Option<NodeId>,
    ) -> Option<Changes> {
        let blocks = volume.bytes / limits::BLOCK as u64;
        let room = |head: &NodeId| {
            let known = |said: &Said| said.words.iter().any(|words| words.partition == volume.partition());
            self.care.said.get(head).is_some_and(|said| known(said) || said.room >= blocks)
        };
        let fit = |head: &NodeId| Some(*head) != but && self.is_heard(*head) && room(head);
        let head = self.grants.authority().candidates(volume, leaving).into_iter().find(fit)?;
        let chosen = Chosen { head, leaving, why, by_hand: false };
        let changes = self.grants.authority().replace(volume.partition(), chosen, self.now.0 / 1_000_000);
        self.tally.chosen += 1;
        changes.ok()
    }

    fn may_say(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        self.care.told.get(&(volume.id, head)).is_none_or(|told| self.now >= *told + SAY_AGAIN)
    }

    fn is_heard(&self, head: NodeId) -> bool {
        self.care.said.get(&head).is_some_and(|said| self.now.since(said.heard) <= PATIENCE)
    }

    fn said_of(&self, volume: &VolumeRecord, head: NodeId) -> Option<&Words> {
        let said = self.care.said.get(&head).filter(|_| self.is_heard(head))?;
        said.words.iter().find(|words| words.partition == volume.partition())
    }

    /// A head gave up what it held of a partition. Lost on the way, it is told of again when it is asked again.
    pub(super) fn forgotten(&mut self, head: NodeId, partition: PartitionId) {
        if !self.authority_up || !self.links.open(head, AUTHORITY) || self.deciding.is_some() {
            return;
        }
        if let Some(changes) = some(self.grants.authority().forgotten(head, partition)) {
            self.store(changes.into());
        }
    }

    /// Control forgets what it only remembers; what people want they still want.
    pub(super) fn forget_care(&mut self) {
        let Care { marked, given_up, hollow, .. } = std::mem::take(&mut self.care);
        self.care = Care { marked, given_up, hollow, ..Care::default() };
    }
}
