//! Writing record pages and column pages: one writer a page, two alternating slots, group commit.
//!
//! While a page is being written, what should change on it waits; the next write carries all of it. So any
//! number of column writes of a turn cost one table write per column, and any number of reservations of a
//! turn one record write per page (P-05). A failed write leaves the newest slot alone: the next one goes
//! to the same, failed slot.

use super::column::{PAGE_UNITS, PageHead};
use super::device::{Device, Job, JobKind};
use super::{Ctx, Io};
use crate::fence::record::{PartitionRecord, RecordPage};
use crate::wire::limits::BLOCK;
use crate::wire::{BlockOp, Event, Out, Status};
use smallvec::smallvec;

impl Device {
    /// Writes what waits, unless its page is being written already.
    pub(super) fn pages_turn(&mut self, ctx: &mut Ctx, out: &mut Out) {
        if self.records_dirty {
            self.write_record_pages(ctx, out);
        }
        if self.dirty_columns.is_empty() {
            return;
        }
        let mut columns = std::mem::take(&mut self.dirty_columns);
        columns.retain(|column| {
            let done = self.write_column_pages(ctx, *column, out);
            self.columns[*column as usize].dirty = !done;
            !done
        });
        ctx.starved |= !columns.is_empty();
        self.dirty_columns = columns;
    }

    fn write_record_pages(&mut self, ctx: &mut Ctx, out: &mut Out) {
        for page in 0..self.records.len() as u32 {
            let slots = &self.records[page as usize];
            if slots.dirty && !slots.writing && !self.write_record_page(ctx, page, out) {
                ctx.starved = true;
                return;
            }
        }
        self.records_dirty = self.records.iter().any(|slots| slots.dirty);
    }

    /// A record page shall be written.
    pub(super) fn mark_record_dirty(&mut self, page: u32) {
        self.records[page as usize].dirty = true;
        self.records_dirty = true;
    }

    /// Returns false when the pool is empty.
    fn write_record_page(&mut self, ctx: &mut Ctx, page: u32, out: &mut Out) -> bool {
        let device = self.device_id();
        let slots = &self.records[page as usize];
        let alone = ctx.config.faults.record_each().then(|| self.first_pending(page)).flatten();
        let carried = |place: &u32| alone.is_none_or(|first| first == *place);
        let wanted = |place: &u32| {
            let part = &self.parts[*place as usize];
            part.next.filter(|_| carried(place)).or(part.record)
        };
        let records: Vec<PartitionRecord> = slots.members.iter().filter_map(wanted).collect();
        let image = RecordPage { device, page, sequence: slots.sequence + 1, records };
        ctx.scratch.bytes.clear();
        image.encode(&mut ctx.scratch);
        let at = self.layout().record_slot(page, 1 - slots.newest);
        let fua = !ctx.config.faults.record_without_fua();
        if !self.write_page(ctx, Io::Record { dev: self.place, page }, at, fua, out) {
            return false;
        }
        let slots = &mut self.records[page as usize];
        (slots.writing, slots.dirty, slots.since) = (true, false, ctx.now);
        for place in &slots.members {
            if let Some(next) = self.parts[*place as usize].next.filter(|_| carried(place)) {
                slots.included.push((*place, next));
            }
        }
        true
    }

    /// The first partition of a page whose record is to change.
    fn first_pending(&self, page: u32) -> Option<u32> {
        let members = &self.records[page as usize].members;
        members.iter().copied().find(|place| self.parts[*place as usize].next.is_some())
    }

    /// A record page write ended.
    pub(super) fn record_written(&mut self, ctx: &mut Ctx, page: u32, good: bool, out: &mut Out) {
        let slots = &mut self.records[page as usize];
        slots.writing = false;
        if good {
            slots.newest = 1 - slots.newest;
            slots.sequence += 1;
            if std::mem::take(&mut slots.half) {
                let what = format!("device {} page {page}", self.id.unwrap_or_default());
                out.events.push(Event::Repaired { place: "partition record", what });
            }
        }
        let slots = &mut self.records[page as usize];
        let mut included = std::mem::take(&mut slots.included);
        for (place, record) in included.drain(..) {
            if good {
                self.claim_recorded(ctx, place, record, out);
            } else if self.parts[place as usize].next == Some(record) {
                self.claim_failed(place, out);
            }
        }
        self.records[page as usize].included = included;
        if ctx.config.faults.record_each() && self.first_pending(page).is_some() {
            self.mark_record_dirty(page);
        }
        if good {
            let slots = &self.records[page as usize];
            for place in &slots.members {
                let part = &mut self.parts[*place as usize];
                // Every write carries every record of the page.
                part.slots |= u8::from(part.record.is_some()) << slots.newest;
            }
        }
    }

    /// Puts a column on the list of those with pages to write.
    pub(super) fn mark_dirty(&mut self, column: u32) {
        let held = &mut self.columns[column as usize];
        if !std::mem::replace(&mut held.dirty, true) {
            self.dirty_columns.push(column);
        }
    }

    /// Returns false when the pool is empty.
    fn write_column_pages(&mut self, ctx: &mut Ctx, column: u32, out: &mut Out) -> bool {
        for page in 0..self.columns[column as usize].pages.len() {
            let slots = &self.columns[column as usize].pages[page];
            if slots.writing || slots.waiting.is_empty() {
                continue;
            }
            if !self.write_column_page(ctx, column, page, out) {
                return false;
            }
        }
        true
    }

    fn write_column_page(&mut self, ctx: &mut Ctx, column: u32, page: usize, out: &mut Out) -> bool {
        let layout = self.layout();
        let held = &self.columns[column as usize];
        let slots = &held.pages[page];
        let head = PageHead {
            device: layout.device,
            column,
            page: page as u32,
            sequence: slots.sequence + 1,
            record: held.change.unwrap_or(held.record),
        };
        // A change of owner starts with an empty table.
        let first = page * PAGE_UNITS;
        let units = (layout.units() as usize - first).min(PAGE_UNITS);
        let units = if held.owned() && held.change.is_none() { units } else { 0 };
        ctx.scratch.bytes.clear();
        head.encode(&mut ctx.scratch, units, |at| held.table.to_write((first + at) as u32));
        let at = layout.column_slot(column, page as u32, 1 - slots.newest);
        let io = Io::Table { dev: self.place, column, page: page as u32 };
        let fua = match held.change {
            Some(_) => !ctx.config.faults.record_without_fua(),
            None => !ctx.config.faults.data_without_fua(),
        };
        if !self.write_page(ctx, io, at, fua, out) {
            return false;
        }
        self.counters.page_writes += 1;
        let slots = &mut self.columns[column as usize].pages[page];
        slots.writing = true;
        assert!(slots.included.is_empty(), "a column page has one writer");
        std::mem::swap(&mut slots.waiting, &mut slots.included);
        true
    }

    /// Writes the page that was put together in `ctx.scratch`; false when the pool is empty.
    pub(super) fn write_page(&self, ctx: &mut Ctx, io: Io, offset: u64, fua: bool, out: &mut Out) -> bool {
        let Some(mut buf) = ctx.pool.alloc(BLOCK) else {
            return false;
        };
        buf.copy_from_slice(&ctx.scratch.bytes);
        ctx.submit(self.spec.ix, io, BlockOp::Write { offset, bufs: smallvec![buf.freeze()], fua }, out);
        true
    }

    /// A column page write ended: the jobs that it carried are a page nearer to their end.
    pub(super) fn table_written(&mut self, ctx: &mut Ctx, column: u32, page: u32, good: bool, out: &mut Out) {
        let slots = &mut self.columns[column as usize].pages[page as usize];
        slots.writing = false;
        if good {
            slots.newest = 1 - slots.newest;
            slots.sequence += 1;
        }
        let more = !slots.waiting.is_empty();
        let mut included = std::mem::take(&mut slots.included);
        for key in included.drain(..) {
            let Some(job) = self.jobs.get_mut(key) else {
                continue;
            };
            job.failed |= !good;
            job.pages_left -= 1;
            if job.pages_left == 0 {
                self.finish(ctx, key, out);
            }
        }
        self.columns[column as usize].pages[page as usize].included = included;
        if more {
            self.mark_dirty(column);
        }
    }

    /// Lets a job wait for the next write of a column page.
    pub(super) fn await_page(&mut self, column: u32, page: usize, key: u64) {
        self.columns[column as usize].pages[page].waiting.push(key);
        if let Some(job) = self.jobs.get_mut(key) {
            job.pages_left += 1;
        }
        self.mark_dirty(column);
    }

    /// Starts a job on a column.
    pub(super) fn start_job(&mut self, job: Job) -> u64 {
        let column = job.column;
        let key = self.jobs.insert(job);
        self.columns[column as usize].active.push(key);
        key
    }

    /// Ends a job: its effects count from now, its permit ends, its asker is answered.
    pub(super) fn finish(&mut self, ctx: &mut Ctx, key: u64, out: &mut Out) {
        let Some(job) = self.jobs.remove(key) else {
            return;
        };
        self.columns[job.column as usize].active.retain(|other| *other != key);
        let status = match job.kind {
            _ if !job.failed => Status::Ok,
            JobKind::Reserve { .. } => self.refuse(self.not_given()),
            _ => self.refuse(Status::DeviceError),
        };
        let gate_of = job.part as usize;
        match job.kind {
            JobKind::Append { permit, first, crcs, .. } => {
                self.append_done(job.column, first, &crcs, status.is_ok());
                if let Some(permit) = permit {
                    permit.leave(&self.parts[gate_of].gate);
                }
                if let Some(asker) = job.asker {
                    super::write::answer(asker, status, out);
                }
            }
            JobKind::Rewrite { permit, unit } => {
                if status.is_ok() {
                    self.forget_rot(job.column, unit);
                    let what = format!("device {} column {} stripe {unit}", self.device_id(), job.column);
                    out.events.push(Event::Repaired { place: "column", what });
                }
                permit.leave(&self.parts[gate_of].gate);
                if let Some(asker) = job.asker {
                    super::write::answer(asker, status, out);
                }
            }
            JobKind::Reserve { permit, next } => {
                let column = self.reserve_done(ctx, job.column, job.part, next, status.is_ok());
                permit.leave(&self.parts[gate_of].gate);
                if let Some(asker) = job.asker {
                    self.remember(asker, column, status);
                    super::column_reserve::answer(asker, status, status.is_ok().then_some(column), out);
                }
            }
            JobKind::Release { permit, next } => {
                self.release_done(job.column, next, status.is_ok());
                permit.leave(&self.parts[gate_of].gate);
                if let Some(asker) = job.asker {
                    super::release::answer(asker, status, out);
                }
            }
            JobKind::Mend if status.is_ok() => {
                let what = format!("device {} column {}", self.device_id(), job.column);
                out.events.push(Event::Repaired { place: "column record", what });
            }
            JobKind::Mend => {}
        }
    }
}
