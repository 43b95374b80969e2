//! Scrub: reads stripe units in the background and compares them with their checksums (P-23).
//!
//! One unit at a time and device, with a pause between two; a sled does it alone. What has rotted is
//! reported, counted and told to the partition's head, who has the other columns to make it good; again
//! and again as long as that head holds no grant here, because it may be away. A unit that the device cannot
//! read has rotted too, when a second try fails while the device reads others: a device that fails as a
//! whole, or for a while, has not.

use super::device::Device;
use super::status::DeviceState;
use super::{Ctx, Io, corrupt};
use crate::wire::{BlockError, BlockOp, Msg, NodeId, Out, PartitionId, Time};
use palisade_dma::BufMut;
use std::time::Duration;

/// Pause before a head that holds no grant is told of rot again.
const RETELL: Duration = Duration::from_secs(5);
/// Columns that one turn looks through for a unit to read.
const LOOK_MAX: u32 = 1024;

/// Where the pass stands.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    column: u32,
    unit: u32,
    /// When the next unit is due; unset until the device serves.
    due: Option<Time>,
    /// The next pass begins then.
    rest_until: Time,
    reading: bool,
    /// Columns with rot (and their generations) of which no head with a grant was told yet.
    untold: Vec<(u32, u32)>,
    /// Not before then.
    tell_at: Time,
    /// Units that could not be read once.
    doubts: Vec<Scrubbing>,
    /// The last read was good: the device as such works.
    works: bool,
    /// A unit that was read well: read again when a pass ends in doubt, to see whether the device works.
    proof: Option<Scrubbing>,
    /// Units that did not match their checksums or could not be read: column, generation, unit. These may be
    /// written again, as they were.
    rotten: Vec<(u32, u32, u32)>,
}

/// Rotten columns that wait for a head; the next pass finds the rest.
const UNTOLD_MAX: usize = 256;
/// Rotten units that are remembered; the next pass finds the rest.
const ROTTEN_MAX: usize = 256;

/// A unit being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scrubbing {
    column: u32,
    generation: u32,
    unit: u32,
    /// For the second time.
    again: bool,
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
        if !self.scrub.untold.is_empty() && ctx.now >= self.scrub.tell_at {
            self.scrub.tell_at = ctx.now + RETELL;
            self.tell_rot(ctx, out);
        }
        self.scrub.due = Some(ctx.now + ctx.config.scrub_gap);
        let unit_bytes = self.layout().unit_bytes;
        let Some(buf) = ctx.pool.alloc(unit_bytes as usize) else {
            return;
        };
        let Some(scrub) = self.unit_to_read(ctx) else { return };
        self.scrub.reading = true;
        let start = self.layout().column_data(scrub.column);
        let offset = start + u64::from(scrub.unit) * u64::from(unit_bytes);
        ctx.submit(self.spec.ix, Io::Scrub { dev: self.place, scrub }, BlockOp::Read { offset, buf }, out);
    }

    /// What to read now: a unit in doubt once the device works, else the next one. A pass that ended in doubt
    /// is not over before that is cleared up, as far as the device works.
    fn unit_to_read(&mut self, ctx: &Ctx) -> Option<Scrubbing> {
        if let Some(doubt) = self.scrub.doubts.pop_if(|_| self.scrub.works) {
            return Some(doubt);
        }
        if ctx.now >= self.scrub.rest_until {
            return self.next_unit(ctx);
        }
        let proof = self.scrub.proof.take_if(|_| !self.scrub.doubts.is_empty());
        if proof.is_none() {
            self.scrub.due = Some(self.rest(ctx));
        }
        proof
    }

    /// The next unit that the table knows, from where the pass stands; ends the pass behind the last.
    fn next_unit(&mut self, ctx: &Ctx) -> Option<Scrubbing> {
        for _ in 0..LOOK_MAX {
            let Some(held) = self.columns.get(self.scrub.column as usize) else {
                (self.scrub.column, self.scrub.unit) = (0, 0);
                self.counters.scrub_passes += 1;
                self.scrub.rest_until = ctx.now + ctx.config.scrub_rest.max(ctx.config.scrub_gap);
                self.scrub.due = Some(self.rest(ctx));
                return None;
            };
            if let Some(unit) = held.table.next_known(self.scrub.unit) {
                let (column, generation) = (self.scrub.column, held.record.generation);
                self.scrub.unit = unit + 1;
                return Some(Scrubbing { column, generation, unit, again: false });
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
        self.scrub.works = result.is_ok();
        if result.is_ok() {
            self.scrub.proof = Some(Scrubbing { again: false, ..scrub });
        }
        let held = &self.columns[scrub.column as usize];
        if held.record.generation != scrub.generation || !held.owned() {
            return;
        }
        let good = match result {
            Ok(buf) => {
                self.counters.scrubbed += 1;
                self.unit_good(ctx, scrub.column, scrub.unit, &buf, out)
            }
            Err(BlockError::Io) if scrub.again => {
                self.counters.corrupt += 1;
                let Scrubbing { column, generation, unit, .. } = scrub;
                let what = format!(
                    "device {} column {column} generation {generation} stripe {unit} cannot be read",
                    self.device_id()
                );
                corrupt("column", what, out);
                self.note_rot(column, unit);
                false
            }
            Err(BlockError::Io) if self.scrub.doubts.len() < UNTOLD_MAX => {
                self.scrub.doubts.push(Scrubbing { again: true, ..scrub });
                true
            }
            // The device is gone, and with it all of its columns; or the next pass finds the rest.
            Err(_) => true,
        };
        let word = (scrub.column, scrub.generation);
        if !good && self.scrub.untold.len() < UNTOLD_MAX && !self.scrub.untold.contains(&word) {
            self.scrub.untold.push(word);
        }
    }

    /// Remembers that a unit has rotted.
    pub(super) fn note_rot(&mut self, column: u32, unit: u32) {
        let columns = &self.columns;
        let stands = |at: u32, generation: u32| columns[at as usize].record.generation == generation;
        let word = (column, columns[column as usize].record.generation, unit);
        if self.scrub.rotten.len() == ROTTEN_MAX {
            self.scrub.rotten.retain(|&(at, generation, _)| stands(at, generation));
        }
        if self.scrub.rotten.len() < ROTTEN_MAX && !self.scrub.rotten.contains(&word) {
            self.scrub.rotten.push(word);
        }
    }

    /// Whether a unit is known to have rotted.
    pub(super) fn has_rotted(&self, column: u32, unit: u32) -> bool {
        let generation = self.columns[column as usize].record.generation;
        self.scrub.rotten.contains(&(column, generation, unit))
    }

    /// A rotten unit was written again.
    pub(super) fn forget_rot(&mut self, column: u32, unit: u32) {
        self.scrub.rotten.retain(|&(at, _, rotten)| (at, rotten) != (column, unit));
    }

    /// When to look again between two passes: at the next one, or sooner while a head is to be told of rot.
    fn rest(&self, ctx: &Ctx) -> Time {
        let end = self.scrub.rest_until;
        if !self.scrub.doubts.is_empty() && (self.scrub.works || self.scrub.proof.is_some()) {
            return ctx.now + ctx.config.scrub_gap;
        }
        if self.scrub.untold.is_empty() { end } else { end.min(ctx.now + RETELL) }
    }

    /// The head on a partition's record, and whether it holds a grant of this boot.
    fn listener(&self, partition: PartitionId) -> Option<(NodeId, bool)> {
        let part = &self.parts[*self.by_partition.get(&partition)? as usize];
        part.record.as_ref().map(|record| (record.head, part.live.is_some()))
    }

    /// Tells heads what has rotted: those that hold a grant once, others, who may be away, again and again.
    fn tell_rot(&mut self, ctx: &Ctx, out: &mut Out) {
        let mut untold = std::mem::take(&mut self.scrub.untold);
        untold.retain(|&(number, generation)| {
            let held = &self.columns[number as usize];
            let record = &held.record;
            if !held.owned() || record.generation != generation {
                return false;
            }
            let Some((head, there)) = self.listener(record.partition) else { return true };
            let (partition, extent, position) = (record.partition, record.extent, record.position);
            let column = self.column_ref(ctx, number, generation);
            out.net.push((head, Msg::ColumnRotten { partition, column, extent, position }));
            !there
        });
        self.scrub.untold = untold;
    }
}
