//! Operations that wait for a secondary are moved to the log's head, while another partition goes on (P-31).

use super::*;

/// The partition that shares the log; whatever it writes is committed and dead at once.
pub const OTHER: PartitionId = PartitionId(2);

impl Rig {
    /// Writes of the other partition, until one finds no room.
    pub fn write_other(&mut self, count: u64, blocks: u64) {
        for _ in 0..count {
            let op = Op(self.other.0 + 1);
            let body = write_body(&self.pool, op, Lba(0), blocks);
            let entry = Entry { partition: OTHER, number: Number::ZERO, op, body };
            let Ok(placed) = self.log.push(&entry, self.other) else { return };
            self.other = op;
            self.log.dead(placed.addr, blocks as u32);
        }
    }

    /// Whatever the other partition holds after a restart is dead again.
    pub fn forget_other(&mut self, found: &RecoveredPartition) {
        self.other = found.tail;
        self.log.forget(&found.index);
        for pending in &found.pending {
            if let LoggedBody::Write { crcs, .. } = &pending.body {
                self.log.dead(pending.addr, crcs.len() as u32);
            }
        }
    }

    /// Logs operations that wait in the oldest segment again, each with a chance of `percent`; says how many.
    /// The segment waits for them no more when there are none.
    pub fn move_pending(&mut self, percent: u64) -> usize {
        let (Some(last), durable) = (self.log.tail_last(), self.log.durable()) else { return 0 };
        let old: Vec<(Op, Placed)> =
            self.waiting.iter().copied().filter(|(_, placed)| placed.lsn <= last).collect();
        if old.is_empty() {
            self.log.unpin_tail(P, self.committed, self.op);
        }
        let mut moved = 0;
        for (op, placed) in old {
            let under_way = self.moves.iter().any(|(held, from, _)| (*held, *from) == (op, placed.lsn));
            if placed.lsn > durable || under_way || !self.rng.chance(percent) {
                continue;
            }
            let mut body = self.history[&op].clone();
            if let Body::Write { crcs, data, .. } = &mut body {
                let mut buf = self.pool.alloc(crcs.len() * BLOCK).expect("a buffer");
                let len = buf.len();
                buf.copy_from_slice(&self.mem.bytes[placed.addr.offset() as usize..][..len]);
                *data = buf.freeze();
            }
            let entry = Entry { partition: P, number: Number { epoch: 1, counter: 1 }, op, body };
            let Ok(again) = self.log.push_again(&entry, self.committed) else { break };
            self.moves.push((op, placed.lsn, again));
            moved += 1;
        }
        moved
    }

    /// Moves that are durable count, unless the operation was committed meanwhile.
    pub(super) fn settle_moves(&mut self) {
        let durable = self.log.durable();
        while self.moves.first().is_some_and(|(_, _, placed)| placed.lsn <= durable) {
            let (op, from, placed) = self.moves.remove(0);
            let blocks = match &self.history[&op] {
                Body::Write { crcs, .. } => crcs.len() as u32,
                _ => 0,
            };
            let held = self.waiting.iter_mut().find(|(held, at)| (*held, at.lsn) == (op, from));
            let dead = held.map_or(placed, |(_, at)| std::mem::replace(at, placed));
            self.log.dead(dead.addr, blocks);
        }
    }

    /// Releases what can go; the other partition's operations are all committed.
    pub fn release_both(&mut self) -> u32 {
        let (committed, other) = (self.committed, self.other);
        self.log.try_release(&|id| Some(if id == P { committed } else { other }))
    }

    /// A pending write's bytes lie where recovery says.
    pub(super) fn check_payload(&self, pending: &PendingOp) {
        let LoggedBody::Write { lba, crcs } = &pending.body else { return };
        for i in 0..crcs.len() as u64 {
            let bytes = &self.mem.bytes[pending.addr.plus(i).offset() as usize..][..BLOCK];
            assert_eq!(crc32c(bytes), crcs[i as usize], "block {i} of {:?}", pending.op);
            assert_eq!(bytes, pattern(pending.op, Lba(lba.0 + i)), "bytes of {:?}", pending.op);
        }
    }
}
