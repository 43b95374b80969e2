//! Pieces of one read that lie in one stripe: what one of them reads, another one that has to be rebuilt does not ask
//! for again (EF-06, EF-22). A stripe of which a data column is lost costs k columns that way and not nearly twice as
//! many, which is what a rebuild reads most of the time.
//!
//! Bytes are lent when the piece that read them is done: they were checked against the index by then. A read of several
//! pieces keeps them at hand, since a column may turn out to be late when the others are there. A piece that has to be
//! rebuilt itself lends nothing before it is done, and those that counted on it ask on their own: nobody waits in a
//! circle.

use super::core::Core;
use super::degraded::ColumnRead;
use super::piece::{Piece, Source};
use super::slab::Id;
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::Buf;
use smallvec::SmallVec;

/// What a piece of a read has read of its column.
#[derive(Debug)]
pub(super) struct Kept {
    read: Box<ColumnRead>,
    bytes: Buf,
}

impl ColumnRead {
    /// The blocks that `other` needs, of what was read here.
    fn part(&self, bytes: &Buf, other: &Self) -> Buf {
        let from = (other.first - self.first) as usize * BLOCK;
        bytes.slice(from..from + other.count as usize * BLOCK)
    }

    /// Whether it has at least as much of its column as `other`, of another one, needs of it.
    fn covers(&self, other: &Self) -> bool {
        (self.slot, self.stripe) == (other.slot, other.stripe)
            && self.target != other.target
            && self.first <= other.first
            && self.first + self.count >= other.first + other.count
    }
}

impl Core {
    /// Other pieces of the read that a piece belongs to.
    fn siblings(&self, id: Id) -> SmallVec<[Id; 4]> {
        let read = self.pieces.get(id).and_then(|piece| self.reads.get(piece.read));
        read.map(|read| read.pieces.iter().copied().filter(|&other| other != id).collect())
            .unwrap_or_default()
    }

    /// Counts on the columns that other pieces of the read are reading, and takes those that they have read.
    pub(super) fn borrow(&mut self, id: Id) {
        let siblings = self.siblings(id);
        let Some(Piece { source: Source::Column(own), read, .. }) = self.pieces.get_mut(id) else { return };
        if own.whole || siblings.is_empty() {
            return;
        }
        let read = *read;
        for kept in self.reads.get(read).iter().flat_map(|read| &read.kept) {
            if kept.read.covers(own) && own.got[kept.read.target].is_none() {
                own.got[kept.read.target] = Some(kept.read.part(&kept.bytes, own));
                own.borrowed |= 1 << kept.read.target;
            }
        }
        let Some(Source::Column(own)) = self.pieces.get(id).map(|piece| &piece.source) else { return };
        let mut lent = 0u16;
        for &sibling in &siblings {
            if let Some(Source::Column(other)) = self.pieces.get(sibling).map(|piece| &piece.source)
                && !other.spread
                && other.covers(own)
            {
                lent |= 1 << other.target;
            }
        }
        let Some((_, own, _)) = self.column_read(id) else { return };
        own.borrowed |= lent & !own.failed;
        if own.borrowed != 0
            && let Some(read) = self.reads.get_mut(read)
        {
            read.lends = true;
        }
    }

    /// A piece asks other columns for the first time: who counts on its own one does so no longer.
    pub(super) fn recall(&mut self, now: Time, id: Id, out: &mut Out) {
        let Some((_, own, _)) = self.column_read(id) else { return };
        if std::mem::replace(&mut own.spread, true) {
            return;
        }
        let (slot, stripe, bit) = (own.slot, own.stripe, 1u16 << own.target);
        for sibling in self.siblings(id) {
            let Some((_, other, _)) = self.column_read(sibling) else { continue };
            // Another piece of this column may serve it as well: it will see.
            if (other.slot, other.stripe) == (slot, stripe) && other.borrowed & bit != 0 {
                other.borrowed &= !bit;
                self.spread(now, sibling, out);
            }
        }
    }

    /// A piece is done: those that count on its column get their part of it, and those to come may. `None`: it cannot be
    /// had.
    pub(super) fn lend(&mut self, now: Time, piece: Piece, bytes: Option<Buf>, out: &mut Out) {
        let Source::Column(done) = piece.source else { return };
        let bit = 1u16 << done.target;
        let Some(read) = self.reads.get_mut(piece.read) else { return };
        for id in if read.lends { read.pieces.clone() } else { SmallVec::new() } {
            let Some((_, other, _)) = self.column_read(id) else { continue };
            if !done.covers(other) || other.borrowed & bit == 0 {
                continue;
            }
            match &bytes {
                Some(bytes) => {
                    other.got[done.target] = Some(done.part(bytes, other));
                    if self.rebuildable(id) {
                        self.decode(now, id, out);
                    }
                }
                None => {
                    other.borrowed &= !bit;
                    other.failed |= bit;
                    self.spread(now, id, out);
                }
            }
        }
        if let (Some(bytes), Some(read)) = (bytes, self.reads.get_mut(piece.read)) {
            read.kept.push(Kept { read: done, bytes });
        }
    }
}
