//! A partition as another head gives it (BA-01, BA-04, P-29).
//!
//! First an entry voids all that this log holds of the partition, whatever history that was of: numbers of
//! operations are used again when histories part, so that old records must never be taken for new ones. Then
//! come the bytes of blocks that lie in the giver's log, as copies under the operations that wrote them, and
//! the index, which is kept in memory only. What makes it durable is the first checkpoint that begins when all
//! of it is here; before that a recovery finds the void, and forgets the rest.

use super::append::{Log, Payload};
use super::index::{HOLE, Index, LEAF_BLOCKS};
use super::record;
use super::types::*;
use crate::wire::limits::*;
use crate::wire::*;
use palisade_dma::Buf;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hash;

impl Log {
    /// Stages the entry that voids all of the partition before it. The index is then empty, and `origin` of its
    /// next checkpoints is this record. Not while a checkpoint is written, which may hold what is voided:
    /// [`PushError::Full`]. No checkpoint may begin before the record is durable.
    pub fn push_forget(&mut self, partition: PartitionId) -> Result<Placed, PushError> {
        if self.checkpointing() {
            return Err(PushError::Full);
        }
        let mut bytes = std::mem::take(&mut self.entry);
        bytes.bytes.clear();
        record::put_forget(&mut bytes, partition);
        let placed = self.stage(&bytes.bytes, partition, Op(0), None, Room::Metadata);
        self.entry = bytes;
        let placed = placed?;
        // What is void waits for nothing, and is missed by nobody once this record is durable.
        self.ring.cut(partition, Op(0));
        self.hold = placed.lsn;
        let head = self.ring.head;
        self.ring.segment(head).top(partition).forgot = placed.lsn;
        self.checkpoint.covered.partitions.remove(&partition);
        self.checkpoint.filling.insert(partition);
        Ok(placed)
    }

    /// Stages blocks of a write that another head holds in its log; say [`Log::import`] where they lie.
    pub fn push_import(
        &mut self,
        (partition, op, lba): (PartitionId, Op, Lba),
        crcs: &[u32],
        data: &Buf,
        committed: Op,
    ) -> Result<Placed, PushError> {
        if !(1..=IO_BLOCKS_MAX).contains(&crcs.len()) || data.len() != crcs.len() * BLOCK {
            return Err(PushError::TooLarge);
        }
        let mut bytes = std::mem::take(&mut self.entry);
        bytes.bytes.clear();
        record::put_copy(&mut bytes, partition, op, lba, crcs, committed);
        let data = Payload { lba, data, hot: false };
        let placed = self.stage(&bytes.bytes, partition, op, Some(data), Room::Replica);
        self.entry = bytes;
        placed
    }

    /// Gives a block the place that another head knows for it; `addr` is where bytes that came along lie here.
    /// False when it cannot be: an extent that is not known here, a place that is taken, or an operation that
    /// this log should have and has not.
    pub fn import(
        &mut self,
        index: &mut Index,
        lba: Lba,
        block: &CopiedBlock,
        addr: Option<LogAddr>,
    ) -> bool {
        let old = index.get(lba);
        let loc = match (block.place, addr, old.loc) {
            (Place::Cleared, ..) => Loc::Cleared,
            (Place::Lost, ..) => Loc::Lost,
            (Place::Known | Place::Sent, _, Loc::Log(own)) if old.op == block.op && addr != Some(own) => {
                // The operation itself came, too.
                addr.into_iter().for_each(|addr| self.ring.dead(addr));
                return true;
            }
            (Place::Sent, Some(addr), _) => Loc::Log(addr),
            (Place::Known | Place::Sent, ..) => return false,
            (Place::Extent { id, block }, ..) => match index.slot_of(id) {
                Some(slot) => Loc::Extent { slot, block },
                None => return false,
            },
        };
        let new = Mapping { op: block.op, loc, crc: block.crc };
        if new == old {
            return true;
        }
        if let Loc::Extent { slot, block } = loc
            && old.loc != loc
            && !index.extents.is_free(slot, block)
        {
            return false;
        }
        let ring = &mut self.ring;
        index.replace(lba, new, &mut |addr| ring.dead(addr));
        true
    }

    /// A block is a hole at the giver.
    pub fn import_hole(&mut self, index: &mut Index, lba: Lba) {
        let ring = &mut self.ring;
        if index.get(lba) != HOLE {
            index.replace(lba, HOLE, &mut |addr| ring.dead(addr));
        }
    }
}

impl Index {
    /// Takes an extent of the giver's; false if it makes no sense.
    pub fn import_extent(&mut self, copied: &CopiedExtent) -> bool {
        let stripes = copied.desc.geometry.stripes;
        if !record::extent_ok(&copied.desc)
            || copied.absent.len() > stripes as usize
            || copied.sealed.is_some_and(|sealed| sealed > stripes)
        {
            return false;
        }
        self.extents.import(copied)
    }

    /// Takes the checkpoints that the giver knows of.
    pub fn import_kept(&mut self, kept: &KeptCheckpoints) {
        self.kept.clone_from(kept);
    }

    /// Extents behind `after`, in the order of their ids.
    pub fn extents_after(&self, after: ExtentId) -> impl Iterator<Item = &Extent> {
        self.extents.after(after)
    }

    /// A hash of everything that the index says, but for places in the log.
    pub fn digest(&self) -> u128 {
        let mut hasher = SipHasher24::new();
        let mut from = Lba(0);
        while let Some((first, count)) = self.next_range(from) {
            from = Lba(first.0 + u64::from(count));
            for lba in first.0..from.0 {
                let mapping = self.get(Lba(lba));
                let place = match mapping.loc {
                    Loc::Hole => continue,
                    Loc::Cleared => (1, 0, 0),
                    Loc::Lost => (2, 0, 0),
                    Loc::Log(_) => (3, 0, 0),
                    Loc::Extent { slot, block } => (4, self.extent(slot).map_or(0, |x| x.desc.id.0), block),
                };
                (lba, mapping.op, mapping.crc, place).hash(&mut hasher);
            }
        }
        for (_, extent) in self.extents() {
            let absent = &extent.absent[..extent.stripes as usize];
            (extent.desc.id, extent.stripes, extent.sealed, absent, extent.live).hash(&mut hasher);
            extent.desc.columns.hash(&mut hasher);
        }
        self.kept.hash(&mut hasher);
        hasher.finish128().as_u128()
    }

    /// The next blocks from `from` on that may hold something, all of one leaf: the first one, and how many
    /// there are in a row. `None` behind the last.
    pub fn next_range(&self, from: Lba) -> Option<(Lba, u32)> {
        let mut leaf = from.0 as usize / LEAF_BLOCKS;
        loop {
            let (found, bytes) = self.next_leaf(leaf)?;
            let first = (found * LEAF_BLOCKS) as u64;
            let end = first + (bytes.len() / super::index::ENTRY_BYTES) as u64;
            let start = first.max(from.0);
            if start < end {
                return Some((Lba(start), (end - start) as u32));
            }
            leaf = found + 1;
        }
    }
}
