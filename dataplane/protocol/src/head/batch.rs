//! One batch: up to four stripes of gathered blocks on their way into an extent. Flush and collector
//! share it (EF-09, P-07, P-24, P-25).
//!
//! Bytes are gathered and checked, encoded, written to all columns under their tokens; when all are
//! durable the repoint is numbered, in stripe order. An error ends the extent: what was gathered stays
//! where it was and is gathered again for another one.

use super::core::Core;
use super::part::{OpenExtent, Part, Pending};
use super::read::{Read, ReadOwner};
use super::slab::Id;
use super::sleds::{Ask, What};
use super::stats::Stage;
use crate::log::{Loc, Mapping};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, BufMut};
use palisade_isal::crc32c;
use smallvec::SmallVec;
use std::time::Duration;

/// An extent that could not be read is left alone by the collector for so long: its sleds may come back.
pub(super) const LOST_PAUSE: Duration = Duration::from_secs(30);
/// A log block that neither log can give is tried so often, with this pause, before it counts as lost.
const TRIES: u8 = 6;
const TRY_PAUSE: Duration = Duration::from_secs(5);

/// A gathered block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) lba: Lba,
    pub(super) mapping: Mapping,
    pub(super) from: GatheredFrom,
    pub(super) good: bool,
    /// No copy of it is readable: the repoint says so.
    pub(super) lost: bool,
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Writing,
    /// All columns are durable.
    Ready,
    /// Its repoint is numbered.
    Numbered,
}

/// Stripes on their way.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) part: usize,
    pub(super) collect: bool,
    desc: ExtentDesc,
    first: u32,
    stripes: u32,
    items: Vec<Item>,
    /// Unit buffers, stripe by stripe, data columns first.
    room: Vec<BufMut>,
    wanted: u16,
    acked: u16,
    state: State,
    started: Time,
}

impl Core {
    /// Takes stripes of the open extent for `items` and starts to read them. `false`: no buffers now.
    pub(super) fn start_batch(
        &mut self,
        now: Time,
        p: usize,
        items: Vec<Item>,
        collect: bool,
        out: &mut Out,
    ) -> bool {
        let Some(open) = &self.parts[p].open else { return false };
        if self.starves() {
            return false;
        }
        let geometry = open.desc.geometry;
        let stripes = (items.len() as u32).div_ceil(geometry.stripe_blocks());
        let unit = usize::from(geometry.unit_blocks) * BLOCK;
        let mut room = Vec::with_capacity(stripes as usize * geometry.columns());
        for _ in 0..stripes as usize * geometry.columns() {
            let Some(buf) = self.pool.alloc(unit) else { return false };
            room.push(buf);
        }
        let (desc, first) = (open.desc.clone(), open.next);
        let mut wanted = 0u16;
        for (at, column) in desc.columns.iter().enumerate() {
            wanted |= u16::from(column.is_some()) << at;
        }
        let part = &mut self.parts[p];
        if let Some(open) = &mut part.open {
            open.next += stripes;
        }
        part.mark_gathered(&items, true);
        let blocks: Vec<(Lba, Mapping)> = items.iter().map(|item| (item.lba, item.mapping)).collect();
        let (acked, state, started) = (0, State::Reading, now);
        let batch =
            Batch { part: p, collect, desc, first, stripes, items, room, wanted, acked, state, started };
        let id = self.batches.insert(batch);
        self.parts[p].batches.push_back(id);
        self.read_blocks(now, p, ReadOwner::Batch(id), &blocks, out);
        true
    }

    /// The gathered bytes are there: lay them out, encode, write.
    pub(super) fn batch_read(&mut self, now: Time, id: Id, read: &Read, out: &mut Out) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        batch.lay_out(read);
        let p = batch.part;
        let part = &mut self.parts[p];
        for item in &mut batch.items {
            match (item.from, item.mapping.loc) {
                (GatheredFrom::Log, Loc::Log(addr)) if item.good => {
                    part.unreadable.remove(&addr.0);
                }
                _ if item.good => {}
                // Released meanwhile, what was unreadable was not needed.
                (GatheredFrom::Extent { id, .. }, _) if part.index.slot_of(id).is_some() => {
                    part.lost.insert(id, now + LOST_PAUSE);
                }
                (GatheredFrom::Log, Loc::Log(addr)) => {
                    // A peer that is away may hold the good copy: that try does not count.
                    let there = u8::from(part.peer.as_ref().is_none_or(|peer| !peer.away));
                    let (tries, again) = part.unreadable.entry(addr.0).or_insert((0, now));
                    (*tries, *again) = (tries.saturating_add(there), now + TRY_PAUSE);
                    item.lost = *tries >= TRIES;
                    if item.lost {
                        part.unreadable.remove(&addr.0);
                        let (id, lba) = (part.cfg.partition, item.lba);
                        let what =
                            format!("partition {id} block {lba}: no copy of it is readable, it is lost");
                        out.events.push(Event::Corrupt { place: "log", what });
                    }
                }
                _ => {}
            }
        }
        let geometry = batch.desc.geometry;
        let room = std::mem::take(&mut batch.room);
        batch.state = State::Writing;
        let Some(units) = self.encode(p, &geometry, room) else {
            return self.fail_extent(now, p, out);
        };
        self.write_columns(now, id, &units, out);
    }

    fn encode(&mut self, p: usize, geometry: &Geometry, mut room: Vec<BufMut>) -> Option<Vec<Buf>> {
        let begin = self.cfg.stopwatch.map(|stopwatch| stopwatch());
        let codec = self.codec(geometry)?;
        let k = usize::from(geometry.k);
        for stripe in room.chunks_exact_mut(geometry.columns()) {
            let (data, parity) = stripe.split_at_mut(k);
            let data: SmallVec<[&[u8]; 16]> = data.iter().map(|buf| &**buf).collect();
            let mut parity: SmallVec<[&mut [u8]; 16]> = parity.iter_mut().map(|buf| &mut **buf).collect();
            codec.encode(&data, &mut parity).ok()?;
        }
        let bytes: usize = room.iter().map(|buf| buf.len()).sum();
        let stats = &mut self.parts[p].stats;
        stats.counters.column_bytes += bytes as u64;
        if let (Some(begin), Some(stopwatch)) = (begin, self.cfg.stopwatch) {
            stats.record(Stage::Encode, stopwatch().since(begin));
        }
        Some(room.into_iter().map(BufMut::freeze).collect())
    }

    fn write_columns(&mut self, now: Time, id: Id, units: &[Buf], out: &mut Out) {
        let Some(batch) = self.batches.get(id) else { return };
        let (p, stripe, desc) = (batch.part, batch.first, batch.desc.clone());
        let stamp = self.parts[p].stamp;
        for (at, column) in desc.columns.iter().enumerate() {
            let Some(column) = *column else { continue };
            let own = units.iter().skip(at).step_by(desc.columns.len());
            let units: SmallVec<[Buf; 4]> = own.cloned().collect();
            let crcs = units.iter().map(|unit| crc32c(unit)).collect();
            let token = self.token(p, column.device, column.column, column.generation);
            let Some(sled) = self.parts[p].sled_of(column.device) else {
                return self.fail_extent(now, p, out);
            };
            let (req, extent) = (ReqId(0), desc.id);
            let held = token.is_none();
            let token = token.unwrap_or_default();
            let msg = Msg::ColumnWrite { req, stamp, column, token, extent, stripe, units, crcs };
            let what = What::Write { batch: id, column: at };
            self.ask(now, Ask { held, ..Ask::new(p, sled, column.device, what, msg) }, out);
        }
    }

    pub(super) fn on_written(&mut self, now: Time, from: NodeId, req: ReqId, status: Status, out: &mut Out) {
        let id = Id(req.0);
        let Some(ask) = self.asks.get_mut(id).filter(|ask| ask.to == from) else { return };
        let What::Write { batch, column } = ask.what else { return };
        let (p, device) = (ask.part, ask.device);
        let stale_ok = self.cfg.faults.stale_token_retry();
        match status {
            Status::Ok => {
                self.asks.remove(id);
                self.column_durable(now, batch, column, out);
            }
            Status::Retry => {}
            Status::NoToken => {
                ask.held = !stale_ok;
                self.reclaim(now, p, device);
            }
            Status::Fenced { number, grant, .. } | Status::StaleNumber { number, grant } => {
                ask.held = !stale_ok;
                let partition = self.parts[p].id();
                self.fenced(now, p, device, Stamp { partition, number, grant }, out);
            }
            _ => {
                self.asks.remove(id);
                self.suspect(now, p, device);
                self.batch_refused(now, batch, column, out);
            }
        }
    }

    fn column_durable(&mut self, now: Time, id: Id, column: usize, out: &mut Out) {
        let loose = self.cfg.faults.flush_below_k1();
        let Some(batch) = self.batches.get_mut(id) else { return };
        batch.acked |= 1 << column;
        let enough = if loose {
            batch.acked.count_ones() >= u32::from(batch.desc.geometry.k)
        } else {
            batch.acked == batch.wanted
        };
        if batch.state == State::Writing && enough {
            batch.state = State::Ready;
            let p = batch.part;
            self.number_repoints(now, p, out);
        }
    }

    /// Numbers the repoints of finished batches, in stripe order.
    pub(super) fn number_repoints(&mut self, now: Time, p: usize, _out: &mut Out) {
        for at in 0..self.parts[p].batches.len() {
            let id = self.parts[p].batches[at];
            let Some(batch) = self.batches.get_mut(id) else { continue };
            match batch.state {
                State::Numbered => continue,
                State::Ready => {}
                State::Reading | State::Writing => return,
            }
            let end = batch.first + batch.stripes;
            if !self.cfg.log_faults.repoint_unconditional() {
                batch.forget_changed(&self.parts[p]);
            }
            let repoint = batch.repoint();
            if self.number(now, p, Body::Repoint(Box::new(repoint)), Id::NONE).is_err() {
                return self.arm(now + std::time::Duration::from_millis(1));
            }
            if let Some(batch) = self.batches.get_mut(id) {
                batch.state = State::Numbered;
            }
            if let Some(open) = &mut self.parts[p].open {
                open.repointed = end;
            }
        }
    }

    /// A repoint is committed: the blocks live in the extent now.
    pub(super) fn on_repointed(&mut self, now: Time, p: usize, repoint: &Repoint, _out: &mut Out) {
        let fits = |batch: &Batch| batch.desc.id == repoint.extent && batch.first == repoint.first_stripe;
        let part = &mut self.parts[p];
        let found = part.batches.iter().position(|&id| self.batches.get(id).is_some_and(fits));
        part.stats.counters.repoints += 1;
        let Some(id) = found.and_then(|at| part.batches.remove(at)) else { return };
        let Some(batch) = self.batches.remove(id) else { return };
        part.mark_gathered(&batch.items, false);
        let bytes = (repoint.entries.len() * BLOCK) as u64;
        let counters = &mut part.stats.counters;
        if batch.collect {
            counters.collections += 1;
            counters.collected_bytes += bytes;
        } else {
            counters.flushes += 1;
            counters.flushed_bytes += bytes;
        }
        part.stats.record(Stage::Flush, now.since(batch.started));
        if part.open.as_ref().is_some_and(OpenExtent::full) && part.batches.is_empty() {
            part.open = None;
        }
        part.collect_at = part.collect_at.min(now + super::collect::PACE);
        self.background_at = now;
    }

    /// A column could not be written: the extent ends at its last indexed stripe (P-24).
    pub(super) fn batch_refused(&mut self, now: Time, id: Id, _column: usize, out: &mut Out) {
        if let Some(batch) = self.batches.get(id) {
            let p = batch.part;
            self.fail_extent(now, p, out);
        }
    }

    /// Gives the open extent up: batches that are not numbered are gathered again for another one.
    pub(super) fn fail_extent(&mut self, now: Time, p: usize, _out: &mut Out) {
        self.parts[p].open = None;
        self.parts[p].make_at = now + super::extent::PAUSE;
        let ids = std::mem::take(&mut self.parts[p].batches);
        for id in ids {
            match self.batches.get(id) {
                Some(batch) if batch.state == State::Numbered => self.parts[p].batches.push_back(id),
                Some(_) => self.drop_batch(p, id),
                None => {}
            }
        }
        self.background_at = now;
    }

    fn drop_batch(&mut self, p: usize, id: Id) {
        if let Some(batch) = self.batches.remove(id) {
            self.parts[p].mark_gathered(&batch.items, false);
        }
        let mut ids = std::mem::take(&mut self.ids);
        let from = ids.len();
        self.asks.pick(&mut ids, |ask| matches!(ask.what, What::Write { batch, .. } if batch == id));
        for ask in ids.drain(from..) {
            self.asks.remove(ask);
        }
        self.ids = ids;
    }

    /// Drops flush, collector and claims of a partition: a new number begins, or service ends.
    pub(super) fn abort_background(&mut self, p: usize) {
        for id in std::mem::take(&mut self.parts[p].batches) {
            self.drop_batch(p, id);
        }
        let part = &mut self.parts[p];
        part.open = None;
        part.making = None;
        part.gathering.clear();
        part.unreadable.clear();
        part.collecting.clear();
        part.closing.clear();
        part.dying.clear();
        part.lost.clear();
        part.no_columns_since = None;
        for claim in &mut part.claims {
            claim.asking = None;
            claim.listing = None;
            claim.secret = None;
        }
        let mut ids = std::mem::take(&mut self.ids);
        let from = ids.len();
        let keeps = |what: &What| matches!(what, What::Read { .. } | What::Fetch { .. });
        self.asks.pick(&mut ids, |ask| ask.part == p && !keeps(&ask.what));
        for ask in ids.drain(from..) {
            self.asks.remove(ask);
        }
        self.ids = ids;
    }
}

impl Batch {
    /// Copies what was read into the unit buffers; what is not filled is zero.
    fn lay_out(&mut self, read: &Read) {
        let geometry = self.desc.geometry;
        let (k, unit) = (usize::from(geometry.k), usize::from(geometry.unit_blocks));
        let mut at = 0;
        for (blocks, bytes) in &read.bufs {
            for block in 0..*blocks as usize {
                match bytes {
                    Some(bytes) => {
                        let (stripe, column, inside) = geometry.locate(at as u32);
                        let buf = &mut self.room[stripe as usize * geometry.columns() + column];
                        buf[inside as usize * BLOCK..(inside as usize + 1) * BLOCK]
                            .copy_from_slice(&bytes[block * BLOCK..(block + 1) * BLOCK]);
                    }
                    None => self.items[at].good = false,
                }
                at += 1;
            }
        }
        for block in 0..self.stripes as usize * k * unit {
            if self.items.get(block).is_none_or(|item| !item.good) {
                let (stripe, column, inside) = geometry.locate(block as u32);
                let buf = &mut self.room[stripe as usize * geometry.columns() + column];
                buf[inside as usize * BLOCK..(inside as usize + 1) * BLOCK].fill(0);
            }
        }
    }

    /// Leaves out blocks that an operation numbered before the repoint has written or cleared. The index
    /// would refuse them as well, but a recovery may know no more of them: the records of the gathered write
    /// and of its blocks are gone once they are dead, and the repoint stands for both (P-07, P-29).
    fn forget_changed(&mut self, part: &Part) {
        let changes = |pending: &Pending| match &pending.entry.body {
            Body::Write { lba, crcs, .. } => Some(lba.0..lba.0 + crcs.len() as u64),
            Body::Clear { lba, count } => Some(lba.0..lba.0 + u64::from(*count)),
            _ => None,
        };
        let changed: SmallVec<[_; 64]> = part.pending.iter().filter_map(changes).collect();
        for item in &mut self.items {
            let same = part.index.get(item.lba).op == item.mapping.op
                && !changed.iter().any(|range| range.contains(&item.lba.0));
            item.good &= same;
            item.lost &= same;
        }
    }

    fn repoint(&self) -> Repoint {
        let base = self.first * self.desc.geometry.stripe_blocks();
        let good = self.items.iter().enumerate().filter(|(_, item)| item.good || item.lost);
        let entries = good.map(|(at, item)| RepointEntry {
            lba: item.lba,
            op: item.mapping.op,
            from: item.from,
            block: if item.lost { RepointEntry::LOST } else { base + at as u32 },
            crc: item.mapping.crc,
        });
        let all = ((1u32 << self.desc.columns.len()) - 1) as u16;
        Repoint {
            extent: self.desc.id,
            first_stripe: self.first,
            stripes: self.stripes,
            absent: all & !self.wanted,
            entries: entries.collect(),
        }
    }
}

impl OpenExtent {
    pub(super) fn full(&self) -> bool {
        self.next >= self.desc.geometry.stripes
    }
}

impl super::part::Part {
    /// Remembers (or forgets) that blocks are on their way, so that they are not gathered twice.
    fn mark_gathered(&mut self, items: &[Item], on: bool) {
        for item in items {
            match (item.from, item.mapping.loc) {
                (GatheredFrom::Extent { id, block }, _) if on => {
                    self.collecting.insert((id, block));
                }
                (GatheredFrom::Extent { id, block }, _) => {
                    self.collecting.remove(&(id, block));
                }
                (GatheredFrom::Log, Loc::Log(addr)) if on => {
                    self.gathering.insert(addr.0);
                }
                (GatheredFrom::Log, Loc::Log(addr)) => {
                    self.gathering.remove(&addr.0);
                }
                _ => {}
            }
        }
    }
}
