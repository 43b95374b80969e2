//! Reserving a column for an extent: a free one, its record durable, its generation raised (EF-12, P-19).

use super::column::{ColumnRecord, Hold};
use super::config::{CHANGES_MAX, REMEMBERED_RESERVES};
use super::device::{Device, Job, JobKind};
use super::table::UnitTable;
use super::{Asker, Ctx};
use crate::fence::FenceEntry;
use crate::wire::{ColumnRef, ExtentId, Msg, Out, PartitionId, Stamp, Status, Token};

/// What the message says.
pub(super) struct Wish {
    pub(super) stamp: Stamp,
    pub(super) token: Token,
    pub(super) extent: ExtentId,
    pub(super) position: u8,
    pub(super) prefer: Option<(u32, u32)>,
}

/// Answers a column reserve.
pub(super) fn answer(asker: Asker, status: Status, column: Option<ColumnRef>, out: &mut Out) {
    let column = column.unwrap_or_default();
    out.net.push((asker.node, Msg::ColumnReserved { req: asker.req, status, column }));
}

impl Device {
    /// The verb.
    pub(super) fn column_reserve(&mut self, ctx: &mut Ctx, asker: Asker, wish: Wish, out: &mut Out) {
        match self.try_column_reserve(ctx, asker, &wish) {
            Ok(Some(column)) => answer(asker, Status::Ok, Some(column), out),
            Ok(None) => {}
            Err(status) => answer(asker, self.refuse(status), None, out),
        }
    }

    /// `None` when the answer comes later.
    fn try_column_reserve(
        &mut self,
        ctx: &mut Ctx,
        asker: Asker,
        wish: &Wish,
    ) -> Result<Option<ColumnRef>, Status> {
        self.serves_records()?;
        if self.full.is_some() {
            return Err(Status::NotFree);
        }
        let (permit, part) = self.admit_reserve(ctx, wish.stamp, wish.token)?;
        let chosen = self.choose(ctx, asker, wish);
        let column = match chosen {
            Ok(Choice::Fresh(column)) => column,
            other => {
                permit.leave(&self.parts[part as usize].gate);
                return match other? {
                    Choice::Answered(column) => Ok(Some(column)),
                    _ => Ok(None),
                };
            }
        };
        let held = &mut self.columns[column as usize];
        let next = ColumnRecord {
            hold: Hold::Owned,
            generation: held.record.generation + 1,
            partition: wish.stamp.partition,
            number: wish.stamp.number,
            grant: wish.stamp.grant,
            extent: wish.extent,
            position: wish.position,
        };
        held.change = Some(next);
        self.free -= 1;
        self.cursor = column + 1;
        let kind = JobKind::Reserve { permit, next };
        let key =
            self.start_job(Job { asker: Some(asker), part, column, kind, pages_left: 0, failed: false });
        self.await_page(column, 0, key);
        Ok(None)
    }

    /// A free column; or the one that an earlier copy of the request got, or will get.
    fn choose(&self, ctx: &Ctx, asker: Asker, wish: &Wish) -> Result<Choice, Status> {
        if let Some((_, column)) = self.remembered.iter().rev().find(|(other, _)| *other == asker) {
            return Ok(Choice::Answered(*column));
        }
        for (number, held) in self.columns.iter().enumerate() {
            // Under one number an extent's column is reserved once: a repeat of the head, which lost the answer.
            let same = |record: &ColumnRecord| {
                let ours = record.hold == Hold::Owned && record.partition == wish.stamp.partition;
                ours && record.extent == wish.extent
                    && record.position == wish.position
                    && record.number == wish.stamp.number
            };
            match held.change {
                Some(next) if same(&next) => {
                    let repeat = held
                        .active
                        .iter()
                        .any(|key| self.jobs.get(*key).is_some_and(|job| job.asker == Some(asker)));
                    return if repeat { Ok(Choice::Pending) } else { Err(Status::Retry) };
                }
                None if same(&held.record) => {
                    return Ok(Choice::Answered(self.column_ref(ctx, number as u32, held.record.generation)));
                }
                _ => {}
            }
        }
        if self.jobs.len() >= CHANGES_MAX {
            return Err(Status::Retry);
        }
        self.pick(wish.prefer).map(Choice::Fresh).ok_or(Status::NotFree)
    }

    /// The first free column of the sandbox, else the next free one of the device (EF-13).
    fn pick(&self, prefer: Option<(u32, u32)>) -> Option<u32> {
        let count = self.columns.len() as u32;
        let free = |column: &u32| self.columns[*column as usize].available();
        let (start, end) = prefer.unwrap_or((0, 0));
        let mut sandbox = start.min(count)..end.min(count);
        let from = self.cursor.min(count);
        sandbox.find(free).or_else(|| (from..count).find(free)).or_else(|| (0..from).find(free))
    }

    pub(super) fn column_ref(&self, ctx: &Ctx, column: u32, generation: u32) -> ColumnRef {
        ColumnRef { sled: ctx.config.node, device: self.device_id(), column, generation }
    }

    /// The record is durable, or could not be written.
    pub(super) fn reserve_done(
        &mut self,
        ctx: &Ctx,
        column: u32,
        part: u32,
        next: ColumnRecord,
        good: bool,
    ) -> ColumnRef {
        let units = self.layout().units();
        let held = &mut self.columns[column as usize];
        held.change = None;
        if good {
            held.record = next;
            held.table = UnitTable::empty(units);
            self.fences[column as usize] = FenceEntry {
                partition: next.partition,
                extent: next.extent,
                generation: next.generation,
                part,
                ..FenceEntry::FREE
            };
            self.counters.columns_reserved += 1;
        } else {
            // The write may have landed all the same: its generation is never given out again (P-19).
            held.record.generation = next.generation;
            self.free += 1;
        }
        self.column_ref(ctx, column, next.generation)
    }

    /// Keeps an answer for late repeats (P-22).
    pub(super) fn remember(&mut self, asker: Asker, column: ColumnRef, status: Status) {
        if status.is_ok() {
            if self.remembered.len() == REMEMBERED_RESERVES {
                self.remembered.pop_front();
            }
            self.remembered.push_back((asker, column));
        }
    }

    /// Highest numbers that columns name, for partitions whose own record is lower or missing (EF-12).
    pub(super) fn column_numbers(&self) -> impl Iterator<Item = &ColumnRecord> {
        let known = |record: &&ColumnRecord| record.partition != PartitionId(0) || record.generation > 0;
        self.columns.iter().map(|held| &held.record).filter(known)
    }
}

/// Where a column reserve leads.
enum Choice {
    /// To this free column.
    Fresh(u32),
    /// An earlier copy got this one.
    Answered(ColumnRef),
    /// An earlier copy is on its way.
    Pending,
}
