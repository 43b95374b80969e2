//! Operations: every change of a partition's index, in one order (P-07).

use super::checkpoint::SledCheckpoint;
use super::ids::{ColumnRef, ExtentId, GrantId, Lba, Member, Number, Op, PartitionId};
use super::limits::COLUMNS_MAX;
use palisade_dma::Buf;
use smallvec::SmallVec;

/// Checksums of a write's blocks (CRC32C of each 4 KiB).
pub type CrcList = SmallVec<[u32; 4]>;

/// Code geometry of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Data columns.
    pub k: u8,
    /// Parity columns.
    pub m: u8,
    /// Stripe unit in blocks of 4 KiB.
    pub unit_blocks: u16,
    /// Stripes that the columns have room for.
    pub stripes: u32,
}

impl Geometry {
    /// Data blocks of one stripe.
    pub fn stripe_blocks(&self) -> u32 {
        u32::from(self.k) * u32::from(self.unit_blocks)
    }

    /// Data blocks of a whole extent.
    pub fn extent_blocks(&self) -> u32 {
        self.stripe_blocks() * self.stripes
    }

    /// Data plus parity columns.
    pub fn columns(&self) -> usize {
        usize::from(self.k) + usize::from(self.m)
    }

    /// Where data block `block` of the extent lies: (stripe, data column, block in the column's unit).
    ///
    /// Blocks fill one unit after another, so that a small range lies in one column.
    pub fn locate(&self, block: u32) -> (u32, usize, u32) {
        let unit = u32::from(self.unit_blocks);
        let in_stripe = block % self.stripe_blocks();
        (block / self.stripe_blocks(), (in_stripe / unit) as usize, in_stripe % unit)
    }
}

/// Which columns make an extent (P-24). `None` is a column that was absent when the extent was made
/// (P-25, degraded flush): it never holds anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentDesc {
    /// The extent: the operation number of its creation.
    pub id: ExtentId,
    /// The one number under which it is written (P-24).
    pub number: Number,
    /// Code, unit and room.
    pub geometry: Geometry,
    /// Data columns first, then parity; `geometry.columns()` of them.
    pub columns: SmallVec<[Option<ColumnRef>; COLUMNS_MAX]>,
}

/// Where a block was when it was gathered for a flush or a collection (P-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatheredFrom {
    /// The log of whichever head applies this.
    Log,
    /// Data block `block` of an extent.
    Extent {
        /// The old extent.
        id: ExtentId,
        /// Data block in it.
        block: u32,
    },
}

/// One block of a repoint: `lba`, written by `op`, now lies in data block `block` of the extent. Applies
/// only if the index entry still equals (op, from).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepointEntry {
    /// Logical block.
    pub lba: Lba,
    /// The operation that wrote its contents.
    pub op: Op,
    /// Where it was gathered.
    pub from: GatheredFrom,
    /// Data block in the new extent, or [`RepointEntry::LOST`].
    pub block: u32,
    /// Checksum of its contents.
    pub crc: u32,
}

impl RepointEntry {
    /// In place of a data block: neither log can give the block. Reads of it are errors until it is written
    /// again; its place in the logs is free, so that one rotten block cannot stop them (P-31).
    pub const LOST: u32 = u32::MAX;
}

/// Stripes `first..first + count` of an extent are durable on all columns but `absent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repoint {
    /// The extent.
    pub extent: ExtentId,
    /// First stripe.
    pub first_stripe: u32,
    /// Stripes.
    pub stripes: u32,
    /// Bit per column: set where the column lacks these stripes (P-25).
    pub absent: u16,
    /// Blocks that move.
    pub entries: Vec<RepointEntry>,
}

/// What an operation does.
#[derive(Clone, Debug)]
pub enum Body {
    /// Blocks from `lba` get new contents; `data` is `crcs.len()` blocks.
    Write {
        /// First block.
        lba: Lba,
        /// Checksum of each block.
        crcs: CrcList,
        /// The contents.
        data: Buf,
    },
    /// `count` blocks from `lba` read as zeroes from now on (trim and write-zeroes).
    Clear {
        /// First block.
        lba: Lba,
        /// Blocks.
        count: u32,
    },
    /// An extent exists.
    ExtentCreate(Box<ExtentDesc>),
    /// Blocks lie in an extent now.
    Repoint(Box<Repoint>),
    /// No stripe at or beyond `stripes` will be written to the extent.
    Seal {
        /// The extent.
        extent: ExtentId,
        /// Stripes that count.
        stripes: u32,
    },
    /// The extent is dead: nothing refers to it; its columns may be released (P-28).
    Release {
        /// The extent.
        extent: ExtentId,
    },
    /// The partition ceases to exist on the members.
    Delete,
    /// Nothing; fills a number.
    Nothing,
    /// The sleds hold a checkpoint of the index (P-29), or some are given up.
    Checkpoint {
        /// The new one; `None` gives up only.
        found: Option<Box<SledCheckpoint>>,
        /// So many of those before are kept.
        keep: u8,
    },
}

/// A numbered operation of a partition.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The partition.
    pub partition: PartitionId,
    /// Number under which the primary first wrote it (orders histories, P-30).
    pub number: Number,
    /// Its place.
    pub op: Op,
    /// What it does.
    pub body: Body,
}

/// Not an operation, but logged beside them: the head took over a (number, group) pair, and for each
/// partition cuts back to `tail` (P-01). At recovery, operations above `tail` that stand before this
/// record are void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The partition.
    pub partition: PartitionId,
    /// The adopted number.
    pub number: Number,
    /// Its grant.
    pub grant: GrantId,
    /// Primary first.
    pub members: SmallVec<[Member; 2]>,
    /// Operations above this that came before are void.
    pub tail: Op,
}
