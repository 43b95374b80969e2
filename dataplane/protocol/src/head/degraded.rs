//! Pieces in extents: one column read when all is well; when the column is absent, rotten, lost, late or
//! silent, the same blocks of any k others, decoded (EF-06, EF-11, P-15, P-23, P-25).
//!
//! Blocks are checked against the index. When rebuilt blocks do not match, one of the sources was rotten
//! and its sled could not tell from part of a unit: then whole units are read, which sleds do verify.
//! What another piece of the same read reads anyway is not asked for again: see `borrow`.

use super::core::Core;
use super::part::Phase;
use super::piece::{Source, Want, room};
use super::read::Read;
use super::slab::Id;
use super::sleds::{Ask, What};
use super::unit::chapter_of;
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, BufMut};
use palisade_isal::crc32c;
use smallvec::SmallVec;
use std::time::Duration;

/// A run of blocks of one stripe unit.
#[derive(Clone, Debug)]
pub(super) struct ColumnRead {
    desc: ExtentDesc,
    pub(super) slot: u32,
    pub(super) stripe: u32,
    pub(super) target: usize,
    /// First block in the unit, and blocks.
    pub(super) first: u32,
    pub(super) count: u32,
    /// A bit per column.
    asked: u16,
    pub(super) failed: u16,
    /// Columns that come, or came, from other pieces of the read.
    pub(super) borrowed: u16,
    pub(super) got: SmallVec<[Option<Buf>; 8]>,
    /// Other columns were asked.
    pub(super) spread: bool,
    /// Whole units are read.
    pub(super) whole: bool,
    /// Columns of silent sleds: asked when the others do not suffice.
    slow: u16,
    /// Columns marked rotten: asked last of all, since what rotted may be other stripes.
    marked: u16,
}

impl ColumnRead {
    pub(super) fn extent(&self) -> ExtentId {
        self.desc.id
    }

    /// From now on whole units are read, anew.
    fn restart_whole(&mut self) {
        self.whole = true;
        (self.asked, self.borrowed) = (0, 0);
        self.got.iter_mut().for_each(|got| *got = None);
    }
}

impl Core {
    /// Where blocks `block..block + count` of an extent lie; they lie in one unit.
    pub(super) fn column_source(&self, p: usize, slot: u32, block: u32, count: u32) -> Source {
        let Some(extent) = self.parts[p].index.extent(slot) else { return Source::Nowhere };
        let desc = extent.desc.clone();
        let (stripe, target, first) = desc.geometry.locate(block);
        let got = SmallVec::from_elem(None, desc.columns.len());
        let (asked, failed, borrowed, slow, marked, spread, whole) = (0, 0, 0, 0, 0, false, false);
        Source::Column(Box::new(ColumnRead {
            desc,
            slot,
            stripe,
            target,
            first,
            count,
            asked,
            failed,
            borrowed,
            got,
            spread,
            whole,
            slow,
            marked,
        }))
    }

    pub(super) fn column_read(&mut self, id: Id) -> Option<(usize, &mut ColumnRead, &SmallVec<[Want; 2]>)> {
        let piece = self.pieces.get_mut(id)?;
        match &mut piece.source {
            Source::Column(read) => Some((piece.part, read, &piece.wants)),
            _ => None,
        }
    }

    pub(super) fn start_column(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some((p, read, _)) = self.column_read(id) else { return };
        let (extent, slot, stripe, target) = (read.desc.id, read.slot, read.stripe, read.target);
        let columns = read.desc.columns.clone();
        let part = &self.parts[p];
        let absent = part.index.extent(slot).and_then(|extent| extent.absent.get(stripe as usize)).copied();
        let mut gone = absent.unwrap_or(0);
        let marked = part.rot.get(&extent).copied().unwrap_or(0);
        let mut slow = 0u16;
        for (at, column) in columns.iter().enumerate() {
            match column.and_then(|column| part.sled_of(column.device)) {
                None => gone |= 1 << at,
                Some(sled) if self.silent(sled, now) || self.ill(*column) => slow |= 1 << at,
                Some(_) => {}
            }
        }
        let bad = gone | marked;
        // Silent sleds are asked only when the others do not suffice.
        let k = usize::from(part_k(&columns, self.parts[p].index.extent(slot)));
        let usable = columns.len() - (bad | slow).count_ones() as usize;
        let failed = if usable >= k { bad | slow } else { bad };
        if let Some((_, read, _)) = self.column_read(id) {
            read.failed = failed;
            read.slow = failed & slow & !bad;
            read.marked = marked & !gone;
        }
        if failed & (1 << target) == 0 {
            self.ask_column(now, id, target, true, out);
        } else {
            self.spread(now, id, out);
        }
    }

    fn ask_column(&mut self, now: Time, id: Id, at: usize, hedged: bool, out: &mut Out) {
        let any = self.cfg.faults.read_any_generation();
        let Some((p, read, _)) = self.column_read(id) else { return };
        read.asked |= 1 << at;
        let unit = u32::from(read.desc.geometry.unit_blocks);
        let (first, count) = if read.whole { (0, unit) } else { (read.first, read.count) };
        let block = read.stripe * unit + first;
        let Some(Some(mut column)) = read.desc.columns.get(at).copied() else { return };
        let part = &self.parts[p];
        let Some(sled) = part.sled_of(column.device) else { return };
        if any {
            column.generation = 0;
        }
        let partition = part.cfg.partition;
        let msg = Msg::ColumnRead { req: ReqId(0), partition, column, block, count };
        let mut ask = Ask::new(p, sled, column.device, What::Read { piece: id, column: at }, msg);
        ask.hedge_at = hedged.then(|| now + self.hedge_after(sled));
        self.ask(now, ask, out);
    }

    /// The column is late: ask enough others to do without it.
    pub(super) fn hedge(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some((p, read, _)) = self.column_read(id) else { return };
        if read.spread {
            return;
        }
        self.parts[p].stats.counters.hedged += 1;
        self.spread(now, id, out);
    }

    /// Asks other columns until k are there or on their way, the target not counted.
    pub(super) fn spread(&mut self, now: Time, id: Id, out: &mut Out) {
        self.recall(now, id, out);
        self.borrow(id);
        if self.rebuildable(id) {
            return self.decode(now, id, out);
        }
        let Some((_, read, _)) = self.column_read(id) else { return };
        let k = usize::from(read.desc.geometry.k);
        let counted = if read.whole { u16::MAX } else { !(1u16 << read.target) };
        let coming = (read.asked | read.borrowed) & !read.failed & counted;
        let mut coming = coming.count_ones() as usize;
        let mut more: SmallVec<[usize; 8]> = SmallVec::new();
        for at in 0..read.desc.columns.len() {
            let bit = 1u16 << at;
            if coming < k && (read.asked | read.borrowed | read.failed) & bit == 0 && counted & bit != 0 {
                more.push(at);
                coming += 1;
            }
        }
        let target_open = read.asked & !read.failed & (1 << read.target) != 0;
        if coming < k && read.slow != 0 {
            read.failed &= !read.slow;
            read.slow = 0;
            return self.spread(now, id, out);
        }
        if coming < k && (read.asked | read.failed) & (1 << read.target) == 0 {
            // It was passed over while its sled was silent; the others do not suffice.
            let target = read.target;
            self.ask_column(now, id, target, false, out);
            return self.spread(now, id, out);
        }
        if coming < k && !target_open && read.marked != 0 {
            // The last resort: a column that rotted elsewhere may hold good units of this stripe. Whole units,
            // which sleds verify; a unit that is rotten is answered so.
            let (target, marked) = (read.target, std::mem::take(&mut read.marked));
            read.failed &= !marked;
            if !read.whole {
                read.restart_whole();
                self.forget_reads(id);
            }
            if marked & (1 << target) != 0 {
                self.ask_column(now, id, target, false, out);
            }
            return self.spread(now, id, out);
        }
        if coming < k && !target_open {
            return self.column_lost(now, id, out);
        }
        for at in more {
            self.ask_column(now, id, at, false, out);
        }
    }

    pub(super) fn on_column_data(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        data: Option<Buf>,
        out: &mut Out,
    ) {
        let What::Read { piece: id, column } = ask.what else { return };
        let unchecked = self.cfg.faults.no_crc_check();
        let Some((p, read, wants)) = self.column_read(id) else { return };
        let unit = u32::from(read.desc.geometry.unit_blocks);
        let blocks = if read.whole { unit } else { read.count } as usize;
        let extent = read.desc.id;
        match (status, data) {
            // Of the round before: parts of a unit where whole ones are wanted by now.
            (Status::Ok, Some(data)) if data.len() != blocks * BLOCK => {}
            (Status::Ok, Some(data)) if column == read.target => {
                let from = if read.whole { read.first as usize * BLOCK } else { 0 };
                let part = data.slice(from..from + read.count as usize * BLOCK);
                if unchecked || right(&part, wants) {
                    return self.piece_done(now, id, Ok(part), out);
                }
                read.failed |= 1 << column;
                self.mark_rot(now, p, extent, column, "checksum", out);
                self.spread(now, id, out);
            }
            (Status::Ok, Some(data)) => {
                read.got[column] = Some(data);
                if self.rebuildable(id) {
                    self.decode(now, id, out);
                }
            }
            (Status::Retry, _) => {
                read.asked &= !(1 << column);
                self.ask_column(now, id, column, false, out);
            }
            (status, _) => {
                read.failed |= 1 << column;
                match status {
                    Status::Corrupt => self.mark_rot(now, p, extent, column, "rot", out),
                    // `BadRequest` may come from a sled that has not read its devices yet: no verdict.
                    Status::NotOwner => self.mark_rot(now, p, extent, column, "lost", out),
                    _ => {}
                }
                self.spread(now, id, out);
            }
        }
    }

    /// k columns are there: rebuild the target's blocks.
    pub(super) fn decode(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some((p, read, _)) = self.column_read(id) else { return };
        let read = read.clone();
        let len = read.got.iter().flatten().next().map_or(0, |bytes| bytes.len());
        let client = self.pieces.get(id).and_then(|piece| self.reads.get(piece.read));
        let Some(room) = room(&self.pool, client.is_some_and(Read::for_client), len) else {
            // What was gathered waits; a buffer will come.
            self.starved.push(id);
            return self.arm(now + Duration::from_millis(1));
        };
        self.parts[p].stats.counters.degraded_reads += 1;
        let rebuilt = self.rebuild(&read, room);
        let Some((_, state, wants)) = self.column_read(id) else { return };
        let Some(bytes) = rebuilt else {
            return self.piece_done(now, id, Err(ClientError::Device), out);
        };
        let from = if read.whole { read.first as usize * BLOCK } else { 0 };
        let part = bytes.slice(from..from + read.count as usize * BLOCK);
        if right(&part, wants) {
            return self.piece_done(now, id, Ok(part), out);
        }
        if read.whole {
            return self.column_lost(now, id, out);
        }
        // A source was rotten: read whole units, which their sleds verify, from every column anew.
        state.restart_whole();
        state.failed &= !(1 << read.target);
        self.forget_reads(id);
        self.spread(now, id, out);
    }

    /// Whether k columns of a piece are there and only a buffer was lacking.
    pub(super) fn rebuildable(&mut self, id: Id) -> bool {
        self.column_read(id).is_some_and(|(_, read, _)| {
            read.got.iter().flatten().count() >= usize::from(read.desc.geometry.k)
        })
    }

    fn rebuild(&self, read: &ColumnRead, mut bytes: BufMut) -> Option<Buf> {
        let codec = self.codec(&read.desc.geometry)?;
        let present: SmallVec<[usize; 8]> =
            (0..read.got.len()).filter(|&at| read.got[at].is_some()).collect();
        let plan = codec.decode_plan(&present, &[read.target]).ok()?;
        let sources: SmallVec<[&[u8]; 8]> =
            plan.sources().iter().filter_map(|&at| read.got[at].as_deref()).collect();
        plan.decode(&sources, &mut [&mut bytes]).ok()?;
        Some(bytes.freeze())
    }

    fn forget_reads(&mut self, id: Id) {
        let mut ids = std::mem::take(&mut self.ids);
        let from = ids.len();
        self.asks.pick(&mut ids, |ask| matches!(ask.what, What::Read { piece, .. } if piece == id));
        for ask in ids.drain(from..) {
            self.asks.remove(ask);
        }
        self.ids = ids;
    }

    /// Fewer than k good columns: an error that names the extent, never a guess.
    fn column_lost(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some((p, read, _)) = self.column_read(id) else { return };
        let extent = read.desc.id;
        let part = &mut self.parts[p];
        // A head that does not lead any more reads columns that who leads now has released: no loss of anybody's.
        let known = part.phase == Phase::Serving && part.index.slot_of(extent).is_some();
        if known && part.lost.insert(extent, now + super::stripe::LOST_PAUSE).is_none() {
            out.events.push(Event::DataLost { partition: part.cfg.partition, extent });
        }
        self.forget_reads(id);
        self.piece_done(now, id, Err(ClientError::Unreadable), out);
    }

    /// A sled's scrub found a column rotten that nobody may read for long, such as parity (P-23).
    pub(super) fn on_rotten(
        &mut self,
        now: Time,
        partition: PartitionId,
        column: &ColumnRef,
        extent: ExtentId,
        position: u8,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(partition) else { return };
        if let Some(chapter) = chapter_of(extent, position) {
            return self.copy_rotten(p, column, extent, chapter, out);
        }
        if super::page::is_page(extent, position) {
            self.parts[p].page_rotten(column);
            return;
        }
        let index = &self.parts[p].index;
        let known = index.slot_of(extent).and_then(|slot| index.extent(slot));
        let at = usize::from(position);
        // Of another owner or generation by now: a late word.
        if known.is_some_and(|known| known.desc.columns.get(at) == Some(&Some(*column))) {
            self.mark_rot(now, p, extent, at, "found by scrub", out);
        }
    }

    /// A column is rotten or gone: count it once, and have the extent rewritten (OP-27, EF-22).
    pub(super) fn mark_rot(
        &mut self,
        now: Time,
        p: usize,
        extent: ExtentId,
        column: usize,
        how: &str,
        out: &mut Out,
    ) {
        let part = &mut self.parts[p];
        if part.index.slot_of(extent).is_none() {
            // Released while it was read: its columns belong to others by now (P-15).
            return;
        }
        let mask = part.rot.entry(extent).or_insert(0);
        if *mask & (1 << column) != 0 {
            return;
        }
        *mask |= 1 << column;
        part.stats.counters.corrupt += 1;
        part.collect_at = now;
        let what = format!("partition {} extent {extent} column {column}: {how}", part.cfg.partition);
        out.events.push(Event::Corrupt { place: "column", what });
    }
}

fn part_k(columns: &[Option<ColumnRef>], extent: Option<&crate::log::Extent>) -> u8 {
    extent.map_or(columns.len() as u8, |extent| extent.desc.geometry.k)
}

fn right(bytes: &Buf, wants: &[Want]) -> bool {
    let block = |want: &Want| want.at as usize * BLOCK..(want.at as usize + 1) * BLOCK;
    wants.iter().all(|want| crc32c(&bytes[block(want)]) == want.crc)
}
