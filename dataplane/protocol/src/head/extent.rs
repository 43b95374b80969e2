//! Making extents and closing them (EF-11, EF-13, P-24, P-25, P-32).
//!
//! An extent gets its identity from a `Nothing` operation, so that columns can be reserved for it before
//! its descriptor is numbered; then its columns, one to a sled; then `ExtentCreate`. It is written under
//! one number only: a takeover, an error or its end seals it at its last indexed stripe, or releases it
//! when nothing was written.
//!
//! While batches fill an extent the next one is made before it is full, where columns are plenty: batches of one
//! extent need not end before those of the next one begin. Repoints are numbered in the order of the batches, so
//! that a full extent is sealed behind all of its own.

use super::core::Core;
use super::part::{Dying, MakeColumn, Making, OpenExtent, Part};
use super::slab::Id;
use super::sleds::{Ask, What};
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// After a takeover slow sleds get this long to grant before extents do without them.
const GRACE: Duration = Duration::from_millis(500);
/// Pause before another try when there are too few columns.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

impl Core {
    /// Makes the extent that follows the open one, which is nearly full. It never takes of the reserve: what lies
    /// ready must not be what the collector lacks (P-32).
    pub(super) fn make_next(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &self.parts[p];
        let ends = part.open.as_ref().is_some_and(|open| open.ends() && !open.leave);
        let needed = ends && part.spare.is_none() && part.making.is_none();
        let all = part.cfg.geometry.columns();
        if needed && self.candidates(now, p, false, &[]).len() >= all {
            self.make_extent(now, p, false, out);
        }
    }

    /// Starts to make an extent, if there is none to write to nor one in the making.
    pub(super) fn make_extent(&mut self, now: Time, p: usize, reserve: bool, out: &mut Out) {
        let part = &self.parts[p];
        let needed = part.spare.is_none() && part.open.as_ref().is_none_or(OpenExtent::ends);
        if !needed || now < part.make_at {
            return self.arm(part_make_at(part.make_at, now));
        }
        if part.making.is_some() {
            return self.choose(now, p, out);
        }
        let (all, least) = (part.cfg.geometry.columns(), self.columns_min(p));
        self.count_again(now, p);
        let part = &self.parts[p];
        let found = self.candidates(now, p, reserve, &[]).len();
        let early = now.since(part.service.since) < GRACE;
        if found < least || (found < all && early) {
            let part = &mut self.parts[p];
            part.make_at = now + if early { PAUSE / 4 } else { PAUSE };
            if !early {
                part.no_columns_since.get_or_insert(now);
            }
            let at = part.make_at;
            return self.arm(at);
        }
        let Ok(op) = self.number(now, p, Body::Nothing, Id::NONE) else { return };
        let columns = SmallVec::from_elem(MakeColumn::Open, all);
        let (named, numbered) = (false, false);
        self.parts[p].making =
            Some(Making { id: ExtentId(op.0), named, reserve, columns, refused: SmallVec::new(), numbered });
    }

    pub(super) fn columns_min(&self, p: usize) -> usize {
        let cfg = &self.parts[p].cfg;
        if self.cfg.faults.flush_below_k1() { usize::from(cfg.geometry.k) } else { cfg.columns_min() }
    }

    /// The operation that gives an extent its identity is committed.
    pub(super) fn on_named(&mut self, now: Time, p: usize, op: Op) {
        if let Some(making) = &mut self.parts[p].making
            && making.id.0 == op.0
        {
            making.named = true;
            self.background_at = now;
        }
    }

    /// Claims whose devices may give a column, best first. Devices that are ill or to be left are asked only
    /// when there would be too few columns without them; failed ones never.
    pub(super) fn candidates(&self, now: Time, p: usize, reserve: bool, refused: &[DeviceId]) -> Vec<usize> {
        let part = &self.parts[p];
        let spare =
            if reserve || self.cfg.faults.spend_reserve() { 0 } else { self.cfg.flush.reserve_columns };
        let mut found: Vec<usize> = (0..part.claims.len())
            .filter(|&at| {
                let claim = &part.claims[at];
                let granted = claim.secret.is_some() || self.cfg.faults.claim_unchecked();
                granted
                    && claim.suspect_until <= now
                    && (claim.free > spare || claim.secret.is_none())
                    && !refused.contains(&claim.target.device)
                    && self.devices.health(claim.target.device) != DeviceHealth::Failed
            })
            .collect();
        // The fullest come last; one device per sled.
        found.sort_by_key(|&at| (self.unfit(p, at), std::cmp::Reverse(part.claims[at].free), at));
        let mut sleds: SmallVec<[NodeId; 16]> = SmallVec::new();
        found.retain(|&at| {
            let sled = part.claims[at].target.sled;
            let new = !sleds.contains(&sled);
            sleds.push(sled);
            new
        });
        let fit = found.iter().filter(|&&at| !self.unfit(p, at)).count();
        if fit >= self.columns_min(p) {
            found.truncate(fit);
        }
        found
    }

    /// Asks devices for the columns that are still open; ends with `ExtentCreate` when all are settled.
    pub(super) fn choose(&mut self, now: Time, p: usize, out: &mut Out) {
        let Some(making) = self.parts[p].making.as_ref().filter(|making| making.named) else { return };
        let (extent, reserve, refused) = (making.id, making.reserve, making.refused.clone());
        let candidates = self.candidates(now, p, reserve, &refused);
        let count = making.columns.len();
        for step in 0..count {
            // Rotated, so that parity is spread over the sleds.
            let at = (step + extent.0 as usize) % count;
            let Some(making) = &self.parts[p].making else { return };
            if making.columns[at] == MakeColumn::Open {
                self.choose_column(now, p, at, &candidates, out);
            }
        }
        let Some(making) = &self.parts[p].making else { return };
        let settled = |column: &MakeColumn| matches!(column, MakeColumn::Got(_) | MakeColumn::Absent);
        if making.columns.iter().all(settled) && !making.numbered {
            self.create_extent(now, p);
        }
    }

    fn choose_column(&mut self, now: Time, p: usize, at: usize, candidates: &[usize], out: &mut Out) {
        let part = &self.parts[p];
        let Some(making) = &part.making else { return };
        let used: SmallVec<[DeviceId; 16]> = making.columns.iter().filter_map(MakeColumn::device).collect();
        let taken = |pick: &dyn Fn(&super::config::DeviceTarget) -> bool| {
            part.claims.iter().any(|claim| used.contains(&claim.target.device) && pick(&claim.target))
        };
        let free = |&&at: &&usize| {
            let target = &part.claims[at].target;
            !taken(&|other| other.sled == target.sled)
        };
        let apart = |&&at: &&usize| {
            let target = &part.claims[at].target;
            !taken(&|other| other.shelf == target.shelf)
        };
        let choice =
            candidates.iter().filter(free).find(apart).or_else(|| candidates.iter().find(free)).copied();
        let (extent, stamp) = (making.id, part.stamp);
        let target = choice.map(|at| part.claims[at].target);
        let token = target.and_then(|target| self.device_token(p, target.device));
        let Some(making) = &mut self.parts[p].making else { return };
        let (Some(target), Some(token)) = (target, token) else {
            making.columns[at] = MakeColumn::Absent;
            return;
        };
        making.columns[at] = MakeColumn::Asking(target.device);
        let (device, prefer) = (target.device, target.sandbox);
        let position = at as u8;
        let msg = Msg::ColumnReserve { req: ReqId(0), device, stamp, token, extent, position, prefer };
        let what = What::MakeColumn { extent, at };
        self.ask(now, Ask::new(p, target.sled, device, what, msg), out);
    }

    pub(super) fn on_column_reserved(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        mut column: ColumnRef,
        out: &mut Out,
    ) {
        let What::MakeColumn { extent, at } = ask.what else { return };
        let p = ask.part;
        column.sled = ask.to;
        let waits = self.parts[p].making.as_ref().is_some_and(|making| {
            making.id == extent && making.columns[at] == MakeColumn::Asking(ask.device)
        });
        if !waits {
            if status.is_ok() {
                self.drop_column(p, extent, column, now);
            }
            return;
        }
        self.background_at = now;
        let next = if status.is_ok() { MakeColumn::Got(column) } else { MakeColumn::Open };
        if let Some(making) = &mut self.parts[p].making {
            making.columns[at] = next;
            if !status.is_ok() {
                making.refused.push(ask.device);
            }
        }
        let partition = self.parts[p].id();
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
            Status::Retry => {}
            _ => self.suspect(now, p, ask.device),
        }
    }

    /// A fenced answer: only a higher number demotes; at our own the grant is void (P-22).
    pub(super) fn fenced(&mut self, now: Time, p: usize, device: DeviceId, held: Stamp, out: &mut Out) {
        let own = self.parts[p].stamp;
        if held.number > own.number || self.cfg.faults.false_fence_demotes() {
            self.parts[p].stats.counters.fenced += 1;
            return self.superseded(p, Stamp { number: held.number.max(own.number), ..held }, out);
        }
        if held.number == own.number && held.grant != own.grant {
            return self.conflict(p, held, out);
        }
        self.reclaim(now, p, device);
    }

    fn create_extent(&mut self, now: Time, p: usize) {
        let least = self.columns_min(p);
        let part = &mut self.parts[p];
        let Some(making) = &mut part.making else { return };
        let columns: SmallVec<[Option<ColumnRef>; limits::COLUMNS_MAX]> = making
            .columns
            .iter()
            .map(|column| match column {
                MakeColumn::Got(column) => Some(*column),
                _ => None,
            })
            .collect();
        if columns.iter().flatten().count() < least {
            let extent = making.id;
            part.making = None;
            part.make_at = now + PAUSE;
            if part.open.is_none() {
                part.no_columns_since.get_or_insert(now);
            }
            for column in columns.into_iter().flatten() {
                self.drop_column(p, extent, column, now);
            }
            return;
        }
        making.numbered = true;
        let desc =
            ExtentDesc { id: making.id, number: part.stamp.number, geometry: part.cfg.geometry, columns };
        if self.number(now, p, Body::ExtentCreate(Box::new(desc)), Id::NONE).is_err()
            && let Some(making) = &mut self.parts[p].making
        {
            making.numbered = false;
        }
    }

    /// A column that no descriptor will ever name may go at once.
    fn drop_column(&mut self, p: usize, extent: ExtentId, column: ColumnRef, now: Time) {
        if self.parts[p].dying.iter().any(|dying| dying.column == column) {
            return;
        }
        self.parts[p].dying.push(Dying { column, extent, after: Op(0), asking: false, retry_at: now });
    }

    pub(super) fn on_extent_created(&mut self, now: Time, p: usize, desc: ExtentDesc) {
        let part = &mut self.parts[p];
        if part.making.as_ref().is_none_or(|making| making.id != desc.id) {
            return;
        }
        let reserve = part.making.take().is_some_and(|making| making.reserve);
        part.stats.counters.extents_created += 1;
        part.no_columns_since = None;
        let made = OpenExtent { desc, next: 0, leave: false, reserve };
        let begun = part.open.as_ref().is_some_and(|open| !open.full());
        *(if begun { &mut part.spare } else { &mut part.open }) = Some(made);
        // Whoever asked for it goes on with it: the collector does not rest first.
        part.collect_at = part.collect_at.min(now);
        self.background_at = now;
    }

    /// Seals or releases what is neither open nor sealed: extents of older numbers (P-24), failed ones
    /// and full ones.
    pub(super) fn seal_others(&mut self, now: Time, p: usize) {
        let part = &self.parts[p];
        if part.making.as_ref().is_some_and(|making| making.numbered) {
            return;
        }
        let mut close: SmallVec<[(ExtentId, u32); 8]> = SmallVec::new();
        for (_, extent) in part.index.extents() {
            let id = extent.desc.id;
            // Nearly all are sealed.
            if extent.sealed.is_some()
                || part.closing.contains(&id)
                || self.writes_to(part, id)
                || repointing(part, id)
            {
                continue;
            }
            close.push((id, extent.stripes));
        }
        for (extent, stripes) in close {
            if self.cfg.faults.seal_skipped() && self.reopen(p, extent) {
                continue;
            }
            let body = if stripes == 0 { Body::Release { extent } } else { Body::Seal { extent, stripes } };
            if self.number(now, p, body, Id::NONE).is_ok() {
                self.parts[p].closing.insert(extent);
            }
        }
    }

    /// Whether an extent is open, made ahead, or filled by a batch that is not done.
    fn writes_to(&self, part: &Part, id: ExtentId) -> bool {
        let mut batches = part.batches.iter().filter_map(|&batch| self.batches.get(batch));
        part.open.iter().chain(&part.spare).any(|open| open.desc.id == id)
            || batches.any(|batch| batch.desc.id == id)
    }

    /// Test-only: go on in an extent of an older number (what P-24 forbids).
    fn reopen(&mut self, p: usize, id: ExtentId) -> bool {
        let part = &mut self.parts[p];
        let Some(extent) = part.index.slot_of(id).and_then(|slot| part.index.extent(slot)) else {
            return false;
        };
        if part.open.is_some() || extent.stripes >= extent.desc.geometry.stripes {
            return false;
        }
        let (desc, next) = (extent.desc.clone(), extent.stripes);
        part.open = Some(OpenExtent { desc, next, leave: false, reserve: false });
        true
    }
}

impl Part {
    /// Goes on with the extent that was made ahead when the open one is full. Batches of that may still be under way.
    pub(super) fn turn_extent(&mut self) {
        if self.spare.is_some() && self.open.as_ref().is_none_or(OpenExtent::full) {
            self.open = self.spare.take();
        }
    }
}

/// Whether a repoint to the extent is numbered and not committed.
fn repointing(part: &Part, id: ExtentId) -> bool {
    part.pending.iter().any(|pending| match &pending.entry.body {
        Body::Repoint(repoint) => repoint.extent == id,
        _ => false,
    })
}

fn part_make_at(at: Time, now: Time) -> Time {
    if at > now { at } else { now + PAUSE }
}
