//! Disks in memory, which err and rot as told.

use super::*;

#[derive(Default)]
pub struct Disk {
    pub bytes: Vec<u8>,
    pub writes: u64,
    pub dead: bool,
    /// It was pulled out.
    pub gone: bool,
    /// Flushes fail but for those of a recovery: no checkpoint ever ends.
    pub no_flush: bool,
    /// The file system below has no room, and how many writes it refused.
    pub full: bool,
    pub refused: u64,
}

impl Disk {
    pub(super) fn apply(&mut self, cmd: BlockCmd) -> Result<BlockOk, BlockError> {
        if self.gone {
            return Err(BlockError::Gone);
        }
        if self.dead {
            return Err(BlockError::Io);
        }
        match cmd.op {
            BlockOp::Read { offset, mut buf } => {
                let (from, len) = (offset as usize, buf.len());
                buf.copy_from_slice(self.bytes.get(from..from + len).ok_or(BlockError::Range)?);
                Ok(BlockOk::Read(buf))
            }
            BlockOp::Write { .. } if self.full => {
                self.refused += 1;
                Err(BlockError::NoSpace)
            }
            BlockOp::Write { offset, bufs, .. } => {
                self.writes += 1;
                let mut at = offset as usize;
                for buf in &bufs {
                    self.bytes.get_mut(at..at + buf.len()).ok_or(BlockError::Range)?.copy_from_slice(buf);
                    at += buf.len();
                }
                Ok(BlockOk::Done)
            }
            BlockOp::Flush if self.no_flush && !recovers(cmd.key) => Err(BlockError::Io),
            BlockOp::Flush => Ok(BlockOk::Done),
        }
    }
}

/// Whether a key is of a log's recovery.
fn recovers(key: Key) -> bool {
    key.0 >> 52 & 0xf == 2
}

impl Rack {
    /// Flips a bit in every `nth` block of a node's disk that holds a client's current data.
    pub fn rot(&mut self, at: usize, nth: usize) -> usize {
        let known: BTreeSet<[u8; 8]> = self
            .model
            .iter()
            .enumerate()
            .filter(|(_, values)| values[0] != 0)
            .map(|(at, values)| sector(values[0], at)[..8].try_into().expect("eight bytes"))
            .collect();
        let (mut found, mut hurt) = (0usize, 0);
        for block in self.nodes[at].disk.bytes.chunks_exact_mut(BLOCK) {
            if known.contains(&block[..8]) {
                if found.is_multiple_of(nth) {
                    block[77] ^= 0x10;
                    hurt += 1;
                }
                found += 1;
            }
        }
        hurt
    }

    /// Flips a bit in each copy of these blocks of the volume on a node's disk; says how many there were.
    pub fn rot_blocks(&mut self, at: usize, lbas: std::ops::Range<usize>) -> usize {
        let per = BLOCK / SECTOR;
        let wanted: BTreeSet<[u8; 8]> = lbas
            .map(|lba| sector(self.model[lba * per][0], lba * per)[..8].try_into().expect("eight bytes"))
            .collect();
        let mut hurt = 0;
        for block in self.nodes[at].disk.bytes.chunks_exact_mut(BLOCK) {
            if wanted.contains(&block[..8]) {
                block[77] ^= 0x10;
                hurt += 1;
            }
        }
        hurt
    }
}
