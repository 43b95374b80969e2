//! The connection: what it is made of, input, output, end.

use super::group::Knock;
use super::handshake::Handshake;
use super::limits::{BYTES_MAX, DIRECT_MIN};
use super::open::Open;
use super::output::Output;
use super::request::{Attached, HEADER_BYTES, Header};
use super::serve::Wait;
use super::words::{Errno, FIXED_NEWSTYLE, IHAVEOPT, NBDMAGIC, NO_ZEROES};
use super::{Exports, Stats};
use crate::wire::limits::IO_BYTES_MAX;
use crate::wire::{ClientCmd, ClientTag, PartitionId};
use palisade_dma::{BufMut, Pool};
use std::collections::VecDeque;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Greeting and options.
    Handshake,
    /// Requests and replies.
    Transmission,
    /// No more requests are read; answers of open ones still go out.
    Draining,
    /// The socket may be closed.
    Closed,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The client said goodbye (NBD_CMD_DISC or NBD_OPT_ABORT).
    #[error("client disconnected")]
    Disconnected,
    /// The server side asked for the end.
    #[error("server shut the connection down")]
    Shutdown,
    /// The client broke the protocol.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
    /// A large read failed after part of its simple reply was out; only structured replies can tell.
    #[error("a read failed in the middle of its simple reply")]
    ReadFailed,
}

/// What the next received byte belongs to.
#[derive(Debug)]
pub(super) enum Receive {
    /// The client's handshake flags.
    ClientFlags,
    /// An option's header.
    OptionHeader,
    /// An option's data.
    OptionData { option: u32, len: usize },
    /// Data of an option that is too long.
    OptionSkip { option: u32, left: usize },
    /// A request's header.
    Header,
    /// Nothing, until this request could be started.
    Waiting(Header),
    /// Payload of a write; the buffer is taken when its first byte is due.
    Payload { request: u16, buf: Option<BufMut>, filled: u32, offset: u64, len: u32 },
    /// Payload of a refused write.
    Discard { cookie: u64, errno: Errno, left: u32 },
    /// Bytes after the end, which nobody reads.
    Nothing,
}

/// Server side of one NBD connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) receive: Receive,
    pub(super) attached: Option<Attached>,
    pub(super) open: Open,
    pub(super) output: Output,
    pub(super) waiting: Option<Wait>,
    /// A large simple read, whose answer nothing may interrupt.
    pub(super) exclusive: Option<u16>,
    /// Large requests with parts that are not issued yet.
    pub(super) held: VecDeque<u16>,
    pub(super) stats: Stats,
    /// Most payload bytes in open commands and unsent answers.
    pub(super) bytes_max: usize,
    /// Start of a header whose rest is still to come.
    pub(super) carry: Vec<u8>,
    // ---- below: not touched by small reads and writes ----
    pub(super) runs: Vec<(u32, u32)>,
    reason: Option<Reason>,
    broken: bool,
    pub(super) handshake: Handshake,
}

impl Connection {
    /// A fresh connection; its greeting waits in the output. Tags of its commands carry `id` in their
    /// upper 32 bits, so that the owner finds the connection of an answer.
    pub fn new(id: u32) -> Self {
        let mut output = Output::default();
        output.put(&NBDMAGIC.to_be_bytes());
        output.put(&IHAVEOPT.to_be_bytes());
        output.put(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        Self {
            receive: Receive::ClientFlags,
            attached: None,
            open: Open::new(id),
            output,
            waiting: None,
            exclusive: None,
            held: VecDeque::new(),
            stats: Stats::default(),
            bytes_max: BYTES_MAX,
            carry: Vec::new(),
            runs: Vec::new(),
            reason: None,
            broken: false,
            handshake: Handshake::default(),
        }
    }

    /// Holds no more than so many payload bytes from now on in open commands and unsent answers, within what
    /// one largest command needs and [`BYTES_MAX`]. All connections of a host draw on the same buffers, and a
    /// read that has some of its bytes waits for the rest: together they must not want more than there is.
    pub fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes.clamp(IO_BYTES_MAX, BYTES_MAX);
    }

    /// Which connection a tag belongs to.
    pub fn id_of(tag: ClientTag) -> u32 {
        (tag.0 >> 32) as u32
    }

    /// Takes received bytes and returns how many were consumed; the rest must be offered again, later,
    /// with what arrived behind it. Call it once per turn even without new bytes: it also starts what
    /// waited for room and issues held-back parts of large requests. Commands are appended to `commands`.
    pub fn input(
        &mut self,
        bytes: &[u8],
        exports: &dyn Exports,
        pool: &Pool,
        commands: &mut Vec<ClientCmd>,
    ) -> usize {
        self.waiting = None;
        if !self.held.is_empty() {
            self.pump(pool, commands);
        }
        let mut rest = bytes;
        while self.step(&mut rest, exports, pool, commands) {}
        bytes.len() - rest.len()
    }

    /// One element of the input. Returns whether there may be more to do.
    fn step(
        &mut self,
        rest: &mut &[u8],
        exports: &dyn Exports,
        pool: &Pool,
        commands: &mut Vec<ClientCmd>,
    ) -> bool {
        match self.receive {
            Receive::Header => self.header(rest, pool, commands),
            Receive::Waiting(header) => self.admit(header, pool, commands),
            Receive::Payload { .. } => self.fill(rest, pool, commands),
            Receive::Discard { .. } => self.discard(rest),
            Receive::Nothing => {
                *rest = &[];
                false
            }
            _ => self.negotiate(rest, exports),
        }
    }

    /// Parses a request's header, in place when it lies whole in the input.
    fn header(&mut self, rest: &mut &[u8], pool: &Pool, commands: &mut Vec<ClientCmd>) -> bool {
        let parsed = match rest.split_first_chunk::<HEADER_BYTES>() {
            Some((bytes, after)) if self.carry.is_empty() => {
                *rest = after;
                Header::parse(bytes)
            }
            _ => {
                if !self.gather(rest, HEADER_BYTES) {
                    return false;
                }
                let parsed = self.carry.first_chunk().and_then(Header::parse);
                self.carry.clear();
                parsed
            }
        };
        match parsed {
            Some(header) => return self.admit(header, pool, commands),
            None => self.close(Reason::Violation("a request does not start with the request magic")),
        }
        true
    }

    /// Collects `need` bytes in the carry; whether they are all there.
    pub(super) fn gather(&mut self, rest: &mut &[u8], need: usize) -> bool {
        let count = rest.len().min(need - self.carry.len());
        self.carry.extend_from_slice(&rest[..count]);
        *rest = &rest[count..];
        self.carry.len() == need
    }

    /// Room for payload that is still to come, when so much of it is due that reading the socket
    /// straight into the pool buffer pays. Offer unconsumed bytes to [`Connection::input`] first.
    pub fn want_payload(&mut self) -> Option<&mut [u8]> {
        let Receive::Payload { buf: Some(buf), filled, len, .. } = &mut self.receive else { return None };
        let room = *filled as usize..*len as usize;
        (room.len() >= DIRECT_MIN).then(|| &mut buf[room])
    }

    /// `count` bytes were read into what [`Connection::want_payload`] gave.
    ///
    /// # Panics
    /// When more bytes are reported than there was room for.
    pub fn payload_received(&mut self, count: usize, commands: &mut Vec<ClientCmd>) {
        if count > 0 {
            self.filled(count as u32, commands);
        }
    }

    /// Copies answers into a transmit ring, as far as it has room, if they are many and small: then one
    /// contiguous write is cheaper than a gather of many slices. Call it before [`Connection::pieces`].
    pub fn pack_many(&mut self) {
        self.output.pack_many();
    }

    /// The bytes to send, in order, as pieces for one vectored write.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.output.slices()
    }

    /// The first of those pieces, at most `most`, one call each: cheaper than the iterator.
    #[inline]
    pub fn each_piece<'a>(&'a self, most: usize, each: impl FnMut(&'a [u8])) {
        self.output.gather(most, each);
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> usize {
        self.output.pending()
    }

    /// The socket took the first `count` pending bytes.
    ///
    /// # Panics
    /// When fewer were pending.
    pub fn sent(&mut self, count: usize) {
        self.output.sent(count);
    }

    /// The partition that the client attached to, from the attach on.
    pub fn partition(&self) -> Option<PartitionId> {
        self.attached.map(|attached| attached.partition)
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        if self.closed().is_some() {
            Phase::Closed
        } else if self.reason.is_some() {
            Phase::Draining
        } else if self.attached.is_some() {
            Phase::Transmission
        } else {
            Phase::Handshake
        }
    }

    /// Set when the socket and this machine may go: all was answered and taken, or the protocol was broken
    /// (then nothing more is sent). Never while commands are open: a late answer must not find another
    /// connection behind the same id.
    pub fn closed(&self) -> Option<Reason> {
        let quiet = || match self.broken {
            true => self.open.tags().next().is_none(),
            false => self.open.requests() == 0 && self.output.pending() == 0,
        };
        self.reason.filter(|_| quiet())
    }

    /// Whether input waits for open commands, unsent answers or buffers. A loop that would park must
    /// know [`Connection::wants_pool`]; the other waits end with a completion or a writable socket.
    pub fn stalled(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether input waits for the buffer pool, which tells nobody when it has room: call
    /// [`Connection::input`] again soon.
    pub fn wants_pool(&self) -> bool {
        self.waiting == Some(Wait::Pool)
    }

    /// Whether [`Connection::input`] would start something now even without new bytes: room came free for
    /// parts of a large request, or for a request that waited. Ask before parking.
    pub fn wants_turn(&self) -> bool {
        self.wants_pool() || self.could_start()
    }

    /// Requests that were answered, well or not (MA-12).
    pub fn answered(&self) -> u64 {
        self.stats.requests.saturating_sub(self.open.requests() as u64)
    }

    /// The client asked for a volume that another head leads, and was refused (MA-14). Told once.
    pub fn take_knock(&mut self) -> Option<Knock> {
        self.handshake.knock.take()
    }

    /// Whether no request is open and nothing waits to be sent.
    pub fn idle(&self) -> bool {
        self.open.requests() == 0 && self.output.pending() == 0
    }

    /// Ends the connection in good order: no more requests are read, open ones are answered, then
    /// [`Connection::closed`] speaks. What the client sent beyond that was never started.
    pub fn shutdown(&mut self) {
        if self.reason.is_none() {
            self.drain(Reason::Shutdown);
        }
    }

    /// Ends the connection at once.
    pub(super) fn close(&mut self, reason: Reason) {
        self.reason = Some(reason);
        self.broken = true;
        self.receive = Receive::Nothing;
        self.held.clear();
        self.output.clear();
    }

    /// Whether the connection was ended at once.
    pub(super) fn broken(&self) -> bool {
        self.broken
    }

    /// Remembers the first reason of an orderly end.
    pub(super) fn note_end(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// Whether the client asked for structured replies.
    pub(super) fn structured(&self) -> bool {
        self.attached.is_some_and(|attached| attached.structured)
    }

    /// Tags of commands without an answer, for P-11: when the socket is lost, un-numbered ones are aborted.
    pub fn open_tags(&self) -> impl Iterator<Item = ClientTag> {
        self.open.tags()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
