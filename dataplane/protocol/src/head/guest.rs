//! A head that was filled, or comes back, and is no member yet (P-02, MA-21).
//!
//! One that comes back to a group that goes on without it is a guest at once: its log is compared with the primary's
//! as far as it may have gone another way (P-30), cut, and refilled; if it lacks more than is remembered it is filled
//! first. So a head that was away for long stops nobody when it comes back (MA-20).
//!
//! It follows the pair as a secondary does, and at first nothing waits for it. When it is close behind it is
//! counted: acknowledgements, reads and credit need it as they need every peer. As soon as it holds all that was
//! acknowledged before, the group with it is proposed, and this head vouches for it. So nothing stops while the
//! outcome is not known: what is acknowledged or read by then stands on the old members and on the wished one,
//! whichever of both groups is in force. A guest that is lost, or no longer wished, goes; one that was proposed
//! stays until the outcome is known.

use super::core::Core;
use super::part::{Part, Phase};
use super::peers::Peer;
use crate::wire::*;
use std::time::Duration;

/// Operations that a guest may lack when it begins to count.
const BEHIND: u64 = 256;
/// How long it is counted without being proposed, and the pause after that.
const COUNTED: Duration = Duration::from_millis(100);
const UNCOUNTED: Duration = Duration::from_millis(400);

/// How a peer that is no member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A member of the pair.
    Member,
    /// A guest for whom nothing waits, and nothing does before.
    Guest(Time),
    /// A guest that is counted since.
    Counted(Time),
}

/// Whether the head that control wishes for can follow from its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// It is to be tried.
    May(Member),
    /// It could not.
    Cannot(Member),
}

impl Peer {
    /// Whether acknowledgements and reads need it.
    #[inline]
    pub(super) fn counts(&self) -> bool {
        !matches!(self.standing, Standing::Guest(_))
    }

    pub(super) fn is_guest(&self) -> bool {
        self.standing != Standing::Member
    }
}

impl Part {
    /// Peers that acknowledgements and reads need.
    pub(super) fn counted(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.counts())
    }

    /// The guest's place among the peers.
    pub(super) fn guest(&self) -> Option<usize> {
        self.peers.iter().position(Peer::is_guest)
    }

    /// Control says whether the head that it wishes for was a member; what was found out about it stands.
    pub(super) fn may_follow(&mut self, member: Member, follows: bool) {
        if self.copy.follows != Some(Follows::Cannot(member)) {
            self.copy.follows = follows.then_some(Follows::May(member));
        }
    }

    /// Whether a wished member counts already.
    pub(super) fn counts_for(&self, wished: &Member) -> bool {
        self.peers.iter().any(|peer| peer.member == *wished && peer.counts())
    }
}

impl Core {
    /// A head that was filled under the pair, or may follow as it is: it is announced to, as members are.
    pub(super) fn invite(&mut self, now: Time, p: usize, member: Member, out: &mut Out) {
        let first = self.cfg.retry.first;
        let part = &mut self.parts[p];
        part.copy.learner = None;
        let peer = Peer { standing: Standing::Guest(now), ..Peer::new(member, first) };
        part.peers.push(peer);
        let at = part.peers.len() - 1;
        self.announce(now, p, at, out);
    }

    /// Goes on with a guest; says whether there is one.
    pub(super) fn mind_guest(&mut self, now: Time, p: usize, out: &mut Out) -> bool {
        let Some(at) = self.parts[p].guest() else { return false };
        if self.parts[p].phase != Phase::Serving || self.repeat_wish(now, p, out) {
            return true;
        }
        let early = self.cfg.faults.counted_before_whole();
        let part = &mut self.parts[p];
        let (rest, tail, committed) = (part.rest_until(), part.tail, part.committed);
        let (wished, reached) = (part.copy.wished, part.reaches(part.peers[at].durable));
        let peer = &mut part.peers[at];
        let behind = peer.lacking || (peer.announced && !reached);
        if behind && part.copy.follows == Some(Follows::May(peer.member)) {
            part.copy.follows = Some(Follows::Cannot(peer.member));
        }
        if wished != Some(peer.member) || peer.away || behind {
            self.dismiss(now, p, at, out);
            return true;
        }
        let again = match peer.standing {
            Standing::Guest(since) => rest.max(since),
            Standing::Counted(since) => since + COUNTED,
            Standing::Member => return false,
        };
        let near = peer.announced && tail.0 - peer.durable.0 <= BEHIND;
        match peer.standing {
            Standing::Guest(_) if now >= again && near => peer.standing = Standing::Counted(now),
            Standing::Counted(_) if rest > now || now >= again => {
                peer.standing = Standing::Guest(now + UNCOUNTED);
                self.arm(now + UNCOUNTED);
                self.release_reads(now, p, out);
                return true;
            }
            Standing::Guest(_) | Standing::Counted(_) if now < again => self.arm(again),
            _ => {}
        }
        let peer = &self.parts[p].peers[at];
        if peer.counts() && (peer.durable >= committed || early) {
            self.propose_with(now, p, out);
        }
        true
    }

    /// A guest goes; what waited for it waits no more.
    fn dismiss(&mut self, now: Time, p: usize, at: usize, out: &mut Out) {
        self.parts[p].peers.remove(at);
        self.busy = true;
        self.release_reads(now, p, out);
    }

    /// Wishes the group with the guest: members that are away, and an earlier life of that head, stay out.
    fn propose_with(&mut self, now: Time, p: usize, out: &mut Out) {
        let me = Member { head: self.cfg.node, log: self.log.id(), boot: self.cfg.boot };
        let Some(guest) = self.parts[p].guest().map(|at| self.parts[p].peers[at].member) else { return };
        let stays = |peer: &&Peer| !peer.is_guest() && !peer.away && peer.member.head != guest.head;
        let peers = self.parts[p].peers.iter().filter(stays).map(|peer| peer.member);
        let members = std::iter::once(me).chain(peers).chain([guest]).collect();
        self.propose_group(now, p, members, Why::Joined, true, out);
    }
}
