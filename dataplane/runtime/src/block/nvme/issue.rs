//! Requests become commands: checks, splitting, and the copy of what the device cannot reach.

use super::bringup::Stage;
use super::command::{self, Command, DataPointer, io};
use super::driver::NvmeDriver;
use super::layout::LIST_BYTES;
use super::ops::{Op, Piece, Verb};
use super::pointer::{Carried, List, PointerRules};
use crate::block::{BlockCompletion, BlockFault};
use crate::clock::Nanos;
use palisade_dma::Buf;

/// Most bytes that one range of Dataset Management names here; its length field has 32 bits of blocks.
const DEALLOCATE_MAX: u64 = 1 << 30;

/// How far sending got.
#[derive(PartialEq, Eq)]
enum Sent {
    /// Commands were made for all of it, or it failed.
    All,
    /// No place for a command, or no memory for a copy.
    Waits,
}

/// Why a command could not be made.
enum Unmade {
    /// The device was not given the memory.
    Unreachable,
    /// The bytes are of no use to it.
    Fault(BlockFault),
}

impl NvmeDriver {
    /// Takes a request and says where; its buffers are put there, and then it is [`NvmeDriver::enqueue`]d. What
    /// cannot be right is answered at once.
    pub(super) fn accept(&mut self, key: u64, verb: Verb, offset: u64, bytes: u64) -> Option<u32> {
        let refused = if matches!(self.stage, Stage::Gone) {
            Some(Err(BlockFault::Gone))
        } else if !self.is_sound(verb, offset, bytes) {
            Some(Err(BlockFault::Range))
        } else if verb == Verb::Flush && self.cache_in_doubt {
            // Every flush that is asked for before its owner has heard of one that failed covers what was lost.
            self.doubt_told = true;
            Some(Err(BlockFault::Io))
        } else if verb == Verb::Flush && !self.info.volatile_cache {
            // Base 7.1: without a volatile write cache every completed write is durable already.
            Some(Ok(crate::block::BlockOk::Done))
        } else {
            None
        };
        if let Some(result) = refused {
            self.done.push(BlockCompletion { key, result });
            return None;
        }
        let at = self.ops.claim();
        self.ops.get_mut(at).begin(key, verb, offset, bytes);
        Some(at)
    }

    /// The short way, of nearly every request: one buffer, one command, nothing that waits. The command is made
    /// before the request is, from what is at hand; its buffer is put into the place that this gives before
    /// anything else, so that the device never has memory that nobody holds (the doorbell is for later).
    /// `None` for the long way, which also answers what cannot be right.
    #[inline(always)]
    pub(super) fn send_whole(&mut self, key: u64, verb: Verb, offset: u64, part: &[u8]) -> Option<u32> {
        let bytes = part.len() as u64;
        let is_plain = bytes <= self.rules.transfer_max && self.is_sound(verb, offset, bytes);
        if !is_plain || !self.is_first() {
            return None;
        }
        let list = self.list(self.cids.next_place()?);
        let carried = self.rules.build_one(part, &self.map, &list)?;
        let command = self.transfer(verb, offset, carried);
        let at = self.ops.claim();
        self.ops.get_mut(at).begin_sent(key, verb, offset, bytes);
        self.push(
            command,
            Piece { op: at, from: 0, len: bytes, tries: 0, since: Nanos::ZERO, aborting: false },
        );
        Some(at)
    }

    /// Whether a request that comes now is the first to be sent.
    #[inline]
    fn is_first(&self) -> bool {
        self.waiting.is_empty() && self.again.is_empty() && self.is_ready()
    }

    /// Makes commands of a request at once, when nothing waits and there are places; the doorbell is for later.
    pub(super) fn enqueue(&mut self, at: u32) {
        if self.is_first() && self.send(at) == Sent::All {
            self.sent(at);
        } else {
            self.ops.get_mut(at).queued = true;
            self.waiting.push_back(at);
        }
    }

    /// All commands of a request were made.
    #[inline]
    fn sent(&mut self, at: u32) {
        let op = self.ops.get_mut(at);
        op.queued = false;
        if op.parts == 0 {
            self.settle(at); // it failed before it had any
        }
    }

    fn is_sound(&self, verb: Verb, offset: u64, bytes: u64) -> bool {
        let inside = u64::from(self.info.block) - 1;
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.info.bytes);
        verb == Verb::Flush || bytes > 0 && (offset | bytes) & inside == 0 && fits
    }

    /// Bytes of a write; 1, which is refused, unless each part is blocks, so that it may be cut between any two.
    #[inline]
    pub(super) fn length(&self, bufs: &[Buf]) -> u64 {
        let (sum, bits) = bufs.iter().fold((0, 0), |(sum, bits), buf| (sum + buf.len(), bits | buf.len()));
        let are_blocks = bits & (self.info.block as usize - 1) == 0;
        if are_blocks { sum as u64 } else { 1 }
    }

    /// Makes commands of what waits, as long as there are places.
    #[inline]
    pub(super) fn pump(&mut self) {
        while let Some(&piece) = self.again.front() {
            if self.cids.is_full() {
                return;
            }
            self.again.pop_front();
            self.resend(piece);
        }
        while let Some(&at) = self.waiting.front() {
            if self.send(at) == Sent::Waits {
                return;
            }
            self.waiting.pop_front();
            self.sent(at);
        }
    }

    fn send(&mut self, at: u32) -> Sent {
        loop {
            let op = self.ops.get(at);
            if op.fault.is_some() || op.is_sent() {
                return Sent::All;
            }
            let Some(place) = self.cids.next_place() else { return Sent::Waits };
            let from = op.sent;
            match self.make(op, from, place, u64::MAX) {
                Ok((command, len)) => {
                    let op = self.ops.get_mut(at);
                    (op.sent, op.parts) = (from + len, op.parts + 1);
                    let is_sent = op.is_sent();
                    let piece = Piece { op: at, from, len, tries: 0, since: Nanos::ZERO, aborting: false };
                    self.push(command, piece);
                    if is_sent {
                        return Sent::All;
                    }
                }
                Err(Unmade::Fault(fault)) => self.ops.get_mut(at).fault = Some(fault),
                Err(Unmade::Unreachable) => {
                    if !self.copy_near(at) {
                        return Sent::Waits;
                    }
                }
            }
        }
    }

    /// Sends a piece once more; its request counts it already.
    #[cold]
    fn resend(&mut self, piece: Piece) {
        let op = self.ops.get(piece.op);
        let Some(place) = self.cids.next_place() else { return self.again.push_front(piece) };
        match self.make(op, piece.from, place, piece.len) {
            Ok((command, len)) if len == piece.len => self.push(command, piece),
            // What was made once can be made again; if that is wrong, one request fails and not the process.
            _ => {
                let op = self.ops.get_mut(piece.op);
                op.fault = op.fault.or(Some(BlockFault::Io));
                op.parts -= 1;
                self.settle(piece.op);
            }
        }
    }

    #[inline(always)]
    fn push(&mut self, command: Command, piece: Piece) {
        let cid = self.cids.insert(piece).expect("callers look for a place first");
        self.io.push(command, cid);
        self.stats.commands += 1;
    }

    /// The command for the bytes of a request from `from` on, `most` of them, and how many they are. `place` says
    /// whose list may be used.
    fn make(&self, op: &Op, from: u64, place: usize, most: u64) -> Result<(Command, u64), Unmade> {
        let (nsid, shift) = (self.namespace.nsid, self.namespace.block_shift);
        let lba = (op.offset + from) >> shift;
        let left = most.min(op.total - from);
        let rules = PointerRules { transfer_max: left.min(self.rules.transfer_max), ..self.rules };
        let list = self.list(place);
        let none = DataPointer::default();
        match op.verb {
            Verb::Flush => Ok((command::flush(nsid), 1)),
            Verb::Read | Verb::Write { .. } => {
                let carried = match op.only_part(from) {
                    Some(part) => rules.build_one(part, &self.map, &list),
                    None => rules.build(op.bytes(from), &self.map, &list),
                };
                let carried = carried.ok_or(Unmade::Unreachable)?;
                if carried.bytes >> shift == 0 {
                    return Err(Unmade::Fault(BlockFault::Range));
                }
                Ok((self.transfer(op.verb, op.offset + from, carried), carried.bytes))
            }
            Verb::WriteZeroes => {
                let len = rules.transfer_max;
                let blocks = (len >> shift) as u32;
                Ok((command::transfer(io::WRITE_ZEROES, nsid, lba, blocks, none, 0), len))
            }
            Verb::Deallocate => {
                let len = left.min(DEALLOCATE_MAX);
                for (i, word) in command::dsm_range(lba, (len >> shift) as u32).into_iter().enumerate() {
                    self.memory.store(list.at + i * 8, word);
                }
                let data = DataPointer { first: list.iova, ..none };
                Ok((command::deallocate(nsid, data), len))
            }
        }
    }

    /// The list of a place.
    #[inline]
    fn list(&self, place: usize) -> List<'_> {
        let at = self.layout.lists + place * LIST_BYTES;
        List { memory: &self.memory, at, iova: self.base + at as u64 }
    }

    /// The command of a read or write from byte `offset` of the device on.
    #[inline(always)] // its answer is a whole entry, which would go through memory twice
    fn transfer(&self, verb: Verb, offset: u64, carried: Carried) -> Command {
        let (opcode, flags) = match verb {
            Verb::Write { fua: true } => (io::WRITE, command::FUA),
            Verb::Write { fua: false } => (io::WRITE, 0),
            _ => (io::READ, 0),
        };
        let (nsid, shift) = (self.namespace.nsid, self.namespace.block_shift);
        let blocks = (carried.bytes >> shift) as u32;
        command::transfer(opcode, nsid, offset >> shift, blocks, carried.pointer, flags)
    }

    /// Copies those parts of a write that lie outside the pool (constant zeroes, say) into it, because the
    /// device was given nothing else. False when the pool has no room now.
    fn copy_near(&mut self, at: u32) -> bool {
        let (map, pool, stats) = (&self.map, &self.pool, &mut self.stats);
        let op = self.ops.get_mut(at);
        if op.read.is_some() {
            op.fault = Some(BlockFault::Range); // into memory of another pool
            return true;
        }
        let is_far = |buf: &Buf| map.find(buf).is_none_or(|iova| iova % 4 != 0);
        for buf in op.write.iter_mut().filter(|buf| !buf.is_empty() && is_far(buf)) {
            let Some(mut near) = pool.alloc(buf.len()) else {
                if buf.len() > palisade_dma::SLOT_CLASSES[palisade_dma::SLOT_CLASSES.len() - 1] {
                    op.fault = Some(BlockFault::Range); // no slot is that large, ever
                    return true;
                }
                return false;
            };
            near.copy_from_slice(buf);
            stats.copied += buf.len() as u64;
            *buf = near.freeze();
        }
        true
    }
}
