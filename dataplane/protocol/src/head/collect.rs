//! The collector: extents whose live share is low, and those that lack good columns, are rewritten; dead
//! ones are released (OP-17, EF-22, P-25, P-32). It is repair, rebuild and garbage collection in one.

use super::core::Core;
use super::gathered::{Gathered, Item};
use super::slab::Id;
use crate::log::Loc;
use crate::wire::*;
use std::time::Duration;

/// Least time between two passes over the extent table.
pub(super) const PACE: Duration = Duration::from_millis(20);
/// Pause when a pass found nothing to do.
const REST: Duration = Duration::from_millis(500);

/// Why an extent is rewritten, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// It has only so many good columns, and would have more elsewhere.
    Hurt(usize),
    /// It has a column on a device that is to be left.
    Leave,
    /// Few of its blocks live.
    Sparse,
}

/// An extent worth rewriting.
struct Victim {
    slot: u32,
    id: ExtentId,
    need: Need,
    live: u32,
}

impl Core {
    /// Releases dead extents and starts a batch from the worst one.
    pub(super) fn collect(&mut self, now: Time, p: usize, out: &mut Out) {
        if now < self.parts[p].collect_at {
            let at = self.parts[p].collect_at;
            return self.arm(at);
        }
        self.parts[p].collect_at = now + PACE;
        self.leave_unfit_extent(now, p);
        self.parts[p].turn_extent();
        let mut victims = self.victims(now, p);
        self.release_dead(now, p, &mut victims);
        if victims.is_empty() {
            self.parts[p].collect_at = now + REST;
            return self.arm(now + REST);
        }
        self.arm(now + PACE);
        victims.sort_by_key(|victim| (victim.need, victim.live));
        let rebuild = victims[0].need != Need::Sparse;
        let collecting = self.parts[p].batches.iter();
        let collecting =
            collecting.filter(|&&id| self.batches.get(id).is_some_and(|batch| batch.collect)).count();
        // What is collected for room goes one by one.
        let most = if rebuild { usize::from(self.cfg.flush.rebuild_batches.max(1)) } else { 1 };
        if collecting >= most {
            return;
        }
        let Some((stripes, blocks)) = self.open_room(p, true) else {
            if self.parts[p].batches.is_empty() {
                // Space to free space: the collector may use the reserve, where nothing else is left (P-32);
                // an extent made from the reserve would shut the flush out.
                let all = self.parts[p].cfg.geometry.columns();
                let reserve = self.candidates(now, p, false, &[]).len() < all;
                self.make_extent(now, p, reserve, out);
            }
            return;
        };
        // A batch of a rebuild waits for its share; what is collected for room does not.
        if rebuild && !self.may_rebuild(now, p) {
            if collecting > 0 {
                return;
            }
            victims.retain(|victim| victim.need == Need::Sparse);
        }
        let rebuilds = victims.first().is_some_and(|victim| victim.need != Need::Sparse);
        let gathered = if rebuilds {
            // One stripe more than there is room for: the last one's end is seen.
            Gathered::aligned(self.gather_live(p, &victims, (stripes + 1) * blocks), blocks, stripes)
        } else {
            Gathered::packed(self.gather_live(p, &victims, stripes * blocks), blocks)
        };
        if gathered.stripes() > 0 && self.start_batch(now, p, gathered, true) && rebuilds {
            self.rebuilding(p, true);
            // The next one is the next turn's.
            (self.parts[p].collect_at, self.flush_again) = (now, true);
            self.make_next(now, p, out);
        }
    }

    /// An open extent that lacks a column takes no more stripes once one with more can be made, and none when
    /// a column of it lies on a device that is ill or to be left; it is sealed and then rewritten.
    fn leave_unfit_extent(&mut self, now: Time, p: usize) {
        let spare = self.parts[p].spare.as_ref();
        let ill = |column: &Option<ColumnRef>| column.is_none_or(|it| self.unfit_device(p, it.device));
        if spare.is_some_and(|spare| spare.desc.columns.iter().any(ill)) {
            self.parts[p].spare = None;
        }
        let Some(open) = &self.parts[p].open else { return };
        let found = self.candidates(now, p, true, &[]);
        let better = found.iter().filter(|&&at| !self.unfit(p, at)).count();
        let columns = &open.desc.columns;
        let there = columns.iter().flatten().count();
        let unfit = columns.iter().flatten().any(|column| self.unfit_device(p, column.device));
        let leaves = (there < columns.len() && better > there) || (unfit && better >= self.columns_min(p));
        let part = &mut self.parts[p];
        let Some(open) = &mut part.open else { return };
        open.leave |= part.rot.contains_key(&open.desc.id) || leaves;
        if (open.leave || open.full()) && part.batches.is_empty() {
            part.open = None;
        }
    }

    fn victims(&self, now: Time, p: usize) -> Vec<Victim> {
        let part = &self.parts[p];
        let found = self.candidates(now, p, true, &[]);
        let fit = found.iter().filter(|&&at| !self.unfit(p, at)).count();
        let (fit, marks) = (fit.min(part.cfg.geometry.columns()), self.marks(part));
        let below = u64::from(self.cfg.flush.collect_below);
        let mut victims = Vec::new();
        for (slot, extent) in part.index.extents() {
            let id = extent.desc.id;
            if extent.sealed.is_none()
                || part.closing.contains(&id)
                || part.lost.get(&id).is_some_and(|&again| now < again)
            {
                continue;
            }
            let state = marks.extent(part, extent);
            let room = u64::from(extent.desc.geometry.extent_blocks());
            let need = if state.good < extent.desc.columns.len() && state.good < fit {
                Need::Hurt(state.good)
            } else if state.leaves && state.good <= fit {
                Need::Leave
            } else if u64::from(extent.live) * 100 < below * room {
                Need::Sparse
            } else {
                continue;
            };
            victims.push(Victim { slot, id, need, live: extent.live });
        }
        victims
    }

    /// Wholly dead extents go first: they need no room (P-32).
    fn release_dead(&mut self, now: Time, p: usize, victims: &mut Vec<Victim>) {
        victims.retain(|victim| {
            if victim.live > 0 {
                return true;
            }
            if self.number(now, p, Body::Release { extent: victim.id }, Id::NONE).is_ok() {
                self.parts[p].closing.insert(victim.id);
            }
            false
        });
    }

    fn gather_live(&self, p: usize, victims: &[Victim], room: usize) -> Vec<Item> {
        let part = &self.parts[p];
        let mut items = Vec::new();
        let mut live = Vec::new();
        for victim in victims {
            live.clear();
            part.index.live_blocks(victim.slot, &mut live);
            // Both are in order: no block is searched for.
            let mut taken = part.collecting.range((victim.id, 0)..=(victim.id, u32::MAX)).peekable();
            for &(block, lba) in &live {
                if items.len() >= room {
                    return items;
                }
                while taken.next_if(|(_, other)| *other < block).is_some() {}
                if taken.peek().is_some_and(|(_, other)| *other == block) {
                    continue;
                }
                let mapping = part.index.get(lba);
                if mapping.loc == (Loc::Extent { slot: victim.slot, block }) {
                    let from = GatheredFrom::Extent { id: victim.id, block };
                    items.push(Item { lba, mapping, from, good: true, lost: false });
                }
            }
        }
        items
    }
}
