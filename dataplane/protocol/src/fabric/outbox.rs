//! The sending half of a session: messages, what is under way, what must go again.
//!
//! A fragment belongs to exactly one place at a time: not sent yet, in one datagram under way, or in the
//! resend queue. A datagram declared lost is forgotten, and a late acknowledgement of it ignored, so that
//! no byte is counted twice. Small messages overtake large ones; none waits for another to arrive.

use super::message::Pieces;
use super::packet::{FRAGMENT_BYTES, Fragment, Range};
use crate::wire::Time;
use palisade_dma::Buf;
use std::collections::VecDeque;
use std::time::Duration;

/// Messages of at most this many bytes go before larger ones.
const SMALL: u32 = 8192;
/// A rest of a datagram smaller than this is not worth a fragment.
const WORTH: usize = 1024;

/// A message that is not acknowledged whole.
#[derive(Debug)]
struct Message {
    fields: Vec<u8>,
    payload: Pieces,
    total: u32,
    acked: u32,
    /// Where sending goes on: piece and offset.
    next: (u16, u32),
}

impl Message {
    fn pieces(&self) -> u16 {
        self.payload.len() as u16 + 1
    }

    fn piece_len(&self, piece: u16) -> u32 {
        match piece {
            0 => self.fields.len() as u32,
            _ => self.payload[usize::from(piece) - 1].len() as u32,
        }
    }
}

/// A datagram under way.
#[derive(Debug)]
struct Sent {
    at: Time,
    bytes: usize,
    path: u8,
    fragments: Vec<Fragment>,
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acked {
    /// Bytes newly acknowledged.
    pub(super) bytes: usize,
    /// When and on which path the newest acknowledged datagram left, if it was news.
    pub(super) newest: Option<(Time, u8)>,
}

/// The sending half.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Message>,
    /// Id of the first of `messages`.
    base: u64,
    small: VecDeque<u64>,
    bulk: VecDeque<u64>,
    resend: VecDeque<Fragment>,
    sent: VecDeque<Option<Sent>>,
    /// Number of the first of `sent`; numbers start at 1.
    sent_base: u64,
    under_way: usize,
    queued: usize,
    /// Message bytes started, and how many may be.
    started: u64,
    pub(super) granted: u64,
    newest_acked: u64,
    /// Emptied lists and byte vectors, for reuse.
    spare_lists: Vec<Vec<Fragment>>,
    spare_bytes: Vec<Vec<u8>>,
}

impl Outbox {
    /// An empty one that may start `granted` message bytes before it hears from the peer.
    pub(super) fn new(granted: u64) -> Self {
        Self { sent_base: 1, granted, ..Self::default() }
    }

    /// Message bytes that are not acknowledged.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Messages that are not acknowledged.
    pub(super) fn open(&self) -> usize {
        self.messages.len()
    }

    /// Bytes under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// An empty byte vector for a message's fields.
    pub(super) fn spare_bytes(&mut self) -> Vec<u8> {
        self.spare_bytes.pop().unwrap_or_default()
    }

    /// An empty list for a datagram's fragments.
    pub(super) fn spare_list(&mut self) -> Vec<Fragment> {
        self.spare_lists.pop().unwrap_or_default()
    }

    /// Queues a message.
    pub(super) fn push(&mut self, fields: Vec<u8>, payload: Pieces) {
        let total = fields.len() + payload.iter().map(|part| part.len()).sum::<usize>();
        let id = self.base + self.messages.len() as u64;
        self.queued += total;
        let total = total as u32;
        self.messages.push_back(Message { fields, payload, total, acked: 0, next: (0, 0) });
        if total <= SMALL { self.small.push_back(id) } else { self.bulk.push_back(id) }
    }

    /// The next fragment to send that fits into `room` bytes of a datagram; `empty` when it would be the
    /// first of its datagram.
    pub(super) fn next_fragment(&mut self, room: usize, empty: bool) -> Option<Fragment> {
        let room = room.checked_sub(FRAGMENT_BYTES).filter(|room| *room > 0)?;
        if let Some(fragment) = self.resend.front() {
            return if fragment.len as usize <= room { self.resend.pop_front() } else { None };
        }
        self.next_of(room, empty, true).or_else(|| self.next_of(room, empty, false))
    }

    fn next_of(&mut self, room: usize, empty: bool, small: bool) -> Option<Fragment> {
        let queue = if small { &mut self.small } else { &mut self.bulk };
        let id = *queue.front()?;
        let message = &mut self.messages[(id - self.base) as usize];
        let (piece, offset) = message.next;
        let fresh = (piece, offset) == (0, 0);
        if fresh && self.started + u64::from(message.total) > self.granted {
            return None;
        }
        let piece_len = message.piece_len(piece);
        let left = piece_len - offset;
        if left as usize > room && !empty && (small || room < WORTH) {
            return None;
        }
        let len = left.min(room as u32);
        let (pieces, total) = (message.pieces(), message.total);
        message.next = if len == left { (piece + 1, 0) } else { (piece, offset + len) };
        if message.next.0 == pieces {
            queue.pop_front();
        }
        if fresh {
            self.started += u64::from(total);
        }
        Some(Fragment { msg: id, piece, pieces, piece_len, offset, len, total })
    }

    /// The bytes of a fragment: fields as a slice, payload as a buffer.
    pub(super) fn data(&self, fragment: &Fragment) -> Result<&[u8], Buf> {
        let message = &self.messages[(fragment.msg - self.base) as usize];
        let range = fragment.offset as usize..(fragment.offset + fragment.len) as usize;
        match fragment.piece {
            0 => Ok(&message.fields[range]),
            piece => Err(message.payload[usize::from(piece) - 1].slice(range)),
        }
    }

    /// The number of the next datagram.
    pub(super) fn next_number(&self) -> u64 {
        self.sent_base + self.sent.len() as u64
    }

    /// A datagram of these fragments leaves under [`Outbox::next_number`].
    pub(super) fn depart(&mut self, at: Time, path: u8, bytes: usize, fragments: Vec<Fragment>) {
        self.under_way += bytes;
        self.sent.push_back(Some(Sent { at, bytes, path, fragments }));
    }

    /// Takes back a list that was not needed.
    pub(super) fn keep_list(&mut self, list: Vec<Fragment>) {
        assert!(list.is_empty(), "fragments are never forgotten");
        self.spare_lists.push(list);
    }

    /// Whether all numbers of the ranges were used; a peer that acknowledges others is no peer of ours.
    pub(super) fn plausible(&self, newest: u64) -> bool {
        newest < self.next_number()
    }

    /// The peer has these datagrams.
    pub(super) fn acknowledge(&mut self, ranges: impl Iterator<Item = Range>) -> Acked {
        let mut acked = Acked::default();
        for (index, (first, last)) in ranges.enumerate() {
            let end = self.sent_base + self.sent.len() as u64;
            for number in first.max(self.sent_base)..last.saturating_add(1).min(end) {
                let Some(sent) = self.sent[(number - self.sent_base) as usize].take() else { continue };
                if index == 0 && number == last {
                    acked.newest = Some((sent.at, sent.path));
                }
                acked.bytes += sent.bytes;
                self.under_way -= sent.bytes;
                self.arrive(sent.fragments);
            }
            if index == 0 {
                self.newest_acked = self.newest_acked.max(last);
            }
        }
        self.trim();
        acked
    }

    /// Counts fragments as arrived and forgets messages that are there whole.
    fn arrive(&mut self, mut fragments: Vec<Fragment>) {
        for fragment in fragments.drain(..) {
            let message = &mut self.messages[(fragment.msg - self.base) as usize];
            message.acked += fragment.len;
            assert!(message.acked <= message.total, "no byte arrives twice");
            if message.acked == message.total {
                self.queued -= message.total as usize;
                message.payload.clear();
            }
        }
        self.spare_lists.push(fragments);
        while self.messages.front().is_some_and(|message| message.acked == message.total) {
            if let Some(mut message) = self.messages.pop_front() {
                message.fields.clear();
                self.spare_bytes.push(message.fields);
            }
            self.base += 1;
        }
    }

    fn trim(&mut self) {
        while self.sent.front().is_some_and(Option::is_none) {
            self.sent.pop_front();
            self.sent_base += 1;
        }
    }

    /// Moves what must count as lost to the resend queue. `limits` gives for a path how long a datagram may
    /// take that was overtaken, and any datagram. Returns (overtaken ones lost, timed-out ones lost).
    pub(super) fn expire(&mut self, now: Time, limits: impl Fn(u8) -> (Duration, Duration)) -> (u64, u64) {
        let mut lost = (0, 0);
        for index in 0..self.sent.len() {
            let Some(sent) = &self.sent[index] else { continue };
            let overtaken = self.sent_base + (index as u64) < self.newest_acked;
            let (short, long) = limits(sent.path);
            if now.since(sent.at) < if overtaken { short } else { long } {
                break; // Later ones left later.
            }
            if let Some(mut sent) = self.sent[index].take() {
                self.under_way -= sent.bytes;
                self.resend.extend(sent.fragments.drain(..));
                self.spare_lists.push(sent.fragments);
            }
            if overtaken { lost.0 += 1 } else { lost.1 += 1 }
        }
        self.trim();
        lost
    }

    /// When [`Outbox::expire`] has something to do.
    pub(super) fn expires(&self, limits: impl Fn(u8) -> (Duration, Duration)) -> Option<Time> {
        let (index, sent) =
            self.sent.iter().enumerate().find_map(|(index, sent)| Some((index, sent.as_ref()?)))?;
        let (short, long) = limits(sent.path);
        let overtaken = self.sent_base + (index as u64) < self.newest_acked;
        Some(sent.at + if overtaken { short } else { long })
    }
}
