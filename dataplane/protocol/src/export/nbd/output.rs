//! Bytes on their way to the client: reply headers in one ring, payload by handle, in order.

use palisade_dma::Buf;
use std::collections::VecDeque;

/// What comes next: so many bytes of the header ring, or a buffer.
#[derive(Debug)]
enum Piece {
    Bytes(usize),
    Payload(Buf),
}

/// Queue of output pieces. Neighbouring header bytes share a piece, so that a turn's acknowledgements
/// are one slice of the vectored write.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: VecDeque<u8>,
    pieces: VecDeque<Piece>,
    payload: usize,
    /// How much of a payload piece at the front was sent.
    front_sent: usize,
}

impl Output {
    /// Appends header bytes (copied: they are few).
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes.extend(bytes);
        match self.pieces.back_mut() {
            Some(Piece::Bytes(count)) => *count += bytes.len(),
            _ => self.pieces.push_back(Piece::Bytes(bytes.len())),
        }
    }

    /// Appends a buffer by handle.
    pub(super) fn put_payload(&mut self, buf: Buf) {
        if !buf.is_empty() {
            self.payload += buf.len();
            self.pieces.push_back(Piece::Payload(buf));
        }
    }

    /// Unsent bytes.
    pub(super) fn pending(&self) -> usize {
        self.bytes.len() + self.payload
    }

    /// Unsent bytes that are not payload.
    pub(super) fn header_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Unsent bytes that are payload.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Unsent bytes in order, as slices.
    pub(super) fn slices(&self) -> Slices<'_> {
        let (front, back) = self.bytes.as_slices();
        Slices { pieces: self.pieces.iter(), front, back, skip: self.front_sent, bytes_left: 0 }
    }

    /// Removes the first `count` bytes.
    ///
    /// # Panics
    /// When fewer are pending.
    pub(super) fn sent(&mut self, mut count: usize) {
        while count > 0 {
            match self.pieces.front_mut() {
                Some(Piece::Bytes(left)) => {
                    let part = count.min(*left);
                    self.bytes.drain(..part);
                    *left -= part;
                    count -= part;
                    if *left == 0 {
                        self.pieces.pop_front();
                    }
                }
                Some(Piece::Payload(buf)) => {
                    let part = count.min(buf.len() - self.front_sent);
                    self.front_sent += part;
                    self.payload -= part;
                    count -= part;
                    if self.front_sent == buf.len() {
                        self.front_sent = 0;
                        self.pieces.pop_front();
                    }
                }
                None => panic!("{count} bytes were reported sent that were never pending"),
            }
        }
    }
}

/// Iterator of [`Output::slices`].
pub(super) struct Slices<'a> {
    pieces: std::collections::vec_deque::Iter<'a, Piece>,
    front: &'a [u8],
    back: &'a [u8],
    skip: usize,
    /// Header bytes of the current piece that lie beyond the ring's wrap.
    bytes_left: usize,
}

impl<'a> Slices<'a> {
    /// At most `count` header bytes from one side of the ring's wrap.
    fn take_bytes(&mut self, count: usize) -> &'a [u8] {
        if self.front.is_empty() {
            self.front = std::mem::take(&mut self.back);
        }
        let (head, rest) = self.front.split_at(count.min(self.front.len()));
        self.front = rest;
        self.bytes_left = count - head.len();
        head
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.bytes_left > 0 {
            return Some(self.take_bytes(self.bytes_left));
        }
        match self.pieces.next()? {
            Piece::Bytes(count) => Some(self.take_bytes(*count)),
            Piece::Payload(buf) => Some(&buf[std::mem::take(&mut self.skip)..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_dma::{Pool, PoolConfig};

    #[test]
    fn pieces_come_out_in_order_however_they_are_sent() {
        let pool = Pool::new(PoolConfig::small()).expect("maps");
        for step in [1usize, 2, 3, 5, 7, 64, 1000] {
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
                let take = step.min(output.pending());
                let all: Vec<u8> = output.slices().flatten().copied().collect();
                assert_eq!(all.len(), output.pending());
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
        assert!(output.slices().count() <= 2);
    }
}
