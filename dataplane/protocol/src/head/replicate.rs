//! The primary's side of replication: send, repeat, credits (EF-05, P-06, P-31).

use super::core::Core;
use super::part::{Part, Phase};
use super::stats::Stage;
use super::write::LEAST;
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// Operations of one message: as many as lie in it without memory of their own.
pub(super) const ENTRIES: usize = 4;
/// Payload of one message.
pub(super) const MESSAGE_BLOCKS: u64 = 64;
/// Operations repeated at once; the rest follows when these are answered.
const REPEATED: u64 = 64;
/// How long the peer may wait for a watermark that no operation carries.
const TELL: Duration = Duration::from_millis(1);

/// What an operation costs of the peer's credit, in blocks.
pub(super) fn cost(body: &Body) -> u64 {
    match body {
        Body::Write { crcs, .. } => crcs.len() as u64,
        _ => 1,
    }
}

impl Core {
    /// Sends each peer what it has not got yet, and the committed watermark.
    pub(super) fn replicate(&mut self, now: Time, p: usize, out: &mut Out) {
        for at in 0..self.parts[p].peers.len() {
            self.replicate_to(now, p, at, out);
        }
    }

    fn replicate_to(&mut self, now: Time, p: usize, at: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let peer = &mut part.peers[at];
        if !peer.announced || !matches!(part.phase, Phase::Announcing | Phase::Serving) {
            return;
        }
        if peer.sent < part.tail {
            let (from, upto) = (Op(peer.sent.0 + 1), part.tail);
            self.send(now, p, at, from, upto, out);
        } else if peer.told < part.committed {
            let at = *peer.tell_at.get_or_insert(now + TELL);
            if at <= now {
                peer.tell_at = None;
                peer.told = part.committed;
                let to = peer.member.head;
                let (stamp, committed) = (part.stamp, part.committed);
                out.net.push((to, Msg::Replicate { stamp, committed, entries: SmallVec::new() }));
            } else {
                self.arm(at);
            }
        }
    }

    /// Sends a peer operations `from..=upto` as far as they are in memory.
    fn send(&mut self, now: Time, p: usize, at: usize, from: Op, upto: Op, out: &mut Out) {
        let part = &self.parts[p];
        let to = part.peers[at].member.head;
        let mut entries: SmallVec<[Entry; 4]> = SmallVec::new();
        let mut blocks = 0;
        let (stamp, committed) = (part.stamp, part.committed);
        let mut last = Op(from.0 - 1);
        let mut lacking = None;
        for pending in part.held_after(last) {
            if pending.entry.op > upto {
                break;
            }
            if !pending.loaded {
                lacking = Some(last);
                break;
            }
            let cost = cost(&pending.entry.body);
            if entries.len() == ENTRIES || blocks + cost > MESSAGE_BLOCKS {
                let entries = std::mem::take(&mut entries);
                out.net.push((to, Msg::Replicate { stamp, committed, entries }));
                blocks = 0;
            }
            blocks += cost;
            last = pending.entry.op;
            entries.push(pending.entry.clone());
        }
        if !entries.is_empty() {
            out.net.push((to, Msg::Replicate { stamp, committed, entries }));
        }
        let peer = &mut self.parts[p].peers[at];
        peer.sent = peer.sent.max(last);
        peer.told = committed;
        peer.tell_at = None;
        if peer.sent > peer.durable {
            peer.open_since.get_or_insert(now);
            let gap = peer.gap;
            let at = *peer.repeat_at.get_or_insert(now + gap);
            self.arm(at);
        }
        // Peers are refilled side by side: what one lacks is read back when those behind it have come as far,
        // so that no more is in memory than one of them takes (`Bounded`).
        if let Some(after) = lacking.filter(|&after| self.parts[p].all_sent(after)) {
            self.load_after(now, p, after, out);
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn on_replicated(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        durable: Op,
        credit: u64,
        covered: Op,
    ) {
        let Some((p, at)) = self.peer_speaks(from, boot, stamp) else { return };
        let first = self.cfg.retry.first;
        let part = &mut self.parts[p];
        let old = part.replicated().max(part.committed);
        let Some(peer) = part.peers.get_mut(at).filter(|peer| peer.announced) else { return };
        peer.grant(credit);
        peer.covered = peer.covered.max(covered);
        let durable = durable.min(part.tail);
        if durable <= peer.durable {
            return;
        }
        peer.durable = durable;
        peer.progress(now, first);
        let next = peer.repeat_at;
        if part.phase == Phase::Announcing || part.peers[at].is_guest() {
            part.unload_upto(part.taken());
        }
        let durable = part.replicated();
        for op in old.0 + 1..=durable.0 {
            let Some(pending) = part.pending_at(Op(op)) else { break };
            pending.replicated_at = now;
            let span = now.since(pending.at);
            if span < now.since(Time::ZERO) {
                part.stats.record(Stage::Replicate, span);
            }
        }
        if let Some(at) = next {
            self.arm(at);
        }
    }

    /// Repeats what is open with the peers, and notices who is away. Runs when a timer is due.
    pub(super) fn repeat_peers(&mut self, now: Time, p: usize, out: &mut Out) {
        if !matches!(self.parts[p].phase, Phase::Probing | Phase::Announcing | Phase::Serving) {
            return;
        }
        for at in 0..self.parts[p].peers.len() {
            self.repeat_peer(now, p, at, out);
        }
    }

    fn repeat_peer(&mut self, now: Time, p: usize, at: usize, out: &mut Out) {
        let retry = self.cfg.retry;
        if let Some(tell) = self.parts[p].peers[at].tell_at {
            self.arm(tell);
        }
        let part = &mut self.parts[p];
        let peer = &mut part.peers[at];
        if peer.open_since.is_some_and(|since| now.since(since) >= retry.away) && !peer.away {
            peer.away = true;
            out.events.push(Event::PeerAway { partition: part.cfg.partition, peer: peer.member.head });
        }
        let Some(due) = peer.repeat_at else { return };
        if due > now {
            return self.arm(due);
        }
        peer.gap = (peer.gap * 2).min(retry.last);
        peer.repeat_at = None;
        if part.phase == Phase::Probing {
            return self.probe(now, p, at, out);
        }
        let peer = &self.parts[p].peers[at];
        if !peer.announced {
            return self.announce(now, p, at, out);
        }
        let (durable, sent) = (peer.durable, peer.sent);
        if sent > durable {
            self.parts[p].stats.counters.resends += 1;
            let upto = Op(sent.0.min(durable.0 + REPEATED));
            self.send(now, p, at, Op(durable.0 + 1), upto, out);
        } else if self.parts[p].wants_credit(at) {
            let to = peer.member.head;
            let (stamp, committed) = (self.parts[p].stamp, self.parts[p].committed);
            out.net.push((to, Msg::Replicate { stamp, committed, entries: SmallVec::new() }));
            self.ask_for_credit(now, p);
        }
    }

    /// Credit comes with answers to operations, and by itself when the peer's log has room again. That message
    /// may be lost while nothing else is under way, so that it is asked for after a while (P-31).
    pub(super) fn ask_for_credit(&mut self, now: Time, p: usize) {
        for at in 0..self.parts[p].peers.len() {
            if self.parts[p].wants_credit(at) {
                let peer = &mut self.parts[p].peers[at];
                let gap = peer.gap;
                let at = *peer.repeat_at.get_or_insert(now + gap);
                self.arm(at);
            }
        }
    }
}

impl Part {
    /// Whether commands wait and the peer's credit may be what they wait for.
    fn wants_credit(&self, at: usize) -> bool {
        let waits = !self.waiting.is_empty() || !self.stalled.is_empty();
        let peer = &self.peers[at];
        self.serving() && waits && peer.counts() && peer.spent + LEAST > peer.credit
    }

    /// Whether every peer that is being refilled was sent all up to `op`.
    fn all_sent(&self, op: Op) -> bool {
        self.peers.iter().all(|peer| !peer.announced || peer.sent >= op)
    }

    /// Up to where every peer that is being refilled has what it was sent.
    fn taken(&self) -> Op {
        let filling = self.peers.iter().filter(|peer| peer.announced);
        filling.map(|peer| peer.durable).fold(self.tail, Op::min)
    }
}
