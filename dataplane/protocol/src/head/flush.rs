//! When to flush and what (EF-08, EF-09): live blocks of the oldest log segments, in full stripes; partial
//! ones only when somebody waits for them, when they are old, or when a log is nearly full.

use super::core::Core;
use super::gathered::{Gathered, Item};
use super::part::{FlushWait, Phase};
use crate::log::{AHEAD, Loc, LogAddr};
use crate::wire::*;
use std::collections::VecDeque;

impl Core {
    pub(super) fn flush_all(&mut self, now: Time, partition: PartitionId, tag: ClientTag, out: &mut Out) {
        self.busy = true;
        self.background_at = now;
        let served = self.parts.find(partition).filter(|&p| {
            let part = &self.parts[p];
            !matches!(part.phase, Phase::Following | Phase::Stopped(_)) && !part.deleting && !part.deleted
        });
        match served {
            Some(p) => {
                let upto = self.parts[p].committed;
                self.parts[p].flushes.push(FlushWait { tag, upto, since: now });
            }
            None => out.done.push(ClientDone { tag, result: Err(ClientError::NotServed) }),
        }
    }

    /// Share of the log's room for user data that is in use, in percent. What is promised to other heads is
    /// not there for this head's partitions, and does not count as room.
    pub(super) fn fill(&self) -> u8 {
        let (free, user) = (self.log.free_blocks(), self.log.user_blocks());
        let all = self.log.capacity_blocks().saturating_sub(free - user.min(free));
        let promised = self.promised().min(user);
        let (user, all) = (user - promised, all.saturating_sub(promised).max(1));
        (100 - user.min(all) * 100 / all) as u8
    }

    /// Starts batches while they are due. Says whether anything is under way.
    pub(super) fn flush(&mut self, now: Time, p: usize, out: &mut Out) -> bool {
        let Some(forced) = self.flush_due(now, p) else { return !self.parts[p].batches.is_empty() };
        self.share_reserve(now, p);
        self.parts[p].turn_extent();
        // One batch a pass: when all of it is in memory, that is a millisecond of copying and encoding, and
        // clients wait for it. The next pass is the next turn.
        if self.flushing(p) < usize::from(self.cfg.flush.batches) {
            let Some((stripes, blocks)) = self.open_room(p, false) else {
                if self.parts[p].batches.is_empty() && self.has_log_blocks(p) {
                    self.leave_reserved(now, p);
                    self.make_extent(now, p, false, out);
                }
                return true;
            };
            let items = self.gather(now, p, stripes * blocks, forced);
            let started =
                !items.is_empty() && self.start_batch(now, p, Gathered::packed(items, blocks), false);
            self.flush_again |= started;
            self.make_next(now, p, out);
        }
        true
    }

    /// An extent that the collector made from the reserve is open to all once there is room beside the
    /// reserve: a collector that ran out of victims would otherwise hold up flushing for ever (P-32).
    fn share_reserve(&mut self, now: Time, p: usize) {
        if !self.parts[p].open.as_ref().is_some_and(|open| open.reserve) {
            return;
        }
        let room = self.candidates(now, p, false, &[]).len() >= self.parts[p].cfg.columns_min();
        if let (true, Some(open)) = (room, &mut self.parts[p].open) {
            open.reserve = false;
        }
    }

    /// An open extent made from the reserve is the collector's (P-32): the flush leaves it for one of its
    /// own when there are columns for that, and else says that it lacks them.
    fn leave_reserved(&mut self, now: Time, p: usize) {
        if !self.parts[p].open.as_ref().is_some_and(|open| open.reserve) {
            return;
        }
        let least = self.columns_min(p);
        let found = self.candidates(now, p, false, &[]).len();
        let part = &mut self.parts[p];
        if found >= least || part.spare.is_some() {
            part.open = None;
        } else {
            part.no_columns_since.get_or_insert(now);
        }
    }

    pub(super) fn flushing(&self, p: usize) -> usize {
        let batches = &self.parts[p].batches;
        batches.iter().filter(|&&id| self.batches.get(id).is_some_and(|batch| !batch.collect)).count()
    }

    /// Stripes that the next batch may have in the open extent, and data blocks of each.
    pub(super) fn open_room(&self, p: usize, collector: bool) -> Option<(usize, usize)> {
        let part = &self.parts[p];
        let open = part.open.as_ref()?;
        if open.full() || open.leave || (open.reserve && !collector) {
            return None;
        }
        let geometry = &open.desc.geometry;
        let most = u32::from(self.cfg.flush.stripes).clamp(1, limits::WRITE_UNITS_MAX as u32);
        let stripes = (geometry.stripes - open.next).min(most);
        Some((stripes as usize, geometry.stripe_blocks() as usize))
    }

    /// `None`: not now. `Some(forced)`: partial stripes too, if forced.
    fn flush_due(&mut self, now: Time, p: usize) -> Option<bool> {
        let fill = self.fill();
        let cfg = self.cfg.flush;
        let part = &mut self.parts[p];
        let short = part.learner_short() || part.peers_short();
        let mut aged = false;
        if !cfg.age.is_zero() {
            aged = now.since(part.age.since) >= cfg.age
                && part.age.upto <= part.committed
                && part.age.upto > Op(0);
        }
        let forced = !part.flushes.is_empty() || fill >= cfg.fill_high || short || aged;
        (forced || fill >= cfg.fill_low).then_some(forced)
    }

    /// Live, committed blocks of the oldest segments that no batch has yet, by block number.
    fn gather(&self, now: Time, p: usize, room: usize, forced: bool) -> Vec<Item> {
        let part = &self.parts[p];
        let mut items: Vec<Item> = Vec::with_capacity(room);
        // What the index says of a block is looked at a few blocks after memory was asked for it.
        let mut ahead: VecDeque<(Lba, Op, LogAddr)> = VecDeque::with_capacity(AHEAD + 1);
        self.log.oldest_live(&mut |run| {
            if run.partition != part.cfg.partition {
                return true;
            }
            for at in 0..u64::from(run.blocks) {
                let (lba, addr) = (Lba(run.lba.0 + at), LogAddr(run.addr.0 + at));
                if part.gathering.contains(&addr.0) {
                    continue;
                }
                part.index.bring_near(lba);
                ahead.push_back((lba, run.op, addr));
                if ahead.len() > AHEAD && items.len() < room {
                    items.extend(ahead.pop_front().and_then(|block| part.gathered(now, block)));
                }
            }
            items.len() < room
        });
        while items.len() < room
            && let Some(block) = ahead.pop_front()
        {
            items.extend(part.gathered(now, block));
        }
        if !forced && items.len() < room {
            items.clear();
        }
        items.sort_unstable_by_key(|item| item.lba);
        items
    }

    fn has_log_blocks(&self, p: usize) -> bool {
        self.oldest_in_log(p, Op(u64::MAX), true)
    }

    /// Whether a live block of an operation up to `upto` lies in the log only; blocks that nobody can read
    /// count if `unreadable`.
    fn oldest_in_log(&self, p: usize, upto: Op, unreadable: bool) -> bool {
        let part = &self.parts[p];
        let mut found = false;
        self.log.oldest_live(&mut |run| {
            if run.partition == part.cfg.partition && run.op <= upto {
                found = (0..u64::from(run.blocks)).any(|at| {
                    let mapping = part.index.get(Lba(run.lba.0 + at));
                    let addr = run.addr.plus(at);
                    let live = mapping.op == run.op && mapping.loc == Loc::Log(addr);
                    live && (unreadable || !part.unreadable.contains_key(&addr.0))
                });
            }
            !found
        });
        found
    }

    /// Answers whoever waits for a flush that is done, or that cannot be done.
    pub(super) fn answer_flushes(&mut self, now: Time, p: usize, out: &mut Out) {
        let patience = self.cfg.retry.column_timeout;
        let mut at = 0;
        while at < self.parts[p].flushes.len() {
            let wait = self.parts[p].flushes[at];
            let full = self.parts[p].no_columns_since.is_some_and(|since| now.since(since) > patience);
            let result = if !self.oldest_in_log(p, wait.upto, true) {
                Ok(ClientOk::Done)
            } else if !self.oldest_in_log(p, wait.upto, false) {
                Err(ClientError::Unreadable)
            } else if full && now.since(wait.since) > patience {
                Err(ClientError::NoSpace)
            } else {
                at += 1;
                continue;
            };
            self.parts[p].flushes.swap_remove(at);
            out.done.push(ClientDone { tag: wait.tag, result });
        }
    }

    /// Keeps the age mark: what was committed at the mark is flushed once the mark is old enough.
    pub(super) fn mark_age(&mut self, now: Time, p: usize) {
        if self.cfg.flush.age.is_zero() {
            return;
        }
        let (mark, seen) = (self.parts[p].age.upto, self.parts[p].age.since);
        let due = now.since(seen) >= self.cfg.flush.age;
        if mark == Op(0) || (due && !self.oldest_in_log(p, mark, false)) {
            let part = &mut self.parts[p];
            part.age.upto = part.committed;
            part.age.since = now;
        }
        let at = self.parts[p].age.since + self.cfg.flush.age;
        if at > now {
            self.arm(at);
        }
    }

    /// The rack has had no room for long and the log is full: waiting writes learn it (P-32).
    pub(super) fn refuse_when_full(&mut self, now: Time, p: usize, out: &mut Out) {
        let patience = self.cfg.retry.column_timeout * 2;
        if self.parts[p].no_columns_since.is_none() || self.flush_due(now, p) != Some(true) {
            // Writes that wait for something else wait for it, whatever was short some day.
            return;
        }
        let part = &mut self.parts[p];
        let stuck =
            part.making.is_none() && part.no_columns_since.is_some_and(|since| now.since(since) > patience);
        if !stuck || part.waiting.is_empty() || !part.batches.is_empty() {
            return;
        }
        let before = out.done.len();
        part.waiting.retain(|(cmd, _)| {
            let write = matches!(cmd.verb, ClientVerb::Write { .. });
            if write {
                out.done.push(ClientDone { tag: cmd.tag, result: Err(ClientError::NoSpace) });
            }
            !write
        });
        part.stats.counters.errors += (out.done.len() - before) as u64;
    }
}

impl super::part::Part {
    /// A block of the log as an item of a batch, if it is live, committed, and not known to be unreadable.
    fn gathered(&self, now: Time, (lba, op, addr): (Lba, Op, LogAddr)) -> Option<Item> {
        let mapping = self.index.get(lba);
        let live = mapping.op == op && mapping.loc == Loc::Log(addr);
        let waits = self.unreadable.get(&addr.0).is_some_and(|(_, again)| now < *again);
        (live && !waits).then_some(Item { lba, mapping, from: GatheredFrom::Log, good: true, lost: false })
    }
}
