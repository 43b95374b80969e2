//! Reserving a partition on a device: drain, record, grant (EF-15, P-04, P-18, P-20, P-22, OP-01, OP-05).
//!
//! | stored number | asked | answer |
//! |---|---|---|
//! | none, or lower | higher | older tokens void at once, drain, record durable, grant |
//! | equal, same head, boot and grant | | the grant that lives; after a sled restart a new one (reclaim) |
//! | equal, other head or boot | | `StaleNumber` |
//! | equal, other grant | | `StaleNumber`, and the number's holder is stopped too (P-04) |
//! | equal, but from a half-rotten page | | `StaleNumber` (P-18) |
//! | higher, pending ones included | | `StaleNumber` |
//!
//! Ownership of columns is no matter of this verb: a number covers what the partition owns and nothing
//! else (OP-03), so its cost does not depend on the number of columns.

use super::device::{BOTH_SLOTS, Claim, Device, Live, Part};
use super::status::DeviceState;
use super::{Asker, Ctx};
use crate::fence::record::{PAGE_RECORDS, PartitionRecord, page_of};
use crate::fence::token;
use crate::wire::{DeviceId, Event, GrantId, GrantSecret, Msg, Number, Out, PartitionId, Stamp, Status};
use smallvec::{SmallVec, smallvec};
use std::cmp::Ordering;

/// Most repeats of a pending reservation that are answered each on its own.
const ASKERS_MAX: usize = 8;

/// Answers a reservation of a device that is not here.
pub(super) fn refuse_unknown(device: DeviceId, asker: Asker, stamp: Stamp, status: Status, out: &mut Out) {
    push(device, asker, stamp, status, GrantSecret::default(), 0, out);
}

fn push(
    device: DeviceId,
    asker: Asker,
    stamp: Stamp,
    status: Status,
    secret: GrantSecret,
    free: u32,
    out: &mut Out,
) {
    out.net.push((asker.node, Msg::Reserved { req: asker.req, device, stamp, status, secret, free }));
}

impl Device {
    /// The verb.
    pub(super) fn reserve(&mut self, ctx: &mut Ctx, asker: Asker, stamp: Stamp, out: &mut Out) {
        if let Err(status) = self.try_reserve(ctx, asker, stamp, out) {
            self.reserve_refused(asker, stamp, status, out);
        }
    }

    fn reserve_refused(&mut self, asker: Asker, stamp: Stamp, status: Status, out: &mut Out) {
        let status = self.refuse(status);
        let device = self.id.unwrap_or_default();
        push(device, asker, stamp, status, GrantSecret::default(), self.free, out);
    }

    fn try_reserve(
        &mut self,
        ctx: &mut Ctx,
        asker: Asker,
        stamp: Stamp,
        out: &mut Out,
    ) -> Result<(), Status> {
        self.serves_records()?;
        if stamp.number == Number::ZERO {
            return Err(Status::BadRequest);
        }
        if self.records[self.page_of(stamp.partition) as usize].lost {
            return Err(Status::DeviceError);
        }
        let place = self.part_of(stamp.partition);
        if !self.has_room(place) {
            return Err(Status::NotFree);
        }
        let part = &self.parts[place as usize];
        let stale = Status::StaleNumber { number: part.floor, grant: part.floor_grant };
        match stamp.number.cmp(&part.floor) {
            Ordering::Greater => self.start_claim(ctx, place, asker, stamp, out),
            Ordering::Equal => self.reserve_again(ctx, place, asker, stamp, out)?,
            // P-20's run: 6 is draining, 7 was granted, then 6's record lands.
            Ordering::Less if ctx.config.faults.pending_not_stored() && self.above_stored(place, stamp) => {
                self.start_claim(ctx, place, asker, stamp, out);
            }
            Ordering::Less => return Err(stale),
        }
        Ok(())
    }

    fn above_stored(&self, place: u32, stamp: Stamp) -> bool {
        let part = &self.parts[place as usize];
        part.claim.is_some() && part.record.is_none_or(|record| stamp.number > record.number)
    }

    /// The stored or pending number once more.
    fn reserve_again(
        &mut self,
        ctx: &mut Ctx,
        place: u32,
        asker: Asker,
        stamp: Stamp,
        out: &mut Out,
    ) -> Result<(), Status> {
        let asked = record_of(stamp, asker);
        let faults = ctx.config.faults;
        let part = &mut self.parts[place as usize];
        let stale = |grant| Err(Status::StaleNumber { number: part.floor, grant });
        if stamp.grant != part.floor_grant {
            if faults.grant_ignored() {
                self.start_claim(ctx, place, asker, stamp, out);
                return Ok(());
            }
            let held = part.floor_grant;
            self.contest(place, stamp.grant, out);
            return Err(Status::StaleNumber { number: stamp.number, grant: held });
        }
        if let Some(other) = part.contested {
            return stale(other);
        }
        if let Some(claim) = &mut part.claim {
            if claim.record != asked {
                return stale(part.floor_grant);
            }
            if !claim.askers.contains(&asker) && claim.askers.len() < ASKERS_MAX {
                claim.askers.push(asker);
            }
            return Ok(());
        }
        let mine = match (part.wanted, part.record) {
            // A claim of this boot was given up: only who made it may repeat it.
            (Some(wanted), _) if Some(wanted) != part.record => wanted == asked,
            (_, Some(record)) if record.number == stamp.number => {
                Self::holder(&record) == Self::holder(&asked) && !part.doubtful
            }
            // Only columns name the number; its grant, which was compared, belongs to one head's boot.
            _ => true,
        };
        if !mine {
            return stale(part.floor_grant);
        }
        match part.live {
            Some(live) if !faults.dup_reserve_voids() => {
                push(self.device_id(), asker, stamp, Status::Ok, live.secret, self.free_now(), out);
            }
            // Restarted since, or a claim was given up: what is durable already need not be written again.
            _ => self.start_claim(ctx, place, asker, stamp, out),
        }
        Ok(())
    }

    /// Voids the older grant and begins to drain.
    fn start_claim(&mut self, ctx: &mut Ctx, place: u32, asker: Asker, stamp: Stamp, out: &mut Out) {
        self.cancel_claim(place, Status::StaleNumber { number: stamp.number, grant: stamp.grant }, out);
        let page = &self.records[page_of(stamp.partition, self.records.len() as u32) as usize];
        let record = record_of(stamp, asker);
        let part = &mut self.parts[place as usize];
        // A record new to its page goes to both slots, so that the survivor of a rotten slot names every
        // partition that was ever granted; and a rotten slot is made good (P-18).
        let changed = part.record != Some(record);
        let copies = match part.slots {
            0 => 2,
            _ if page.half => 2,
            BOTH_SLOTS => u8::from(changed),
            _ => 1,
        };
        part.gate.close();
        part.live = None;
        part.contested = None;
        part.raise(stamp.number, stamp.grant);
        part.wanted = Some(record);
        part.claim = Some(Claim {
            record,
            askers: smallvec![asker],
            until: ctx.now + ctx.config.drain_limit,
            recording: false,
            copies,
        });
        if ctx.config.faults.pending_not_stored() {
            (part.floor, part.floor_grant) = (stamp.number, stamp.grant);
        }
        if !std::mem::replace(&mut part.listed, true) {
            self.claiming.push(place);
        }
        if ctx.config.faults.token_before_record() {
            self.record_claim(place);
            self.grant(ctx, place, out);
        }
    }

    /// Two stores granted one number: neither may write until a higher one comes (P-04).
    fn contest(&mut self, place: u32, other: GrantId, out: &mut Out) {
        let part = &mut self.parts[place as usize];
        part.gate.close();
        part.live = None;
        part.contested = Some(other);
        let (partition, number, held) = (part.partition, part.floor, part.floor_grant);
        out.events.push(Event::Note(format!(
            "partition {partition}: number {number} was granted twice, as {held} and {other}; both are refused"
        )));
        self.cancel_claim(place, Status::StaleNumber { number, grant: other }, out);
    }

    /// Gives up a reservation on its way. What it wanted recorded may still land; its number stays stored.
    fn cancel_claim(&mut self, place: u32, status: Status, out: &mut Out) {
        self.parts[place as usize].next = None;
        let Some(claim) = self.parts[place as usize].claim.take() else {
            return;
        };
        let stamp = stamp_of(&claim.record);
        for asker in claim.askers {
            self.reserve_refused(asker, stamp, status, out);
        }
    }

    /// Moves reservations on whose drain has ended, and gives up those that took too long.
    pub(super) fn claims_turn(&mut self, ctx: &mut Ctx, out: &mut Out) {
        let mut listed = std::mem::take(&mut self.claiming);
        listed.retain(|place| {
            self.move_claim(ctx, *place, out);
            let part = &mut self.parts[*place as usize];
            part.listed = part.claim.is_some();
            part.listed
        });
        assert!(self.claiming.is_empty(), "no claim starts while claims are moved on");
        self.claiming = listed;
        self.clear_suspicion(ctx);
    }

    fn move_claim(&mut self, ctx: &mut Ctx, place: u32, out: &mut Out) {
        let part = &self.parts[place as usize];
        let Some(claim) = &part.claim else {
            return;
        };
        let drained = part.gate.drained() || ctx.config.faults.no_drain();
        if !claim.recording && drained {
            if claim.copies == 0 {
                self.grant(ctx, place, out);
            } else {
                self.record_claim(place);
            }
        } else if ctx.now >= claim.until {
            self.suspect(place, out);
        }
    }

    fn record_claim(&mut self, place: u32) {
        let page = self.page_of(self.parts[place as usize].partition);
        let part = &mut self.parts[place as usize];
        if let Some(claim) = &mut part.claim {
            claim.recording = true;
            part.next = Some(claim.record);
            self.mark_record_dirty(page);
        }
    }

    /// The page write that carried `record` ended.
    pub(super) fn claim_recorded(
        &mut self,
        ctx: &mut Ctx,
        place: u32,
        record: PartitionRecord,
        out: &mut Out,
    ) {
        let page = self.page_of(record.partition);
        let part = &mut self.parts[place as usize];
        part.record = Some(record);
        if part.next != Some(record) {
            return;
        }
        let Some(claim) = &mut part.claim else {
            part.next = None;
            return;
        };
        claim.copies = claim.copies.saturating_sub(1);
        if claim.copies > 0 {
            self.mark_record_dirty(page);
            return;
        }
        part.next = None;
        self.grant(ctx, place, out);
    }

    /// The page write that carried the claim's record failed.
    pub(super) fn claim_failed(&mut self, place: u32, out: &mut Out) {
        self.cancel_claim(place, self.not_given(), out);
    }

    /// Everything older has ended and the record is durable: tokens may leave.
    fn grant(&mut self, ctx: &mut Ctx, place: u32, out: &mut Out) {
        let device = self.device_id();
        let part = &mut self.parts[place as usize];
        let Some(claim) = part.claim.take() else {
            return;
        };
        let stamp = stamp_of(&claim.record);
        let secret = token::grant_secret(ctx.config.boot_secret, device, ctx.grants);
        ctx.grants += 1;
        part.ordinal += 1;
        part.live = Some(Live { stamp, secret });
        part.doubtful = false;
        part.stuck = false;
        part.gate.open();
        self.counters.grants += 1;
        let free = self.free_now();
        for asker in claim.askers {
            push(device, asker, stamp, Status::Ok, secret, free, out);
        }
    }

    /// The device did not finish in time: it refuses changes, its columns count as unclaimed.
    fn suspect(&mut self, place: u32, out: &mut Out) {
        self.parts[place as usize].stuck = true;
        if self.state == DeviceState::Ready {
            self.state = DeviceState::Suspect;
            let why = "commands did not end in time for a reservation";
            out.events.push(Event::DeviceFailed { device: self.spec.ix, why });
        }
        self.cancel_claim(place, Status::DeviceError, out);
    }

    /// A suspect device serves again once everything that was stuck has come back.
    fn clear_suspicion(&mut self, ctx: &Ctx) {
        if self.state != DeviceState::Suspect {
            return;
        }
        for part in &mut self.parts {
            part.stuck &= part.gate.count() > 0;
        }
        let late = |page: &super::device::RecordSlots| {
            page.writing && page.since + ctx.config.drain_limit <= ctx.now
        };
        if !self.parts.iter().any(|part| part.stuck) && !self.records.iter().any(late) {
            self.state = DeviceState::Ready;
        }
    }

    /// Place of a partition; a new one is added.
    pub(super) fn part_of(&mut self, partition: PartitionId) -> u32 {
        if let Some(place) = self.by_partition.get(&partition) {
            return *place;
        }
        let place = self.parts.len() as u32;
        let page = self.page_of(partition);
        self.records[page as usize].members.push(place);
        self.parts.push(Part::new(partition));
        self.by_partition.insert(partition, place);
        place
    }

    /// Whether the partition has a place in its record page, or there is room for one. Partitions that only
    /// columns name (the last owners of free ones) take none.
    fn has_room(&self, place: u32) -> bool {
        let recorded = |place: u32| {
            let part = &self.parts[place as usize];
            part.record.is_some() || part.next.is_some() || part.claim.is_some()
        };
        let page = &self.records[self.page_of(self.parts[place as usize].partition) as usize];
        recorded(place) || page.members.iter().filter(|other| recorded(**other)).count() < PAGE_RECORDS
    }

    pub(super) fn page_of(&self, partition: PartitionId) -> u32 {
        page_of(partition, self.records.len() as u32)
    }
}

/// The record that a reservation wants.
fn record_of(stamp: Stamp, asker: Asker) -> PartitionRecord {
    PartitionRecord {
        partition: stamp.partition,
        number: stamp.number,
        grant: stamp.grant,
        head: asker.node,
        boot: asker.boot,
        doubtful: false,
    }
}

fn stamp_of(record: &PartitionRecord) -> Stamp {
    Stamp { partition: record.partition, number: record.number, grant: record.grant }
}

const _: () = assert!(size_of::<SmallVec<[Asker; 2]>>() <= 128, "a claim stays small");
