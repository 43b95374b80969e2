//! Following a head that ran alone and is gone, from its copies on sleds (P-30, MA-20): by hand, and by itself
//! where heads may move roles.

use std::time::{Duration, Instant};

use palisade_protocol::wire::NodeId;

use super::core::Core;
use super::moving::{Moved, refused};
use super::rpc::RpcError;
use crate::authority::{MemberRecord, RoleError, VolumeRecord};
use crate::config::Failover;
use crate::report::NodeState;

impl Core {
    /// Lets another head take over a volume whose lone head is gone, by hand.
    pub(super) fn salvage(&mut self, name: &str) -> Result<Moved, RpcError> {
        let volume = self.authority.volume_by_name(name);
        let volume = volume.ok_or_else(|| refused(&RoleError::NoVolume(name.to_owned())))?;
        if self.listens() {
            let why =
                "control started a moment ago, and sleds have not shown their records yet (P-04): ask again";
            return Err(RpcError::refused(why.to_owned()));
        }
        let primary = volume.current_primary();
        if self.can_serve(volume) {
            let head = self.authority.name_of(primary);
            return Err(RpcError::refused(format!(
                "{head}, which has `{name}`, is there: nothing is salvaged from a head that lives; stop it first if it serves no more"
            )));
        }
        self.follow_lone(name, "planned, from copies on sleds")?;
        self.moved(name)
    }

    fn follow_lone(&mut self, name: &str, why: &str) -> Result<(), RpcError> {
        let well = |member: &MemberRecord| self.is_there(member.head);
        let changes = self.authority.salvage(name, why, well).map_err(|error| refused(&error))?;
        self.carry_out(&changes)
    }

    /// Whether the lone head of a volume is there and can work, with the log that it had. One whose log is missing,
    /// replaced, failed or damaged serves nothing any more, however well its process is: what it acknowledged is on
    /// sleds.
    fn can_serve(&self, volume: &VolumeRecord) -> bool {
        let head = volume.current_primary();
        let lost = volume.members.first().is_some_and(|lone| !self.has_its_log(lone));
        let failed = self.nodes.get(&head.0).is_some_and(|node| node.report.state == NodeState::Failed);
        let damaged = self.said_of(volume, head).is_some_and(|said| said.needs_copy == Some(head.0));
        self.is_there(head) && !lost && !failed && !damaged
    }

    /// Whether a volume's lone head is gone, or its log is, and what it acknowledged is on sleds. Nobody comes in
    /// behind it then: nothing waits for that, and nobody else could take over afterwards, since the two may have
    /// served together, unheard of (P-30).
    pub(super) fn waits_for_lone(&self, volume: &VolumeRecord, head: NodeId) -> bool {
        volume.copies() && volume.current_primary() != head && !self.can_serve(volume)
    }

    /// A device is to be given up: not one that copies of a lone head, or who could read them, depend on.
    pub(super) fn spare_copies(&self, device: &str) -> Result<(), RpcError> {
        let there = |lone: &MemberRecord| self.is_there(lone.head) && self.has_its_log(lone);
        self.authority.spares(device, there).map_err(|error| RpcError::refused(error.to_string()))
    }

    /// Whether a head has the log still that it had as a member: with another one it holds nothing (P-03).
    fn has_its_log(&self, member: &MemberRecord) -> bool {
        !self.authority.lost_its_log(member)
    }

    /// Whether the head's process was heard lately.
    fn is_there(&self, head: NodeId) -> bool {
        let patience = Duration::from_millis(self.rack.timers.health_ms.max(1));
        self.nodes.get(&head.0).is_some_and(|connected| connected.heard.elapsed() <= patience)
    }

    /// Follows lone heads that were away for long enough, where heads may move roles by themselves. Runs with every
    /// report of a node.
    pub(super) fn follow_lone_heads(&mut self) {
        if self.rack.control.failover != Failover::Auto || self.authority.salvageable().next().is_none() {
            self.gone.clear();
            return;
        }
        let now = Instant::now();
        let patience = Duration::from_millis(self.rack.timers.salvage_after_ms);
        let gone: Vec<(u64, NodeId, String)> = self
            .authority
            .salvageable()
            .filter(|volume| !self.can_serve(volume))
            .map(|volume| (volume.id, volume.current_primary(), volume.name.clone()))
            .collect();
        self.gone.retain(|id, since| gone.iter().any(|(gone, head, _)| gone == id && *head == since.0));
        for (id, head, name) in gone {
            let (_, since) = *self.gone.entry(id).or_insert((head, now));
            if now.duration_since(since) < patience {
                continue;
            }
            let away = self.authority.name_of(head);
            // Nobody who could is there yet: the next report asks again.
            let _ = self.follow_lone(
                &name,
                &format!("{away} ran alone and is away, or its log is; copies on sleds are taken over"),
            );
        }
    }
}
