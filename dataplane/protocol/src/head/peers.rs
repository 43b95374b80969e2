//! The other members of a partition's group, as its primary sees them (MA-01).
//!
//! A group has up to [`MEMBERS_MAX`](crate::wire::limits::MEMBERS_MAX) members: the primary and its secondaries.
//! What counts is always what the slowest of them has: an operation commits when every one holds it (P-06,
//! MA-08), a read goes out when every one confirmed (P-12), credit is the least of all (P-31), and columns are
//! given back when every one's checkpoint is past them (P-28). A group of one has no peers.

use super::core::Core;
use super::faults::Faults;
use super::guest::Standing;
use super::part::Part;
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// A peer's credit, or a learner's room, below which flushing must make room there, in blocks, however much it can give.
const CREDIT_LOW: u64 = 1024;

/// The peers of a partition. A pair's and a triple's lie in place.
pub(super) type Peers = SmallVec<[Peer; 2]>;

/// Another member, as this head sees it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) member: Member,
    /// What it said of its log while the tail was not known.
    pub(super) probed: Option<Probed>,
    /// It adopted the current number.
    pub(super) announced: bool,
    /// Its contiguous durable watermark under the current number.
    pub(super) durable: Op,
    /// Highest operation sent.
    pub(super) sent: Op,
    /// Committed watermark told last.
    pub(super) told: Op,
    pub(super) tell_at: Option<Time>,
    /// Payload blocks sent since the announce, and how many may be (P-31).
    pub(super) spent: u64,
    pub(super) credit: u64,
    /// Most credit that was ever left: what its log can give.
    pub(super) window: u64,
    /// What its durable checkpoint covers (P-28).
    pub(super) covered: Op,
    /// Reads up to this one are covered by the last question to it, and by its last answer (P-12).
    pub(super) asked: u64,
    pub(super) confirmed: u64,
    /// Repeat of whatever is open.
    pub(super) repeat_at: Option<Time>,
    pub(super) gap: Duration,
    /// Since when something is open without progress.
    pub(super) open_since: Option<Time>,
    pub(super) away: bool,
    /// It cannot follow from its log: it gets a full copy.
    pub(super) lacking: bool,
    /// Whether it is a member, and counts.
    pub(super) standing: Standing,
}

/// A secondary's answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probed {
    /// Where its log ends.
    pub(super) end: Op,
    /// It never held more than that.
    pub(super) whole: bool,
}

impl Peer {
    pub(super) fn new(member: Member, gap: Duration) -> Self {
        Self {
            member,
            probed: None,
            announced: false,
            durable: Op(0),
            sent: Op(0),
            told: Op(0),
            tell_at: None,
            spent: 0,
            credit: 0,
            window: 0,
            covered: Op(0),
            asked: 0,
            confirmed: 0,
            repeat_at: None,
            gap,
            open_since: None,
            away: false,
            lacking: false,
            standing: Standing::Member,
        }
    }

    /// It was asked something; says when that is to be repeated.
    pub(super) fn asked(&mut self, now: Time) -> Time {
        self.open_since.get_or_insert(now);
        *self.repeat_at.insert(now + self.gap)
    }

    /// It answered: repeats start anew.
    pub(super) fn progress(&mut self, now: Time, first: Duration) {
        self.gap = first;
        self.away = false;
        self.open_since = None;
        self.repeat_at = None;
        if self.sent > self.durable {
            self.open_since = Some(now);
            self.repeat_at = Some(now + first);
        }
    }

    /// Takes a new limit of what may be sent (P-31).
    pub(super) fn grant(&mut self, credit: u64) {
        self.credit = self.credit.max(credit);
        self.window = self.window.max(self.credit.saturating_sub(self.spent));
    }

    /// Whether so little of its credit is left that flushing has to make room in its log.
    pub(super) fn short(&self) -> bool {
        let left = self.credit.saturating_sub(self.spent);
        self.announced && left < low(self.window)
    }

    /// Whether it holds all that it was sent, and never had credit to give: its log is full.
    fn starved(&self) -> bool {
        self.announced && self.counts() && self.window == 0 && self.durable == self.sent
    }
}

/// Blocks left of `most` below which another log counts as short.
pub(super) fn low(most: u64) -> u64 {
    (most / 4).min(CREDIT_LOW)
}

impl Part {
    /// Members of the durable pair other than `node`.
    pub(super) fn others(&self, node: NodeId) -> SmallVec<[Member; 2]> {
        self.members.iter().copied().filter(|member| member.head != node).collect()
    }

    /// The peer that runs on `head`: its place in `peers`.
    pub(super) fn peer_of(&self, head: NodeId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.member.head == head)
    }

    /// Whether a peer has not answered for a while.
    pub(super) fn peer_away(&self) -> bool {
        self.counted().any(|peer| peer.away)
    }

    /// The peers without which nothing is acknowledged: all of them that count.
    #[inline]
    pub(super) fn needed(&self, faults: Faults) -> impl Iterator<Item = &Peer> {
        let left_out = move |peer: &Peer| {
            (faults.solo_without_leave() && peer.away)
                || (faults.act_on_proposal() && self.wishes_without(peer.member.head))
                || (faults.ack_on_old_set() && peer.is_guest())
        };
        let most = if faults.first_peer_speaks_for_all() { 1 } else { usize::MAX };
        self.counted().filter(move |peer| !left_out(peer)).take(most)
    }

    /// What every peer holds durably, of what this head holds.
    pub(super) fn replicated(&self) -> Op {
        self.counted().map(|peer| peer.durable).fold(self.tail, Op::min)
    }

    /// Whether every peer may be sent `blocks` more (P-31).
    pub(super) fn credit_for(&self, blocks: u64) -> bool {
        self.counted().all(|peer| peer.spent + blocks <= peer.credit)
    }

    /// Whether flushing has to make room in the log of a peer.
    pub(super) fn peers_short(&self) -> bool {
        let waits = !self.waiting.is_empty();
        self.peers.iter().any(|peer| peer.short() || (waits && peer.starved()))
    }

    /// Every peer holds the whole tail under the durable pair (P-13).
    pub(super) fn refilled(&self) -> bool {
        self.peers.iter().all(|peer| peer.announced && peer.durable >= self.tail)
    }
}

impl Core {
    /// Whether a message comes from a peer of that very pair: the partition, and the place of the peer in it.
    pub(super) fn peer_speaks(&self, from: NodeId, boot: BootId, stamp: Stamp) -> Option<(usize, usize)> {
        let p = self.parts.find(stamp.partition)?;
        let part = &self.parts[p];
        let at = self.peer_at(part, from, boot)?;
        self.same_stamp(part.stamp, stamp).then_some((p, at))
    }

    /// The peer that is this boot of `from`.
    pub(super) fn peer_at(&self, part: &Part, from: NodeId, boot: BootId) -> Option<usize> {
        let speaks = |peer: &Peer| peer.member.head == from && self.same_boot(peer.member.boot, boot);
        part.peers.iter().position(speaks)
    }
}
