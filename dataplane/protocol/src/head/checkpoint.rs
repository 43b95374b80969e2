//! Checkpoints of the index on sleds, so that a replaced head is filled from there (BA-01, P-29).
//!
//! By flushed bytes, or by time when anything was flushed, the primary freezes nothing and writes all granules of
//! the index that hold anything as pages (`page`), each as it is when its page is made, while I/O goes on. The first
//! one is no older than C, what was committed at the beginning. Pages go to `m + 1` columns of as many sleds through
//! the ordinary reserve and write, under the number and its tokens: a superseded head can write none (EF-15), and any
//! `m` sleds may be lost. Full copies rather than stripes of 4+2: one good copy of a page is enough, a reader needs
//! neither code nor descriptors, and an index is half a percent of its volume.
//!
//! When every page has all its copies, an operation names the checkpoint: number, generation, C, places, hash. Only
//! that makes it one, on all members, in one order (P-07); a newer one is kept beside the one before. Whatever was not
//! named is an orphan like any column that no descriptor names: given up at once by who wrote it, or found by the list
//! after the next claim (P-27). What was named and is not kept any more dies like a released extent (P-28).
//!
//! A kept checkpoint refers to no extent in the sense of P-28. Nobody reads a block by it: a join takes of it only
//! granules whose hash is that of the giver's present index (`basis`), so that what it names is what the giver names,
//! and is protected as that. So no column of data waits for two checkpoints to pass, and none can be short for it.
//!
//! Clients come first (P-32): a checkpoint is begun only where devices have room beyond the collector's reserve, it is
//! written a page a turn with pauses, it costs at most a part of what was flushed since the last one ([`SHARE`]), and
//! when extents find no columns all of them are given up: without one, a copy takes longer, that is all.
//! Columns on devices that failed or are to be left are not moved: another checkpoint is written elsewhere, and those
//! of before go.

use super::core::Core;
use super::extent::PAUSE;
use super::page::named;
use super::part::{Dying, MakeColumn, Part};
use super::slab::Id;
use super::sleds::What;
use crate::log::page::root_hash;
use crate::wire::checkpoint::CHECKPOINTS_KEPT;
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX};
use crate::wire::*;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::time::Duration;

/// Flushed bytes that pay for a byte of a checkpoint.
const SHARE: u64 = 16;
/// Before another one is tried, after one that failed, and after all were given up for room.
const AGAIN: Duration = Duration::from_secs(1);
const GIVEN_UP: Duration = Duration::from_secs(30);

/// What the primary knows of its checkpoints beside their names, which are in the index.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) writing: Option<Box<Writing>>,
    /// Generation tried last.
    generation: u32,
    again_at: Time,
    /// When the newest one ended, or service began; what had been moved by then, and its bytes.
    since: Time,
    moved: u64,
    bytes: u64,
    /// A column of them is rotten.
    hurt: bool,
    /// The operation that gives all of them up is numbered.
    dropping: bool,
    /// The index is too large to be named: told once.
    pub(super) too_large: bool,
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) generation: u32,
    pub(super) covers: Op,
    /// One before it is rotten: none of those is kept.
    pub(super) alone: bool,
    /// Of the present chapter: as many pages as a column holds.
    pub(super) columns: SmallVec<[MakeColumn; 8]>,
    /// Of those before.
    pub(super) places: Vec<ColumnRef>,
    pub(super) chapter: u32,
    pub(super) unit: u32,
    /// Granule that comes next.
    pub(super) next: u64,
    pub(super) crcs: Vec<u32>,
    /// Pages under way, and which copies are durable, a bit each.
    pub(super) flight: BTreeMap<u32, u16>,
    pub(super) ended: bool,
    /// The operation that names it is numbered.
    pub(super) numbered: bool,
    pub(super) page_at: Time,
    pub(super) done_then: u64,
    pub(super) moved: u64,
}

impl Part {
    /// Columns of checkpoints that are kept or written.
    pub(super) fn page_columns(&self) -> impl Iterator<Item = ColumnRef> {
        let kept = self.index.kept().found.iter().flat_map(|kept| kept.columns.iter().copied());
        kept.chain(self.copy.checkpoints.writing.iter().flat_map(|writing| writing.all()))
    }

    /// Whether the device's answer about a column for a checkpoint is awaited.
    pub(super) fn asks_page(&self, extent: ExtentId, device: DeviceId) -> bool {
        self.copy.checkpoints.writing.as_ref().is_some_and(|writing| {
            let asking = writing.columns.iter().position(|column| *column == MakeColumn::Asking(device));
            asking.is_some_and(|at| named(writing.generation, writing.chapter, at).0 == extent)
        })
    }

    /// User bytes that batches moved.
    fn moved(&self) -> u64 {
        self.stats.counters.flushed_bytes + self.stats.counters.collected_bytes
    }

    /// Service begins under another number.
    pub(super) fn begin_checkpoints(&mut self, now: Time) {
        self.copy.checkpoints = Checkpoints { since: now, moved: self.moved(), ..Checkpoints::default() };
    }

    /// A page of a checkpoint is rotten.
    pub(super) fn page_rotten(&mut self, column: &ColumnRef) -> bool {
        let same = |other: ColumnRef| {
            (other.device, other.column, other.generation)
                == (column.device, column.column, column.generation)
        };
        let known = self.page_columns().any(same);
        self.copy.checkpoints.hurt |= known;
        known
    }
}

impl Core {
    /// Begins a checkpoint when one is due, or gives them up for room. Background work of a primary.
    pub(super) fn mind_checkpoints(&mut self, now: Time, p: usize) {
        if self.cfg.flush.checkpoint_bytes == 0 || self.parts[p].copy.checkpoints.dropping {
            return;
        }
        let part = &self.parts[p];
        let kept = part.index.kept();
        let short = part.no_columns_since.is_some() && part.claims.iter().any(|claim| self.is_short(claim));
        let leaves = self.kept_on(p, |core, device| core.leaves(p, device));
        let too_few = leaves && self.page_devices(now, p).len() <= usize::from(part.cfg.geometry.m);
        if (short || too_few) && (!kept.found.is_empty() || part.copy.checkpoints.writing.is_some()) {
            return self.drop_checkpoints(now, p);
        }
        if part.copy.checkpoints.writing.is_some() || short || !self.checkpoint_due(now, p) {
            return;
        }
        if self.page_devices(now, p).len() > usize::from(self.parts[p].cfg.geometry.m) {
            self.begin_checkpoint(now, p);
        }
    }

    fn is_short(&self, claim: &super::part::Claim) -> bool {
        claim.secret.is_some() && claim.free <= self.cfg.flush.reserve_columns
    }

    fn leaves(&self, p: usize, device: DeviceId) -> bool {
        self.parts[p].claims.iter().any(|claim| claim.target.device == device && claim.target.leave)
    }

    /// Whether a kept checkpoint has a column on such a device.
    fn kept_on(&self, p: usize, such: impl Fn(&Self, DeviceId) -> bool) -> bool {
        let mut kept = self.parts[p].index.kept().found.iter();
        kept.any(|kept| kept.columns.iter().any(|column| such(self, column.device)))
    }

    fn checkpoint_due(&self, now: Time, p: usize) -> bool {
        let (part, flush) = (&self.parts[p], self.cfg.flush);
        let own = &part.copy.checkpoints;
        let fits = usize::from(part.cfg.geometry.unit_blocks) <= IO_BLOCKS_MAX && !own.too_large;
        if now < own.again_at || !fits || part.index.mapped() == 0 {
            return false;
        }
        if own.hurt || self.kept_on(p, |core, device| core.unfit_device(p, device)) {
            return true;
        }
        // Without one, everything is news.
        let all = if part.index.kept().found.is_empty() { part.index.mapped() * BLOCK as u64 } else { 0 };
        let moved = (part.moved() - own.moved).max(all);
        let aged = !flush.checkpoint_age.is_zero() && now.since(own.since) >= flush.checkpoint_age;
        let pays = moved > 0 && moved >= SHARE * own.bytes;
        pays && (moved >= flush.checkpoint_bytes || aged)
    }

    fn begin_checkpoint(&mut self, now: Time, p: usize) {
        let part = &mut self.parts[p];
        let newest = part.index.kept().found.first().map_or(0, |kept| kept.generation);
        let (covers, moved) = (part.committed, part.moved());
        let own = &mut part.copy.checkpoints;
        own.generation = own.generation.max(newest) + 1;
        own.writing = Some(Box::new(Writing {
            generation: own.generation,
            covers,
            alone: std::mem::take(&mut own.hurt),
            columns: SmallVec::new(),
            places: Vec::new(),
            chapter: 0,
            unit: 0,
            next: 0,
            crcs: Vec::new(),
            flight: BTreeMap::new(),
            ended: false,
            numbered: false,
            page_at: now,
            done_then: 0,
            moved,
        }));
        self.busy = true;
    }

    /// The checkpoint in hand will never be named: its columns go at once, another one is tried later.
    pub(super) fn give_up_pages(&mut self, now: Time, p: usize) {
        let part = &mut self.parts[p];
        let own = &mut part.copy.checkpoints;
        own.again_at = now + AGAIN;
        if let Some(writing) = own.writing.as_deref().filter(|writing| !writing.numbered) {
            let all: Vec<ColumnRef> = writing.all().collect();
            let generation = writing.generation;
            self.kill_pages(p, all, generation, Op(0));
            self.forget_pages(p);
        }
        self.arm(now + AGAIN);
    }

    /// Columns that nobody needs once `after` is covered everywhere.
    fn kill_pages(&mut self, p: usize, columns: Vec<ColumnRef>, generation: u32, after: Op) {
        let (extent, _) = named(generation, 0, 0);
        let dying = |column| Dying { column, extent, after, asking: false, retry_at: Time::ZERO };
        self.parts[p].dying.extend(columns.into_iter().map(dying));
        self.background_at = Time::ZERO;
    }

    /// Lets go of the checkpoint in hand; what it has is found by a list (P-27).
    pub(super) fn forget_pages(&mut self, p: usize) {
        if self.parts[p].copy.checkpoints.writing.take().is_none() {
            return;
        }
        let mut ids = Vec::new();
        let mine = |what: &What| matches!(what, What::PageColumn { .. } | What::PageWrite { .. });
        self.asks.pick(&mut ids, |ask| ask.part == p && mine(&ask.what));
        ids.into_iter().for_each(|id| drop(self.asks.remove(id)));
    }

    /// Every page has its copies: an operation names the checkpoint.
    pub(super) fn name_checkpoint(&mut self, now: Time, p: usize) {
        let part = &self.parts[p];
        let Some(writing) = part.copy.checkpoints.writing.as_deref() else { return };
        if writing.crcs.is_empty() {
            return self.give_up_pages(now, p);
        }
        let geometry = part.cfg.geometry;
        let found = SledCheckpoint {
            number: part.stamp.number,
            generation: writing.generation,
            covers: writing.covers,
            pages: writing.crcs.len() as u32,
            unit_blocks: geometry.unit_blocks,
            stripes: geometry.stripes,
            copies: geometry.m + 1,
            hash: root_hash(u64::from(writing.generation), &writing.crcs),
            columns: writing.all().collect(),
        };
        let before = part.index.kept().found.first();
        let unfit =
            |kept: &SledCheckpoint| kept.columns.iter().any(|column| self.unfit_device(p, column.device));
        let keep = if writing.alone || before.is_some_and(unfit) { 0 } else { CHECKPOINTS_KEPT as u8 - 1 };
        let named = self.number(now, p, Body::Checkpoint { found: Some(Box::new(found)), keep }, Id::NONE);
        if let Some(writing) = self.parts[p].copy.checkpoints.writing.as_deref_mut() {
            writing.numbered = named.is_ok();
            // Else the log has no room now.
            writing.page_at = now + PAUSE;
        }
        self.arm(now + PAUSE);
    }

    /// Gives up all checkpoints, and the one in hand.
    fn drop_checkpoints(&mut self, now: Time, p: usize) {
        if self.parts[p].copy.checkpoints.writing.as_ref().is_some_and(|writing| writing.numbered) {
            return;
        }
        self.give_up_pages(now, p);
        self.parts[p].copy.checkpoints.again_at = now + GIVEN_UP;
        if self.parts[p].index.kept().found.is_empty() {
            return;
        }
        let none = Body::Checkpoint { found: None, keep: 0 };
        self.parts[p].copy.checkpoints.dropping = self.number(now, p, none, Id::NONE).is_ok();
    }

    /// A checkpoint was named, or some were given up; `before` are those that were kept until now.
    pub(super) fn on_checkpoint(&mut self, now: Time, p: usize, op: Op, before: Vec<SledCheckpoint>) {
        let primary = self.is_primary(p);
        let part = &mut self.parts[p];
        let kept = part.index.kept().found.clone();
        part.released_op = part.released_op.max(op);
        let own = &mut part.copy.checkpoints;
        own.dropping = false;
        let newest = kept.first().map(|newest| (newest.number, newest.generation));
        let number = part.stamp.number;
        if let Some(writing) = own.writing.take_if(|held| newest == Some((number, held.generation))) {
            let unit = u64::from(part.cfg.geometry.unit_blocks) * BLOCK as u64;
            own.bytes = writing.crcs.len() as u64 * unit * (u64::from(part.cfg.geometry.m) + 1);
            (own.since, own.moved) = (now, writing.moved);
            part.stats.counters.sled_checkpoints += 1;
        }
        if primary {
            for gone in before.into_iter().filter(|before| !kept.contains(before)) {
                self.kill_pages(p, gone.columns, gone.generation, op);
            }
        }
    }
}
