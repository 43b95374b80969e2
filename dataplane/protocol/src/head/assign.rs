//! Taking over a pair: adopt it in the own log, announce the tail, refill the peers, then serve (P-01,
//! P-13); and being superseded (EF-17, P-22).

use super::core::Core;
use super::part::{Adoption, Phase};
use super::peers::Peer;
use super::replicate::cost;
use super::salvage::Salvage;
use crate::wire::*;

/// Of a head that led and has to follow: it waits for the new primary's probe.
pub(super) const SECONDARY: &str = "now secondary";

impl Core {
    /// The authority granted a pair. A number binds to one boot of one log (P-01, P-03); anything else
    /// is not for this head.
    pub(super) fn assign(&mut self, now: Time, assignment: Assignment, out: &mut Out) {
        self.busy = true;
        let Some(p) = self.parts.find(assignment.stamp.partition) else { return };
        let Some(me) = assignment.member(self.cfg.node).copied() else {
            if assignment.stamp.number >= self.parts[p].newest() {
                self.superseded(p, assignment.stamp, out);
            }
            return;
        };
        if me.log != self.log.id() || !self.same_boot(me.boot, self.cfg.boot) {
            return;
        }
        let part = &self.parts[p];
        let stamp = assignment.stamp;
        if stamp.number == part.stamp.number && stamp.grant != part.stamp.grant {
            return self.conflict(p, stamp, out);
        }
        if stamp.number <= part.newest() {
            return;
        }
        self.parts[p].granted(assignment.members.len());
        self.parts[p].moved_on(stamp.number);
        if assignment.primary() != Some(&me) {
            // The primary's announce brings the pair; until then an old role ends here.
            if self.parts[p].phase != Phase::Following {
                self.step_down(p, stamp.number, out);
            }
            self.parts[p].tell(now, assignment);
            return;
        }
        self.adopt_as_primary(now, p, &assignment, out);
    }

    fn adopt_as_primary(&mut self, now: Time, p: usize, assignment: &Assignment, out: &mut Out) {
        let alone = assignment.members.len() < 2;
        let salvages = assignment.salvage.is_some();
        if self.parts[p].damaged || (self.parts[p].short && alone) {
            let why = "log damaged: a full copy from the peer is needed";
            return self.stop(p, why, ClientError::Unreadable, out);
        }
        // What it lacks of its last primary's log was either never acknowledged, or lies on sleds.
        if alone && !salvages && self.parts[p].behind() {
            let why = "lacks operations that its last primary had: alone it would serve old data";
            return self.stop(p, why, ClientError::Unreadable, out);
        }
        self.parts[p].copy.join = None;
        self.abort_background(p);
        self.parts[p].journal.on = alone && assignment.copies;
        if self.parts[p].phase == Phase::Following && self.cfg.faults.takeover_unreconciled() {
            let committed = self.parts[p].committed;
            self.cut_back(p, committed);
        }
        let part = &self.parts[p];
        let adopt = Adopt {
            partition: part.cfg.partition,
            number: assignment.stamp.number,
            grant: assignment.stamp.grant,
            members: assignment.members.iter().copied().collect(),
            tail: part.tail,
        };
        self.parts[p].salvage = assignment.salvage.map(|base| Box::new(Salvage::new(now, base)));
        self.begin_probe(now, p, adopt, out);
    }

    /// An adoption is durable in the own log.
    pub(super) fn on_adopted(&mut self, now: Time, p: usize, out: &mut Out) {
        let Some(adoption) = self.parts[p].adoption.take() else { return };
        let Adoption { adopt, committed, whole, .. } = adoption;
        let part = &mut self.parts[p];
        part.stamp = Stamp { partition: adopt.partition, number: adopt.number, grant: adopt.grant };
        part.members = adopt.members.clone();
        part.adopted = Some(adopt);
        part.joined();
        part.moved_on(part.stamp.number);
        out.events.push(Event::Adopted { stamp: part.stamp });
        if part.members.first().is_some_and(|first| first.head == self.cfg.node) {
            part.phase = Phase::Announcing;
            part.journal.begin(part.committed);
            self.reset_claims(now, p);
            (0..self.parts[p].peers.len()).for_each(|at| self.announce(now, p, at, out));
        } else if part.stamp.number >= part.promise.number {
            self.follow(p, committed, whole, out);
        }
    }

    /// Sends the announce to a peer (again). A guest is told of itself and of us.
    pub(super) fn announce(&mut self, now: Time, p: usize, at: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let peer = &mut part.peers[at];
        let guests = || part.members.first().copied().into_iter().chain([peer.member]).collect();
        let adopt = Adopt {
            partition: part.cfg.partition,
            number: part.stamp.number,
            grant: part.stamp.grant,
            members: if peer.is_guest() { guests() } else { part.members.clone() },
            tail: part.tail,
        };
        out.net.push((peer.member.head, Msg::Announce { adopt, committed: part.committed }));
        let at = peer.asked(now);
        self.arm(at);
    }

    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn on_announced(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        log: LogId,
        durable: Op,
        (credit, covered, damaged): (u64, Op, bool),
        out: &mut Out,
    ) {
        let Some((p, at)) = self.peer_speaks(from, boot, stamp) else { return };
        let foreign_ok = self.cfg.faults.foreign_log_accepted();
        let first = self.cfg.retry.first;
        let part = &self.parts[p];
        let peer = &part.peers[at];
        let expected = part.phase == Phase::Announcing || (part.phase == Phase::Serving && peer.is_guest());
        if !expected || peer.announced || (log != peer.member.log && !foreign_ok) {
            return;
        }
        if damaged || !part.reaches(durable) {
            return self.peer_needs_copy(p, at, durable, out);
        }
        let part = &mut self.parts[p];
        let peer = &mut part.peers[at];
        (peer.announced, peer.lacking) = (true, false);
        peer.durable = durable.min(part.tail);
        if part.deleted {
            peer.durable = peer.durable.max(part.committed);
        }
        peer.sent = peer.durable;
        peer.covered = covered;
        peer.progress(now, first);
        let durable = peer.durable;
        part.load.upto = Op(0);
        let spent = part.held_after(durable).map(|held| cost(&held.entry.body)).sum();
        let peer = &mut part.peers[at];
        (peer.spent, peer.credit, peer.window) = (spent, 0, 0);
        peer.grant(credit);
        if self.cfg.faults.skip_reconcile() {
            self.serve(now, p, out);
        }
    }

    /// A peer's log and ours cannot be made one from what they hold: one needs a full copy. Requests wait,
    /// nothing is lost.
    pub(super) fn peer_needs_copy(&mut self, p: usize, at: usize, durable: Op, out: &mut Out) {
        let part = &mut self.parts[p];
        let Some(peer) = part.peers.get_mut(at) else { return };
        peer.lacking = !part.copy.outdone;
        if std::mem::replace(&mut peer.away, true) {
            return;
        }
        let from = peer.member.head;
        out.events.push(Event::PeerAway { partition: part.cfg.partition, peer: from });
        out.events.push(Event::Note(format!(
            "partition {}: secondary {from} holds operations up to {durable}, here {} are committed and {} held",
            part.cfg.partition, part.committed, part.tail
        )));
    }

    /// The peers' logs and ours hold the whole tail under the new number: commit it, then serve (P-13).
    pub(super) fn reconciled(&self, p: usize) -> bool {
        let part = &self.parts[p];
        let copied = part.copied() >= part.tail || self.cfg.faults.solo_before_copies();
        part.phase == Phase::Announcing && part.local >= part.tail && copied && part.refilled()
    }

    pub(super) fn serve(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        part.phase = Phase::Serving;
        part.service.since = now;
        part.service.from = part.committed;
        part.released_op = part.released_op.max(part.committed);
        part.stats.counters.reconciles += 1;
        part.begin_checkpoints(now);
        out.events.push(Event::Serving { stamp: part.stamp });
        self.answer_withheld(now, p, out);
        self.background_at = now;
        self.confirm_anew(now, p, out);
        self.pump(now, p, out);
    }

    /// Somebody holds another pair than the one we spoke under.
    pub(super) fn on_refused(&mut self, _now: Time, refused: Stamp, held: Stamp, out: &mut Out) {
        let Some(p) = self.parts.find(refused.partition) else { return };
        let part = &self.parts[p];
        let probing = part.probing.as_ref().is_some_and(|probing| probing.adopt.number == refused.number);
        if part.stamp == refused || (probing && held.number > refused.number) {
            self.met(p, held, out);
        }
    }

    /// Another head leads from now on, under `number`: a primary stops at once, answers whom it owes an answer,
    /// and waits for the new one's probe (EF-17).
    pub(super) fn step_down(&mut self, p: usize, number: Number, out: &mut Out) {
        let part = &mut self.parts[p];
        if part.leads() {
            part.stats.counters.demotions += 1;
            out.events.push(Event::Demoted { partition: part.cfg.partition, number });
            if !self.cfg.faults.serve_superseded() {
                self.stop(p, SECONDARY, ClientError::NotServed, out);
            }
            self.parts[p].phase = Phase::Stopped(SECONDARY);
        } else if part.phase != Phase::Stopped(SECONDARY) {
            part.phase = Phase::Idle;
        }
        self.parts[p].peers.clear();
        self.parts[p].copy.learner = None;
    }

    /// A foreign stamp was met: only a higher number demotes (P-22); an equal one of another grant means
    /// that two stores granted it, and both stop (P-04).
    pub(super) fn met(&mut self, p: usize, held: Stamp, out: &mut Out) {
        let own = self.parts[p].stamp;
        if held.number > own.number {
            self.superseded(p, held, out);
        } else if held.number == own.number && held.grant != own.grant {
            self.conflict(p, held, out);
        }
    }

    pub(super) fn superseded(&mut self, p: usize, held: Stamp, out: &mut Out) {
        if held.number < self.parts[p].stamp.number || matches!(self.parts[p].phase, Phase::Stopped(_)) {
            return;
        }
        self.parts[p].moved_on(held.number);
        self.parts[p].stats.counters.demotions += 1;
        out.events.push(Event::Demoted { partition: held.partition, number: held.number });
        self.stop(p, "superseded by a higher number", ClientError::NotServed, out);
    }

    pub(super) fn conflict(&mut self, p: usize, held: Stamp, out: &mut Out) {
        if self.cfg.faults.grant_ignored() || matches!(self.parts[p].phase, Phase::Stopped(_)) {
            return;
        }
        out.events.push(Event::Note(format!(
            "partition {}: number {} was granted twice (grants {} and {})",
            held.partition, held.number, self.parts[p].stamp.grant, held.grant
        )));
        self.stop(p, "one number was granted twice", ClientError::NotServed, out);
    }

    pub(super) fn same_boot(&self, granted: BootId, seen: BootId) -> bool {
        granted == seen || self.cfg.faults.number_kept_over_restart()
    }

    pub(super) fn same_stamp(&self, own: Stamp, other: Stamp) -> bool {
        own.number == other.number && (own.grant == other.grant || self.cfg.faults.grant_ignored())
    }

    /// Test-only: serve on under the number of an earlier boot (what P-01 forbids).
    pub(super) fn keep_number(&mut self, p: usize) {
        let retry = self.cfg.retry.first;
        let part = &mut self.parts[p];
        if part.stamp.number == Number::ZERO {
            return;
        }
        if part.members.first().is_some_and(|first| first.head == self.cfg.node) {
            let committed = part.committed;
            let follows = |&member: &Member| Peer {
                announced: true,
                durable: committed,
                sent: committed,
                credit: u64::MAX / 2,
                window: u64::MAX / 2,
                ..Peer::new(member, retry)
            };
            part.peers = part.members.iter().skip(1).map(follows).collect();
            part.phase = Phase::Serving;
        } else {
            part.phase = Phase::Following;
        }
    }
}
