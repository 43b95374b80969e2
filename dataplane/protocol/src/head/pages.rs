//! The pages of a checkpoint on their way to sleds: columns, a page a turn, all copies durable (BA-01, EF-15).
//!
//! When one is begun, named and given up is `checkpoint`, what a page looks like is `page`.

use super::checkpoint::Writing;
use super::config::DeviceTarget;
use super::core::Core;
use super::page::{Filling, Place, named, next_granule};
use super::part::{MakeColumn, Part, Phase};
use super::sleds::{Ask, What};
use crate::wire::checkpoint::CHECKPOINT_COLUMNS_MAX;
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;
use smallvec::{SmallVec, smallvec};
use std::time::Duration;

/// Pages under way at once.
const FLIGHT: usize = 4;
/// Pause after a page while clients are at work.
const GAP: Duration = Duration::from_micros(500);
/// Free columns, beside the collector's reserve, without which a device is not asked (P-32).
const ROOM: u32 = 4;

impl Writing {
    fn ready(&self) -> bool {
        !self.columns.is_empty() && self.columns.iter().all(|column| matches!(column, MakeColumn::Got(_)))
    }

    /// All columns that it has.
    pub(super) fn all(&self) -> impl Iterator<Item = ColumnRef> {
        let got = |column: &MakeColumn| match column {
            MakeColumn::Got(column) => Some(*column),
            _ => None,
        };
        self.places.iter().copied().chain(self.columns.iter().filter_map(got))
    }
}

impl Core {
    /// Goes on with a checkpoint, a page a turn.
    pub(super) fn step_pages(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &self.parts[p];
        let (stripes, index) = (part.cfg.geometry.stripes, &part.index);
        let serves = part.phase == Phase::Serving && !part.rests() && !part.deleting && !part.deleted;
        let Some(writing) = part.copy.checkpoints.writing.as_deref() else { return };
        if !serves {
            return self.forget_pages(p);
        }
        if writing.numbered || writing.flight.len() >= FLIGHT {
            return;
        }
        if now < writing.page_at {
            let at = writing.page_at;
            return self.arm(at);
        }
        if writing.ended {
            if writing.flight.is_empty() {
                self.name_checkpoint(now, p);
            }
            return;
        }
        let next = next_granule(index, writing.next);
        let full = writing.unit == stripes;
        let Some(writing) = self.parts[p].copy.checkpoints.writing.as_deref_mut() else { return };
        let Some(next) = next else {
            (writing.ended, self.busy) = (true, true);
            return;
        };
        writing.next = next;
        if full {
            let got: Vec<ColumnRef> = writing.all().skip(writing.places.len()).collect();
            writing.places.extend(got);
            writing.columns.clear();
            (writing.chapter, writing.unit) = (writing.chapter + 1, 0);
        }
        if self.parts[p].copy.checkpoints.writing.as_ref().is_some_and(|writing| writing.ready()) {
            self.write_page(now, p, out);
        } else {
            self.choose_pages(now, p, out);
        }
    }

    /// Makes the next page and sends it to every copy.
    fn write_page(&mut self, now: Time, p: usize, out: &mut Out) {
        let unit_bytes = usize::from(self.parts[p].cfg.geometry.unit_blocks) * BLOCK;
        let Some(mut buf) = self.pool.alloc(unit_bytes) else {
            return self.arm(now + Duration::from_millis(1));
        };
        let part = &mut self.parts[p];
        let answered = part.stats.counters.answered();
        let (partition, number, index) = (part.cfg.partition, part.stamp.number, &part.index);
        let Some(writing) = part.copy.checkpoints.writing.as_deref_mut() else { return };
        let page = writing.crcs.len() as u32;
        let mut filling = Filling::new(&mut buf);
        let mut next = Some(writing.next);
        while let Some(granule) = next.filter(|_| filling.room()) {
            filling.push(index, granule);
            writing.next = granule + 1;
            next = next_granule(index, writing.next);
        }
        let (generation, covers) = (writing.generation, writing.covers);
        writing.crcs.push(filling.finish(&Place { partition, number, generation, covers, page }));
        writing.flight.insert(page, 0);
        let unit = writing.unit;
        writing.unit += 1;
        let pause = if answered == writing.done_then { Duration::ZERO } else { GAP };
        (writing.page_at, writing.done_then) = (now + pause, answered);
        part.stats.counters.checkpoint_pages += 1;
        self.busy = true;
        self.send_page(now, p, (page, unit), buf.freeze(), out);
    }

    fn send_page(&mut self, now: Time, p: usize, (page, unit): (u32, u32), bytes: Buf, out: &mut Out) {
        let (stamp, crc) = (self.parts[p].stamp, crc32c(&bytes));
        let Some(writing) = self.parts[p].copy.checkpoints.writing.as_deref() else { return };
        let (generation, chapter, columns) = (writing.generation, writing.chapter, writing.columns.clone());
        for (at, column) in columns.into_iter().enumerate() {
            let MakeColumn::Got(column) = column else { continue };
            let Some(sled) = self.parts[p].sled_of(column.device) else {
                return self.give_up_pages(now, p);
            };
            let token = self.token(p, column.device, column.column, column.generation);
            let (held, token) = (token.is_none(), token.unwrap_or_default());
            let (extent, _) = named(generation, chapter, at);
            let (units, crcs) = (smallvec![bytes.clone()], smallvec![crc]);
            let msg =
                Msg::ColumnWrite { req: ReqId(0), stamp, column, token, extent, stripe: unit, units, crcs };
            let what = What::PageWrite { generation, page, at };
            self.ask(now, Ask { held, ..Ask::new(p, sled, column.device, what, msg) }, out);
        }
    }

    /// Devices that may take pages, one of a sled, best first.
    pub(super) fn page_devices(&self, now: Time, p: usize) -> Vec<DeviceTarget> {
        let part = &self.parts[p];
        let room = self.cfg.flush.reserve_columns + ROOM;
        let found = self.candidates(now, p, false, &[]);
        let fit = found.into_iter().filter(|&at| !self.unfit(p, at) && part.claims[at].free > room);
        fit.map(|at| part.claims[at].target).collect()
    }

    /// Asks sleds for the columns of the next chapter: one each, on different shelves where there are enough.
    fn choose_pages(&mut self, now: Time, p: usize, out: &mut Out) {
        let copies = usize::from(self.parts[p].cfg.geometry.m) + 1;
        let found = self.page_devices(now, p);
        let part = &mut self.parts[p];
        let stamp = part.stamp;
        let Some(writing) = part.copy.checkpoints.writing.as_deref_mut() else { return };
        if writing.places.len() + copies > CHECKPOINT_COLUMNS_MAX {
            part.copy.checkpoints.too_large = true;
            out.events.push(Event::Note(format!(
                "partition {}: its index needs more than {CHECKPOINT_COLUMNS_MAX} columns: no checkpoint on sleds",
                part.cfg.partition
            )));
            return self.give_up_pages(now, p);
        }
        if writing.columns.is_empty() {
            writing.columns = SmallVec::from_elem(MakeColumn::Open, copies);
        }
        let (generation, chapter) = (writing.generation, writing.chapter);
        // All or none: a checkpoint with fewer copies is none.
        let open = writing.columns.iter().filter(|column| **column == MakeColumn::Open).count();
        if free_targets(&self.parts[p], &found).count() < open {
            return self.give_up_pages(now, p);
        }
        for at in 0..copies {
            let part = &self.parts[p];
            let Some(writing) = part.copy.checkpoints.writing.as_deref() else { return };
            if writing.columns[at] != MakeColumn::Open {
                continue;
            }
            let target = free_target(part, &found);
            let token = target.and_then(|target| self.device_token(p, target.device));
            let (Some(target), Some(token)) = (target, token) else {
                return self.give_up_pages(now, p);
            };
            let ((extent, position), device) = (named(generation, chapter, at), target.device);
            if let Some(writing) = self.parts[p].copy.checkpoints.writing.as_deref_mut() {
                writing.columns[at] = MakeColumn::Asking(device);
            }
            let prefer = target.sandbox;
            let msg = Msg::ColumnReserve { req: ReqId(0), device, stamp, token, extent, position, prefer };
            let what = What::PageColumn { generation, chapter, at };
            self.ask(now, Ask::new(p, target.sled, device, what, msg), out);
        }
    }

    /// A sled gave a column for pages, or refused.
    pub(super) fn on_page_column(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        mut column: ColumnRef,
        out: &mut Out,
    ) {
        let What::PageColumn { generation, chapter, at } = ask.what else { return };
        let (p, device) = (ask.part, ask.device);
        column.sled = ask.to;
        let part = &mut self.parts[p];
        let partition = part.id();
        let Some(writing) = part.copy.checkpoints.writing.as_deref_mut() else { return };
        let awaited = (writing.generation, writing.chapter) == (generation, chapter)
            && writing.columns.get(at) == Some(&MakeColumn::Asking(device));
        if !awaited {
            return;
        }
        writing.columns[at] = if status.is_ok() { MakeColumn::Got(column) } else { MakeColumn::Open };
        match status {
            Status::Ok => {
                if let Some(claim) = part.claim(device) {
                    claim.free = claim.free.saturating_sub(1);
                }
            }
            Status::NotFree => {
                if let Some(claim) = part.claim(device) {
                    claim.free = 0;
                }
            }
            Status::Fenced { number, grant, .. } | Status::StaleNumber { number, grant } => {
                self.fenced(now, p, device, Stamp { partition, number, grant }, out);
            }
            Status::NoToken => self.reclaim(now, p, device),
            _ => self.suspect(now, p, device),
        }
        self.busy = true;
    }

    pub(super) fn page_durable(&mut self, p: usize, generation: u32, page: u32, at: usize) {
        let copies = u32::from(self.parts[p].cfg.geometry.m) + 1;
        let Some(writing) = self.parts[p].copy.checkpoints.writing.as_deref_mut() else { return };
        if writing.generation != generation {
            return;
        }
        if let Some(durable) = writing.flight.get_mut(&page) {
            *durable |= 1 << at;
            if durable.count_ones() >= copies {
                writing.flight.remove(&page);
            }
        }
        self.busy = true;
    }

    /// A page of that checkpoint cannot be written.
    pub(super) fn page_refused(&mut self, now: Time, p: usize, generation: u32) {
        let own = &self.parts[p].copy.checkpoints;
        if own.writing.as_ref().is_some_and(|writing| writing.generation == generation) {
            self.give_up_pages(now, p);
        }
    }
}

/// Devices on sleds that have no copy of the chapter yet.
fn free_targets<'a>(part: &'a Part, found: &'a [DeviceTarget]) -> impl Iterator<Item = &'a DeviceTarget> {
    found.iter().filter(|target| !part.page_near(&|other| other.sled == target.sled))
}

/// One of them, on another shelf if there is one.
fn free_target(part: &Part, found: &[DeviceTarget]) -> Option<DeviceTarget> {
    let apart = |target: &&DeviceTarget| !part.page_near(&|other| other.shelf == target.shelf);
    free_targets(part, found).find(apart).or_else(|| free_targets(part, found).next()).copied()
}

impl Part {
    /// Whether a copy of the chapter in hand lies, or will lie, on such a device.
    fn page_near(&self, such: &dyn Fn(&DeviceTarget) -> bool) -> bool {
        let writing = self.copy.checkpoints.writing.as_deref();
        let mut used =
            writing.into_iter().flat_map(|writing| &writing.columns).filter_map(MakeColumn::device);
        used.any(|device| {
            self.claims.iter().any(|claim| claim.target.device == device && such(&claim.target))
        })
    }
}
