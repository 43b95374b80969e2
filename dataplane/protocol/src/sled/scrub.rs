//! Scrub: reads stripe units in the background and compares them with their checksums (P-23).
//!
//! One unit at a time and device, with a pause between two; a sled does it alone. What has rotted is
//! reported and counted; making it good is the head's, who has the other columns.

use super::device::Device;
use super::status::DeviceState;
use super::{Ctx, Io};
use crate::wire::{BlockError, BlockOp, Out, Time};
use palisade_dma::BufMut;

/// Columns that one turn looks through for a unit to read.
const LOOK_MAX: u32 = 1024;

/// Where the pass stands.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    column: u32,
    unit: u32,
    /// When the next unit is due; unset until the device serves.
    due: Option<Time>,
    reading: bool,
}

/// A unit being read.
#[derive(Debug)]
pub(super) struct Scrubbing {
    column: u32,
    generation: u32,
    unit: u32,
}

impl Device {
    /// When the next unit is due.
    pub(super) fn scrub_due(&self, ctx: &Ctx) -> Option<Time> {
        let on = self.state == DeviceState::Ready && !ctx.config.scrub_gap.is_zero();
        self.scrub.due.filter(|_| on && !self.scrub.reading)
    }

    /// Reads the next unit when it is due.
    pub(super) fn scrub_turn(&mut self, ctx: &mut Ctx, out: &mut Out) {
        if self.state == DeviceState::Ready && self.scrub.due.is_none() {
            self.scrub.due = Some(ctx.now + ctx.config.scrub_gap);
        }
        if self.scrub_due(ctx).is_none_or(|due| ctx.now < due) {
            return;
        }
        self.scrub.due = Some(ctx.now + ctx.config.scrub_gap);
        let Some((column, unit)) = self.next_unit(ctx) else {
            return;
        };
        let layout = self.layout();
        let offset = layout.column_data(column) + u64::from(unit) * u64::from(layout.unit_bytes);
        let Some(buf) = ctx.pool.alloc(layout.unit_bytes as usize) else {
            return;
        };
        let generation = self.columns[column as usize].record.generation;
        (self.scrub.column, self.scrub.unit, self.scrub.reading) = (column, unit + 1, true);
        let io = Io::Scrub { dev: self.place, scrub: Scrubbing { column, generation, unit } };
        ctx.submit(self.spec.ix, io, BlockOp::Read { offset, buf }, out);
    }

    /// The next unit that the table knows, from where the pass stands; ends the pass behind the last.
    fn next_unit(&mut self, ctx: &Ctx) -> Option<(u32, u32)> {
        for _ in 0..LOOK_MAX {
            let Some(held) = self.columns.get(self.scrub.column as usize) else {
                (self.scrub.column, self.scrub.unit) = (0, 0);
                self.counters.scrub_passes += 1;
                self.scrub.due = Some(ctx.now + ctx.config.scrub_rest.max(ctx.config.scrub_gap));
                return None;
            };
            if let Some(unit) = held.table.next_known(self.scrub.unit) {
                return Some((self.scrub.column, unit));
            }
            (self.scrub.column, self.scrub.unit) = (self.scrub.column + 1, 0);
        }
        None
    }

    /// The unit was read.
    pub(super) fn scrub_done(
        &mut self,
        ctx: &Ctx,
        scrub: Scrubbing,
        result: Result<BufMut, BlockError>,
        out: &mut Out,
    ) {
        self.scrub.reading = false;
        let held = &self.columns[scrub.column as usize];
        let (Ok(buf), true) = (result, held.record.generation == scrub.generation) else {
            return;
        };
        self.counters.scrubbed += 1;
        self.unit_good(ctx, scrub.column, scrub.unit, &buf, out);
    }
}
