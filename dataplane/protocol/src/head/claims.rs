//! Claims: every device is asked for its columns under the current number; flush, collection and release
//! wait for the devices they need, the log and writes never do (EF-15, P-22, P-26, P-27).

use super::config::DeviceTarget;
use super::core::Core;
use super::part::{Claim, Dying, MakeColumn, Part, Phase};
use super::sleds::{Ask, What};
use super::unit::chapter_of;
use crate::fence::token;
use crate::wire::msg::OwnedColumn;
use crate::wire::*;
use std::time::Duration;

/// How long a device that failed is not used for new extents.
const SUSPECT: Duration = Duration::from_secs(2);
/// Before a device that had no column to give is asked again how many it has.
const RECOUNT: Duration = Duration::from_secs(2);

impl Core {
    /// A new number: nothing is claimed yet.
    pub(super) fn reset_claims(&mut self, now: Time, p: usize) {
        let part = &mut self.parts[p];
        for claim in &mut part.claims {
            *claim = Claim { ask_at: now, list_from: Some(0), ..Claim::new(claim.target) };
        }
        self.background_at = now;
    }

    /// Control changed which devices there are; claims of those that stay are kept.
    pub(super) fn set_devices(&mut self, now: Time, partition: PartitionId, devices: Vec<DeviceTarget>) {
        self.busy = true;
        self.background_at = now;
        if let Some(p) = self.parts.find(partition) {
            self.parts[p].cfg.devices.clone_from(&devices);
            self.replace_targets(p, devices);
        }
    }

    pub(super) fn replace_targets(&mut self, p: usize, devices: Vec<DeviceTarget>) {
        let part = &mut self.parts[p];
        let old = std::mem::take(&mut part.claims);
        for target in devices {
            let kept = old.iter().find(|claim| claim.target.device == target.device);
            part.claims.push(match kept {
                // Another sled serves it now: tokens stayed behind with the old one (EF-18).
                Some(claim) if claim.target.sled == target.sled => Claim { target, ..claim.clone() },
                _ => Claim { list_from: Some(0), ..Claim::new(target) },
            });
        }
        part.collect_at = Time::ZERO;
    }

    /// Asks devices that are not claimed, and lists those that were claimed newly.
    pub(super) fn claim_devices(&mut self, now: Time, p: usize, out: &mut Out) {
        let salvages = self.parts[p].salvages();
        if !matches!(self.parts[p].phase, Phase::Announcing | Phase::Serving) && !salvages {
            return;
        }
        for at in 0..self.parts[p].claims.len() {
            let part = &self.parts[p];
            let claim = &part.claims[at];
            let (sled, device) = (claim.target.sled, claim.target.device);
            let wanted = claim.secret.is_none() || claim.recount;
            if wanted && claim.asking.is_none() && claim.ask_at <= now {
                let msg = Msg::Reserve { req: ReqId(0), device, stamp: part.claims_as() };
                let id = self.ask(now, Ask::new(p, sled, device, What::Reserve, msg), out);
                self.parts[p].claims[at].asking = Some(id);
            }
            let part = &self.parts[p];
            let claim = &part.claims[at];
            let lists = part.phase == Phase::Serving && !self.cfg.faults.no_list_after_claim();
            let lists = lists && claim.list_at <= now;
            if let (Some(from), Some(_), None, true) = (claim.list_from, claim.secret, claim.listing, lists) {
                let partition = part.cfg.partition;
                let msg = Msg::ColumnList { req: ReqId(0), device, partition, from };
                let id = self.ask(now, Ask::new(p, sled, device, What::List, msg), out);
                self.parts[p].claims[at].listing = Some(id);
            }
        }
    }

    pub(super) fn on_reserved(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        secret: GrantSecret,
        free: u32,
        out: &mut Out,
    ) {
        let Msg::Reserve { stamp, .. } = ask.msg else { return };
        let p = ask.part;
        if self.parts[p].claims_as() != stamp {
            return;
        }
        let retry = self.cfg.retry;
        let Some(claim) = self.parts[p].claim(ask.device) else { return };
        (claim.asking, claim.recount) = (None, false);
        claim.ask_at = now + if claim.secret.is_some() { RECOUNT } else { retry.last };
        match status {
            Status::Ok if claim.secret == Some(secret) => claim.free = free,
            Status::Ok => {
                claim.secret = Some(secret);
                claim.free = free;
                claim.ask_at = now + RECOUNT;
                claim.suspect_until = Time::ZERO;
                self.parts[p].lost.clear();
                self.parts[p].stats.counters.claims += 1;
                self.parts[p].make_at = now;
                self.background_at = now;
                self.release_held(p, ask.device, out);
            }
            Status::StaleNumber { number, grant } => {
                self.met(p, Stamp { partition: stamp.partition, number, grant }, out);
            }
            Status::Fenced { partition, number, grant } => {
                self.met(p, Stamp { partition, number, grant }, out)
            }
            Status::Retry => claim.ask_at = now + retry.first,
            _ => self.suspect(now, p, ask.device),
        }
    }

    /// Columns are wanted. How many a device has was said long ago where it has none: others may have given columns
    /// back there, and one that was full may have room again. The grant stays as it is (P-22).
    pub(super) fn count_again(&mut self, now: Time, p: usize) {
        let spare = self.cfg.flush.reserve_columns;
        for claim in &mut self.parts[p].claims {
            claim.recount = claim.secret.is_some() && claim.free <= spare && claim.ask_at <= now;
        }
    }

    /// A device failed or does not answer: new extents do without it for a while.
    pub(super) fn suspect(&mut self, now: Time, p: usize, device: DeviceId) {
        if let Some(claim) = self.parts[p].claim(device) {
            claim.suspect_until = now + SUSPECT;
        }
        self.arm(now + SUSPECT);
    }

    /// The token was refused though the number is right: the old grant is void, claim again (P-22).
    pub(super) fn reclaim(&mut self, now: Time, p: usize, device: DeviceId) {
        self.parts[p].stats.counters.fenced += 1;
        if self.cfg.faults.stale_token_retry() {
            return;
        }
        if let Some(claim) = self.parts[p].claim(device) {
            claim.secret = None;
            claim.ask_at = now;
        }
        self.background_at = now;
    }

    /// The partition-wide token of a device: column `u32::MAX`, generation 0.
    pub(super) fn device_token(&self, p: usize, device: DeviceId) -> Option<Token> {
        self.token(p, device, u32::MAX, 0)
    }

    pub(super) fn token(&self, p: usize, device: DeviceId, column: u32, generation: u32) -> Option<Token> {
        let claims = &self.parts[p].claims;
        let secret = claims.iter().find(|claim| claim.target.device == device)?.secret;
        if secret.is_none() && self.cfg.faults.claim_unchecked() {
            return Some(Token::default());
        }
        let secret = secret?;
        Some(token::derive(secret, device, column, generation))
    }

    /// Requests that wait for a new token of the device go out again with it.
    fn release_held(&mut self, p: usize, device: DeviceId, out: &mut Out) {
        let mut ids = std::mem::take(&mut self.ids);
        let from = ids.len();
        self.asks.pick(&mut ids, |ask| ask.held && ask.part == p && ask.device == device);
        for id in ids.drain(from..) {
            let Some(ask) = self.asks.get(id) else { continue };
            let token = match &ask.msg {
                Msg::ColumnWrite { column, .. } | Msg::ColumnRelease { column, .. } => {
                    self.token(p, device, column.column, column.generation)
                }
                _ => self.device_token(p, device),
            };
            let (Some(fresh), Some(ask)) = (token, self.asks.get_mut(id)) else { continue };
            ask.held = false;
            match &mut ask.msg {
                Msg::ColumnWrite { token, .. }
                | Msg::ColumnRelease { token, .. }
                | Msg::ColumnReserve { token, .. } => *token = fresh,
                _ => {}
            }
            out.net.push((ask.to, ask.msg.clone()));
        }
        self.ids = ids;
    }

    /// A sled reserved a column for a question that was given up: whoever asked lists the device (P-27).
    pub(super) fn stray_column(&mut self, now: Time, from: NodeId, column: &ColumnRef) {
        if self.parts.iter().any(|part| part.knows(column)) {
            return;
        }
        for p in 0..self.parts.len() {
            let served = self.parts[p].phase == Phase::Serving;
            if served && self.parts[p].sled_of(column.device) == Some(from) {
                self.list_again(now, p, column.device);
            }
        }
    }

    /// Lists a device from its first column, also one that was listed under this number: it may hold a column
    /// that nobody uses.
    pub(super) fn list_again(&mut self, now: Time, p: usize, device: DeviceId) {
        let Some(claim) = self.parts[p].claim(device) else { return };
        claim.list_from = Some(0);
        // What is under way may have been answered before the column was there.
        if let Some(open) = claim.listing.take() {
            self.asks.remove(open);
        }
        self.background_at = now;
    }

    /// Columns that the device holds of the partition: those that no descriptor names are orphans, whether an
    /// older number reserved them or this one, which got its answer too late (P-27). They die like released
    /// ones, those of older numbers once checkpoints are past the takeover: what names them could only stand
    /// before it (P-28).
    pub(super) fn on_listed(
        &mut self,
        now: Time,
        ask: &Ask,
        status: Status,
        columns: &[OwnedColumn],
        more: Option<u32>,
    ) {
        let p = ask.part;
        let (sled, device) = (ask.to, ask.device);
        let part = &mut self.parts[p];
        let (number, gone) = (part.stamp.number, part.deleted);
        // Both logs hold what a journal does as soon as a group of two serves; until then it is all there is
        // beside one log (P-30).
        let two = part.members.len() > 1 || self.cfg.faults.journal_given_back();
        let mut orphans = Vec::new();
        for owned in columns {
            let column = ColumnRef { sled, device, column: owned.column, generation: owned.generation };
            let older = owned.number < number || gone;
            let strays = owned.number == number && !part.asks_for(owned.extent, device);
            if chapter_of(owned.extent, owned.position).is_some() {
                if two && owned.number < number && !part.knows(&column) {
                    orphans.push(Dying {
                        column,
                        extent: owned.extent,
                        after: Op(0),
                        asking: false,
                        retry_at: now,
                    });
                }
                continue;
            }
            if (older || strays) && !part.knows(&column) {
                // Of an own reservation that came too late no checkpoint ever knew.
                let after = if older { part.service.from } else { Op(0) };
                orphans.push(Dying { column, extent: owned.extent, after, asking: false, retry_at: now });
            }
        }
        part.stats.counters.orphans += orphans.len() as u64;
        part.dying.append(&mut orphans);
        let Some(claim) = part.claim(device) else { return };
        claim.listing = None;
        if status.is_ok() {
            claim.list_from = more;
            claim.owned = columns.len() as u32;
            self.background_at = now;
        } else {
            // A device that failed says so at once, and for ever.
            claim.list_at = now + SUSPECT;
        }
    }
}

impl Part {
    /// Whether a descriptor, an extent in the making, a checkpoint or a release names the column.
    fn knows(&self, column: &ColumnRef) -> bool {
        let same = |other: &ColumnRef| {
            (other.device, other.column, other.generation)
                == (column.device, column.column, column.generation)
        };
        let got = |made: &MakeColumn| matches!(made, MakeColumn::Got(column) if same(column));
        self.index.extents().any(|(_, extent)| extent.desc.columns.iter().flatten().any(same))
            || self.making.as_ref().is_some_and(|making| making.columns.iter().any(got))
            || self.page_columns().any(|column| same(&column))
            || self.dying.iter().any(|dying| same(&dying.column))
    }

    /// Whether the device's answer about a column for the extent is still awaited.
    fn asks_for(&self, extent: ExtentId, device: DeviceId) -> bool {
        let asking = MakeColumn::Asking(device);
        let making = self.making.as_ref();
        making.is_some_and(|making| making.id == extent && making.columns.contains(&asking))
            || self.asks_page(extent, device)
    }
}
