//! The side that takes a full copy (BA-01, BA-04, MA-21).
//!
//! A head that is told to be filled throws away what it has of the partition: its history may be another one.
//! Then two streams reach it from the primary: operations behind the copy's beginning, which go into its log as a
//! secondary's do, and parts of the index, each as it was when a given operation had just been applied. Both are
//! taken in one order: nothing behind a part's operation is applied before the part. So the part is the truth for
//! its blocks, nothing in it can be older than what is here, and what it does not name is a hole (P-07).
//!
//! Bytes come only for blocks that lie in the primary's log and were numbered before the copy began; they go into
//! the own log under their operation (P-29). The index is in memory until all is here. Then a
//! checkpoint begins: once that is durable a restart finds all of it, and the head says that it is whole. A restart
//! before that finds the void with which the copy began, and counts as damaged (MA-21). What is whole waits for the
//! primary's announce, and follows as any secondary.

use super::basis::Basis;
use super::core::Core;
use super::part::{Part, Phase};
use super::secondary::sound;
use crate::log::{LogAddr, Lsn};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::time::Duration;

/// Parts that wait for their turn; the primary repeats what does not fit.
const PARTS_MAX: usize = 16;
/// Operations that arrived ahead of a missing one.
const EARLY_MAX: usize = 2048;
/// Pause before the log is asked again.
const AGAIN: Duration = Duration::from_millis(1);

/// A copy that is being taken.
#[derive(Debug)]
pub(super) struct Join {
    /// Who gives it, and under which pair.
    from: NodeId,
    boot: BootId,
    adopt: Adopt,
    session: u64,
    step: Step,
    /// What the giver has committed, and the parts that it had made by then.
    told: (Op, u64),
    parts: BTreeMap<u64, (CopyPart, Option<Buf>)>,
    /// The part that comes next.
    next: u64,
    /// What a checkpoint on sleds gives, as far as the giver says the same.
    pub(super) basis: Option<Basis>,
    /// The last part is in.
    all: bool,
    /// Newest record that the index stands on.
    lsn: Lsn,
    /// What the first checkpoint of the whole copy covers.
    covered: Op,
    reply: bool,
    replied: (u64, Op, Op, u64),
    broken: bool,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// What was here is to be voided.
    Void,
    /// The record that says so is on its way.
    Voiding(Lsn),
    /// Parts come in.
    Filling,
    /// All parts are in: a checkpoint is to begin.
    Sealing,
    /// It is being written; the generation before it.
    Sealed(u64),
    /// A restart finds everything.
    Whole,
}

impl Join {
    fn stamp(&self) -> Stamp {
        Stamp { partition: self.adopt.partition, number: self.adopt.number, grant: self.adopt.grant }
    }

    /// Whether it is a copy of that number.
    pub(super) fn of(&self, number: Number) -> bool {
        self.adopt.number == number
    }

    /// Who gives it, under which pair, and its name.
    pub(super) fn giver(&self) -> (NodeId, Stamp, u64) {
        (self.from, self.stamp(), self.session)
    }

    /// What is taken from a checkpoint; `None` once every part is in.
    pub(super) fn basis_or(&mut self, begin: impl FnOnce() -> Basis) -> Option<&mut Basis> {
        if self.all { None } else { Some(self.basis.get_or_insert_with(begin)) }
    }

    fn taking(&self) -> bool {
        !matches!(self.step, Step::Void | Step::Voiding(_)) && !self.broken
    }
}

impl Part {
    /// Highest operation that may be applied while a copy is taken; otherwise what is committed.
    pub(super) fn join_limit(&self, unordered: bool) -> Op {
        let Some(join) = self.copy.join.as_ref().filter(|join| join.taking()) else { return self.committed };
        let limit = match join.parts.first_key_value() {
            _ if unordered => join.told.0,
            Some((&seq, (part, _))) if seq == join.next => part.at,
            _ if join.next >= join.told.1 => join.told.0,
            _ => self.committed,
        };
        limit.min(self.local).max(self.committed)
    }

    /// Whether no checkpoint may begin: what it would name is being voided.
    pub(super) fn voiding(&self) -> bool {
        let void = |join: &Join| matches!(join.step, Step::Void | Step::Voiding(_));
        self.copy.join.as_deref().is_some_and(void) || self.copy.forgetting.is_some()
    }

    /// Whether a checkpoint is what a copy waits for.
    pub(super) fn seals(&self) -> bool {
        self.copy.join.as_ref().is_some_and(|join| join.step == Step::Sealing)
    }

    /// A checkpoint begins: it may be the one that makes the copy whole.
    pub(super) fn sealing(&mut self, generation: u64) {
        if let Some(join) = self.copy.join.as_mut().filter(|join| join.step == Step::Sealing) {
            (join.step, join.covered) = (Step::Sealed(generation), self.committed);
            self.copy.origin.filling = false;
        }
    }

    /// A checkpoint ended; `generation` is the newest durable one.
    pub(super) fn sealed(&mut self, generation: u64) {
        let Some(join) = &mut self.copy.join else { return };
        let Step::Sealed(before) = join.step else { return };
        if generation > before {
            (join.step, join.reply) = (Step::Whole, true);
            self.damaged = false;
        } else {
            join.step = Step::Sealing;
        }
    }

    /// A pair above the copy's ends it; what is whole stays.
    pub(super) fn end_join(&mut self, number: Number) {
        self.copy.join.take_if(|join| join.adopt.number < number || join.step == Step::Whole);
    }
}

impl Core {
    /// The primary begins to fill this head. Only this boot of this log is meant (P-01, P-03), and only by the
    /// newest pair that it knows of: nobody else may void what it holds.
    pub(super) fn on_copy(
        &mut self,
        from: NodeId,
        boot: BootId,
        adopt: Adopt,
        session: u64,
        to: Member,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(adopt.partition) else { return };
        let ours = to == Member { head: self.cfg.node, log: self.log.id(), boot: self.cfg.boot };
        let first = adopt.members.first();
        let speaks = first.is_some_and(|first| first.head == from && self.same_boot(first.boot, boot));
        let stamp = Stamp { partition: adopt.partition, number: adopt.number, grant: adopt.grant };
        let part = &mut self.parts[p];
        if !ours || !speaks || part.deleting || part.deleted || part.leads() {
            return;
        }
        if stamp.number < part.newest() {
            if stamp.number < part.stamp.number {
                out.net.push((from, Msg::Refused { refused: stamp, held: part.stamp }));
            }
            return;
        }
        self.busy = true;
        // A copy that was begun once is not begun again: it may be whole by now, and counted on. One that was given
        // up here (its head had to forget it, or led meanwhile) the giver has to begin under another session.
        if part.copy.copied.is_some_and(|(number, newest)| number == stamp.number && newest >= session) {
            match part.copy.join.as_mut().filter(|join| join.session == session) {
                Some(join) => join.reply = true,
                None => out.net.push((from, given_up(stamp, session, self.log.id()))),
            }
            return;
        }
        let mine = part.members.first().is_some_and(|first| first.head == from);
        if stamp.number == part.stamp.number && part.phase == Phase::Following && !mine {
            return;
        }
        part.copy.copied = Some((stamp.number, session));
        part.promise.number = part.promise.number.max(stamp.number);
        part.copy.join = Some(Box::new(Join {
            from,
            boot,
            told: (adopt.tail, 0),
            adopt,
            session,
            step: Step::Void,
            parts: BTreeMap::new(),
            next: 0,
            basis: None,
            all: false,
            lsn: Lsn(0),
            covered: Op(0),
            reply: false,
            replied: (0, Op(0), Op(0), 0),
            broken: false,
        }));
    }

    /// The copy of that session, if this message is of it.
    pub(super) fn join_of(
        &mut self,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        session: u64,
    ) -> Option<usize> {
        let p = self.parts.find(stamp.partition)?;
        let join = self.parts[p].copy.join.as_ref()?;
        let same = join.from == from && join.session == session && self.same_boot(join.boot, boot);
        (same && join.stamp() == stamp && join.taking()).then_some(p)
    }

    pub(super) fn on_copy_part(
        &mut self,
        (from, boot): (NodeId, BootId),
        (stamp, session): (Stamp, u64),
        seq: u64,
        part: CopyPart,
        data: Option<Buf>,
    ) {
        let Some(p) = self.join_of(from, boot, stamp, session) else { return };
        if !whole_part(&part, data.as_ref()) {
            self.parts[p].stats.counters.corrupt += 1;
            return;
        }
        let Some(join) = &mut self.parts[p].copy.join else { return };
        if seq < join.next {
            join.reply = true;
        } else if join.parts.len() < PARTS_MAX || seq == join.next {
            join.parts.insert(seq, (part, data));
        }
    }

    pub(super) fn on_copy_ops(
        &mut self,
        now: Time,
        (from, boot): (NodeId, BootId),
        (stamp, session): (Stamp, u64),
        told: (Op, u64),
        entries: SmallVec<[Entry; 4]>,
    ) {
        let Some(p) = self.join_of(from, boot, stamp, session) else { return };
        let part = &mut self.parts[p];
        let Some(join) = &mut part.copy.join else { return };
        join.reply |= entries.is_empty() && told == join.told;
        // Both rise together: an older message says nothing new.
        if told.0 >= join.told.0 && told.1 >= join.told.1 {
            join.told = told;
        }
        for entry in entries {
            if entry.partition != stamp.partition || !sound(&entry) {
                part.stats.counters.corrupt += 1;
            } else if entry.op <= part.tail {
                join.reply = true;
            } else if part.follow.early.len() < EARLY_MAX || entry.op.0 == part.tail.0 + 1 {
                part.follow.early.insert(entry.op, entry);
            }
        }
        self.append(now, p);
    }

    /// Goes on with a copy, or with forgetting, as far as it can. Runs each turn.
    pub(super) fn join_on(&mut self, now: Time, p: usize, out: &mut Out) {
        if self.parts[p].copy.forgetting.is_some() {
            self.forget_on(now, p, out);
        }
        let Some(join) = &self.parts[p].copy.join else { return };
        match join.step {
            Step::Void => self.void(now, p, out),
            Step::Voiding(lsn) if lsn <= self.log.durable() => {
                if let Some(join) = &mut self.parts[p].copy.join {
                    (join.step, join.reply) = (Step::Filling, true);
                }
            }
            _ => {}
        }
        if self.parts[p].copy.join.as_ref().is_some_and(|join| join.taking()) {
            self.append_stuck(now, p);
            self.read_basis(now, p, out);
            while self.take_part(now, p) {
                self.commit(now, p, out);
            }
            self.finish_copy(now, p);
        }
        self.tell_copied(p, out);
    }

    /// Voids what is here, in the log first.
    fn void(&mut self, now: Time, p: usize, out: &mut Out) {
        let Some(lsn) = self.void_log(now, p, out) else { return };
        let Some(join) = &mut self.parts[p].copy.join else { return };
        (join.step, join.lsn) = (Step::Voiding(lsn), lsn);
        let base = join.adopt.tail;
        self.parts[p].empty(base);
    }

    /// Takes the next part, if everything before it is applied; says whether there was one.
    fn take_part(&mut self, now: Time, p: usize) -> bool {
        let early = self.cfg.faults.copy_overwrites();
        let part = &mut self.parts[p];
        let Some(join) = &mut part.copy.join else { return false };
        let Some(entry) = join.parts.first_entry().filter(|entry| *entry.key() == join.next) else {
            return false;
        };
        let at = entry.get().0.at;
        if at > part.committed && !early {
            return false;
        }
        let (copied, data) = entry.remove();
        if at < part.committed && !early {
            // The giver said that more may be applied than it may: nothing here can be relied on.
            (join.broken, join.reply) = (true, true);
            return false;
        }
        match self.import(p, &copied, data.as_ref()) {
            Imported::Yes => {
                let Some(join) = &mut self.parts[p].copy.join else { return false };
                join.next += 1;
                join.all |= copied.last;
                if copied.last {
                    join.basis = None;
                } else if let Some(basis) = &mut join.basis {
                    basis.forget_before(Lba(copied.lba + u64::from(copied.count)));
                }
                true
            }
            Imported::Broken => {
                let Some(join) = &mut self.parts[p].copy.join else { return false };
                (join.broken, join.reply) = (true, true);
                false
            }
            Imported::Full => {
                let Some(join) = &mut self.parts[p].copy.join else { return false };
                join.parts.insert(join.next, (copied, data));
                self.release_due = true;
                self.arm(now + AGAIN);
                false
            }
        }
    }

    /// Puts a part's bytes into the log and its places into the index.
    fn import(&mut self, p: usize, copied: &CopyPart, data: Option<&Buf>) -> Imported {
        let mut places: Vec<(LogAddr, u32)> = Vec::new();
        let mut newest = Lsn(0);
        if !self.stage_bytes(p, copied, data, &mut places, &mut newest) {
            places.iter().for_each(|&(addr, blocks)| self.log.dead(addr, blocks));
            return Imported::Full;
        }
        let part = &mut self.parts[p];
        if let Some(join) = &mut part.copy.join {
            join.lsn = join.lsn.max(newest);
        }
        let mut sound = copied.extents.iter().all(|extent| part.index.import_extent(extent));
        let mut addrs = places.iter().flat_map(|&(addr, n)| (0..u64::from(n)).map(move |i| addr.plus(i)));
        if copied.last {
            part.index.import_kept(&copied.kept);
        }
        let basis = part.copy.join.as_ref().and_then(|join| join.basis.as_ref());
        let mut same = copied.same.iter().peekable();
        let mut named = copied.blocks.iter().peekable();
        for at in 0..copied.count {
            let lba = Lba(copied.lba + u64::from(at));
            match named.next_if(|block| block.at == at) {
                Some(block) => {
                    let addr = if block.place == Place::Sent { addrs.next() } else { None };
                    sound &= self.log.import(&mut part.index, lba, block, addr);
                }
                None => {
                    let _ = same.next_if(|(first, count)| at >= first + count);
                    let known = same.peek().is_some_and(|(first, _)| at >= *first);
                    let said =
                        if known { basis.ok_or(()).and_then(|basis| basis.said(lba)) } else { Ok(None) };
                    match said {
                        Ok(None) => self.log.import_hole(&mut part.index, lba),
                        // One in the log would have been named.
                        Ok(Some(block)) if block.place == Place::Known => sound = false,
                        Ok(Some(block)) => sound &= self.log.import(&mut part.index, lba, &block, None),
                        Err(()) => sound = false,
                    }
                }
            }
        }
        if sound { Imported::Yes } else { Imported::Broken }
    }

    /// Stages the bytes of a part, in runs of one operation; false when the log cannot take them now.
    fn stage_bytes(
        &mut self,
        p: usize,
        copied: &CopyPart,
        data: Option<&Buf>,
        places: &mut Vec<(LogAddr, u32)>,
        newest: &mut Lsn,
    ) -> bool {
        let Some(data) = data else { return true };
        let (id, committed) = (self.parts[p].id(), self.parts[p].committed);
        let sent: Vec<&CopiedBlock> =
            copied.blocks.iter().filter(|block| block.place == Place::Sent).collect();
        let follows = |a: &&CopiedBlock, b: &&CopiedBlock| b.at == a.at + 1 && a.op == b.op;
        let mut from = 0;
        for run in sent.chunk_by(follows) {
            let bytes = data.slice(from * BLOCK..(from + run.len()) * BLOCK);
            from += run.len();
            let crcs: SmallVec<[u32; 64]> = run.iter().map(|block| block.crc).collect();
            let lba = Lba(copied.lba + u64::from(run[0].at));
            let Ok(placed) = self.log.push_import((id, run[0].op, lba), &crcs, &bytes, committed) else {
                return false;
            };
            places.push((placed.addr, run.len() as u32));
            *newest = placed.lsn;
        }
        true
    }

    /// All parts are in: once everything that the index stands on is durable, a checkpoint may begin.
    fn finish_copy(&mut self, now: Time, p: usize) {
        let durable = self.log.durable();
        let Some(join) = &mut self.parts[p].copy.join else { return };
        let all = join.all && join.parts.is_empty() && join.next >= join.told.1;
        if join.step == Step::Filling && all && join.lsn <= durable {
            join.step = Step::Sealing;
            (self.background_at, self.busy) = (now, true);
        }
        if self.cfg.faults.counted_before_whole()
            && let Some(join) = &mut self.parts[p].copy.join
            && join.step == Step::Filling
        {
            (join.step, join.reply) = (Step::Whole, true);
            self.parts[p].damaged = false;
        }
    }

    /// Says how far it has come, when that is news or is asked for.
    fn tell_copied(&mut self, p: usize, out: &mut Out) {
        let Some((log, room)) = self.copy_room(p) else { return };
        let part = &mut self.parts[p];
        let covers = self.log.covers(part.cfg.partition);
        let Some(join) = &mut part.copy.join else { return };
        if matches!(join.step, Step::Void | Step::Voiding(_)) {
            return;
        }
        // Nothing durable names an extent before the first checkpoint begins.
        let covered = match join.step {
            Step::Whole => covers.max(join.covered),
            Step::Sealed(_) => join.covered,
            _ => part.committed,
        };
        let news = (join.next, part.local, covered, room);
        if news == join.replied && !join.reply {
            return;
        }
        (join.replied, join.reply) = (news, false);
        let (stamp, session, broken) = (join.stamp(), join.session, join.broken);
        let (parts, durable, whole) = (join.next, part.local, join.step == Step::Whole);
        let msg = Msg::Copied { stamp, session, log, parts, durable, covered, room, whole, broken };
        out.net.push((join.from, msg));
    }
}

/// Says that nothing is left here of a copy.
fn given_up(stamp: Stamp, session: u64, log: LogId) -> Msg {
    let (durable, covered) = (Op(0), Op(0));
    Msg::Copied { stamp, session, log, parts: 0, durable, covered, room: 0, whole: false, broken: true }
}

/// What became of a part.
enum Imported {
    Yes,
    /// The log has no room now.
    Full,
    /// It contradicts what is here.
    Broken,
}

/// Whether a part is what its sender meant, and holds as many bytes as it says.
fn whole_part(part: &CopyPart, data: Option<&Buf>) -> bool {
    let sent = part.blocks.iter().filter(|block| block.place == Place::Sent);
    let bytes = data.map_or(&[][..], |data| data);
    let count = sent.clone().count();
    let crcs = sent.map(|block| block.crc);
    bytes.len() == count * BLOCK && bytes.chunks_exact(BLOCK).map(crc32c).eq(crcs)
}
