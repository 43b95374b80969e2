//! Rotten copies of what was acknowledged alone are made good (P-30, P-23).
//!
//! A sled's scrub tells that a column of the journal has rotted. The head lists all devices for the other copies of
//! that chapter, also those that it made before it restarted; reads the column unit by unit; and where the sled finds
//! a unit rotten it takes that from another copy and writes it again, in its place: the sled takes nothing there but
//! the bytes that it had, and whoever salvages finds the copy where it was, under the number that it was made under.
//! From a copy and not from the own log, because the log gives up the places of what was overwritten since.
//!
//! One question at a time; it is not urgent, as any of `m + 1` copies may be lost. Where it does not succeed people
//! hear of it once, and the next word of the scrub begins it anew.

use super::core::Core;
use super::part::Part;
use super::sleds::{Ask, What};
use super::unit::{self, chapter_of};
use crate::wire::msg::OwnedColumn;
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;
use smallvec::{SmallVec, smallvec};

/// Rotten columns that are remembered; the scrub tells of more in its next pass.
const ROTTEN: usize = 64;

/// What rotted, and what is done about it.
#[derive(Debug, Default)]
pub(super) struct Rot {
    columns: SmallVec<[Rotten; 1]>,
    mend: Option<Box<Mend>>,
}

/// A column with rot.
#[derive(Clone, Copy, Debug)]
struct Rotten {
    column: ColumnRef,
    extent: ExtentId,
    chapter: u32,
    /// It is to be made good.
    due: bool,
    /// It could not be, and people were told.
    told: bool,
}

/// The column that is made good.
#[derive(Debug)]
struct Mend {
    rotten: Rotten,
    step: Step,
    asking: bool,
    /// Columns of that chapter, under any number; those of the same one but the rotten one once all are listed.
    copies: Vec<(ColumnRef, Number)>,
    number: Number,
    units: u32,
    mended: u32,
}

/// What is asked for next, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Which columns a device holds; by its place among the claims.
    List { claim: usize, from: u32 },
    /// A unit of the rotten column; `again` after it was written.
    Look { unit: u32, again: bool },
    /// The same unit of another copy.
    Fetch { unit: u32, copy: usize },
    /// It was written.
    Write { unit: u32 },
}

impl Rot {
    fn known(&mut self, column: ColumnRef) -> Option<&mut Rotten> {
        self.columns.iter_mut().find(|rotten| rotten.column == column)
    }

    /// The mend that a question was of, if it still stands there.
    fn awaits(&mut self, what: What, device: DeviceId) -> Option<&mut Mend> {
        let mend = self.mend.as_deref_mut()?;
        let of = match mend.step {
            Step::List { .. } => device,
            Step::Fetch { copy, .. } => mend.copies.get(copy)?.0.device,
            Step::Look { .. } | Step::Write { .. } => mend.rotten.column.device,
        };
        (mend.asking && what == What::Mend(mend.step) && of == device).then_some(mend)
    }
}

impl Mend {
    fn new(rotten: Rotten) -> Self {
        let step = Step::List { claim: 0, from: 0 };
        let (copies, number) = (Vec::new(), Number::ZERO);
        Self { rotten, step, asking: false, copies, number, units: 0, mended: 0 }
    }

    fn go_to(&mut self, step: Step) {
        (self.step, self.asking) = (step, false);
    }

    /// All devices are listed: which columns hold the same units.
    fn listed(&mut self) {
        let own = self.rotten.column;
        let number = self.copies.iter().find(|(column, _)| *column == own).map(|(_, number)| *number);
        self.number = number.unwrap_or(Number::ZERO);
        self.copies.retain(|&(column, other)| column != own && Some(other) == number);
        self.go_to(Step::Look { unit: 0, again: false });
    }
}

impl Part {
    /// What is to be asked next for the column that is made good; none when that came to its end.
    fn next_of_mend(&self, mend: &Mend) -> Option<(NodeId, DeviceId, Msg)> {
        let (partition, unit_blocks) = (self.cfg.partition, u32::from(self.cfg.geometry.unit_blocks));
        let read = |column: ColumnRef, unit: u32| {
            let (block, count) = (unit * unit_blocks, unit_blocks);
            (column.sled, column.device, Msg::ColumnRead { req: ReqId(0), partition, column, block, count })
        };
        match mend.step {
            Step::List { claim, from } => {
                let (sled, device) =
                    self.claims.get(claim).map(|claim| (claim.target.sled, claim.target.device))?;
                Some((sled, device, Msg::ColumnList { req: ReqId(0), device, partition, from }))
            }
            Step::Look { unit, .. } => (unit < mend.units).then(|| read(mend.rotten.column, unit)),
            Step::Fetch { unit, copy } => mend.copies.get(copy).map(|(column, _)| read(*column, unit)),
            // Asked where the bytes came in.
            Step::Write { .. } => None,
        }
    }

    /// The unit, if these are its bytes.
    fn is_copy(&self, mend: &Mend, unit: u32, data: &Buf) -> bool {
        let Ok((place, pieces)) = unit::decode(data) else { return false };
        let same =
            (place.stamp.number, place.chapter, place.unit) == (mend.number, mend.rotten.chapter, unit);
        same && place.stamp.partition == self.cfg.partition && unit::sound(data, &pieces)
    }
}

impl Core {
    /// A sled tells that a copy of what was acknowledged alone has rotted.
    pub(super) fn copy_rotten(
        &mut self,
        p: usize,
        column: &ColumnRef,
        extent: ExtentId,
        chapter: u32,
        out: &mut Out,
    ) {
        let part = &mut self.parts[p];
        if !part.journal.on || part.members.len() != 1 || self.cfg.faults.copy_rot_left() {
            return;
        }
        if let Some(known) = part.journal.rot.known(*column) {
            known.due = true;
        } else if part.journal.rot.columns.len() < ROTTEN {
            let rotten = Rotten { column: *column, extent, chapter, due: true, told: false };
            part.journal.rot.columns.push(rotten);
            part.stats.counters.corrupt += 1;
            let what = format!(
                "partition {} copy of what was acknowledged alone: found by scrub",
                part.cfg.partition
            );
            out.events.push(Event::Corrupt { place: "journal", what });
        }
        self.busy = true;
    }

    /// Goes on with what rotted.
    pub(super) fn step_mend(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let rot = &mut part.journal.rot;
        if rot.mend.is_none() {
            let Some(rotten) = rot.columns.iter_mut().find(|rotten| rotten.due) else { return };
            rotten.due = false;
            rot.mend = Some(Box::new(Mend::new(*rotten)));
        }
        let Some(mut mend) = rot.mend.take() else { return };
        while !mend.asking {
            let (Some((sled, device, msg)), step) = (self.parts[p].next_of_mend(&mend), mend.step) else {
                match mend.step {
                    Step::List { .. } => {
                        mend.listed();
                        continue;
                    }
                    Step::Look { .. } => return self.mended(p, &mend, out),
                    Step::Fetch { .. } | Step::Write { .. } => return self.not_mended(p, &mend, out),
                }
            };
            mend.asking = true;
            self.ask(now, Ask::new(p, sled, device, What::Mend(step), msg), out);
        }
        self.parts[p].journal.rot.mend = Some(mend);
    }

    /// What a device holds; nothing, when it does not say.
    pub(super) fn on_mend_listed(&mut self, ask: &Ask, columns: &[OwnedColumn], more: Option<u32>) {
        let Some(mend) = self.parts[ask.part].journal.rot.awaits(ask.what, ask.device) else { return };
        let Step::List { claim, .. } = mend.step else { return };
        for owned in columns {
            if chapter_of(owned.extent, owned.position) != Some(mend.rotten.chapter) {
                continue;
            }
            let (sled, device) = (ask.to, ask.device);
            let column = ColumnRef { sled, device, column: owned.column, generation: owned.generation };
            if column == mend.rotten.column {
                mend.units = owned.stripes;
            }
            mend.copies.push((column, owned.number));
        }
        mend.go_to(match more {
            Some(from) => Step::List { claim, from },
            None => Step::List { claim: claim + 1, from: 0 },
        });
        self.busy = true;
    }

    /// A unit of the rotten column, or of another copy; or it was not written.
    pub(super) fn on_mend_read(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        data: Option<Buf>,
        out: &mut Out,
    ) {
        let p = ask.part;
        let rot = &mut self.parts[p].journal.rot;
        let awaited = rot.awaits(ask.what, ask.device).is_some();
        let Some(mut mend) = rot.mend.take_if(|_| awaited) else { return };
        (mend.asking, self.busy) = (false, true);
        mend.step = match (mend.step, data.filter(|_| status.is_ok())) {
            (Step::Look { unit, .. }, Some(_)) => Step::Look { unit: unit + 1, again: false },
            (Step::Look { unit, again: false }, None) => Step::Fetch { unit, copy: 0 },
            (Step::Fetch { unit, copy }, data) => {
                match data.filter(|data| self.parts[p].is_copy(&mend, unit, data)) {
                    Some(data) => {
                        mend.asking = true;
                        self.write_again(now, p, &mend.rotten, unit, data, out);
                        Step::Write { unit }
                    }
                    None => Step::Fetch { unit, copy: copy + 1 },
                }
            }
            (Step::Look { .. } | Step::Write { .. } | Step::List { .. }, _) => {
                return self.not_mended(p, &mend, out);
            }
        };
        self.parts[p].journal.rot.mend = Some(mend);
    }

    fn write_again(&mut self, now: Time, p: usize, rotten: &Rotten, unit: u32, data: Buf, out: &mut Out) {
        let (stamp, column, extent) = (self.parts[p].stamp, rotten.column, rotten.extent);
        let token = self.token(p, column.device, column.column, column.generation);
        let (held, token) = (token.is_none(), token.unwrap_or_default());
        let (units, crcs) = (smallvec![data.clone()], smallvec![crc32c(&data)]);
        let msg = Msg::ColumnWrite { req: ReqId(0), stamp, column, token, extent, stripe: unit, units, crcs };
        let what = What::Mend(Step::Write { unit });
        self.ask(now, Ask { held, ..Ask::new(p, column.sled, column.device, what, msg) }, out);
    }

    /// A unit was written again, as far as the sled says: it is looked at once more.
    pub(super) fn on_mended(&mut self, ask: &Ask) {
        let Some(mend) = self.parts[ask.part].journal.rot.awaits(ask.what, ask.device) else { return };
        let Step::Write { unit } = mend.step else { return };
        mend.mended += 1;
        mend.go_to(Step::Look { unit, again: true });
        self.busy = true;
    }

    /// Every unit of the column is whole.
    fn mended(&mut self, p: usize, mend: &Mend, out: &mut Out) {
        let part = &mut self.parts[p];
        let column = mend.rotten.column;
        part.journal.rot.columns.retain(|rotten| rotten.column != column || rotten.due);
        if mend.mended > 0 {
            part.stats.counters.repaired += u64::from(mend.mended);
            let what = format!(
                "partition {} copy of what was acknowledged alone on device {}: {} units from other copies",
                part.cfg.partition, column.device, mend.mended
            );
            out.events.push(Event::Repaired { place: "journal", what });
        }
        self.busy = true;
    }

    /// It stays rotten: one of `m + 1` may be, as any sled may be lost. People hear that there is one less to lose.
    fn not_mended(&mut self, p: usize, mend: &Mend, out: &mut Out) {
        let part = &mut self.parts[p];
        let column = mend.rotten.column;
        self.busy = true;
        let Some(known) = part.journal.rot.known(column) else { return };
        if std::mem::replace(&mut known.told, true) {
            return;
        }
        out.events.push(Event::Attention(format!(
            "partition {}: one of {} copies of writes that were acknowledged alone has rotted on device {} and could \
             not be written again: bring a second head back, which makes them needless",
            part.cfg.partition,
            part.cfg.geometry.m + 1,
            column.device
        )));
    }
}
