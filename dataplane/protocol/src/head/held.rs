//! The operations that a head can still give to its peer: those not committed, and the last committed ones.
//!
//! A restarted head may have lost the end of its log to rot (P-06), and with it operations that the other
//! one has committed meanwhile. So the last of them are remembered without their bytes, which are read back
//! from the log when they are asked for: records stay on the medium long after their blocks died, and a
//! checksum tells whether one has been overwritten. What is read back is bounded, and let go of as soon as
//! the other side has it.

use super::core::Core;
use super::part::{Part, Pending};
use super::read::ReadOwner;
use super::replicate::cost;
use crate::log::{Loc, Mapping, RECENT_OPS};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::Buf;
use palisade_isal::crc32c;
use std::time::Duration;

/// An operation whose bytes lie in the log: its pair, and its blocks.
type Logged = (Op, Number, Vec<(Lba, Mapping)>);

/// Pause before operations that could not be read back are read again.
const RELOAD: Duration = Duration::from_millis(20);
/// Payload of operations that is read back at once, in blocks.
const LOAD_BLOCKS: u64 = 256;

impl Part {
    /// Remembers a committed operation, without its bytes.
    pub(super) fn remember(&mut self, mut pending: Pending) {
        pending.unload();
        let op = pending.entry.op;
        if self.load.upto >= op && self.load.upto != Op(u64::MAX) {
            // It was in memory when those before it were asked for, and may not have gone to a guest yet.
            self.load.upto = Op(op.0 - 1);
        }
        if self.recent.len() >= RECENT_OPS {
            self.recent.pop_front();
        }
        self.recent.push_back(pending);
    }

    /// Whether every operation above `op` can be given, so that a log that ends there can be filled.
    pub(super) fn reaches(&self, op: Op) -> bool {
        // Of a deleted partition either member's checkpoints may have forgotten everything.
        self.deleted || op.0 + self.recent.len() as u64 >= self.committed.0
    }

    /// Operations above `op`, in order.
    pub(super) fn held_after(&self, op: Op) -> impl Iterator<Item = &Pending> {
        let first = self.committed.0 - self.recent.len() as u64;
        let old = (op.0.saturating_sub(first) as usize).min(self.recent.len());
        let new = (op.0.saturating_sub(self.committed.0) as usize).min(self.pending.len());
        self.recent.range(old..).chain(self.pending.range(new..))
    }

    /// The pending operation `op`.
    pub(super) fn pending_at(&mut self, op: Op) -> Option<&mut Pending> {
        let at = op.0.checked_sub(self.committed.0 + 1)?;
        self.pending.get_mut(at as usize)
    }

    /// The operation `op`, committed or not.
    fn held_at(&mut self, op: Op) -> Option<&mut Pending> {
        let first = self.committed.0 + 1 - self.recent.len() as u64;
        if op > self.committed {
            return self.pending_at(op);
        }
        self.recent.get_mut(op.0.checked_sub(first)? as usize)
    }

    /// Lets go of bytes up to `op` that came from a log: its own durable one, or the peer's.
    pub(super) fn unload_upto(&mut self, op: Op) {
        let upto = op.min(self.local);
        let old = self.recent.iter_mut().take_while(|held| held.entry.op <= upto);
        old.for_each(Pending::unload);
        let new = self.pending.iter_mut().take_while(|held| held.entry.op <= upto);
        // A client's own bytes stay until they are committed: the log's copy may rot meanwhile.
        new.filter(|held| held.at == Time::ZERO).for_each(Pending::unload);
    }
}

impl Pending {
    /// Lets go of its bytes, which lie in the log.
    pub(super) fn unload(&mut self) {
        if let Body::Write { data, .. } = &mut self.entry.body {
            *data = Buf::from_static(&[]);
            self.loaded = false;
        }
    }

    /// Where its bytes lie in the own log, if they are not in memory.
    fn logged(&self) -> Option<Logged> {
        let Body::Write { lba, crcs, .. } = &self.entry.body else { return None };
        let op = self.entry.op;
        let block = |(at, &crc): (u64, &u32)| {
            (Lba(lba.0 + at), Mapping { op, loc: Loc::Log(self.addr.plus(at)), crc })
        };
        (!self.loaded).then(|| (op, self.entry.number, (0..).zip(crcs).map(block).collect()))
    }
}

impl Core {
    /// Reads back operations above `after`, a bounded part of them, unless that is under way.
    pub(super) fn load_after(&mut self, now: Time, p: usize, after: Op, out: &mut Out) {
        if self.parts[p].load.upto > after && !self.unloaded_since(p, after) {
            return;
        }
        let part = &mut self.parts[p];
        if now < part.load.at {
            let at = part.load.at;
            return self.arm(at);
        }
        let (mut blocks, mut upto, mut wanted) = (0, after, Vec::new());
        for held in part.held_after(after) {
            blocks += cost(&held.entry.body);
            if blocks > LOAD_BLOCKS && upto > after {
                break;
            }
            upto = held.entry.op;
            wanted.extend(held.logged());
        }
        part.load.upto = upto;
        for (op, number, blocks) in wanted {
            let gone = |(_, mapping): &(Lba, Mapping)| match mapping.loc {
                Loc::Log(addr) => !self.log.holds(addr),
                _ => false,
            };
            if blocks.first().is_some_and(gone) {
                // Its segment was given back, and it will not come again.
                self.loaded(now, p, (op, number), Err(ClientError::Device), out);
                self.parts[p].load.upto = Op(u64::MAX);
                return;
            }
            self.read_blocks(now, p, ReadOwner::Load(p, op, number), &blocks, out);
        }
    }

    /// Whether the operation behind `after` was in memory once, and is neither there nor on its way any more: whoever
    /// was sent it asks for it again, because its log was cut since.
    fn unloaded_since(&self, p: usize, after: Op) -> bool {
        let part = &self.parts[p];
        let next = part.held_after(after).next().filter(|held| !held.loaded).map(|held| held.entry.op);
        let loads = |op: Op| {
            let mut owners = self.reads.iter().map(|(_, read)| read.owner);
            owners.any(|owner| matches!(owner, ReadOwner::Load(of, at, _) if (of, at) == (p, op)))
        };
        part.load.upto != Op(u64::MAX) && next.is_some_and(|op| !loads(op))
    }

    /// Bytes of the operation `op` of the pair `number` were read back, or cannot be had. They may come late:
    /// when that operation was cut off and another one is `op` by now, or when they were read another time.
    pub(super) fn loaded(
        &mut self,
        now: Time,
        p: usize,
        (op, number): (Op, Number),
        result: Result<Buf, ClientError>,
        out: &mut Out,
    ) {
        self.busy = true;
        let part = &mut self.parts[p];
        let Some(held) = part.held_at(op).filter(|held| !held.loaded && held.entry.number == number) else {
            return;
        };
        let Body::Write { data, crcs, .. } = &mut held.entry.body else { return };
        // An old place in the log may hold something else by now.
        let sound = |bytes: &Buf| {
            crcs.len() * BLOCK == bytes.len()
                && bytes.chunks_exact(BLOCK).zip(crcs.iter()).all(|(block, &crc)| crc32c(block) == crc)
        };
        if let Some(bytes) = result.ok().filter(sound) {
            *data = bytes;
            held.loaded = true;
            return;
        }
        part.load.upto = Op(0);
        if op <= part.committed || part.copy.learner.is_some() {
            // It is wanted as long as another head lacks it: whoever asks at once again asks without end.
            part.load.at = now + RELOAD;
        }
        if part.owed.is_some() {
            self.refuse_probe(p, out);
        } else if op <= part.committed {
            for at in 0..self.parts[p].peers.len() {
                let peer = &self.parts[p].peers[at];
                // Who has not told its end yet may well hold it.
                let (announced, durable) = (peer.announced, peer.durable);
                if announced && durable < op {
                    self.peer_needs_copy(p, at, durable, out);
                }
            }
            self.learner_lost(now, p, op);
        } else if self.parts[p].copy.learner.is_some() {
            self.learner_lost(now, p, op);
        } else {
            self.end_before(now, p, op, out);
        }
    }
}
