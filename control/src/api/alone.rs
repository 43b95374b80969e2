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
        let primary = volume.current_primary();
        if self.leads_on(volume) {
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

    /// Whether the lone head of a volume may go on: it is there, with the log that it had. One whose process lives
    /// and whose log is gone has nothing to go on with.
    fn leads_on(&self, volume: &VolumeRecord) -> bool {
        let primary = volume.current_primary();
        let lost = volume.members.first().is_some_and(|lone| self.authority.lost_its_log(lone));
        let failed = self.nodes.get(&primary.0).is_some_and(|node| node.report.state == NodeState::Failed);
        self.is_there(primary) && !lost && !failed
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
        let lone: Vec<(u32, String)> = self
            .authority
            .salvageable()
            .filter(|volume| !self.leads_on(volume))
            .map(|volume| (volume.current_primary().0, volume.name.clone()))
            .collect();
        self.gone.retain(|head, _| lone.iter().any(|(other, _)| other == head));
        for (head, name) in lone {
            let since = *self.gone.entry(head).or_insert(now);
            if now.duration_since(since) < patience {
                continue;
            }
            let away = self.authority.name_of(NodeId(head));
            // Nobody who could is there yet: the next report asks again.
            let _ = self.follow_lone(
                &name,
                &format!("{away} ran alone and is away, or its log is; copies on sleds are taken over"),
            );
        }
    }
}
