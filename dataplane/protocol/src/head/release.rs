//! Giving columns back (P-28): only when the release is committed, every member's durable checkpoint is
//! past it, and nobody reads from the extent any more.

use super::core::Core;
use super::part::Dying;
use super::piece::Source;
use super::sleds::{Ask, What};
use crate::wire::*;
use std::time::Duration;

/// Pause before another try, and before one at a device that is not good.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_ILL: Duration = Duration::from_secs(5);
/// Columns asked for in one pass.
const AT_ONCE: usize = 64;

impl Core {
    /// A release is committed: its columns die, on the primary.
    pub(super) fn on_extent_released(
        &mut self,
        p: usize,
        op: Op,
        extent: ExtentId,
        desc: Option<ExtentDesc>,
        out: &mut Out,
    ) {
        let primary = self.is_primary(p);
        let part = &mut self.parts[p];
        part.closing.remove(&extent);
        part.lost.remove(&extent);
        part.released_op = part.released_op.max(op);
        part.stats.counters.extents_released += 1;
        if let Some(mask) = part.rot.remove(&extent) {
            part.stats.counters.repaired += u64::from(mask.count_ones());
            let what = format!("partition {} extent {extent}: rewritten elsewhere", part.cfg.partition);
            out.events.push(Event::Repaired { place: "column", what });
        }
        let Some(desc) = desc.filter(|_| primary) else { return };
        let dying =
            |column: ColumnRef| Dying { column, extent, after: op, asking: false, retry_at: Time::ZERO };
        part.dying.extend(desc.columns.iter().flatten().copied().map(dying));
    }

    pub(super) fn is_primary(&self, p: usize) -> bool {
        self.parts[p].members.first().is_some_and(|first| first.head == self.cfg.node)
    }

    /// Asks sleds to free what may go now.
    pub(super) fn release_columns(&mut self, now: Time, p: usize, out: &mut Out) {
        if self.parts[p].dying.is_empty() {
            return;
        }
        let part = &mut self.parts[p];
        let claims = &part.claims;
        // A device that was given up takes its columns along; should it come back, a list shows them (P-27).
        part.dying.retain(|dying| claims.iter().any(|claim| claim.target.device == dying.column.device));
        let part = &self.parts[p];
        let own = self.log.covers(part.cfg.partition);
        let covered = part.peers.iter().map(|peer| peer.covered).fold(own, Op::min);
        // A copy under way names what was released behind it, or is about to say so for good.
        let copied = part.copy_covered().filter(|_| !self.cfg.faults.release_copied());
        let covered = copied.map_or(covered, |copied| copied.min(covered));
        let any = self.cfg.faults.release_early() || part.deleted;
        let mut ready: Vec<(usize, Dying)> = Vec::new();
        for (at, dying) in part.dying.iter().enumerate() {
            let due = !dying.asking && dying.retry_at <= now && (any || dying.after <= covered);
            if due && ready.len() < AT_ONCE && (any || !self.is_read(p, dying.extent)) {
                ready.push((at, *dying));
            }
        }
        for (at, dying) in ready {
            let ColumnRef { device, column, generation, .. } = dying.column;
            let token = self.token(p, device, column, generation);
            let sled = self.parts[p].sled_of(device);
            let (Some(token), Some(sled)) = (token, sled) else { continue };
            self.parts[p].dying[at].asking = true;
            let stamp = self.parts[p].stamp;
            let msg = Msg::ColumnRelease { req: ReqId(0), stamp, column: dying.column, token };
            self.ask(now, Ask::new(p, sled, device, What::Release { column, generation }, msg), out);
        }
    }

    fn is_read(&self, p: usize, extent: ExtentId) -> bool {
        self.pieces.iter().any(|(_, piece)| {
            piece.part == p && matches!(&piece.source, Source::Column(read) if read.extent() == extent)
        })
    }

    pub(super) fn on_column_released(&mut self, now: Time, ask: &Ask, status: Status, out: &mut Out) {
        let What::Release { column, generation } = ask.what else { return };
        let (p, device) = (ask.part, ask.device);
        let same = |dying: &Dying| {
            (dying.column.device, dying.column.column, dying.column.generation)
                == (device, column, generation)
        };
        let Some(at) = self.parts[p].dying.iter().position(same) else { return };
        let partition = self.parts[p].id();
        let good = self.devices.health(device) == DeviceHealth::Good;
        let again = if good { RETRY } else { RETRY_ILL };
        match status {
            Status::Ok | Status::NotOwner => {
                let part = &mut self.parts[p];
                part.dying.swap_remove(at);
                part.stats.counters.columns_released += 1;
                if let Some(claim) = part.claim(device).filter(|_| status.is_ok()) {
                    claim.free += 1;
                }
                part.make_at = part.make_at.min(now);
                self.background_at = now;
                return;
            }
            Status::Fenced { number, grant, .. } | Status::StaleNumber { number, grant } => {
                self.fenced(now, p, device, Stamp { partition, number, grant }, out);
            }
            Status::NoToken => self.reclaim(now, p, device),
            _ => {}
        }
        if let Some(dying) = self.parts[p].dying.get_mut(at) {
            dying.asking = false;
            dying.retry_at = now + again;
        }
    }
}
