//! One pipelined connection that never waits: requests gather in one buffer and leave in one write per
//! poll; replies come in reads of up to a mebibyte and are taken apart where they lie.
//!
//! Written payload is copied once into the outgoing buffer (one contiguous write beats a gather at depth);
//! read payload is copied once to its slot, and only when somebody looks at it.

use super::handshake::{self, Export, Group, HandshakeError};
use super::stream::{Stream, moved};
use super::uri::Uri;
use super::wire::{REPLY_LEN, Reply, Request};
use palisade_protocol::export::nbd::Known;
use std::io::{self, Read, Write};
use std::time::Duration;

/// Size of the receive buffer: below 512 KiB a polled client loses a fifth of its speed.
const RECEIVE_BYTES: usize = 1 << 20;

/// What the owner of a connection is told.
pub trait Sink {
    /// Payload bytes that follow the good reply to `cookie`; `None` when there is no such request.
    fn expects(&mut self, cookie: u64, errno: u32) -> Option<usize>;
    /// Payload of `cookie` from `at`.
    fn payload(&mut self, cookie: u64, at: usize, bytes: &[u8]);
    /// The request ended.
    fn ended(&mut self, cookie: u64, errno: u32);
}

/// Payload that is on its way in.
struct Coming {
    cookie: u64,
    at: usize,
    len: usize,
}

/// A connection in transmission phase.
pub struct Connection {
    stream: Stream,
    export: Export,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    start: usize,
    end: usize,
    coming: Option<Coming>,
}

impl Connection {
    /// Connects and shakes hands.
    pub fn open(uri: &Uri) -> Result<Self, HandshakeError> {
        let mut stream = Stream::connect(&uri.place)?;
        let export = handshake::ask(&mut stream, &uri.name)?;
        Self::attached(stream, export)
    }

    /// The same for a client that can follow the volume, and does not wait longer than `patience` for any answer.
    pub fn open_known(
        uri: &Uri,
        known: &Known,
        patience: Duration,
    ) -> Result<(Self, Option<Group>), HandshakeError> {
        let mut stream = Stream::connect_within(&uri.place, patience)?;
        let (export, group) = handshake::ask_group(&mut stream, &uri.name, known)?;
        Ok((Self::attached(stream, export)?, group))
    }

    fn attached(stream: Stream, export: Export) -> Result<Self, HandshakeError> {
        stream.polled()?;
        Ok(Self {
            stream,
            export,
            out: Vec::with_capacity(RECEIVE_BYTES),
            sent: 0,
            input: vec![0; RECEIVE_BYTES],
            start: 0,
            end: 0,
            coming: None,
        })
    }

    /// What the server offers.
    pub fn export(&self) -> Export {
        self.export
    }

    /// Queues a request; it leaves at the next [`Connection::push`].
    pub fn queue(&mut self, request: Request, payload: &[u8]) {
        self.out.extend_from_slice(&request.encode());
        self.out.extend_from_slice(payload);
    }

    /// Sends what the socket takes.
    pub fn push(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match moved(self.stream.write(&self.out[self.sent..]))? {
                Some(n) => self.sent += n,
                None => return Ok(()),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Receives once and hands over what arrived.
    pub fn pull(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        let Some(n) = moved(self.stream.read(&mut self.input[self.end..]))? else { return Ok(()) };
        self.end += n;
        self.take_apart(sink)?;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        Ok(())
    }

    fn take_apart(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        loop {
            if let Some(coming) = &mut self.coming {
                let n = (coming.len - coming.at).min(self.end - self.start);
                sink.payload(coming.cookie, coming.at, &self.input[self.start..self.start + n]);
                self.start += n;
                coming.at += n;
                if coming.at < coming.len {
                    return Ok(());
                }
                sink.ended(coming.cookie, 0);
                self.coming = None;
            }
            let Some(head) = self.input[self.start..self.end].first_chunk::<REPLY_LEN>() else {
                return Ok(());
            };
            let reply = Reply::decode(head).ok_or_else(|| broken("a reply with a wrong magic"))?;
            self.start += REPLY_LEN;
            let len = sink
                .expects(reply.cookie, reply.errno)
                .ok_or_else(|| broken("a reply to a request that is not in flight"))?;
            if len == 0 {
                sink.ended(reply.cookie, reply.errno);
            } else {
                self.coming = Some(Coming { cookie: reply.cookie, at: 0, len });
            }
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A clean goodbye (NBD_CMD_DISC) when the socket takes it; a dead server does not mind.
        let bye = Request { command: super::wire::CMD_DISC, cookie: 0, offset: 0, len: 0 };
        if self.sent == self.out.len() {
            let _gone = self.stream.write(&bye.encode());
        }
    }
}
