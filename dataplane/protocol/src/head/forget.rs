//! What a head holds of a partition is thrown away: before a full copy, or when the head is no member any more
//! (BA-01, MA-21). The log says so first, so that a restart finds nothing either. And what it holds is in doubt when
//! the log gave back nothing that can be relied on (P-29).

use super::core::Core;
use super::part::{Follow, Part, Phase};
use crate::log::{Index, Lsn, Origin};
use crate::wire::*;
use std::time::Duration;

/// Pause before the log is asked again.
const AGAIN: Duration = Duration::from_millis(1);

impl Part {
    /// Nothing of the partition is left here.
    pub(super) fn empty(&mut self, committed: Op) {
        self.index = Index::new(self.cfg.blocks);
        (self.committed, self.tail, self.local) = (committed, committed, committed);
        (self.damaged, self.short) = (true, false);
        self.stamp = Stamp { partition: self.cfg.partition, ..Stamp::default() };
        self.members.clear();
        (self.adopted, self.adoption, self.probing, self.owed, self.common) = (None, None, None, None, None);
        self.pending.clear();
        self.recent.clear();
        self.follow = Follow::default();
        self.bad.clear();
        self.rot.clear();
        self.lost.clear();
        (self.load.upto, self.released_op, self.service.from, self.age.upto) = (Op(0), Op(0), Op(0), Op(0));
    }
}

impl Core {
    /// Stages the entry that voids the partition, and lets go of everything that the log holds of it.
    pub(super) fn void_log(&mut self, now: Time, p: usize, out: &mut Out) -> Option<Lsn> {
        let id = self.parts[p].id();
        if self.log.failed() {
            return None;
        }
        let Ok(placed) = self.log.push_forget(id) else {
            self.release_due = true;
            self.arm(now + AGAIN);
            return None;
        };
        self.stop(p, "is being filled", ClientError::NotServed, out);
        let part = &mut self.parts[p];
        part.phase = Phase::Idle;
        self.log.forget(&part.index);
        for pending in &part.pending {
            if let Body::Write { crcs, .. } = &pending.entry.body {
                self.log.dead(pending.addr, crcs.len() as u32);
            }
        }
        part.copy.origin = Origin { since: placed.lsn, filling: true };
        self.release_due = true;
        Some(placed.lsn)
    }

    /// The log gave back nothing that could be relied on: what this head is a member of is damaged, whether the log
    /// still names it or not. Checkpoints keep that until a peer has filled it.
    pub(super) fn doubt_all(&mut self, out: &mut Out) {
        out.events.push(Event::Attention(format!(
            "head {}: its log holds no whole checkpoint any more: it serves no volume before another head has filled it; \
             that comes by itself where another head leads (one does with `failover = \"auto\"`, or by `palisade volume \
             failover VOLUME`)",
            self.cfg.node
        )));
        for p in 0..self.parts.len() {
            let part = &mut self.parts[p];
            part.damaged = !part.deleted && !self.cfg.faults.blind_log_trusted();
        }
    }

    /// This head is no member any more: its copy goes, and with it the room in its log. Columns stay as they are.
    pub(super) fn forget(&mut self, partition: PartitionId, out: &mut Out) {
        let Some(p) = self.parts.find(partition) else {
            return out.events.push(Event::Forgotten { partition });
        };
        let part = &mut self.parts[p];
        if part.leads() || part.phase == Phase::Following || part.deleted || part.copy.forgetting.is_some() {
            return;
        }
        if part.copy.origin.filling && part.copy.join.is_none() {
            return out.events.push(Event::Forgotten { partition });
        }
        part.copy.join = None;
        part.copy.forgetting = Some(Lsn(0));
        (part.copy.wished, self.busy) = (None, true);
        out.events
            .push(Event::Note(format!("partition {partition}: the copy of a head that left is forgotten")));
    }

    pub(super) fn forget_on(&mut self, now: Time, p: usize, out: &mut Out) {
        match self.parts[p].copy.forgetting {
            Some(Lsn(0)) => {
                let Some(lsn) = self.void_log(now, p, out) else { return };
                self.parts[p].empty(Op(0));
                self.parts[p].copy.forgetting = Some(lsn);
            }
            Some(lsn) if lsn <= self.log.durable() => {
                let part = &mut self.parts[p];
                part.copy.forgetting = None;
                out.events.push(Event::Forgotten { partition: part.cfg.partition });
            }
            _ => {}
        }
    }
}
