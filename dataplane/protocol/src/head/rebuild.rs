//! What has to leave which device, how far that is, and the share of time that it may take (EF-22, EF-23).
//!
//! The moving itself is the collector's (P-24): columns are never replaced in place. Here stands which extents
//! lack columns because their devices failed, which lie on devices that are to be left, and when the next
//! batch of a rebuild may begin: while clients are at work, batches take a share of the time only.

use super::core::Core;
use super::devices::Due;
use super::part::{MakeColumn, Part, Phase};
use super::slab::Id;
use super::sleds::{Ask, What};
use super::stats::{DeviceStatus, Left};
use crate::log::Extent;
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// A pause of a rebuild is never longer: a batch that was slow by chance does not stop it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Devices of a partition, in order: whether their columns count, and whether they are to be left.
pub(super) struct Marks {
    devices: Vec<(DeviceId, Mark)>,
    /// Only a primary knows what is there.
    knows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    Leave,
    Failed,
}

/// How an extent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Columns that count: there, written, not rotten, on devices that did not fail.
    pub(super) good: usize,
    /// A column lies on a device that is to be left.
    pub(super) leaves: bool,
}

/// A partition's extents and devices for `status`.
pub(super) struct Picture {
    pub(super) extents: u32,
    pub(super) redundancy: Option<i8>,
    pub(super) rebuild: Left,
    pub(super) leaving: Left,
    pub(super) devices: Vec<DeviceStatus>,
}

impl Marks {
    fn of(&self, device: DeviceId) -> Option<(usize, Mark)> {
        let at = self.devices.binary_search_by_key(&device, |(known, _)| *known).ok()?;
        Some((at, self.devices[at].1))
    }

    /// How an extent stands; `part` is its partition.
    pub(super) fn extent(&self, part: &Part, extent: &Extent) -> Standing {
        let mut bad = part.rot.get(&extent.desc.id).copied().unwrap_or(0);
        bad |= extent.absent.iter().fold(0, |all, &absent| all | absent);
        let mut leaves = false;
        for (at, column) in extent.desc.columns.iter().enumerate() {
            let Some(column) = column else {
                bad |= 1 << at;
                continue;
            };
            match self.of(column.device) {
                // A device that was given up takes its columns along.
                None if self.knows => bad |= 1 << at,
                Some((_, Mark::Failed)) => bad |= 1 << at,
                Some((_, Mark::Leave)) => leaves = true,
                None | Some((_, Mark::Good)) => {}
            }
        }
        Standing { good: extent.desc.columns.len().saturating_sub(bad.count_ones() as usize), leaves }
    }
}

impl Core {
    /// Looks after the devices: those that are not good, or were silent, are tried; what is thought of them is
    /// told.
    pub(super) fn watch_devices(&mut self, now: Time, out: &mut Out) {
        let (watch, parts) = (self.cfg.watch, &self.parts);
        let leads = |part: &&Part| part.phase == Phase::Serving && !part.deleted;
        let targets = || {
            let claims = parts.iter().filter(leads).flat_map(|part| &part.claims);
            let mut all: Vec<DeviceId> = claims.map(|claim| claim.target.device).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let turned = self.devices.look(now, &watch, targets);
        if !turned.is_empty() {
            self.parts_look_again(now);
        }
        for change in turned {
            let sled = self.parts.iter().find_map(|part| part.sled_of(change.device)).unwrap_or_default();
            let (device, health, why) = (change.device, change.health, change.why);
            out.events.push(Event::DeviceTurned { device, sled, health, why });
        }
        for Due { device, column } in self.devices.due(now, &watch) {
            if let Some((partition, column)) = column.or_else(|| self.a_column_on(device)) {
                self.devices.holds(device, partition, column);
                self.try_device(now, partition, column, out);
            }
        }
    }

    /// Extents may have become worse or better all at once.
    fn parts_look_again(&mut self, now: Time) {
        for p in 0..self.parts.len() {
            let part = &mut self.parts[p];
            part.collect_at = part.collect_at.min(now);
            part.make_at = part.make_at.min(now);
        }
    }

    /// Any column that a served partition has on a device.
    fn a_column_on(&self, device: DeviceId) -> Option<(PartitionId, ColumnRef)> {
        let served = self.parts.iter().filter(|part| part.phase == Phase::Serving && !part.deleted);
        served.into_iter().find_map(|part| {
            let mut columns =
                part.index.extents().flat_map(|(_, extent)| extent.desc.columns.iter().flatten());
            columns.find(|column| column.device == device).map(|column| (part.cfg.partition, *column))
        })
    }

    fn try_device(&mut self, now: Time, partition: PartitionId, column: ColumnRef, out: &mut Out) {
        let Some(p) = self.parts.find(partition) else { return };
        let Some(sled) = self.parts[p].sled_of(column.device) else { return };
        self.devices.trying(column.device, true);
        let msg = Msg::ColumnRead { req: ReqId(0), partition, column, block: 0, count: 1 };
        let _: Id = self.ask(now, Ask::new(p, sled, column.device, What::Try { column }, msg), out);
    }

    /// A try is over. What it was about may be gone by now.
    pub(super) fn tried(&mut self, ask: &Ask, status: Status) {
        self.devices.trying(ask.device, false);
        if matches!(status, Status::NotOwner | Status::BadRequest) {
            self.devices.holds_nothing(ask.device);
        }
    }

    /// Whether the device of a column is asked only when the others do not suffice.
    pub(super) fn ill(&self, column: Option<ColumnRef>) -> bool {
        column.is_some_and(|column| self.devices.health(column.device) != DeviceHealth::Good)
    }

    /// Whether a claim's device gets no new columns while there are enough others.
    pub(super) fn unfit(&self, p: usize, at: usize) -> bool {
        let target = &self.parts[p].claims[at].target;
        target.leave || self.devices.health(target.device) != DeviceHealth::Good
    }

    /// The same of a device that a column lies on.
    pub(super) fn unfit_device(&self, p: usize, device: DeviceId) -> bool {
        let claims = &self.parts[p].claims;
        let at = claims.iter().position(|claim| claim.target.device == device);
        at.is_none_or(|at| self.unfit(p, at))
    }

    /// What the devices of a partition count for.
    pub(super) fn marks(&self, part: &Part) -> Marks {
        let mark = |target: &super::config::DeviceTarget| match self.devices.health(target.device) {
            DeviceHealth::Failed => Mark::Failed,
            _ if target.leave => Mark::Leave,
            _ => Mark::Good,
        };
        let mut devices: Vec<(DeviceId, Mark)> =
            part.claims.iter().map(|claim| (claim.target.device, mark(&claim.target))).collect();
        devices.sort_unstable_by_key(|(device, _)| *device);
        Marks { devices, knows: matches!(part.phase, Phase::Announcing | Phase::Serving) }
    }

    /// Whether a batch of a rebuild may begin. So many are under way on this head at once, because reads of some
    /// then overlap with writes of others and no device waits; each one that ended leaves its place empty for the
    /// pause of its share.
    pub(super) fn may_rebuild(&mut self, now: Time, p: usize) -> bool {
        self.rebuild_pauses.retain(|until| *until > now);
        let open = self.batches.iter().filter(|(_, batch)| batch.rebuild).count();
        if open + self.rebuild_pauses.len() < usize::from(self.cfg.flush.rebuild_batches.max(1)) {
            return true;
        }
        if let Some(at) = self.rebuild_pauses.iter().min().copied() {
            self.parts[p].collect_at = self.parts[p].collect_at.min(at);
            self.arm(at);
        }
        false
    }

    /// The batch that was started last is one of a rebuild.
    pub(super) fn rebuilding(&mut self, p: usize, is: bool) {
        let last = self.parts[p].batches.back().copied();
        if let Some(batch) = last.and_then(|id| self.batches.get_mut(id)) {
            batch.rebuild = is;
        }
    }

    /// A batch of a rebuild ended: while clients are at work the one in its place waits for its share of the time.
    pub(super) fn rebuilt(&mut self, now: Time, p: usize, took: Duration) {
        let share = u32::from(self.cfg.flush.rebuild_share.clamp(1, 100));
        let done: u64 = self.parts.iter().map(|part| part.stats.counters.answered()).sum();
        let open = self.parts.iter().any(|part| part.active > 0 || !part.waiting.is_empty());
        let clients = open || std::mem::replace(&mut self.done_then, done) != done;
        // All places together keep to a small share as one batch would; with a large one each keeps to it, and all do
        // about that share of what they would without clients: the fewer are under way, the faster each is.
        let rest = 100 - share;
        let places = 10_000 + (u32::from(self.cfg.flush.rebuild_batches.max(1)) - 1) * rest * rest;
        let pause = (took * rest / share * places / 10_000).min(PAUSE_MAX);
        let pause = if clients { pause } else { Duration::ZERO };
        if !pause.is_zero() {
            self.rebuild_pauses.push(now + pause);
        }
        self.parts[p].collect_at = self.parts[p].collect_at.min(now + pause);
        self.arm(now + pause);
        self.background_at = self.background_at.min(now + pause);
    }

    /// A partition's extents and devices.
    pub(super) fn picture(&self, part: &Part) -> Picture {
        let marks = self.marks(part);
        let (mut extents, mut redundancy) = (0, None);
        let (mut rebuild, mut leaving) = (Left::default(), Left::default());
        let mut held: SmallVec<[u32; 64]> = SmallVec::from_elem(0, marks.devices.len());
        for (_, extent) in part.index.extents() {
            extents += 1;
            let standing = marks.extent(part, extent);
            let spare = standing.good as i8 - extent.desc.geometry.k as i8;
            redundancy = Some(redundancy.map_or(spare, |least: i8| least.min(spare)));
            let left = match standing {
                Standing { good, .. } if good < extent.desc.columns.len() => Some(&mut rebuild),
                Standing { leaves: true, .. } => Some(&mut leaving),
                _ => None,
            };
            if let Some(left) = left {
                left.extents += 1;
                left.blocks += u64::from(extent.live);
            }
            for (at, _) in extent.desc.columns.iter().flatten().filter_map(|column| marks.of(column.device)) {
                held[at] += 1;
            }
        }
        let making = part.making.iter().flat_map(|making| &making.columns).filter_map(MakeColumn::device);
        // What a failed device holds it cannot give back: nobody waits for that.
        let alive = |device: &DeviceId| self.devices.health(*device) != DeviceHealth::Failed;
        let dying = part.dying.iter().map(|dying| dying.column.device).filter(alive);
        let pages = part.page_columns().map(|column| column.device);
        for device in making.chain(dying).chain(pages) {
            if let Some((at, _)) = marks.of(device) {
                held[at] += 1;
            }
        }
        let device = |claim: &super::part::Claim| DeviceStatus {
            device: claim.target.device,
            sled: claim.target.sled,
            claimed: claim.secret.is_some(),
            free: claim.free,
            health: self.devices.health(claim.target.device),
            leave: claim.target.leave,
            held: marks.of(claim.target.device).map_or(0, |(at, _)| held[at]),
        };
        Picture { extents, redundancy, rebuild, leaving, devices: part.claims.iter().map(device).collect() }
    }
}
