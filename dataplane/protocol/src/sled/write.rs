//! Column writes: consecutive stripe units, checked inline, durable with their checksums when answered
//! (EF-16, P-23, P-09).
//!
//! Columns are append-only by stripe (P-24): a unit that the table knows is never written again. The same
//! units with the same checksums answer `Ok` without a write (a doubled message); others are refused with
//! `BadRequest`, whoever asks. Only a unit that is known to have rotted is written when it comes once more, alone and
//! with bytes that the table's checksum names: it is what it was then, and table and record stay as they are. A head that cannot complete a stripe seals the extent and writes elsewhere.
//! A unit whose data was written but whose table entry was not is unknown after a restart, and free to be
//! written.

use super::column::PAGE_UNITS;
use super::config::CHANGES_MAX;
use super::device::{Device, Job, JobKind};
use super::{Asker, Ctx, Io};
use crate::fence::{ColumnPermit, Presented};
use crate::wire::limits::{BLOCK, WRITE_UNITS_MAX};
use crate::wire::{BlockOp, ColumnRef, ExtentId, Msg, Out, Stamp, Status, Token};
use palisade_dma::Buf;
use palisade_isal::crc32c;
use smallvec::SmallVec;
use std::ops::Range;

/// What the message says.
pub(super) struct Order {
    pub(super) stamp: Stamp,
    pub(super) column: ColumnRef,
    pub(super) token: Token,
    pub(super) extent: ExtentId,
    pub(super) stripe: u32,
    pub(super) units: SmallVec<[Buf; 4]>,
    pub(super) crcs: SmallVec<[u32; 4]>,
}

/// Answers a column write.
pub(super) fn answer(asker: Asker, status: Status, out: &mut Out) {
    out.net.push((asker.node, Msg::ColumnWritten { req: asker.req, status }));
}

impl Device {
    /// The verb.
    pub(super) fn column_write(&mut self, ctx: &mut Ctx, asker: Asker, order: Order, out: &mut Out) {
        match self.try_write(ctx, asker, order, out) {
            Ok(true) => {}
            Ok(false) => answer(asker, Status::Ok, out),
            Err(status) => answer(asker, self.refuse(status), out),
        }
    }

    /// True when the answer comes later.
    fn try_write(
        &mut self,
        ctx: &mut Ctx,
        asker: Asker,
        mut order: Order,
        out: &mut Out,
    ) -> Result<bool, Status> {
        self.serves_changes()?;
        self.check_shape(&order)?;
        let column = order.column.column;
        let shown = Presented {
            stamp: order.stamp,
            token: order.token,
            extent: order.extent,
            generation: order.column.generation,
        };
        let (permit, part) = self.admit(ctx, column, &shown)?;
        let gate = |device: &Self, permit: ColumnPermit| permit.leave(&device.parts[part as usize].gate);
        match self.check_append(ctx, asker, &order) {
            Ok(fresh) if !fresh.is_empty() => {
                order.stripe += fresh.start as u32;
                order.units = order.units.drain(fresh.clone()).collect();
                order.crcs = order.crcs.drain(fresh).collect();
            }
            Ok(_) if self.makes_good(&order) => {
                let Some(bufs) = aligned(ctx, &order.units) else {
                    gate(self, permit);
                    return Err(Status::Retry);
                };
                self.rewrite(ctx, permit, part, asker, order.stripe, bufs, out);
                return Ok(true);
            }
            Ok(_) => {
                gate(self, permit);
                return Ok(false);
            }
            Err(Repeat) => {
                gate(self, permit);
                return Ok(true);
            }
            Err(Not(status)) => {
                gate(self, permit);
                return Err(status);
            }
        }
        let Some(bufs) = aligned(ctx, &order.units) else {
            gate(self, permit);
            return Err(Status::Retry);
        };
        self.submit_units(ctx, permit, part, asker, order, bufs, out);
        Ok(true)
    }

    fn check_shape(&self, order: &Order) -> Result<(), Status> {
        let layout = self.layout();
        let count = order.units.len();
        let whole = order.units.iter().all(|unit| unit.len() == layout.unit_bytes as usize);
        let last = u64::from(order.stripe) + count as u64;
        let fits = (1..=WRITE_UNITS_MAX).contains(&count) && last <= u64::from(layout.units());
        if !fits || !whole || order.crcs.len() != count || order.column.column >= layout.columns {
            return Err(Status::BadRequest);
        }
        Ok(())
    }

    /// Which of the units are new; empty when all are there already.
    fn check_append(&self, ctx: &Ctx, asker: Asker, order: &Order) -> Result<Range<usize>, NotNew> {
        let held = &self.columns[order.column.column as usize];
        if held.change.is_some() || self.jobs.len() >= CHANGES_MAX {
            return Err(Not(Status::Retry));
        }
        let known = |at: usize| held.table.known(order.stripe + at as u32);
        let fresh = match (0..order.crcs.len()).find(|at| known(*at).is_none()) {
            Some(start) => {
                let last = (0..order.crcs.len()).rfind(|at| known(*at).is_none()).unwrap_or(start);
                start..last + 1
            }
            None => 0..0,
        };
        for (at, crc) in order.crcs.iter().enumerate() {
            let clash = known(at).is_some_and(|there| there != *crc || fresh.contains(&at));
            if clash {
                return Err(Not(Status::BadRequest));
            }
        }
        self.check_overlap(asker, order)?;
        let wrong = |at: usize| crc32c(&order.units[at]) != order.crcs[at];
        if ctx.config.verify_writes && !ctx.near && fresh.clone().any(wrong) {
            return Err(Not(Status::BadRequest));
        }
        Ok(fresh)
    }

    /// A write of the same units in flight: the same one once more, or another one.
    fn check_overlap(&self, asker: Asker, order: &Order) -> Result<(), NotNew> {
        let held = &self.columns[order.column.column as usize];
        let asked = order.stripe..order.stripe + order.crcs.len() as u32;
        for key in &held.active {
            let Some(job) = self.jobs.get(*key) else {
                continue;
            };
            if job.asker == Some(asker) {
                return Err(Repeat);
            }
            if let JobKind::Append { first, crcs, .. } = &job.kind
                && *first < asked.end
                && asked.start < first + crcs.len() as u32
            {
                return Err(Not(Status::Retry));
            }
        }
        Ok(())
    }

    /// Whether it is one unit that has rotted, as it was: its checksum is the table's, and its bytes are compared
    /// with that here, whoever vouches for the way that they came.
    fn makes_good(&self, order: &Order) -> bool {
        let ([unit], [crc]) = (order.units.as_slice(), order.crcs.as_slice()) else { return false };
        self.has_rotted(order.column.column, order.stripe) && crc32c(unit) == *crc
    }

    /// Writes a rotten unit again.
    #[expect(clippy::too_many_arguments, reason = "the permit and what it permits, nothing to bundle")]
    fn rewrite(
        &mut self,
        ctx: &mut Ctx,
        permit: ColumnPermit,
        part: u32,
        asker: Asker,
        unit: u32,
        bufs: SmallVec<[Buf; 4]>,
        out: &mut Out,
    ) {
        let (layout, column) = (self.layout(), permit.column());
        let offset = layout.column_data(column) + u64::from(unit) * u64::from(layout.unit_bytes);
        let (asker, kind) = (Some(asker), JobKind::Rewrite { permit, unit });
        let job = self.start_job(Job { asker, part, column, kind, pages_left: 0, failed: false });
        let io = Io::Data { dev: self.place, job };
        ctx.submit(self.spec.ix, io, BlockOp::Write { offset, bufs, fua: true }, out);
    }

    /// Hands the units to the device. The permit in the signature is what makes this a checked write.
    #[expect(clippy::too_many_arguments, reason = "the permit and what it permits, nothing to bundle")]
    fn submit_units(
        &mut self,
        ctx: &mut Ctx,
        permit: ColumnPermit,
        part: u32,
        asker: Asker,
        order: Order,
        bufs: SmallVec<[Buf; 4]>,
        out: &mut Out,
    ) {
        let layout = self.layout();
        let column = permit.column();
        let offset = layout.column_data(column) + u64::from(order.stripe) * u64::from(layout.unit_bytes);
        let mut permit = Some(permit);
        if ctx.config.faults.permit_ends_at_submit()
            && let Some(permit) = permit.take()
        {
            permit.leave(&self.parts[part as usize].gate);
        }
        let kind = JobKind::Append { permit, stamp: order.stamp, first: order.stripe, crcs: order.crcs };
        let asker = Some(asker);
        let job = self.start_job(Job { asker, part, column, kind, pages_left: 0, failed: false });
        let fua = !ctx.config.faults.data_without_fua();
        let io = Io::Data { dev: self.place, job };
        ctx.submit(self.spec.ix, io, BlockOp::Write { offset, bufs, fua }, out);
    }

    /// The units lie on the medium; their checksums go to the table next.
    pub(super) fn data_written(&mut self, ctx: &mut Ctx, key: u64, good: bool, out: &mut Out) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        let column = job.column;
        if matches!(job.kind, JobKind::Rewrite { .. }) {
            job.failed = !good;
            return self.finish(ctx, key, out);
        }
        let JobKind::Append { stamp, first, crcs, .. } = &job.kind else {
            return;
        };
        if !good {
            job.failed = true;
            self.finish(ctx, key, out);
            return;
        }
        let held = &mut self.columns[column as usize];
        for (at, crc) in crcs.iter().enumerate() {
            held.table.stage(first + at as u32, *crc);
        }
        let first_page = *first as usize / PAGE_UNITS;
        let last_page = (*first as usize + crcs.len() - 1) / PAGE_UNITS;
        // The record is stamped by the first write under a newer number; page 0 carries it.
        let stamped = stamp.number > held.record.number;
        if stamped {
            (held.record.number, held.record.grant) = (stamp.number, stamp.grant);
        }
        if stamped && first_page > 0 {
            self.await_page(column, 0, key);
        }
        for page in first_page..=last_page {
            self.await_page(column, page, key);
        }
    }

    /// The table entries are durable, or the write failed.
    pub(super) fn append_done(&mut self, column: u32, first: u32, crcs: &[u32], good: bool) {
        let table = &mut self.columns[column as usize].table;
        for unit in first..first + crcs.len() as u32 {
            table.settle(unit, good);
        }
        if good {
            self.counters.writes += 1;
            self.counters.bytes_written +=
                crcs.len() as u64 * self.layout.map_or(0, |layout| u64::from(layout.unit_bytes));
        }
    }
}

/// Why nothing is written.
enum NotNew {
    /// The same message, whose first copy will be answered.
    Repeat,
    /// Refused.
    Not(Status),
}
use NotNew::{Not, Repeat};

/// The units as buffers that a device takes; `None` when the pool is empty. Units that the transport left
/// unaligned are copied, all others go as they came.
fn aligned(ctx: &Ctx, units: &[Buf]) -> Option<SmallVec<[Buf; 4]>> {
    let place = |unit: &Buf| {
        if (unit.as_ptr() as usize).is_multiple_of(BLOCK) {
            return Some(unit.clone());
        }
        let mut copy = ctx.pool.alloc(unit.len())?;
        copy.copy_from_slice(unit);
        Some(copy.freeze())
    };
    units.iter().map(place).collect()
}
