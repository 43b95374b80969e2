//! An NBD export as a load target, over one or more connections.
//!
//! A slot always uses the same connection (`slot % connections`). Cookies carry the slot and a generation,
//! so that an answer to a request of an earlier connection or run is not taken for a new one.

use super::client::{Connection, Sink};
use super::handshake::{Group, HandshakeError};
use super::uri::Uri;
use super::wire::{CMD_FLUSH, CMD_READ, CMD_WRITE, Request};
use crate::target::{Done, Op, Target, TargetError, Verb, Want};
use palisade_protocol::export::nbd::Known;
use std::time::Duration;

/// A request in flight.
#[derive(Clone, Copy)]
struct Pending {
    op: Op,
    generation: u32,
}

/// Slots: what is in flight and its bytes.
struct Slots {
    pending: Vec<Option<Pending>>,
    buffers: Vec<Vec<u8>>,
    look: bool,
    ended: Vec<Done>,
}

impl Slots {
    fn pending(&self, cookie: u64) -> Option<(usize, Pending)> {
        let slot = (cookie & u64::from(u32::MAX)) as usize;
        let pending = (*self.pending.get(slot)?)?;
        (u64::from(pending.generation) == cookie >> 32).then_some((slot, pending))
    }
}

impl Sink for Slots {
    fn expects(&mut self, cookie: u64, errno: u32) -> Option<usize> {
        let (_, pending) = self.pending(cookie)?;
        let data = pending.op.verb == Verb::Read && errno == 0;
        Some(if data { pending.op.len as usize } else { 0 })
    }

    fn payload(&mut self, cookie: u64, at: usize, bytes: &[u8]) {
        if self.look {
            let slot = (cookie & u64::from(u32::MAX)) as usize;
            self.buffers[slot][at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn ended(&mut self, cookie: u64, errno: u32) {
        let slot = (cookie & u64::from(u32::MAX)) as u32;
        self.pending[slot as usize] = None;
        self.ended.push(Done { slot, errno });
    }
}

/// The target.
pub struct NbdTarget {
    uri: Uri,
    want: Want,
    connections: Vec<Connection>,
    in_flight: Vec<u32>,
    slots: Slots,
    generation: u32,
    bytes: u64,
}

impl NbdTarget {
    /// Connects.
    pub fn open(uri: Uri, want: Want) -> Result<Self, TargetError> {
        let mut target = Self::closed(uri, want);
        target.reconnect()?;
        Ok(target)
    }

    /// Not connected yet.
    pub(super) fn closed(uri: Uri, want: Want) -> Self {
        let count = want.slots as usize;
        let slots = Slots {
            pending: vec![None; count],
            buffers: (0..count).map(|_| vec![0; want.slot_bytes]).collect(),
            look: want.look,
            ended: Vec::with_capacity(count),
        };
        Self { uri, want, connections: Vec::new(), in_flight: Vec::new(), slots, generation: 0, bytes: 0 }
    }

    /// Goes to another address from the next connection on.
    pub(super) fn redirect(&mut self, uri: Uri) {
        self.uri = uri;
    }

    /// Connects as a client that can follow the volume (MA-11): says what it knows of the group, and hears of the
    /// newest one, also when it is refused.
    pub(super) fn attach(
        &mut self,
        known: &Known,
        patience: Duration,
    ) -> Result<Option<Group>, HandshakeError> {
        self.forget();
        let mut newest = None;
        for _ in 0..self.want.connections.max(1) {
            let (connection, group) = Connection::open_known(&self.uri, known, patience)?;
            newest = newest.or(group);
            self.bytes = connection.export().bytes;
            self.connections.push(connection);
        }
        Ok(newest)
    }

    /// Everything in flight is open, and nothing is connected.
    fn forget(&mut self) {
        self.connections.clear();
        self.slots.pending.fill(None);
        self.slots.ended.clear();
        self.in_flight = vec![0; self.want.connections.max(1) as usize];
    }

    /// Splits the borrow: connection `index` and the slots.
    fn each(&mut self, index: usize) -> Result<(), TargetError> {
        let connection = &mut self.connections[index];
        let before = self.slots.ended.len();
        let lost = |e: std::io::Error| TargetError::Lost(format!("{}: {e}", self.uri));
        connection.push().map_err(lost)?;
        connection.pull(&mut self.slots).map_err(lost)?;
        self.in_flight[index] -= (self.slots.ended.len() - before) as u32;
        Ok(())
    }
}

impl Target for NbdTarget {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn buffer(&mut self, slot: u32) -> &mut [u8] {
        &mut self.slots.buffers[slot as usize]
    }

    fn submit(&mut self, slot: u32, op: Op) -> Result<(), TargetError> {
        let index = slot as usize % self.connections.len();
        let place = &mut self.slots.pending[slot as usize];
        assert!(place.is_none(), "slot {slot} is busy");
        self.generation = self.generation.wrapping_add(1);
        *place = Some(Pending { op, generation: self.generation });
        let (command, payload): (u16, &[u8]) = match op.verb {
            Verb::Read => (CMD_READ, &[]),
            Verb::Write => (CMD_WRITE, &self.slots.buffers[slot as usize][..op.len as usize]),
            Verb::Flush => (CMD_FLUSH, &[]),
        };
        let cookie = (u64::from(self.generation) << 32) | u64::from(slot);
        let (offset, len) = if op.verb == Verb::Flush { (0, 0) } else { (op.offset, op.len) };
        self.connections[index].queue(Request { command, cookie, offset, len }, payload);
        self.in_flight[index] += 1;
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), TargetError> {
        for index in 0..self.connections.len() {
            if self.in_flight[index] > 0 {
                self.each(index)?;
            }
        }
        done.append(&mut self.slots.ended);
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), TargetError> {
        self.forget();
        for _ in 0..self.want.connections.max(1) {
            let connection = Connection::open(&self.uri).map_err(|e| match e {
                HandshakeError::Io(e) => TargetError::Lost(format!("{}: {e}", self.uri)),
                other => TargetError::Fatal(format!("{}: {other}", self.uri)),
            })?;
            self.bytes = connection.export().bytes;
            self.connections.push(connection);
        }
        Ok(())
    }
}
