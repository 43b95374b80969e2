//! Admission of changes: which permit, or which refusal (EF-16, OP-30).
//!
//! The common case is one gate count and one cache line. Everything else ends in the slow path, which first
//! finds out whether only the cached token is of an older grant, and otherwise names the refusal.

use super::Ctx;
use super::device::Device;
use crate::fence::{ColumnPermit, Denied, NO_PART, Presented, ReservePermit, token};
use crate::wire::{Stamp, Status, Token};

impl Device {
    /// Leave to change `column`, and the place of its owner.
    pub(super) fn admit(
        &mut self,
        ctx: &Ctx,
        column: u32,
        shown: &Presented,
    ) -> Result<(ColumnPermit, u32), Status> {
        let entry = &self.fences[column as usize];
        if entry.part != NO_PART {
            let part = &self.parts[entry.part as usize];
            if let Ok(permit) = ColumnPermit::admit(&part.gate, entry, part.ordinal, column, shown) {
                return Ok((permit, entry.part));
            }
        }
        self.admit_slowly(ctx, column, shown)
    }

    #[cold]
    fn admit_slowly(
        &mut self,
        ctx: &Ctx,
        column: u32,
        shown: &Presented,
    ) -> Result<(ColumnPermit, u32), Status> {
        #[cfg(any(test, feature = "canary"))]
        if let Some(admitted) = self.admit_wrongly(ctx, column, shown) {
            return Ok(admitted);
        }
        let place = self.judge_stamp(ctx, shown.stamp)?;
        let device = self.device_id();
        let held = &self.columns[column as usize];
        if held.quarantined {
            return Err(Status::DeviceError);
        }
        let record = &held.record;
        let same = record.generation == shown.generation && record.extent == shown.extent;
        if !held.owned() || record.partition != shown.stamp.partition || !same {
            return Err(Status::NotOwner);
        }
        let part = &self.parts[place as usize];
        let Some(live) = part.live else {
            return Err(Status::NoToken);
        };
        let entry = &mut self.fences[column as usize];
        let expected = token::derive(live.secret, device, column, record.generation);
        entry.refresh(live.stamp, part.ordinal, expected);
        match ColumnPermit::admit(&part.gate, entry, part.ordinal, column, shown) {
            Ok(permit) => Ok((permit, place)),
            Err(Denied::Closed) => Err(Status::Retry),
            Err(Denied::Differs) => Err(Status::NoToken),
        }
    }

    /// Leave to make a column record of the stamp's partition, and the place of the partition.
    pub(super) fn admit_reserve(
        &mut self,
        ctx: &Ctx,
        stamp: Stamp,
        shown: Token,
    ) -> Result<(ReservePermit, u32), Status> {
        let place = self.judge_stamp(ctx, stamp)?;
        let device = self.device_id();
        let part = &self.parts[place as usize];
        let Some(live) = part.live else {
            return Err(Status::NoToken);
        };
        let any = ctx.config.faults.accept_any_token();
        let valid = || any || token::derive(live.secret, device, token::WHOLE_DEVICE, 0) == shown;
        match ReservePermit::admit(&part.gate, valid) {
            Ok(permit) => Ok((permit, place)),
            Err(Denied::Closed) => Err(Status::Retry),
            Err(Denied::Differs) => Err(Status::NoToken),
        }
    }

    /// Place of the partition, if the stamp is that of its living grant.
    pub(super) fn judge_stamp(&self, ctx: &Ctx, stamp: Stamp) -> Result<u32, Status> {
        let place = *self.by_partition.get(&stamp.partition).ok_or(Status::NoToken)?;
        let part = &self.parts[place as usize];
        let fenced = |grant| Status::Fenced { partition: stamp.partition, number: part.floor, grant };
        if stamp.number < part.floor {
            return Err(fenced(part.floor_grant));
        }
        if stamp.number > part.floor {
            // Not reserved here yet: the head asks first.
            return Err(Status::NoToken);
        }
        if stamp.grant != part.floor_grant && !ctx.config.faults.grant_ignored() {
            return Err(fenced(part.floor_grant));
        }
        if let Some(other) = part.contested {
            return Err(fenced(other));
        }
        match (&part.live, &part.claim) {
            (Some(_), _) => Ok(place),
            (None, Some(_)) => Err(Status::Retry),
            (None, None) => Err(Status::NoToken),
        }
    }

    /// What a broken fence would let through; each arm is one canary.
    #[cfg(any(test, feature = "canary"))]
    fn admit_wrongly(&self, ctx: &Ctx, column: u32, shown: &Presented) -> Option<(ColumnPermit, u32)> {
        let faults = &ctx.config.faults;
        let place = *self.by_partition.get(&shown.stamp.partition)?;
        let part = &self.parts[place as usize];
        let held = &self.columns[column as usize];
        let record = &held.record;
        if !held.owned() || record.partition != shown.stamp.partition {
            return None;
        }
        let current = record.generation == shown.generation;
        let granted = self.judge_stamp(ctx, shown.stamp).is_ok();
        let old_number = faults.accept_old_number() && current && shown.stamp.number < part.floor;
        let any_token = faults.accept_any_token() && current && granted;
        let generation = faults.ignore_generation()
            && granted
            && !current
            && part.live.is_some_and(|live| {
                token::derive(live.secret, self.device_id(), column, shown.generation) == shown.token
            });
        (old_number || any_token || generation).then(|| (ColumnPermit::forced(&part.gate, column), place))
    }
}
