//! Heads that volumes have to leave (BA-02): by people, and by themselves when they are ill for long enough.
//!
//! A mark that leads nowhere is not made, only told of: every volume of the head must have a member left that is
//! well, unless all of them are ill (then the heads settle among themselves who goes on), and another head must
//! be fit to take the place. Where roles are moved by people, people are told, too.
//!
//! As long as others will do, a head comes back into use by people only. Volumes that left it show nothing of its
//! health any more: an idle device answers quickly, and a host that was suspected once would lose and win its volumes
//! for ever, at the price of a full copy each time.
//!
//! But the mark must not keep a volume short for longer than needed (MA-21). What led somewhere when it was made may
//! lead nowhere later: the head that took the place dies or becomes ill, and the last one that is well is alone among
//! heads that all isolate. So a head that a short volume has to get whole with, since there is no other, is not marked;
//! and one that isolated by itself is taken into use again once it was well for long, ever longer each time. It may
//! be ill still and only idle: then it stays, being all there is, and people are told. A head that people marked waits
//! for people, and one that is ill is not taken back: its volumes left it for a reason, and a member with a log that
//! errs is no second copy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use palisade_protocol::wire::NodeId;
use serde_json::{Value, json};

use super::ailing::{self, Ill, Seen};
use super::core::Core;
use super::model::{Command, Role, Severity};
use super::rpc::RpcError;
use super::status::{Live, NodeStatus, Status};
use crate::authority::{Authority, NodeRecord, VolumeRecord, VolumeState};
use crate::config::Failover;

/// Why a head isolates that people want to be left.
pub(super) const BY_HAND: &str = "asked for by hand";
/// Least time between two looks at all heads.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For how long a head must be ill where nothing is done by itself.
const TELL_AFTER: Duration = Duration::from_secs(30);
/// So many times as long as it has to be ill to isolate by itself a head has to be well to end that by itself.
const WELL_TIMES: u32 = 10;

/// How bad it is that a head isolates for this reason.
fn severity(why: &str) -> Option<Severity> {
    match why {
        "" => None,
        BY_HAND => Some(Severity::Planned),
        _ if why.starts_with(ailing::LOG_ERRS) => Some(Severity::Errors),
        _ if why.starts_with(ailing::NETWORKS_BAD) => Some(Severity::Network),
        _ => Some(Severity::Warning),
    }
}

impl Core {
    /// Volumes have to leave a head from now on, or need not any more (`why` is empty).
    pub(super) fn isolate(&mut self, name: &str, why: &str) -> Result<Value, RpcError> {
        if self.mark(name, why)? {
            if let Some(node) = self.authority.node_by_name(name).filter(|_| why.is_empty()) {
                self.ailing.forgive(node.node);
            }
            self.look_now()?;
        }
        Ok(json!({ "head": name, "isolating": !why.is_empty() }))
    }

    /// Marks a head; says whether that is news.
    fn mark(&mut self, name: &str, why: &str) -> Result<bool, RpcError> {
        let changes = self.authority.set_isolating(name, why);
        let changes = changes.map_err(|error| RpcError::not_found(error.to_string()))?;
        let fresh = !changes.records.is_empty();
        self.carry_out(&changes)?;
        if fresh {
            let what = if why.is_empty() { "is in use again".to_owned() } else { format!("isolates: {why}") };
            self.event(name, !why.is_empty(), what);
        }
        Ok(fresh)
    }

    /// A head hears whether volumes have to leave it.
    pub(super) fn tell_isolating(&mut self, node: NodeId) {
        let why = self.authority.node(node).map_or("", |node| &node.isolating);
        self.send(node, &Command::Isolate { node, severity: severity(why) });
    }

    /// Looks whether heads are ill, and isolates those that are. Called with the nodes' reports.
    pub(super) fn look_for_ailing(&mut self) -> Result<(), RpcError> {
        let now = Instant::now();
        if !self.ailing.due(now, LOOK_EVERY) {
            return Ok(());
        }
        let patience = self.isolates_after().unwrap_or(TELL_AFTER);
        let heard = self.nodes.iter().filter(|(node, _)| self.is_heard(NodeId(**node)));
        let seen = heard.map(|(node, connected)| {
            let head = self.authority.node(NodeId(*node)).is_some_and(|node| node.role == Role::Head);
            (*node, Seen { boot: connected.boot, head, report: &connected.report })
        });
        let seen: BTreeMap<u32, Seen<'_>> = seen.collect();
        self.ailing.look(now, patience, &seen);
        let mut marked = false;
        for ill in self.ailing.found.clone() {
            if self.authority.isolates(ill.head) {
                continue;
            }
            let name = self.authority.name_of(ill.head);
            match self.why_it_stays(&ill) {
                None => marked |= self.mark(&name, &ill.why)?,
                Some(stays) if self.ailing.tell(&ill) => {
                    self.event(&name, true, format!("{}; {stays}", ill.why));
                }
                Some(_) => {}
            }
        }
        marked |= self.end_marks(now)?;
        // All of them first: no volume is to move from one that is ill to the next.
        if marked { self.look_now() } else { Ok(()) }
    }

    /// Takes heads into use again that isolated by themselves, are well for long, and are missed; says whether there
    /// was one.
    fn end_marks(&mut self, now: Instant) -> Result<bool, RpcError> {
        let Some(patience) = self.isolates_after() else { return Ok(false) };
        let by_itself = |node: &&NodeRecord| !node.isolating.is_empty() && node.isolating != BY_HAND;
        let marked: Vec<NodeId> = self.authority.nodes().filter(by_itself).map(|node| node.node).collect();
        let mut ended = false;
        for head in marked {
            if !self.ailing.proved_well(head, now, patience * WELL_TIMES) {
                continue;
            }
            let Some(volume) = self.missed_by(head) else { continue };
            let name = self.authority.name_of(head);
            self.ailing.relied_on(head);
            self.event(
                &name,
                false,
                format!("is well again, and volume {volume} has no other head to get whole with"),
            );
            ended |= self.mark(&name, "")?;
        }
        Ok(ended)
    }

    /// A volume that lacks a member, which no head but this one can become.
    fn missed_by(&self, head: NodeId) -> Option<String> {
        let missed = |volume: &&VolumeRecord| {
            self.is_short(volume)
                && !volume.has_member(head)
                && self.unfit(head, volume).is_none()
                && !self.has_others(volume, head)
        };
        self.authority.living().find(missed).map(|volume| volume.name.clone())
    }

    /// Whether a volume has fewer members than it was declared with.
    fn is_short(&self, volume: &VolumeRecord) -> bool {
        let settled = volume.state == VolumeState::Active && !volume.in_doubt() && !volume.members.is_empty();
        settled && volume.members.len() < volume.wanted()
    }

    /// Whether another head than this one is well and can become a member.
    fn has_others(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        let fit = |other: &NodeId| self.ailing.is_well(*other) && self.unfit(*other, volume).is_none();
        self.authority.candidates(volume, Some(head)).iter().filter(|other| **other != head).any(fit)
    }

    /// How long a head must be ill before it isolates by itself; none: it does not.
    fn isolates_after(&self) -> Option<Duration> {
        let by_itself = self.rack.control.failover == Failover::Auto;
        self.rack.control.isolate_after_ms.filter(|_| by_itself).map(Duration::from_millis)
    }

    /// Why nothing is done about a head that is ill.
    fn why_it_stays(&self, ill: &Ill) -> Option<String> {
        if self.isolates_after().is_none() {
            let name = self.authority.name_of(ill.head);
            return Some(format!("`palisade head isolate {name}` moves its volumes to other heads"));
        }
        if let Some(volume) = self.missed_by(ill.head) {
            return Some(format!("it stays, or volume {volume} had no other head to get whole with"));
        }
        let of_it = |volume: &&VolumeRecord| {
            volume.state == VolumeState::Active && volume.wanted() > 1 && volume.has_member(ill.head)
        };
        let mut volumes = self.authority.living().filter(of_it);
        volumes.find_map(|volume| self.why_it_keeps(volume, ill.head))
    }

    fn why_it_keeps(&self, volume: &VolumeRecord, head: NodeId) -> Option<String> {
        let name = &volume.name;
        let is_ill = |other: NodeId| self.authority.isolates(other) || self.ailing.is_ill(other);
        let well = |other: NodeId| {
            self.ailing.is_well(other) && !self.authority.leaves(other) && self.is_heard(other)
        };
        let mut others = volume.members.iter().map(|member| member.head).filter(|other| *other != head);
        let left = others.clone().any(well);
        let all_ill = volume.members.len() > 1 && others.all(is_ill);
        if !left && !all_ill {
            return Some(format!("it stays, or volume {name} had no member that is well"));
        }
        (!self.has_others(volume, head))
            .then(|| format!("it stays: no other head can take its place in volume {name}"))
    }

    /// What is wrong with heads at present, for people.
    pub(super) fn show_ailing(&self, status: &mut Status) {
        for ill in &self.ailing.found {
            let Some(node) = status.nodes.iter_mut().find(|node| node.node == ill.head.0) else { continue };
            node.ailing.clone_from(&ill.why);
            if node.why.is_empty() {
                node.why.clone_from(&ill.why);
            }
        }
    }
}

/// How a head that isolates looks.
pub(super) fn show(status: &mut NodeStatus, node: &NodeRecord) {
    if !node.isolating.is_empty() && status.state == "ready" {
        status.state = "isolating".to_owned();
        let name = &node.name;
        status.why = format!("{}; `palisade head rejoin {name}` takes it into use again", node.isolating);
    }
}

/// Members that a volume has to leave, by their own words.
pub(super) fn members(
    authority: &Authority,
    live: &BTreeMap<u32, Live<'_>>,
    volume: &VolumeRecord,
) -> Vec<String> {
    let isolates = |head: &NodeId| {
        let said = live.get(&head.0).filter(|live| !live.silent);
        let mut said = said.into_iter().flat_map(|live| &live.report.partitions);
        said.any(|said| said.partition == volume.id && said.isolating)
    };
    volume.current().into_iter().filter(isolates).map(|head| authority.name_of(head)).collect()
}
