//! A device whose file system has no room left (a thin file on a full disk): it takes no new data until there is.
//!
//! One write after another would fail, and each costs a head an extent. So after the first one changes that need
//! room are refused at once, and heads place their columns elsewhere; reads, claims and releases go on, which write
//! in place. Who asks for a column hears that none is free, and none is counted as free: a device that is full must
//! not pass for one that is ill, least of all where it holds nothing by which heads could see that it works (EF-22).
//!
//! After a pause, doubled up to a limit, the units whose write failed are written as zeroes: the table does not know
//! them, so they mean nothing to anybody, and nobody else writes there meanwhile. When that is done there is room
//! again. Where it was a page that failed, time alone brings back the next try.

use super::device::{Device, JobKind};
use super::{Ctx, Io};
use crate::wire::{BlockError, BlockOp, Event, Out, Time};
use std::time::Duration;

/// Pause before the first try, and the longest one.
const TRY_FIRST: Duration = Duration::from_millis(500);
const TRY_LAST: Duration = Duration::from_secs(8);
/// Why it takes nothing.
pub(super) const WHY: &str = "no space left on the backing store; it gets no new data until there is room";

/// Units of a column that could not be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    column: u32,
    first: u32,
    count: u32,
}

/// A device without room.
#[derive(Debug)]
pub(super) struct Full {
    place: Option<Place>,
    pause: Duration,
    at: Time,
    trying: bool,
}

impl Device {
    /// A write found no room; `job` is the column write that it was of, if it was one.
    pub(super) fn no_room(&mut self, ctx: &Ctx, job: Option<u64>, out: &mut Out) {
        let append = job.and_then(|key| self.jobs.get(key));
        let place = append.and_then(|job| match &job.kind {
            JobKind::Append { first, crcs, .. } => {
                Some(Place { column: job.column, first: *first, count: crcs.len() as u32 })
            }
            _ => None,
        });
        if let Some(full) = &mut self.full {
            full.place = full.place.or(place);
            return;
        }
        self.full = Some(Full { place, pause: TRY_FIRST, at: ctx.now + TRY_FIRST, trying: false });
        out.events.push(Event::DeviceFailed { device: self.spec.ix, why: WHY });
    }

    /// When it is tried again.
    pub(super) fn room_due(&self) -> Option<Time> {
        self.full.as_ref().filter(|full| !full.trying).map(|full| full.at)
    }

    /// Looks for room when that is due.
    pub(super) fn room_turn(&mut self, ctx: &mut Ctx, out: &mut Out) {
        if self.room_due().is_none_or(|due| ctx.now < due) {
            return;
        }
        let place = self.full.as_ref().and_then(|full| full.place).filter(|place| self.means_nothing(place));
        let Some(place) = place else { return self.room_again(out) };
        let layout = *self.layout();
        let Some(mut zeroes) = ctx.pool.alloc(layout.unit_bytes as usize) else {
            ctx.starved = true;
            return;
        };
        zeroes.fill(0);
        let zeroes = zeroes.freeze();
        let offset = layout.column_data(place.column) + u64::from(place.first) * u64::from(layout.unit_bytes);
        let bufs = (0..place.count).map(|_| zeroes.clone()).collect();
        if let Some(full) = &mut self.full {
            full.trying = true;
        }
        ctx.submit(
            self.spec.ix,
            Io::Room { dev: self.place },
            BlockOp::Write { offset, bufs, fua: true },
            out,
        );
    }

    /// Whether no table entry, written or on its way, speaks of these units.
    fn means_nothing(&self, place: &Place) -> bool {
        let held = &self.columns[place.column as usize];
        let known = |unit: u32| held.table.to_write(unit).is_some();
        held.active.is_empty() && !(place.first..place.first + place.count).any(known)
    }

    /// The try is over.
    pub(super) fn room_tried(&mut self, ctx: &Ctx, result: Result<(), BlockError>, out: &mut Out) {
        let Some(full) = &mut self.full else { return };
        full.trying = false;
        if result.is_err() {
            full.pause = (full.pause * 2).min(TRY_LAST);
            full.at = ctx.now + full.pause;
        } else {
            self.room_again(out);
        }
    }

    fn room_again(&mut self, out: &mut Out) {
        self.full = None;
        out.events.push(Event::Repaired {
            place: "device",
            what: format!("{}: there is room again", self.spec.ix.0),
        });
    }
}
