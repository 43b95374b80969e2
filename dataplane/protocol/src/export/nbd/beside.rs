//! The short way: requests that a volume in the owner's hands carries out while they are parsed.
//!
//! A command costs a slot, a tag, a way there and back, and its payload a buffer. None of that is needed
//! where the volume can answer at once: a read's bytes are copied once, from the volume into the transmit
//! ring, and those of a write once, from where they were received into the volume. Both are mostly far from
//! the cache, so the volume is told of the next request before this one is copied. What is not that simple (a request of several parts, other
//! commands, a payload that is not there yet, a range that the volume has not in one piece, a limit) takes
//! the general way, through commands; clients see no difference.

use super::Exports;
use super::connection::{Connection, Receive};
use super::limits::{BYTES_MAX, REPLY_BYTES_MAX};
use super::open::Kind;
use super::reply::{data_head, simple_head};
use super::request::{HEADER_BYTES, Header, judge, part_len};
use super::words::{chunk, flag};
use crate::wire::volume::zeroes;
use crate::wire::{ClientCmd, PartitionId};
use palisade_dma::Pool;

/// A volume that can answer simple requests at once.
pub trait Beside {
    /// The partition that it is.
    fn partition(&self) -> PartitionId;
    /// The bytes of a range inside the volume, if it has them in one piece.
    fn read(&mut self, offset: u64, len: u32) -> Option<Lent<'_>>;
    /// Takes the bytes over; false (and nothing but these bytes' range touched) when it cannot now.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool;
    /// A request for what stands there follows; bytes that are far away may be brought near.
    fn expect(&self, _offset: u64) {}
}

/// What a volume shows of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent<'a> {
    /// The bytes.
    Bytes(&'a [u8]),
    /// Nothing is stored there: zeroes.
    Hole,
}

impl Connection {
    /// As [`Connection::input`], with simple requests carried out at once by `volume` when it is the one
    /// that the client attached to.
    pub fn input_beside(
        &mut self,
        bytes: &[u8],
        exports: &dyn Exports,
        pool: &Pool,
        commands: &mut Vec<ClientCmd>,
        volume: &mut impl Beside,
    ) -> usize {
        if self.partition() == Some(volume.partition()) {
            let mut taken = 0;
            loop {
                taken += self.at_once(&bytes[taken..], volume);
                if taken == bytes.len() && self.between_requests() && self.held.is_empty() {
                    self.waiting = None;
                    break;
                }
                // Exactly one request goes the general way, then the short one is tried again.
                let next = self.one_request(&bytes[taken..]);
                let count = self.input(next, exports, pool, commands);
                taken += count;
                if next.is_empty() || count < next.len() {
                    break;
                }
            }
            return taken;
        }
        self.input(bytes, exports, pool, commands)
    }

    /// The bytes of the next request, or of the rest of one that came in part, as far as they are there.
    fn one_request<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let due = match self.receive {
            Receive::Header if self.carry.is_empty() => {
                let header = bytes.first_chunk().and_then(Header::parse);
                header.map_or(HEADER_BYTES, |header| HEADER_BYTES + header.payload_bytes())
            }
            Receive::Header => HEADER_BYTES - self.carry.len(),
            Receive::Payload { request, filled, .. } => {
                let request = self.open.request(request);
                (request.len - request.issued - filled) as usize
            }
            Receive::Discard { left, .. } => left as usize,
            _ => bytes.len(),
        };
        &bytes[..due.min(bytes.len())]
    }

    /// Whether the next byte starts a request.
    fn between_requests(&self) -> bool {
        matches!(self.receive, Receive::Header) && self.carry.is_empty()
    }

    /// Carries out simple requests, up to the first that is not; returns the bytes that they took.
    fn at_once(&mut self, bytes: &[u8], volume: &mut impl Beside) -> usize {
        let Some(attached) = self.attached else { return 0 };
        if !self.between_requests() || self.exclusive.is_some() {
            return 0;
        }
        let mut rest = bytes;
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let Some(header) = Header::parse(header) else { break };
            let Ok(kind) = judge(&header, &attached) else { break };
            let len = header.len;
            let simple = len > 0 && part_len(header.offset, len) == len;
            let room = self.output.header_bytes() <= REPLY_BYTES_MAX
                && self.open.bytes + self.output.payload_bytes() + len as usize <= BYTES_MAX;
            if !simple || !room {
                break;
            }
            let Some(next) = after.get(header.payload_bytes()..) else { break };
            if let Some(follows) = Header::peek_offset(next).filter(|offset| *offset < attached.bytes) {
                volume.expect(follows);
            }
            let done = match kind {
                Kind::Read => match volume.read(header.offset, len) {
                    Some(data) => self.whole_read(&header, data, attached.structured),
                    None => false,
                },
                Kind::Write => {
                    volume.write(header.offset, &after[..len as usize]) && {
                        self.simple(header.cookie, 0);
                        true
                    }
                }
                _ => false,
            };
            if !done {
                break;
            }
            rest = next;
            self.stats.requests += 1;
        }
        bytes.len() - rest.len()
    }

    /// A read's answer in one piece; false when it does not fit into the transmit ring.
    #[inline]
    fn whole_read(&mut self, header: &Header, data: Lent<'_>, structured: bool) -> bool {
        let (cookie, offset, len) = (header.cookie, header.offset, header.len);
        match data {
            Lent::Bytes(bytes) => {
                assert_eq!(bytes.len(), len as usize, "a read is answered in full");
                if structured {
                    self.output.put_packed(&data_head(chunk::DONE, cookie, offset, len), bytes)
                } else {
                    self.output.put_packed(&simple_head(cookie, 0), bytes)
                }
            }
            Lent::Hole if structured && header.flags & flag::DF == 0 => {
                self.hole(chunk::DONE, cookie, offset, len);
                true
            }
            Lent::Hole => {
                let head = (simple_head(cookie, 0), data_head(chunk::DONE, cookie, offset, len));
                self.output.put(if structured { &head.1 } else { &head.0 });
                self.output.put_payload(zeroes(len as usize));
                true
            }
        }
    }
}
