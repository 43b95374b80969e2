//! Reads of a lone head whose copies lie on sleds (P-12, P-30, MA-07): sleds vouch that it was not superseded.
//!
//! A head that runs alone on one copy cannot be followed by anybody without knowing it. One with copies on sleds
//! can: it sleeps, another head salvages the copies and serves newer data, and the sleeper wakes with reads in
//! its queue. There is no peer to ask, so it asks those who know first: whoever salvages claims all but `m`
//! devices before it serves, so that of any `m + 1` devices one would refuse the old number. The question is a
//! reserve under the number that is held, which a sled answers alike as long as it holds; one round covers all
//! reads of a turn, and goes on beside their look-up and media read. A read is released only by a round that
//! began after it arrived.

use super::core::Core;
use super::part::{Part, Phase};
use super::sleds::{Ask, What};
use crate::wire::*;
use smallvec::SmallVec;

/// Rounds of questions.
#[derive(Debug, Default)]
pub(super) struct Vouch {
    /// The last round that began, and the last read that it covers.
    round: u64,
    covers: u64,
    /// Reads up to here were vouched for.
    confirmed: u64,
    open: bool,
    asked: SmallVec<[DeviceId; 8]>,
    good: SmallVec<[DeviceId; 8]>,
    /// Could not answer; asked again with the next widening.
    failed: SmallVec<[DeviceId; 8]>,
    /// From then on all devices are asked.
    widen_at: Time,
}

impl Vouch {
    /// A new number: reads that wait need a round under it.
    pub(super) fn anew(&mut self) {
        (self.open, self.covers) = (false, self.confirmed);
    }
}

impl Part {
    /// The last read that sleds vouched for, where they have to.
    pub(super) fn vouched(&self) -> u64 {
        if self.journal.on && self.members.len() == 1 { self.vouch.confirmed } else { u64::MAX }
    }
}

impl Core {
    /// At the end of a turn: one round for all reads of the turn, of as many devices as are enough; of all when
    /// some of those keep silent.
    pub(super) fn send_vouches(&mut self, now: Time, out: &mut Out) {
        for p in 0..self.parts.len() {
            let part = &mut self.parts[p];
            if !part.journal.on || part.phase != Phase::Serving || part.reads.queue.is_empty() {
                continue;
            }
            let enough = usize::from(part.cfg.geometry.m) + 1;
            let vouch = &mut part.vouch;
            if !vouch.open && part.reads.last > vouch.covers {
                vouch.round += 1;
                (vouch.open, vouch.covers) = (true, part.reads.last);
                vouch.asked.clear();
                vouch.good.clear();
                vouch.failed.clear();
                vouch.widen_at = now + self.cfg.retry.first;
                part.stats.counters.vouches += 1;
            }
            if !part.vouch.open {
                continue;
            }
            let vouch = &mut part.vouch;
            let widens = vouch.widen_at <= now;
            if widens {
                let failed = std::mem::take(&mut vouch.failed);
                vouch.asked.retain(|device| !failed.contains(device));
                vouch.widen_at = now + self.cfg.retry.last;
            }
            let at = vouch.widen_at;
            self.ask_to_vouch(now, p, if widens { usize::MAX } else { enough }, out);
            self.arm(at);
        }
    }

    /// Asks claimed devices until `most` were asked in this round, the well ones first.
    fn ask_to_vouch(&mut self, now: Time, p: usize, most: usize, out: &mut Out) {
        let part = &self.parts[p];
        if part.vouch.asked.len() >= most.min(part.claims.len()) {
            return;
        }
        let fresh = |claim: &&super::part::Claim| {
            claim.secret.is_some() && !part.vouch.asked.contains(&claim.target.device)
        };
        let mut targets: SmallVec<[_; 16]> =
            part.claims.iter().filter(fresh).map(|claim| claim.target).collect();
        targets.sort_by_key(|target| self.devices.health(target.device));
        targets.truncate(most.saturating_sub(part.vouch.asked.len()));
        let (stamp, round) = (part.stamp, part.vouch.round);
        for target in targets {
            self.parts[p].vouch.asked.push(target.device);
            let msg = Msg::Reserve { req: ReqId(0), device: target.device, stamp };
            self.ask(now, Ask::new(p, target.sled, target.device, What::Vouch { round }, msg), out);
        }
    }

    /// A device's answer.
    pub(super) fn on_vouched(&mut self, now: Time, ask: &Ask, status: Status, out: &mut Out) {
        let What::Vouch { round } = ask.what else { return };
        let p = ask.part;
        let part = &mut self.parts[p];
        let partition = part.id();
        match status {
            Status::Ok => {}
            Status::StaleNumber { number, grant } | Status::Fenced { number, grant, .. } => {
                return self.met(p, Stamp { partition, number, grant }, out);
            }
            _ => {
                let at = part.vouch.widen_at.min(now + self.cfg.retry.first);
                part.vouch.widen_at = at;
                part.vouch.failed.push(ask.device);
                return self.arm(at);
            }
        }
        let enough = usize::from(part.cfg.geometry.m) + 1;
        let vouch = &mut part.vouch;
        if !vouch.open || vouch.round != round || part.phase != Phase::Serving {
            return;
        }
        if !vouch.good.contains(&ask.device) {
            vouch.good.push(ask.device);
        }
        if vouch.good.len() < enough {
            return;
        }
        (vouch.open, vouch.confirmed) = (false, vouch.covers);
        self.release_reads(now, p, out);
    }
}
