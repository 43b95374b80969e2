//! Read confirms (P-12, MA-07): before a read is answered, every peer says that it still holds the pair.
//!
//! One question per peer is under way; it covers every partition that had reads waiting when it was
//! sent. A read is released only by the answers of all peers to questions that were sent after the read
//! arrived: reads of a partition are counted, a question covers those counted before it.

use super::core::Core;
use super::part::Phase;
use super::slab::Id;
use crate::wire::*;
use smallvec::SmallVec;
use std::time::Duration;

/// Questions to one peer.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Nonce of the last question sent.
    sent: u64,
    open: bool,
    /// What the open (or next) question asks for.
    asking: SmallVec<[Stamp; 4]>,
    repeat_at: Time,
    gap: Duration,
    /// Not before then: the peer's last answer did not name our pair.
    hold_until: Time,
}

impl Core {
    /// A client's read waits for a confirm; says `false` when there is nobody to ask.
    pub(super) fn await_confirm(&mut self, p: usize, read: Id) -> bool {
        if self.cfg.faults.skip_confirm() {
            return false;
        }
        let part = &mut self.parts[p];
        let acts_early = self.cfg.faults.act_on_proposal() && part.needed(self.cfg.faults).next().is_none();
        let nobody =
            part.counted().next().is_none() && (!part.journal.on || self.cfg.faults.solo_unvouched());
        if nobody || acts_early {
            return false;
        }
        part.reads.last += 1;
        part.reads.queue.push_back((part.reads.last, read));
        true
    }

    /// At the end of a turn: one question per peer for all reads of the turn.
    pub(super) fn send_confirms(&mut self, now: Time, out: &mut Out) {
        for p in 0..self.parts.len() {
            if !self.parts[p].reads.queue.is_empty() && self.parts[p].phase == Phase::Serving {
                for at in 0..self.parts[p].peers.len() {
                    self.ask_confirm(now, p, at);
                }
            }
        }
        let first = self.cfg.retry.first;
        let mut wake = None;
        for (&to, link) in &mut self.links {
            if !link.open && !link.asking.is_empty() {
                link.open = true;
                link.sent += 1;
                link.gap = first;
                link.repeat_at = now + first;
                wake = Some(now + first);
                out.net.push((to, Msg::Confirm { nonce: link.sent, stamps: link.asking.clone() }));
            }
        }
        if let Some(at) = wake {
            self.arm(at);
        }
    }

    /// Adds a partition to the next question to a peer, if that covers reads that no question covers yet.
    fn ask_confirm(&mut self, now: Time, p: usize, at: usize) {
        let part = &mut self.parts[p];
        let peer = &mut part.peers[at];
        let link = self.links.entry(peer.member.head).or_default();
        if link.open || part.reads.last <= peer.asked || !peer.counts() {
            return;
        }
        if link.hold_until > now {
            let at = link.hold_until;
            return self.arm(at);
        }
        link.asking.push(part.stamp);
        peer.asked = part.reads.last;
        peer.open_since.get_or_insert(now);
        part.stats.counters.confirms += 1;
    }

    /// The peer's side: answers from the durable pair, and only as a follower of this boot (P-01, P-12).
    pub(super) fn on_confirm(
        &mut self,
        from: NodeId,
        boot: BootId,
        nonce: u64,
        asked: &SmallVec<[Stamp; 4]>,
        out: &mut Out,
    ) {
        let mut stamps = SmallVec::new();
        for stamp in asked {
            let none = Stamp { partition: stamp.partition, ..Stamp::default() };
            let held = self.parts.find(stamp.partition).map(|p| &self.parts[p]).filter(|part| {
                let first = part.members.first();
                part.phase == Phase::Following
                    && first.is_some_and(|first| first.head == from && self.same_boot(first.boot, boot))
            });
            stamps.push(held.map_or(none, |part| part.stamp));
            // Who asks under an older number learns of the newer one at once (P-22).
            let newer = self.parts.find(stamp.partition).map(|p| self.parts[p].stamp);
            if let Some(held) = newer.filter(|held| held.number > stamp.number) {
                out.net.push((from, Msg::Refused { refused: *stamp, held }));
            }
        }
        out.net.push((from, Msg::Confirmed { nonce, stamps }));
    }

    pub(super) fn on_confirmed(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        nonce: u64,
        stamps: &SmallVec<[Stamp; 4]>,
        out: &mut Out,
    ) {
        let reuse = self.cfg.faults.confirm_reuse_old_nonce();
        let Some(link) = self.links.get_mut(&from) else { return };
        // An answer to another question of that nonce (of an earlier boot of ours) ends nothing: what this
        // question asked and that answer leaves out would wait for ever.
        let fits = stamps.len() == link.asking.len()
            && stamps.iter().zip(&link.asking).all(|(told, asked)| told.partition == asked.partition);
        if !link.open || nonce != link.sent || !fits {
            return;
        }
        link.open = false;
        link.asking.clear();
        for &stamp in stamps {
            let Some(p) = self.parts.find(stamp.partition) else { continue };
            if self.parts[p].phase != Phase::Serving {
                continue;
            }
            let Some((p, at)) = self.peer_speaks(from, boot, stamp) else {
                self.met(p, stamp, out);
                self.ask_again(now, p, from);
                continue;
            };
            let part = &mut self.parts[p];
            let peer = &mut part.peers[at];
            peer.away = false;
            if peer.sent <= peer.durable {
                peer.open_since = None;
            }
            peer.confirmed = if reuse { part.reads.last } else { peer.asked };
            self.release_reads(now, p, out);
        }
    }

    /// Lets go of the reads that every peer confirmed.
    pub(super) fn release_reads(&mut self, now: Time, p: usize, out: &mut Out) {
        let part = &self.parts[p];
        let peers = part.needed(self.cfg.faults).map(|peer| peer.confirmed);
        let upto = peers.min().unwrap_or(u64::MAX).min(part.vouched());
        while let Some(&(at, read)) = self.parts[p].reads.queue.front() {
            if at > upto {
                break;
            }
            self.parts[p].reads.queue.pop_front();
            self.confirmed(now, read, out);
        }
    }

    fn ask_again(&mut self, now: Time, p: usize, from: NodeId) {
        let hold = now + self.cfg.retry.first;
        let Some(link) = self.links.get_mut(&from) else { return };
        link.hold_until = hold;
        let part = &mut self.parts[p];
        if let Some(at) = part.peer_of(from) {
            part.peers[at].asked = part.peers[at].confirmed;
        }
        self.arm(hold);
    }

    /// A new pair: every read that waits needs a question that is sent under it.
    pub(super) fn confirm_anew(&mut self, now: Time, p: usize, out: &mut Out) {
        for at in 0..self.parts[p].peers.len() {
            let head = self.parts[p].peers[at].member.head;
            let link = self.links.entry(head).or_default();
            // An open question went to the peer's earlier boot; its answer no longer matches any nonce.
            link.open = false;
            link.asking.clear();
            // Reads of other partitions that the dropped question covered ask again too.
            for other in 0..self.parts.len() {
                let part = &mut self.parts[other];
                if let Some(at) = part.peer_of(head) {
                    part.peers[at].asked = part.peers[at].confirmed;
                }
            }
        }
        self.parts[p].vouch.anew();
        // In a group of one nobody is asked, or sleds are.
        self.release_reads(now, p, out);
    }

    /// Repeats open questions. The same nonce: every read it releases arrived before the first sending.
    pub(super) fn repeat_confirms(&mut self, now: Time, out: &mut Out) {
        let last = self.cfg.retry.last;
        let mut wake: Option<Time> = None;
        for (&to, link) in &mut self.links {
            if !link.open {
                continue;
            }
            if link.repeat_at <= now {
                link.gap = (link.gap * 2).min(last);
                link.repeat_at = now + link.gap;
                out.net.push((to, Msg::Confirm { nonce: link.sent, stamps: link.asking.clone() }));
            }
            wake = Some(wake.map_or(link.repeat_at, |at| at.min(link.repeat_at)));
        }
        if let Some(at) = wake {
            self.arm(at);
        }
    }
}
