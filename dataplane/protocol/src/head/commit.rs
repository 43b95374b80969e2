//! Watermarks, and the one place where the index changes (P-06, P-07).
//!
//! An operation commits when the own log is durable up to it and every secondary's contiguous watermark
//! covers it, under the same number. Then, in order of operations, the index changes and whoever waits
//! is answered.

use super::core::Core;
use super::part::{Part, Pending, Phase};
use super::slab::Id;
use super::solo::Withheld;
use super::stats::Stage;
use crate::log::{AHEAD, LoggedBody};
use crate::wire::*;

impl Core {
    /// The own log's durable prefix moved: so do the partitions' watermarks and adoptions.
    pub(super) fn see_durable(&mut self, now: Time, out: &mut Out) {
        let durable = self.log.durable();
        if durable == self.durable {
            return;
        }
        self.durable = durable;
        for p in 0..self.parts.len() {
            let part = &mut self.parts[p];
            while part.local < part.tail {
                let next = Op(part.local.0 + 1);
                let Some(pending) = part.pending_at(next).filter(|pending| pending.lsn <= durable) else {
                    break;
                };
                pending.logged_at = now;
                let span = now.since(pending.at);
                let fresh = pending.at != Time::ZERO;
                part.local = next;
                if fresh {
                    part.stats.record(Stage::Log, span);
                }
            }
            if part.adoption.as_ref().is_some_and(|adoption| adoption.lsn <= durable) {
                self.on_adopted(now, p, out);
            }
        }
        self.settle_copies(durable);
    }

    /// Highest operation that may be applied now.
    fn limit(&self, p: usize) -> Op {
        let part = &self.parts[p];
        let faults = &self.cfg.faults;
        match part.phase {
            // A wished member may be one already, and holds nothing (P-02).
            Phase::Serving if part.widened() => part.committed,
            Phase::Serving => {
                let local = if faults.ack_before_log() { part.tail } else { part.local };
                if faults.ack_before_peer() {
                    return local;
                }
                let copied = if faults.solo_before_copies() { Op(u64::MAX) } else { part.copied() };
                part.needed(*faults).map(|peer| peer.durable).fold(local.min(copied), Op::min)
            }
            // What a salvage has read is committed, whatever comes of the rest of it.
            Phase::Probing => {
                part.salvage.as_ref().map_or(part.committed, |salvage| part.local.min(salvage.sure))
            }
            Phase::Following => part.local.min(part.follow.committed),
            _ => part.join_limit(faults.copy_overwrites()),
        }
    }

    /// Applies what may be applied; at the end of a reconcile everything, before service begins (P-13).
    pub(super) fn commit(&mut self, now: Time, p: usize, out: &mut Out) {
        let reconciled = self.reconciled(p);
        let limit = if reconciled { self.parts[p].tail } else { self.limit(p) };
        let ready = limit.0.saturating_sub(self.parts[p].committed.0) as usize;
        for at in 0..ready.min(AHEAD) {
            self.parts[p].bring_near(at);
        }
        while self.parts[p].committed < limit {
            let part = &mut self.parts[p];
            part.bring_near(AHEAD);
            part.bring_place_near(AHEAD / 2);
            let Some(pending) = part.pending.pop_front() else { break };
            self.apply(now, p, pending, out);
        }
        if reconciled {
            self.serve(now, p, out);
        }
    }

    fn apply(&mut self, now: Time, p: usize, pending: Pending, out: &mut Out) {
        let Pending { addr, cmd, loaded, at, logged_at, replicated_at, .. } = pending;
        let (op, entry) = (pending.entry.op, &pending.entry);
        let part = &mut self.parts[p];
        assert!(op.0 == part.committed.0 + 1, "operations apply in order, one by one (P-07)");
        part.committed = op;
        part.local = part.local.max(op);
        match &entry.body {
            Body::Write { lba, crcs, .. } if !loaded => {
                let body = LoggedBody::Write { lba: *lba, crcs: crcs.clone() };
                self.log.apply_logged(&mut part.index, op, &body, addr);
            }
            Body::Write { .. } | Body::Clear { .. } => {
                self.log.apply(&mut part.index, op, &entry.body, addr);
            }
            body => self.apply_metadata(now, p, op, body.clone(), out),
        }
        self.parts[p].remember(pending);
        self.release_due = true;
        if cmd == Id::NONE {
            return;
        }
        if self.parts[p].one_copy() && !self.cfg.faults.solo_unasked() {
            self.parts[p].service.withheld.push(Withheld { cmd, at, logged_at });
        } else {
            self.done_op(now, p, cmd, logged_at, replicated_at, at, out);
        }
    }

    /// What was committed on one copy is on every member's log by now (P-13): its clients are answered.
    pub(super) fn answer_withheld(&mut self, now: Time, p: usize, out: &mut Out) {
        if self.parts[p].one_copy() {
            return;
        }
        for Withheld { cmd, at, logged_at } in std::mem::take(&mut self.parts[p].service.withheld) {
            self.done_op(now, p, cmd, logged_at, now, at, out);
        }
    }

    #[allow(clippy::too_many_arguments)] // times of one operation
    fn done_op(
        &mut self,
        now: Time,
        p: usize,
        cmd: Id,
        logged_at: Time,
        replicated_at: Time,
        at: Time,
        out: &mut Out,
    ) {
        let both = logged_at.max(replicated_at).max(at);
        self.parts[p].stats.record(Stage::Index, now.since(both));
        if let Some(cmd) = self.cmds.get_mut(cmd) {
            cmd.seen[1] = logged_at;
            cmd.seen[2] = replicated_at;
        }
        self.poll_clear_after(now, cmd, out);
        self.close_cmd(now, cmd, out);
    }

    /// A clear of many blocks goes on as its operations commit.
    fn poll_clear_after(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some(cmd) = self.cmds.get_mut(id) else { return };
        if cmd.clear.is_empty() {
            return;
        }
        cmd.open -= 1;
        self.poll_clear(now, id, out);
        if let Some(cmd) = self.cmds.get_mut(id) {
            cmd.open += 1;
        }
    }

    fn apply_metadata(&mut self, now: Time, p: usize, op: Op, body: Body, out: &mut Out) {
        let part = &mut self.parts[p];
        let released = match &body {
            Body::Release { extent } => part.index.slot_of(*extent).and_then(|slot| part.index.extent(slot)),
            _ => None,
        };
        let released = released.map(|extent| extent.desc.clone());
        if matches!(body, Body::Delete) {
            let columns = part.index.extents().map(|(_, extent)| extent.desc.clone()).collect::<Vec<_>>();
            self.log.forget(&part.index);
            self.on_deleted(p, op, columns);
            return;
        }
        let kept = match &body {
            Body::Checkpoint { .. } => part.index.kept().found.clone(),
            _ => Vec::new(),
        };
        self.log.apply(&mut part.index, op, &body, crate::log::LogAddr(0));
        match body {
            Body::ExtentCreate(desc) => self.on_extent_created(now, p, *desc),
            Body::Repoint(repoint) => self.on_repointed(now, p, &repoint, out),
            Body::Seal { extent, .. } => {
                self.parts[p].closing.remove(&extent);
                self.parts[p].collect_at = now;
            }
            Body::Release { extent } => self.on_extent_released(p, op, extent, released, out),
            Body::Nothing => self.on_named(now, p, op),
            Body::Checkpoint { .. } => self.on_checkpoint(now, p, op, kept),
            Body::Write { .. } | Body::Clear { .. } | Body::Delete => {}
        }
        self.background_at = self.background_at.min(now);
    }
}

impl Part {
    /// Asks memory for what the commit of the pending operation at `at` will read first.
    fn bring_near(&self, at: usize) {
        if let Some(Body::Write { lba, .. }) = self.pending.get(at).map(|pending| &pending.entry.body) {
            self.index.bring_near(*lba);
        }
    }

    /// And for what it will read after that.
    fn bring_place_near(&self, at: usize) {
        if let Some(Body::Write { lba, .. }) = self.pending.get(at).map(|pending| &pending.entry.body) {
            self.index.bring_place_near(*lba);
        }
    }
}
