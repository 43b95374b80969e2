//! Superblock and segment header of a log device, and what a device turns out to be.
//!
//! Layout of the device: superblock in blocks 0 and 1 (two slots, newest valid wins), then from 128 KiB
//! the checkpoint area (two generations, each in two copies), then the ring of segments. Both slots of the
//! superblock are rewritten one after the other at each checkpoint, so that rot of one costs nothing.
//! Fields are described in `docs/FORMATS/log.md`.

use super::types::{FormatAs, LogConfig, LogError, Lsn, Verdict};
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX, RECORD_HEADER_MAX};
use crate::wire::{LogId, RackId};
use palisade_isal::crc32c;

/// First bytes of a superblock.
pub const SUPER_MAGIC: &[u8; 8] = b"PALISLOG";
/// First bytes of a segment header.
pub const SEGMENT_MAGIC: &[u8; 8] = b"PALISSEG";
/// Format version: another major is refused, a newer minor is read.
pub const MAJOR: u16 = 1;
/// See [`MAJOR`].
pub const MINOR: u16 = 0;
/// The same of a superblock: since minor version 1 it names the checkpoint before the newest, too.
pub const SUPER_MINOR: u16 = 1;
/// What is damaged when neither slot of a superblock is whole.
pub const NO_COPY: &str = "superblock: no whole copy";
/// Where the checkpoint area starts; what lies before belongs to the superblock and is else zero.
pub const CHECKPOINT_OFFSET: u64 = 128 << 10;
/// How much of a device must be zero to count as blank: file systems and volume managers sign here.
pub const SIGNATURE_BYTES: usize = 72 << 10;
/// Fewest segments of a ring: the reserve and as many for data.
pub const SEGMENTS_MIN: u64 = 8;
/// Smallest segment in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 512 << 10;
/// Largest segment in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

const _: () = assert!(
    SEGMENT_BYTES_MIN as usize >= BLOCK + 2 * RECORD_HEADER_MAX + IO_BLOCKS_MAX * BLOCK,
    "a smallest segment holds a largest entry"
);

/// Which checkpoint is valid: its place and the hash that names it (P-29).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// Rises by one with every checkpoint; 0 is "none". Its lowest bit says which area.
    pub generation: u64,
    /// Pages of one copy.
    pub pages: u32,
    /// Everything logged by a head that held no more than these partitions: last record at its begin.
    pub begin: Lsn,
    /// Hash over generation and page checksums.
    pub hash: u128,
    /// Oldest segment in use when it began: from there on the log holds all that the checkpoint lacks. 0 where
    /// that is unknown (written by minor version 0).
    pub tail: u64,
}

impl Root {
    fn put(&self, w: &mut Writer) {
        w.u64(self.generation).u32(self.pages).u64(self.begin.0).u128(self.hash);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (generation, pages, begin) = (r.u64()?, r.u32()?, Lsn(r.u64()?));
        Ok(Self { generation, pages, begin, hash: r.u128()?, tail: 0 })
    }
}

/// What stands at the start of a log device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Rises with every rewrite.
    pub seq: u64,
    /// The rack it belongs to.
    pub rack: RackId,
    /// The log's identity (P-03).
    pub log: LogId,
    /// Size of the device when it was formatted.
    pub device_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Number of segments in the ring.
    pub segments: u64,
    /// Byte offset of the ring.
    pub first_segment: u64,
    /// Bytes of one copy of one checkpoint generation.
    pub copy_bytes: u64,
    /// The valid checkpoint.
    pub root: Root,
    /// The one before it, for when no copy of a page of the valid one is whole.
    pub before: Root,
}

impl Superblock {
    /// The layout of a fresh log.
    pub fn plan(config: &LogConfig, format: &FormatAs) -> Result<Self, LogError> {
        let segment_bytes = format.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let segment_bytes = segment_bytes.next_multiple_of(BLOCK as u64);
        let copy_bytes = u64::from(super::page::pages_for(format.volume_blocks)) * super::page::PAGE as u64;
        let first_segment = CHECKPOINT_OFFSET + 4 * copy_bytes;
        let segments = config.device_bytes.saturating_sub(first_segment) / segment_bytes;
        if segments < SEGMENTS_MIN {
            let needed = first_segment + SEGMENTS_MIN * segment_bytes;
            return Err(LogError::TooSmall { device_bytes: config.device_bytes, needed });
        }
        Ok(Self {
            seq: 1,
            rack: config.rack,
            log: format.log,
            device_bytes: config.device_bytes,
            segment_bytes,
            segments,
            first_segment,
            copy_bytes,
            // No checkpoint stands for an empty log, which goes on from its first segment.
            root: Root { tail: 1, ..Root::default() },
            before: Root::default(),
        })
    }

    /// Blocks of a segment, its header included.
    pub fn segment_blocks(&self) -> u32 {
        (self.segment_bytes / BLOCK as u64) as u32
    }

    /// First block of the segment with sequence `seq`.
    pub fn segment_block(&self, seq: u64) -> u64 {
        (self.first_segment + (seq % self.segments) * self.segment_bytes) / BLOCK as u64
    }

    /// Byte offset of a page of a checkpoint.
    pub fn page_offset(&self, generation: u64, copy: u64, page: u32) -> u64 {
        let area = (generation % 2) * 2 + copy;
        CHECKPOINT_OFFSET + area * self.copy_bytes + u64::from(page) * super::page::PAGE as u64
    }

    /// One block.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.u64(self.seq).u128(self.rack.0).u128(self.log.0);
        body.u64(self.device_bytes).u64(self.segment_bytes).u64(self.segments);
        body.u64(self.first_segment).u64(self.copy_bytes);
        self.root.put(&mut body);
        body.u64(self.root.tail);
        self.before.put(&mut body);
        body.u64(self.before.tail);
        seal(SUPER_MAGIC, SUPER_MINOR, body)
    }

    fn decode(block: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(block.get(16..).ok_or(DecodeError::Short { missing: 16 })?);
        let seq = r.u64()?;
        let (rack, log) = (RackId(r.u128()?), LogId(r.u128()?));
        let (device_bytes, segment_bytes, segments) = (r.u64()?, r.u64()?, r.u64()?);
        let (first_segment, copy_bytes) = (r.u64()?, r.u64()?);
        // What minor version 0 did not write is zero.
        let mut root = Root::take(&mut r)?;
        root.tail = r.u64()?;
        let mut before = Root::take(&mut r)?;
        before.tail = r.u64()?;
        Ok(Self {
            seq,
            rack,
            log,
            device_bytes,
            segment_bytes,
            segments,
            first_segment,
            copy_bytes,
            root,
            before,
        })
    }

    /// Whether the geometry makes sense on a device of `device_bytes`.
    fn fits(&self, device_bytes: u64) -> Result<(), &'static str> {
        let block = BLOCK as u64;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(block)
            || self.segments < SEGMENTS_MIN
            || !self.first_segment.is_multiple_of(block)
            || !self.copy_bytes.is_multiple_of(super::page::PAGE as u64)
        {
            return Err("superblock: geometry out of range");
        }
        let ring = self.segments.checked_mul(self.segment_bytes);
        let area = self.copy_bytes.checked_mul(4).and_then(|a| a.checked_add(CHECKPOINT_OFFSET));
        let (Some(ring), Some(area)) = (ring, area) else { return Err("superblock: geometry overflows") };
        if area > self.first_segment
            || u64::from(self.root.pages.max(self.before.pages)) * super::page::PAGE as u64 > self.copy_bytes
        {
            return Err("superblock: checkpoint exceeds its area");
        }
        match self.first_segment.checked_add(ring) {
            Some(end) if end <= device_bytes => Ok(()),
            _ => Err("superblock: the device is smaller than when it was formatted"),
        }
    }
}

/// Frames `body` as one checksummed block: magic, version, CRC, body, zeroes.
pub(super) fn seal(magic: &[u8; 8], minor: u16, body: Writer) -> Vec<u8> {
    assert!(body.bytes.len() <= BLOCK - 16, "a sealed body fits one block");
    let mut block = Writer::new();
    block.put(magic).u16(MAJOR).u16(minor).u32(0).put(&body.bytes).pad_to(BLOCK);
    let crc = crc32c(&block.bytes[16..]);
    block.bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    block.bytes
}

/// The frame of a sealed block: its major version and whether the checksum holds.
pub(super) fn frame(block: &[u8], magic: &[u8; 8]) -> Option<(u16, bool)> {
    if block.len() < BLOCK || &block[..8] != magic {
        return None;
    }
    let major = u16::from_le_bytes([block[8], block[9]]);
    let crc = u32::from_le_bytes([block[12], block[13], block[14], block[15]]);
    Some((major, crc == crc32c(&block[16..BLOCK])))
}

/// The newest superblock of any rack in the first [`CHECKPOINT_OFFSET`] bytes of a device, and in how many
/// of its two slots it stands; or why there is none.
fn newest(start: &[u8]) -> Result<(Superblock, u32), Verdict> {
    let mut best: Option<Superblock> = None;
    let mut good = 0;
    let mut ours = false;
    for slot in start.chunks_exact(BLOCK).take(2) {
        match frame(slot, SUPER_MAGIC) {
            Some((major, _)) if major > MAJOR => return Err(Verdict::Newer { major }),
            Some((MAJOR, true)) => {
                ours = true;
                let Ok(found) = Superblock::decode(slot) else { continue };
                match best {
                    Some(held) if found.seq < held.seq => {}
                    Some(held) if found.seq == held.seq => good += 1,
                    // The other slot is of an earlier checkpoint, which no longer stands for the log.
                    _ => (best, good) = (Some(found), 1),
                }
            }
            Some(_) => ours = true,
            None => {}
        }
    }
    best.map(|found| (found, good)).ok_or(match ours {
        true => Verdict::Damaged(NO_COPY),
        false if start.iter().take(SIGNATURE_BYTES).all(|&b| b == 0) => Verdict::Blank,
        false => Verdict::ForeignSignature,
    })
}

/// What the first [`CHECKPOINT_OFFSET`] bytes of a device say: the newest superblock and whether a slot
/// needs to be written again, or why it is not the log that is wanted.
pub fn examine(
    start: &[u8],
    rack: RackId,
    expect: Option<LogId>,
    device_bytes: u64,
) -> Result<(Superblock, bool), Verdict> {
    let (found, good) = newest(start)?;
    if found.rack != rack {
        return Err(Verdict::OtherRack(found.rack));
    }
    if expect.is_some_and(|log| log != found.log) {
        return Err(Verdict::OtherLog(found.log));
    }
    found.fits(device_bytes).map_err(Verdict::Damaged)?;
    Ok((found, good < 2))
}

/// How many of the two slots are whole; one of them may be of an earlier checkpoint.
pub(super) fn whole_slots(start: &[u8]) -> usize {
    start.chunks_exact(BLOCK).take(2).filter(|slot| frame(slot, SUPER_MAGIC) == Some((MAJOR, true))).count()
}

/// As [`examine`], whatever rack and log it is.
pub fn examine_any(start: &[u8], device_bytes: u64) -> Result<Superblock, Verdict> {
    let (found, _) = newest(start)?;
    found.fits(device_bytes).map_err(Verdict::Damaged)?;
    Ok(found)
}

/// What stands at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log it belongs to; bytes of an earlier log on the device do not count (P-06).
    pub log: LogId,
    /// Raised by every restart.
    pub epoch: u64,
    /// Its sequence: segment `seq` lies in place `seq % segments`.
    pub seq: u64,
    /// Oldest segment that was not released when this was written.
    pub tail: u64,
    /// First record in it. Records from this number on in earlier segments are void.
    pub first: Lsn,
    /// Every record up to this one was durable, or found good by the recovery that opened the epoch.
    pub watermark: Lsn,
    /// Checksum field of the record before `first`.
    pub prev_crc: u32,
}

impl SegmentHeader {
    /// One block.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.u128(self.log.0).u64(self.epoch).u64(self.seq).u64(self.tail);
        body.u64(self.first.0).u64(self.watermark.0).u32(self.prev_crc);
        seal(SEGMENT_MAGIC, MINOR, body)
    }

    /// A header of this very log, if the block holds one.
    pub fn decode(block: &[u8], log: LogId) -> Option<Self> {
        if frame(block, SEGMENT_MAGIC) != Some((MAJOR, true)) {
            return None;
        }
        let mut r = Reader::new(&block[16..]);
        let found = Self {
            log: LogId(r.u128().ok()?),
            epoch: r.u64().ok()?,
            seq: r.u64().ok()?,
            tail: r.u64().ok()?,
            first: Lsn(r.u64().ok()?),
            watermark: Lsn(r.u64().ok()?),
            prev_crc: r.u32().ok()?,
        };
        (found.log == log && found.tail <= found.seq && found.seq > 0).then_some(found)
    }
}
