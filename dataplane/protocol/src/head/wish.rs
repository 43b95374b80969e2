//! Whom a head wants in the next group (MA-15, MA-16, MA-20).
//!
//! A primary goes on without a secondary that says nothing: with the others where there are others, for every
//! volume, and alone only where one copy is enough, or sleds take others (P-30). A secondary whose primary is silent takes the
//! secondaries along that it hears. Hearing nobody at all it may well be the one that is cut off, and gives
//! the others time to go on without it before it proposes to be alone.
//!
//! A new primary that asks where the log ends waits for a silent secondary a while longer: that may hold the end
//! of what was acknowledged, if the own log lost it (P-06). Whoever stays is asked again under the next number.

use super::config::Solo;
use super::core::Core;
use super::failover::FailoverConfig;
use super::part::{Part, Phase};
use super::peers::Peer;
use crate::wire::*;
use smallvec::SmallVec;

/// A secondary that is heard but answers nothing is left behind after so many times what makes it `away`.
const STUCK: u32 = 4;

/// Members of a wish beside the head itself.
pub(super) type Others = SmallVec<[Member; 2]>;

impl Part {
    /// The newest pair that this head has to do with: what a wish is made against.
    pub(super) fn pair(&self) -> Stamp {
        let probing = self.probing.as_ref().map(|probing| &probing.adopt);
        let stamp =
            |adopt: &Adopt| Stamp { partition: adopt.partition, number: adopt.number, grant: adopt.grant };
        probing.map(stamp).or(self.awaited().map(|told| told.stamp)).unwrap_or(self.stamp)
    }

    /// Whether an open wish leaves `head` out.
    pub(super) fn wishes_without(&self, head: NodeId) -> bool {
        self.decision.wished().is_some_and(|wish| wish.members.iter().all(|wished| wished.head != head))
    }
}

impl Core {
    /// The primary's look at its secondaries (MA-20).
    pub(super) fn look_at_peers(&mut self, now: Time, p: usize, cfg: &FailoverConfig, out: &mut Out) {
        let part = &self.parts[p];
        let probing = part.phase == Phase::Probing;
        let silent = |peer: &Peer| now.since(self.heard_of(now, &peer.member)) >= cfg.silence + cfg.confirm;
        let stuck = |peer: &Peer| {
            peer.away && peer.open_since.is_some_and(|since| now.since(since) >= STUCK * self.cfg.retry.away)
        };
        // Others, or one copy where that is enough, go on at once without a member that has to be filled.
        let lacking = |peer: &Peer| !probing && peer.lacking;
        let gone = |peer: &Peer| (silent(peer) && (!probing || peer.away)) || stuck(peer) || lacking(peer);
        let members = || part.peers.iter().filter(|peer| !peer.is_guest());
        if !members().any(gone) {
            return;
        }
        let alone = part.cfg.solo != Solo::Wait && !probing;
        let mut others: Others = members().filter(|peer| !gone(peer)).map(|peer| peer.member).collect();
        if others.is_empty() {
            // Alone for want of answers only: then whoever is heard stays.
            let stays = |peer: &&Peer| !(silent(peer) || alone && lacking(peer));
            others.extend(members().filter(stays).map(|peer| peer.member));
        }
        if others.len() < members().count() && (alone || !others.is_empty()) {
            let left = members().find(|peer| lacking(peer) && !silent(peer)).map(|peer| peer.member);
            let part = &mut self.parts[p];
            part.copy.wished = part.copy.wished.or(left);
            self.propose(now, p, &others, Why::Silence, out);
        }
    }

    /// The other secondaries that a secondary hears.
    pub(super) fn heard_others(&self, now: Time, p: usize, primary: NodeId, cfg: &FailoverConfig) -> Others {
        let heard = |member: &Member| {
            let other = member.head != primary && member.head != self.cfg.node;
            other && now.since(self.heard_of(now, member)) < cfg.silence
        };
        self.parts[p].members.iter().copied().filter(heard).collect()
    }
}
