//! Members that are replaced (MA-20, MA-21, BA-02, BA-09, EF-19): groups that lack a member, or have one that
//! is to leave, get another head, one at a time.
//!
//! What nodes report decides: whoever is away for control *and* for the primary is away. The choice is the
//! authority's record; the primary is told again and again whom to fill, until the group names it. A member
//! that comes back by itself first ends the search.
//!
//! A head that comes back to a group that acknowledges writes without it is chosen at once (MA-20): clients go on while
//! it is refilled from its own log, and it joins when it has everything. Where writes wait for it, it joins at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use palisade_protocol::wire::limits::BLOCK;
use palisade_protocol::wire::{NodeId, PartitionId};

use super::core::Core;
use super::events::now_ms;
use super::model::Command;
use super::rpc::RpcError;
use crate::authority::{Chosen, ReplaceError, VolumeRecord, VolumeRequest, VolumeState};
use crate::config::Failover;
use crate::report::{NodeState, PartitionReport};

/// Least time between two looks at all groups.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Before a command that was not followed is said again.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// A chosen head that was away for so long is replaced by another, if there is one.
const CANDIDATE_PATIENCE: Duration = Duration::from_secs(10);

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Watch {
    looked: Option<Instant>,
    /// Since when a volume lacks a member.
    lacks: BTreeMap<u64, Instant>,
    /// Since when the chosen head of a volume is away.
    absent: BTreeMap<u64, (NodeId, Instant)>,
    /// When a head was told of a volume last (to fill, to forget).
    said: BTreeMap<(u64, NodeId), Instant>,
    /// Volumes for which it was told that there is nobody to take a place.
    nobody: Vec<u64>,
}

/// What a group lacks.
#[derive(Clone, Debug)]
pub(super) struct Lack {
    pub(super) why: String,
    /// Who leaves once another is there.
    pub(super) leaving: Option<NodeId>,
    /// Nobody comes back by itself.
    pub(super) at_once: bool,
}

/// What is to be done about a volume.
enum Step {
    /// A member leaves the group; `true`: what it held is gone.
    LeaveOut(NodeId, bool, String),
    /// The second member leads.
    Flip(String),
    /// The lone head that was to be followed leads again.
    GiveBack(String),
    /// A head is chosen.
    Choose(Chosen),
    /// A former member is there again.
    Return(NodeId),
    /// The search is over.
    End(&'static str),
    /// Nobody can be chosen.
    Nobody(String),
    /// The primary is to fill who was chosen.
    Fill,
    /// A head is to forget what it has.
    Forget(NodeId),
}

pub(super) fn refused(error: ReplaceError) -> RpcError {
    match error {
        ReplaceError::NoVolume(_) | ReplaceError::NoHead(_) => RpcError::not_found(error.to_string()),
        _ => RpcError::refused(error.to_string()),
    }
}

impl Core {
    /// Looks at every group and does what is due. Called with the nodes' reports.
    pub(super) fn look_after_groups(&mut self) -> Result<(), RpcError> {
        let now = Instant::now();
        if self.replacing.looked.is_some_and(|looked| now < looked + LOOK_EVERY) {
            return Ok(());
        }
        self.replacing.looked = Some(now);
        let active = |volume: &&VolumeRecord| {
            let settled = volume.state == VolumeState::Active && !volume.in_doubt();
            settled && !volume.members.is_empty() && volume.wanted() > 1
        };
        let ids: Vec<u64> = self.authority.volumes().filter(active).map(|volume| volume.id).collect();
        for id in ids {
            self.look_after(id, now)?;
        }
        Ok(())
    }

    /// What is due for heads in doubt, lone heads, drained sleds and groups. Runs with every report of a node.
    pub(super) fn look_around(&mut self) -> Result<(), RpcError> {
        self.ask_heads();
        if self.authority.nodes().any(|node| node.draining) || !self.drained.is_empty() {
            self.tell_drained();
        }
        if self.listens() {
            return Ok(());
        }
        self.follow_lone_heads();
        self.look_for_ailing()?;
        self.look_after_groups()?;
        self.look_at_loads();
        Ok(())
    }

    /// As [`Core::look_after_groups`], at once: people asked for something.
    pub(super) fn look_now(&mut self) -> Result<(), RpcError> {
        self.replacing.looked = None;
        self.look_after_groups()
    }

    fn look_after(&mut self, id: u64, now: Instant) -> Result<(), RpcError> {
        let Some(volume) = self.authority.volume(PartitionId(id)).cloned() else { return Ok(()) };
        if let Some(step) = self.urgent(&volume) {
            return self.take(&volume, step, now);
        }
        let lack = self.lack(&volume);
        let since = match &lack {
            Some(_) => *self.replacing.lacks.entry(id).or_insert(now),
            None => {
                self.replacing.lacks.remove(&id);
                self.replacing.nobody.retain(|told| *told != id);
                now
            }
        };
        match self.decide(&volume, lack, since, now) {
            Some(step) => self.take(&volume, step, now),
            None => Ok(()),
        }
    }

    /// What does not wait for anybody to come back.
    fn urgent(&self, volume: &VolumeRecord) -> Option<Step> {
        let primary = volume.current_primary();
        let lost = volume.members.iter().find(|member| {
            let runs_on = self.nodes.get(&member.head.0).is_some_and(|node| node.boot == member.boot);
            self.authority.lost_its_log(member) && !runs_on
        });
        if let Some(lost) = lost {
            let name = self.authority.name_of(lost.head);
            return Some(Step::LeaveOut(lost.head, true, format!("the log of {name} was replaced")));
        }
        let joining = volume.members.iter().any(|member| member.joining);
        let leaving = volume.replacement.as_ref().filter(|chosen| volume.has_member(chosen.head));
        if let Some(chosen) = leaving.filter(|_| !joining) {
            let leaving = NodeId(chosen.leaving?);
            let why = format!("{} took its place: {}", self.authority.name_of(chosen.head), chosen.why);
            return Some(if leaving == primary {
                Step::Flip(why)
            } else if volume.members.len() <= volume.wanted() {
                // The group went short meanwhile: without it, too, one copy would be left (BA-02).
                Step::End("the group needs it until there is one more")
            } else {
                Step::LeaveOut(leaving, false, why)
            });
        }
        if volume.members.len() > volume.wanted() && volume.replacement.is_none() && !joining {
            let spare = |head: &NodeId| volume.declared().all(|declared| declared != *head);
            let rest = || volume.members.iter().skip(1).map(|member| member.head);
            let last = rest().rfind(spare).or_else(|| rest().next_back())?;
            return Some(Step::LeaveOut(last, false, "the group has more members than declared".to_owned()));
        }
        let void = |said: &PartitionReport| said.needs_copy == Some(primary.0) && said.counter == 0;
        if volume.is_back() && self.said_of(volume, primary).is_some_and(void) {
            let name = self.authority.name_of(primary);
            return Some(Step::GiveBack(format!("{name} holds nothing to take over with")));
        }
        let damaged = self.said_of(volume, primary).is_some_and(|said| said.needs_copy == Some(primary.0));
        let whole = |head: NodeId| {
            self.said_of(volume, head)
                .is_some_and(|said| said.role == "following" && said.needs_copy.is_none())
        };
        let other = volume.members.iter().skip(1).find(|member| !member.joining && whole(member.head));
        if damaged && other.is_some() && self.rack.control.failover == Failover::Auto {
            let name = self.authority.name_of(primary);
            return Some(Step::LeaveOut(primary, true, format!("the log of {name} is damaged")));
        }
        let moves = self.authority.leaves(primary) && !joining && other.is_some();
        let to = volume.members.iter().skip(1).find(|other| !self.authority.leaves(other.head));
        (moves && to.is_some()).then(|| Step::Flip(self.why_it_leaves(primary)))
    }

    fn why_it_leaves(&self, head: NodeId) -> String {
        let name = self.authority.name_of(head);
        match self.authority.node(head) {
            Some(node) if !node.isolating.is_empty() => format!("{name} isolates: {}", node.isolating),
            _ => format!("{name} is drained"),
        }
    }

    /// What the group of a volume lacks now, by the words of its primary.
    pub(super) fn lack(&self, volume: &VolumeRecord) -> Option<Lack> {
        let primary = volume.current_primary();
        let mut others = volume.members.iter().skip(1).map(|member| member.head);
        if let Some(head) = others.clone().find(|head| self.authority.leaves(*head)) {
            return Some(Lack { why: self.why_it_leaves(head), leaving: Some(head), at_once: true });
        }
        if volume.members.len() < volume.wanted() {
            let gone = volume.declared().filter(|head| !volume.has_member(*head));
            let gone: Vec<String> = gone.map(|head| self.authority.name_of(head)).collect();
            let why = format!("{} is no member any more", gone.join(", "));
            let at_once = !self.authority.may_come_back(volume) || self.authority.leaves(primary);
            return Some(Lack { why, leaving: None, at_once });
        }
        let said = self.said_of(volume, primary)?;
        let held_up = said.peer_away || said.needs_copy.is_some_and(|head| head != primary.0);
        let filled = said.fill.as_ref().is_some_and(|fill| volume.has_member(NodeId(fill.head)));
        if !held_up || filled || !matches!(said.role.as_str(), "serving" | "reconciling") {
            return None;
        }
        let asked = said.needs_copy.map(NodeId).filter(|head| others.clone().any(|other| other == *head));
        let silent = others.clone().find(|head| !self.is_heard(*head));
        let only = (volume.members.len() == 2).then(|| others.next()).flatten();
        let away = asked.or(silent).or(only)?;
        let why = format!("{} is away", self.authority.name_of(away));
        Some(Lack { why, leaving: Some(away), at_once: false })
    }

    fn decide(
        &mut self,
        volume: &VolumeRecord,
        lack: Option<Lack>,
        since: Instant,
        now: Instant,
    ) -> Option<Step> {
        if let Some(chosen) = &volume.replacement {
            if lack.is_none() && !chosen.by_hand {
                return Some(Step::End("its group lacks nothing any more"));
            }
            let replaceable = !chosen.by_hand && !chosen.follows;
            if let Some(back) = self.comes_back(volume).filter(|_| replaceable) {
                return Some(Step::Return(back));
            }
            return self.follow_up(volume, chosen.head, now);
        }
        let Some(lack) = lack else {
            let leftovers = self.authority.leftovers(volume);
            let well = self.said_of(volume, volume.current_primary());
            let well = well.is_some_and(|said| said.role == "serving" && !said.peer_away);
            let due = |head: &NodeId| well && self.is_heard(*head) && self.may_say(volume.id, *head, now);
            return leftovers.into_iter().find(due).map(Step::Forget);
        };
        if let Some(back) = self.comes_back(volume) {
            return Some(Step::Return(back));
        }
        let patience = self.rack.control.replace_after_ms.map(Duration::from_millis);
        let patience = patience.filter(|_| self.rack.control.failover == Failover::Auto);
        if !lack.at_once && patience.is_none_or(|patience| now < since + patience) {
            return None;
        }
        let Lack { why, leaving, .. } = lack;
        let said = self.said_of(volume, volume.current_primary());
        if let (Some(away), Some("reconciling")) = (leaving, said.map(|said| said.role.as_str())) {
            // A primary that started while its peer is away does not serve before it is alone.
            return Some(Step::LeaveOut(away, false, why));
        }
        match self.best(volume, leaving, None) {
            Ok(head) => Some(Step::Choose(Chosen { head, leaving, why, by_hand: false })),
            Err(none) => Some(Step::Nobody(format!("{why}; {none}"))),
        }
    }

    /// A head was chosen: it is filled, or, when it is away for long, another is chosen in its place.
    fn follow_up(&mut self, volume: &VolumeRecord, head: NodeId, now: Instant) -> Option<Step> {
        let chosen = volume.replacement.as_ref()?;
        if self.is_heard(head) && !self.authority.leaves(head) {
            self.replacing.absent.remove(&volume.id);
            // Said again and again: it or its primary may have started anew.
            return self.may_say(volume.id, volume.current_primary(), now).then_some(Step::Fill);
        }
        let absent = self.replacing.absent.entry(volume.id).or_insert((head, now));
        if absent.0 != head {
            *absent = (head, now);
        }
        let leaves = self.authority.leaves(head);
        if !leaves && now < absent.1 + CANDIDATE_PATIENCE.min(self.patience()) {
            return None;
        }
        if chosen.follows {
            return Some(Step::End("it is away again"));
        }
        let (leaving, why) = (chosen.leaving.map(NodeId), chosen.why.clone());
        match self.best(volume, leaving, Some(head)) {
            Ok(head) => Some(Step::Choose(Chosen { head, leaving, why, by_hand: chosen.by_hand })),
            Err(_) if leaves => Some(Step::End("it is to be left itself, and there is no other head")),
            Err(_) => None,
        }
    }

    /// How long a member may be away.
    fn patience(&self) -> Duration {
        self.rack.control.replace_after_ms.map_or(CANDIDATE_PATIENCE, Duration::from_millis)
    }

    /// The best head to become a member, or why there is none.
    pub(super) fn best(
        &self,
        volume: &VolumeRecord,
        leaving: Option<NodeId>,
        but: Option<NodeId>,
    ) -> Result<NodeId, String> {
        let candidates = self.authority.candidates(volume, leaving);
        let mut why = "the rack has no other head that could take the place".to_owned();
        for head in candidates.into_iter().filter(|head| Some(*head) != but) {
            match self.unfit(head, volume) {
                None => return Ok(head),
                Some(unfit) => why = unfit,
            }
        }
        Err(why)
    }

    /// Why a head cannot take a volume now.
    pub(super) fn unfit(&self, head: NodeId, volume: &VolumeRecord) -> Option<String> {
        let name = self.authority.name_of(head);
        let Some(node) = self.nodes.get(&head.0).filter(|_| self.is_heard(head)) else {
            return Some(format!("{name} is away"));
        };
        if node.report.state == NodeState::Failed {
            return Some(format!("{name} cannot work: {}", node.report.why));
        }
        // A volume that it knows of, as one that it held in a log which was replaced, has its room already.
        if node.report.partitions.iter().any(|said| said.partition == volume.id) {
            return None;
        }
        too_big(&name, node.report.log_room?, volume.bytes / BLOCK as u64)
    }

    /// A volume that is made at run time must fit the logs of its heads, as far as they have told (P-32).
    pub(super) fn check_logs(&self, request: &VolumeRequest) -> Result<(), RpcError> {
        if self.authority.volume_by_name(&request.name).is_some() {
            return Ok(());
        }
        for name in std::iter::once(&request.primary).chain(&request.secondary).chain(&request.reserves) {
            let node = self.authority.node_by_name(name).and_then(|node| self.nodes.get(&node.node.0));
            let room = node.and_then(|node| node.report.log_room);
            if let Some(why) = room.and_then(|room| too_big(name, room, request.bytes / BLOCK as u64)) {
                return Err(RpcError::refused(why));
            }
        }
        Ok(())
    }

    fn take(&mut self, volume: &VolumeRecord, step: Step, now: Instant) -> Result<(), RpcError> {
        let (partition, name) = (volume.partition(), volume.name.clone());
        match step {
            Step::LeaveOut(head, lost, why) => {
                // One that cannot leave stays, and `status` says what is lacking.
                if let Ok(changes) = self.authority.leave_out(partition, head, lost, &why) {
                    self.carry_out(&changes)?;
                }
            }
            Step::Flip(why) => drop(self.failover(&name, &why)),
            Step::GiveBack(why) => {
                if let Ok(changes) = self.authority.give_back(partition, &why) {
                    self.carry_out(&changes)?;
                }
            }
            Step::Choose(chosen) => {
                let changes = self.authority.replace(partition, chosen, now_ms()).map_err(refused)?;
                self.carry_out(&changes)?;
                self.fill(partition);
            }
            Step::Return(head) => {
                let why = format!("{} came back", self.authority.name_of(head));
                let changes = self.authority.end_replacement(partition, &why);
                self.carry_out(&changes)?;
                self.rests.taken_back(head, self.began.elapsed());
                let chosen = Chosen { head, leaving: None, why, by_hand: false };
                let changes = self.authority.replace(partition, chosen, now_ms()).map_err(refused)?;
                self.carry_out(&changes)?;
                self.fill(partition);
            }
            Step::End(why) => {
                let changes = self.authority.end_replacement(partition, why);
                self.carry_out(&changes)?;
                self.fill(partition);
            }
            Step::Nobody(why) => {
                if !self.replacing.nobody.contains(&volume.id) {
                    self.replacing.nobody.push(volume.id);
                    let what = format!("volume {name} lacks a member: {why}");
                    self.events.say("control", name, true, what);
                }
            }
            Step::Fill => {
                self.replacing.said.insert((volume.id, volume.current_primary()), now);
                self.fill(partition);
            }
            Step::Forget(node) => {
                self.replacing.said.insert((volume.id, node), now);
                self.send(node, &Command::Forget { node, partition });
            }
        }
        Ok(())
    }

    /// Tells the primary of a volume whom to fill; itself: nobody.
    pub(super) fn fill(&mut self, partition: PartitionId) {
        let Some(volume) = self.authority.volume(partition) else { return };
        let node = volume.current_primary();
        let chosen = volume.replacement.as_ref().filter(|chosen| !volume.has_member(chosen.head));
        let follows = chosen.is_some_and(|chosen| chosen.follows);
        if let Some(member) = self.authority.member(chosen.map_or(node, |chosen| chosen.head)) {
            self.send(node, &Command::Fill { node, partition, member, follows });
        }
    }

    /// A head that came back hears whom it is to fill.
    pub(super) fn tell_fills(&mut self, head: NodeId) {
        let leads = |volume: &&VolumeRecord| volume.current_primary() == head && volume.replacement.is_some();
        let led: Vec<PartitionId> = self.authority.living().filter(leads).map(|it| it.partition()).collect();
        for partition in led {
            self.fill(partition);
        }
    }

    /// Whether a head may be told of a volume again.
    fn may_say(&self, id: u64, head: NodeId, now: Instant) -> bool {
        self.replacing.said.get(&(id, head)).is_none_or(|said| now >= *said + SAY_AGAIN)
    }

    pub(super) fn is_heard(&self, head: NodeId) -> bool {
        let patience = Duration::from_millis(self.rack.timers.health_ms.max(1));
        self.nodes.get(&head.0).is_some_and(|node| node.heard.elapsed() <= patience)
    }

    /// The last words of a head about a volume, if it is there.
    pub(super) fn said_of(&self, volume: &VolumeRecord, head: NodeId) -> Option<&PartitionReport> {
        let node = self.nodes.get(&head.0).filter(|_| self.is_heard(head))?;
        node.report.partitions.iter().find(|said| said.partition == volume.id)
    }
}

/// Why a volume of so many blocks does not fit the log of a head.
fn too_big(name: &str, room: u64, blocks: u64) -> Option<String> {
    (room < blocks).then(|| {
        format!("the log of {name} has room for {room} more blocks, the volume has {blocks} (P-32): name another head, or make it smaller")
    })
}
