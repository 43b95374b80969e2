//! Taking over what a lone head acknowledged and took with it: its copies are read from the sleds (P-30, MA-20).
//!
//! The authority grants a number to a head that was a full member before the other one ran alone, and says so:
//! `salvage` is the last number under which it was one. Then, before anything else:
//!
//! 1. **Claims.** All devices but `m` at most are claimed under the new number, and list their journal columns
//!    only after that. From here on the old head cannot get a copy on `m + 1` sleds any more, and everything that
//!    it did get there is on a device that was asked (see `journal`).
//! 2. **Order.** Columns of the same number and chapter are copies of one another; chapters are read by number,
//!    then in order. A head that restarted alone began a new number behind what it knew to be committed: what an
//!    older number says from there on is void.
//! 3. **Reading.** Each unit comes from any copy that is whole. The own log is compared and cut as the logs of a
//!    pair are: operation and number name an operation (P-01, P-06), so that every unit says under which number
//!    the operation before it was given out, and a missing one cannot go unnoticed. Where the own log has an
//!    operation of a newer number it was refilled before that was given out: that number's primary held whatever
//!    was acknowledged under older ones, and a log has no gaps. So chapters older than the last operation of the
//!    own log are not read at all; some of their copies may have been given back since. What follows is appended,
//!    and committed as it becomes durable: it was, or nobody heard of it.
//! 4. Only then the number goes into the log, and the head reconciles and serves as any other.
//!
//! A chapter ends where a copy of it does: that copy was never acknowledged further, so nothing was. A unit that
//! every copy should hold and none gives is a hole. With devices that were not asked yet, those may have it, and
//! the head waits; with none, it stops and says so: old data is never served for new.
//!
//! The number of units is bounded by the columns of the rack; one unit is read at a time, and appended before the
//! next one is asked for. A crash begins it anew: what was appended agrees with what is read again.

use super::core::Core;
use super::part::{Part, Phase};
use super::sleds::{Ask, What};
use super::take::Partial;
use super::unit::{self, Place};
use crate::wire::msg::OwnedColumn;
use crate::wire::*;
use palisade_dma::Buf;
use std::collections::BTreeMap;
use std::time::Duration;

/// Slow sleds get this long to grant and list when there are enough without them.
const GRACE: Duration = Duration::from_millis(500);
/// Pause before devices that did not answer are asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// The reading side.
#[derive(Debug)]
pub(super) struct Salvage {
    pub(super) base: Number,
    pub(super) started: Time,
    pub(super) surveys: Vec<Survey>,
    pub(super) stage: Stage,
    pub(super) chapters: Vec<Chapter>,
    /// What is read: a place in `chapters`, and the unit.
    pub(super) at: (usize, u32),
    pub(super) asking: bool,
    /// Copies that could not give that unit, a bit each.
    pub(super) failed: u64,
    /// One of them may give it another time.
    pub(super) silent: bool,
    /// Nothing is asked before.
    pub(super) again_at: Time,
    pub(super) partial: Option<Partial>,
    /// Everything up to here is as the lone head had it.
    pub(super) sure: Op,
    /// Devices that have to be asked, beside the rule, since a hole was met.
    pub(super) wanted: usize,
    pub(super) taken: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Claims, and lists of what is there.
    Survey,
    /// First unit of each chapter: where it begins.
    Begins,
    /// All units, in order.
    Units,
}

/// What a device holds.
#[derive(Debug)]
pub(super) struct Survey {
    device: DeviceId,
    sled: NodeId,
    from: u32,
    asking: bool,
    done: bool,
    columns: Vec<OwnedColumn>,
}

/// A chapter and its copies.
#[derive(Debug)]
pub(super) struct Chapter {
    pub(super) number: Number,
    pub(super) chapter: u32,
    pub(super) copies: Vec<(ColumnRef, u32)>,
    /// First operation of it.
    pub(super) first: Option<Op>,
    /// Last operation that counts.
    pub(super) limit: Op,
}

impl Salvage {
    pub(super) fn new(now: Time, base: Number) -> Self {
        Self {
            base,
            started: now,
            surveys: Vec::new(),
            stage: Stage::Survey,
            chapters: Vec::new(),
            at: (0, 0),
            asking: false,
            failed: 0,
            silent: false,
            again_at: now,
            partial: None,
            sure: Op(0),
            wanted: 0,
            taken: 0,
        }
    }

    /// Copies of what is read, best first: the next one to ask.
    fn next_copy(&self) -> Option<usize> {
        let chapter = self.chapters.get(self.at.0)?;
        (0..chapter.copies.len().min(64))
            .find(|&copy| self.failed & (1 << copy) == 0 && chapter.copies[copy].1 > self.at.1)
    }

    /// Whether the chapter ends before the unit: some copy never had it.
    fn ends(&self) -> bool {
        self.chapters
            .get(self.at.0)
            .is_some_and(|chapter| chapter.copies.iter().any(|copy| copy.1 <= self.at.1))
    }

    pub(super) fn go_to(&mut self, at: (usize, u32)) {
        (self.at, self.failed, self.silent) = (at, 0, false);
    }

    /// Orders what was found, and begins to read. `vouched`: the own log holds everything of older numbers.
    fn order(&mut self, vouched: Number, own: Number) {
        let mut found: BTreeMap<(Number, u32), Vec<(ColumnRef, u32)>> = BTreeMap::new();
        for survey in self.surveys.iter().filter(|survey| survey.done) {
            for column in &survey.columns {
                let Some(chapter) = unit::chapter_of(column.extent, column.position) else { continue };
                if column.number <= self.base || column.number < vouched || column.number >= own {
                    continue;
                }
                let place = ColumnRef {
                    sled: survey.sled,
                    device: survey.device,
                    column: column.column,
                    generation: column.generation,
                };
                found.entry((column.number, chapter)).or_default().push((place, column.stripes));
            }
        }
        let chapter = |((number, chapter), copies)| Chapter {
            number,
            chapter,
            copies,
            first: None,
            limit: Op(u64::MAX),
        };
        self.chapters = found.into_iter().map(chapter).collect();
        self.stage = Stage::Begins;
        self.partial = None;
        self.go_to((0, 0));
    }

    /// Knows where every chapter begins: what an older number says from there on is void.
    fn limit(&mut self, trusts: bool) {
        let mut next: Option<(Number, Op)> = None;
        let mut limit = Op(u64::MAX);
        for chapter in self.chapters.iter_mut().rev() {
            if let Some((number, first)) = next
                && chapter.number < number
            {
                limit = limit.min(Op(first.0 - 1));
            }
            if !trusts {
                chapter.limit = limit;
            }
            if let Some(first) = chapter.first {
                next = Some(match next {
                    Some((number, other)) if number == chapter.number => (number, other.min(first)),
                    _ => (chapter.number, first),
                });
            }
        }
        self.stage = Stage::Units;
        self.go_to((0, 0));
    }
}

impl Part {
    /// Whether it reads copies on sleds before it takes its number.
    pub(super) fn salvages(&self) -> bool {
        self.phase == Phase::Probing && self.salvage.is_some()
    }

    /// The pair under which devices are claimed: a salvage claims before the pair is adopted.
    pub(super) fn claims_as(&self) -> Stamp {
        match &self.probing {
            Some(probing) if self.salvages() => {
                let (number, grant) = (probing.adopt.number, probing.adopt.grant);
                Stamp { partition: self.cfg.partition, number, grant }
            }
            _ => self.stamp,
        }
    }
}

impl Core {
    /// Goes on as far as it can.
    pub(super) fn step_salvage(&mut self, now: Time, p: usize, out: &mut Out) {
        if !self.cfg.faults.salvage_unclaimed() {
            self.claim_devices(now, p, out);
        }
        let part = &mut self.parts[p];
        let tail = part.tail;
        part.unload_upto(tail);
        let Some(salvage) = &part.salvage else { return };
        if !part.follow.early.is_empty() || salvage.asking {
            return;
        }
        if now < salvage.again_at {
            let at = salvage.again_at;
            return self.arm(at);
        }
        match salvage.stage {
            Stage::Survey => self.survey(now, p, out),
            Stage::Begins | Stage::Units => self.read_on(now, p, out),
        }
    }

    /// Asks devices what they hold, each after its claim; begins to read when enough have answered.
    fn survey(&mut self, now: Time, p: usize, out: &mut Out) {
        let unclaimed = self.cfg.faults.salvage_unclaimed();
        let part = &mut self.parts[p];
        let (partition, own, m) =
            (part.cfg.partition, part.claims_as().number, usize::from(part.cfg.geometry.m));
        let vouched = part.number_of(part.tail);
        let Some(salvage) = &mut part.salvage else { return };
        salvage.surveys.retain(|survey| part.claims.iter().any(|claim| claim.target.device == survey.device));
        let mut asks = Vec::new();
        for claim in part.claims.iter().filter(|claim| claim.secret.is_some() || unclaimed) {
            let (sled, device) = (claim.target.sled, claim.target.device);
            let known = salvage.surveys.iter().position(|survey| survey.device == device);
            let known = known.unwrap_or_else(|| {
                let (from, columns) = (0, Vec::new());
                salvage.surveys.push(Survey { device, sled, from, asking: false, done: false, columns });
                salvage.surveys.len() - 1
            });
            let survey = &mut salvage.surveys[known];
            if !survey.asking && !survey.done {
                survey.asking = true;
                let msg = Msg::ColumnList { req: ReqId(0), device, partition, from: survey.from };
                asks.push(Ask::new(p, sled, device, What::Survey, msg));
            }
        }
        let (all, done) = (part.claims.len(), salvage.surveys.iter().filter(|survey| survey.done).count());
        let enough = all > m && (done + m >= all || unclaimed && done > m) && done >= salvage.wanted;
        let graced = unclaimed || now.since(salvage.started) >= GRACE;
        if done > m && (done == all || (enough && graced)) {
            salvage.order(vouched, own);
            self.busy = true;
        }
        for ask in asks {
            self.ask(now, ask, out);
        }
        self.arm(now + AGAIN / 4);
    }

    /// What a device holds, or a part of it.
    pub(super) fn on_surveyed(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        columns: &[OwnedColumn],
        more: Option<u32>,
        out: &mut Out,
    ) {
        let p = ask.part;
        let Some(salvage) = self.parts[p].salvage.as_mut() else { return };
        let Some(survey) = salvage.surveys.iter_mut().find(|survey| survey.device == ask.device) else {
            return;
        };
        survey.asking = false;
        if status.is_ok() {
            survey.columns.extend_from_slice(columns);
            survey.done = more.is_none();
            survey.from = more.unwrap_or(survey.from);
            self.probe_on(now, p, out);
        } else {
            self.arm(now + AGAIN);
        }
    }

    /// Asks for the next unit, or ends.
    fn read_on(&mut self, now: Time, p: usize, out: &mut Out) {
        let trusts = self.cfg.faults.salvage_trusts_older();
        loop {
            let part = &mut self.parts[p];
            let (partition, unit_blocks) = (part.cfg.partition, u32::from(part.cfg.geometry.unit_blocks));
            let Some(salvage) = &mut part.salvage else { return };
            let (at, unit) = salvage.at;
            let begins = salvage.stage == Stage::Begins;
            if at >= salvage.chapters.len() {
                if begins {
                    salvage.limit(trusts);
                    continue;
                }
                return self.salvaged(now, p, out);
            }
            let Some(copy) = salvage.next_copy() else {
                if !salvage.ends() && !salvage.chapters[at].copies.iter().all(|copy| copy.1 <= unit) {
                    return self.on_hole(now, p, out);
                }
                salvage.go_to((at + 1, 0));
                continue;
            };
            salvage.asking = true;
            let column = salvage.chapters[at].copies[copy].0;
            let count = if begins { 1 } else { unit_blocks };
            let block = unit * unit_blocks;
            let msg = Msg::ColumnRead { req: ReqId(0), partition, column, block, count };
            let what = What::SalvageRead { chapter: at, unit, copy };
            self.ask(now, Ask::new(p, column.sled, column.device, what, msg), out);
            return;
        }
    }

    /// A unit, or the first block of one.
    pub(super) fn on_salvaged(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        data: Option<Buf>,
        out: &mut Out,
    ) {
        let What::SalvageRead { chapter, unit, copy } = ask.what else { return };
        let p = ask.part;
        let Some(salvage) = self.parts[p].salvage.as_mut().filter(|salvage| salvage.at == (chapter, unit))
        else {
            return;
        };
        salvage.asking = false;
        let begins = salvage.stage == Stage::Begins;
        let read = data.filter(|_| status.is_ok()).and_then(|data| {
            let (place, pieces) = unit::decode(&data).ok()?;
            (self.fits(p, chapter, unit, &place) && (begins || unit::sound(&data, &pieces)))
                .then_some((place, pieces, data))
        });
        match read {
            Some((_, pieces, _)) if begins => self.begins_with(p, pieces[0].op),
            Some((place, pieces, data)) => self.take_unit(now, p, &place, &pieces, &data, out),
            None => self.copy_failed(p, copy, status),
        }
        self.probe_on(now, p, out);
    }

    /// Whether a unit is the one that was asked for.
    fn fits(&self, p: usize, chapter: usize, unit: u32, place: &Place) -> bool {
        let part = &self.parts[p];
        part.salvage.as_ref().and_then(|salvage| salvage.chapters.get(chapter)).is_some_and(|known| {
            place.stamp.partition == part.cfg.partition
                && (place.stamp.number, place.chapter, place.unit) == (known.number, known.chapter, unit)
        })
    }

    fn begins_with(&mut self, p: usize, first: Op) {
        if let Some(salvage) = &mut self.parts[p].salvage {
            let at = salvage.at.0;
            salvage.chapters[at].first = Some(first);
            salvage.go_to((at + 1, 0));
        }
    }

    fn copy_failed(&mut self, p: usize, copy: usize, status: Status) {
        let part = &mut self.parts[p];
        let Some(salvage) = &mut part.salvage else { return };
        salvage.failed |= 1 << copy;
        if status.is_ok() || status == Status::Corrupt {
            part.stats.counters.corrupt += 1;
        } else {
            salvage.silent = true;
        }
    }

    /// Something that was acknowledged may be missing: other devices may have it.
    pub(super) fn on_hole(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let partition = part.cfg.partition;
        let all = part.claims.len();
        let Some(salvage) = &mut part.salvage else { return };
        let done = salvage.surveys.iter().filter(|survey| survey.done).count();
        let (at, unit) = salvage.at;
        let what = match salvage.chapters.get(at) {
            Some(chapter) => format!(
                "partition {partition}: copies of what was acknowledged alone under {} are incomplete (chapter {}, unit {unit})",
                chapter.number, chapter.chapter
            ),
            None => format!("partition {partition}: copies of what was acknowledged alone are incomplete"),
        };
        salvage.partial = None;
        if done < all || salvage.silent {
            if salvage.wanted == 0 {
                out.events
                    .push(Event::Note(format!("{what}; waits for the devices that did not answer yet")));
            }
            salvage.wanted = if salvage.silent { done.max(1) } else { done + 1 };
            salvage.stage = Stage::Survey;
            salvage.again_at = now + AGAIN;
            return self.arm(now + AGAIN);
        }
        out.events.push(Event::Corrupt { place: "journal", what });
        self.stop(p, "copies of what was acknowledged alone are incomplete", ClientError::Unreadable, out);
    }

    /// All of it is here: the number may be taken.
    fn salvaged(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let Some(salvage) = part.salvage.take() else { return };
        out.events.push(Event::Note(format!(
            "partition {}: {} operations that were acknowledged alone taken over from {} chapters on sleds",
            part.cfg.partition,
            salvage.taken,
            salvage.chapters.len()
        )));
        let tail = part.tail;
        if let Some(probing) = &mut part.probing {
            (probing.readable, probing.asked) = (tail, None);
        }
        self.busy = true;
        self.probe_on(now, p, out);
    }
}
