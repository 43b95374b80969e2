//! One batch: up to four stripes of gathered blocks on their way into an extent. Flush and collector
//! share it (EF-09, P-07, P-24, P-25).
//!
//! Bytes are gathered, checked and encoded (`stripe`), written to all columns under their tokens; when all
//! are durable the repoint is numbered, in stripe order. An error ends the extent: what was gathered stays
//! where it was and is gathered again for another one.

use super::core::Core;
use super::gathered::{Gathered, Item};
use super::part::{OpenExtent, Part, Pending};
use super::slab::Id;
use super::sleds::{Ask, What};
use super::stats::Stage;
use crate::log::{AHEAD, Loc};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, BufMut, SLOT_CLASSES};
use smallvec::SmallVec;

/// How far a batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Stripe by stripe.
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
    /// It moves blocks out of extents that lack columns or are to leave their devices.
    pub(super) rebuild: bool,
    pub(super) desc: ExtentDesc,
    first: u32,
    pub(super) stripes: u32,
    /// Stripes that are encoded, and whether the next one is being read.
    pub(super) encoded: u32,
    pub(super) asked: bool,
    pub(super) gathered: Gathered,
    /// Unit buffers, stripe by stripe, data columns first, and the checksums of those that are encoded.
    pub(super) room: Vec<BufMut>,
    pub(super) crcs: Vec<u32>,
    wanted: u16,
    acked: u16,
    pub(super) state: State,
    started: Time,
}

impl Core {
    /// Takes stripes of the open extent for what was gathered, to be read a stripe a turn. `false`: no buffers now.
    pub(super) fn start_batch(&mut self, now: Time, p: usize, gathered: Gathered, collect: bool) -> bool {
        let Some(open) = &self.parts[p].open else { return false };
        if self.starves() {
            return false;
        }
        let geometry = open.desc.geometry;
        let stripes = gathered.stripes();
        let unit = usize::from(geometry.unit_blocks) * BLOCK;
        if !self.may_take(stripes as usize * geometry.columns(), unit) {
            return false;
        }
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
        part.mark_gathered(&gathered.items, true);
        let crcs = Vec::with_capacity(room.len());
        let id = self.batches.insert(Batch {
            part: p,
            collect,
            rebuild: false,
            desc,
            first,
            stripes,
            encoded: 0,
            asked: false,
            gathered,
            room,
            crcs,
            wanted,
            acked: 0,
            state: State::Reading,
            started: now,
        });
        self.parts[p].batches.push_back(id);
        // Its first stripe is the next turn's.
        self.busy = true;
        true
    }

    /// Whether a batch may have so many units of so many bytes. Beside others it leaves a quarter of the pool to what
    /// they have to read: batches that hold all buffers would wait for one another (P-31).
    fn may_take(&self, units: usize, bytes: usize) -> bool {
        let stats = self.pool.stats();
        let fits = SLOT_CLASSES.iter().position(|slot| *slot >= bytes);
        let enough = |class: usize| stats.free[class] >= units + stats.total[class] / 4;
        self.batches.is_empty() || fits.is_some_and(enough)
    }

    /// All stripes are encoded: each column gets its units.
    pub(super) fn write_columns(&mut self, now: Time, id: Id, units: &[Buf], out: &mut Out) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        let (p, stripe, desc) = (batch.part, batch.first, batch.desc.clone());
        let all = std::mem::take(&mut batch.crcs);
        let stamp = self.parts[p].stamp;
        for (at, column) in desc.columns.iter().enumerate() {
            let Some(column) = *column else { continue };
            let own = units.iter().skip(at).step_by(desc.columns.len());
            let units: SmallVec<[Buf; 4]> = own.cloned().collect();
            let crcs = all.iter().copied().skip(at).step_by(desc.columns.len()).collect();
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
        let (p, device, sent) = (ask.part, ask.device, ask.sent);
        let stale_ok = self.cfg.faults.stale_token_retry();
        match status {
            Status::Ok => {
                self.asks.remove(id);
                self.devices.good(now, device, sent, false);
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
                if let (Some(ask), Status::DeviceError) = (self.asks.remove(id), status) {
                    self.judge(now, &ask, status);
                }
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
        part.mark_gathered(&batch.gathered.items, false);
        let bytes = (repoint.entries.len() * BLOCK) as u64;
        let counters = &mut part.stats.counters;
        if batch.collect {
            counters.collections += 1;
            counters.collected_bytes += bytes;
            counters.rebuilt_bytes += if batch.rebuild { bytes } else { 0 };
        } else {
            counters.flushes += 1;
            counters.flushed_bytes += bytes;
        }
        part.stats.record(Stage::Flush, now.since(batch.started));
        if part.open.as_ref().is_some_and(OpenExtent::full) && part.batches.is_empty() {
            part.open = None;
        }
        part.collect_at = part.collect_at.min(now + super::collect::PACE);
        if batch.rebuild {
            self.rebuilt(now, p, now.since(batch.started));
        }
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
        (self.parts[p].open, self.parts[p].spare) = (None, None);
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
            self.parts[p].mark_gathered(&batch.gathered.items, false);
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
        (part.open, part.spare) = (None, None);
        part.making = None;
        part.copy.checkpoints.writing = None;
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
        // A copy that is taken goes on when an older role of the partition ends here.
        let keeps = |what: &What| {
            matches!(what, What::Read { .. } | What::Fetch { .. } | What::Try { .. } | What::BasisRead { .. })
        };
        self.asks.pick(&mut ids, |ask| ask.part == p && !keeps(&ask.what));
        for ask in ids.drain(from..) {
            self.asks.remove(ask);
        }
        self.ids = ids;
    }
}

impl Batch {
    /// Leaves out blocks that an operation numbered before the repoint has written or cleared. The index
    /// would refuse them as well, but a recovery may know no more of them: the records of the gathered write
    /// and of its blocks are gone once they are dead, and the repoint stands for both (P-07, P-29).
    fn forget_changed(&mut self, part: &Part) {
        let changes = |pending: &Pending| match &pending.entry.body {
            Body::Write { lba, crcs, .. } => Some(lba.0..lba.0 + crcs.len() as u64),
            Body::Clear { lba, count } => Some(lba.0..lba.0 + u64::from(*count)),
            _ => None,
        };
        let mut changed: SmallVec<[_; 64]> = part.pending.iter().filter_map(changes).collect();
        // In order and apart, so that each block takes one search.
        changed.sort_unstable_by_key(|range| range.start);
        changed.dedup_by(|next, last| {
            let meet = next.start <= last.end;
            last.end = if meet { last.end.max(next.end) } else { last.end };
            meet
        });
        let items = &mut self.gathered.items;
        for at in 0..items.len() {
            if let Some(soon) = items.get(at + AHEAD) {
                part.index.bring_near(soon.lba);
            }
            let item = &mut items[at];
            let before = changed.partition_point(|range| range.start <= item.lba.0);
            let last = before.checked_sub(1).map(|at| &changed[at]);
            let same = part.index.get(item.lba).op == item.mapping.op
                && !last.is_some_and(|range| range.contains(&item.lba.0));
            item.good &= same;
            item.lost &= same;
        }
    }

    fn repoint(&self) -> Repoint {
        let blocks = self.desc.geometry.stripe_blocks();
        let good = self.gathered.places(blocks).filter(|(_, item)| item.good || item.lost);
        let entries = good.map(|(at, item)| RepointEntry {
            lba: item.lba,
            op: item.mapping.op,
            from: item.from,
            block: if item.lost { RepointEntry::LOST } else { self.first * blocks + at },
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

    /// So little is left of it that the next one is made.
    pub(super) fn ends(&self) -> bool {
        let stripes = self.desc.geometry.stripes;
        stripes.saturating_sub(self.next) <= stripes / 4
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
