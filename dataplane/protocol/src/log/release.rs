//! What the log gives back: live data to flush, reads, and segments released from the tail (EF-10, P-08).

use super::append::Log;
use super::index::{Change, Index};
use super::types::*;
use crate::wire::*;
use palisade_dma::Buf;

impl Log {
    /// Applies a committed operation to the index, in op order, and keeps the live counts. `addr` is where
    /// the log holds a write's payload.
    pub fn apply(&mut self, index: &mut Index, op: Op, body: &Body, addr: LogAddr) -> Applied {
        self.change(index, op, Change::from(body), addr)
    }

    /// As [`Log::apply`], for an operation that recovery found.
    pub fn apply_logged(&mut self, index: &mut Index, op: Op, body: &LoggedBody, addr: LogAddr) -> Applied {
        self.change(index, op, Change::from(body), addr)
    }

    fn change(&mut self, index: &mut Index, op: Op, change: Change<'_>, addr: LogAddr) -> Applied {
        let Self { ring, config, .. } = self;
        index.apply(op, change, addr, &config.faults, &mut |addr| ring.dead(addr))
    }

    /// A copy is durable: the index points to it if it still holds that operation in the log.
    pub fn settle_copy(&mut self, index: &mut Index, copy: &CopyForward, placed: Placed) -> Applied {
        let ring = &mut self.ring;
        let mut applied = Applied::default();
        for (i, crc) in (0u64..).zip(&copy.crcs) {
            let (lba, addr) = (Lba(copy.lba.0 + i), placed.addr.plus(i));
            let moved = index.relocate(copy.op, lba, *crc, addr, false, &mut |addr| ring.dead(addr));
            applied.changed += u32::from(moved);
            applied.stale += u32::from(!moved);
        }
        applied
    }

    /// Payload that no index will ever refer to (a voided operation).
    pub fn dead(&mut self, addr: LogAddr, blocks: u32) {
        for i in 0..u64::from(blocks) {
            self.ring.dead(addr.plus(i));
        }
    }

    /// All log blocks of an index are dead (its partition is gone).
    pub fn forget(&mut self, index: &Index) {
        index.for_each_logged(|_, _, addr| self.ring.dead(addr));
    }

    /// The bytes of `blocks` blocks at `addr`, if they are hot.
    pub fn cached(&self, addr: LogAddr, blocks: u32) -> Option<Buf> {
        self.ring.cached(addr, blocks)
    }

    /// Gives up the oldest `bytes` of the hot payload: buffers are scarce, and the device has them too.
    pub fn shed(&mut self, bytes: usize) {
        self.ring.shed(bytes);
    }

    /// Keeps the segment of `addr` until the pin is given back: a read of it is under way.
    ///
    /// # Panics
    /// When no segment in use holds the address.
    pub fn pin(&mut self, addr: LogAddr) -> Pin {
        Pin(self.ring.pin(addr))
    }

    /// Whether a segment in use holds the address: only such may be pinned.
    pub fn holds(&self, addr: LogAddr) -> bool {
        self.ring.holds(addr)
    }

    /// Gives a pin back.
    pub fn unpin(&mut self, pin: Pin) {
        self.ring.unpin(pin.0);
    }

    /// Live runs of the oldest segments, oldest first, until `visit` says `false`. Blocks of operations
    /// that are not committed yet count as live too.
    pub fn oldest_live(&self, visit: &mut dyn FnMut(LiveRun) -> bool) {
        for seq in self.ring.tail..=self.ring.head {
            if !self.ring.live_of(seq, visit) {
                return;
            }
        }
    }

    /// Live runs of the oldest segment alone: what copy-forward has to move (P-31).
    pub fn tail_live(&self, into: &mut Vec<LiveRun>) {
        if self.ring.tail < self.ring.head {
            self.ring.live_of(self.ring.tail, &mut |run| {
                into.push(run);
                true
            });
        }
    }

    /// The newest record of the oldest segment, once another one is being written: a pending operation that is
    /// no newer stands in it.
    pub fn tail_last(&self) -> Option<Lsn> {
        (self.ring.tail < self.ring.head).then(|| self.ring.peek(self.ring.tail).last)
    }

    /// Every pending operation of the partition has a durable place behind the oldest segment
    /// ([`Log::push_again`]), which so waits for none of them. `last` is the partition's newest operation: the
    /// segment goes on waiting for an adoption that voids newer ones.
    pub fn unpin_tail(&mut self, partition: PartitionId, committed: Op, last: Op) {
        self.ring.unpin_tail(partition, committed, last);
    }

    /// Releases segments from the tail while nothing in them is live, pinned, uncommitted
    /// (`committed`: highest committed op of a partition, `None` if it is unknown or deleted) or needed
    /// metadata that no durable checkpoint covers (P-08). Says how many went.
    pub fn try_release(&mut self, committed: &dyn Fn(PartitionId) -> Option<Op>) -> u32 {
        let mut released = 0;
        self.checkpoint.blocks_release = false;
        while self.ring.tail < self.ring.head && self.tail_releasable(committed) {
            self.ring.release_tail();
            released += 1;
        }
        released
    }

    fn tail_releasable(&mut self, committed: &dyn Fn(PartitionId) -> Option<Op>) -> bool {
        let segment = self.ring.peek(self.ring.tail);
        let faults = &self.config.faults;
        let live = segment.live > 0 && !faults.release_before_repoint();
        if live || segment.pins > 0 || segment.last.max(self.hold) > self.durable() {
            return false;
        }
        let settled = |top: &super::segments::Top| committed(top.partition).is_none_or(|c| top.op <= c);
        if !segment.tops.iter().all(settled) {
            return false;
        }
        let covered = segment.tops.iter().all(|top| self.checkpoint.covers_top(segment.last, top));
        if !covered && !faults.checkpoint_not_covering() {
            self.checkpoint.blocks_release = true;
            return false;
        }
        true
    }
}
