//! Roles that move: proposals of heads (MA-05), switch-overs and drains that people ask for (EF-28), and what
//! is told of them.

use std::time::Duration;

use palisade_protocol::wire::{BootId, LogId, NodeId, Number, Proposal, ProposalOutcome, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::core::{Connected, Core};
use super::events::now_ms;
use super::model::Command;
use super::rpc::RpcError;
use crate::authority::{RoleError, VolumeRecord, VolumeState};
use crate::report::NodeState;

/// What draining a head did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drained {
    /// The head.
    pub head: String,
    /// Volumes that it served and another head serves now.
    pub moved: Vec<String>,
    /// Volumes that it still serves, each with the reason.
    pub left: Vec<Left>,
    /// Volumes of which it is another member still, each with what becomes of that.
    pub follows: Vec<Left>,
    /// It is a member of no volume: stopping it costs nothing.
    pub safe_to_stop: bool,
    /// Nothing of what is left moves: there is no other head to take its place.
    pub hopeless: bool,
}

/// A volume that could not be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    /// The volume.
    pub volume: String,
    /// Why.
    pub why: String,
}

/// A switch-over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moved {
    /// The volume.
    pub volume: String,
    /// The head that serves it now.
    pub primary: String,
    /// The head that follows now.
    pub secondary: String,
    /// Under which number.
    pub number: String,
}

pub(super) fn refused(error: &RoleError) -> RpcError {
    match error {
        RoleError::NoVolume(_) | RoleError::NoHead(_) => RpcError::not_found(error.to_string()),
        _ => RpcError::refused(error.to_string()),
    }
}

impl Core {
    /// A head has read its log: it gets numbers, or hears what stands (P-01).
    pub(super) fn head_ready(
        &mut self,
        node: NodeId,
        boot: BootId,
        log: LogId,
        held: &[Stamp],
    ) -> Result<(), RpcError> {
        let guest = |volume: &VolumeRecord| self.stays_out(volume, node);
        let changes = self.authority.boot_beside(node, boot, log, held, guest).map_err(|error| {
            self.event(&format!("node {node}"), true, error.to_string());
            RpcError::refused(error.to_string())
        })?;
        self.carry_out(&changes)?;
        self.tell_all(node);
        self.evidence.asked.remove(&node.0);
        self.ask_heads();
        self.look_now()
    }

    /// Whether a former member that is there again is not taken in at once.
    fn stays_out(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        self.goes_on_without(volume, head) || self.waits_for_lone(volume, head)
    }

    /// Whether a volume is served, and written, by a group that a former member need not join before it has
    /// everything: clients would wait for its refill (MA-20).
    fn goes_on_without(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        let said = self.said_of(volume, volume.current_primary());
        let serves = said.is_some_and(|said| {
            let number = Number { epoch: said.epoch, counter: said.counter };
            said.role == "serving" && !said.peer_away && number == volume.number()
        });
        let active = volume.state == VolumeState::Active && !volume.has_member(head);
        active && serves && volume.goes_on() && self.authority.may_follow(volume, head)
    }

    /// A former member of a group that goes on without it, that is there again.
    pub(super) fn comes_back(&self, volume: &VolumeRecord) -> Option<NodeId> {
        if volume.members.len() >= volume.wanted() {
            return None;
        }
        self.authority.may_return(volume).find(|head| {
            let there =
                self.is_heard(*head) && self.is_fit(*head) && !self.rests.rests(*head, self.began.elapsed());
            there && self.goes_on_without(volume, *head) && !self.cut_off(*head)
        })
    }

    /// Whether a head runs under its newest boot and can work. One whose log failed follows nobody: its group would
    /// wait for it.
    fn is_fit(&self, head: NodeId) -> bool {
        let boot = self.authority.member(head).map(|member| member.boot);
        let fit = |connected: &Connected| {
            Some(connected.boot) == boot && connected.report.state != NodeState::Failed
        };
        self.nodes.get(&head.0).is_some_and(fit)
    }

    /// A head's boot proposes a group. The answer goes out when it is durable; should the store fail, none
    /// goes out and the head asks again (P-02).
    pub(super) fn propose(&mut self, node: NodeId, proposal: &Proposal) -> Result<(), RpcError> {
        let Some(boot) = self.nodes.get(&node.0).map(|connected| connected.boot) else { return Ok(()) };
        if self.listens() {
            // It is repeated.
            return Ok(());
        }
        let verdict = self.authority.propose(node, boot, proposal, now_ms());
        if verdict.withheld {
            // It is repeated; `status` says why it hears nothing.
            return Ok(());
        }
        self.carry_out(&verdict.changes)?;
        if !verdict.why.is_empty() {
            let volume = self.authority.volume(proposal.partition).map(|volume| volume.name.clone());
            let what =
                format!("a proposal of another group ({}) was declined: {}", proposal.why, verdict.why);
            self.events.say(&self.authority.name_of(node), volume.unwrap_or_default(), false, what);
        }
        let (granted, pair) = match verdict.outcome {
            ProposalOutcome::Granted(assignment) => (true, Some(assignment)),
            ProposalOutcome::Declined { newest } => (false, newest),
        };
        let (partition, nonce) = (proposal.partition, proposal.nonce);
        self.send(node, &Command::Outcome { node, partition, nonce, granted, pair });
        Ok(())
    }

    /// Moves a volume to its secondary, when both heads are well as far as they said.
    pub(super) fn failover(&mut self, name: &str, why: &str) -> Result<Moved, RpcError> {
        self.check_pair(name)?;
        let changes = self.authority.switch_over(name, why).map_err(|error| refused(&error))?;
        self.carry_out(&changes)?;
        self.moved(name)
    }

    /// Who has a volume now, and under which number.
    pub(super) fn moved(&self, name: &str) -> Result<Moved, RpcError> {
        let volume = self.authority.volume_by_name(name);
        let volume = volume.ok_or_else(|| refused(&RoleError::NoVolume(name.to_owned())))?;
        let heads: Vec<String> =
            volume.current().into_iter().map(|head| self.authority.name_of(head)).collect();
        Ok(Moved {
            volume: name.to_owned(),
            primary: heads.first().cloned().unwrap_or_default(),
            secondary: heads.get(1).cloned().unwrap_or_default(),
            number: volume.number().to_string(),
        })
    }

    fn check_pair(&self, name: &str) -> Result<(), RpcError> {
        let volume = self.authority.volume_by_name(name);
        let volume = volume.ok_or_else(|| refused(&RoleError::NoVolume(name.to_owned())))?;
        let patience = Duration::from_millis(self.rack.timers.health_ms.max(1));
        let heard =
            |head: &NodeId| self.nodes.get(&head.0).filter(|connected| connected.heard.elapsed() <= patience);
        let members = volume.current();
        for head in &members {
            if heard(head).is_none() {
                return Err(RpcError::refused(format!(
                    "{} is away: a switch-over of `{name}` needs all its heads",
                    self.authority.name_of(*head)
                )));
            }
        }
        let of = |report: &&crate::report::PartitionReport| report.partition == volume.id;
        let report = members.first().and_then(heard).and_then(|head| head.report.partitions.iter().find(of));
        match report {
            Some(report) if report.role == "serving" && !report.peer_away => Ok(()),
            Some(report) if report.role == "serving" => {
                Err(RpcError::refused(format!("the secondary of `{name}` is away for its primary")))
            }
            _ => Err(RpcError::refused(format!("`{name}` is not served at present, so nothing is moved"))),
        }
    }

    /// Takes a head out of use: what it serves moves to its peers, nothing new is placed on it.
    pub(super) fn drain(&mut self, name: &str) -> Result<Drained, RpcError> {
        let mut changes = self.authority.set_draining(name, true).map_err(|error| refused(&error))?;
        let fresh = !changes.records.is_empty();
        let head = self.authority.node_by_name(name).map(|node| node.node);
        let served: Vec<String> = head.map_or_else(Vec::new, |head| {
            self.authority.served_by(head).map(|volume| volume.name.clone()).collect()
        });
        let mut drained = Drained { head: name.to_owned(), ..Drained::default() };
        // One transaction for all of it: each waits for the disk, and whoever asked waits for each.
        let mut then = self.authority.clone();
        then.apply(&changes);
        for volume in served {
            let moved = self.check_pair(&volume).and_then(|()| {
                let why = format!("{name} is drained");
                then.switch_over(&volume, &why).map_err(|error| refused(&error))
            });
            match moved {
                Ok(more) => {
                    then.apply(&more);
                    changes.append(more);
                    drained.moved.push(volume);
                }
                Err(error) => drained.left.push(Left { volume, why: error.message }),
            }
        }
        self.carry_out(&changes)?;
        if fresh {
            self.event(name, false, "is being drained".to_owned());
        }
        self.look_now()?;
        if let Some(head) = head {
            self.tell_follows(head, &mut drained);
        }
        Ok(drained)
    }

    /// Takes a head into use again. What moved away stays where it is (EF-28).
    pub(super) fn resume(&mut self, name: &str) -> Result<Value, RpcError> {
        let changes = self.authority.set_draining(name, false).map_err(|error| refused(&error))?;
        let fresh = !changes.records.is_empty();
        self.carry_out(&changes)?;
        if fresh {
            self.event(name, false, "is in use again".to_owned());
        }
        Ok(json!({ "resumed": name }))
    }

    /// A head that reports under its newest boot, and was left out of a group while it slept or could not be
    /// reached, comes in again, after a rest that grows ([`Rests`](crate::authority::Rests)).
    pub(super) fn take_back(&mut self, node: NodeId) -> Result<(), RpcError> {
        let Some(record) = self.authority.node(node) else { return Ok(()) };
        let (Some(boot), Some(log)) = (record.boot, record.log) else { return Ok(()) };
        let now = self.began.elapsed();
        if !self.is_fit(node) || self.rests.rests(node, now) || self.cut_off(node) {
            return Ok(());
        }
        let mut changes = self
            .authority
            .boot_beside(node, boot.0, log.0, &[], |volume| self.stays_out(volume, node))
            .map_err(|error| RpcError::refused(error.to_string()))?;
        if changes.records.is_empty() {
            return Ok(());
        }
        changes.notes.clear();
        self.rests.taken_back(node, now);
        self.carry_out(&changes)
    }

    /// Whether a head and the primary of a volume that it would come back to do not reach each other, as far as
    /// either says: the volume would wait for a member that it cannot have (MA-15).
    fn cut_off(&self, node: NodeId) -> bool {
        let down = |from: NodeId, to: NodeId| {
            let paths = self.nodes.get(&from.0).map_or(&[][..], |connected| &connected.report.paths);
            let mut paths = paths.iter().filter(|path| path.to == to.0).peekable();
            paths.peek().is_some() && paths.all(|path| path.state == "down")
        };
        let mut wanted = self.authority.volumes().filter(|volume| {
            volume.state == VolumeState::Active
                && volume.heads().contains(&node)
                && !volume.current().contains(&node)
        });
        wanted.any(|volume| {
            let primary = volume.current_primary();
            down(primary, node) || down(node, primary)
        })
    }

    /// The newest pair of a volume (MA-05).
    pub(super) fn query(&self, name: &str) -> Result<Value, RpcError> {
        let volume = self.authority.volume_by_name(name);
        let volume = volume.ok_or_else(|| refused(&RoleError::NoVolume(name.to_owned())))?;
        let heads: Vec<String> =
            volume.current().into_iter().map(|head| self.authority.name_of(head)).collect();
        let number = volume.stamp().map(|stamp| stamp.number.to_string());
        Ok(json!({ "volume": name, "number": number, "heads": heads, "granted": !volume.members.is_empty() }))
    }
}
