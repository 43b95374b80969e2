//! One piece of a read: a run of blocks in one place. Here: pieces in the own log.

use super::core::Core;
use super::degraded::ColumnRead;
use super::read::Read;
use super::slab::Id;
use crate::log::{LogAddr, Pin};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{BufMut, Pool};
use palisade_isal::crc32c;
use smallvec::SmallVec;
use std::time::Duration;

/// A block as the index wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) lba: Lba,
    pub(super) op: Op,
    pub(super) crc: u32,
    /// Its place among the blocks that the piece reads.
    pub(super) at: u32,
}

/// Blocks that are read at once: a run, or runs of one stripe unit with a few blocks between them that nobody wants.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) read: Id,
    /// Place of its first run among those of the read, and how many there are.
    pub(super) slot: u32,
    pub(super) runs: u32,
    pub(super) part: usize,
    pub(super) wants: SmallVec<[Want; 2]>,
    pub(super) source: Source,
}

/// Where a piece comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The own log. `bytes` waits here while rotten blocks are fetched from the peer.
    Log { addr: LogAddr, pin: Option<Pin>, bytes: Option<BufMut> },
    /// Columns of an extent.
    Column(Box<ColumnRead>),
    /// An extent that the index does not know; an error, never a guess.
    Nowhere,
}

impl Source {
    pub(super) fn log(addr: LogAddr) -> Self {
        Self::Log { addr, pin: None, bytes: None }
    }
}

/// A buffer to read into; what a client gets, it may hold for long.
pub(super) fn room(pool: &Pool, client: bool, len: usize) -> Option<BufMut> {
    if client { pool.alloc_client(len) } else { pool.alloc(len) }
}

impl Core {
    pub(super) fn start_piece(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some(piece) = self.pieces.get_mut(id) else { return };
        match &mut piece.source {
            Source::Column(_) => self.start_column(now, id, out),
            Source::Nowhere => self.piece_done(now, id, Err(ClientError::Unreadable), out),
            Source::Log { addr, pin, .. } => {
                // Before all else: a read that waits for a buffer needs its place no less.
                if pin.is_none() {
                    *pin = Some(self.log.pin(*addr));
                }
                let len = piece.wants.len() * BLOCK;
                let client = self.reads.get(piece.read).is_some_and(Read::for_client);
                let Some(buf) = room(&self.pool, client, len) else {
                    self.starved.push(id);
                    return self.arm(now + Duration::from_millis(1));
                };
                let offset = addr.offset();
                let device = self.cfg.log.device;
                out.block.push(BlockCmd {
                    device,
                    key: Self::read_key(id),
                    op: BlockOp::Read { offset, buf },
                });
            }
        }
    }

    /// Pieces that found no buffer try again.
    pub(super) fn feed_starved(&mut self, now: Time, out: &mut Out) {
        let starved = std::mem::take(&mut self.starved);
        for id in starved {
            if self.rebuildable(id) {
                self.decode(now, id, out);
            } else {
                self.start_piece(now, id, out);
            }
        }
    }

    /// Whether reads for the head's own work wait for buffers. Who starts no more of them then, lets those
    /// that hold some already have the rest (`Bounded`).
    pub(super) fn starves(&self) -> bool {
        self.starved.iter().any(|&id| {
            let read = self.pieces.get(id).and_then(|piece| self.reads.get(piece.read));
            read.is_some_and(|read| !read.for_client())
        })
    }

    /// The own log's device answered.
    pub(super) fn on_log_read(
        &mut self,
        now: Time,
        id: Id,
        result: Result<BlockOk, BlockError>,
        out: &mut Out,
    ) {
        let Some(piece) = self.pieces.get_mut(id) else { return };
        let Source::Log { bytes, .. } = &mut piece.source else { return };
        match result {
            Ok(BlockOk::Read(buf)) if buf.len() == piece.wants.len() * BLOCK => {
                *bytes = Some(buf);
                self.check_log_piece(now, id, out);
            }
            // An unreadable sector is rot like any other: the peer has the block.
            Ok(_) | Err(_) => match self.pool.alloc_zeroed(piece.wants.len() * BLOCK) {
                Some(buf) => {
                    *bytes = Some(buf);
                    self.check_log_piece(now, id, out);
                }
                None => {
                    self.starved.push(id);
                    self.arm(now + Duration::from_millis(1));
                }
            },
        }
    }

    /// Delivers a log piece when every block is right, or asks the peer for the first that is not.
    pub(super) fn check_log_piece(&mut self, now: Time, id: Id, out: &mut Out) {
        let unchecked = self.cfg.faults.no_crc_check();
        let Some(piece) = self.pieces.get_mut(id) else { return };
        let Source::Log { bytes, .. } = &mut piece.source else { return };
        let Some(buf) = bytes else { return };
        let wrong = |(block, want): (&[u8], &Want)| crc32c(block) != want.crc;
        let wrong = buf.chunks_exact(BLOCK).zip(&piece.wants).position(wrong);
        match wrong.filter(|_| !unchecked) {
            Some(at) => self.fetch(now, id, at, out),
            None => {
                if let Some(buf) = bytes.take() {
                    self.piece_done(now, id, Ok(buf.freeze()), out);
                }
            }
        }
    }
}
