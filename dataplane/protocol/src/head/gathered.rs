//! What a batch gathers, and which of it goes into which stripe (EF-09, EF-22).
//!
//! A flush fills its stripes. A rebuild keeps the blocks of a stripe together where that costs little room: a stripe
//! that two reads share, a part each, is read nearly twice when a column of it is lost, since each part needs what was
//! coded with it.

use crate::log::Mapping;
use crate::wire::*;
use smallvec::SmallVec;
use std::ops::Range;

/// One part in so many of a stripe may stay empty for that.
const EMPTY: usize = 8;

/// A gathered block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) lba: Lba,
    pub(super) mapping: Mapping,
    pub(super) from: GatheredFrom,
    pub(super) good: bool,
    /// No copy of it is readable: the repoint says so.
    pub(super) lost: bool,
}

impl Item {
    /// The stripe that it lies in, of extents like the one that is filled.
    fn stripe(&self, blocks: usize) -> Option<(ExtentId, usize)> {
        match self.from {
            GatheredFrom::Extent { id, block } => Some((id, block as usize / blocks.max(1))),
            GatheredFrom::Log => None,
        }
    }
}

/// Gathered blocks by stripes.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) items: Vec<Item>,
    /// Where each stripe's items end.
    ends: SmallVec<[u32; 8]>,
}

impl Gathered {
    /// Stripes of `blocks` data blocks, all full but the last one.
    pub(super) fn packed(items: Vec<Item>, blocks: usize) -> Self {
        let ends = (1..=items.len().div_ceil(blocks)).map(|stripe| (stripe * blocks).min(items.len()) as u32);
        Self { ends: ends.collect(), items }
    }

    /// Up to `most` stripes, none of which ends amid the blocks of an old stripe that fit into the next one, unless
    /// much of it would stay empty. What is left over is not in.
    pub(super) fn aligned(mut items: Vec<Item>, blocks: usize, most: usize) -> Self {
        let mut ends = SmallVec::new();
        let mut from = 0;
        while from < items.len() && ends.len() < most {
            let end = (from + blocks).min(items.len());
            let old = |at: usize| items.get(at).and_then(|item| item.stripe(blocks));
            let cut = if old(end).is_some() && old(end) == old(end - 1) {
                (from + 1..end).rev().find(|&at| old(at - 1) != old(end))
            } else {
                None
            };
            from = cut.filter(|cut| end - cut <= blocks / EMPTY).unwrap_or(end);
            ends.push(from as u32);
        }
        items.truncate(from);
        Self { items, ends }
    }

    pub(super) fn stripes(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Items of a stripe.
    pub(super) fn stripe(&self, at: u32) -> Range<usize> {
        let end = |at: u32| self.ends.get(at as usize).map_or(self.items.len(), |end| *end as usize);
        let from = at.checked_sub(1).map_or(0, end);
        from..end(at).max(from)
    }

    /// Items, and the block that each one has in stripes of `blocks` data blocks.
    pub(super) fn places(&self, blocks: u32) -> impl Iterator<Item = (u32, &Item)> {
        (0..self.stripes()).flat_map(move |stripe| (stripe * blocks..).zip(&self.items[self.stripe(stripe)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Loc;

    const BLOCKS: usize = 16;

    /// Blocks of one extent.
    fn items(blocks: impl IntoIterator<Item = u32>) -> Vec<Item> {
        let item = |block| Item {
            lba: Lba(u64::from(block)),
            mapping: Mapping { op: Op(1), loc: Loc::Hole, crc: 0 },
            from: GatheredFrom::Extent { id: ExtentId(7), block },
            good: true,
            lost: false,
        };
        blocks.into_iter().map(item).collect()
    }

    fn stripes(gathered: &Gathered) -> Vec<(u64, usize)> {
        let of = |range: Range<usize>| (gathered.items[range.start].lba.0, range.len());
        (0..gathered.stripes()).map(|at| of(gathered.stripe(at))).collect()
    }

    #[test]
    fn a_few_dead_blocks_move_no_stripe_into_two() {
        let live = (0..80).filter(|block| ![3, 17, 18, 40].contains(block));
        let gathered = Gathered::aligned(items(live), BLOCKS, 4);
        assert_eq!(stripes(&gathered), [(0, 15), (16, 14), (32, 15), (48, 16)]);
        assert_eq!(gathered.items.len(), 60, "the fifth stripe is left over");
        let places: Vec<u32> = gathered.places(BLOCKS as u32).map(|(place, _)| place).collect();
        assert_eq!((places[14], places[15], places[29], places[44]), (14, 16, 32, 48));
    }

    #[test]
    fn stripes_with_much_room_left_are_filled() {
        let live = (0..64).filter(|block| block % 4 != 0);
        assert_eq!(
            stripes(&Gathered::aligned(items(live.clone()), BLOCKS, 4)),
            [(1, 16), (22, 16), (43, 16)]
        );
        assert_eq!(stripes(&Gathered::packed(items(live), BLOCKS)), [(1, 16), (22, 16), (43, 16)]);
        let none = Gathered::aligned(Vec::new(), BLOCKS, 4);
        assert_eq!((none.stripes(), none.items.len(), none.places(16).count()), (0, 0, 0));
    }

    #[test]
    fn old_stripes_take_no_more_new_ones_than_they_were() {
        for seed in 1u32..200 {
            let live = (0..16 * 64).filter(|block| (block ^ seed).wrapping_mul(0x9e37_79b1) >> 24 >= seed);
            let (mut left, mut stripes) = (items(live), 0);
            while !left.is_empty() {
                let gathered = Gathered::aligned(left.clone(), BLOCKS, 4);
                assert!((1..=4).contains(&gathered.stripes()), "seed {seed}");
                stripes += gathered.stripes();
                left.drain(..gathered.items.len());
            }
            // A batch may end with a stripe that is not full.
            assert!(stripes <= 64, "seed {seed}: {stripes}");
        }
    }
}
