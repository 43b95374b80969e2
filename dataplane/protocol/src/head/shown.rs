//! What `status` and metrics show of a partition.

use super::core::Core;
use super::part::{Part, Phase};
use super::stats::{PartitionStatus, RoleState};

impl Core {
    pub(super) fn part_status(&self, part: &Part) -> PartitionStatus {
        let (mut live, mut room) = (0u64, 0u64);
        for (_, extent) in part.index.extents() {
            live += u64::from(extent.live);
            room += u64::from(extent.desc.geometry.extent_blocks());
        }
        let (role, why) = role_of(part);
        let picture = self.picture(part);
        PartitionStatus {
            partition: part.cfg.partition,
            role,
            why,
            stamp: part.stamp,
            committed: part.committed,
            tail: part.tail,
            waiting: part.waiting.len() as u32,
            active: part.active,
            peer_away: part.peer_away(),
            alone: part.leads() && part.members.len() == 1,
            proposing: part.proposing(),
            isolating: self.isolates(part),
            fill: self.fill_status(part),
            checkpoints: part.index.kept().found.iter().map(|kept| kept.covers).collect(),
            checkpoint_columns: part.page_columns().count() as u32,
            needs_copy: self.needs_copy(part),
            log_blocks: part.index.mapped().saturating_sub(live),
            extents: picture.extents,
            degraded: picture.rebuild.extents,
            lost: part.lost.len() as u32,
            extent_blocks: live,
            extent_room: room,
            redundancy: picture.redundancy,
            rebuild: picture.rebuild,
            leaving: picture.leaving,
            devices: picture.devices,
            stats: part.stats.clone(),
        }
    }
}

fn role_of(part: &Part) -> (RoleState, &'static str) {
    let peer_away = part.peer_away();
    match part.phase {
        Phase::Idle => (RoleState::Idle, "waits for a number"),
        Phase::Probing if part.salvage.is_some() => {
            (RoleState::Reconciling, "takes over from sleds what was acknowledged alone")
        }
        Phase::Probing if peer_away => (RoleState::Reconciling, "secondary is away"),
        Phase::Probing => (RoleState::Reconciling, "asks the secondary where the log ends"),
        Phase::Adopting => (RoleState::Reconciling, "number on its way into the log"),
        Phase::Announcing if peer_away => (RoleState::Reconciling, "secondary is away"),
        Phase::Announcing if part.journal.on => {
            (RoleState::Reconciling, "alone: copies what it holds to sleds")
        }
        Phase::Announcing => (RoleState::Reconciling, "secondary is catching up"),
        Phase::Serving if part.frozen() => {
            (RoleState::Serving, "runs alone: writes wait for a second member")
        }
        Phase::Serving if part.rests() && part.journal.waits => {
            (RoleState::Serving, "runs alone: writes wait for sleds that take copies")
        }
        Phase::Serving if part.rests() => (RoleState::Serving, "runs alone, copies on sleds"),
        Phase::Serving if peer_away => (RoleState::Serving, "secondary is away: requests wait"),
        Phase::Serving => (RoleState::Serving, ""),
        Phase::Following => (RoleState::Following, ""),
        Phase::Stopped(why) => (RoleState::Stopped, why),
    }
}
