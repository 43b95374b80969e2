//! A group of one (P-30), and how a head that was left behind comes back from it.
//!
//! Alone means one copy. Unless the volume's configuration says that this is enough, or that sleds hold copies
//! (`journal`), a head that runs alone serves reads only: what changes blocks waits, bounded and counted, until
//! there are two again; what was numbered for the two of them is committed here, and its clients are answered when
//! another member holds it, too. Unless one copy is enough nothing is flushed, collected or given back meanwhile,
//! so that the other's index stays true.
//!
//! The head that comes back may hold operations that the pair of then never committed, under the same
//! operation numbers that the lone head gave out again. So when its log ended under an older pair than the
//! new primary's it asks how far both are the same, cuts back to there, and is refilled.

use super::config::Solo;
use super::core::Core;
use super::part::{Part, Phase};
use super::peers::Peer;
use super::slab::Id;
use super::write::Kind;
use crate::wire::*;

/// A command that waits for a second copy of an operation, with the operation's times.
#[derive(Debug)]
pub(super) struct Withheld {
    pub(super) cmd: Id,
    pub(super) at: Time,
    pub(super) logged_at: Time,
}

impl Part {
    /// One copy of an operation is all there is, and not enough to answer for it: sleds hold none of what was
    /// numbered before.
    pub(super) fn one_copy(&self) -> bool {
        let lone = self.members.len() == 1 && self.cfg.solo != Solo::Local;
        lone && (!self.journal.on || !self.service.withheld.is_empty())
    }

    /// Serves reads alone, and lets what changes blocks wait (P-30).
    #[inline]
    pub(super) fn frozen(&self) -> bool {
        self.members.len() == 1 && !self.journal.on && self.cfg.solo != Solo::Local
    }

    /// Last operation here that was surely numbered at or below `number`, and under which number it was, as far as
    /// that is known. Numbers rise along operations, so that the oldest one held speaks for all before it.
    fn numbered_upto(&self, number: Number) -> (Op, Number) {
        let mut held = self.held_after(Op(0)).map(|held| &held.entry).peekable();
        match held.peek() {
            // Of two, nothing is ever numbered by one alone where one copy is not enough.
            None if self.committed == Op(0) || self.cfg.never_without_one() => (self.tail, number),
            Some(oldest) if oldest.number <= number => {
                let last = held.take_while(|entry| entry.number <= number).last();
                last.map_or((Op(0), number), |entry| (entry.op, entry.number))
            }
            _ => (Op(0), number),
        }
    }

    /// How far this log is the same as another one, whose last operation numbered no later than this log's pair is
    /// `upto`, under `number`: what this head numbered, or took, under a number between those two stands only here,
    /// though the other's log goes further.
    fn same_upto(&self, upto: Op, number: Number) -> Op {
        let mut held = self.held_after(Op(0)).map(|held| &held.entry);
        let own = held.find(|entry| entry.number > number);
        own.map_or(upto, |entry| upto.min(Op(entry.op.0 - 1)))
    }

    /// Where this log has to be cut at the latest to be the same as the primary's of `adopt`.
    pub(super) fn cut_for(&self, adopt: &Adopt) -> Op {
        match self.common {
            Some((number, upto)) if number == adopt.number => adopt.tail.min(upto.max(self.committed)),
            _ => adopt.tail,
        }
    }
}

impl Core {
    /// What this head numbered is void: commands that changes of blocks have begun for fail.
    pub(super) fn fail_changes(&mut self, now: Time, p: usize, out: &mut Out) {
        let mut ids = Vec::new();
        self.merges.pick(&mut ids, |merge| merge.part == p);
        for id in ids.drain(..) {
            self.merges.remove(id);
        }
        self.parts[p].stalled.clear();
        self.parts[p].service.withheld.clear();
        self.cmds.pick(&mut ids, |cmd| cmd.part == p && cmd.kind != Kind::Read);
        for id in ids {
            self.answer(now, id, Err(ClientError::NotServed), out);
        }
    }

    /// The probed side, whose log may have gone another way since its pair; says whether it has to know more
    /// before it answers.
    pub(super) fn compare(&mut self, p: usize, to: NodeId, stamp: Stamp, held: Stamp, out: &mut Out) -> bool {
        let part = &mut self.parts[p];
        let known = part.common.is_some_and(|(number, _)| number == stamp.number);
        if known || part.stamp.number >= held.number || part.tail == part.committed {
            return false;
        }
        out.net.push((to, Msg::Compare { stamp, held: part.stamp }));
        true
    }

    /// A head that is taken back in without having been asked where its log ends: what it numbered, or took, under
    /// an older pair may have gone another way. Says whether it has to know more before it follows.
    pub(super) fn compare_as_guest(
        &mut self,
        p: usize,
        (from, boot): (NodeId, BootId),
        stamp: Stamp,
        out: &mut Out,
    ) -> bool {
        let part = &self.parts[p];
        let filled = part.copy.join.as_ref().is_some_and(|join| join.of(stamp.number));
        let probed = part.promise.prober == Some((from, boot, stamp)) && !part.promise.guest;
        if filled || probed || !self.compare(p, from, stamp, stamp, out) {
            return false;
        }
        self.step_down(p, stamp.number, out);
        let part = &mut self.parts[p];
        part.promise.number = stamp.number;
        (part.promise.prober, part.promise.guest) = (Some((from, boot, stamp)), true);
        part.follow.early.clear();
        true
    }

    /// The probed side led under a newer number than the prober's last one, and has answered clients by its own
    /// log: what the prober numbered beyond that is void, or it would come to life after reads went without it.
    /// Says whether the prober has to cut before it is answered.
    pub(super) fn outrank(&self, p: usize, to: NodeId, held: Stamp, out: &mut Out) -> bool {
        let part = &self.parts[p];
        let newer = self.is_primary(p) && part.stamp.number > held.number;
        if !newer || self.cfg.faults.keep_divergence() {
            return false;
        }
        // What stood here when the number was taken and rotted since, the prober may be the last to hold.
        let had = part.adopted.as_ref().map_or(Op(0), |adopt| adopt.tail);
        let (upto, number) = match part.numbered_upto(held.number) {
            (upto, _) if upto == part.tail && had > upto => (had, held.number),
            known => known,
        };
        out.net.push((to, Msg::Common { stamp: part.stamp, upto, number }));
        true
    }

    /// The prober's side: says up to where its log was numbered no later than the asker's pair, and how that was.
    pub(super) fn on_compare(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        held: Stamp,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(stamp.partition) else { return };
        let part = &self.parts[p];
        let Some(at) = self.peer_at(part, from, boot) else { return };
        let guest = part.phase == Phase::Serving && part.peers[at].is_guest();
        if guest && !part.peers[at].announced && self.same_stamp(part.stamp, stamp) {
            let (upto, number) = part.numbered_upto(held.number);
            out.net.push((from, Msg::Common { stamp, upto, number }));
            return self.announce(now, p, at, out);
        }
        let Some(probing) = &part.probing else { return };
        let same = probing.adopt.number == stamp.number && probing.adopt.grant == stamp.grant;
        if part.phase != Phase::Probing || !same {
            return;
        }
        let (upto, number) = part.numbered_upto(held.number);
        out.net.push((from, Msg::Common { stamp, upto, number }));
        self.probe(now, p, at, out);
    }

    /// One of the two learns where to cut: the probed one before it is asked again, or the prober, when the
    /// other led under a newer number; `stamp` is that number then.
    pub(super) fn on_common(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        (stamp, upto, number): (Stamp, Op, Number),
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(stamp.partition) else { return };
        let part = &mut self.parts[p];
        let upto = if self.cfg.faults.compare_by_end() { upto } else { part.same_upto(upto, number) };
        let open =
            |peer: &Peer| (peer.member.head, peer.member.boot) == (from, boot) && peer.probed.is_none();
        if part.peers.iter().any(open)
            && let Some(probing) = part.probing.as_mut().filter(|probing| probing.held.number < stamp.number)
        {
            let cut = upto.max(part.committed);
            (probing.void, probing.held) = (Some((cut, probing.held.number)), stamp);
            // What the others answered, they answered to a head of the older pair.
            part.peers.iter_mut().for_each(|peer| peer.probed = None);
            part.follow.early.clear();
            if part.tail > cut {
                self.fail_changes(now, p, out);
            }
            self.cut_back(p, cut);
            return self.probe_all(now, p, out);
        }
        if part.promise.prober == Some((from, boot, stamp)) {
            part.common = Some((stamp.number, upto));
        }
    }
}
