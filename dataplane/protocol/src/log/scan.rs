//! Reading the log's records in order and telling a torn end from rot (P-06).
//!
//! Fed block by block, segment after segment. A record counts if it is the next of the chain. After a bad
//! one the rest of the segment is searched for later records: if one of them (or a segment header) says
//! that the bad one had been durable, it is lost (rot; the peer has it) and the log goes on; if none does,
//! the log ends before it and what follows is void. Records wait in `held` until that is known.
//!
//! A record carries its header a second time behind its payload, so that a rotten header block costs
//! nothing: while a header is missing the checksums of the blocks passed over are kept, and the second copy,
//! which knows where its record starts, is held against them.

use super::format::SegmentHeader;
use super::record::{Logged, RecordHeader, take_entry};
use super::types::Lsn;
use crate::wire::codec::Reader;
use crate::wire::limits::BLOCK;
use crate::wire::{LogId, Op};
use palisade_isal::crc32c;
use std::collections::VecDeque;

/// Entries with the committed watermark that each carries.
type Entries = Vec<(Logged, Op)>;

/// A good header with its entries.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) fixed: RecordHeader,
    pub(super) entries: Entries,
    /// Payload blocks whose checksum does not match, counted from the first.
    pub(super) bad: Vec<u32>,
}

/// What the scanner decided.
#[derive(Debug)]
pub(super) enum Found {
    /// Part of the log.
    Record(Record),
    /// Records that were durable and cannot be read any more.
    Lost(Lsn, Lsn),
}

impl Found {
    fn first(&self) -> Lsn {
        match self {
            Self::Record(record) => record.fixed.lsn,
            Self::Lost(from, _) => *from,
        }
    }

    fn last(&self) -> Lsn {
        match self {
            Self::Record(record) => record.fixed.lsn,
            Self::Lost(_, to) => *to,
        }
    }
}

#[derive(Debug)]
enum State {
    /// A header should start here, or might after a hole.
    Seek,
    /// A header of several blocks is being gathered.
    Header { bytes: Vec<u8>, blocks: usize },
    /// Payload of a good header.
    Payload { record: Record, crcs: Vec<u32>, next: usize },
    /// The second copy of a header that was good.
    Skip(u16),
}

/// The scanner. See the module's words.
#[derive(Debug)]
pub(super) struct Scanner {
    log: LogId,
    segment_blocks: u32,
    check_payload: bool,
    state: State,
    segment: u64,
    block: u32,
    epoch: u64,
    /// Next record of the chain, and the checksum field of the one before it, where known.
    expected: Option<Lsn>,
    prev_crc: Option<u32>,
    watermark: Lsn,
    held: VecDeque<Found>,
    /// Records of the current segment, accepted or not.
    seen: u64,
    torn: u64,
    /// First block that should have been a header, and checksums of the blocks from there on.
    missed_at: u32,
    missed: Vec<u32>,
    /// Headers taken from their second copy, as (segment, block), with their bytes.
    pub(super) rescued: Vec<(u64, u32, Vec<u8>)>,
}

impl Scanner {
    pub(super) fn new(log: LogId, segment_blocks: u32, check_payload: bool) -> Self {
        Self {
            log,
            segment_blocks,
            check_payload,
            state: State::Seek,
            segment: 0,
            block: 0,
            epoch: 0,
            expected: None,
            prev_crc: None,
            watermark: Lsn(0),
            held: VecDeque::new(),
            seen: 0,
            torn: 0,
            missed_at: 0,
            missed: Vec::new(),
            rescued: Vec::new(),
        }
    }

    /// Starts segment `seq`, whose header is `header` where it is readable.
    pub(super) fn start_segment(&mut self, seq: u64, header: Option<&SegmentHeader>) {
        self.state = State::Seek;
        self.segment = seq;
        self.block = 0;
        self.seen = 0;
        self.missed.clear();
        let Some(header) = header else { return };
        self.jump(header.first, Some(header.prev_crc));
        self.epoch = self.epoch.max(header.epoch);
        self.watermark = self.watermark.max(header.watermark);
    }

    /// Goes on at record `first`: what is held from there on is void, what is missing before it is a hole.
    fn jump(&mut self, first: Lsn, prev_crc: Option<u32>) {
        while self.held.back().is_some_and(|found| found.first() >= first) {
            self.torn += u64::from(matches!(self.held.pop_back(), Some(Found::Record(_))));
        }
        if let Some(Found::Lost(_, to)) = self.held.back_mut() {
            *to = Lsn((first.0 - 1).min(to.0));
        }
        if let Some(expected) = self.expected.filter(|expected| *expected < first) {
            self.held.push_back(Found::Lost(expected, Lsn(first.0 - 1)));
        }
        self.expected = Some(first);
        self.prev_crc = prev_crc;
    }

    /// Takes the next block of the segment; the first is its header and is skipped.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let at = self.block;
        self.block += 1;
        if at == 0 {
            return;
        }
        match std::mem::replace(&mut self.state, State::Seek) {
            State::Seek => self.seek(bytes, at),
            State::Header { bytes: mut gathered, blocks } => {
                gathered.extend_from_slice(bytes);
                if gathered.len() < blocks * BLOCK {
                    self.state = State::Header { bytes: gathered, blocks };
                } else {
                    self.gathered(&gathered, at + 1 - blocks as u32);
                }
            }
            State::Skip(left) => {
                if left > 1 {
                    self.state = State::Skip(left - 1);
                }
            }
            State::Payload { mut record, crcs, next } => {
                if self.check_payload && crc32c(bytes) != crcs[next] {
                    record.bad.push(next as u32);
                }
                self.payload(record, crcs, next + 1);
            }
        }
    }

    fn seek(&mut self, block: &[u8], at: u32) {
        match RecordHeader::claims(block) {
            Some(1) if self.accept(block, at) => {}
            Some(1) | None => self.miss(block, at),
            Some(blocks) => self.state = State::Header { bytes: block.to_vec(), blocks },
        }
    }

    fn miss(&mut self, block: &[u8], at: u32) {
        if self.missed.is_empty() {
            self.missed_at = at;
        }
        self.missed.push(crc32c(block));
    }

    /// A header of several blocks is whole; if it is none after all, its later blocks may hold some.
    fn gathered(&mut self, bytes: &[u8], at: u32) {
        if self.accept(bytes, at) {
            return;
        }
        self.miss(&bytes[..BLOCK], at);
        self.block = at + 1;
        for block in bytes[BLOCK..].chunks_exact(BLOCK) {
            self.feed(block);
        }
    }

    /// Takes a header, or the second copy of one that was missed, if it belongs here.
    fn accept(&mut self, header: &[u8], at: u32) -> bool {
        let Ok((fixed, entries)) = RecordHeader::decode(header) else { return false };
        let payload_at = fixed.at.saturating_add(u32::from(fixed.header_blocks));
        let second_at = payload_at.saturating_add(u32::from(fixed.payload_blocks));
        let end = second_at.saturating_add(u32::from(fixed.header_blocks));
        let second = at == second_at && !self.missed.is_empty() && fixed.at >= self.missed_at;
        let ours = fixed.log == self.log && fixed.segment == self.segment && fixed.epoch >= self.epoch;
        if !ours || end > self.segment_blocks || (fixed.at != at && !second) {
            return false;
        }
        let Some((entries, crcs)) = decode_entries(&fixed, entries) else { return false };
        if !self.chains(&fixed) {
            return false;
        }
        self.epoch = fixed.epoch;
        self.expected = Some(Lsn(fixed.lsn.0 + 1));
        self.prev_crc = Some(fixed.crc);
        self.seen += 1;
        let mut record = Record { fixed, entries, bad: Vec::new() };
        if second {
            let passed = &self.missed[(payload_at - self.missed_at) as usize..];
            let differs = |i: &u32| crcs[*i as usize] != passed[*i as usize];
            record.bad = (0..crcs.len() as u32).filter(differs).collect();
            self.rescued.push((self.segment, fixed.at, header.to_vec()));
            self.hold(record);
        } else {
            self.payload(record, crcs, 0);
        }
        self.missed.clear();
        true
    }

    /// Whether a record comes next in the chain, or beyond a hole, which is noted then.
    fn chains(&mut self, fixed: &RecordHeader) -> bool {
        let same_epoch = fixed.epoch == self.epoch;
        match self.expected {
            Some(expected) if fixed.lsn == expected => {
                !same_epoch || self.prev_crc.is_none_or(|crc| crc == fixed.prev_crc)
            }
            Some(expected) if fixed.lsn < expected && same_epoch => false,
            // Beyond a hole, or the first of an epoch whose segment header is unreadable.
            _ => {
                self.jump(fixed.lsn, None);
                true
            }
        }
    }

    fn payload(&mut self, record: Record, crcs: Vec<u32>, next: usize) {
        if next < crcs.len() {
            self.state = State::Payload { record, crcs, next };
            return;
        }
        self.state = State::Skip(record.fixed.header_blocks);
        self.hold(record);
    }

    fn hold(&mut self, record: Record) {
        self.watermark = self.watermark.max(record.fixed.watermark);
        self.held.push_back(Found::Record(record));
    }

    /// Records of the current segment that were seen.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The next decided part of the log.
    pub(super) fn next(&mut self) -> Option<Found> {
        if self.held.front()?.last() <= self.watermark { self.held.pop_front() } else { None }
    }

    /// The log ends: what it holds above the watermark up to the first hole, and where it goes on. `trust`
    /// breaks the rule (a canary).
    pub(super) fn finish(mut self, trust: bool) -> End {
        // A record cut off by the end of its segment cannot be: it was not begun there.
        let cut = matches!(self.state, State::Payload { .. } | State::Header { .. });
        let first = self.held.front().map_or(self.expected.unwrap_or(Lsn(1)), Found::first);
        let mut end = End { rest: Vec::new(), lost: None, next: first, epoch: self.epoch, torn: self.torn };
        end.torn += u64::from(cut);
        let mut open = true;
        for found in self.held.drain(..) {
            match found {
                Found::Record(record) => {
                    open &= record.bad.is_empty();
                    if open || trust {
                        end.next = Lsn(record.fixed.lsn.0 + 1);
                        end.rest.push(record);
                    } else {
                        end.torn += 1;
                    }
                }
                Found::Lost(from, _) => {
                    if open && from <= self.watermark {
                        end.lost = Some((from, self.watermark));
                        end.next = Lsn(self.watermark.0 + 1);
                    }
                    open = false;
                }
            }
        }
        end
    }
}

/// How a log ends.
#[derive(Debug)]
pub(super) struct End {
    /// Good records above the watermark.
    pub(super) rest: Vec<Record>,
    /// Records behind them that had been durable and are unreadable.
    pub(super) lost: Option<(Lsn, Lsn)>,
    /// Number of the next record.
    pub(super) next: Lsn,
    /// Newest epoch met.
    pub(super) epoch: u64,
    /// Records that are void.
    pub(super) torn: u64,
}

/// A header's entries and the checksums of its payload, if they agree with its counts.
fn decode_entries(fixed: &RecordHeader, bytes: &[u8]) -> Option<(Entries, Vec<u32>)> {
    let mut r = Reader::new(bytes);
    let mut entries = Vec::with_capacity(usize::from(fixed.entries));
    let mut crcs = Vec::with_capacity(usize::from(fixed.payload_blocks));
    for _ in 0..fixed.entries {
        let (entry, committed) = take_entry(&mut r).ok()?;
        crcs.extend_from_slice(entry.crcs());
        entries.push((entry, committed));
    }
    (r.rest().is_empty() && crcs.len() == usize::from(fixed.payload_blocks)).then_some((entries, crcs))
}
