//! Bytes on their way to the client: reply headers in one list, payload by handle, in order; at depth both
//! are packed into a transmit ring.
//!
//! Few answers leave as a gather, without a copy of ours. Many leave faster from contiguous memory: the
//! kernel walks short pieces slowly, and a cold 4 KiB block is read faster by our copy than by its. So the
//! owner calls [`Output::pack_many`] before it sends. The ring is used at both
//! ends at once: one that had to drain before it was filled again would stall a deep client.

use palisade_dma::Buf;
use std::collections::VecDeque;

/// Bytes of the transmit ring: more than a socket takes at a time (about 200 KiB of a unix socket), and
/// little enough to stay in the cache. Its memory is taken when it is first needed.
const RING_BYTES: usize = 256 << 10;
/// Up to so many answers leave as a gather.
const GATHER_MAX: usize = 8;
/// Answers of more bytes on average leave as a gather: their slices are few for their bytes.
const PACKED_MAX: usize = 16 << 10;

/// Header bytes and the payload behind them.
#[derive(Debug)]
struct Piece {
    head: u32,
    payload: Option<Buf>,
}

impl Piece {
    fn payload(&self) -> &[u8] {
        self.payload.as_deref().unwrap_or_default()
    }
}

/// Queue of output. Neighbouring header bytes share a piece, so that a turn's acknowledgements are one
/// slice of the vectored write.
#[derive(Debug, Default)]
pub(super) struct Output {
    ring: Ring,
    /// Header bytes of all pieces; those before `heads_sent` are gone.
    heads: Vec<u8>,
    heads_sent: usize,
    pieces: VecDeque<Piece>,
    payload: usize,
    /// How much of the front piece's payload is gone.
    front_sent: usize,
}

impl Output {
    /// Appends header bytes (copied: they are few).
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.heads.extend_from_slice(bytes);
        match self.pieces.back_mut() {
            Some(Piece { head, payload: None }) => *head += bytes.len() as u32,
            _ => self.pieces.push_back(Piece { head: bytes.len() as u32, payload: None }),
        }
    }

    /// Appends a buffer by handle.
    #[inline]
    pub(super) fn put_payload(&mut self, buf: Buf) {
        if buf.is_empty() {
            return;
        }
        self.payload += buf.len();
        match self.pieces.back_mut() {
            Some(Piece { payload: payload @ None, .. }) => *payload = Some(buf),
            _ => self.pieces.push_back(Piece { head: 0, payload: Some(buf) }),
        }
    }

    /// Copies a small answer straight into the transmit ring, behind all that waits; false when there is no
    /// room for it, or when it is better sent from where it is.
    #[inline]
    pub(super) fn put_packed<const N: usize>(&mut self, head: &[u8; N], payload: &[u8]) -> bool {
        if !self.pieces.is_empty() {
            self.pack();
        }
        let bytes = N + payload.len();
        if !self.pieces.is_empty() || bytes > RING_BYTES - self.ring.len || payload.len() > PACKED_MAX {
            return false;
        }
        let end = self.ring.at + self.ring.len;
        match self.ring.bytes.get_mut(end..end + bytes) {
            Some(room) => {
                room[..N].copy_from_slice(head);
                room[N..].copy_from_slice(payload);
                self.ring.len += bytes;
            }
            None => {
                self.ring.put(head);
                self.ring.put(payload);
            }
        }
        true
    }

    /// Unsent bytes.
    #[inline]
    pub(super) fn pending(&self) -> usize {
        self.ring.len + self.header_bytes() + self.payload
    }

    /// Unsent bytes that are neither payload nor packed.
    #[inline]
    pub(super) fn header_bytes(&self) -> usize {
        self.heads.len() - self.heads_sent
    }

    /// Unsent bytes that are payload, or packed.
    #[inline]
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload + self.ring.len
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Packs if that pays.
    #[inline]
    pub(super) fn pack_many(&mut self) {
        let count = self.pieces.len();
        if count > GATHER_MAX && self.payload <= count * PACKED_MAX {
            self.pack();
        }
    }

    /// Copies what comes next into the transmit ring, as far as it has room, and lets go of the buffers.
    fn pack(&mut self) {
        while let Some(piece) = self.pieces.front() {
            let head = &self.heads[self.heads_sent..][..piece.head as usize];
            let bytes = if head.is_empty() { &piece.payload()[self.front_sent..] } else { head };
            let count = self.ring.put(bytes);
            if count == 0 {
                return;
            }
            self.pass(count);
        }
    }

    /// Unsent bytes in order, as slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.front_sent;
        let mut heads = &self.heads[self.heads_sent..];
        let pieces = self.pieces.iter().flat_map(move |piece| {
            let (head, rest) = heads.split_at(piece.head as usize);
            heads = rest;
            [head, &piece.payload()[std::mem::take(&mut skip)..]]
        });
        self.ring.slices().into_iter().chain(pieces).filter(|slice| !slice.is_empty())
    }

    /// The first bytes of [`Output::slices`], at most `most` slices, one call each.
    #[inline]
    pub(super) fn gather<'a>(&'a self, most: usize, mut each: impl FnMut(&'a [u8])) {
        let mut left = most;
        let mut one = |slice: &'a [u8]| {
            if !slice.is_empty() && left > 0 {
                left -= 1;
                each(slice);
            }
        };
        let [front, back] = self.ring.slices();
        one(front);
        one(back);
        let (mut skip, mut heads) = (self.front_sent, &self.heads[self.heads_sent..]);
        for piece in self.pieces.iter().take(most) {
            let (head, rest) = heads.split_at(piece.head as usize);
            heads = rest;
            one(head);
            one(&piece.payload()[std::mem::take(&mut skip)..]);
        }
    }

    /// Removes the first `count` bytes.
    ///
    /// # Panics
    /// When fewer are pending.
    pub(super) fn sent(&mut self, count: usize) {
        assert!(count <= self.pending(), "{count} bytes were reported sent that were never pending");
        let packed = count.min(self.ring.len);
        self.ring.take(packed);
        let count = count - packed;
        if count == 0 {
            return;
        }
        if count == self.header_bytes() + self.payload {
            while self.pieces.pop_front().is_some() {}
            self.heads.clear();
            (self.heads_sent, self.payload, self.front_sent) = (0, 0, 0);
        } else {
            self.pass(count);
        }
    }

    /// Removes the first `count` bytes that are not packed.
    fn pass(&mut self, mut count: usize) {
        while count > 0 {
            let piece = self.pieces.front_mut().expect("bytes that are pending stand in a piece");
            let head = count.min(piece.head as usize);
            piece.head -= head as u32;
            self.heads_sent += head;
            let part = (count - head).min(piece.payload().len() - self.front_sent);
            self.front_sent += part;
            self.payload -= part;
            count -= head + part;
            if piece.head == 0 && self.front_sent == piece.payload().len() {
                self.front_sent = 0;
                self.pieces.pop_front();
            }
        }
        // What is gone is cut off when it is more than what is left: each byte moves less than once.
        if self.heads_sent > self.heads.len() / 2 {
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
    }
}

/// The transmit ring.
#[derive(Debug, Default)]
struct Ring {
    bytes: Vec<u8>,
    at: usize,
    len: usize,
}

impl Ring {
    /// Appends as much as there is room for, which it tells.
    #[inline]
    fn put(&mut self, from: &[u8]) -> usize {
        if self.bytes.is_empty() {
            self.bytes = vec![0; RING_BYTES];
        }
        let count = from.len().min(RING_BYTES - self.len);
        let start = (self.at + self.len) % RING_BYTES;
        let front = count.min(RING_BYTES - start);
        self.bytes[start..start + front].copy_from_slice(&from[..front]);
        if front < count {
            self.bytes[..count - front].copy_from_slice(&from[front..count]);
        }
        self.len += count;
        count
    }

    /// Removes the first `count` bytes.
    fn take(&mut self, count: usize) {
        assert!(count <= self.len, "no more is taken than was put in");
        self.len -= count;
        self.at = if self.len == 0 { 0 } else { (self.at + count) % RING_BYTES };
    }

    fn slices(&self) -> [&[u8]; 2] {
        let front = self.len.min(self.bytes.len() - self.at);
        [&self.bytes[self.at..self.at + front], &self.bytes[..self.len - front]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Pool, PoolConfig};

    #[test]
    fn pieces_come_out_in_order_however_they_are_sent_and_packed() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        for (step, pack) in [1usize, 2, 3, 5, 7, 64, 1000].into_iter().flat_map(|s| [(s, 0), (s, 1), (s, 4)])
        {
            let mut output = Output::default();
            let mut expect = Vec::new();
            let mut got = Vec::new();
            for round in 0..50u8 {
                output.put(&[round; 16]);
                output.put(&[round ^ 0x55; 5]);
                expect.extend([round; 16].iter().chain(&[round ^ 0x55; 5]));
                let mut buf = pool.alloc(37).expect("slot");
                buf.fill(round | 0x80);
                expect.extend_from_slice(&buf);
                output.put_payload(buf.freeze());
                if pack > 0 && round % pack == 0 {
                    output.pack();
                    assert_eq!((output.pieces.len(), output.payload_bytes()), (0, output.pending()));
                }
                let take = step.min(output.pending());
                let all: Vec<u8> = output.slices().flatten().copied().collect();
                assert_eq!(all.len(), output.pending());
                let (mut gathered, mut calls) = (Vec::new(), 0);
                output.gather(3, |slice| {
                    gathered.extend_from_slice(slice);
                    calls += 1;
                });
                assert!(calls == output.slices().count().min(3) && all.starts_with(&gathered));
                got.extend_from_slice(&all[..take]);
                output.sent(take);
            }
            got.extend(output.slices().flatten());
            output.sent(output.pending());
            assert_eq!(got, expect);
            assert_eq!((output.pending(), output.payload_bytes()), (0, 0));
        }
        assert_eq!(pool.stats().free, pool.stats().total);
    }

    #[test]
    fn acknowledgements_share_one_slice() {
        let mut output = Output::default();
        (0..100).for_each(|_| output.put(&[1; 16]));
        assert_eq!((output.slices().count(), output.pieces.len()), (1, 1));
    }

    #[test]
    fn what_is_put_into_the_ring_stands_behind_all_that_waits() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        let mut output = Output::default();
        output.put(&[1; 16]);
        output.put_payload(pool.alloc_zeroed(600).expect("slot").freeze());
        assert!(output.put_packed(&[2; 28], &[3; 4096]));
        output.put(&[4; 16]);
        assert!(!output.put_packed(&[5; 28], &[6; PACKED_MAX + 1]), "large ones are not copied");
        let mut fitted = 0;
        while output.put_packed(&[7; 28], &[8; 16 << 10]) {
            fitted += 1;
        }
        assert_eq!(fitted, 15, "and never more than there is room for");
        let all: Vec<u8> = output.slices().flatten().copied().collect();
        let start = [&[1u8; 16][..], &[0; 600], &[2; 28], &[3; 4096], &[4; 16], &[7; 28], &[8; 16]].concat();
        assert!(all.starts_with(&start) && all.len() == 16 + 600 + 28 + 4096 + 16 + 15 * (28 + (16 << 10)));
    }

    #[test]
    fn many_small_answers_are_packed_and_few_or_large_ones_are_not() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        for (count, bytes, packed) in [(8, 4096, false), (9, 4096, true), (9, 64 << 10, false)] {
            let mut output = Output::default();
            for _ in 0..count {
                output.put(&[1; 16]);
                output.put_payload(pool.alloc(bytes).expect("slot").freeze());
            }
            output.pack_many();
            assert_eq!(output.pieces.is_empty(), packed, "{count} of {bytes}");
            assert_eq!(output.pending(), count * (16 + bytes));
        }
    }

    #[test]
    fn the_transmit_ring_is_filled_while_it_empties_and_never_grows() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        let (mut output, mut expect, mut got) = (Output::default(), Vec::new(), Vec::new());
        for round in 0..60u8 {
            let mut buf = pool.alloc(20_000).expect("slot");
            buf.fill(round);
            output.put(&[round; 28]);
            expect.extend_from_slice(&[round; 28]);
            expect.extend_from_slice(&buf);
            output.put_payload(buf.freeze());
            output.pack();
            assert!(output.ring.len <= RING_BYTES && output.ring.bytes.len() == RING_BYTES);
            if round > 12 {
                let part: Vec<u8> = output.slices().flatten().copied().take(19_000).collect();
                got.extend_from_slice(&part);
                output.sent(part.len());
            }
        }
        assert!(output.ring.len > 0 && !output.pieces.is_empty(), "more came than the ring holds");
        got.extend(output.slices().flatten());
        output.sent(output.pending());
        assert!(got == expect && output.ring.len == 0);
        assert_eq!(pool.stats().free, pool.stats().total);
    }
}
