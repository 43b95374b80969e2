//! Checkpoints of a partition's index on sleds (BA-01, P-29): what names one.
//!
//! The primary writes the pages, each to `copies` columns of as many sleds, and then numbers an operation with this
//! name. So every member of the group knows the same ones, in one order, and what a superseded head wrote has no
//! name.

use super::ids::{ColumnRef, Number, Op};
use super::limits::{COLUMNS_MAX, IO_BLOCKS_MAX};

/// Generations that are kept at once.
pub const CHECKPOINTS_KEPT: usize = 2;
/// Most columns of one checkpoint: its name has to fit one log record.
pub const CHECKPOINT_COLUMNS_MAX: usize = 1024;

/// Names a checkpoint and says where its pages lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SledCheckpoint {
    /// The number under which it was written.
    pub number: Number,
    /// Which one; rises.
    pub generation: u32,
    /// Its C: no page is older.
    pub covers: Op,
    /// Pages.
    pub pages: u32,
    /// Blocks (4 KiB) of a page: one stripe unit of a column.
    pub unit_blocks: u16,
    /// Pages of one column.
    pub stripes: u32,
    /// Columns that hold the same pages.
    pub copies: u8,
    /// Over the checksums of all pages.
    pub hash: u128,
    /// The copies of the first pages, then those of the next ones, and so on.
    pub columns: Vec<ColumnRef>,
}

impl SledCheckpoint {
    /// Whether its fields make sense together.
    pub fn sound(&self) -> bool {
        let copies = usize::from(self.copies);
        let unit = usize::from(self.unit_blocks);
        self.pages > 0
            && self.stripes > 0
            && (1..=IO_BLOCKS_MAX).contains(&unit)
            && (1..=COLUMNS_MAX).contains(&copies)
            && self.columns.len() <= CHECKPOINT_COLUMNS_MAX
            && self.columns.len() == self.pages.div_ceil(self.stripes) as usize * copies
    }

    /// Where a copy of a page lies: the column, and its first block there.
    pub fn place(&self, page: u32, copy: usize) -> Option<(ColumnRef, u32)> {
        let chapter = (page / self.stripes) as usize;
        let column = self.columns.get(chapter * usize::from(self.copies) + copy)?;
        Some((*column, page % self.stripes * u32::from(self.unit_blocks)))
    }
}

/// The checkpoints that a partition has, as operations left them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeptCheckpoints {
    /// The last operation that changed them.
    pub op: Op,
    /// The newest first.
    pub found: Vec<SledCheckpoint>,
}

impl KeptCheckpoints {
    /// Applies an operation: `new` comes first, and so many of those before stay. One that is no news changes
    /// nothing.
    pub fn apply(&mut self, op: Op, new: Option<&SledCheckpoint>, keep: u8) {
        if op <= self.op {
            return;
        }
        self.op = op;
        self.found.truncate(usize::from(keep));
        if let Some(new) = new {
            self.found.insert(0, new.clone());
        }
        self.found.truncate(CHECKPOINTS_KEPT);
    }
}
