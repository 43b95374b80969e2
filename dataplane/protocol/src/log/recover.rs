// SIZE: recovery is one walk over superblock, segments, checkpoint and records with one state; split by step it would share all of it.
//! Opening a log device (P-03, P-06, P-29): superblock, segment headers, checkpoint, records, and then a
//! new epoch in a new segment. A blank device is formatted where the configuration says so.
//!
//! Reads are sequential and large, several at once; records are decided and replayed as they pass, so that
//! memory holds the index and what is pending, not the log.

mod fallback;

use super::append::{KIND_RECOVERY, KIND_SHIFT, Log, Start, key, unkey};
use super::checkpoint::{Checkpointer, Covered};
use super::format::{self, CHECKPOINT_OFFSET, Root, SegmentHeader, Superblock};
use super::page::PAGE;
use super::reads::{Bytes, Reads};
use super::replay::Replay;
use super::restore::Loader;
use super::scan::{Found, Scanner};
use super::segments::Ring;
use super::types::*;
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, Pool};
use smallvec::smallvec;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of one read of log segments.
const CHUNK: u64 = 256 << 10;

/// Reads of a try are numbered from its number shifted by so much.
const TRY_SHIFT: u32 = 24;
/// Numbers the one write that is under way.
const WRITE: u64 = (1 << KIND_SHIFT) - 1;

/// Free segments that a restart leaves alone.
const SPARE_SEGMENTS: u64 = 2;

/// Where a recovery stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryState {
    /// Waiting for block completions.
    Working,
    /// Call [`Recovery::finish`].
    Done,
    /// It cannot go on.
    Failed(LogError),
}

#[derive(Debug)]
enum Phase {
    Superblock,
    Headers { at: u64, found: BTreeMap<u64, SegmentHeader> },
    Checkpoint { at: u32, second: bool, loader: Box<Loader> },
    Records { seq: u64, offset: u64, probe_to: u64 },
    Writes,
    Done,
}

/// A write that ends a recovery.
#[derive(Debug)]
struct Closing {
    offset: u64,
    buf: Buf,
    /// Whether the log cannot do without it. A second copy that cannot be mended is only told.
    vital: bool,
}

/// Reads (or formats) a log device until it can be appended to.
#[derive(Debug)]
pub struct Recovery {
    config: LogConfig,
    pool: Pool,
    state: RecoveryState,
    phase: Phase,
    reads: Reads,
    /// Writes that end the recovery, one after another.
    writes: VecDeque<Closing>,
    /// One is under way; `Some(true)` if the log cannot do without it.
    writing: Option<bool>,
    /// What was read is on the medium, not in a cache only.
    settled: bool,
    superblock: Option<Superblock>,
    headers: BTreeMap<u64, SegmentHeader>,
    covered: Covered,
    scanner: Option<Scanner>,
    ring: Option<Ring>,
    replay: Replay,
    start: Option<Start>,
    /// The newest checkpoint, when the one before it stands in its place.
    fallen: Option<Root>,
    /// Last accepted record's segment and the block behind it.
    last: (u64, u32),
}

impl Recovery {
    /// Prepares; [`Recovery::start`] begins.
    pub fn new(config: LogConfig, pool: Pool) -> Self {
        Self::again(config, pool, 1)
    }

    /// As [`Recovery::new`], for the `tries`th time: commands of an earlier try may still come back.
    pub fn again(config: LogConfig, pool: Pool, tries: u32) -> Self {
        let replay = Replay::new(config.faults, RecoveryReport::default());
        Self {
            config,
            pool,
            state: RecoveryState::Working,
            phase: Phase::Superblock,
            reads: Reads::from(u64::from(tries) << TRY_SHIFT),
            writes: VecDeque::new(),
            writing: None,
            settled: false,
            superblock: None,
            headers: BTreeMap::new(),
            covered: Covered::default(),
            scanner: None,
            ring: None,
            replay,
            start: None,
            fallen: None,
            last: (0, 0),
        }
    }

    /// Emits the first reads.
    pub fn start(&mut self, out: &mut Out) {
        if self.config.device_bytes < CHECKPOINT_OFFSET {
            let (device_bytes, needed) = (self.config.device_bytes, 2 * CHECKPOINT_OFFSET);
            return self.fail(LogError::TooSmall { device_bytes, needed });
        }
        self.reads.ask(0, CHECKPOINT_OFFSET as u32);
        self.pump(out);
    }

    /// Where it stands.
    pub fn state(&self) -> RecoveryState {
        self.state.clone()
    }

    /// Takes a completion with a log key.
    pub fn handle_block(&mut self, done: BlockDone, out: &mut Out) {
        let (kind, number) = unkey(done.key);
        if kind != KIND_RECOVERY || self.state != RecoveryState::Working {
            return;
        }
        match self.writing.take_if(|_| number == WRITE) {
            Some(vital) => {
                if let Err(error) = done.result {
                    if vital {
                        return self.fail(LogError::Device { doing: "opening a new epoch", error });
                    }
                    let what = "a copy that cannot be written again".to_string();
                    out.events.push(Event::Corrupt { place: "log", what });
                }
            }
            None => {
                let result = match done.result {
                    Ok(BlockOk::Read(buf)) => Ok(buf),
                    Ok(BlockOk::Done) => return,
                    Err(error) => Err(error),
                };
                if let Err(error) = self.reads.done(number, result) {
                    return self.fail(LogError::Device { doing: "reading the log", error });
                }
            }
        }
        while let Some(bytes) = self.reads.ready() {
            self.replay.report.bytes += bytes.buf.len() as u64;
            if bytes.bad > 0 {
                self.tell_unreadable(&bytes, out);
            }
            if let Err(error) = self.take(&bytes, out) {
                return self.fail(error);
            }
        }
        self.pump(out);
    }

    /// Blocks that cannot be read count as rot (P-06); this says so.
    fn tell_unreadable(&mut self, bytes: &Bytes, out: &mut Out) {
        self.replay.report.unreadable = self.reads.unreadable();
        let first = bytes.offset / BLOCK as u64;
        let last = first + (bytes.buf.len() / BLOCK) as u64 - 1;
        let what = format!("{} of blocks {first} to {last} cannot be read", bytes.bad);
        let place = if matches!(self.phase, Phase::Checkpoint { .. }) { "checkpoint" } else { "log" };
        out.events.push(Event::Corrupt { place, what });
    }

    fn fail(&mut self, error: LogError) {
        self.state = RecoveryState::Failed(error);
    }

    /// Issues what can be issued.
    fn pump(&mut self, out: &mut Out) {
        if !self.reads.pump(self.config.device, &self.pool, out) {
            return self.fail(LogError::NoBuffer);
        }
        if matches!(self.phase, Phase::Writes)
            && self.writing.is_none()
            && self.state == RecoveryState::Working
        {
            if !self.settled {
                // P-09: writes that were under way when the process died may have got no further than the
                // device's cache. What is taken for durable from here on has to be.
                (self.settled, self.writing) = (true, Some(true));
                let key = key(KIND_RECOVERY, WRITE);
                out.block.push(BlockCmd { device: self.config.device, key, op: BlockOp::Flush });
                return;
            }
            match self.writes.pop_front() {
                None => {
                    self.phase = Phase::Done;
                    self.state = RecoveryState::Done;
                }
                Some(Closing { offset, buf, vital }) => {
                    self.writing = Some(vital);
                    let op = BlockOp::Write { offset, bufs: smallvec![buf], fua: true };
                    let key = key(KIND_RECOVERY, WRITE);
                    out.block.push(BlockCmd { device: self.config.device, key, op });
                }
            }
        }
    }

    /// Takes the next read of the present phase.
    fn take(&mut self, bytes: &Bytes, out: &mut Out) -> Result<(), LogError> {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Superblock => self.take_superblock(&bytes.buf, out).map_err(|error| match error {
                // What could not be read may be what is missed: nothing is known of the device.
                LogError::Refused(Verdict::Blank | Verdict::ForeignSignature | Verdict::Damaged(_))
                    if bytes.bad > 0 =>
                {
                    LogError::Device { doing: "reading the superblock", error: BlockError::Io }
                }
                error => error,
            }),
            Phase::Headers { at, found } => self.take_header(at, found, &bytes.buf, out),
            Phase::Checkpoint { at, second, loader } => self.take_page(at, second, loader, &bytes.buf, out),
            Phase::Records { seq, offset, probe_to } => {
                self.take_chunk(seq, offset, probe_to, &bytes.buf, out)
            }
            other => {
                self.phase = other;
                Ok(())
            }
        }
    }

    fn block_buf(&self, bytes: &[u8]) -> Result<Buf, LogError> {
        let mut buf = self.pool.alloc(bytes.len()).ok_or(LogError::NoBuffer)?;
        buf.copy_from_slice(bytes);
        Ok(buf.freeze())
    }

    fn write_superblocks(&mut self, superblock: &Superblock, vital: bool) -> Result<(), LogError> {
        for slot in 0..2 {
            let buf = self.block_buf(&superblock.encode())?;
            self.writes.push_back(Closing { offset: slot * BLOCK as u64, buf, vital });
        }
        Ok(())
    }

    fn take_superblock(&mut self, start: &[u8], out: &mut Out) -> Result<(), LogError> {
        let expect = self.config.expect.filter(|_| !self.config.faults.any_log_id());
        match format::examine(start, self.config.rack, expect, self.config.device_bytes) {
            Ok((mut superblock, mend)) => {
                let torn = format::whole_slots(start) == 2;
                if mend && !(torn && self.config.faults.older_checkpoint_left()) {
                    superblock.seq += 1;
                    // An older checkpoint must not come back; a slot that went bad may stay so.
                    self.write_superblocks(&superblock, format::whole_slots(start) == 2)?;
                }
                if format::whole_slots(start) < 2 {
                    self.replay.report.repaired += 1;
                    let what = || "superblock slot".to_string();
                    out.events.push(Event::Corrupt { place: "log", what: what() });
                    out.events.push(Event::Repaired { place: "log", what: what() });
                }
                self.ask_headers(superblock);
                Ok(())
            }
            Err(Verdict::Blank) => match self.config.format {
                Some(format) => self.format(&format),
                None => Err(LogError::Refused(Verdict::Blank)),
            },
            Err(verdict @ Verdict::Damaged(_)) if format::whole_slots(start) == 0 => {
                match self.config.rescue {
                    Some(made) => self.rescue(&made),
                    None => Err(LogError::Refused(verdict)),
                }
            }
            Err(verdict) => Err(LogError::Refused(verdict)),
        }
    }

    fn ask_headers(&mut self, superblock: Superblock) {
        self.superblock = Some(superblock);
        for seq in 0..superblock.segments {
            self.reads.ask(superblock.segment_block(seq) * BLOCK as u64, BLOCK as u32);
        }
        self.phase = Phase::Headers { at: 0, found: BTreeMap::new() };
    }

    fn format(&mut self, format: &FormatAs) -> Result<(), LogError> {
        let superblock = Superblock::plan(&self.config, format)?;
        self.write_superblocks(&superblock, true)?;
        self.replay.report.formatted = true;
        self.superblock = Some(superblock);
        let (blocks, count) = (superblock.segment_blocks(), superblock.segments);
        let first = superblock.first_segment / BLOCK as u64;
        self.ring = Some(Ring::new(first, blocks, count, 1, 1, self.config.hot_bytes));
        self.open_epoch(&superblock, 1, Lsn(1), None)
    }

    fn take_header(
        &mut self,
        at: u64,
        mut found: BTreeMap<u64, SegmentHeader>,
        block: &[u8],
        out: &mut Out,
    ) -> Result<(), LogError> {
        let Some(superblock) = self.superblock else { return Ok(()) };
        let header = SegmentHeader::decode(block, superblock.log);
        if let Some(header) = header.filter(|header| header.seq % superblock.segments == at) {
            found.insert(header.seq, header);
        }
        if at + 1 < superblock.segments {
            self.phase = Phase::Headers { at: at + 1, found };
            return Ok(());
        }
        self.headers = found;
        if self.replay.report.blind {
            return self.rescued(&superblock, out);
        }
        self.begin_checkpoint(superblock)
    }

    /// Plans the reads of the checkpoint that the superblock names.
    fn begin_checkpoint(&mut self, superblock: Superblock) -> Result<(), LogError> {
        if superblock.root.generation == 0 {
            return self.begin_records();
        }
        let loader = Box::new(Loader::new(&superblock));
        for page in 0..superblock.root.pages {
            self.reads.ask(superblock.page_offset(superblock.root.generation, 0, page), PAGE as u32);
        }
        self.phase = Phase::Checkpoint { at: 0, second: false, loader };
        Ok(())
    }

    fn take_page(
        &mut self,
        at: u32,
        second: bool,
        mut loader: Box<Loader>,
        bytes: &[u8],
        out: &mut Out,
    ) -> Result<(), LogError> {
        let Some(superblock) = self.superblock else { return Ok(()) };
        let generation = superblock.root.generation;
        let page = if second { loader.rotten[at as usize] } else { at };
        let good = loader.page(page, bytes);
        match (good, second) {
            (true, false) => {}
            (false, false) => loader.rotten.push(page),
            (true, true) => {
                let what = format!("checkpoint {generation} page {page}");
                out.events.push(Event::Corrupt { place: "checkpoint", what: what.clone() });
                out.events.push(Event::Repaired { place: "checkpoint", what });
                let buf = self.block_buf(bytes)?;
                loader.repairs.push((superblock.page_offset(generation, 0, page), buf));
                self.replay.report.repaired += 1;
            }
            (false, true) => {
                self.reads.forget();
                return self.checkpoint_lost(&loader.error(page), out);
            }
        }
        let of = if second { loader.rotten.len() as u32 } else { superblock.root.pages };
        if at + 1 < of {
            self.phase = Phase::Checkpoint { at: at + 1, second, loader };
        } else if !second && !loader.rotten.is_empty() {
            for page in &loader.rotten {
                self.reads.ask(superblock.page_offset(generation, 1, *page), PAGE as u32);
            }
            self.phase = Phase::Checkpoint { at: 0, second: true, loader };
        } else {
            return match self.restore(superblock, *loader) {
                Ok(()) => self.begin_records(),
                Err(error) => self.checkpoint_lost(&error, out),
            };
        }
        Ok(())
    }

    fn restore(&mut self, superblock: Superblock, mut loader: Loader) -> Result<(), LogError> {
        let repair = |(offset, buf)| Closing { offset, buf, vital: false };
        let repairs: Vec<Closing> = loader.repairs.drain(..).map(repair).collect();
        let mut partitions = BTreeMap::new();
        let loaded = loader.finish()?;
        self.replay.report.checkpoint = superblock.root.generation;
        self.writes.extend(repairs);
        for (meta, index) in loaded {
            let adopted = meta.adopted.as_ref().map_or(Number::ZERO, |adopt| adopt.number);
            partitions.insert(meta.partition, (meta.committed, adopted));
            self.replay.restore(meta, index);
        }
        self.replay.checkpoint_begin = superblock.root.begin;
        self.covered = Covered { begin: superblock.root.begin, partitions };
        Ok(())
    }

    /// Plans the reads of all segments from the tail that the newest header names.
    fn begin_records(&mut self) -> Result<(), LogError> {
        let Some(superblock) = self.superblock else { return Ok(()) };
        let newest = self.headers.values().next_back().copied();
        let (tail, head) = newest.map_or((1, 1), |h| (h.tail.max(1), h.seq));
        let tail = self.read_from(tail);
        if head - tail >= superblock.segments {
            return Err(LogError::Refused(Verdict::Damaged("segment header: tail out of range")));
        }
        let (blocks, count) = (superblock.segment_blocks(), superblock.segments);
        let first = superblock.first_segment / BLOCK as u64;
        self.ring = Some(Ring::new(first, blocks, count, tail, head, self.config.hot_bytes));
        self.headers.retain(|seq, _| *seq >= tail);
        let check = !self.config.faults.no_payload_check();
        self.scanner = Some(Scanner::new(superblock.log, blocks, check));
        for seq in tail..=head {
            self.ask_segment(&superblock, seq);
        }
        self.enter_segment(tail, head);
        Ok(())
    }

    fn ask_segment(&mut self, superblock: &Superblock, seq: u64) {
        let start = superblock.segment_block(seq) * BLOCK as u64;
        let mut at = 0;
        while at < superblock.segment_bytes {
            let len = CHUNK.min(superblock.segment_bytes - at);
            self.reads.ask_stream(start + at, len as u32);
            at += len;
        }
    }

    fn enter_segment(&mut self, seq: u64, probe_to: u64) {
        if let Some(scanner) = self.scanner.as_mut() {
            scanner.start_segment(seq, self.headers.get(&seq));
        }
        self.phase = Phase::Records { seq, offset: 0, probe_to };
    }

    fn take_chunk(
        &mut self,
        seq: u64,
        offset: u64,
        mut head: u64,
        bytes: &[u8],
        out: &mut Out,
    ) -> Result<(), LogError> {
        let (Some(superblock), Some(mut scanner)) = (self.superblock, self.scanner.take()) else {
            return Ok(());
        };
        for block in bytes.chunks_exact(BLOCK) {
            scanner.feed(block);
        }
        let offset = offset + bytes.len() as u64;
        if scanner.seen() > 0 && seq > head {
            // The segment's header is unreadable, its records are not.
            head = seq;
            if let Some(ring) = self.ring.as_mut() {
                ring.advance();
            }
        }
        self.drain(&mut scanner, out);
        if offset < superblock.segment_bytes {
            self.scanner = Some(scanner);
            self.phase = Phase::Records { seq, offset, probe_to: head };
            return Ok(());
        }
        let free = self.ring.as_ref().map_or(0, Ring::free);
        // Looks one segment past the newest header: its own may have rotted.
        if seq < head || (seq == head && free > 0) {
            if seq >= head {
                self.ask_segment(&superblock, seq + 1);
            }
            self.scanner = Some(scanner);
            self.enter_segment(seq + 1, head);
            return Ok(());
        }
        self.end_records(&superblock, scanner, out)
    }

    /// Replays what the scanner decided.
    fn drain(&mut self, scanner: &mut Scanner, out: &mut Out) {
        while let Some(found) = scanner.next() {
            match found {
                Found::Record(record) => self.accept(record, out),
                Found::Lost(from, to) => self.lose(from, to, out),
            }
        }
    }

    fn accept(&mut self, record: super::scan::Record, out: &mut Out) {
        let Some(ring) = self.ring.as_mut() else { return };
        let fixed = record.fixed;
        for bad in &record.bad {
            let addr = ring.addr(fixed.segment, fixed.at + u32::from(fixed.header_blocks) + bad);
            out.events.push(Event::Corrupt { place: "log", what: format!("log block {}", addr.0) });
        }
        let end = fixed.at + 2 * u32::from(fixed.header_blocks) + u32::from(fixed.payload_blocks);
        self.last = (fixed.segment, end);
        self.replay.record(record, ring);
    }

    fn lose(&mut self, from: Lsn, to: Lsn, out: &mut Out) {
        let what = format!("log records {} to {} are unreadable", from.0, to.0);
        out.events.push(Event::Corrupt { place: "log", what });
        self.replay.lose(from, to);
    }

    fn end_records(
        &mut self,
        superblock: &Superblock,
        scanner: Scanner,
        out: &mut Out,
    ) -> Result<(), LogError> {
        for (segment, block, header) in &scanner.rescued {
            let Some(ring) = self.ring.as_ref() else { break };
            let addr = ring.addr(*segment, *block);
            let what = format!("log record header at block {}", addr.0);
            out.events.push(Event::Corrupt { place: "log", what: what.clone() });
            out.events.push(Event::Repaired { place: "log", what });
            self.replay.report.repaired += 1;
            let buf = self.block_buf(header)?;
            self.writes.push_back(Closing { offset: addr.offset(), buf, vital: false });
        }
        let end = scanner.finish(self.config.faults.trust_past_hole());
        self.replay.report.torn += end.torn;
        let prev_crc = end.rest.last().map(|record| record.fixed.crc);
        for record in end.rest {
            self.accept(record, out);
        }
        if let Some((from, to)) = end.lost {
            self.lose(from, to, out);
        }
        self.open_epoch(superblock, end.epoch + 1, end.next, prev_crc)
    }

    /// P-06: appends go on in a new epoch and segment, so that nothing beyond a torn end revives. A segment
    /// in which nothing counts is taken again. When few are free (P-31: restarts must not eat what repoints
    /// need) the newest is written on in the new epoch, whose number and chain keep older records out.
    fn open_epoch(
        &mut self,
        superblock: &Superblock,
        epoch: u64,
        next: Lsn,
        prev_crc: Option<u32>,
    ) -> Result<(), LogError> {
        let Some(ring) = self.ring.as_mut() else { return Ok(()) };
        let prev_crc = prev_crc.unwrap_or(0);
        let mut at = 1;
        if self.last.0 == ring.head && ring.free() > SPARE_SEGMENTS {
            ring.advance();
        } else if self.last.0 == ring.head {
            at = self.last.1;
        }
        if at == 1 {
            let header = SegmentHeader {
                log: superblock.log,
                epoch,
                seq: ring.head,
                tail: ring.tail,
                first: next,
                watermark: Lsn(next.0 - 1),
                prev_crc,
            };
            let offset = ring.addr(ring.head, 0).offset();
            let buf = self.block_buf(&header.encode())?;
            self.writes.push_back(Closing { offset, buf, vital: true });
        }
        self.start = Some(Start { epoch, next, prev_crc, at });
        self.phase = Phase::Writes;
        Ok(())
    }

    /// The log, ready for appends in a new epoch and segment (P-06), and what it held.
    ///
    /// # Panics
    /// Unless the state is [`RecoveryState::Done`].
    pub fn finish(self) -> (Log, Vec<RecoveredPartition>, RecoveryReport) {
        assert!(self.state == RecoveryState::Done, "a recovery is finished when it is done");
        let (Some(superblock), Some(mut ring), Some(start)) = (self.superblock, self.ring, self.start) else {
            panic!("a recovery that is done has a superblock, a ring and a place to start from");
        };
        let (partitions, report) = self.replay.finish(&mut ring);
        let mut checkpoint = Checkpointer::new(self.covered, self.pool.alloc(PAGE));
        checkpoint.filling.extend(partitions.iter().filter(|p| p.origin.filling).map(|p| p.partition));
        let log = Log::new(self.config, self.pool, superblock, ring, checkpoint, start);
        (log, partitions, report)
    }
}
