//! Requests under way: what each owns, how much of it was sent, and how it stands.

use crate::block::{BlockCompletion, BlockFault, BlockOk};
use crate::clock::Nanos;
use palisade_dma::{Buf, BufMut};
use smallvec::SmallVec;

/// What is asked of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Read,
    Write { fua: bool },
    Flush,
    WriteZeroes,
    Deallocate,
}

/// A request.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) key: u64,
    pub(super) verb: Verb,
    /// Byte offset on the device, and length. For a flush: the writes that it covers, and one.
    pub(super) offset: u64,
    pub(super) total: u64,
    /// Bytes for which commands were made.
    pub(super) sent: u64,
    /// Commands that have not ended.
    pub(super) parts: u32,
    /// It waits for places of commands.
    pub(super) queued: bool,
    /// It was sent once more after a reset; the next reset ends it.
    pub(super) resent: bool,
    /// A command of it took too long: a reset ends it.
    pub(super) expired: bool,
    /// The first thing that went wrong.
    pub(super) fault: Option<BlockFault>,
    /// The place is in use.
    busy: bool,
    /// What it owns until it ends, because the device may read or write it at any time: the buffer of a read,
    /// those of a write. Beside one another and not in an enum, which would be moved as a whole.
    pub(super) read: Option<BufMut>,
    pub(super) write: SmallVec<[Buf; 4]>,
}

impl Op {
    fn free() -> Self {
        Self {
            key: 0,
            verb: Verb::Flush,
            offset: 0,
            total: 0,
            sent: 0,
            parts: 0,
            queued: false,
            resent: false,
            expired: false,
            fault: None,
            busy: false,
            read: None,
            write: SmallVec::new(),
        }
    }

    /// Becomes a new request that is not sent yet, without buffers.
    #[inline]
    pub(super) fn begin(&mut self, key: u64, verb: Verb, offset: u64, total: u64) {
        (self.key, self.verb, self.offset, self.total) = (key, verb, offset, total);
        (self.sent, self.parts, self.fault) = (0, 0, None);
        (self.queued, self.resent, self.expired) = (false, false, false);
        self.busy = true;
    }

    /// Becomes a new request for all of which one command was made.
    #[inline]
    pub(super) fn begin_sent(&mut self, key: u64, verb: Verb, offset: u64, total: u64) {
        self.begin(key, verb, offset, total);
        (self.sent, self.parts) = (total, 1);
    }

    /// The bytes from `from` on, part by part; some parts may be empty.
    pub(super) fn bytes(&self, from: u64) -> impl Iterator<Item = &[u8]> + Clone {
        let mut skip = from as usize;
        let one: &[u8] = self.read.as_deref().map_or(&[], |buf| &buf[skip..]);
        let many = self.write.iter().map(move |buf| {
            let cut = skip.min(buf.len());
            skip -= cut;
            &buf[cut..]
        });
        std::iter::once(one).chain(many)
    }

    /// The bytes from `from` on, when they are one part.
    #[inline]
    pub(super) fn only_part(&self, from: u64) -> Option<&[u8]> {
        match (&self.read, &self.write[..]) {
            (Some(buf), _) => buf.get(from as usize..),
            (None, [buf]) => buf.get(from as usize..),
            _ => None,
        }
    }

    /// Whether all of it was sent and has ended, or it failed and nothing of it is under way.
    pub(super) fn is_over(&self) -> bool {
        self.parts == 0 && !self.queued && (self.fault.is_some() || self.is_sent())
    }

    /// Whether commands were made for all of it.
    pub(super) fn is_sent(&self) -> bool {
        self.sent >= self.total
    }
}

/// One command of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Whose.
    pub(super) op: u32,
    /// Bytes of the request before it.
    pub(super) from: u64,
    /// Bytes of it; 1 for a flush.
    pub(super) len: u64,
    /// Times that it was sent again.
    pub(super) tries: u8,
    /// When it was first seen under way; zero until then, because sending knows no time.
    pub(super) since: Nanos,
    /// Its abort was asked for.
    pub(super) aborting: bool,
}

/// All requests.
#[derive(Debug)]
pub(super) struct Ops {
    list: Vec<Op>,
    free: Vec<u32>,
}

impl Ops {
    /// Room for `count` requests; more of them take memory once.
    pub(super) fn new(count: usize) -> Self {
        let mut free = Vec::with_capacity(count);
        free.extend((0..count as u32).rev());
        Self { list: std::iter::repeat_with(Op::free).take(count).collect(), free }
    }

    /// Requests under way.
    pub(super) fn len(&self) -> usize {
        self.list.len() - self.free.len()
    }

    /// A free place; the request in it is one that has ended.
    #[inline(always)]
    pub(super) fn claim(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| self.grow())
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        self.list.push(Op::free());
        (self.list.len() - 1) as u32
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> &Op {
        &self.list[at as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> &mut Op {
        &mut self.list[at as usize]
    }

    /// Takes a request out with its answer.
    #[inline]
    pub(super) fn finish(&mut self, at: u32) -> BlockCompletion {
        let op = &mut self.list[at as usize];
        self.free.push(at);
        let key = op.key;
        op.busy = false;
        op.write.clear();
        let result = match (op.fault, op.read.take()) {
            (Some(fault), _) => Err(fault),
            (None, Some(buf)) => Ok(BlockOk::Read(buf)),
            (None, None) => Ok(BlockOk::Done),
        };
        BlockCompletion { key, result }
    }

    /// Those under way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = u32> + '_ {
        let used = self.list.iter().enumerate().filter(|(_, op)| op.busy);
        used.map(|(at, _)| at as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Pool, PoolConfig};
    use smallvec::smallvec;

    #[test]
    fn the_bytes_of_a_request_are_found_from_any_place() {
        let pool = Pool::new(PoolConfig::small()).expect("pool");
        let buf = |len: usize, fill: u8| {
            let mut buf = pool.alloc(len).expect("slot");
            buf.fill(fill);
            buf.freeze()
        };
        let bufs = smallvec![buf(512, 1), buf(1024, 2), buf(512, 3)];
        let mut op = Op::free();
        op.begin(7, Verb::Write { fua: false }, 0, 2048);
        op.write = bufs;
        for from in 0..=2048u64 {
            let bytes: Vec<u8> = op.bytes(from).flatten().copied().collect();
            assert_eq!(bytes.len() as u64, 2048 - from);
            assert_eq!(bytes.iter().filter(|&&byte| byte == 3).count(), bytes.len().min(512));
        }
        assert!(op.only_part(0).is_none());
        op.write.clear();
        op.read = pool.alloc(512);
        assert_eq!(op.bytes(100).map(<[u8]>::len).sum::<usize>(), 412);
        assert_eq!(op.only_part(100).map(<[u8]>::len), Some(412));
    }

    #[test]
    fn places_are_used_again_and_grow_where_they_must() {
        let mut ops = Ops::new(1);
        let begin = |ops: &mut Ops, key| {
            let at = ops.claim();
            ops.get_mut(at).begin(key, Verb::Flush, 0, 1);
            at
        };
        let (a, b) = (begin(&mut ops, 1), begin(&mut ops, 2));
        assert_eq!((ops.len(), ops.under_way().collect::<Vec<_>>()), (2, vec![a, b]));
        ops.get_mut(a).fault = Some(BlockFault::Io);
        let done = ops.finish(a);
        assert!(matches!((done.key, done.result), (1, Err(BlockFault::Io))));
        assert!(matches!(ops.finish(b).result, Ok(BlockOk::Done)));
        assert_eq!((ops.len(), begin(&mut ops, 3)), (0, b));
    }
}
