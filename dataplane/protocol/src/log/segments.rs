//! The ring of segments: what lies where, what is live, what is pinned, what is hot (EF-10, P-08, P-31).
//!
//! Segments are written and released in order of their sequence. Each knows its runs (the payload of one
//! write, in address order), a bit per block that says whether anything refers to it, the reads that pin
//! it, and per partition the highest operations that its release must wait for.

use super::types::{LiveRun, LogAddr, Lsn};
use crate::wire::limits::BLOCK;
use crate::wire::{Lba, Number, Op, PartitionId};
use palisade_dma::{Buf, SLOT_CLASSES};
use std::collections::VecDeque;

/// Payload of one write or copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) partition: PartitionId,
    pub(super) op: Op,
    pub(super) lba: Lba,
    /// First block in the segment.
    pub(super) first: u32,
    pub(super) blocks: u32,
}

/// What of a partition a segment's release waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Top {
    pub(super) partition: PartitionId,
    /// Highest operation of any kind: must be committed.
    pub(super) op: Op,
    /// Highest operation that only a checkpoint can replace: everything but writes.
    pub(super) meta: Op,
    /// Highest adopted number: likewise.
    pub(super) adopted: Number,
    /// The record that voided all of the partition before it: a checkpoint must have begun after it.
    pub(super) forgot: Lsn,
}

#[derive(Debug, Default)]
pub(super) struct Segment {
    /// 0 while it is free.
    pub(super) seq: u64,
    /// Last record in it.
    pub(super) last: Lsn,
    pub(super) live: u32,
    pub(super) pins: u32,
    pub(super) tops: Vec<Top>,
    map: Vec<u64>,
    runs: Vec<Run>,
    bufs: Vec<Option<Buf>>,
    /// How many of `bufs` are there: a segment without any needs no look at its runs.
    hot: u32,
}

impl Segment {
    fn reset(&mut self, seq: u64) {
        self.seq = seq;
        self.last = Lsn(0);
        self.live = 0;
        self.pins = 0;
        self.tops.clear();
        self.map.fill(0);
        self.runs.clear();
        self.bufs.clear();
        self.hot = 0;
    }

    fn is_live(&self, block: u32) -> bool {
        self.map[block as usize / 64] >> (block % 64) & 1 == 1
    }

    // Both count in branches. To add the bit's test as a number and have the caller branch on it is lost by
    // rustc 1.95 at opt-level 2 and above (rust-lang/rust#158206): nothing was ever counted dead, and a full
    // log never gave a segment back.
    fn set_live(&mut self, block: u32) {
        if !self.is_live(block) {
            self.map[block as usize / 64] |= 1 << (block % 64);
            self.live += 1;
        }
    }

    fn set_dead(&mut self, block: u32) -> bool {
        let was = self.is_live(block);
        if was {
            self.map[block as usize / 64] &= !(1 << (block % 64));
            self.live -= 1;
        }
        was
    }

    /// The run that a block belongs to.
    fn run_of(&self, block: u32) -> Option<usize> {
        let at = self.runs.partition_point(|run| run.first <= block).checked_sub(1)?;
        (block < self.runs[at].first + self.runs[at].blocks).then_some(at)
    }

    pub(super) fn top(&mut self, partition: PartitionId) -> &mut Top {
        let found = self.tops.iter().position(|top| top.partition == partition);
        let at = found.unwrap_or_else(|| {
            self.tops.push(Top { partition, op: Op(0), meta: Op(0), adopted: Number::ZERO, forgot: Lsn(0) });
            self.tops.len() - 1
        });
        &mut self.tops[at]
    }
}

/// Pool memory that a hot buffer keeps: the whole slot behind it.
fn charge(buf: &Buf) -> usize {
    SLOT_CLASSES.into_iter().find(|class| buf.len() <= *class).unwrap_or(buf.len())
}

/// All segments, and the hot payload.
#[derive(Debug)]
pub(super) struct Ring {
    first_block: u64,
    pub(super) segment_blocks: u32,
    segments: Vec<Segment>,
    /// Oldest segment in use.
    pub(super) tail: u64,
    /// Segment that is being written.
    pub(super) head: u64,
    hot: VecDeque<(u64, u32)>,
    hot_bytes: usize,
    hot_max: usize,
}

impl Ring {
    /// A ring whose oldest segment is `tail` and whose newest is `head`.
    pub(super) fn new(
        first_block: u64,
        segment_blocks: u32,
        count: u64,
        tail: u64,
        head: u64,
        hot: usize,
    ) -> Self {
        assert!(tail <= head && head - tail < count, "a ring holds its segments");
        let words = (segment_blocks as usize).div_ceil(64);
        let mut segments = Vec::new();
        segments.resize_with(count as usize, || Segment { map: vec![0; words], ..Segment::default() });
        for seq in tail..=head {
            segments[(seq % count) as usize].seq = seq;
        }
        let hot_max = hot;
        Self {
            first_block,
            segment_blocks,
            segments,
            tail,
            head,
            hot: VecDeque::new(),
            hot_bytes: 0,
            hot_max,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.segments.len() as u64
    }

    /// Segments that nothing uses.
    pub(super) fn free(&self) -> u64 {
        self.count() - (self.head - self.tail + 1)
    }

    pub(super) fn segment(&mut self, seq: u64) -> &mut Segment {
        let at = (seq % self.count()) as usize;
        &mut self.segments[at]
    }

    pub(super) fn peek(&self, seq: u64) -> &Segment {
        &self.segments[(seq % self.count()) as usize]
    }

    /// Starts the next segment.
    pub(super) fn advance(&mut self) {
        assert!(self.free() > 0, "a segment is free before the ring advances");
        self.head += 1;
        let head = self.head;
        self.segment(head).reset(head);
    }

    /// Operations of a partition above `tail` are void: nothing waits for them any more (P-01).
    pub(super) fn cut(&mut self, partition: PartitionId, tail: Op) {
        for seq in self.tail..=self.head {
            let segment = self.segment(seq);
            for top in segment.tops.iter_mut().filter(|top| top.partition == partition) {
                top.op = top.op.min(tail);
                top.meta = top.meta.min(tail);
            }
        }
    }

    /// Nothing is released before the partition's next adoption is in the log: its records that were lost must
    /// be missed again after another crash, or what they left would pass for committed (P-06).
    pub(super) fn await_adoption(&mut self, partition: PartitionId) {
        let tail = self.tail;
        self.segment(tail).top(partition).op = Op(u64::MAX);
    }

    /// No operation of a partition above `committed` stands in the oldest segment any more (P-31), unless it
    /// is above `last`, and void: what says so must be in the log first, or it would pass for committed (P-01).
    pub(super) fn unpin_tail(&mut self, partition: PartitionId, committed: Op, last: Op) {
        let tail = self.tail;
        let tops = self.segment(tail).tops.iter_mut();
        for top in tops.filter(|top| top.partition == partition && top.op <= last) {
            top.op = top.op.min(committed);
            top.meta = top.meta.min(committed);
        }
    }

    /// Frees the oldest segment.
    pub(super) fn release_tail(&mut self) {
        assert!(self.tail < self.head, "the segment being written is never released");
        let tail = self.tail;
        for at in 0..self.segment(tail).bufs.len() {
            self.cool(tail, at);
        }
        self.segment(tail).reset(0);
        self.tail += 1;
    }

    /// Address of a block of a segment.
    pub(super) fn addr(&self, seq: u64, block: u32) -> LogAddr {
        LogAddr(self.first_block + (seq % self.count()) * u64::from(self.segment_blocks) + u64::from(block))
    }

    /// Sequence of the segment in use, and block in it, of an address.
    fn place(&self, addr: LogAddr) -> Option<(u64, u32)> {
        let rest = addr.0.checked_sub(self.first_block)?;
        let segment = self.segments.get((rest / u64::from(self.segment_blocks)) as usize)?;
        (segment.seq != 0).then_some((segment.seq, (rest % u64::from(self.segment_blocks)) as u32))
    }

    /// Notes a run in segment `seq`; its blocks are live at once unless this is a recovery, which marks
    /// them later. `data` stays in memory while there is room.
    pub(super) fn add_run(&mut self, seq: u64, run: Run, live: bool, data: Option<&Buf>) {
        let data = data.filter(|data| charge(data) <= self.hot_max);
        let segment = self.segment(seq);
        assert!(
            segment.runs.last().is_none_or(|r| r.first + r.blocks <= run.first),
            "runs are in address order"
        );
        segment.runs.push(run);
        segment.bufs.push(data.cloned());
        let at = segment.runs.len() - 1;
        if live {
            for block in run.first..run.first + run.blocks {
                segment.set_live(block);
            }
        }
        if let Some(data) = data {
            segment.hot += 1;
            self.hot_bytes += charge(data);
            self.hot.push_back((seq, at as u32));
            self.evict();
        }
    }

    fn evict(&mut self) {
        while self.hot_bytes > self.hot_max {
            let Some((seq, at)) = self.hot.pop_front() else { return };
            self.cool(seq, at as usize);
        }
        // Entries of runs that cooled by themselves go when they reach the front.
        while let Some(&(seq, at)) = self.hot.front() {
            let segment = self.peek(seq);
            if segment.seq == seq && segment.bufs.get(at as usize).is_some_and(Option::is_some) {
                return;
            }
            self.hot.pop_front();
        }
    }

    /// Gives up the oldest `bytes` of the hot payload.
    pub(super) fn shed(&mut self, bytes: usize) {
        let keep = self.hot_bytes.saturating_sub(bytes);
        while self.hot_bytes > keep {
            let Some((seq, at)) = self.hot.pop_front() else { return };
            self.cool(seq, at as usize);
        }
    }

    /// Drops a run's hot bytes.
    fn cool(&mut self, seq: u64, at: usize) {
        let segment = self.segment(seq);
        if segment.seq != seq {
            return;
        }
        if let Some(buf) = segment.bufs.get_mut(at).and_then(Option::take) {
            segment.hot -= 1;
            self.hot_bytes -= charge(&buf);
        }
    }

    /// Nothing refers to a block any more. Repeats are harmless.
    pub(super) fn dead(&mut self, addr: LogAddr) {
        let Some((seq, block)) = self.place(addr) else { return };
        let segment = self.segment(seq);
        if !segment.set_dead(block) || segment.hot == 0 {
            return;
        }
        let Some(at) = segment.run_of(block) else { return };
        let run = segment.runs[at];
        if segment.bufs[at].is_some() && !(run.first..run.first + run.blocks).any(|b| segment.is_live(b)) {
            self.cool(seq, at);
        }
    }

    /// Recovery: a block is referred to. False if the log does not hold that very block there (P-29).
    pub(super) fn revive(&mut self, partition: PartitionId, op: Op, lba: Lba, addr: LogAddr) -> bool {
        let Some((seq, block)) = self.place(addr) else { return false };
        let segment = self.segment(seq);
        let Some(at) = segment.run_of(block) else { return false };
        let run = segment.runs[at];
        let same =
            run.partition == partition && run.op == op && run.lba.0 + u64::from(block - run.first) == lba.0;
        if same {
            segment.set_live(block);
        }
        same
    }

    /// Whether a block is referred to.
    pub(super) fn is_live(&self, addr: LogAddr) -> bool {
        self.place(addr).is_some_and(|(seq, block)| self.peek(seq).is_live(block))
    }

    /// The bytes of `blocks` blocks at `addr`, if they are hot.
    pub(super) fn cached(&self, addr: LogAddr, blocks: u32) -> Option<Buf> {
        let (seq, block) = self.place(addr)?;
        let segment = self.peek(seq);
        if segment.hot == 0 {
            return None;
        }
        let at = segment.run_of(block)?;
        let run = segment.runs[at];
        if block + blocks > run.first + run.blocks {
            return None;
        }
        let buf = segment.bufs[at].as_ref()?;
        let from = (block - run.first) as usize * BLOCK;
        Some(buf.slice(from..from + blocks as usize * BLOCK))
    }

    /// Whether a segment in use holds the address.
    pub(super) fn holds(&self, addr: LogAddr) -> bool {
        self.place(addr).is_some()
    }

    /// Pins the segment of an address; says its sequence.
    pub(super) fn pin(&mut self, addr: LogAddr) -> u64 {
        let place = self.place(addr);
        assert!(place.is_some(), "only addresses in use are pinned");
        let seq = place.map_or(0, |(seq, _)| seq);
        self.segment(seq).pins += 1;
        seq
    }

    pub(super) fn unpin(&mut self, seq: u64) {
        let segment = self.segment(seq);
        assert!(segment.seq == seq && segment.pins > 0, "a pin is given back once");
        segment.pins -= 1;
    }

    /// Live runs of one segment, in address order, until `visit` says `false`.
    pub(super) fn live_of(&self, seq: u64, visit: &mut dyn FnMut(LiveRun) -> bool) -> bool {
        let segment = self.peek(seq);
        if segment.live == 0 {
            return true;
        }
        for run in &segment.runs {
            let end = run.first + run.blocks;
            let mut at = run.first;
            while at < end {
                let Some(from) = (at..end).find(|b| segment.is_live(*b)) else { break };
                let to = (from..end).find(|b| !segment.is_live(*b)).unwrap_or(end);
                let live = LiveRun {
                    partition: run.partition,
                    op: run.op,
                    lba: Lba(run.lba.0 + u64::from(from - run.first)),
                    addr: self.addr(seq, from),
                    blocks: to - from,
                };
                if !visit(live) {
                    return false;
                }
                at = to;
            }
        }
        true
    }

    /// Live blocks of all segments.
    pub(super) fn live_blocks(&self) -> u64 {
        self.segments.iter().map(|s| u64::from(s.live)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_and_dies_is_counted() {
        let mut ring = Ring::new(0, 2048, 4, 1, 1, 0);
        let run = Run { partition: PartitionId(1), op: Op(1), lba: Lba(5), first: 6, blocks: 3 };
        ring.add_run(1, run, true, None);
        assert_eq!(ring.peek(1).live, 3);
        let addr = ring.addr(1, 7);
        ring.dead(addr);
        ring.dead(addr);
        assert_eq!(ring.peek(1).live, 2);
    }
}
