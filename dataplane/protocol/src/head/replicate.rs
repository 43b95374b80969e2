//! The primary's side of replication: send, repeat, credits (EF-05, P-06, P-31).

use super::core::Core;
use super::part::Phase;
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
    /// Sends what the peer has not got yet, and the committed watermark.
    pub(super) fn replicate(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &mut self.parts[p];
        let Some(peer) = part.peer.as_mut().filter(|peer| peer.announced) else { return };
        if !matches!(part.phase, Phase::Announcing | Phase::Serving) {
            return;
        }
        if peer.sent < part.tail {
            let (from, upto) = (Op(peer.sent.0 + 1), part.tail);
            self.send(now, p, from, upto, out);
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

    /// Sends operations `from..=upto` as far as they are in memory.
    fn send(&mut self, now: Time, p: usize, from: Op, upto: Op, out: &mut Out) {
        let part = &self.parts[p];
        let Some(peer) = &part.peer else { return };
        let to = peer.member.head;
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
        let Some(peer) = &mut self.parts[p].peer else { return };
        peer.sent = peer.sent.max(last);
        peer.told = committed;
        peer.tell_at = None;
        if peer.sent > peer.durable {
            peer.open_since.get_or_insert(now);
            let gap = peer.gap;
            let at = *peer.repeat_at.get_or_insert(now + gap);
            self.arm(at);
        }
        if let Some(after) = lacking {
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
        let Some(p) = self.peer_speaks(from, boot, stamp) else { return };
        let first = self.cfg.retry.first;
        let part = &mut self.parts[p];
        let Some(peer) = part.peer.as_mut().filter(|peer| peer.announced) else { return };
        peer.grant(credit);
        peer.covered = peer.covered.max(covered);
        let durable = durable.min(part.tail);
        if durable <= peer.durable {
            return;
        }
        let old = peer.durable.max(part.committed);
        peer.durable = durable;
        peer.progress(now, first);
        let next = peer.repeat_at;
        if part.phase == Phase::Announcing {
            part.unload_upto(durable);
        }
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

    /// Repeats what is open with the peer, and notices that it is away. Runs when a timer is due.
    pub(super) fn repeat_peer(&mut self, now: Time, p: usize, out: &mut Out) {
        let retry = self.cfg.retry;
        let part = &mut self.parts[p];
        let Some(peer) = &mut part.peer else { return };
        if !matches!(part.phase, Phase::Probing | Phase::Announcing | Phase::Serving) {
            return;
        }
        if let Some(at) = peer.tell_at {
            self.arm(at);
        }
        let Some(peer) = &mut self.parts[p].peer else { return };
        if peer.open_since.is_some_and(|since| now.since(since) >= retry.away) && !peer.away {
            peer.away = true;
            let (partition, peer) = (stamp_of(p, self), peer_of(p, self));
            out.events.push(Event::PeerAway { partition, peer });
        }
        let part = &mut self.parts[p];
        let Some(peer) = &mut part.peer else { return };
        let Some(at) = peer.repeat_at else { return };
        if at > now {
            return self.arm(at);
        }
        peer.gap = (peer.gap * 2).min(retry.last);
        peer.repeat_at = None;
        if self.parts[p].phase == Phase::Probing {
            return self.probe(now, p, out);
        }
        let Some(peer) = &self.parts[p].peer else { return };
        if !peer.announced {
            return self.announce(now, p, out);
        }
        let (durable, sent) = (peer.durable, peer.sent);
        if sent > durable {
            self.parts[p].stats.counters.resends += 1;
            let upto = Op(sent.0.min(durable.0 + REPEATED));
            self.send(now, p, Op(durable.0 + 1), upto, out);
        } else if self.wants_credit(p) {
            let to = peer.member.head;
            let (stamp, committed) = (self.parts[p].stamp, self.parts[p].committed);
            out.net.push((to, Msg::Replicate { stamp, committed, entries: SmallVec::new() }));
            self.ask_for_credit(now, p);
        }
    }

    /// Whether commands wait and the peer's credit may be what they wait for.
    fn wants_credit(&self, p: usize) -> bool {
        let part = &self.parts[p];
        let waits = !part.waiting.is_empty() || !part.stalled.is_empty();
        part.serving() && waits && part.peer.as_ref().is_some_and(|peer| peer.spent + LEAST > peer.credit)
    }

    /// Credit comes with answers to operations, and by itself when the peer's log has room again. That message
    /// may be lost while nothing else is under way, so that it is asked for after a while (P-31).
    pub(super) fn ask_for_credit(&mut self, now: Time, p: usize) {
        if !self.wants_credit(p) {
            return;
        }
        let Some(peer) = &mut self.parts[p].peer else { return };
        let gap = peer.gap;
        let at = *peer.repeat_at.get_or_insert(now + gap);
        self.arm(at);
    }
}

fn stamp_of(p: usize, core: &Core) -> PartitionId {
    core.parts[p].cfg.partition
}

fn peer_of(p: usize, core: &Core) -> NodeId {
    core.parts[p].peer.as_ref().map_or(NodeId(0), |peer| peer.member.head)
}
