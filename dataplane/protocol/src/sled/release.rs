//! Releasing a column: free again, but its record remembers the last owner and number (OP-18, P-19).
//!
//! Old bytes stay on the medium and cannot be read: only units that the table knows are read, and a new owner
//! starts with an empty table. A repeat of the last release answers `Ok`; one of an older generation
//! answers `NotOwner` and changes nothing.

use super::column::{ColumnRecord, Hold};
use super::config::CHANGES_MAX;
use super::device::{Device, Job, JobKind};
use super::table::UnitTable;
use super::{Asker, Ctx};
use crate::fence::{FenceEntry, Presented, token};
use crate::wire::{ColumnRef, Msg, Out, Stamp, Status, Token};

/// Answers a release.
pub(super) fn answer(asker: Asker, status: Status, out: &mut Out) {
    out.net.push((asker.node, Msg::ColumnReleased { req: asker.req, status }));
}

impl Device {
    /// The verb.
    pub(super) fn column_release(
        &mut self,
        ctx: &mut Ctx,
        asker: Asker,
        stamp: Stamp,
        column: ColumnRef,
        shown: Token,
        out: &mut Out,
    ) {
        match self.try_release(ctx, asker, stamp, column, shown) {
            Ok(true) => {}
            Ok(false) => answer(asker, Status::Ok, out),
            Err(status) => answer(asker, self.refuse(status), out),
        }
    }

    /// True when the answer comes later.
    fn try_release(
        &mut self,
        ctx: &mut Ctx,
        asker: Asker,
        stamp: Stamp,
        column: ColumnRef,
        shown: Token,
    ) -> Result<bool, Status> {
        self.serves_records()?;
        let at = column.column;
        let Some(held) = self.columns.get(at as usize) else {
            return Err(Status::BadRequest);
        };
        let own =
            held.active.iter().any(|key| self.jobs.get(*key).is_some_and(|job| job.asker == Some(asker)));
        if own {
            return Ok(true);
        }
        if self.released_before(ctx, stamp, column, shown)? {
            return Ok(false);
        }
        let held = &self.columns[at as usize];
        let busy = !held.active.is_empty() || held.change.is_some() || self.jobs.len() >= CHANGES_MAX;
        let extent = held.record.extent;
        let shown = Presented { stamp, token: shown, extent, generation: column.generation };
        let (permit, part) = self.admit(ctx, at, &shown)?;
        if busy {
            // Writes of the same holder are on their way: free it when they have ended.
            permit.leave(&self.parts[part as usize].gate);
            return Err(Status::Retry);
        }
        let held = &mut self.columns[at as usize];
        let next = ColumnRecord { hold: Hold::Free, number: stamp.number, grant: stamp.grant, ..held.record };
        held.change = Some(next);
        let kind = JobKind::Release { permit, next };
        let key =
            self.start_job(Job { asker: Some(asker), part, column: at, kind, pages_left: 0, failed: false });
        self.await_page(at, 0, key);
        Ok(true)
    }

    /// Whether it is a good repeat: free since, and this partition's generation was the last.
    fn released_before(
        &self,
        ctx: &Ctx,
        stamp: Stamp,
        column: ColumnRef,
        shown: Token,
    ) -> Result<bool, Status> {
        let held = &self.columns[column.column as usize];
        let last = held.record.partition == stamp.partition && held.record.generation == column.generation;
        if !held.available() || !last {
            return Ok(false);
        }
        let place = self.judge_stamp(ctx, stamp)?;
        let device = self.device_id();
        let good = self.parts[place as usize].live.is_some_and(|live| {
            token::derive(live.secret, device, column.column, column.generation) == shown
        });
        if good { Ok(true) } else { Err(Status::NoToken) }
    }

    /// The record is durable, or could not be written.
    pub(super) fn release_done(&mut self, column: u32, next: ColumnRecord, good: bool) {
        let held = &mut self.columns[column as usize];
        held.change = None;
        if good {
            held.record = next;
            held.table = UnitTable::default();
            self.fences[column as usize] = FenceEntry::FREE;
            self.free += 1;
            self.counters.columns_released += 1;
        }
    }
}
