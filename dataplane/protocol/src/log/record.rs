//! Record headers and their entries, as bytes (P-06, P-07).
//!
//! A record is one vectored write: header blocks, then the payload blocks that its entries describe, in
//! the order of the entries. The header's checksum covers all of the header; payload blocks have theirs in
//! the entries. Each header names the checksum of the one before, so that a chain is what counts.

use super::types::{LoggedBody, Lsn};
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::limits::*;
use crate::wire::*;
use palisade_isal::crc32c;
use smallvec::SmallVec;

/// First bytes of a record header.
pub const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"PREC");
/// Version of records and entries.
pub const RECORD_VERSION: u16 = 1;
/// Bytes of a header before its entries.
pub const FIXED: usize = 76;

/// The fixed part of a record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The log.
    pub log: LogId,
    /// Epoch of the boot that wrote it.
    pub epoch: u64,
    /// Sequence of the segment it lies in.
    pub segment: u64,
    /// Its block in the segment: a copy of it elsewhere is no record.
    pub at: u32,
    /// Its number.
    pub lsn: Lsn,
    /// Records up to this one were durable when it was written.
    pub watermark: Lsn,
    /// Checksum field of the record before.
    pub prev_crc: u32,
    /// Blocks of the header.
    pub header_blocks: u16,
    /// Blocks of payload that follow.
    pub payload_blocks: u16,
    /// Entries.
    pub entries: u16,
    /// Bytes of the entries.
    pub entries_len: u32,
    /// Its checksum field.
    pub crc: u32,
}

impl RecordHeader {
    /// Fills in the fixed part of `header`, whose entries already stand behind it; says the checksum.
    pub fn write(&self, header: &mut [u8], scratch: &mut Writer) -> u32 {
        scratch.bytes.clear();
        scratch.u32(RECORD_MAGIC).u16(RECORD_VERSION).u16(self.header_blocks).u32(0);
        scratch.u128(self.log.0).u64(self.epoch).u64(self.segment).u64(self.lsn.0).u64(self.watermark.0);
        scratch.u32(self.at).u32(self.prev_crc).u16(self.entries).u16(self.payload_blocks);
        scratch.u32(self.entries_len);
        assert!(scratch.bytes.len() == FIXED, "the fixed part has its length");
        header[..FIXED].copy_from_slice(&scratch.bytes);
        let crc = crc32c(&header[12..]);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// How many blocks the header claims, if `block` looks like the start of one.
    pub fn claims(block: &[u8]) -> Option<usize> {
        let mut r = Reader::new(block);
        let (magic, version, blocks) = (r.u32().ok()?, r.u16().ok()?, r.u16().ok()?);
        let fits = (1..=RECORD_HEADER_MAX / BLOCK).contains(&usize::from(blocks));
        (magic == RECORD_MAGIC && version == RECORD_VERSION && fits).then_some(usize::from(blocks))
    }

    /// A whole header (all its blocks), checksum verified.
    pub fn decode(header: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        if Self::claims(header).is_none_or(|blocks| blocks * BLOCK != header.len()) {
            return Err(DecodeError::Range("record header"));
        }
        let mut r = Reader::new(header);
        let (_, _, header_blocks, crc) = (r.u32()?, r.u16()?, r.u16()?, r.u32()?);
        if crc != crc32c(&header[12..]) {
            return Err(DecodeError::Range("record checksum"));
        }
        let log = LogId(r.u128()?);
        let (epoch, segment, lsn, watermark) = (r.u64()?, r.u64()?, Lsn(r.u64()?), Lsn(r.u64()?));
        let (at, prev_crc) = (r.u32()?, r.u32()?);
        let (entries, payload_blocks, entries_len) = (r.u16()?, r.u16()?, r.u32()?);
        let bytes = r.take(entries_len as usize)?;
        if usize::from(payload_blocks) > RECORD_BLOCKS_MAX || usize::from(entries) > RECORD_OPS_MAX {
            return Err(DecodeError::Range("record counts"));
        }
        let fixed = Self {
            log,
            epoch,
            segment,
            at,
            lsn,
            watermark,
            prev_crc,
            header_blocks,
            payload_blocks,
            entries,
            entries_len,
            crc,
        };
        Ok((fixed, bytes))
    }
}

/// An entry as the log holds it.
#[derive(Clone, Debug)]
pub enum Logged {
    /// A numbered operation.
    Op {
        /// The partition.
        partition: PartitionId,
        /// Number under which it was first written.
        number: Number,
        /// Its place.
        op: Op,
        /// What it does, without the bytes of a write.
        body: LoggedBody,
        /// It stood in an older segment before and was moved here while it was pending (P-31).
        again: bool,
    },
    /// A (number, group) pair was adopted (P-01).
    Adopt(Adopt),
    /// All that stands of the partition before this entry is void: a full copy follows (BA-01).
    Forget {
        /// The partition.
        partition: PartitionId,
    },
    /// Blocks of an older write were moved here (P-31), or came from another head (BA-01).
    Copy {
        /// The partition.
        partition: PartitionId,
        /// The write.
        op: Op,
        /// First block.
        lba: Lba,
        /// Checksum of each block.
        crcs: CrcList,
    },
}

impl Logged {
    /// Whose entry it is.
    pub fn partition(&self) -> PartitionId {
        match self {
            Self::Op { partition, .. } | Self::Copy { partition, .. } | Self::Forget { partition } => {
                *partition
            }
            Self::Adopt(adopt) => adopt.partition,
        }
    }

    /// Checksums of its payload blocks.
    pub fn crcs(&self) -> &[u32] {
        match self {
            Self::Op { body: LoggedBody::Write { crcs, .. }, .. } | Self::Copy { crcs, .. } => crcs,
            _ => &[],
        }
    }
}

const WRITE: u8 = 1;
const CLEAR: u8 = 2;
const EXTENT_CREATE: u8 = 3;
const REPOINT: u8 = 4;
const SEAL: u8 = 5;
const RELEASE: u8 = 6;
const DELETE: u8 = 7;
const NOTHING: u8 = 8;
const ADOPT: u8 = 9;
const COPY: u8 = 10;
const FORGET: u8 = 11;
const CHECKPOINT: u8 = 12;
/// Added to the kind of an operation that is logged again while it is pending.
const AGAIN: u8 = 0x80;

fn common(w: &mut Writer, kind: u8, partition: PartitionId, number: Number, op: Op, committed: Op) {
    w.u8(kind).u64(partition.0).u32(number.epoch).u64(number.counter).u64(op.0).u64(committed.0);
}

fn put_blocks(w: &mut Writer, lba: Lba, crcs: &[u32]) {
    w.u64(lba.0).u16(crcs.len() as u16);
    for crc in crcs {
        w.u32(*crc);
    }
}

/// Appends the bytes of an operation; `again` when it stands in the log already and was moved here (P-31).
pub fn put_entry(w: &mut Writer, entry: &Entry, committed: Op, again: bool) {
    let mark = if again { AGAIN } else { 0 };
    let start =
        |w: &mut Writer, kind: u8| common(w, kind | mark, entry.partition, entry.number, entry.op, committed);
    match &entry.body {
        Body::Write { lba, crcs, .. } => {
            start(w, WRITE);
            put_blocks(w, *lba, crcs);
        }
        Body::Clear { lba, count } => {
            start(w, CLEAR);
            w.u64(lba.0).u32(*count);
        }
        Body::ExtentCreate(desc) => {
            start(w, EXTENT_CREATE);
            put_extent(w, desc);
        }
        Body::Repoint(repoint) => {
            start(w, REPOINT);
            put_repoint(w, repoint);
        }
        Body::Seal { extent, stripes } => {
            start(w, SEAL);
            w.u64(extent.0).u32(*stripes);
        }
        Body::Release { extent } => {
            start(w, RELEASE);
            w.u64(extent.0);
        }
        Body::Delete => start(w, DELETE),
        Body::Nothing => start(w, NOTHING),
        Body::Checkpoint { found, keep } => {
            start(w, CHECKPOINT);
            w.u8(*keep).u8(u8::from(found.is_some()));
            if let Some(found) = found {
                put_checkpoint(w, found);
            }
        }
    }
}

/// Appends the bytes of an adoption.
pub fn put_adopt(w: &mut Writer, adopt: &Adopt, committed: Op) {
    common(w, ADOPT, adopt.partition, adopt.number, adopt.tail, committed);
    w.u64(adopt.grant.0).u8(adopt.members.len() as u8);
    for member in &adopt.members {
        w.u32(member.head.0).u128(member.log.0).u128(member.boot.0);
    }
}

/// Appends the bytes of a copy.
pub fn put_copy(w: &mut Writer, partition: PartitionId, op: Op, lba: Lba, crcs: &[u32], committed: Op) {
    common(w, COPY, partition, Number::ZERO, op, committed);
    put_blocks(w, lba, crcs);
}

/// Appends the bytes of an entry that voids all of the partition before it.
pub fn put_forget(w: &mut Writer, partition: PartitionId) {
    common(w, FORGET, partition, Number::ZERO, Op(0), Op(0));
}

/// Appends the bytes of an extent descriptor; checkpoints use it too.
pub fn put_extent(w: &mut Writer, desc: &ExtentDesc) {
    let g = desc.geometry;
    w.u64(desc.id.0).u32(desc.number.epoch).u64(desc.number.counter);
    w.u8(g.k).u8(g.m).u16(g.unit_blocks).u32(g.stripes);
    for column in &desc.columns {
        match column {
            None => w.u8(0),
            Some(c) => w.u8(1).u32(c.sled.0).u128(c.device.0).u32(c.column).u32(c.generation),
        };
    }
}

/// Appends the name of a checkpoint on sleds; the own checkpoints use it too.
pub fn put_checkpoint(w: &mut Writer, found: &SledCheckpoint) {
    w.u32(found.number.epoch).u64(found.number.counter).u32(found.generation).u64(found.covers.0);
    w.u32(found.pages).u16(found.unit_blocks).u32(found.stripes).u8(found.copies).u128(found.hash);
    w.u16(found.columns.len() as u16);
    for c in &found.columns {
        w.u32(c.sled.0).u128(c.device.0).u32(c.column).u32(c.generation);
    }
}

/// Reads what [`put_checkpoint`] wrote.
pub fn take_checkpoint(r: &mut Reader<'_>) -> Result<SledCheckpoint, DecodeError> {
    let number = Number { epoch: r.u32()?, counter: r.u64()? };
    let (generation, covers, pages) = (r.u32()?, Op(r.u64()?), r.u32()?);
    let (unit_blocks, stripes, copies, hash) = (r.u16()?, r.u32()?, r.u8()?, r.u128()?);
    let count = r.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let (sled, device) = (NodeId(r.u32()?), DeviceId(r.u128()?));
        columns.push(ColumnRef { sled, device, column: r.u32()?, generation: r.u32()? });
    }
    let found =
        SledCheckpoint { number, generation, covers, pages, unit_blocks, stripes, copies, hash, columns };
    if found.sound() { Ok(found) } else { Err(DecodeError::Range("checkpoint")) }
}

fn put_repoint(w: &mut Writer, repoint: &Repoint) {
    w.u64(repoint.extent.0).u32(repoint.first_stripe).u32(repoint.stripes).u16(repoint.absent);
    w.u16(repoint.entries.len() as u16);
    for e in &repoint.entries {
        w.u64(e.lba.0).u64(e.op.0).u32(e.block).u32(e.crc);
        match e.from {
            GatheredFrom::Log => w.u8(0),
            GatheredFrom::Extent { id, block } => w.u8(1).u64(id.0).u32(block),
        };
    }
}

/// Most stripes that an extent may have.
pub const STRIPES_MAX: u32 = 1 << 16;
/// Most data blocks that an extent may have: index locations hold 24 bits.
pub const EXTENT_BLOCKS_MAX: u64 = 1 << 24;

/// Whether an extent's geometry and column list make sense.
pub fn extent_ok(desc: &ExtentDesc) -> bool {
    let g = desc.geometry;
    let blocks = u64::from(g.k) * u64::from(g.unit_blocks) * u64::from(g.stripes);
    g.k > 0
        && g.columns() <= COLUMNS_MAX
        && (1..=STRIPES_MAX).contains(&g.stripes)
        && (1..=EXTENT_BLOCKS_MAX).contains(&blocks)
        && desc.columns.len() == g.columns()
}

/// Limits of an entry; what exceeds them would not survive a recovery.
pub fn entry_ok(entry: &Entry) -> bool {
    match &entry.body {
        Body::Write { lba, crcs, data } => {
            (1..=IO_BLOCKS_MAX).contains(&crcs.len())
                && data.len() == crcs.len() * BLOCK
                && lba.0.saturating_add(crcs.len() as u64) <= PARTITION_BLOCKS_MAX
        }
        Body::Clear { lba, count } => lba.0.saturating_add(u64::from(*count)) <= PARTITION_BLOCKS_MAX,
        Body::ExtentCreate(desc) => extent_ok(desc),
        Body::Repoint(repoint) => repoint.entries.len() <= REPOINT_ENTRIES_MAX,
        Body::Checkpoint { found: Some(found), .. } => found.sound(),
        _ => true,
    }
}

/// The next entry of a header and the committed watermark it carries.
pub fn take_entry(r: &mut Reader<'_>) -> Result<(Logged, Op), DecodeError> {
    let kind = r.u8()?;
    let partition = PartitionId(r.u64()?);
    let number = Number { epoch: r.u32()?, counter: r.u64()? };
    let op = Op(r.u64()?);
    let committed = Op(r.u64()?);
    let again = kind & AGAIN != 0 && !matches!(kind & !AGAIN, ADOPT | COPY | FORGET);
    let body = match if again { kind & !AGAIN } else { kind } {
        ADOPT => return Ok((take_adopt(r, partition, number, op)?, committed)),
        FORGET => return Ok((Logged::Forget { partition }, Op(0))),
        COPY => {
            let (lba, crcs) = take_blocks(r)?;
            return Ok((Logged::Copy { partition, op, lba, crcs }, committed));
        }
        WRITE => {
            let (lba, crcs) = take_blocks(r)?;
            LoggedBody::Write { lba, crcs }
        }
        CLEAR => {
            let (lba, count) = (Lba(r.u64()?), r.u32()?);
            if lba.0.saturating_add(u64::from(count)) > PARTITION_BLOCKS_MAX {
                return Err(DecodeError::Range("clear"));
            }
            LoggedBody::Other(Body::Clear { lba, count })
        }
        EXTENT_CREATE => LoggedBody::Other(Body::ExtentCreate(Box::new(take_extent(r)?))),
        REPOINT => LoggedBody::Other(Body::Repoint(Box::new(take_repoint(r)?))),
        SEAL => LoggedBody::Other(Body::Seal { extent: ExtentId(r.u64()?), stripes: r.u32()? }),
        RELEASE => LoggedBody::Other(Body::Release { extent: ExtentId(r.u64()?) }),
        DELETE => LoggedBody::Other(Body::Delete),
        NOTHING => LoggedBody::Other(Body::Nothing),
        CHECKPOINT => {
            let (keep, there) = (r.u8()?, r.u8()?);
            let found = match there {
                0 => None,
                1 => Some(Box::new(take_checkpoint(r)?)),
                _ => return Err(DecodeError::Range("checkpoint")),
            };
            LoggedBody::Other(Body::Checkpoint { found, keep })
        }
        _ => return Err(DecodeError::Range("entry kind")),
    };
    Ok((Logged::Op { partition, number, op, body, again }, committed))
}

fn take_blocks(r: &mut Reader<'_>) -> Result<(Lba, CrcList), DecodeError> {
    let (lba, count) = (Lba(r.u64()?), usize::from(r.u16()?));
    if !(1..=IO_BLOCKS_MAX).contains(&count) || lba.0.saturating_add(count as u64) > PARTITION_BLOCKS_MAX {
        return Err(DecodeError::Range("write"));
    }
    let mut crcs = CrcList::with_capacity(count);
    for _ in 0..count {
        crcs.push(r.u32()?);
    }
    Ok((lba, crcs))
}

fn take_adopt(
    r: &mut Reader<'_>,
    partition: PartitionId,
    number: Number,
    tail: Op,
) -> Result<Logged, DecodeError> {
    let grant = GrantId(r.u64()?);
    let count = usize::from(r.u8()?);
    if count > MEMBERS_MAX {
        return Err(DecodeError::Range("members"));
    }
    let mut members = SmallVec::new();
    for _ in 0..count {
        let (head, log, boot) = (NodeId(r.u32()?), LogId(r.u128()?), BootId(r.u128()?));
        members.push(Member { head, log, boot });
    }
    Ok(Logged::Adopt(Adopt { partition, number, grant, members, tail }))
}

/// Reads what [`put_extent`] wrote.
pub fn take_extent(r: &mut Reader<'_>) -> Result<ExtentDesc, DecodeError> {
    let id = ExtentId(r.u64()?);
    let number = Number { epoch: r.u32()?, counter: r.u64()? };
    let geometry = Geometry { k: r.u8()?, m: r.u8()?, unit_blocks: r.u16()?, stripes: r.u32()? };
    if geometry.columns() > COLUMNS_MAX {
        return Err(DecodeError::Range("columns"));
    }
    let mut columns = SmallVec::new();
    for _ in 0..geometry.columns() {
        columns.push(match r.u8()? {
            0 => None,
            1 => {
                let (sled, device) = (NodeId(r.u32()?), DeviceId(r.u128()?));
                Some(ColumnRef { sled, device, column: r.u32()?, generation: r.u32()? })
            }
            _ => return Err(DecodeError::Range("column presence")),
        });
    }
    let desc = ExtentDesc { id, number, geometry, columns };
    if extent_ok(&desc) { Ok(desc) } else { Err(DecodeError::Range("extent geometry")) }
}

fn take_repoint(r: &mut Reader<'_>) -> Result<Repoint, DecodeError> {
    let (extent, first_stripe, stripes) = (ExtentId(r.u64()?), r.u32()?, r.u32()?);
    let (absent, count) = (r.u16()?, usize::from(r.u16()?));
    if count > REPOINT_ENTRIES_MAX {
        return Err(DecodeError::Range("repoint"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (lba, op, block, crc) = (Lba(r.u64()?), Op(r.u64()?), r.u32()?, r.u32()?);
        let from = match r.u8()? {
            0 => GatheredFrom::Log,
            1 => GatheredFrom::Extent { id: ExtentId(r.u64()?), block: r.u32()? },
            _ => return Err(DecodeError::Range("gathered from")),
        };
        entries.push(RepointEntry { lba, op, from, block, crc });
    }
    Ok(Repoint { extent, first_stripe, stripes, absent, entries })
}
