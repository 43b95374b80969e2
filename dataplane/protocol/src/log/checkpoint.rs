//! Writing a checkpoint while I/O goes on (P-08, P-28, P-29, P-32).
//!
//! Fuzzy: it begins at operation C of each partition and copies a few leaves a turn, each as it is then.
//! Recovery loads it and replays what the log holds above C. Each page is written twice; when all are
//! durable the superblock names the checkpoint by hash, in both its slots one after the other. Two
//! generations take turns, so that the valid one is never overwritten.
//!
//! Order: pages, flush, superblock slot A (FUA), slot B (FUA), then it counts.

use super::append::{KIND_CHECKPOINT, Log, key};
use super::format::Root;
use super::index::Index;
use super::page::{
    END, PAGE, PAGE_HEADER, PageHeader, PageKind, blocks_for, pages_for, put_partition, root_hash,
};
use super::segments::Top;
use super::types::*;
use crate::wire::codec::Writer;
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, BufMut};
use smallvec::smallvec;
use std::collections::{BTreeMap, BTreeSet};

/// Page writes under way at once, both copies counted.
const WRITES_MAX: u32 = 16;
/// Pages of one turn: each costs a copy of 64 KiB, so that clients hardly notice.
const PAGES_A_TURN: u32 = 2;

/// Steps without I/O of one turn (from the last leaf to the stream, from the stream to the flush).
const STEPS_A_TURN: u32 = 4;

/// Gives a checkpoint the head's indexes.
pub trait Indexes {
    /// The index of a partition; `None` once it is deleted.
    fn index(&mut self, partition: PartitionId) -> Option<&mut Index>;
}

impl Indexes for BTreeMap<PartitionId, Index> {
    fn index(&mut self, partition: PartitionId) -> Option<&mut Index> {
        self.get_mut(&partition)
    }
}

/// What the newest durable checkpoint covers.
#[derive(Clone, Debug, Default)]
pub(super) struct Covered {
    /// Newest record at its begin: what it does not list and stands before is deleted.
    pub(super) begin: Lsn,
    pub(super) partitions: BTreeMap<PartitionId, (Op, Number)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Leaves,
    Stream,
    Flush,
    SlotA,
    SlotB,
    Done,
}

/// A checkpoint under way.
#[derive(Debug)]
struct Writing {
    root: Root,
    metas: Vec<PartitionMeta>,
    step: Step,
    /// Partition and leaf that come next; then position in `stream`.
    partition: usize,
    leaf: usize,
    stream: Vec<u8>,
    sent: usize,
    crcs: Vec<u32>,
    under_way: u32,
    failed: bool,
}

/// State of checkpoints between and during their writing.
#[derive(Debug, Default)]
pub(super) struct Checkpointer {
    pub(super) covered: Covered,
    /// Partitions that a copy fills: until the checkpoint that ends the copy begins, nothing that the log holds
    /// of them counts after a restart, so that no segment waits for a checkpoint on their account.
    pub(super) filling: BTreeSet<PartitionId>,
    /// A release waits for a newer checkpoint.
    pub(super) blocks_release: bool,
    writing: Option<Writing>,
    /// Kept for when the pool has nothing: what makes room again must never wait for a buffer (P-31). It is
    /// `lent` while a write has it.
    pub(super) reserve: Option<BufMut>,
    lent: Option<Buf>,
    /// Checkpoints finished since the start, and those given up.
    finished: u64,
    abandoned: u64,
}

impl Checkpointer {
    pub(super) fn new(covered: Covered, reserve: Option<BufMut>) -> Self {
        Self { covered, reserve, ..Self::default() }
    }

    /// Whether the newest durable checkpoint stands for a segment's metadata of a partition.
    pub(super) fn covers_top(&self, last: Lsn, top: &Top) -> bool {
        if top.forgot > self.covered.begin {
            return false;
        }
        if (top.meta == Op(0) && top.adopted == Number::ZERO) || self.filling.contains(&top.partition) {
            return true;
        }
        match self.covered.partitions.get(&top.partition) {
            Some((op, adopted)) => top.meta <= *op && top.adopted <= *adopted,
            None => last <= self.covered.begin,
        }
    }
}

impl Log {
    /// The C of the newest durable checkpoint: operations up to it need no log (P-08, P-28).
    pub fn covers(&self, partition: PartitionId) -> Op {
        self.checkpoint.covered.partitions.get(&partition).map_or(Op(0), |(op, _)| *op)
    }

    /// Generation of the newest durable checkpoint; 0 for none.
    pub fn checkpoint_generation(&self) -> u64 {
        self.superblock.root.generation
    }

    /// Checkpoints (finished, given up) since the log was opened.
    pub fn checkpoint_counts(&self) -> (u64, u64) {
        (self.checkpoint.finished, self.checkpoint.abandoned)
    }

    /// Whether a checkpoint is being written.
    pub fn checkpointing(&self) -> bool {
        self.checkpoint.writing.is_some()
    }

    /// Whether a checkpoint should begin: release waits for one, or a quarter of the ring was filled since
    /// the last began.
    pub fn checkpoint_wanted(&self) -> bool {
        if self.checkpointing() || self.failed() {
            return false;
        }
        let used = self.ring.head - self.ring.tail + 1;
        let since = (self.ring.tail..=self.ring.head)
            .filter(|seq| self.ring.peek(*seq).last > self.checkpoint.covered.begin)
            .count() as u64;
        self.checkpoint.blocks_release || (since > self.ring.count() / 4 && used > 1)
    }

    /// Whether a checkpoint of partitions with `blocks` blocks in all fits the device (P-32).
    pub fn capacity_ok(&self, blocks: u64) -> bool {
        u64::from(pages_for(blocks)) * PAGE as u64 <= self.superblock.copy_bytes
    }

    /// Blocks of further partitions that fit beside `blocks` (P-32).
    pub fn room_beside(&self, blocks: u64) -> u64 {
        let pages = u32::try_from(self.superblock.copy_bytes / PAGE as u64).unwrap_or(u32::MAX);
        blocks_for(pages).saturating_sub(blocks)
    }

    /// Begins a checkpoint of these partitions: all that the head holds, each with its index applied up to
    /// `committed`. What is logged for a partition that is not among them counts as deleted.
    ///
    /// # Panics
    /// When one is being written already.
    pub fn checkpoint_begin(&mut self, partitions: Vec<PartitionMeta>) {
        assert!(!self.checkpointing(), "one checkpoint at a time");
        for whole in partitions.iter().filter(|meta| !meta.origin.filling) {
            self.checkpoint.filling.remove(&whole.partition);
        }
        let generation = self.superblock.root.generation + 1;
        self.checkpoint.writing = Some(Writing {
            root: Root { generation, pages: 0, begin: self.newest(), hash: 0, tail: self.ring.tail },
            metas: partitions,
            step: Step::Leaves,
            partition: 0,
            leaf: 0,
            stream: Vec::new(),
            sent: 0,
            crcs: Vec::new(),
            under_way: 0,
            failed: false,
        });
    }

    /// Writes on; call each turn while [`Log::checkpointing`]. I/O may go on between calls.
    pub fn checkpoint_step(&mut self, indexes: &mut dyn Indexes, out: &mut Out) {
        let Some(mut writing) = self.checkpoint.writing.take() else { return };
        // Goes on until something is under way, so that its completion brings the next call.
        for _ in 0..STEPS_A_TURN {
            if writing.failed || self.failed() {
                break;
            }
            self.write_on(&mut writing, indexes, out);
            if writing.under_way > 0 {
                break;
            }
            if writing.step == Step::Done {
                self.finish_checkpoint(writing, indexes);
                return;
            }
        }
        if (writing.failed || self.failed()) && writing.under_way == 0 {
            self.checkpoint.abandoned += 1;
            out.events.push(Event::Note(format!("checkpoint {} given up", writing.root.generation)));
            return;
        }
        self.checkpoint.writing = Some(writing);
    }

    fn write_on(&mut self, writing: &mut Writing, indexes: &mut dyn Indexes, out: &mut Out) {
        match writing.step {
            Step::Leaves => self.write_leaves(writing, indexes, out),
            Step::Stream => self.write_stream(writing, out),
            // Each of these waits for all before it.
            Step::Flush | Step::SlotA | Step::SlotB if writing.under_way > 0 => {}
            Step::Flush => {
                writing.step = Step::SlotA;
                self.emit(writing, BlockOp::Flush, out);
            }
            Step::SlotA => {
                writing.root.pages = writing.crcs.len() as u32;
                writing.root.hash = root_hash(writing.root.generation, &writing.crcs);
                if self.write_slot(writing, 0, out) {
                    writing.step = Step::SlotB;
                }
            }
            Step::SlotB => {
                if self.write_slot(writing, 1, out) {
                    writing.step = Step::Done;
                }
            }
            Step::Done => {}
        }
    }

    fn write_leaves(&mut self, writing: &mut Writing, indexes: &mut dyn Indexes, out: &mut Out) {
        let mut pages = 0;
        while pages < PAGES_A_TURN {
            let Some(meta) = writing.metas.get(writing.partition) else {
                writing.stream = describe(&writing.metas, indexes);
                writing.step = Step::Stream;
                return;
            };
            let partition = meta.partition;
            let index = indexes.index(partition).filter(|_| !meta.origin.filling);
            let next = index.and_then(|index| index.next_leaf(writing.leaf));
            let Some((leaf, body)) = next else {
                (writing.partition, writing.leaf) = (writing.partition + 1, 0);
                continue;
            };
            let kind = PageKind::Leaf { partition, leaf: leaf as u32 };
            if !self.write_page(writing, kind, body, out) {
                return;
            }
            writing.leaf = leaf + 1;
            pages += 1;
        }
    }

    fn write_stream(&mut self, writing: &mut Writing, out: &mut Out) {
        let stream = std::mem::take(&mut writing.stream);
        for _ in 0..PAGES_A_TURN {
            let end = (writing.sent + PAGE - PAGE_HEADER).min(stream.len());
            if writing.sent == end {
                writing.step = Step::Flush;
                break;
            }
            if !self.write_page(writing, PageKind::Stream, &stream[writing.sent..end], out) {
                break;
            }
            writing.sent = end;
        }
        writing.stream = stream;
    }

    /// Writes both copies of the next page; false if it must wait, or cannot be.
    fn write_page(&mut self, writing: &mut Writing, kind: PageKind, body: &[u8], out: &mut Out) -> bool {
        let page = writing.crcs.len() as u32;
        if (u64::from(page) + 1) * PAGE as u64 > self.superblock.copy_bytes {
            writing.failed = true;
            out.events.push(Event::Note("checkpoint area too small for the volumes (P-32)".into()));
            return false;
        }
        if writing.under_way + 2 > WRITES_MAX {
            return false;
        }
        let Some(mut buf) = self.page_buf(PAGE) else { return false };
        let generation = writing.root.generation;
        let header = PageHeader { generation, page, kind, len: body.len() as u32 };
        writing.crcs.push(header.write(&mut buf, body));
        let buf = self.frozen(buf);
        for copy in 0..2 {
            let offset = self.superblock.page_offset(generation, copy, page);
            self.emit(writing, BlockOp::Write { offset, bufs: smallvec![buf.clone()], fua: false }, out);
        }
        true
    }

    /// A buffer to write: from the pool, or else the one that is kept for this.
    fn page_buf(&mut self, len: usize) -> Option<BufMut> {
        match self.checkpoint.lent.take().map(Buf::try_mut) {
            Some(Ok(back)) => self.checkpoint.reserve = Some(back),
            Some(Err(lent)) => self.checkpoint.lent = Some(lent),
            None if self.checkpoint.reserve.is_none() => self.checkpoint.reserve = self.pool.alloc(PAGE),
            None => {}
        }
        let mut buf = self.pool.alloc(len).or_else(|| self.checkpoint.reserve.take())?;
        buf.set_len(len);
        Some(buf)
    }

    /// Ready to be written; remembered if it is the one kept.
    fn frozen(&mut self, buf: BufMut) -> Buf {
        let buf = buf.freeze();
        if self.checkpoint.reserve.is_none() && self.checkpoint.lent.is_none() {
            self.checkpoint.lent = Some(buf.clone());
        }
        buf
    }

    fn write_slot(&mut self, writing: &mut Writing, slot: u64, out: &mut Out) -> bool {
        let Some(mut buf) = self.page_buf(BLOCK) else { return false };
        let mut superblock = self.superblock;
        superblock.seq += 1;
        (superblock.before, superblock.root) = (superblock.root, writing.root);
        buf.copy_from_slice(&superblock.encode());
        let offset = slot * BLOCK as u64;
        let buf = self.frozen(buf);
        self.emit(writing, BlockOp::Write { offset, bufs: smallvec![buf], fua: true }, out);
        true
    }

    fn emit(&mut self, writing: &mut Writing, op: BlockOp, out: &mut Out) {
        writing.under_way += 1;
        let number = writing.root.generation;
        out.block.push(BlockCmd { device: self.config.device, key: key(KIND_CHECKPOINT, number), op });
    }

    pub(super) fn checkpoint_done(&mut self, result: Result<(), BlockError>, out: &mut Out) {
        let Some(writing) = self.checkpoint.writing.as_mut() else { return };
        writing.under_way = writing.under_way.saturating_sub(1);
        if result.is_err() && !writing.failed {
            writing.failed = true;
            // A slot that may or may not name the new generation: its area must not be written again.
            let named = matches!(writing.step, Step::SlotB | Step::Done);
            self.fail_if(named);
            out.events
                .push(Event::DeviceFailed { device: self.config.device, why: "checkpoint write failed" });
        }
    }

    fn finish_checkpoint(&mut self, writing: Writing, indexes: &mut dyn Indexes) {
        self.superblock.seq += 1;
        (self.superblock.before, self.superblock.root) = (self.superblock.root, writing.root);
        let covers = |meta: &PartitionMeta| {
            let adopted = meta.adopted.as_ref().map_or(Number::ZERO, |adopt| adopt.number);
            (meta.partition, (meta.committed, adopted))
        };
        let partitions = writing.metas.iter().map(covers).collect();
        self.checkpoint.covered = Covered { begin: writing.root.begin, partitions };
        self.checkpoint.finished += 1;
        for meta in &writing.metas {
            if let Some(index) = indexes.index(meta.partition) {
                index.extents.settle(meta.committed);
            }
        }
    }
}

/// The stream: every partition that still exists, with its extents.
fn describe(metas: &[PartitionMeta], indexes: &mut dyn Indexes) -> Vec<u8> {
    let mut w = Writer::new();
    for meta in metas {
        if let Some(index) = indexes.index(meta.partition) {
            // Nothing of a copy that is not whole survives, its extents neither.
            let extents = index.extents.at(meta.committed).filter(|_| !meta.origin.filling);
            let none = KeptCheckpoints::default();
            let kept = if meta.origin.filling { &none } else { &index.kept };
            put_partition(&mut w, meta, kept, extents);
        }
    }
    w.u8(END);
    w.bytes
}
