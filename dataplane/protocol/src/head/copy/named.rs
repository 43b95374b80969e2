//! What a learner has from checkpoints on sleds, as far as it has said so (P-29).
//!
//! The giver names its checkpoints and asks for the hashes of granules, some at a time and ahead of the parts that it
//! makes. Nothing that the learner says is believed: a granule is left out of a part only while the own index has the
//! same hash for it.

use super::super::core::Core;
use super::super::page::{self, GRANULE, GRANULE_BYTES};
use super::super::part::Part;
use super::Learner;
use crate::wire::*;

/// Rounds of a copy that begin with checkpoints. After so many something is wrong with them, whatever it is.
const ROUNDS: u32 = 3;

/// Granules that the learner told of.
#[derive(Debug, Default)]
pub(super) struct Named {
    checkpoints: Vec<SledCheckpoint>,
    /// Open question: granules from this one on.
    pub(super) asked: Option<u64>,
    /// Granules below this one are known.
    upto: u64,
    has: Vec<(u64, u128)>,
}

impl Named {
    /// For a round of a copy: with no checkpoint nothing is asked.
    pub(super) fn new(kept: &KeptCheckpoints, round: u32) -> Self {
        let checkpoints = if round <= ROUNDS { kept.found.clone() } else { Vec::new() };
        let upto = if checkpoints.is_empty() { u64::MAX } else { 0 };
        Self { checkpoints, asked: None, upto, has: Vec::new() }
    }

    /// First block of which is not known what the learner has.
    pub(super) fn limit(&self) -> u64 {
        self.upto.saturating_mul(GRANULE)
    }

    fn hash_of(&self, granule: u64) -> Option<u128> {
        let at = self.has.binary_search_by_key(&granule, |(known, _)| *known).ok()?;
        Some(self.has[at].1)
    }
}

impl Learner {
    /// The open question.
    pub(super) fn ask(&self, stamp: Stamp) -> Option<(NodeId, Msg)> {
        let from = self.basis.asked?;
        // Said once: after the first answer the learner knows them.
        let named = if self.basis.upto == 0 { self.basis.checkpoints.clone() } else { Vec::new() };
        Some((self.member.head, Msg::CopyAsk { stamp, session: self.session, named, from }))
    }
}

impl Part {
    /// Whether the learner has a granule from a checkpoint just as the index says it now.
    pub(super) fn is_had(&self, granule: u64, trusted: bool) -> bool {
        let learner = self.copy.learner.as_ref();
        let Some(had) = learner.and_then(|learner| learner.basis.hash_of(granule)) else { return false };
        let mut bytes = [0; GRANULE_BYTES];
        trusted || (page::granule(&self.index, granule, &mut bytes) && page::hash(&bytes) == had)
    }
}

impl Core {
    /// Whether the next part, which begins at `first`, may be made; asks for what has to be known before.
    pub(super) fn knows_basis(&mut self, now: Time, p: usize, first: Lba, out: &mut Out) -> bool {
        let part = &mut self.parts[p];
        let stamp = part.stamp;
        let Some(learner) = &mut part.copy.learner else { return false };
        if first.0 < learner.basis.limit() {
            return true;
        }
        if learner.basis.asked.is_none() {
            learner.basis.asked = Some(first.0 / GRANULE);
            out.net.extend(learner.ask(stamp));
            let at = learner.asked(now);
            self.arm(at);
        }
        false
    }

    /// The learner says what it has, or that it is still reading.
    pub(in crate::head) fn on_copy_has(
        &mut self,
        now: Time,
        (from, boot): (NodeId, BootId),
        (stamp, session): (Stamp, u64),
        granule: u64,
        upto: Option<u64>,
        found: Vec<(u64, u128)>,
    ) {
        let Some(p) = self.parts.find(stamp.partition) else { return };
        let first = self.cfg.retry.first;
        let part = &mut self.parts[p];
        let held = part.stamp;
        let Some(learner) = part.copy.learner.as_mut().filter(|learner| learner.session == session) else {
            return;
        };
        if learner.member.head != from || learner.member.boot != boot || held != stamp {
            return;
        }
        learner.heard = now;
        if learner.basis.asked != Some(granule) {
            return;
        }
        // Every answer is followed by another question before long.
        learner.gap = first;
        let Some(upto) = upto.filter(|upto| *upto > granule) else { return };
        let basis = &mut learner.basis;
        (basis.asked, basis.upto, basis.has) = (None, upto, found);
        learner.repeat_at = learner.is_open().then_some(now + first);
        self.busy = true;
    }
}
