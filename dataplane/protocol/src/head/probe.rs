//! Before a new primary fixes its tail it asks its secondaries whether the log goes on there (P-06, P-13).
//!
//! The end of a log cannot be told from rot: above every watermark that a record carries, a bad record is
//! taken for a write that the crash tore. If it had been durable, and acknowledged, then the secondary holds
//! it and everything behind it. So the primary asks first, appends what the secondary has beyond its own
//! end, and only then logs its adoption and announces a tail to which members cut back. Operations that
//! come back like this and were never acknowledged do no harm: their clients had no answer. Of several
//! secondaries each may hold what the others lack: all are asked, and the one that goes furthest fills the log.
//!
//! From the moment it answers, the secondary takes nothing more under older numbers, as if it had adopted
//! the new one: what an old primary still sent would be cut, and must not be acknowledged. A promise in
//! memory is enough, because a head that restarts is idle until it has a new pair (P-01).

use super::core::Core;
use super::part::{Adoption, Owed, Part, Phase, Probing};
use super::peers::{Peer, Probed};
use super::replicate::{ENTRIES, MESSAGE_BLOCKS, cost};
use super::secondary::sound;
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// Pause before the log is asked again whether it has room for an adoption.
const ROOM_AGAIN: Duration = Duration::from_millis(1);

impl Part {
    /// Whether a secondary has not said where its log ends, or holds operations that are not here yet.
    fn lacks(&self, peer: &Peer) -> bool {
        peer.probed.is_none_or(|probed| self.tail < probed.end)
    }

    /// Takes a secondary's answer, the newest one: what all of them hold need not be readable here.
    fn told_end(&mut self, at: usize, probed: Probed) {
        if self.peers[at].probed.replace(probed) == Some(probed) {
            return;
        }
        let least = self.peers.iter().filter_map(|peer| peer.probed).map(|probed| probed.end).min();
        if let (Some(probing), Some(least)) = (&mut self.probing, least) {
            probing.readable = least.max(self.committed);
        }
    }

    /// Whether an answer is of no use to a head whose own log lost its end: nobody is sure to hold it (P-06).
    fn in_vain(&self, at: usize, whole: bool) -> bool {
        let others = self.peers.iter().enumerate().filter(|(other, _)| *other != at);
        let vain = |peer: &Peer| peer.probed.is_some_and(|probed| !probed.whole);
        self.short && !whole && others.map(|(_, peer)| peer).all(vain)
    }

    /// Whether an answer tells of operations that a newer primary has voided: it is an answer to an earlier
    /// question, and its sender will be asked again.
    fn voided(&self, entries: &[Entry]) -> bool {
        let void = self.probing.as_ref().and_then(|probing| probing.void);
        void.is_some_and(|(upto, number)| entries.iter().any(|e| e.op > upto && e.number <= number))
    }
}

impl Core {
    /// The primary's first step under a new pair.
    pub(super) fn begin_probe(&mut self, now: Time, p: usize, adopt: Adopt, out: &mut Out) {
        let first = self.cfg.retry.first;
        let skip = self.cfg.faults.skip_probe();
        let part = &mut self.parts[p];
        part.phase = Phase::Probing;
        part.adoption = None;
        part.owed = None;
        part.load.upto = Op(0);
        part.follow.early.clear();
        (part.copy.learner, part.copy.outdone) = (None, false);
        let probed = skip.then_some(Probed { end: part.tail, whole: false });
        let fresh = |&member: &Member| Peer { probed, ..Peer::new(member, first) };
        part.peers = adopt.members.iter().skip(1).map(fresh).collect();
        let held = part.stamp;
        part.probing = Some(Probing { adopt, held, asked: None, void: None, readable: part.tail });
        self.probe_on(now, p, out);
    }

    /// Goes on as far as it can: append what came, ask for more, adopt at the end.
    pub(super) fn probe_on(&mut self, now: Time, p: usize, out: &mut Out) {
        if self.parts[p].phase != Phase::Probing {
            return;
        }
        self.append_stuck(now, p);
        if self.parts[p].salvages() {
            return self.step_salvage(now, p, out);
        }
        let part = &mut self.parts[p];
        let Some(probing) = &part.probing else { return };
        if !part.peers.iter().any(|peer| part.lacks(peer)) {
            self.look_through(now, p, out);
        } else if probing.asked != Some(part.tail) && part.follow.early.is_empty() {
            // What the own log holds need not stay in memory: a secondary has it.
            part.unload_upto(part.tail);
            self.probe_all(now, p, out);
        }
    }

    /// Asks every secondary that has not said all.
    pub(super) fn probe_all(&mut self, now: Time, p: usize, out: &mut Out) {
        for at in 0..self.parts[p].peers.len() {
            self.probe(now, p, at, out);
        }
    }

    /// Reads what the secondary lacks, which is about to be announced: a tail that nobody can give would hold
    /// up the volume for ever.
    fn look_through(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let Some(Probing { readable, .. }) = part.probing else { return };
        let fresh = part.held_after(readable).take_while(|held| held.loaded).last().map(|held| held.entry.op);
        if let (Some(probing), Some(fresh)) = (&mut part.probing, fresh) {
            probing.readable = fresh;
            part.unload_upto(fresh);
        }
        let Some(Probing { readable, .. }) = part.probing else { return };
        if readable >= part.tail {
            self.log_pair(now, p);
        } else {
            self.load_after(now, p, readable, out);
        }
    }

    /// An operation that nobody has acknowledged is unreadable here, and the secondary lacks it. Where that
    /// is sure never to have had it, no client had an answer: the log ends before it.
    pub(super) fn end_before(&mut self, now: Time, p: usize, op: Op, out: &mut Out) {
        let part = &mut self.parts[p];
        let never_had = part.peers.iter().any(|peer| peer.probed.is_some_and(|probed| probed.whole));
        if part.phase != Phase::Probing || !never_had || op <= part.committed {
            let why = "log rot in operations that the peer lacks";
            return self.stop(p, why, ClientError::Device, out);
        }
        out.events.push(Event::Note(format!(
            "partition {}: operations {op} to {} were never acknowledged and rotted in the log: dropped",
            part.cfg.partition, part.tail
        )));
        self.cut_back(p, Op(op.0 - 1));
        self.look_through(now, p, out);
    }

    /// Asks a secondary (again) from the own tail on, unless it has said all.
    pub(super) fn probe(&mut self, now: Time, p: usize, at: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        if !part.lacks(&part.peers[at]) {
            return;
        }
        let (Some(probing), peer) = (&mut part.probing, &mut part.peers[at]) else { return };
        probing.adopt.tail = part.tail;
        probing.asked = Some(part.tail);
        let msg = Msg::Probe { adopt: probing.adopt.clone(), held: probing.held };
        out.net.push((peer.member.head, msg));
        let at = peer.asked(now);
        self.arm(at);
    }

    /// The tail is known: the pair goes into the own log.
    fn log_pair(&mut self, now: Time, p: usize) {
        let part = &mut self.parts[p];
        let Some(Probing { adopt, .. }) = &mut part.probing else { return };
        (part.short, part.whole) = (false, true);
        adopt.tail = part.tail;
        match self.log.push_adopt(adopt, part.committed) {
            Ok(placed) => {
                let adopt = adopt.clone();
                part.probing = None;
                part.follow.early.clear();
                part.phase = Phase::Adopting;
                part.adoption = Some(Adoption { adopt, lsn: placed.lsn, committed: Op(0), whole: Op(0) });
            }
            Err(_) => {
                self.release_due = true;
                self.arm(now + ROOM_AGAIN);
            }
        }
    }

    /// The secondary's side: stop following older numbers, say where the own log ends, and send what the
    /// primary's lacks.
    pub(super) fn on_probe(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        adopt: Adopt,
        held: Stamp,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(adopt.partition) else { return };
        if !self.speaks_to_us(from, boot, &adopt) {
            return;
        }
        let stamp = Stamp { partition: adopt.partition, number: adopt.number, grant: adopt.grant };
        let part = &self.parts[p];
        if stamp.number < part.stamp.number {
            out.net.push((from, Msg::Refused { refused: stamp, held: part.stamp }));
            return;
        }
        let adopting = part.adoption.as_ref().is_some_and(|adoption| adoption.adopt.number >= stamp.number);
        let probing = part.probing.as_ref().is_some_and(|probing| probing.adopt.number >= stamp.number);
        if stamp.number == part.stamp.number || stamp.number < part.promise.number || adopting || probing {
            return;
        }
        self.step_down(p, stamp.number, out);
        let part = &mut self.parts[p];
        part.promise.number = stamp.number;
        part.end_join(stamp.number);
        (part.promise.prober, part.promise.guest) = (Some((from, boot, stamp)), false);
        part.follow.early.clear();
        if self.compare(p, from, stamp, held, out) {
            return;
        }
        if self.outrank(p, from, held, out) {
            return;
        }
        let part = &mut self.parts[p];
        part.unload_upto(adopt.tail);
        // A log that stopped under an older pair than the primary's may go on with what was voided since.
        let same_history = part.stamp.number >= held.number && !part.deleted;
        let end = if same_history { part.local } else { Op(0) };
        part.owed = Some(Owed { to: from, stamp, next: Op(adopt.tail.0 + 1), end });
        part.load.upto = part.load.upto.min(part.tail);
        if part.damaged || !part.reaches(adopt.tail) {
            return self.refuse_probe(p, out);
        }
        self.answer_probe(now, p, out);
    }

    /// The primary's log cannot be filled from this one.
    pub(super) fn refuse_probe(&mut self, p: usize, out: &mut Out) {
        let (log, part) = (self.log.id(), &mut self.parts[p]);
        let Some(Owed { to, stamp, .. }) = part.owed.take() else { return };
        // Half a copy is nothing.
        let tail = if part.copy.origin.filling { Op(0) } else { part.committed };
        let entries = SmallVec::new();
        out.net.push((to, Msg::Probed { stamp, log, tail, damaged: true, whole: false, entries }));
    }

    /// Answers a probe as soon as the first operation that it lacks is in memory.
    pub(super) fn answer_probe(&mut self, now: Time, p: usize, out: &mut Out) {
        let log = self.log.id();
        let part = &mut self.parts[p];
        let Some(Owed { to, stamp, next, end }) = part.owed else { return };
        let mut entries: SmallVec<[Entry; 4]> = SmallVec::new();
        let mut blocks = 0;
        let held = part.held_after(Op(next.0 - 1));
        for held in held.take_while(|held| held.entry.op <= end && held.loaded) {
            blocks += cost(&held.entry.body);
            if entries.len() == ENTRIES || (blocks > MESSAGE_BLOCKS && !entries.is_empty()) {
                break;
            }
            entries.push(held.entry.clone());
        }
        if next > end || !entries.is_empty() {
            let whole = part.whole;
            part.owed = None;
            out.net.push((to, Msg::Probed { stamp, log, tail: end, damaged: false, whole, entries }));
        } else {
            self.load_after(now, p, Op(next.0 - 1), out);
        }
    }

    /// What the secondary holds beyond our end.
    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn on_probed(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        log: LogId,
        tail: Op,
        (damaged, whole): (bool, bool),
        entries: SmallVec<[Entry; 4]>,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(stamp.partition) else { return };
        let foreign_ok = self.cfg.faults.foreign_log_accepted();
        let part = &self.parts[p];
        let (Some(probing), Some(at)) = (&part.probing, self.peer_at(part, from, boot)) else { return };
        let asked =
            Stamp { partition: stamp.partition, number: probing.adopt.number, grant: probing.adopt.grant };
        if part.phase != Phase::Probing || asked != stamp || (log != part.peers[at].member.log && !foreign_ok)
        {
            return;
        }
        let part = &mut self.parts[p];
        if damaged && !part.short && tail <= part.tail {
            // It can tell nothing of what was acknowledged, and gets all that is here.
            part.told_end(at, Probed { end: Op(0), whole: false });
            part.peers[at].progress(now, self.cfg.retry.first);
            return self.probe_on(now, p, out);
        }
        if damaged || part.in_vain(at, whole) {
            part.copy.outdone = true;
            return self.peer_needs_copy(p, at, tail, out);
        }
        if part.voided(&entries) {
            return;
        }
        for entry in entries {
            if entry.partition != stamp.partition || !sound(&entry) {
                part.stats.counters.corrupt += 1;
            } else if entry.op > part.tail && part.follow.early.len() < 2 * ENTRIES {
                part.follow.early.insert(entry.op, entry);
            }
        }
        part.told_end(at, Probed { end: tail, whole });
        let peer = &mut part.peers[at];
        peer.progress(now, self.cfg.retry.first);
        // An answer without what we lack is no progress: the timer asks again.
        let again = now + peer.gap;
        peer.repeat_at = Some(again);
        self.arm(again);
        self.append(now, p);
        self.probe_on(now, p, out);
    }
}
