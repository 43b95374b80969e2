//! Taking the units of a lone head's journal into the own log (P-30, P-01): piece by piece to operations, each
//! compared with what the own log has, cut where it went another way, and appended.

use super::core::Core;
use super::part::Part;
use super::unit::{self, Deed, Piece, Place};
use crate::wire::limits::BLOCK;
use crate::wire::*;
use palisade_dma::{Buf, BufMut};
use std::time::Duration;

/// An operation of which some pieces came.
#[derive(Debug)]
pub(super) struct Partial {
    op: Op,
    number: Number,
    deed: Deed,
    filled: u16,
    all: u16,
    /// None of an operation that is here already.
    bytes: Option<BufMut>,
}

/// What a unit came to.
enum Came {
    /// All of it was taken over.
    Whole,
    /// What follows in this chapter is void.
    Void,
    /// An operation before it is missing.
    Hole,
    /// There is no buffer now.
    Later,
}

impl Part {
    /// Whether the own log is the lone head's up to `op`, which was given out under `number`.
    fn agrees(&self, op: Op, number: Number) -> bool {
        op <= self.committed || (op <= self.tail && self.number_of(op) == number && number != Number::ZERO)
    }

    /// Whether an operation that is not committed was given out here under a newer number.
    fn outruns(&self, op: Op, number: Number) -> bool {
        op > self.committed && op <= self.tail && number != Number::ZERO && self.number_of(op) > number
    }
}

impl Core {
    /// A unit of the lone head: what is new in it is appended.
    pub(super) fn take_unit(
        &mut self,
        now: Time,
        p: usize,
        place: &Place,
        pieces: &[Piece],
        data: &Buf,
        out: &mut Out,
    ) {
        let came = self.take_pieces(now, p, place, pieces, data);
        let part = &mut self.parts[p];
        let Some(salvage) = &mut part.salvage else { return };
        let (at, unit) = salvage.at;
        match came {
            Came::Whole => salvage.go_to((at, unit + 1)),
            Came::Void => {
                salvage.partial = None;
                salvage.go_to((at + 1, 0));
            }
            Came::Hole => return self.on_hole(now, p, out),
            // A piece of an operation may be in hand: what is here by then is passed over.
            Came::Later => {
                salvage.again_at = now + Duration::from_millis(1);
                salvage.partial = None;
                salvage.go_to((0, 0));
            }
        }
        self.append(now, p);
    }

    fn take_pieces(&mut self, now: Time, p: usize, place: &Place, pieces: &[Piece], data: &Buf) -> Came {
        let (limit, continues) = {
            let Some(salvage) = &self.parts[p].salvage else { return Came::Hole };
            let continues = |piece: &Piece, partial: &Partial| {
                (piece.op, piece.number, piece.first) == (partial.op, partial.number, partial.filled)
            };
            let first = pieces.first().zip(salvage.partial.as_ref());
            (
                salvage.chapters[salvage.at.0].limit,
                first.is_some_and(|(piece, partial)| continues(piece, partial)),
            )
        };
        let begun = pieces.first().is_some_and(|piece| piece.first == 0);
        if pieces[0].op <= limit && !(begun || continues && pieces[0].first > 0) {
            return Came::Hole;
        }
        if pieces[0].op <= limit && self.parts[p].outruns(place.prior.0, place.prior.1) {
            return self.void_from(p, place.prior.0);
        }
        if pieces[0].op <= limit && !self.parts[p].agrees(place.prior.0, place.prior.1) {
            return Came::Hole;
        }
        let mut block = 1;
        for piece in pieces {
            if piece.op > limit {
                return Came::Void;
            }
            let payload = data.slice(block * BLOCK..(block + piece.crcs.len()) * BLOCK);
            block += piece.crcs.len();
            match self.take_piece(now, p, piece, &payload) {
                Came::Whole => {}
                other => return other,
            }
        }
        Came::Whole
    }

    /// One piece; an operation is taken over with its last one.
    fn take_piece(&mut self, now: Time, p: usize, piece: &Piece, payload: &[u8]) -> Came {
        let ahead = self.parts[p].follow.early.last_key_value().map(|(op, _)| *op);
        if piece.first == 0 {
            if self.parts[p].outruns(piece.op, piece.number) {
                return self.void_from(p, piece.op);
            }
            let part = &mut self.parts[p];
            let known = ahead.is_some_and(|ahead| piece.op <= ahead)
                || piece.op <= part.committed
                || (piece.op <= part.tail && part.number_of(piece.op) == piece.number);
            if !known && piece.op <= part.tail {
                // The own log went another way from here on.
                self.cut_back(p, Op(piece.op.0 - 1));
            }
            let part = &mut self.parts[p];
            if !known && piece.op.0 != ahead.unwrap_or(part.tail).0 + 1 {
                return Came::Hole;
            }
            let all = usize::from(piece.all);
            let bytes = match (known, all) {
                (true, _) | (_, 0) => None,
                _ => match self.pool.alloc(all * BLOCK) {
                    Some(bytes) => Some(bytes),
                    None => return Came::Later,
                },
            };
            let Piece { op, number, deed, all, .. } = *piece;
            let part = &mut self.parts[p];
            if let Some(salvage) = &mut part.salvage {
                salvage.partial = Some(Partial { op, number, deed, filled: 0, all, bytes });
                if known {
                    salvage.sure = salvage.sure.max(op);
                }
            }
        }
        let partition = self.parts[p].cfg.partition;
        let Some(salvage) = &mut self.parts[p].salvage else { return Came::Hole };
        let Some(partial) = &mut salvage.partial else { return Came::Hole };
        if (partial.op, partial.filled, partial.all) != (piece.op, piece.first, piece.all) {
            return Came::Hole;
        }
        if let Some(bytes) = &mut partial.bytes {
            let from = usize::from(partial.filled) * BLOCK;
            bytes[from..from + payload.len()].copy_from_slice(payload);
        }
        partial.filled += piece.crcs.len() as u16;
        if partial.filled < partial.all {
            return Came::Whole;
        }
        let Some(partial) = salvage.partial.take() else { return Came::Hole };
        if partial.all > 0 && partial.bytes.is_none() {
            return Came::Whole;
        }
        let Some(entry) = partial.entry(partition) else { return Came::Hole };
        self.take_operation(now, p, entry)
    }

    /// The own log has `op` under a newer number: what older ones say of it and of all behind it is void.
    fn void_from(&mut self, p: usize, op: Op) -> Came {
        let part = &mut self.parts[p];
        let newer = part.number_of(op);
        if let Some(salvage) = &mut part.salvage {
            for chapter in salvage.chapters.iter_mut().filter(|chapter| chapter.number < newer) {
                chapter.limit = chapter.limit.min(Op(op.0.saturating_sub(1)));
            }
        }
        Came::Void
    }

    fn take_operation(&mut self, _now: Time, p: usize, entry: Entry) -> Came {
        let part = &mut self.parts[p];
        let known = entry.op <= part.tail || part.follow.early.contains_key(&entry.op);
        let Some(salvage) = &mut part.salvage else { return Came::Hole };
        salvage.sure = salvage.sure.max(entry.op);
        if !known {
            salvage.taken += 1;
            part.stats.counters.salvaged += 1;
            part.follow.early.insert(entry.op, entry);
        }
        Came::Whole
    }
}

impl Partial {
    /// The operation; `None`: its bytes are not what they should be.
    fn entry(self, partition: PartitionId) -> Option<Entry> {
        let Self { op, number, deed, bytes, .. } = self;
        let data = bytes.map(BufMut::freeze);
        let body = match (deed, data) {
            (Deed::Write(lba), Some(data)) => {
                let crcs = data.chunks_exact(BLOCK).map(palisade_isal::crc32c).collect();
                Body::Write { lba, crcs, data }
            }
            (Deed::Clear(lba, count), _) => Body::Clear { lba, count },
            (Deed::Other(len), Some(data)) => {
                let entry = unit::decode_other(&data[..len as usize]).ok()?;
                let same = (entry.partition, entry.number, entry.op) == (partition, number, op);
                return same.then_some(entry);
            }
            _ => return None,
        };
        Some(Entry { partition, number, op, body })
    }
}
