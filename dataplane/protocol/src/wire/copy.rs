//! Words of a full copy (BA-01, BA-04): the index of one head as another one is told it. Places in the giver's
//! log mean nothing elsewhere, so that they are not named: what lies there is sent along.

use super::checkpoint::KeptCheckpoints;
use super::ids::{ExtentId, Op};
use super::ops::ExtentDesc;

/// Most blocks that one part of a copy speaks of.
pub const PART_BLOCKS: usize = 1024;
/// Most extents of one part.
pub const PART_EXTENTS: usize = 64;

/// Where a copied block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Trimmed: zeroes; its op is kept (P-07).
    Cleared,
    /// No copy is readable.
    Lost,
    /// In the giver's log, and numbered after the copy began: the receiver got the operation itself.
    Known,
    /// In the giver's log: its bytes come with the part, in the order of the blocks (P-29).
    Sent,
    /// In an extent, which both heads reach.
    Extent {
        /// The extent.
        id: ExtentId,
        /// Data block in it.
        block: u32,
    },
}

/// A block of the giver's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedBlock {
    /// Distance from the part's first block.
    pub at: u32,
    /// The operation that wrote or cleared it.
    pub op: Op,
    /// CRC32C of its contents.
    pub crc: u32,
    /// Where it lies.
    pub place: Place,
}

/// An extent of the giver's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedExtent {
    /// Columns, code, number.
    pub desc: ExtentDesc,
    /// Set by a seal: stripes that count (P-24).
    pub sealed: Option<u32>,
    /// Columns that lack a stripe, a bit each, for each indexed stripe (P-25).
    pub absent: Vec<u16>,
}

/// What one part of a copy says: some extents, or a range of blocks. Both as they were when operation `at` had
/// just been applied.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CopyPart {
    /// The operation.
    pub at: Op,
    /// Extents, in the order of their ids.
    pub extents: Vec<CopiedExtent>,
    /// First block of the range.
    pub lba: u64,
    /// Blocks of the range; those that are not named, nor `same`, are holes.
    pub count: u32,
    /// Blocks that are no holes, in order.
    pub blocks: Vec<CopiedBlock>,
    /// Of the blocks that are not named, runs (distance from the first block, blocks) that are as the receiver
    /// found them in a checkpoint on sleds (P-29).
    pub same: Vec<(u32, u32)>,
    /// The last part: extents and blocks are whole with it.
    pub last: bool,
    /// With the last part: the checkpoints that the sleds hold.
    pub kept: KeptCheckpoints,
}
