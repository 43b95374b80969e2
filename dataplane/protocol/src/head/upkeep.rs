//! Background work of a head: what runs when, checkpoints, log release and copy-forward (P-08, P-28, P-31).

use super::core::Core;
use super::part::{Dying, Part, Parts, Pending, Phase};
use super::read::ReadOwner;
use super::slab::{Id, Slab};
use crate::log::{CopyForward, LiveRun, Loc, LogAddr, Lsn, Mapping, PartitionMeta, Placed};
use crate::wire::*;
use palisade_dma::Buf;
use std::collections::VecDeque;
use std::time::Duration;

/// Between two passes while something is under way.
const BUSY: Duration = Duration::from_millis(2);
/// Between two passes of a head at rest.
const REST: Duration = Duration::from_millis(100);
/// A checkpoint that only releases wait for begins no sooner than this after the last.
const CHECKPOINT_PACE: Duration = Duration::from_millis(200);
/// Blocks copied forward at once.
const COPY_BLOCKS: usize = 256;
/// Log fill in percent from which blocked tail segments are copied forward.
const COPY_FILL: u8 = 85;

/// What is moved to the log's head.
#[derive(Debug)]
enum Moving {
    /// Committed blocks.
    Blocks(CopyForward),
    /// An operation that is not committed, and the record from which it is moved.
    Pending(Entry, Lsn),
}

/// Copies under way.
#[derive(Debug, Default)]
pub(super) struct Copying {
    reading: Slab<(usize, Moving)>,
    writing: VecDeque<(usize, Moving, Placed)>,
    checkpoint_at: Time,
    /// A checkpoint is being written.
    checkpoint: bool,
    runs: Vec<LiveRun>,
}

impl Core {
    /// One pass over everything that is not the path of a client's I/O.
    pub(super) fn background(&mut self, now: Time, out: &mut Out) {
        let mut busy = false;
        self.watch_devices(now, out);
        for p in 0..self.parts.len() {
            self.mend_later(now, p, out);
            if matches!(self.parts[p].phase, Phase::Announcing | Phase::Serving) {
                self.claim_devices(now, p, out);
            }
            if self.parts[p].phase == Phase::Serving && self.cfg.faults.journal_given_back() {
                self.release_columns(now, p, out);
            }
            if self.parts[p].phase != Phase::Serving || self.parts[p].rests() {
                continue;
            }
            self.poll_delete(now, p, out);
            self.release_columns(now, p, out);
            if self.parts[p].deleted || self.log.failed() {
                continue;
            }
            self.number_repoints(now, p, out);
            if self.parts[p].deleting && self.parts[p].active == 0 {
                // Nothing new begins: the `Delete` has to be the partition's last operation.
                busy |= !self.parts[p].batches.is_empty();
                continue;
            }
            self.seal_others(now, p);
            if self.parts[p].making.is_some() {
                self.choose(now, p, out);
            }
            self.mark_age(now, p);
            busy |= self.flush(now, p, out);
            let flushing = self.flushing(p) > 0 || self.parts[p].making.is_some();
            self.parts[p].learner_helped(flushing);
            self.collect(now, p, out);
            self.mind_checkpoints(now, p);
            self.answer_flushes(now, p, out);
            self.refuse_when_full(now, p, out);
            // What an ill device holds waits long.
            let parts = &self.parts[p];
            let soon = |dying: &Dying| self.devices.health(dying.column.device) == DeviceHealth::Good;
            busy |= parts.dying.iter().any(soon) || parts.making.is_some();
        }
        self.start_checkpoint(now);
        self.copy_forward(now, out);
        self.release_due = true;
        let pause = if busy { BUSY } else { REST };
        let again = std::mem::take(&mut self.flush_again);
        self.background_at = if again { now } else { self.collects_at(now).min(now + pause) };
    }

    /// When the collector has something to do again, at the latest: a place of a rebuild whose pause ends does not
    /// wait for the pass after a rest.
    fn collects_at(&self, now: Time) -> Time {
        let collecting = self.parts.iter().filter(|part| part.phase == Phase::Serving && !part.rests());
        collecting.map(|part| part.collect_at).filter(|at| *at > now).min().unwrap_or(now + REST)
    }

    fn mend_later(&mut self, now: Time, p: usize, out: &mut Out) {
        let reachable = match self.parts[p].phase {
            Phase::Serving => !self.parts[p].peers.is_empty(),
            Phase::Following => true,
            _ => false,
        };
        if reachable && !self.parts[p].bad.is_empty() {
            self.mend(now, p, out);
        }
    }

    /// Frees log segments from the tail.
    pub(super) fn release_log(&mut self) {
        if !std::mem::take(&mut self.release_due) {
            return;
        }
        let parts: &Parts = &self.parts;
        let committed = |id: PartitionId| parts.find(id).map(|p| &parts[p]).filter(|part| !part.deleted);
        self.log.try_release(&|id| committed(id).map(|part| part.committed));
    }

    fn start_checkpoint(&mut self, now: Time) {
        if self.log.checkpointing() || self.log.failed() || now < self.copying.checkpoint_at {
            return;
        }
        if self.parts.iter().any(Part::voiding) {
            return;
        }
        let seals = self.parts.iter().any(Part::seals);
        let behind = self.parts.iter().any(|part| {
            let covers = self.log.covers(part.id());
            !part.deleted && !part.copy.origin.filling && part.released_op > covers && part.committed > covers
        });
        if !behind && !seals && !self.log.checkpoint_wanted() {
            return;
        }
        for p in 0..self.parts.len() {
            self.parts[p].sealing(self.log.checkpoint_generation());
        }
        let meta = |part: &super::part::Part| PartitionMeta {
            partition: part.cfg.partition,
            blocks: part.index.blocks(),
            committed: part.committed,
            adopted: part.adopted.clone(),
            // The checkpoint that begins now is what makes a copy whole.
            damaged: part.damaged && (part.copy.origin.filling || part.copy.join.is_none()),
            origin: part.copy.origin,
        };
        let all = self.parts.iter().filter(|part| !part.deleted).map(meta).collect();
        self.log.checkpoint_begin(all);
        self.copying.checkpoint = true;
        self.copying.checkpoint_at = now + CHECKPOINT_PACE;
        self.busy = true;
    }

    /// Writes a checkpoint on, a little each turn.
    pub(super) fn step_checkpoint(&mut self, now: Time, out: &mut Out) {
        if !self.copying.checkpoint {
            return;
        }
        if self.log.checkpointing() {
            self.log.checkpoint_step(&mut self.parts, out);
        }
        if !self.log.checkpointing() {
            self.copying.checkpoint = false;
            (self.release_due, self.busy) = (true, true);
            self.background_at = now;
            for p in 0..self.parts.len() {
                self.parts[p].stats.counters.checkpoints += 1;
                self.parts[p].sealed(self.log.checkpoint_generation());
            }
        }
    }

    /// Moves live blocks out of a tail segment that nobody flushes, so that the log can go round (P-31).
    fn copy_forward(&mut self, now: Time, out: &mut Out) {
        if self.fill() < COPY_FILL || !self.copying.reading.is_empty() || !self.copying.writing.is_empty() {
            return;
        }
        let mut runs = std::mem::take(&mut self.copying.runs);
        runs.clear();
        self.log.tail_live(&mut runs);
        let mut blocks = 0;
        for run in &runs {
            let Some(p) = self.parts.find(run.partition) else { continue };
            let part = &self.parts[p];
            // A repoint needs the peer, too.
            let away = part.peer_away();
            let served = part.phase == Phase::Serving && !part.rests();
            let flushed_here = served && part.no_columns_since.is_none() && !away;
            if flushed_here || blocks + run.blocks as usize > COPY_BLOCKS {
                continue;
            }
            blocks += run.blocks as usize;
            self.copy_run(now, p, run, out);
        }
        self.copying.runs = runs;
        for p in 0..self.parts.len() {
            self.move_pending(now, p, &mut blocks, out);
        }
    }

    /// Logs pending operations of the tail segment again: a volume whose secondary is away would hold up the
    /// log of all others (P-31). When there are none the segment waits for the partition no more.
    fn move_pending(&mut self, now: Time, p: usize, blocks: &mut usize, out: &mut Out) {
        let (part, Some(last)) = (&self.parts[p], self.log.tail_last()) else { return };
        let old = |pending: &&Pending| pending.lsn <= last && pending.entry.op <= part.local;
        let mut moving: Vec<(Entry, Lsn, bool, LogAddr)> = Vec::new();
        for pending in part.pending.iter().filter(old) {
            *blocks += 1 + written(&pending.entry) as usize;
            if *blocks > COPY_BLOCKS && !moving.is_empty() {
                break;
            }
            moving.push((pending.entry.clone(), pending.lsn, pending.loaded, pending.addr));
        }
        if moving.is_empty() {
            let staged = part.pending.iter().any(|pending| pending.lsn <= last);
            if !staged {
                self.log.unpin_tail(part.cfg.partition, part.committed, part.tail);
            }
            return;
        }
        for (entry, from, loaded, addr) in moving {
            let (Body::Write { lba, crcs, .. }, false) = (&entry.body, loaded) else {
                self.stage_move(p, Moving::Pending(entry, from));
                continue;
            };
            let block = |(at, &crc): (u64, &u32)| {
                (Lba(lba.0 + at), Mapping { op: entry.op, loc: Loc::Log(addr.plus(at)), crc })
            };
            let wanted: Vec<(Lba, Mapping)> = (0..).zip(crcs).map(block).collect();
            let id = self.copying.reading.insert((p, Moving::Pending(entry, from)));
            self.read_blocks(now, p, ReadOwner::Copy(id), &wanted, out);
        }
    }

    fn copy_run(&mut self, now: Time, p: usize, run: &LiveRun, out: &mut Out) {
        let part = &self.parts[p];
        let mut wanted: Vec<(Lba, Mapping)> = Vec::with_capacity(run.blocks as usize);
        for at in 0..u64::from(run.blocks) {
            let lba = Lba(run.lba.0 + at);
            let mapping = part.index.get(lba);
            if mapping.op != run.op || mapping.loc != Loc::Log(run.addr.plus(at)) {
                return;
            }
            wanted.push((lba, mapping));
        }
        let crcs = wanted.iter().map(|(_, mapping)| mapping.crc).collect();
        let data = Buf::from_static(&[]);
        let (partition, op, lba, from) = (run.partition, run.op, run.lba, run.addr);
        let copy = CopyForward { partition, op, lba, crcs, from, data };
        let id = self.copying.reading.insert((p, Moving::Blocks(copy)));
        self.read_blocks(now, p, ReadOwner::Copy(id), &wanted, out);
    }

    /// The bytes of a copy are there: stage it.
    pub(super) fn copy_read(&mut self, id: Id, result: Result<Buf, ClientError>) {
        let Some((p, mut moving)) = self.copying.reading.remove(id) else { return };
        let Ok(bytes) = result else { return };
        match &mut moving {
            Moving::Blocks(copy) => copy.data = bytes,
            Moving::Pending(Entry { body: Body::Write { data, .. }, .. }, _) => *data = bytes,
            Moving::Pending(..) => {}
        }
        self.stage_move(p, moving);
    }

    /// Puts a copy into the log. What finds no room is tried again.
    fn stage_move(&mut self, p: usize, moving: Moving) {
        let part = &mut self.parts[p];
        let (placed, blocks) = match &moving {
            Moving::Blocks(copy) => (self.log.push_copy(copy, part.committed), copy.crcs.len() as u64),
            // Committed, or cut, while it was read.
            Moving::Pending(entry, from) if part.still_at(entry.op, *from).is_none() => return,
            Moving::Pending(entry, _) => (self.log.push_again(entry, part.committed), written(entry)),
        };
        if let Ok(placed) = placed {
            part.stats.counters.copied_forward += blocks;
            self.copying.writing.push_back((p, moving, placed));
            self.busy = true;
        }
    }

    /// Copies that are durable take their blocks' place.
    pub(super) fn settle_copies(&mut self, durable: Lsn) {
        while self.copying.writing.front().is_some_and(|(_, _, placed)| placed.lsn <= durable) {
            let Some((p, moving, placed)) = self.copying.writing.pop_front() else { return };
            let part = &mut self.parts[p];
            match moving {
                Moving::Blocks(copy) => {
                    self.log.settle_copy(&mut part.index, &copy, placed);
                }
                Moving::Pending(entry, from) => {
                    let blocks = written(&entry) as u32;
                    let dead = part.still_at(entry.op, from).map_or(placed.addr, |pending| {
                        pending.lsn = placed.lsn;
                        std::mem::replace(&mut pending.addr, placed.addr)
                    });
                    self.log.dead(dead, blocks);
                }
            }
            self.release_due = true;
            // A log full of what lives would be moved round and round: that may go slowly.
            if self.log.live_blocks() * 4 < self.log.capacity_blocks() * 3 {
                self.background_at = Time::ZERO;
            }
        }
    }
}

impl Part {
    /// The operation, if it is pending still, and stands in that very record: not one that took its number.
    fn still_at(&mut self, op: Op, lsn: Lsn) -> Option<&mut Pending> {
        self.pending_at(op).filter(|pending| pending.lsn == lsn)
    }
}

/// Payload blocks of an operation.
fn written(entry: &Entry) -> u64 {
    match &entry.body {
        Body::Write { crcs, .. } => crcs.len() as u64,
        _ => 0,
    }
}
