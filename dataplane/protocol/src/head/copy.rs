//! Full copies: a head that is no member, or a member that cannot follow from its log, is filled (BA-01, MA-21).

use super::core::Core;
use super::part::Part;
use super::stats::FillStatus;
use crate::wire::*;

impl Core {
    pub(super) fn fill_head(&mut self, _now: Time, partition: PartitionId, member: Member, _out: &mut Out) {
        let Some(p) = self.parts.find(partition) else { return };
        self.busy = true;
        let part = &mut self.parts[p];
        let included = part.members.contains(&member) && part.lacking != Some(member.head);
        if member.head != self.cfg.node && !included && !part.deleting {
            part.wished = Some(member);
        }
    }

    pub(super) fn fill_status(&self, part: &Part) -> Option<FillStatus> {
        let member = part.wished.filter(|_| part.leads())?;
        Some(FillStatus { member, blocks_done: 0, blocks_all: part.index.mapped(), rounds: 0 })
    }

    /// Which member of the pair cannot follow from its log.
    pub(super) fn needs_copy(&self, part: &Part) -> Option<NodeId> {
        let own = part.damaged.then_some(self.cfg.node);
        own.or_else(|| part.lacking.filter(|_| part.leads()))
    }
}
