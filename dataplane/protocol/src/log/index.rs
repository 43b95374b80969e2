//! The index of a partition: logical block to newest location (EF-07, P-07).
//!
//! A two-level table: leaves of [`LEAF_BLOCKS`] packed entries of 18 bytes {op 64, location 48, crc 32},
//! made when first touched. Beside it each extent keeps the logical block of each of its data blocks
//! (4 bytes), for the collector: 22 bytes per mapped block in all, under the budget of 24.
//!
//! A leaf is the body of a checkpoint page, byte for byte, so that writing a page is one copy.
//!
//! Operations come in op order. Each of them is idempotent ("newest op wins", strictly), so that replaying
//! a log over a fuzzy checkpoint gives the same index (P-29): an operation that a page already reflects
//! finds an entry at least as new, or one that no longer matches what a repoint had gathered. The record of
//! a write may be gone, because its segment was released once something newer stood for it: a repoint, or a
//! copy. Both carry all that the write said, and an index that is older than them takes it from there.

use super::Faults;
use super::extents::Extents;
use super::types::{Applied, Extent, Loc, LogAddr, LoggedBody, Mapping};
use crate::wire::limits::PARTITION_BLOCKS_MAX;
use crate::wire::*;
use palisade_dma::prefetch_value;

/// Blocks of a leaf.
pub const LEAF_BLOCKS: usize = 3584;
/// Bytes of a packed entry.
pub const ENTRY_BYTES: usize = 18;
/// Bytes of a leaf.
pub(super) const LEAF_BYTES: usize = LEAF_BLOCKS * ENTRY_BYTES;

/// So many entries ahead memory is asked for the next ones, where many blocks are looked up in a row.
pub const AHEAD: usize = 8;

const TAG_SHIFT: u32 = 46;
const TAG_CLEARED: u64 = 1;
const TAG_LOG: u64 = 2;
const TAG_EXTENT: u64 = 3;
/// What follows [`TAG_CLEARED`] for a lost block.
const LOST: u64 = 1;
const BLOCK_BITS: u32 = 24;

/// Packs a location into 48 bits.
fn pack(loc: Loc) -> u64 {
    match loc {
        Loc::Hole => 0,
        Loc::Cleared => TAG_CLEARED << TAG_SHIFT,
        Loc::Lost => TAG_CLEARED << TAG_SHIFT | LOST,
        Loc::Log(addr) => TAG_LOG << TAG_SHIFT | addr.0,
        Loc::Extent { slot, block } => {
            TAG_EXTENT << TAG_SHIFT | u64::from(slot) << BLOCK_BITS | u64::from(block)
        }
    }
}

/// What [`pack`] packed.
fn unpack(packed: u64) -> Loc {
    let rest = packed & ((1 << TAG_SHIFT) - 1);
    match packed >> TAG_SHIFT {
        TAG_CLEARED if rest == LOST => Loc::Lost,
        TAG_CLEARED => Loc::Cleared,
        TAG_LOG => Loc::Log(LogAddr(rest)),
        TAG_EXTENT => {
            Loc::Extent { slot: (rest >> BLOCK_BITS) as u32, block: (rest & ((1 << BLOCK_BITS) - 1)) as u32 }
        }
        _ => Loc::Hole,
    }
}

/// Reads a packed entry.
fn load(entry: &[u8]) -> Mapping {
    let mut op = [0; 8];
    op.copy_from_slice(&entry[..8]);
    let mut loc = [0; 8];
    loc[..6].copy_from_slice(&entry[8..14]);
    let crc = u32::from_le_bytes([entry[14], entry[15], entry[16], entry[17]]);
    Mapping { op: Op(u64::from_le_bytes(op)), loc: unpack(u64::from_le_bytes(loc)), crc }
}

/// Writes a packed entry.
fn store(entry: &mut [u8], mapping: Mapping) {
    entry[..8].copy_from_slice(&mapping.op.0.to_le_bytes());
    entry[8..14].copy_from_slice(&pack(mapping.loc).to_le_bytes()[..6]);
    entry[14..18].copy_from_slice(&mapping.crc.to_le_bytes());
}

pub(super) const HOLE: Mapping = Mapping { op: Op(0), loc: Loc::Hole, crc: 0 };

/// The body of an operation without the bytes of a write, borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    Write { lba: Lba, crcs: &'a [u32] },
    Clear { lba: Lba, count: u32 },
    Create(&'a ExtentDesc),
    Repoint(&'a Repoint),
    Seal { extent: ExtentId, stripes: u32 },
    Release { extent: ExtentId },
    Delete,
    Nothing,
    Checkpoint { found: Option<&'a SledCheckpoint>, keep: u8 },
}

impl<'a> From<&'a Body> for Change<'a> {
    fn from(body: &'a Body) -> Self {
        match body {
            Body::Write { lba, crcs, .. } => Self::Write { lba: *lba, crcs },
            Body::Clear { lba, count } => Self::Clear { lba: *lba, count: *count },
            Body::ExtentCreate(desc) => Self::Create(desc),
            Body::Repoint(repoint) => Self::Repoint(repoint),
            Body::Seal { extent, stripes } => Self::Seal { extent: *extent, stripes: *stripes },
            Body::Release { extent } => Self::Release { extent: *extent },
            Body::Delete => Self::Delete,
            Body::Nothing => Self::Nothing,
            Body::Checkpoint { found, keep } => Self::Checkpoint { found: found.as_deref(), keep: *keep },
        }
    }
}

impl<'a> From<&'a LoggedBody> for Change<'a> {
    fn from(body: &'a LoggedBody) -> Self {
        match body {
            LoggedBody::Write { lba, crcs } => Self::Write { lba: *lba, crcs },
            LoggedBody::Other(body) => Self::from(body),
        }
    }
}

/// The index of one partition. See the module's words.
#[derive(Debug, Default)]
pub struct Index {
    leaves: Vec<Option<Box<[u8]>>>,
    blocks: u64,
    mapped: u64,
    pub(super) extents: Extents,
    /// Checkpoints of it that the sleds hold.
    pub(super) kept: KeptCheckpoints,
}

impl Index {
    /// An empty index of a partition of `blocks` blocks.
    pub fn new(blocks: u64) -> Self {
        let mut index = Self::default();
        index.set_blocks(blocks);
        index
    }

    /// Blocks of the partition.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Makes room for a partition of `blocks` blocks; never shrinks.
    pub fn set_blocks(&mut self, blocks: u64) {
        let blocks = blocks.min(PARTITION_BLOCKS_MAX);
        if blocks > self.blocks {
            self.blocks = blocks;
            let leaves = (blocks as usize).div_ceil(LEAF_BLOCKS);
            self.leaves.resize_with(leaves, || None);
        }
    }

    /// Blocks mapped to the log or to an extent.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Heap memory of the mapping table and of the reverse maps of extents, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let table = self.leaves.capacity() * size_of::<Option<Box<[u8]>>>();
        let leaves: usize = self.leaves.iter().flatten().map(|leaf| leaf.len()).sum();
        table + leaves + self.extents.heap_bytes()
    }

    /// The newest mapping of a block.
    pub fn get(&self, lba: Lba) -> Mapping {
        let at = lba.0 as usize;
        match self.leaves.get(at / LEAF_BLOCKS) {
            Some(Some(leaf)) => {
                let from = at % LEAF_BLOCKS * ENTRY_BYTES;
                leaf.get(from..from + ENTRY_BYTES).map_or(HOLE, load)
            }
            _ => HOLE,
        }
    }

    /// Brings a block's entry near: it is read or changed soon, and would else come from memory then.
    pub fn bring_near(&self, lba: Lba) {
        let at = lba.0 as usize;
        let Some(Some(leaf)) = self.leaves.get(at / LEAF_BLOCKS) else { return };
        let from = at % LEAF_BLOCKS * ENTRY_BYTES;
        if let Some(entry) = leaf.get(from..from + ENTRY_BYTES) {
            // It may lie across two cache lines.
            prefetch_value(&entry[0]);
            prefetch_value(&entry[ENTRY_BYTES - 1]);
        }
    }

    /// Brings near what says that a block's present place is in use, which a change of the block clears.
    /// Reads the entry, so that [`Index::bring_near`] should come well before.
    pub fn bring_place_near(&self, lba: Lba) {
        if let Loc::Extent { slot, block } = self.get(lba).loc {
            self.extents.bring_near(slot, block);
        }
    }

    /// Mappings of `count` blocks from `lba`, in order, pushed to `into`.
    pub fn lookup(&self, lba: Lba, count: u32, into: &mut Vec<Mapping>) {
        into.extend((0..u64::from(count)).map(|i| self.get(Lba(lba.0.saturating_add(i)))));
    }

    /// The checkpoints of it that the sleds hold.
    pub fn kept(&self) -> &KeptCheckpoints {
        &self.kept
    }

    /// The extent in a slot.
    pub fn extent(&self, slot: u32) -> Option<&Extent> {
        self.extents.get(slot)
    }

    /// The slot of an extent that is not released.
    pub fn slot_of(&self, id: ExtentId) -> Option<u32> {
        self.extents.slot_of(id)
    }

    /// All extents that are not released, with their slots.
    pub fn extents(&self) -> impl Iterator<Item = (u32, &Extent)> {
        self.extents.iter()
    }

    /// Live blocks of an extent as (data block, lba), in order, pushed to `into`.
    pub fn live_blocks(&self, slot: u32, into: &mut Vec<(u32, Lba)>) {
        self.extents.live_blocks(slot, into);
    }

    /// The bytes of a block's entry, its leaf made if need be.
    fn entry_mut(&mut self, lba: Lba) -> &mut [u8] {
        self.set_blocks(lba.0 + 1);
        let (at, blocks) = (lba.0 as usize, self.blocks as usize);
        let leaf = at / LEAF_BLOCKS;
        let made = self.leaves[leaf].get_or_insert_with(|| vec![0; leaf_len(leaf, blocks)].into());
        let from = at % LEAF_BLOCKS * ENTRY_BYTES;
        if made.len() < from + ENTRY_BYTES {
            // The partition grew since its last leaf was made.
            let mut longer = vec![0; leaf_len(leaf, blocks)];
            longer[..made.len()].copy_from_slice(made);
            *made = longer.into();
        }
        &mut made[from..from + ENTRY_BYTES]
    }

    /// Gives a block a mapping and takes the old one's location out of the counts.
    pub(super) fn replace(&mut self, lba: Lba, new: Mapping, dead: &mut impl FnMut(LogAddr)) {
        let entry = self.entry_mut(lba);
        let old = load(entry);
        store(entry, new);
        match old.loc {
            Loc::Log(addr) => dead(addr),
            Loc::Extent { slot, block } => self.extents.block_died(slot, block),
            Loc::Hole | Loc::Cleared | Loc::Lost => {}
        }
        if let Loc::Extent { slot, block } = new.loc {
            self.extents.block_lives(slot, block, lba);
        }
        let is_mapped = |loc| matches!(loc, Loc::Log(_) | Loc::Extent { .. });
        self.mapped = self.mapped + u64::from(is_mapped(new.loc)) - u64::from(is_mapped(old.loc));
    }

    /// Applies a committed operation. `dead` learns each log block that nothing refers to any more.
    pub(super) fn apply(
        &mut self,
        op: Op,
        change: Change<'_>,
        addr: LogAddr,
        faults: &Faults,
        dead: &mut impl FnMut(LogAddr),
    ) -> Applied {
        let mut applied = Applied::default();
        match change {
            Change::Write { lba, crcs } => self.write(op, lba, crcs, addr, &mut applied, dead),
            Change::Clear { lba, count } => self.clear(op, lba, count, faults, &mut applied, dead),
            Change::Create(desc) => self.extents.create(desc),
            Change::Repoint(repoint) => self.repoint(repoint, faults, &mut applied, dead),
            Change::Seal { extent, stripes } => self.extents.seal(extent, stripes),
            Change::Release { extent } => self.extents.release(extent, op),
            Change::Delete => self.drop_all(dead),
            Change::Nothing => {}
            Change::Checkpoint { found, keep } => self.kept.apply(op, found, keep),
        }
        applied
    }

    fn write(
        &mut self,
        op: Op,
        lba: Lba,
        crcs: &[u32],
        addr: LogAddr,
        applied: &mut Applied,
        dead: &mut impl FnMut(LogAddr),
    ) {
        for (i, crc) in (0u64..).zip(crcs) {
            let (lba, addr) = (Lba(lba.0 + i), addr.plus(i));
            if lba.0 >= PARTITION_BLOCKS_MAX || self.get(lba).op >= op {
                dead(addr);
                continue;
            }
            self.replace(lba, Mapping { op, loc: Loc::Log(addr), crc: *crc }, dead);
            applied.changed += 1;
        }
    }

    /// Blocks of leaves that were never made stay holes: no older write of theirs can follow, because
    /// operations come in order and only live blocks are copied forward.
    fn clear(
        &mut self,
        op: Op,
        lba: Lba,
        count: u32,
        faults: &Faults,
        applied: &mut Applied,
        dead: &mut impl FnMut(LogAddr),
    ) {
        let end = lba.0.saturating_add(u64::from(count)).min(self.blocks);
        let mut at = lba.0;
        while at < end {
            let leaf = at as usize / LEAF_BLOCKS;
            let leaf_end = end.min((leaf as u64 + 1) * LEAF_BLOCKS as u64);
            if self.leaves[leaf].is_some() {
                for block in at..leaf_end {
                    if self.get(Lba(block)).op < op {
                        let kept = if faults.drop_tombstones() { Op(0) } else { op };
                        let loc = if faults.drop_tombstones() { Loc::Hole } else { Loc::Cleared };
                        self.replace(Lba(block), Mapping { op: kept, loc, crc: 0 }, dead);
                        applied.changed += 1;
                    }
                }
            }
            at = leaf_end;
        }
    }

    /// P-07: a block moves only if its entry still equals what was gathered.
    fn repoint(
        &mut self,
        r: &Repoint,
        faults: &Faults,
        applied: &mut Applied,
        dead: &mut impl FnMut(LogAddr),
    ) {
        let Some(slot) = self.extents.repointed(r) else {
            applied.stale += r.entries.len() as u32;
            return;
        };
        for (at, e) in r.entries.iter().enumerate() {
            if let Some(soon) = r.entries.get(at + AHEAD) {
                self.bring_near(soon.lba);
            }
            let old = self.get(e.lba);
            let same_place = match (e.from, old.loc) {
                (GatheredFrom::Log, Loc::Log(_)) => true,
                (GatheredFrom::Extent { id, block }, Loc::Extent { slot, block: at }) => {
                    block == at && self.extents.get(slot).is_some_and(|x| x.desc.id == id)
                }
                _ => false,
            };
            // An index that is behind the gathered operation is one of recovery: the write's record was
            // released because this repoint stands for it.
            let missed = old.op < e.op;
            let matches = missed || (old.op == e.op && same_place);
            let lost = e.block == RepointEntry::LOST;
            let fits = e.lba.0 < PARTITION_BLOCKS_MAX && (lost || self.extents.is_free(slot, e.block));
            if fits && (matches || faults.repoint_unconditional()) {
                let crc = if matches && !missed { old.crc } else { e.crc };
                let op = if matches && !missed { old.op } else { e.op };
                let loc = if lost { Loc::Lost } else { Loc::Extent { slot, block: e.block } };
                self.replace(e.lba, Mapping { op, loc, crc }, dead);
                applied.changed += 1;
            } else {
                applied.stale += 1;
            }
        }
    }

    /// A durable copy of `op`'s block now lies at `addr`; with `as_write` (at recovery) it also stands for
    /// the write itself, whose record may be gone.
    pub(super) fn relocate(
        &mut self,
        op: Op,
        lba: Lba,
        crc: u32,
        addr: LogAddr,
        as_write: bool,
        dead: &mut impl FnMut(LogAddr),
    ) -> bool {
        let old = self.get(lba);
        let moves = old.op == op && matches!(old.loc, Loc::Log(at) if at != addr);
        let known = old.op == op && old.loc == Loc::Log(addr);
        if moves || (as_write && old.op < op && lba.0 < PARTITION_BLOCKS_MAX) {
            self.replace(lba, Mapping { op, loc: Loc::Log(addr), crc }, dead);
            return true;
        }
        if !known {
            dead(addr);
        }
        false
    }

    /// Forgets everything.
    pub(super) fn drop_all(&mut self, dead: &mut impl FnMut(LogAddr)) {
        self.for_each_logged(|_, _, addr| dead(addr));
        for leaf in &mut self.leaves {
            *leaf = None;
        }
        self.mapped = 0;
        self.extents = Extents::default();
        self.kept = KeptCheckpoints::default();
    }

    /// Visits every block that lies in the log.
    pub(super) fn for_each_logged(&self, mut visit: impl FnMut(Lba, Mapping, LogAddr)) {
        self.for_each(|lba, mapping| {
            if let Loc::Log(addr) = mapping.loc {
                visit(lba, mapping, addr);
            }
        });
    }

    fn for_each(&self, mut visit: impl FnMut(Lba, Mapping)) {
        for (n, leaf) in self.leaves.iter().enumerate() {
            let Some(leaf) = leaf else { continue };
            for (i, entry) in leaf.chunks_exact(ENTRY_BYTES).enumerate() {
                visit(Lba((n * LEAF_BLOCKS + i) as u64), load(entry));
            }
        }
    }

    /// Makes a block of a partition that lost its log records a hole again (it is damaged anyway).
    pub(super) fn unmap(&mut self, lba: Lba) {
        self.replace(lba, HOLE, &mut |_| {});
    }

    /// Leaves that hold anything, from `from` on: number and bytes of the next one.
    pub(super) fn next_leaf(&self, from: usize) -> Option<(usize, &[u8])> {
        let rest = self.leaves.get(from..)?;
        let skip = rest.iter().position(Option::is_some)?;
        Some((from + skip, rest[skip].as_deref()?))
    }

    /// Puts back a leaf of a checkpoint; extents and counts follow with [`Index::recount`].
    pub(super) fn restore_leaf(&mut self, leaf: usize, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= LEAF_BYTES && bytes.len().is_multiple_of(ENTRY_BYTES);
        let end = leaf as u64 * LEAF_BLOCKS as u64 + (bytes.len() / ENTRY_BYTES) as u64;
        if !fits || end > PARTITION_BLOCKS_MAX {
            return false;
        }
        self.set_blocks(end);
        match self.leaves.get_mut(leaf) {
            Some(place) => *place = Some(bytes.into()),
            None => return bytes.is_empty(),
        }
        true
    }

    /// Counts mapped and live blocks afresh after leaves and extents were restored; says whether every
    /// entry's extent exists.
    pub(super) fn recount(&mut self) -> bool {
        let mut lives = Vec::new();
        let (mut mapped, mut sound) = (0, true);
        self.for_each(|lba, mapping| match mapping.loc {
            Loc::Log(_) => mapped += 1,
            Loc::Extent { slot, block } => {
                mapped += 1;
                sound &= self.extents.is_free(slot, block);
                lives.push((slot, block, lba));
            }
            Loc::Hole | Loc::Cleared | Loc::Lost => {}
        });
        self.mapped = mapped;
        if sound {
            for (slot, block, lba) in lives {
                sound &= self.extents.is_free(slot, block);
                self.extents.block_lives(slot, block, lba);
            }
        }
        sound
    }
}

fn leaf_len(leaf: usize, blocks: usize) -> usize {
    LEAF_BLOCKS.min(blocks - leaf * LEAF_BLOCKS) * ENTRY_BYTES
}
