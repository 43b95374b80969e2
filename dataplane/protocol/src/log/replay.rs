//! From records back to partitions: index, pending operations, adopted pair (P-01, P-06, P-07, P-29).
//!
//! Starts from what the checkpoint holds. Operations above its C are applied in order once an entry says
//! that they are committed; the rest stays pending for the head to reconcile. An adoption voids pending
//! operations above its tail. A pending operation may stand in the log again, where it was moved so that its
//! segment could go (P-31). Records that were lost make a partition suspect until its next operation
//! shows that nothing of it was in them.

use super::Faults;
use super::index::{Change, Index};
use super::record::Logged;
use super::scan::Record;
use super::segments::{Ring, Run};
use super::types::*;
use crate::wire::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A partition while it is replayed.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) index: Index,
    /// C of the checkpoint.
    covered: Op,
    /// Whether the checkpoint lists it, and the newest record that speaks of it.
    listed: bool,
    newest: Lsn,
    committed: Op,
    /// Highest operation met in the log, but for those that were moved.
    last: Option<Op>,
    /// Highest operation that the log is known to have held, moved ones too.
    staged: Option<Op>,
    adopted: Option<Adopt>,
    pending: VecDeque<PendingOp>,
    recent: VecDeque<PendingOp>,
    suspect: bool,
    /// Committed operations are among lost records: what follows them cannot be applied, and comes from a
    /// peer together with them.
    hole: bool,
    damaged: bool,
    deleted: bool,
    origin: Origin,
}

/// Everything that recovery knows of the partitions so far.
#[derive(Debug)]
pub(super) struct Replay {
    faults: Faults,
    pub(super) parts: BTreeMap<PartitionId, Part>,
    /// Some records were lost, so that a partition first met later may lack its beginning.
    lost: bool,
    /// Newest record when the checkpoint began: what it does not list and later records do not name had
    /// been deleted by then.
    pub(super) checkpoint_begin: Lsn,
    /// Bad payload blocks: partition, block.
    bad: Vec<(PartitionId, BadBlock)>,
    pub(super) report: RecoveryReport,
}

impl Replay {
    pub(super) fn new(faults: Faults, report: RecoveryReport) -> Self {
        Self {
            faults,
            parts: BTreeMap::new(),
            lost: false,
            checkpoint_begin: Lsn(0),
            bad: Vec::new(),
            report,
        }
    }

    /// A partition as the checkpoint holds it.
    pub(super) fn restore(&mut self, meta: PartitionMeta, index: Index) {
        let part = Part {
            index,
            covered: meta.committed,
            listed: true,
            committed: meta.committed,
            adopted: meta.adopted,
            damaged: meta.damaged || meta.origin.filling,
            origin: meta.origin,
            ..Part::default()
        };
        self.parts.insert(meta.partition, part);
    }

    /// Takes the next record; its runs and waits go into the ring.
    pub(super) fn record(&mut self, record: Record, ring: &mut Ring) {
        self.report.records += 1;
        self.report.bad_payload += record.bad.len() as u64;
        let fixed = record.fixed;
        let mut block = fixed.at + u32::from(fixed.header_blocks);
        let first_payload = block;
        ring.segment(fixed.segment).last = fixed.lsn;
        for (entry, committed) in record.entries {
            self.report.entries += 1;
            let blocks = entry.crcs().len() as u32;
            let addr = ring.addr(fixed.segment, block);
            if self.void(&entry, fixed.lsn, fixed.segment, ring) {
                block += blocks;
                continue;
            }
            if blocks > 0 {
                self.note_run(&entry, fixed.segment, block, ring);
                for bad in
                    record.bad.iter().filter(|b| (block..block + blocks).contains(&(first_payload + **b)))
                {
                    self.note_bad(&entry, first_payload + bad - block, addr);
                }
            }
            if let Logged::Adopt(adopt) = &entry {
                ring.cut(adopt.partition, adopt.tail);
            }
            note_top(&entry, fixed.segment, ring);
            self.entry(entry, committed, addr, fixed.lsn);
            block += blocks;
        }
    }

    /// Whether an entry counts for nothing: it stands before the partition's history began here, or belongs to a
    /// copy that is not whole (BA-01). Notes where such a history begins.
    fn void(&mut self, entry: &Logged, lsn: Lsn, segment: u64, ring: &mut Ring) -> bool {
        let partition = entry.partition();
        if !matches!(entry, Logged::Forget { .. }) {
            let part = self.parts.get_mut(&partition);
            return part.is_some_and(|part| {
                part.newest = lsn;
                !self.faults.half_copy_counts() && (part.origin.filling || lsn <= part.origin.since)
            });
        }
        let part = self.parts.entry(partition).or_default();
        if lsn > part.origin.since {
            let origin = Origin { since: lsn, filling: true };
            *part = Part { listed: part.listed, newest: lsn, damaged: true, origin, ..Part::default() };
            part.damaged = !self.faults.half_copy_counts();
            ring.cut(partition, Op(0));
        }
        ring.segment(segment).top(partition).forgot = lsn;
        true
    }

    fn note_run(&self, entry: &Logged, segment: u64, first: u32, ring: &mut Ring) {
        let (op, lba) = match entry {
            Logged::Op { op, body: LoggedBody::Write { lba, .. }, .. } | Logged::Copy { op, lba, .. } => {
                (*op, *lba)
            }
            _ => return,
        };
        let blocks = entry.crcs().len() as u32;
        ring.add_run(segment, Run { partition: entry.partition(), op, lba, first, blocks }, false, None);
    }

    fn note_bad(&mut self, entry: &Logged, i: u32, addr: LogAddr) {
        let (op, lba) = match entry {
            Logged::Op { op, body: LoggedBody::Write { lba, .. }, .. } | Logged::Copy { op, lba, .. } => {
                (*op, *lba)
            }
            _ => return,
        };
        let bad = BadBlock {
            lba: Lba(lba.0 + u64::from(i)),
            op,
            addr: addr.plus(u64::from(i)),
            crc: entry.crcs()[i as usize],
        };
        self.bad.push((entry.partition(), bad));
    }

    fn entry(&mut self, entry: Logged, committed: Op, addr: LogAddr, lsn: Lsn) {
        let lost = self.lost;
        let part =
            self.parts.entry(entry.partition()).or_insert_with(|| Part { suspect: lost, ..Part::default() });
        part.newest = lsn;
        if part.deleted {
            return;
        }
        part.hole |= part.suspect && committed > part.last.unwrap_or(part.covered);
        if !part.hole {
            part.commit(committed, &self.faults);
        }
        match entry {
            Logged::Op { .. } if part.hole => {}
            Logged::Op { number, op, body, again, .. } => {
                let pending = PendingOp { op, number, body, addr };
                if again { part.moved(pending) } else { part.operation(pending, &self.faults) }
            }
            Logged::Adopt(adopt) => part.adopt(adopt),
            Logged::Forget { .. } => {}
            Logged::Copy { op, lba, crcs, .. } => {
                for (i, crc) in (0u64..).zip(&crcs) {
                    part.index.relocate(op, Lba(lba.0 + i), *crc, addr.plus(i), true, &mut |_| {});
                }
            }
        }
    }

    /// Records that were durable are unreadable: whose they were is unknown.
    pub(super) fn lose(&mut self, from: Lsn, to: Lsn) {
        self.report.lost += to.0 + 1 - from.0;
        self.lost = true;
        self.parts.values_mut().for_each(Part::doubt);
    }

    /// All records were taken: live blocks are marked in the ring, and each partition is ready for its head.
    pub(super) fn finish(self, ring: &mut Ring) -> (Vec<RecoveredPartition>, RecoveryReport) {
        let Self { faults, parts, lost, bad, report, checkpoint_begin, .. } = self;
        let mut found = Vec::new();
        for (partition, mut part) in parts {
            if !lost {
                part.commit(part.released(), &faults);
            }
            if !part.listed && part.newest <= checkpoint_begin {
                part = Part { deleted: true, ..Part::default() };
            }
            let mut missing = Vec::new();
            part.index.for_each_logged(|lba, mapping, addr| {
                if !ring.revive(partition, mapping.op, lba, addr) {
                    missing.push(lba);
                }
            });
            // P-29: a mark "in log" that the log does not bear out is no data. One that a later operation
            // of the log moves or overwrites is well: its segment was released on the strength of that
            // operation, whose commit the log had no time to tell.
            if !missing.is_empty() && !faults.trust_checkpoint_marks() {
                part.find_again(partition, &mut missing, ring);
                let moved = part.superseded();
                missing.retain(|lba| lost || !moved.contains(lba));
                part.lost_end(lost, &missing);
                for lba in missing {
                    part.index.unmap(lba);
                }
            }
            for pending in &part.pending {
                if let LoggedBody::Write { lba, crcs } = &pending.body {
                    for i in 0..crcs.len() as u64 {
                        ring.revive(partition, pending.op, Lba(lba.0 + i), pending.addr.plus(i));
                    }
                }
            }
            let bad = bad.iter().filter(|(p, bad)| *p == partition && ring.is_live(bad.addr));
            let bad = bad.map(|(_, bad)| *bad).collect();
            part.damaged |= report.blind && !part.deleted;
            let part = part.into_recovered(partition, bad);
            // What lies beyond a gap is not held: no segment waits for it.
            ring.cut(partition, part.tail);
            if part.short {
                ring.await_adoption(partition);
            }
            found.push(part);
        }
        (found, report)
    }
}

/// What a segment's release will wait for.
fn note_top(entry: &Logged, segment: u64, ring: &mut Ring) {
    let top = ring.segment(segment).top(entry.partition());
    match entry {
        Logged::Op { op, body, .. } => {
            top.op = top.op.max(*op);
            if !matches!(body, LoggedBody::Write { .. }) {
                top.meta = top.meta.max(*op);
            }
        }
        Logged::Adopt(adopt) => top.adopted = top.adopted.max(adopt.number),
        Logged::Copy { .. } | Logged::Forget { .. } => {}
    }
}

impl Part {
    /// Everything up to `committed` is committed: applies what is pending of it.
    fn commit(&mut self, committed: Op, faults: &Faults) {
        self.committed = self.committed.max(committed);
        while self.pending.front().is_some_and(|pending| pending.op <= self.committed) {
            let Some(pending) = self.pending.pop_front() else { return };
            self.deleted |= matches!(pending.body, LoggedBody::Other(Body::Delete));
            self.index.apply(pending.op, Change::from(&pending.body), pending.addr, faults, &mut |_| {});
            self.remember(pending);
        }
    }

    /// Keeps the last committed operations: the peer's log may have lost its end.
    fn remember(&mut self, pending: PendingOp) {
        if self.recent.back().is_some_and(|last| last.op.0 + 1 != pending.op.0) {
            self.recent.clear();
        }
        if self.recent.len() >= RECENT_OPS {
            self.recent.pop_front();
        }
        self.recent.push_back(pending);
    }

    fn operation(&mut self, pending: PendingOp, faults: &Faults) {
        let op = pending.op;
        let follows = match self.last {
            // What the log lost at its end is in the checkpoint, or came back from the peer.
            Some(last) => op.0 <= last.max(self.covered).0 + 1,
            None if self.suspect => op.0 <= self.covered.0 + 1,
            None => true,
        };
        // Under another number: an adoption is among the lost records, and may have cut what is pending here.
        let renamed = self.pending.back().is_some_and(|held| held.op < op && held.number != pending.number);
        if (!follows || renamed) && self.suspect {
            self.hole = true;
            return;
        }
        self.damaged |= !follows;
        self.suspect = false;
        // Numbers are used again only below a cut: what followed it is void, even if the adoption that says
        // so is among records that were lost (P-01).
        let kept = self.pending.partition_point(|held| held.op < op);
        self.pending.truncate(kept);
        self.last = Some(op);
        self.staged = Some(op);
        if op <= self.covered {
            return self.remember(pending);
        }
        self.pending.push_back(pending);
        self.commit(self.committed, faults);
    }

    /// A pending operation was moved to a new place, or out of a segment that has been released since.
    fn moved(&mut self, pending: PendingOp) {
        if pending.op <= self.committed {
            return;
        }
        let at = self.pending.partition_point(|held| held.op < pending.op);
        match self.pending.get_mut(at).filter(|held| held.op == pending.op) {
            Some(held) if held.number == pending.number => *held = pending,
            Some(_) => {
                // What cut the older one is among records that were lost, with the place that it cut to.
                self.pending.truncate(at);
                self.damaged |= !self.suspect;
                self.hole = true;
            }
            // That it was pending proves nothing of the records that were lost before it.
            None if self.suspect => {}
            None => {
                self.staged = self.staged.max(Some(pending.op));
                self.pending.insert(at, pending);
            }
        }
    }

    /// What must be committed because it is not here: segments that were released held committed operations,
    /// and pending ones that were moved. The highest that the log held once and no more is committed, and all
    /// below it. That holds of a log from which nothing was lost.
    fn released(&self) -> Op {
        let Some(staged) = self.staged else { return self.committed };
        let here = self.pending.iter().rev().zip(0..).take_while(|(held, i)| held.op.0 + i == staged.0);
        self.committed.max(Op(staged.0 - here.count() as u64))
    }

    /// Records were lost. Operations that may have been moved into them cannot be told from committed ones:
    /// the partition ends before them.
    fn doubt(&mut self) {
        self.suspect = true;
        self.hole |= self.released() > self.committed;
    }

    /// Blocks that the peer gave back after this log had lost them lie in new records, behind a checkpoint
    /// that names the old ones (P-06).
    fn find_again(&mut self, partition: PartitionId, missing: &mut Vec<Lba>, ring: &mut Ring) {
        missing.retain(|&lba| {
            let mapping = self.index.get(lba);
            let first = self.recent.front().map_or(Op(0), |first| first.op);
            let held = mapping.op.0.checked_sub(first.0).and_then(|at| self.recent.get(at as usize));
            let Some(PendingOp { body: LoggedBody::Write { lba: from, crcs }, addr, .. }) = held else {
                return true;
            };
            let at = lba.0.wrapping_sub(from.0);
            let Some(&crc) = crcs.get(at as usize).filter(|crc| **crc == mapping.crc) else { return true };
            let place = addr.plus(at);
            let found = ring.revive(partition, mapping.op, lba, place);
            if found {
                self.index.relocate(mapping.op, lba, crc, place, false, &mut |_| {});
            }
            !found
        });
    }

    /// Judges blocks that the checkpoint places in the log and the log does not hold. When all of them belong
    /// to operations behind its end, that end is no torn write, because the checkpoint knows more: those
    /// records were durable and have rotted. The partition ends before them, and a peer gives them back (P-06).
    fn lost_end(&mut self, lost: bool, missing: &[Lba]) {
        if missing.is_empty() {
            return;
        }
        let end = self.last.filter(|last| *last < self.covered && !lost);
        let Some(end) = end.filter(|end| missing.iter().all(|lba| self.index.get(*lba).op > *end)) else {
            self.damaged = true;
            return;
        };
        self.suspect = true;
        self.committed = end;
    }

    /// P-01: operations above the tail that came before are void.
    fn adopt(&mut self, adopt: Adopt) {
        while self.pending.back().is_some_and(|pending| pending.op > adopt.tail) {
            self.pending.pop_back();
        }
        self.last = self.last.map(|last| last.min(adopt.tail));
        // Operations that were moved and then cut are void, not committed.
        self.staged = self.staged.map(|staged| staged.min(adopt.tail));
        if self.adopted.as_ref().is_none_or(|held| held.number <= adopt.number) {
            self.adopted = Some(adopt);
        }
    }

    /// Blocks that operations not known to be committed move or overwrite.
    fn superseded(&self) -> BTreeSet<Lba> {
        let mut blocks = BTreeSet::new();
        for pending in &self.pending {
            match &pending.body {
                LoggedBody::Write { lba, crcs } => {
                    blocks.extend((0..crcs.len() as u64).map(|i| Lba(lba.0 + i)));
                }
                LoggedBody::Other(Body::Clear { lba, count }) => {
                    blocks.extend((0..u64::from(*count)).map(|i| Lba(lba.0 + i)));
                }
                LoggedBody::Other(Body::Repoint(repoint)) => {
                    blocks.extend(repoint.entries.iter().map(|entry| entry.lba));
                }
                LoggedBody::Other(_) => {}
            }
        }
        blocks
    }

    fn into_recovered(mut self, partition: PartitionId, bad: Vec<BadBlock>) -> RecoveredPartition {
        // Lost records may have voided what is not committed.
        let short = self.suspect && !self.damaged && !self.deleted;
        if short {
            self.pending.clear();
        }
        // Only what follows without a gap is held.
        let gap = (1..).zip(&self.pending).position(|(i, pending)| pending.op.0 != self.committed.0 + i);
        if let Some(gap) = gap {
            self.pending.truncate(gap);
            self.damaged = true;
        }
        let tail = self.pending.back().map_or(self.committed, |pending| pending.op);
        if self.deleted || self.recent.back().is_some_and(|last| last.op != self.committed) {
            self.recent.clear();
        }
        RecoveredPartition {
            partition,
            index: self.index,
            committed: self.committed,
            tail,
            adopted: self.adopted,
            pending: self.pending.into(),
            recent: self.recent,
            bad,
            damaged: self.damaged || (self.suspect && !short),
            short,
            deleted: self.deleted,
            origin: self.origin,
        }
    }
}
