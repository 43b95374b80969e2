//! The side that gives a full copy (BA-01, BA-04, MA-21, P-28, P-29).
//!
//! The primary fills one head at a time: one that control wishes for a further member, or a member of its pair
//! that cannot follow from its log. That head is no peer: nothing waits for it. A copy begins at what is committed
//! then (its base). From there on every operation goes to the learner, in order, as to a secondary. Beside them go
//! the parts of the index: extents first, then the blocks of each leaf that holds any. Each part says at which
//! operation it was read, and the learner applies nothing beyond before it has the part (see `join`). Blocks in
//! extents are named only, because both heads reach the sleds; bytes go along for blocks that lie in the own log
//! and are no newer than the base. So what is moved is about the index and the log that is not flushed.
//!
//! Parts and operations are bounded by windows, sent again until they are acknowledged, and parts leave clients
//! their share. A learner that has restarted, falls silent, contradicts itself, or falls behind what is remembered
//! of operations ([`RECENT_OPS`](crate::log::RECENT_OPS)) gets another copy, a round. From the second round on clients' changes wait while
//! it is far behind: so the copy ends under any load. How its log may be smaller than what is not flushed is in `room`.
//!
//! While a copy is under way columns are given back only when the learner's index does not name them (P-28). When
//! it says that it is whole it becomes a peer: a member is announced to, another head is a guest (see `guest`)
//! until the group with it is granted. A copy ends with the pair under which it began: a new primary begins anew.

mod named;
mod parts;
mod room;

use self::named::Named;
use self::parts::{Next, Taking};
use self::room::Room;
use super::checkpoint::Checkpoints;
use super::core::Core;
use super::guest::Follows;
use super::join::Join;
use super::part::{Part, Phase};
use super::replicate::{ENTRIES, MESSAGE_BLOCKS, cost};
use super::stats::FillStatus;
use crate::log::{Lsn, Origin};
use crate::wire::*;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::time::Duration;

/// Blocks of operations under way at once, and messages of them.
const OPS_BLOCKS: u64 = 2048;
const OPS_MESSAGES: usize = 256;
/// How long the learner may wait for a watermark that no operation carries.
const TELL: Duration = Duration::from_millis(1);
/// Before another round begins, doubled with each up to 64 times that.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
/// Full copies of a partition that this head gives or takes.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Whom control wishes to be filled.
    pub(super) wished: Option<Member>,
    /// That one was a member, and may follow from its log; or it could not when it was tried.
    pub(super) follows: Option<Follows>,
    /// The copy that this head gives, and the one that it takes.
    pub(super) learner: Option<Box<Learner>>,
    pub(super) join: Option<Box<Join>>,
    /// What copies begin with, on sleds (P-29).
    pub(super) checkpoints: Checkpoints,
    /// Where the partition's history begins in the own log.
    pub(super) origin: Origin,
    /// Number and session of the newest copy that was begun here.
    pub(super) copied: Option<(Number, u64)>,
    /// What is here is being voided: the record that says so, 0 before there is one.
    pub(super) forgetting: Option<Lsn>,
    /// A member holds more than this log, which it cannot fill.
    pub(super) outdone: bool,
}

/// A head that is being filled.
#[derive(Debug)]
pub(super) struct Learner {
    pub(super) member: Member,
    /// It is a member of the pair already.
    lacking: bool,
    session: u64,
    rounds: u32,
    /// Nothing goes out before.
    begin_at: Time,
    /// It has voided what it had.
    begun: bool,
    base: Op,
    /// Operations sent, and durable there.
    sent: Op,
    durable: Op,
    covered: Op,
    /// Operations under way: the last one of each message, and its blocks.
    open: VecDeque<(Op, u64)>,
    open_blocks: u64,
    room: Room,
    next: Next,
    taking: Option<Taking>,
    /// What it has from checkpoints on sleds.
    basis: Named,
    rereads: u32,
    part_at: Time,
    /// What clients had done when the last part went.
    done_then: u64,
    /// Parts made so far, and those that are not acknowledged, with their mapped blocks.
    made: u64,
    unacked: VecDeque<(u64, Msg, u64)>,
    whole: bool,
    done: u64,
    all: u64,
    told: (Op, u64),
    tell_at: Option<Time>,
    repeat_at: Option<Time>,
    gap: Duration,
    heard: Time,
}

impl Part {
    /// Operations above this one may be named by the index of a head that is being filled (P-28).
    pub(super) fn copy_covered(&self) -> Option<Op> {
        self.copy.learner.as_ref().filter(|learner| learner.begun).map(|learner| learner.covered)
    }

    /// Whom to fill: a member that cannot follow comes first.
    fn to_fill(&self) -> Option<(Member, bool)> {
        if self.deleting || self.deleted {
            return None;
        }
        let lacking = self.peers.iter().find(|peer| peer.lacking).map(|peer| (peer.member, true));
        match self.phase {
            Phase::Announcing => lacking,
            // A member that was wished for while it could not follow holds all by now: a copy would empty it, and
            // everybody counts on what it holds.
            Phase::Serving => {
                self.copy.wished.filter(|member| !self.members.contains(member)).map(|member| (member, false))
            }
            _ => None,
        }
    }

    /// A pair that includes the wished head ends the wish.
    pub(super) fn joined(&mut self) {
        let members = &self.members;
        self.copy.wished.take_if(|wished| members.iter().any(|member| member.head == wished.head));
    }
}

impl Part {
    /// Whether a copy is given, taken or wished here.
    #[inline]
    pub(super) fn copies(&self) -> bool {
        let gives =
            self.copy.learner.is_some() || self.copy.wished.is_some() || self.phase == Phase::Announcing;
        gives || self.guest().is_some() || self.copy.join.is_some() || self.copy.forgetting.is_some()
    }
}

impl Learner {
    fn new(member: Member, lacking: bool, now: Time) -> Self {
        Self {
            member,
            lacking,
            session: 0,
            rounds: 0,
            begin_at: now,
            begun: false,
            base: Op(0),
            sent: Op(0),
            durable: Op(0),
            covered: Op(0),
            open: VecDeque::new(),
            open_blocks: 0,
            room: Room::default(),
            next: Next::Extents(ExtentId(0)),
            taking: None,
            basis: Named::default(),
            rereads: 0,
            part_at: now,
            done_then: 0,
            made: 0,
            unacked: VecDeque::new(),
            whole: false,
            done: 0,
            all: 0,
            told: (Op(0), 0),
            tell_at: None,
            repeat_at: None,
            gap: Duration::ZERO,
            heard: now,
        }
    }

    /// Parts that the learner must have before it applies what is committed now.
    fn parts(&self) -> u64 {
        self.made + u64::from(self.taking.is_some())
    }

    /// Whether an answer is awaited.
    fn is_open(&self) -> bool {
        let ends = self.next == Next::Done && !self.whole;
        let asks = self.basis.asked.is_some() || self.room.waits;
        !self.begun || !self.unacked.is_empty() || !self.open.is_empty() || ends || asks
    }

    /// Something was sent: says when it is repeated.
    fn asked(&mut self, now: Time) -> Time {
        if self.repeat_at.is_none() {
            self.heard = now;
        }
        *self.repeat_at.get_or_insert(now + self.gap)
    }
}

impl Core {
    pub(super) fn fill_head(&mut self, partition: PartitionId, member: Member, follows: bool) {
        let Some(p) = self.parts.find(partition) else { return };
        self.busy = true;
        let part = &mut self.parts[p];
        let included = part.members.contains(&member);
        if member.head == self.cfg.node {
            part.copy.wished = None;
        } else if !included && !part.deleting {
            part.copy.wished = Some(member);
            part.may_follow(member, follows);
        }
    }

    pub(super) fn fill_status(&self, part: &Part) -> Option<FillStatus> {
        let wish = |member| FillStatus { member, blocks_done: 0, blocks_all: part.index.mapped(), rounds: 0 };
        let wished = || part.copy.wished.filter(|_| part.leads()).map(wish);
        let of = |learner: &Learner| FillStatus {
            member: learner.member,
            blocks_done: learner.done,
            blocks_all: learner.all.max(learner.done),
            rounds: learner.rounds,
        };
        part.copy.learner.as_deref().map(of).or_else(wished)
    }

    /// Which member of the pair cannot follow from its log.
    pub(super) fn needs_copy(&self, part: &Part) -> Option<NodeId> {
        let own = (part.damaged || part.copy.outdone).then_some(self.cfg.node);
        own.or_else(|| part.peers.iter().find(|peer| peer.lacking).map(|peer| peer.member.head))
    }

    /// Goes on with the copy, if one is wanted. Runs each turn.
    pub(super) fn teach(&mut self, now: Time, p: usize, out: &mut Out) {
        if self.mind_guest(now, p, out) {
            self.parts[p].copy.learner = None;
            return;
        }
        let part = &mut self.parts[p];
        let Some((member, lacking)) = part.to_fill() else {
            part.copy.learner = None;
            return;
        };
        if part.copy.follows == Some(Follows::May(member)) && !lacking {
            return self.invite(now, p, member, out);
        }
        if part
            .copy
            .learner
            .as_ref()
            .is_none_or(|learner| learner.member != member || learner.lacking != lacking)
        {
            part.copy.learner = Some(Box::new(Learner::new(member, lacking, now)));
        }
        self.begin_round(now, p);
        self.watch_learner(now, p, out);
        self.make_parts(now, p, out);
        self.send_ops(now, p, out);
        self.tell_learner(now, p, out);
        self.end_copy(now, p, out);
    }

    /// A new copy, under a session of its own.
    fn begin_round(&mut self, now: Time, p: usize) {
        let first = self.cfg.retry.first;
        let part = &mut self.parts[p];
        let Some(learner) = part.copy.learner.as_mut().filter(|learner| learner.session == 0) else { return };
        if now < learner.begin_at {
            let at = learner.begin_at;
            return self.arm(at);
        }
        self.copies += 1;
        part.load.upto = Op(0);
        let (member, lacking, rounds) = (learner.member, learner.lacking, learner.rounds + 1);
        let (base, all) = (part.committed, part.index.mapped());
        let basis = Named::new(part.index.kept(), rounds);
        **learner = Learner {
            session: self.copies,
            rounds,
            base,
            sent: base,
            covered: base,
            all,
            basis,
            gap: first,
            repeat_at: Some(now),
            ..Learner::new(member, lacking, now)
        };
        part.stats.counters.copies += 1;
    }

    /// Drops the round; another one begins after a pause, of so long at least.
    fn end_round(&mut self, now: Time, p: usize, least: Duration) {
        let Some(learner) = &mut self.parts[p].copy.learner else { return };
        let pause = (ROUND_PAUSE * (1 << learner.rounds.min(6))).max(least);
        let (member, lacking, rounds) = (learner.member, learner.lacking, learner.rounds);
        **learner = Learner { rounds, begin_at: now + pause, ..Learner::new(member, lacking, now) };
        self.arm(now + pause);
    }

    /// Repeats what is not answered, and begins anew when that does not help.
    fn watch_learner(&mut self, now: Time, p: usize, out: &mut Out) {
        let retry = self.cfg.retry;
        let part = &mut self.parts[p];
        let reached = part.copy.learner.as_ref().is_none_or(|learner| part.reaches(learner.durable));
        let Some(learner) = part.copy.learner.as_mut().filter(|learner| learner.session > 0) else { return };
        let silent = now.since(learner.heard) >= retry.away && learner.is_open();
        if learner.begun && (silent || !reached || learner.is_stuck(now, retry.away)) {
            let least = self.end_unfit(now, p, out);
            return self.end_round(now, p, least);
        }
        let Some(at) = learner.repeat_at.filter(|_| learner.is_open()) else {
            learner.repeat_at = None;
            return;
        };
        if now < at {
            return self.arm(at);
        }
        let again = now + learner.gap;
        learner.repeat_at = Some(again);
        learner.gap = (learner.gap * 2).min(retry.last);
        if learner.begun {
            out.net.extend(learner.unacked.iter().map(|(_, msg, _)| (learner.member.head, msg.clone())));
            out.net.extend(learner.ask(part.stamp));
            // What is under way goes again, with what follows it.
            learner.sent = learner.durable;
            (learner.open_blocks, part.load.upto) = (0, Op(0));
            learner.open.clear();
            learner.told = (Op(0), 0);
        } else {
            let adopt = Adopt {
                partition: part.cfg.partition,
                number: part.stamp.number,
                grant: part.stamp.grant,
                members: part.members.clone(),
                tail: learner.base,
            };
            let (session, to) = (learner.session, learner.member);
            out.net.push((learner.member.head, Msg::Copy { adopt, session, to }));
        }
        self.arm(again);
    }

    /// Sends operations behind the base, as far as the window allows and they are in memory.
    fn send_ops(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &self.parts[p];
        let Some(learner) = part.copy.learner.as_ref().filter(|learner| learner.begun) else { return };
        let (stamp, session, to) = (part.stamp, learner.session, learner.member.head);
        let (committed, parts) = (part.committed, learner.parts());
        let (mut messages, mut open) = (OPS_MESSAGES.saturating_sub(learner.open.len()), learner.open_blocks);
        let mut sent: SmallVec<[(Op, u64); 8]> = SmallVec::new();
        let mut entries: SmallVec<[Entry; 4]> = SmallVec::new();
        let (mut blocks, mut last, mut lacking) = (0, learner.sent, None);
        for held in part.held_after(learner.sent) {
            if messages == 0 || open >= OPS_BLOCKS {
                break;
            }
            if !held.loaded {
                lacking = Some(last);
                break;
            }
            let cost = cost(&held.entry.body);
            if entries.len() == ENTRIES || (blocks + cost > MESSAGE_BLOCKS && !entries.is_empty()) {
                let entries = std::mem::take(&mut entries);
                out.net.push((to, Msg::CopyOps { stamp, session, committed, parts, entries }));
                sent.push((last, blocks));
                (blocks, messages) = (0, messages - 1);
            }
            (blocks, open, last) = (blocks + cost, open + cost, held.entry.op);
            entries.push(held.entry.clone());
        }
        if !entries.is_empty() {
            out.net.push((to, Msg::CopyOps { stamp, session, committed, parts, entries }));
            sent.push((last, blocks));
        }
        let all = last == part.tail;
        let Some(learner) = &mut self.parts[p].copy.learner else { return };
        if all {
            learner.sent_all();
        }
        if !sent.is_empty() {
            (learner.sent, learner.open_blocks) = (last, open);
            learner.open.extend(sent);
            (learner.told, learner.tell_at) = ((committed, parts), None);
            let at = learner.asked(now);
            self.arm(at);
        }
        if let Some(after) = lacking {
            self.load_after(now, p, after, out);
        }
    }

    /// Tells how far the learner may apply, when nothing else carries it.
    fn tell_learner(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let (stamp, committed) = (part.stamp, part.committed);
        let Some(learner) = part.copy.learner.as_mut().filter(|learner| learner.begun) else { return };
        let parts = learner.parts();
        if learner.told == (committed, parts) {
            return;
        }
        let at = *learner.tell_at.get_or_insert(now + TELL);
        if now < at {
            return self.arm(at);
        }
        (learner.told, learner.tell_at) = ((committed, parts), None);
        let (session, entries) = (learner.session, SmallVec::new());
        out.net.push((learner.member.head, Msg::CopyOps { stamp, session, committed, parts, entries }));
    }

    /// The learner says how far it is.
    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn on_copied(
        &mut self,
        now: Time,
        (from, boot): (NodeId, BootId),
        (stamp, session): (Stamp, u64),
        log: LogId,
        parts: u64,
        (durable, covered): (Op, Op),
        room: u64,
        (whole, broken): (bool, bool),
    ) {
        let Some(p) = self.parts.find(stamp.partition) else { return };
        let first = self.cfg.retry.first;
        let part = &mut self.parts[p];
        let (held, tail) = (part.stamp, part.tail);
        let Some(learner) = part.copy.learner.as_mut().filter(|learner| learner.session == session) else {
            return;
        };
        if learner.member != (Member { head: from, log, boot }) || held != stamp {
            return;
        }
        learner.heard = now;
        if broken {
            return self.end_round(now, p, Duration::ZERO);
        }
        let before = (learner.begun, learner.unacked.len(), learner.durable);
        learner.begun = true;
        while let Some((_, _, mapped)) = learner.unacked.pop_front_if(|(seq, ..)| *seq < parts) {
            learner.done += mapped;
        }
        learner.durable = learner.durable.max(durable.min(tail)).max(learner.base);
        learner.sent = learner.sent.max(learner.durable);
        while let Some((_, blocks)) = learner.open.pop_front_if(|(last, _)| *last <= durable) {
            learner.open_blocks -= blocks;
        }
        learner.covered = learner.covered.max(covered);
        learner.takes(room);
        learner.whole |= whole && learner.next == Next::Done && learner.unacked.is_empty();
        if (learner.begun, learner.unacked.len(), learner.durable) != before {
            (learner.gap, learner.repeat_at) = (first, learner.is_open().then_some(now + first));
            learner.moved(now);
            let upto = learner.durable;
            part.unload_upto(upto);
        }
        self.background_at = self.background_at.min(now);
    }

    /// Bytes of an operation that the learner lacks are gone: it cannot go on from where it is.
    pub(super) fn learner_lost(&mut self, now: Time, p: usize, op: Op) {
        let lacks = |learner: &Learner| learner.begun && learner.durable < op;
        if self.parts[p].copy.learner.as_deref().is_some_and(lacks) {
            self.end_round(now, p, Duration::ZERO);
        }
    }

    /// A learner that is whole becomes a peer: the one that it was, or a guest (MA-21).
    fn end_copy(&mut self, now: Time, p: usize, out: &mut Out) {
        let counted = self.cfg.faults.counted_before_whole();
        let part = &mut self.parts[p];
        let Some(learner) = part.copy.learner.as_mut().filter(|l| l.whole || (counted && l.begun)) else {
            return;
        };
        let (member, lacking) = (learner.member, learner.lacking);
        if !lacking {
            return self.invite(now, p, member, out);
        }
        part.copy.learner = None;
        let Some(at) = part.peers.iter().position(|peer| peer.member == member) else { return };
        let peer = &mut part.peers[at];
        (peer.lacking, peer.away, peer.announced, peer.open_since) = (false, false, false, None);
        self.announce(now, p, at, out);
    }
}
