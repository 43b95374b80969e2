//! The extent table of an index: descriptors in slots, and which data block holds which logical block.
//!
//! Index entries name an extent by its slot. A slot is used again only after a durable checkpoint is past
//! the release of its extent, because pages of a checkpoint under way may still name it (P-28, P-29).

use super::record::extent_ok;
use super::types::Extent;
use crate::wire::*;
use palisade_dma::prefetch_value;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Nobody's block.
const NONE: u32 = u32::MAX;
/// Most slots: locations hold 22 bits.
const SLOTS_MAX: usize = 1 << 22;

#[derive(Debug)]
struct Slot {
    extent: Extent,
    /// Operation that released it.
    released_by: Op,
    /// Logical block of each data block, [`NONE`] where it is dead.
    lbas: Vec<u32>,
}

/// All extents of a partition.
#[derive(Debug, Default)]
pub(super) struct Extents {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_id: BTreeMap<ExtentId, u32>,
}

impl Extents {
    pub(super) fn get(&self, slot: u32) -> Option<&Extent> {
        Some(&self.slots.get(slot as usize)?.as_ref()?.extent)
    }

    pub(super) fn slot_of(&self, id: ExtentId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Extent)> {
        self.by_id.values().filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.iter().flatten().map(|s| s.lbas.capacity() * size_of::<u32>()).sum()
    }

    pub(super) fn live_blocks(&self, slot: u32, into: &mut Vec<(u32, Lba)>) {
        let Some(Some(found)) = self.slots.get(slot as usize) else { return };
        let live = (0u32..).zip(&found.lbas).filter(|(_, lba)| **lba != NONE);
        into.extend(live.map(|(block, lba)| (block, Lba(u64::from(*lba)))));
    }

    /// Whether a slot has such a data block and nothing lies in it.
    pub(super) fn is_free(&self, slot: u32, block: u32) -> bool {
        match self.slots.get(slot as usize) {
            Some(Some(found)) => found.lbas.get(block as usize) == Some(&NONE),
            _ => false,
        }
    }

    /// Brings near what [`Extents::block_died`] will change.
    pub(super) fn bring_near(&self, slot: u32, block: u32) {
        let found = self.slots.get(slot as usize).and_then(Option::as_ref);
        if let Some(place) = found.and_then(|found| found.lbas.get(block as usize)) {
            prefetch_value(place);
        }
    }

    pub(super) fn block_died(&mut self, slot: u32, block: u32) {
        let Some(Some(found)) = self.slots.get_mut(slot as usize) else { return };
        if let Some(lba) = found.lbas.get_mut(block as usize).filter(|lba| **lba != NONE) {
            *lba = NONE;
            found.extent.live -= 1;
        }
    }

    pub(super) fn block_lives(&mut self, slot: u32, block: u32, lba: Lba) {
        let Some(Some(found)) = self.slots.get_mut(slot as usize) else { return };
        if let Some(place) = found.lbas.get_mut(block as usize).filter(|place| **place == NONE) {
            *place = lba.0 as u32;
            found.extent.live += 1;
        }
    }

    /// A repeated creation changes nothing.
    pub(super) fn create(&mut self, desc: &ExtentDesc) {
        if self.by_id.contains_key(&desc.id) || !extent_ok(desc) {
            return;
        }
        let extent = Extent {
            desc: desc.clone(),
            stripes: 0,
            sealed: None,
            absent: vec![0; desc.geometry.stripes as usize],
            live: 0,
            released: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < SLOTS_MAX => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return,
        };
        self.put(slot, extent);
    }

    fn put(&mut self, slot: u32, extent: Extent) {
        self.by_id.insert(extent.desc.id, slot);
        let lbas = vec![NONE; extent.desc.geometry.extent_blocks() as usize];
        self.slots[slot as usize] = Some(Slot { extent, released_by: Op(0), lbas });
    }

    /// Notes the stripes of a repoint; says the extent's slot, if it exists and has such stripes.
    pub(super) fn repointed(&mut self, r: &Repoint) -> Option<u32> {
        let slot = self.slot_of(r.extent)?;
        let extent = &mut self.slots[slot as usize].as_mut()?.extent;
        let end = r.first_stripe.checked_add(r.stripes).filter(|end| *end <= extent.desc.geometry.stripes)?;
        for absent in &mut extent.absent[r.first_stripe as usize..end as usize] {
            *absent = r.absent;
        }
        extent.stripes = extent.stripes.max(end);
        Some(slot)
    }

    pub(super) fn seal(&mut self, id: ExtentId, stripes: u32) {
        let Some(slot) = self.slot_of(id) else { return };
        if let Some(found) = self.slots[slot as usize].as_mut() {
            found.extent.sealed = Some(stripes.min(found.extent.desc.geometry.stripes));
        }
    }

    pub(super) fn release(&mut self, id: ExtentId, op: Op) {
        let Some(slot) = self.by_id.remove(&id) else { return };
        if let Some(found) = self.slots[slot as usize].as_mut() {
            found.extent.released = true;
            found.released_by = op;
        }
    }

    /// A checkpoint that has operation `covered` in it is durable: slots released by then are free again.
    pub(super) fn settle(&mut self, covered: Op) {
        for (slot, place) in (0u32..).zip(&mut self.slots) {
            if place.as_ref().is_some_and(|s| s.extent.released && s.released_by <= covered) {
                *place = None;
                self.free.push(slot);
            }
        }
    }

    /// Extents that a checkpoint of operation `covered` must hold: those released later are still named by
    /// its pages or by the operations after it.
    pub(super) fn at(&self, covered: Op) -> impl Iterator<Item = (u32, &Extent)> {
        (0u32..).zip(&self.slots).filter_map(move |(slot, place)| {
            let found = place.as_ref()?;
            (!found.extent.released || found.released_by > covered).then_some((slot, &found.extent))
        })
    }

    /// Extents behind `id`, in the order of their ids.
    pub(super) fn after(&self, id: ExtentId) -> impl Iterator<Item = &Extent> {
        let rest = self.by_id.range((Bound::Excluded(id), Bound::Unbounded));
        rest.filter_map(|(_, slot)| self.get(*slot))
    }

    /// An extent as another head knows it; what lies in it here stays counted. False if it cannot be.
    pub(super) fn import(&mut self, copied: &CopiedExtent) -> bool {
        self.create(&copied.desc);
        let Some(slot) = self.slot_of(copied.desc.id) else { return false };
        if let Some(found) = self.slots[slot as usize].as_mut() {
            let extent = &mut found.extent;
            if extent.desc != copied.desc {
                return false;
            }
            extent.stripes = copied.absent.len() as u32;
            extent.sealed = copied.sealed;
            extent.absent.fill(0);
            extent.absent[..copied.absent.len()].copy_from_slice(&copied.absent);
        }
        true
    }

    /// Puts back an extent of a checkpoint, without its live blocks; false if it makes no sense.
    pub(super) fn restore(&mut self, slot: u32, extent: Extent) -> bool {
        let at = slot as usize;
        if at >= SLOTS_MAX || self.by_id.contains_key(&extent.desc.id) {
            return false;
        }
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        if self.slots[at].is_some() {
            return false;
        }
        self.put(slot, extent);
        true
    }

    /// Free slots after a restore: those that nobody took.
    pub(super) fn restored(&mut self) {
        let empty = (0u32..).zip(&self.slots).filter(|(_, place)| place.is_none());
        self.free = empty.map(|(slot, _)| slot).collect();
    }
}
