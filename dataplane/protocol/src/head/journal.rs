//! Writes of a lone head that outlive it: copies on sleds before they are acknowledged (P-30, `SoloByLeave`).
//!
//! A group of one that was granted with `copies` commits an operation when its own log is durable up to it *and*
//! `m + 1` distinct sleds hold a copy of it under its number. The copies lie in *journal columns*, taken by the
//! ordinary reserve and written under the ordinary tokens, so that whoever claims the sleds under a higher number
//! ends them (EF-15): a head that was superseded in its sleep can acknowledge nothing more.
//!
//! Why `m + 1`: whoever salvages claims all but `m` devices at least. It cannot miss all of `m + 1`, and a copy
//! that was asked for after its claims cannot be had on all of `m + 1`. So what it finds is everything that was
//! acknowledged. Full copies on few sleds instead of a stripe over all: a turn's operations are small, a stripe
//! would be padded to as many units, and one good copy is enough to read.
//!
//! The journal is cut in *chapters* of as many units as a column has room for, one column on each of `m + 1`
//! sleds, and begins behind the last operation that every member of the pair before is known to hold. A copy that
//! fails ends its chapter; the next one, on other sleds, begins with the first operation that is not acknowledged.
//! A unit that is not full waits for the one before it: that bounds the padding without delaying a lone write.
//! Payload is copied once, into the unit, which is one buffer with its header.
//!
//! While a head is alone nothing is flushed, collected or released, and nothing of the journal is given back
//! before a group of two serves again with everything in both logs (`claims`, P-28). Without `m + 1` sleds that
//! have room, writes wait (`Bounded`).

use super::core::Core;
use super::extent::PAUSE;
use super::mend::Rot;
use super::part::{MakeColumn, Part, Phase};
use super::sleds::{Ask, What};
use super::unit::{Deed, Filling, Piece, Place, encode_other, named};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_isal::crc32c;
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;

/// Units under way at once.
const FLIGHT: usize = 8;

/// The giving side.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The present group of one acknowledges with copies only.
    pub(super) on: bool,
    chapter: u32,
    /// One for each copy; empty before the first unit of a chapter.
    columns: SmallVec<[MakeColumn; 8]>,
    refused: SmallVec<[DeviceId; 8]>,
    next_unit: u32,
    /// Last operation that is wholly in units, and how many blocks of the one behind it are.
    put: Op,
    put_blocks: usize,
    /// Every operation up to here has all its copies.
    pub(super) acked: Op,
    flight: VecDeque<Flight>,
    again_at: Time,
    /// There are too few sleds for a chapter, and that was told.
    pub(super) waits: bool,
    /// Copies that rotted, and how far they are made good.
    pub(super) rot: Rot,
}

/// A unit under way.
#[derive(Debug)]
struct Flight {
    unit: u32,
    copies: u16,
    /// Last operation that ends in it.
    upto: Op,
}

impl Journal {
    /// Begins behind `committed`, which every member of the pair before holds.
    pub(super) fn begin(&mut self, committed: Op) {
        *self = Self { on: self.on, put: committed, acked: committed, ..Self::default() };
    }

    fn ready(&self) -> bool {
        !self.columns.is_empty() && self.columns.iter().all(|column| matches!(column, MakeColumn::Got(_)))
    }

    /// Whether an answer about a column for a copy of that chapter is awaited.
    pub(super) fn awaits(&self, chapter: u32, at: usize, device: DeviceId) -> bool {
        self.chapter == chapter && self.columns.get(at) == Some(&MakeColumn::Asking(device))
    }

    /// The chapter is full: the next one goes on where it ends.
    fn turn_page(&mut self) {
        self.chapter += 1;
        self.columns.clear();
        self.flight.clear();
        self.next_unit = 0;
    }
}

impl Part {
    /// Highest operation that the copies allow to be acknowledged.
    #[inline]
    pub(super) fn copied(&self) -> Op {
        if self.journal.on && self.members.len() == 1 { self.journal.acked } else { Op(u64::MAX) }
    }

    /// Alone, so that extents and releases rest: what the other one's index names stays true (P-30).
    #[inline]
    pub(super) fn rests(&self) -> bool {
        self.members.len() == 1 && (self.journal.on || self.cfg.solo != super::config::Solo::Local)
    }

    /// The number under which an operation was given out; zero when that is not known here any more.
    pub(super) fn number_of(&self, op: Op) -> Number {
        let before = Op(op.0.saturating_sub(1));
        let held = self.held_after(before).next().filter(|held| held.entry.op == op);
        held.map_or(Number::ZERO, |held| held.entry.number)
    }

    /// Puts operations behind `put` into a unit; says how far it came, or `Err` with the operation behind which
    /// bytes are not in memory.
    fn fill(&self, filling: &mut Filling<'_>, mut put: Op, mut skip: usize) -> Result<(Op, usize), Op> {
        for held in self.held_after(put) {
            let entry = &held.entry;
            if entry.op.0 != put.0 + 1 || !held.loaded {
                return if filling.is_empty() { Err(put) } else { Ok((put, skip)) };
            }
            let other;
            let (deed, all, data): (_, usize, &[u8]) = match &entry.body {
                Body::Write { lba, crcs, data } => (Deed::Write(*lba), crcs.len(), data),
                Body::Clear { lba, count } => (Deed::Clear(*lba, *count), 0, &[]),
                _ => {
                    let (bytes, padded) = encode_other(entry);
                    other = padded;
                    (Deed::Other(bytes), other.len() / BLOCK, &other)
                }
            };
            let Some(room) = filling.room() else { break };
            let here = (all - skip).min(room);
            if here == 0 && all > 0 {
                break;
            }
            let payload = &data[skip * BLOCK..(skip + here) * BLOCK];
            let crcs = match &entry.body {
                Body::Write { crcs, .. } => crcs[skip..skip + here].iter().copied().collect(),
                _ => payload.chunks_exact(BLOCK).map(crc32c).collect(),
            };
            let (first, all) = (skip as u16, all as u16);
            filling.push(&Piece { op: entry.op, number: entry.number, deed, first, all, crcs }, payload);
            skip += here;
            if skip < usize::from(all) {
                break;
            }
            (put, skip) = (entry.op, 0);
        }
        Ok((put, skip))
    }

    /// Payload blocks that wait for a unit, up to `most`.
    fn uncopied(&self, most: usize) -> usize {
        let mut blocks = 0;
        for held in self.held_after(self.journal.put) {
            blocks += super::replicate::cost(&held.entry.body) as usize;
            if blocks >= most {
                break;
            }
        }
        blocks.saturating_sub(self.journal.put_blocks)
    }
}

impl Core {
    /// Copies to sleds what is numbered and has no copies yet. Runs each turn.
    pub(super) fn step_journal(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &self.parts[p];
        let leads = matches!(part.phase, Phase::Announcing | Phase::Serving);
        if !part.journal.on || !leads || part.members.len() != 1 {
            return;
        }
        self.step_mend(now, p, out);
        while self.parts[p].journal.put < self.parts[p].tail {
            let part = &self.parts[p];
            let (journal, geometry) = (&part.journal, part.cfg.geometry);
            let capacity = usize::from(geometry.unit_blocks).saturating_sub(1);
            let full = part.uncopied(capacity) >= capacity;
            if journal.flight.len() >= FLIGHT || (!journal.flight.is_empty() && !full) {
                return;
            }
            if journal.next_unit >= geometry.stripes {
                if journal.flight.is_empty() {
                    self.parts[p].journal.turn_page();
                    continue;
                }
                return;
            }
            if !journal.ready() {
                return self.choose_copies(now, p, out);
            }
            if !self.write_unit(now, p, out) {
                return;
            }
        }
    }

    /// Fills a unit and sends it to every copy; says whether there may be another one.
    fn write_unit(&mut self, now: Time, p: usize, out: &mut Out) -> bool {
        let (put, skip) = (self.parts[p].journal.put, self.parts[p].journal.put_blocks);
        let unit_bytes = usize::from(self.parts[p].cfg.geometry.unit_blocks) * BLOCK;
        let Some(mut buf) = self.pool.alloc(unit_bytes) else {
            self.arm(now + std::time::Duration::from_millis(1));
            return false;
        };
        let before = self.parts[p].number_of(put);
        let part = &mut self.parts[p];
        let mut filling = Filling::new(&mut buf);
        let (upto, blocks) = match part.fill(&mut filling, put, skip) {
            Ok(come) => come,
            Err(after) => {
                self.load_after(now, p, after, out);
                return false;
            }
        };
        if filling.is_empty() {
            return false;
        }
        let (stamp, journal) = (part.stamp, &mut part.journal);
        let (chapter, unit) = (journal.chapter, journal.next_unit);
        filling.finish(&Place { stamp, chapter, unit, prior: (put, before) });
        (journal.put, journal.put_blocks) = (upto, blocks);
        journal.next_unit += 1;
        journal.flight.push_back(Flight { unit, copies: 0, upto });
        part.stats.counters.journal_units += 1;
        self.send_unit(now, p, (chapter, unit), buf.freeze(), out);
        true
    }

    fn send_unit(
        &mut self,
        now: Time,
        p: usize,
        (chapter, unit): (u32, u32),
        bytes: palisade_dma::Buf,
        out: &mut Out,
    ) {
        let (stamp, crc) = (self.parts[p].stamp, crc32c(&bytes));
        for at in 0..self.parts[p].journal.columns.len() {
            let MakeColumn::Got(column) = self.parts[p].journal.columns[at] else { continue };
            let Some(sled) = self.parts[p].sled_of(column.device) else {
                return self.fail_copy(now, p);
            };
            let token = self.token(p, column.device, column.column, column.generation);
            let (held, token) = (token.is_none(), token.unwrap_or_default());
            let (extent, _) = named(chapter, at);
            let (units, crcs) = (smallvec![bytes.clone()], smallvec![crc]);
            let msg =
                Msg::ColumnWrite { req: ReqId(0), stamp, column, token, extent, stripe: unit, units, crcs };
            let what = What::JournalWrite { chapter, unit, at };
            self.ask(now, Ask { held, ..Ask::new(p, sled, column.device, what, msg) }, out);
        }
    }

    /// Copies that an operation needs.
    fn copies(&self, p: usize) -> usize {
        let m = usize::from(self.parts[p].cfg.geometry.m);
        if self.cfg.faults.solo_m_copies() { m } else { m + 1 }
    }

    /// Asks sleds for the columns of the next chapter, one each.
    fn choose_copies(&mut self, now: Time, p: usize, out: &mut Out) {
        let copies = self.copies(p);
        let journal = &mut self.parts[p].journal;
        if now < journal.again_at {
            let at = journal.again_at;
            return self.arm(at);
        }
        if journal.columns.is_empty() {
            journal.columns = SmallVec::from_elem(MakeColumn::Open, copies);
        }
        let refused = journal.refused.clone();
        self.count_again(now, p);
        let found = self.candidates(now, p, false, &refused);
        for at in 0..copies {
            let part = &self.parts[p];
            if part.journal.columns[at] != MakeColumn::Open {
                continue;
            }
            let used = |sled: NodeId| {
                let taken = part.journal.columns.iter().filter_map(MakeColumn::device);
                taken.into_iter().any(|device| part.sled_of(device) == Some(sled))
            };
            let free = found.iter().map(|&at| part.claims[at].target).find(|target| !used(target.sled));
            let token = free.and_then(|target| self.device_token(p, target.device));
            let (Some(target), Some(token)) = (free, token) else {
                return self.no_copies(now, p, out);
            };
            let (stamp, chapter) = (part.stamp, part.journal.chapter);
            self.parts[p].journal.columns[at] = MakeColumn::Asking(target.device);
            let ((extent, position), device) = (named(chapter, at), target.device);
            let prefer = target.sandbox;
            let msg = Msg::ColumnReserve { req: ReqId(0), device, stamp, token, extent, position, prefer };
            let what = What::JournalColumn { chapter, at };
            self.ask(now, Ask::new(p, target.sled, device, what, msg), out);
        }
    }

    /// Too few sleds: writes wait, and are told to.
    fn no_copies(&mut self, now: Time, p: usize, out: &mut Out) {
        let copies = self.copies(p);
        let part = &mut self.parts[p];
        part.journal.again_at = now + PAUSE;
        part.journal.refused.clear();
        // Right after a take-over the sleds have yet to grant.
        let early = part.claims.iter().any(|claim| claim.secret.is_none() && claim.asking.is_some());
        if !early && !std::mem::replace(&mut part.journal.waits, true) {
            out.events.push(Event::Note(format!(
                "partition {}: alone, and fewer than {copies} sleds have room for copies: writes wait",
                part.cfg.partition
            )));
        }
        self.arm(now + PAUSE);
    }

    /// A sled gave a column for a copy, or refused.
    pub(super) fn on_journal_column(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        mut column: ColumnRef,
        out: &mut Out,
    ) {
        let What::JournalColumn { chapter, at } = ask.what else { return };
        let p = ask.part;
        column.sled = ask.to;
        let part = &mut self.parts[p];
        // One that comes too late is found by the list of the group of two, as those of older chapters are.
        if !part.journal.awaits(chapter, at, ask.device) {
            return;
        }
        let partition = part.id();
        if status.is_ok() {
            part.journal.columns[at] = MakeColumn::Got(column);
            if part.journal.ready() {
                part.journal.waits = false;
                part.journal.refused.clear();
            }
        } else {
            part.journal.columns[at] = MakeColumn::Open;
            part.journal.refused.push(ask.device);
        }
        match status {
            Status::Ok => {
                if let Some(claim) = self.parts[p].claim(ask.device) {
                    claim.free = claim.free.saturating_sub(1);
                }
            }
            Status::NotFree => {
                if let Some(claim) = self.parts[p].claim(ask.device) {
                    claim.free = 0;
                }
            }
            Status::Fenced { number, grant, .. } | Status::StaleNumber { number, grant } => {
                self.fenced(now, p, ask.device, Stamp { partition, number, grant }, out);
            }
            Status::NoToken => self.reclaim(now, p, ask.device),
            _ => self.suspect(now, p, ask.device),
        }
        self.busy = true;
    }

    pub(super) fn copy_durable(&mut self, p: usize, chapter: u32, unit: u32, at: usize) {
        let wanted = self.copies(p);
        let journal = &mut self.parts[p].journal;
        if journal.chapter != chapter {
            return;
        }
        if let Some(flight) = journal.flight.iter_mut().find(|flight| flight.unit == unit) {
            flight.copies |= 1 << at;
        }
        while let Some(flight) =
            journal.flight.pop_front_if(|flight| flight.copies.count_ones() as usize >= wanted)
        {
            journal.acked = flight.upto;
        }
        self.busy = true;
    }

    /// A copy of that chapter cannot be written.
    pub(super) fn copy_refused(&mut self, now: Time, p: usize, chapter: u32) {
        if self.parts[p].journal.chapter == chapter {
            self.fail_copy(now, p);
        }
    }

    /// A copy failed: the chapter ends with what is acknowledged, the next one goes to other sleds.
    fn fail_copy(&mut self, now: Time, p: usize) {
        let journal = &mut self.parts[p].journal;
        journal.turn_page();
        (journal.put, journal.put_blocks) = (journal.acked, 0);
        let mut ids = Vec::new();
        let mine = |what: &What| matches!(what, What::JournalWrite { .. } | What::JournalColumn { .. });
        self.asks.pick(&mut ids, |ask| ask.part == p && mine(&ask.what));
        ids.into_iter().for_each(|id| drop(self.asks.remove(id)));
        self.arm(now);
        self.busy = true;
    }
}
