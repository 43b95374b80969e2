//! The side that follows: adopt what the primary announces, append in order, answer the contiguous
//! durable watermark, apply what the primary committed (EF-05, OP-08, P-01, P-06, P-31).

use super::core::Core;
use super::part::{Adoption, Follow, Pending, Phase};
use super::replicate::cost;
use super::slab::Id;
use super::write::{LEAST, SLACK, room_for_write};
use crate::log::PushError;
use crate::wire::limits::{BLOCK, IO_BLOCKS_MAX};
use crate::wire::*;
use palisade_isal::crc32c;
use smallvec::SmallVec;
use std::time::Duration;

/// Operations held that arrived ahead of a missing one; the primary repeats what does not fit.
const EARLY_MAX: usize = 2048;
/// Credit is given in steps of this many blocks, up to [`CREDIT_WINDOW`] ahead.
const CREDIT_STEP: u64 = 256;
/// Most blocks that a primary may be ahead of what has arrived.
const CREDIT_WINDOW: u64 = 8192;

impl Core {
    pub(super) fn on_announce(
        &mut self,
        from: NodeId,
        boot: BootId,
        adopt: Adopt,
        committed: Op,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(adopt.partition) else { return };
        let stamp = Stamp { partition: adopt.partition, number: adopt.number, grant: adopt.grant };
        let held = self.parts[p].stamp;
        if stamp.number < held.number {
            out.net.push((from, Msg::Refused { refused: stamp, held }));
            return;
        }
        if !self.speaks_to_us(from, boot, &adopt) || stamp.number < self.parts[p].newest() {
            return;
        }
        if stamp.number == held.number {
            if !self.same_stamp(held, stamp) {
                out.net.push((from, Msg::Refused { refused: stamp, held }));
                self.conflict(p, stamp, out);
                return;
            }
            if self.parts[p].phase == Phase::Following {
                return self.announced(p, from, out);
            }
            // A guest that died, and is invited again under the pair that it followed then.
            if self.parts[p].phase != Phase::Idle {
                return;
            }
        }
        let underway = self.parts[p].adoption.as_ref().map(|adoption| adoption.adopt.number);
        if underway.is_some_and(|number| number >= stamp.number) {
            return;
        }
        // Of a deleted partition either member's checkpoints may have forgotten everything.
        let behind = adopt.tail < self.parts[p].committed && !self.parts[p].deleted;
        if self.parts[p].damaged || behind {
            let (log, durable) = (self.log.id(), self.parts[p].committed);
            out.net.push((
                from,
                Msg::Announced { stamp, log, durable, credit: 0, covered: Op(0), damaged: true },
            ));
            return;
        }
        if self.compare_as_guest(p, (from, boot), stamp, out) {
            return;
        }
        self.take_pair(p, adopt, committed, out);
    }

    /// Whether a pair comes from its primary and names this boot of this log (P-01, P-03).
    pub(super) fn speaks_to_us(&self, from: NodeId, boot: BootId, adopt: &Adopt) -> bool {
        let primary = adopt.members.first();
        let speaks = primary.is_some_and(|first| first.head == from && self.same_boot(first.boot, boot));
        let me = adopt.members.iter().skip(1).find(|member| member.head == self.cfg.node);
        let ours = |log| log == self.log.id() || self.cfg.faults.foreign_log_accepted();
        me.is_some_and(|me| speaks && me.boot == self.cfg.boot && ours(me.log))
    }

    /// Cuts back to the primary's tail and logs the pair (P-01).
    fn take_pair(&mut self, p: usize, adopt: Adopt, committed: Op, out: &mut Out) {
        self.step_down(p, adopt.number, out);
        let part = &mut self.parts[p];
        part.copy.join = None;
        let whole = adopt.tail;
        let cut = if self.cfg.faults.keep_divergence() { adopt.tail } else { part.cut_for(&adopt) };
        let adopt = Adopt { tail: cut, ..adopt };
        let Ok(placed) = self.log.push_adopt(&adopt, part.committed) else { return };
        self.cut_back(p, cut);
        let part = &mut self.parts[p];
        part.follow.early.clear();
        part.owed = None;
        part.adoption = Some(Adoption { adopt, lsn: placed.lsn, committed, whole });
    }

    /// Drops pending operations above `tail`.
    pub(super) fn cut_back(&mut self, p: usize, tail: Op) {
        let part = &mut self.parts[p];
        while part.tail > tail {
            let Some(cut) = part.pending.pop_back() else { break };
            part.tail = Op(part.tail.0 - 1);
            if let Body::Write { crcs, .. } = &cut.entry.body {
                self.log.dead(cut.addr, crcs.len() as u32);
            }
        }
        part.local = part.local.min(part.tail);
    }

    /// The pair is durable: follow it.
    pub(super) fn follow(&mut self, p: usize, committed: Op, whole: Op, out: &mut Out) {
        let part = &mut self.parts[p];
        part.phase = Phase::Following;
        part.whole = true;
        part.short = false;
        part.follow = Follow { committed, whole, ..Follow::default() };
        // The primary releases orphans once both checkpoints are past the takeover (P-27, P-28).
        part.released_op = part.released_op.max(part.tail);
        let refused = std::mem::take(&mut part.waiting);
        let error = ClientError::NotServed;
        out.done.extend(refused.into_iter().map(|(cmd, _)| ClientDone { tag: cmd.tag, result: Err(error) }));
        self.grant_credit(p);
        if let Some(to) = self.parts[p].members.first().map(|first| first.head) {
            self.announced(p, to, out);
        }
    }

    fn announced(&mut self, p: usize, to: NodeId, out: &mut Out) {
        let part = &self.parts[p];
        let msg = Msg::Announced {
            stamp: part.stamp,
            log: self.log.id(),
            durable: part.local,
            credit: part.follow.granted,
            covered: self.log.covers(part.cfg.partition),
            damaged: false,
        };
        out.net.push((to, msg));
    }

    #[allow(clippy::too_many_arguments)] // the fields of one message
    pub(super) fn on_replicate(
        &mut self,
        now: Time,
        from: NodeId,
        boot: BootId,
        stamp: Stamp,
        committed: Op,
        entries: SmallVec<[Entry; 4]>,
        out: &mut Out,
    ) {
        let Some(p) = self.parts.find(stamp.partition) else { return };
        let part = &self.parts[p];
        let lower = stamp.number < part.stamp.number;
        if lower && !self.cfg.faults.lower_number_taken() {
            out.net.push((from, Msg::Refused { refused: stamp, held: part.stamp }));
            return;
        }
        let primary = part.members.first();
        let speaks = primary.is_some_and(|first| first.head == from && self.same_boot(first.boot, boot));
        let ours = lower || (speaks && self.same_stamp(part.stamp, stamp));
        if part.phase != Phase::Following || !ours {
            return;
        }
        let near = self.near;
        let part = &mut self.parts[p];
        // Nothing and nothing new: the primary asks for what an answer told that was lost, such as credit (P-31).
        part.follow.reply |= entries.is_empty() && committed <= part.follow.committed;
        part.follow.committed = part.follow.committed.max(committed);
        for entry in entries {
            if entry.partition != stamp.partition || !(if near { shaped(&entry) } else { sound(&entry) }) {
                part.stats.counters.corrupt += 1;
                continue;
            }
            if entry.op <= part.tail {
                part.follow.reply = true;
            } else if part.follow.early.len() < EARLY_MAX || entry.op.0 == part.tail.0 + 1 {
                part.follow.early.insert(entry.op, entry);
            }
        }
        self.append(now, p);
    }

    /// Appends what is next in order. What the log cannot take yet stays and is tried again.
    pub(super) fn append(&mut self, now: Time, p: usize) {
        let part = &mut self.parts[p];
        while let Some(first) = part.follow.early.first_entry() {
            if first.get().op.0 != part.tail.0 + 1 {
                if first.get().op > part.tail {
                    break;
                }
                first.remove();
                continue;
            }
            let placed = match self.log.push_cold(first.get(), part.committed) {
                Ok(placed) => placed,
                Err(PushError::Failed) => return,
                Err(_) => {
                    self.release_due = true;
                    return self.arm(now + Duration::from_millis(1));
                }
            };
            let entry = first.remove();
            part.tail = entry.op;
            part.follow.received += cost(&entry.body);
            part.pending.push_back(Pending {
                entry,
                addr: placed.addr,
                lsn: placed.lsn,
                cmd: Id::NONE,
                loaded: true,
                // What a primary gets back from its secondary is no client's fresh write.
                at: if part.phase == Phase::Following { now } else { Time::ZERO },
                logged_at: Time::ZERO,
                replicated_at: Time::ZERO,
            });
        }
    }

    /// Answers the watermark when it moved, or when the primary repeats itself.
    pub(super) fn reply(&mut self, now: Time, p: usize, out: &mut Out) {
        if self.parts[p].phase != Phase::Following {
            return;
        }
        self.append_stuck(now, p);
        self.grant_credit(p);
        let covered = self.log.covers(self.parts[p].cfg.partition);
        let part = &mut self.parts[p];
        let follow = &mut part.follow;
        let news = part.local > follow.replied
            || covered > follow.replied_covered
            || follow.granted > follow.replied_grant;
        if !news && !follow.reply {
            return;
        }
        follow.reply = false;
        follow.replied = part.local;
        follow.replied_covered = covered;
        follow.replied_grant = follow.granted;
        let Some(primary) = part.members.first() else { return };
        let credit = follow.granted;
        out.net.push((
            primary.head,
            Msg::Replicated { stamp: part.stamp, durable: part.local, credit, covered },
        ));
    }

    pub(super) fn append_stuck(&mut self, now: Time, p: usize) {
        let part = &self.parts[p];
        let next = part.follow.early.first_key_value().is_some_and(|(op, _)| op.0 <= part.tail.0 + 1);
        if next {
            self.append(now, p);
        }
    }

    /// Blocks that this head has promised to take for its primaries, with record headers for each (P-31).
    pub(super) fn promised(&self) -> u64 {
        let open = |part: &super::part::Part| part.follow.granted.saturating_sub(part.follow.received);
        self.parts.iter().filter(|part| part.phase == Phase::Following).map(|part| 3 * open(part)).sum()
    }

    /// Lets the primary send more while the log has room for it. A promise to a primary that is idle stays
    /// open, so that nobody may starve by it: all promises together take at most half of the log, each
    /// partition's at most its part of that half, and a head that leads partitions itself keeps room for a
    /// largest write of theirs. A largest write gets its credit beyond that half, too, while there is room.
    fn grant_credit(&mut self, p: usize) {
        let open = self.parts[p].follow.granted.saturating_sub(self.parts[p].follow.received);
        let (promised, user) = (self.promised(), self.log.user_blocks());
        let share = (self.log.user_capacity() / 2).max(3 * LEAST);
        let living = || self.parts.iter().filter(|part| !part.deleted);
        let leads = living().any(|part| part.phase != Phase::Following);
        // The first ones leave something for those that come later.
        let sharers = living().count().max(4) as u64;
        let window = (share / 3 / sharers).clamp(LEAST, CREDIT_WINDOW);
        if open + CREDIT_STEP > window && open >= LEAST {
            return;
        }
        let own = if leads { room_for_write(LEAST) } else { 0 };
        let most = window.saturating_sub(open);
        let mut step = if most < CREDIT_STEP { most } else { most / CREDIT_STEP * CREDIT_STEP };
        while step >= CREDIT_STEP / 4 {
            let then = promised + 3 * step;
            if then <= share && user >= then + 2 * SLACK + own {
                self.parts[p].follow.granted += step;
                return;
            }
            step /= 2;
        }
        // However small the log, a largest write must get its credit one day: nothing else makes room.
        let least = LEAST.saturating_sub(open);
        let then = promised + 3 * least;
        let kept = if then <= share { 0 } else { own };
        if user >= then + 2 * SLACK + kept {
            self.parts[p].follow.granted += least;
        }
    }
}

/// Whether a replicated operation is what its sender meant: bytes that rotted on the way are not logged.
pub(super) fn sound(entry: &Entry) -> bool {
    let right = |(block, &crc): (&[u8], &u32)| crc32c(block) == crc;
    shaped(entry)
        && match &entry.body {
            Body::Write { crcs, data, .. } => data.chunks_exact(BLOCK).zip(crcs).all(right),
            _ => true,
        }
}

/// Whether a replicated operation has as many blocks as it says, and no more than one may have.
fn shaped(entry: &Entry) -> bool {
    match &entry.body {
        Body::Write { crcs, data, .. } => {
            (1..=IO_BLOCKS_MAX).contains(&crcs.len()) && data.len() == crcs.len() * BLOCK
        }
        _ => true,
    }
}
