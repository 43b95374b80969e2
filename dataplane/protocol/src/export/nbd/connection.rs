//! The connection: phases, input, completions, output.

use super::Exports;
use crate::wire::{ClientCmd, ClientDone, ClientTag};
use palisade_dma::Pool;

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
}

/// Counters of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests accepted.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Times input waited because the buffer pool was empty.
    pub pool_waits: u64,
    /// Times input waited because a limit of the connection was reached.
    pub limit_waits: u64,
}

/// Server side of one NBD connection.
#[derive(Debug)]
pub struct Connection {
    tag_base: u32,
    phase: Phase,
    reason: Option<Reason>,
    stats: Stats,
    out: Vec<u8>,
}

impl Connection {
    /// A fresh connection; its greeting waits in the output. Tags of its commands carry `id` in their
    /// upper 32 bits, so that the owner finds the connection of an answer.
    pub fn new(id: u32) -> Self {
        Self { tag_base: id, phase: Phase::Handshake, reason: None, stats: Stats::default(), out: Vec::new() }
    }

    /// Which connection a tag belongs to.
    pub fn id_of(tag: ClientTag) -> u32 {
        (tag.0 >> 32) as u32
    }

    /// Takes received bytes and returns how many were consumed; the rest must be offered again, later,
    /// with what arrived behind it. Call it once per turn even without new bytes: it also issues the
    /// held-back parts of large requests. Commands are appended to `commands`.
    pub fn input(
        &mut self,
        bytes: &[u8],
        _exports: &dyn Exports,
        _pool: &Pool,
        _commands: &mut Vec<ClientCmd>,
    ) -> usize {
        bytes.len()
    }

    /// Room for payload that is still to come, when so much of it is due that reading the socket
    /// straight into the pool buffer pays. Offer unconsumed bytes to [`Connection::input`] first.
    pub fn want_payload(&mut self) -> Option<&mut [u8]> {
        None
    }

    /// `count` bytes were read into what [`Connection::want_payload`] gave.
    pub fn payload_received(&mut self, _count: usize, _commands: &mut Vec<ClientCmd>) {}

    /// The answer of one of this connection's commands. Answers of unknown tags are ignored.
    pub fn complete(&mut self, _done: ClientDone) {}

    /// The bytes to send, in order, as pieces for one vectored write.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.out[..]).filter(|piece| !piece.is_empty())
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// The socket took the first `count` pending bytes.
    pub fn sent(&mut self, count: usize) {
        self.out.drain(..count);
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Set when the socket may be closed (all output was taken, or the protocol was broken).
    pub fn closed(&self) -> Option<Reason> {
        self.reason
    }

    /// Whether unconsumed input would be taken now, or waits for answers, for the socket or for the pool.
    pub fn stalled(&self) -> bool {
        false
    }

    /// Ends the connection in good order: open requests are answered, new ones get NBD_ESHUTDOWN.
    pub fn shutdown(&mut self) {
        self.reason = Some(Reason::Shutdown);
    }

    /// Tags of commands without an answer, for P-11: when the socket is lost, un-numbered ones are aborted.
    pub fn open_tags(&self) -> impl Iterator<Item = ClientTag> {
        std::iter::empty::<u32>().map(|low| ClientTag(u64::from(self.tag_base) << 32 | u64::from(low)))
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
