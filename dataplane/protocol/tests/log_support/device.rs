//! A device in memory with a volatile cache.
//!
//! Its fault model: commands complete in any order; a crash keeps any subset of the blocks of writes that
//! were not durable (completed without FUA or flush, or still under way), so that records tear.

use super::*;

/// The device.
#[derive(Debug)]
pub struct Mem {
    pub bytes: Vec<u8>,
    /// Old contents of blocks whose newest contents a crash may lose.
    volatile: BTreeMap<u64, Vec<u8>>,
    pub queue: Vec<BlockCmd>,
    pub writes: u64,
    /// Fails writes from this one on.
    pub fail_writes_from: Option<u64>,
    /// Blocks that cannot be read until they are written again.
    pub unreadable: BTreeSet<u64>,
    /// Blocks that cannot be written.
    pub unwritable: BTreeSet<u64>,
}

impl Mem {
    pub fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len],
            volatile: BTreeMap::new(),
            queue: Vec::new(),
            writes: 0,
            fail_writes_from: None,
            unreadable: BTreeSet::new(),
            unwritable: BTreeSet::new(),
        }
    }

    pub fn submit(&mut self, out: &mut Out) {
        self.queue.append(&mut out.block);
    }

    fn write_block(&mut self, at: u64, block: &[u8], durable: bool) {
        let from = at as usize * BLOCK;
        if durable {
            self.volatile.remove(&at);
        } else {
            self.volatile.entry(at).or_insert_with(|| self.bytes[from..from + BLOCK].to_vec());
        }
        self.bytes[from..from + BLOCK].copy_from_slice(block);
    }

    /// Finishes command `i` of the queue.
    pub fn finish(&mut self, i: usize) -> BlockDone {
        let cmd = self.queue.remove(i);
        let result = match cmd.op {
            BlockOp::Read { offset, mut buf } => {
                let from = offset as usize;
                let len = buf.len();
                let blocks = offset / BLOCK as u64..(offset + len as u64) / BLOCK as u64;
                if self.unreadable.range(blocks).next().is_some() {
                    return BlockDone { key: cmd.key, result: Err(BlockError::Io) };
                }
                buf.copy_from_slice(&self.bytes[from..from + len]);
                Ok(BlockOk::Read(buf))
            }
            BlockOp::Flush => {
                self.volatile.clear();
                Ok(BlockOk::Done)
            }
            BlockOp::Write { offset, bufs, fua } => {
                self.writes += 1;
                if self.fail_writes_from.is_some_and(|n| self.writes >= n) {
                    return BlockDone { key: cmd.key, result: Err(BlockError::Io) };
                }
                let mut at = offset / BLOCK as u64;
                let blocks: u64 = bufs.iter().map(|buf| (buf.len() / BLOCK) as u64).sum();
                if self.unwritable.range(at..at + blocks).next().is_some() {
                    return BlockDone { key: cmd.key, result: Err(BlockError::Io) };
                }
                self.unreadable.retain(|block| !(at..at + blocks).contains(block));
                for buf in &bufs {
                    assert_eq!(buf.len() % BLOCK, 0);
                    for block in buf.chunks_exact(BLOCK) {
                        self.write_block(at, block, fua);
                        at += 1;
                    }
                }
                Ok(BlockOk::Done)
            }
        };
        BlockDone { key: cmd.key, result }
    }

    /// The process dies: what it had submitted runs on, up to the device's cache; nobody hears of it.
    pub fn die(&mut self) {
        for cmd in std::mem::take(&mut self.queue) {
            let BlockOp::Write { offset, bufs, .. } = cmd.op else { continue };
            let blocks = bufs.iter().flat_map(|buf| buf.chunks_exact(BLOCK));
            for (at, block) in (offset / BLOCK as u64..).zip(blocks) {
                self.write_block(at, block, false);
            }
        }
    }

    /// Power goes: any subset of what was not durable reaches the medium.
    pub fn crash(&mut self, rng: &mut Rng) {
        let keep = rng.below(101);
        for (at, old) in std::mem::take(&mut self.volatile) {
            if !rng.chance(keep) {
                self.bytes[at as usize * BLOCK..][..BLOCK].copy_from_slice(&old);
            }
        }
        for cmd in std::mem::take(&mut self.queue) {
            let BlockOp::Write { offset, bufs, .. } = cmd.op else { continue };
            let keep = rng.below(101);
            let mut at = offset as usize;
            for buf in &bufs {
                for block in buf.chunks_exact(BLOCK) {
                    if rng.chance(keep) {
                        self.bytes[at..at + BLOCK].copy_from_slice(block);
                    }
                    at += BLOCK;
                }
            }
        }
    }
}
