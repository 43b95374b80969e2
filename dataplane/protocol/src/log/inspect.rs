//! Describing a log device for people: superblock, segments, records and checkpoint, each with a verdict.
//!
//! Reads through a closure, changes nothing, and trusts nothing: whatever the bytes are, it describes them.

use super::format::{self, CHECKPOINT_OFFSET, SUPER_MAGIC, SegmentHeader, Superblock};
use super::page::{PAGE, PageHeader, PageKind, root_hash};
use super::record::{RecordHeader, take_entry};
use super::types::{Lsn, Verdict};
use crate::wire::codec::Reader;
use crate::wire::limits::BLOCK;
use palisade_isal::crc32c;

/// Verdict on a copy of a checkpoint page or of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soundness {
    /// The checksum holds.
    Good,
    /// It does not, or the bytes cannot be read.
    Bad,
}

/// A segment as its bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Place in the ring.
    pub place: u64,
    /// Its header, where it is whole.
    pub header: Option<SegmentHeader>,
    /// Whether the newest header says that it is still needed.
    pub live: bool,
    /// Records that belong to it.
    pub records: u32,
    /// Entries in them.
    pub entries: u32,
    /// Records' first and last number.
    pub lsns: Option<(Lsn, Lsn)>,
    /// Payload blocks.
    pub payload: u32,
    /// Payload blocks whose checksum does not match.
    pub bad_payload: u32,
    /// First copies of record headers that are not whole while their second copy is.
    pub bad_headers: u32,
}

/// The newest checkpoint as its bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Its generation.
    pub generation: u64,
    /// Pages of one copy.
    pub pages: u32,
    /// Pages that hold leaves of indexes.
    pub leaves: u32,
    /// Rotten pages of each copy.
    pub rotten: [Vec<u32>; 2],
    /// Whether each page is good in one copy at least, and all of them give the hash of the superblock.
    pub whole: bool,
}

/// All of a log device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The superblock.
    pub superblock: Superblock,
    /// Its two slots.
    pub slots: [Soundness; 2],
    /// Segments in use, and those that hold anything of this log, by place.
    pub segments: Vec<SegmentReport>,
    /// The checkpoint, if there is one.
    pub checkpoint: Option<CheckpointReport>,
}

/// Whether a device starts like a log of ours: for telling it from a sled device.
pub fn is_log(start: &[u8]) -> bool {
    start.chunks_exact(BLOCK).take(2).any(|slot| slot.starts_with(SUPER_MAGIC))
}

/// Describes a log device of `device_bytes`; `read(offset, len)` gives bytes, or `None` where it cannot.
pub fn inspect(
    device_bytes: u64,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Result<LogReport, Verdict> {
    let start = read(0, CHECKPOINT_OFFSET as usize).ok_or(Verdict::Damaged("start unreadable"))?;
    let slot =
        |n: usize| match start.get(n * BLOCK..(n + 1) * BLOCK).and_then(|s| format::frame(s, SUPER_MAGIC)) {
            Some((_, true)) => Soundness::Good,
            _ => Soundness::Bad,
        };
    let superblock = format::examine_any(&start, device_bytes)?;
    let slots = [slot(0), slot(1)];
    let mut segments = Vec::new();
    for place in 0..superblock.segments {
        segments.extend(segment(&superblock, place, read));
    }
    let newest = segments.iter().filter_map(|s| s.header).max_by_key(|h| h.seq);
    for found in &mut segments {
        let seq = found.header.map(|h| h.seq);
        found.live = newest.zip(seq).is_some_and(|(newest, seq)| (newest.tail..=newest.seq).contains(&seq));
    }
    let checkpoint = (superblock.root.generation > 0).then(|| checkpoint(&superblock, read));
    Ok(LogReport { superblock, slots, segments, checkpoint })
}

/// A segment, if it holds anything of this log.
fn segment(
    superblock: &Superblock,
    place: u64,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<SegmentReport> {
    let offset = superblock.segment_block(place) * BLOCK as u64;
    let bytes = read(offset, superblock.segment_bytes as usize)?;
    let header = SegmentHeader::decode(bytes.get(..BLOCK)?, superblock.log);
    let mut report = SegmentReport {
        place,
        header,
        live: false,
        records: 0,
        entries: 0,
        lsns: None,
        payload: 0,
        bad_payload: 0,
        bad_headers: 0,
    };
    let mut at = 1;
    while let Some(block) = bytes.get(at * BLOCK..(at + 1) * BLOCK) {
        at += RecordHeader::claims(block)
            .and_then(|n| record(superblock, &bytes, at, n, &mut report))
            .unwrap_or(1);
    }
    (report.header.is_some() || report.records > 0).then_some(report)
}

/// Counts the record whose header copy of `blocks` blocks starts at block `at`; says how far to go on.
fn record(
    superblock: &Superblock,
    bytes: &[u8],
    at: usize,
    blocks: usize,
    report: &mut SegmentReport,
) -> Option<usize> {
    let header = bytes.get(at * BLOCK..(at + blocks) * BLOCK)?;
    let (fixed, entries) = RecordHeader::decode(header).ok()?;
    let seq = report.header.map_or(fixed.segment, |h| h.seq);
    if fixed.log != superblock.log || fixed.segment != seq {
        return None;
    }
    let first = fixed.at as usize + blocks;
    let second = fixed.at as usize != at;
    let payload = bytes.get(first * BLOCK..(first + usize::from(fixed.payload_blocks)) * BLOCK)?;
    let mut r = Reader::new(entries);
    let mut crcs = Vec::new();
    for _ in 0..fixed.entries {
        crcs.extend_from_slice(take_entry(&mut r).ok()?.0.crcs());
    }
    let bad = payload.chunks_exact(BLOCK).zip(&crcs).filter(|(block, crc)| crc32c(block) != **crc).count();
    report.records += 1;
    report.entries += u32::from(fixed.entries);
    report.payload += u32::from(fixed.payload_blocks);
    report.bad_payload += bad as u32;
    report.bad_headers += u32::from(second);
    let from = report.lsns.map_or(fixed.lsn, |(from, _)| from.min(fixed.lsn));
    let to = report.lsns.map_or(fixed.lsn, |(_, to)| to.max(fixed.lsn));
    report.lsns = Some((from, to));
    Some(if second { blocks } else { 2 * blocks + usize::from(fixed.payload_blocks) })
}

fn checkpoint(
    superblock: &Superblock,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> CheckpointReport {
    let root = superblock.root;
    let mut report = CheckpointReport {
        generation: root.generation,
        pages: root.pages,
        leaves: 0,
        rotten: [Vec::new(), Vec::new()],
        whole: false,
    };
    let mut crcs = Vec::new();
    for page in 0..root.pages {
        let mut good = None;
        for copy in 0..2 {
            let bytes = read(superblock.page_offset(root.generation, copy, page), PAGE);
            let header = bytes.as_deref().and_then(|bytes| PageHeader::read(bytes).ok());
            match header.filter(|(h, ..)| h.generation == root.generation && h.page == page) {
                Some((header, _, crc)) => good = Some((header.kind, crc)),
                None => report.rotten[copy as usize].push(page),
            }
        }
        if let Some((kind, crc)) = good {
            report.leaves += u32::from(matches!(kind, PageKind::Leaf { .. }));
            crcs.push(crc);
        }
    }
    report.whole = crcs.len() == root.pages as usize && root_hash(root.generation, &crcs) == root.hash;
    report
}
