//! The sending half of a session: messages, what is under way, what must go again.
//!
//! A fragment belongs to exactly one place at a time: not sent yet, in one datagram under way, or in the
//! resend queue. A datagram declared lost is forgotten, and a late acknowledgement of it ignored, so that
//! no byte is counted twice. Small messages overtake large ones; none waits for another to arrive, nor for
//! the credit that large ones would use up: a little of it is kept back.

use super::message::Pieces;
use super::packet::{FRAGMENT_BYTES, Fragment, Range};
use super::port::PATHS_MAX;
use crate::wire::Time;
use palisade_dma::Buf;
use std::collections::VecDeque;
use std::time::Duration;

/// Messages of at most this many bytes go before larger ones.
const SMALL: u32 = 8192;
/// A rest of a datagram smaller than this is not worth a fragment.
const WORTH: usize = 1024;
/// Credit that large messages leave to small ones while anything is under way.
const SMALL_CREDIT: u64 = 64 << 10;

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

/// What an acknowledgement brought for one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acked {
    /// Datagrams newly acknowledged, and their bytes.
    pub(super) count: u64,
    pub(super) bytes: usize,
    /// Number of the newest of them, and when it left.
    pub(super) newest: (u64, Time),
}

/// What is on the way on one path.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    count: usize,
    bytes: usize,
    newest_acked: u64,
}

/// The sending half.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Message>,
    /// Id of the first of `messages`.
    base: u64,
    small: VecDeque<u64>,
    bulk: VecDeque<u64>,
    /// What was lost, with the path that lost it.
    resend: VecDeque<(Fragment, u8)>,
    sent: VecDeque<Option<Sent>>,
    /// Number of the first of `sent`; numbers start at 1.
    sent_base: u64,
    ways: [Way; PATHS_MAX],
    queued: usize,
    /// Message bytes started, and how many may be.
    started: u64,
    pub(super) granted: u64,
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

    /// Bytes under way on a path.
    pub(super) fn under_way(&self, path: u8) -> usize {
        self.ways[usize::from(path)].bytes
    }

    /// Which path lost what goes next, if that is a resend.
    pub(super) fn lost_by(&self) -> Option<u8> {
        self.resend.front().map(|(_, path)| *path)
    }

    /// Whether a small message waits.
    pub(super) fn small_waits(&self) -> bool {
        !self.small.is_empty()
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
        if let Some((fragment, _)) = self.resend.front() {
            let fits = fragment.len as usize <= room;
            return if fits { self.resend.pop_front().map(|(fragment, _)| fragment) } else { None };
        }
        self.next_of(room, empty, true).or_else(|| self.next_of(room, empty, false))
    }

    /// The next fragment of a small message, before everything else.
    pub(super) fn next_small(&mut self, room: usize, empty: bool) -> Option<Fragment> {
        let room = room.checked_sub(FRAGMENT_BYTES).filter(|room| *room > 0)?;
        self.next_of(room, empty, true)
    }

    fn next_of(&mut self, room: usize, empty: bool, small: bool) -> Option<Fragment> {
        let alone = self.resend.is_empty() && self.ways.iter().all(|way| way.count == 0);
        let kept_back = if small || alone { 0 } else { SMALL_CREDIT };
        let queue = if small { &mut self.small } else { &mut self.bulk };
        let id = *queue.front()?;
        let message = &mut self.messages[(id - self.base) as usize];
        let (piece, offset) = message.next;
        let fresh = (piece, offset) == (0, 0);
        if fresh && self.started + u64::from(message.total) + kept_back > self.granted {
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
        let way = &mut self.ways[usize::from(path)];
        (way.count, way.bytes) = (way.count + 1, way.bytes + bytes);
        self.sent.push_back(Some(Sent { at, bytes, path, fragments }));
    }

    /// A datagram without fragments takes [`Outbox::next_number`]; nothing is sent again when it is lost.
    pub(super) fn skip_number(&mut self) {
        self.sent.push_back(None);
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

    /// The peer has these datagrams. What that brought, by path.
    pub(super) fn acknowledge(&mut self, ranges: impl Iterator<Item = Range>) -> [Acked; PATHS_MAX] {
        let mut acked = [Acked::default(); PATHS_MAX];
        for (first, last) in ranges {
            let end = self.sent_base + self.sent.len() as u64;
            for number in first.max(self.sent_base)..last.saturating_add(1).min(end) {
                let Some(sent) = self.sent[(number - self.sent_base) as usize].take() else { continue };
                let news = &mut acked[usize::from(sent.path)];
                (news.count, news.bytes) = (news.count + 1, news.bytes + sent.bytes);
                news.newest = news.newest.max((number, sent.at));
                self.ways[usize::from(sent.path)].take_off(&sent);
                self.arrive(sent.fragments);
            }
        }
        for (way, news) in self.ways.iter_mut().zip(&acked) {
            way.newest_acked = way.newest_acked.max(news.newest.0);
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
    /// take that was overtaken on it, and any datagram. Returns for each path (overtaken ones lost,
    /// timed-out ones lost).
    pub(super) fn expire(
        &mut self,
        now: Time,
        limits: impl Fn(u8) -> (Duration, Duration),
    ) -> [(u64, u64); PATHS_MAX] {
        let mut lost = [(0, 0); PATHS_MAX];
        // On each path later ones left later: the first that is not lost ends the search there.
        let mut open = self.ways.map(|way| way.count > 0);
        for index in 0..self.sent.len() {
            if !open.contains(&true) {
                break;
            }
            let Some(sent) = &self.sent[index] else { continue };
            let path = usize::from(sent.path);
            let (overtaken, limit) = self.limit(index, sent, &limits);
            if !open[path] || now.since(sent.at) < limit {
                open[path] = false;
                continue;
            }
            if let Some(mut sent) = self.sent[index].take() {
                self.ways[path].take_off(&sent);
                self.resend.extend(sent.fragments.drain(..).map(|fragment| (fragment, sent.path)));
                self.spare_lists.push(sent.fragments);
            }
            if overtaken { lost[path].0 += 1 } else { lost[path].1 += 1 }
        }
        self.trim();
        lost
    }

    /// Whether a datagram was overtaken on its path, and how long it may take.
    fn limit(
        &self,
        index: usize,
        sent: &Sent,
        limits: impl Fn(u8) -> (Duration, Duration),
    ) -> (bool, Duration) {
        let overtaken = self.sent_base + (index as u64) < self.ways[usize::from(sent.path)].newest_acked;
        let (short, long) = limits(sent.path);
        (overtaken, if overtaken { short } else { long })
    }

    /// When [`Outbox::expire`] has something to do.
    pub(super) fn expires(&self, limits: impl Fn(u8) -> (Duration, Duration)) -> Option<Time> {
        let mut open = self.ways.map(|way| way.count > 0);
        let mut first: Option<Time> = None;
        for (index, sent) in self.sent.iter().enumerate() {
            if !open.contains(&true) {
                break;
            }
            let Some(sent) = sent else { continue };
            if std::mem::replace(&mut open[usize::from(sent.path)], false) {
                let at = sent.at + self.limit(index, sent, &limits).1;
                first = first.into_iter().chain([at]).min();
            }
        }
        first
    }
}

impl Way {
    fn take_off(&mut self, sent: &Sent) {
        self.count -= 1;
        self.bytes -= sent.bytes;
    }
}
