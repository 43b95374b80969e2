//! The receiving half of a session: reassembly, duplicates, credit, acknowledgements.
//!
//! Payload goes straight into pool buffers, one a piece, so that it lies aligned for direct I/O; that is
//! its only copy. Messages are handed up as they become whole, in any order.

use super::message::Pieces;
use super::packet::{Fragment, RANGES_MAX, Range};
use super::port::MESSAGES_MAX;
use crate::wire::Time;
use crate::wire::limits::{IO_BYTES_MAX, MSG_BYTES_MAX, RECORD_OPS_MAX};
use palisade_dma::{BufMut, Pool};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Most pieces of a message: its fields and a payload for each operation of a largest batch.
const PIECES_MAX: u16 = RECORD_OPS_MAX as u16 + 1;

/// What became of a fragment.
#[derive(Debug)]
pub(super) enum Taken {
    /// Kept; the message is not whole.
    Kept,
    /// It had arrived before.
    Duplicate,
    /// The message is whole: its fields (to be given back with [`Inbox::recycle`]) and payload.
    Whole(Vec<u8>, Pieces),
    /// No buffer, or more open messages than credit was given for: it must come again.
    NoRoom,
    /// It contradicts its message or the limits.
    Bad,
}

/// One piece under reassembly.
#[derive(Debug, Default)]
struct Piece {
    len: u32,
    buf: Option<BufMut>,
    got: SmallVec<[(u32, u32); 4]>,
}

/// One message under reassembly.
#[derive(Debug, Default)]
struct Open {
    total: u32,
    missing: u32,
    fields: Vec<u8>,
    pieces: SmallVec<[Piece; 4]>,
}

/// State of a message id in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Unseen,
    Open(u16),
    Delivered,
}

/// The receiving half.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    slots: VecDeque<Slot>,
    /// Id of the first of `slots`: all below were delivered.
    base: u64,
    open: Vec<Open>,
    free: Vec<u16>,
    open_bytes: usize,
    delivered_bytes: u64,
    window: usize,
    /// Datagram numbers that arrived, newest range first.
    ranges: Vec<Range>,
    newest_at: Time,
    spare: Vec<Vec<u8>>,
}

impl Inbox {
    pub(super) fn new(window: usize) -> Self {
        Self { window, ..Self::default() }
    }

    /// Message bytes that the peer may start in all.
    pub(super) fn credit(&self) -> u64 {
        self.delivered_bytes + self.window as u64
    }

    /// Ranges to acknowledge, newest first, and microseconds since the newest arrived.
    pub(super) fn ranges(&self, now: Time) -> (&[Range], u32) {
        (&self.ranges, now.since(self.newest_at).as_micros().min(u128::from(u32::MAX)) as u32)
    }

    /// A datagram arrived and all its fragments were kept.
    pub(super) fn note(&mut self, number: u64, now: Time) {
        let at = self.ranges.iter().position(|(first, _)| *first <= number.saturating_add(1));
        if self.ranges.first().is_none_or(|(_, last)| *last < number) {
            self.newest_at = now;
        }
        match at {
            Some(at) if self.ranges[at].0 <= number && number <= self.ranges[at].1 => return,
            Some(at) if self.ranges[at].1.checked_add(1) == Some(number) => self.ranges[at].1 = number,
            Some(at) if self.ranges[at].0.checked_sub(1) == Some(number) => self.ranges[at].0 = number,
            Some(at) => self.ranges.insert(at, (number, number)),
            None => self.ranges.push((number, number)),
        }
        self.join();
        self.ranges.truncate(RANGES_MAX);
    }

    /// Joins ranges that touch.
    fn join(&mut self) {
        self.ranges.dedup_by(|older, newer| {
            let touch = older.1 + 1 >= newer.0;
            if touch {
                newer.0 = newer.0.min(older.0);
            }
            touch
        });
    }

    /// Takes a fragment.
    pub(super) fn take(&mut self, fragment: &Fragment, data: &[u8], pool: &Pool) -> Taken {
        if fragment.msg < self.base {
            return Taken::Duplicate;
        }
        let index = fragment.msg - self.base;
        let piece_fits = fragment.piece == 0 || fragment.piece_len as usize <= IO_BYTES_MAX;
        if index >= MESSAGES_MAX as u64
            || fragment.total as usize > MSG_BYTES_MAX
            || fragment.pieces > PIECES_MAX
            || !piece_fits
        {
            return Taken::Bad;
        }
        let index = index as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::Unseen);
        }
        let open = match self.slots[index] {
            Slot::Delivered => return Taken::Duplicate,
            Slot::Open(open) => open,
            Slot::Unseen => match self.begin(fragment) {
                Some(open) => open,
                None => return Taken::NoRoom,
            },
        };
        self.slots[index] = Slot::Open(open);
        let message = &mut self.open[usize::from(open)];
        if message.total != fragment.total || message.pieces.len() != usize::from(fragment.pieces) {
            return Taken::Bad;
        }
        match message.store(fragment, data, pool) {
            Taken::Kept if message.missing == 0 => self.finish(index, open),
            taken => taken,
        }
    }

    /// Opens a message if credit was given for it.
    fn begin(&mut self, fragment: &Fragment) -> Option<u16> {
        if self.open_bytes + fragment.total as usize > self.window {
            return None;
        }
        self.open_bytes += fragment.total as usize;
        let open = self.free.pop().unwrap_or_else(|| {
            self.open.push(Open::default());
            (self.open.len() - 1) as u16
        });
        let fields = self.spare.pop().unwrap_or_default();
        let message = &mut self.open[usize::from(open)];
        (message.total, message.missing, message.fields) = (fragment.total, fragment.total, fields);
        message.pieces.clear();
        message.pieces.resize_with(usize::from(fragment.pieces), Piece::default);
        Some(open)
    }

    /// Hands a whole message up.
    fn finish(&mut self, index: usize, open: u16) -> Taken {
        let message = &mut self.open[usize::from(open)];
        let fields = std::mem::take(&mut message.fields);
        // No piece got more than its length, so equal sums mean that every piece is full.
        let full = message.pieces.iter().map(|piece| u64::from(piece.len)).sum::<u64>();
        let sound = full == u64::from(message.total);
        let payload =
            message.pieces.drain(..).skip(1).filter_map(|piece| piece.buf).map(BufMut::freeze).collect();
        self.open_bytes -= message.total as usize;
        self.delivered_bytes += u64::from(message.total);
        self.free.push(open);
        self.slots[index] = Slot::Delivered;
        while self.slots.front() == Some(&Slot::Delivered) {
            self.slots.pop_front();
            self.base += 1;
        }
        if sound { Taken::Whole(fields, payload) } else { Taken::Bad }
    }

    /// Gives a fields vector back for reuse.
    pub(super) fn recycle(&mut self, mut fields: Vec<u8>) {
        fields.clear();
        self.spare.push(fields);
    }
}

impl Open {
    /// Copies a fragment to its place.
    fn store(&mut self, fragment: &Fragment, data: &[u8], pool: &Pool) -> Taken {
        let piece = &mut self.pieces[usize::from(fragment.piece)];
        let (start, end) = (fragment.offset, fragment.offset + fragment.len);
        if !piece.got.is_empty() && piece.len != fragment.piece_len {
            return Taken::Bad;
        }
        if piece.got.contains(&(start, end)) {
            return Taken::Duplicate;
        }
        let overlaps = piece.got.iter().any(|(first, last)| start < *last && *first < end);
        if overlaps || fragment.len > self.missing {
            return Taken::Bad;
        }
        let range = start as usize..end as usize;
        if fragment.piece == 0 {
            if self.fields.len() < fragment.piece_len as usize {
                self.fields.resize(fragment.piece_len as usize, 0);
            }
            self.fields[range].copy_from_slice(data);
        } else {
            if piece.buf.is_none() {
                piece.buf = pool.alloc(fragment.piece_len as usize);
            }
            let Some(buf) = &mut piece.buf else { return Taken::NoRoom };
            buf[range].copy_from_slice(data);
        }
        piece.len = fragment.piece_len;
        piece.got.push((start, end));
        self.missing -= fragment.len;
        Taken::Kept
    }
}
