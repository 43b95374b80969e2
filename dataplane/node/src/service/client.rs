//! One NBD connection in its export: what it received, what waits for a volume, and what is to be sent.

use super::bare::{BareVolume, NoBuffer};
use super::registry::Registry;
use crate::exports::ExportList;
use crate::order::HeadOrder;
use palisade_dma::Pool;
use palisade_protocol::export::nbd::{Beside, Connection, Phase};
use palisade_protocol::wire::{ClientCmd, ClientDone, ClientError, PartitionId};
use palisade_runtime::clock::Nanos;
use palisade_runtime::net::stream::{Peer, Stream};
use palisade_runtime::ring::{Full, Sender};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, IoSlice};

/// Slices of one vectored write (IOV_MAX is 1024): few small answers, or large ones, which fill a socket
/// soon; many small ones are packed.
const SLICES: usize = 32;

/// The way to a volume's head.
pub struct VolumeRing {
    /// Its commands.
    pub commands: Sender<ClientCmd>,
    /// The head's orders: which connections are lost (P-11).
    pub orders: Sender<HeadOrder>,
}

/// Where commands go.
#[derive(Default)]
pub(super) struct Volumes {
    pub(super) rings: BTreeMap<PartitionId, VolumeRing>,
    pub(super) bare: Vec<BareVolume>,
}

impl Volumes {
    pub(super) fn bare(&mut self, partition: PartitionId) -> Option<&mut BareVolume> {
        self.bare.iter_mut().find(|volume| volume.partition() == partition)
    }
}

/// A connection.
pub(super) struct Client {
    pub(super) socket: Stream,
    pub(super) machine: Connection,
    /// Received bytes that the machine did not take yet.
    pub(super) backlog: Vec<u8>,
    /// Commands that found their volume's ring full, or no buffer.
    pub(super) waiting: VecDeque<ClientCmd>,
    /// The socket takes no more bytes for now.
    pub(super) blocked: bool,
    /// The peer sends no more.
    pub(super) ended: bool,
    /// The connection broke, and the head is still to be told.
    pub(super) lost: bool,
    /// Who is at the other end.
    pub(super) who: Peer,
    /// The volume for which it is counted as a client (MA-12).
    pub(super) counted: Option<PartitionId>,
    /// Answers that were counted.
    pub(super) answered: u64,
}

/// What received bytes meet.
pub(super) struct Input<'a> {
    pub(super) exports: &'a ExportList,
    pub(super) pool: &'a Pool,
    pub(super) commands: &'a mut Vec<ClientCmd>,
    pub(super) volumes: &'a mut Volumes,
}

impl Input<'_> {
    /// Gives bytes to the machine; returns how many it took.
    fn offer(&mut self, machine: &mut Connection, bytes: &[u8]) -> usize {
        let bare = machine.partition().and_then(|partition| self.volumes.bare(partition));
        match bare {
            Some(volume) => machine.input_beside(bytes, self.exports, self.pool, self.commands, volume),
            None => machine.input(bytes, self.exports, self.pool, self.commands),
        }
    }
}

impl Client {
    /// A connection that was just accepted; tags of its commands carry `id`.
    pub(super) fn new(socket: Stream, id: u32) -> Self {
        Self {
            who: socket.peer(),
            socket,
            machine: Connection::new(id),
            backlog: Vec::new(),
            waiting: VecDeque::new(),
            blocked: false,
            ended: false,
            lost: false,
            counted: None,
            answered: 0,
        }
    }

    /// Is counted among the clients of the volume that it is attached to, with what it had answered since. Who
    /// sends no more is no client any more, even while it waits for answers.
    pub(super) fn count(&mut self, now: Nanos, registry: &mut Registry) {
        let gone = self.ended || self.machine.phase() != Phase::Transmission;
        let volume = self.machine.partition().filter(|_| !gone);
        if volume != self.counted {
            self.uncount(now, registry);
            if let Some(partition) = volume {
                registry.attach(now, partition, self.who);
            }
            self.counted = volume;
        }
        let answered = self.machine.answered();
        if let Some(partition) = volume.filter(|_| answered > self.answered) {
            registry.answered(now, partition, self.who, answered - self.answered);
            self.answered = answered;
        }
    }

    /// Is counted no more.
    pub(super) fn uncount(&mut self, now: Nanos, registry: &mut Registry) {
        if let Some(partition) = self.counted.take() {
            registry.detach(now, partition, self.who);
        }
    }

    /// Nothing is open and nothing waits to be sent.
    pub(super) fn idle(&self) -> bool {
        self.waiting.is_empty() && self.machine.open_tags().next().is_none()
    }

    /// Takes what the socket has, or gives the machine its backlog again.
    pub(super) fn receive(&mut self, buffer: &mut [u8], mut input: Input<'_>) -> usize {
        if !self.backlog.is_empty() {
            let taken = input.offer(&mut self.machine, &self.backlog);
            self.backlog.drain(..taken);
            if !self.backlog.is_empty() || self.ended {
                return taken;
            }
        }
        if self.ended || self.machine.closed().is_some() {
            return 0;
        }
        if let Some(room) = self.machine.want_payload() {
            let count = self.socket.recv(room);
            return match self.received(count) {
                0 => 0,
                count => {
                    self.machine.payload_received(count, input.commands);
                    count
                }
            };
        }
        let count = self.socket.recv(buffer);
        let count = self.received(count);
        // Also without bytes: held-back parts of large requests move on.
        let taken = input.offer(&mut self.machine, &buffer[..count]);
        self.backlog.extend_from_slice(&buffer[taken..count]);
        count
    }

    fn received(&mut self, result: std::io::Result<usize>) -> usize {
        match result {
            // Who has not said goodbye waits for answers no more, though the socket may close in good order.
            Ok(0) if self.machine.phase() == Phase::Transmission => self.lost(),
            Ok(0) => self.ended = true,
            Ok(count) => return count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.lost(),
        }
        0
    }

    /// The connection broke: commands that have no number yet are not carried out any more (P-11), but for
    /// those that came before a goodbye.
    fn lost(&mut self) {
        self.lost |= !self.ended && self.machine.phase() == Phase::Transmission;
        self.ended = true;
        self.backlog.clear();
        self.drop_waiting();
    }

    fn drop_waiting(&mut self) {
        for cmd in std::mem::take(&mut self.waiting) {
            self.machine.complete(ClientDone { tag: cmd.tag, result: Err(ClientError::NotServed) });
        }
    }

    /// Tells the head of a lost connection, behind its commands. Their answers come back, and only then is the
    /// connection's slot, and with it their tags, given to another.
    pub(super) fn tell_lost(&mut self, volumes: &mut Volumes) {
        if !self.lost {
            return;
        }
        self.drop_waiting();
        let open = self.machine.partition().zip(self.machine.open_tags().next());
        self.lost = open.is_some_and(|(partition, tag)| {
            let abort = HeadOrder::Abort(partition, Connection::id_of(tag));
            volumes.rings.get_mut(&partition).is_some_and(|ring| ring.orders.send(abort).is_err())
        });
    }

    /// Starts commands in order, those that had to wait first.
    pub(super) fn hand_over(&mut self, fresh: &mut Vec<ClientCmd>, volumes: &mut Volumes) -> usize {
        let mut count = 0;
        while let Some(cmd) = self.waiting.pop_front() {
            if let Some(cmd) = self.start(cmd, volumes) {
                self.waiting.push_front(cmd);
                self.waiting.extend(fresh.drain(..));
                return count;
            }
            count += 1;
        }
        for cmd in fresh.drain(..) {
            if !self.waiting.is_empty() {
                self.waiting.push_back(cmd);
            } else if let Some(cmd) = self.start(cmd, volumes) {
                self.waiting.push_back(cmd);
            } else {
                count += 1;
            }
        }
        count
    }

    /// Gives a command to its volume; returns it when it must wait.
    fn start(&mut self, cmd: ClientCmd, volumes: &mut Volumes) -> Option<ClientCmd> {
        let ClientCmd { tag, partition, verb } = cmd;
        if let Some(volume) = volumes.bare(partition) {
            return match volume.carry_out(verb) {
                Ok(result) => {
                    self.machine.complete(ClientDone { tag, result });
                    None
                }
                Err(NoBuffer(verb)) => Some(ClientCmd { tag, partition, verb }),
            };
        }
        let Some(ring) = volumes.rings.get_mut(&partition) else {
            self.machine.complete(ClientDone { tag, result: Err(ClientError::NotServed) });
            return None;
        };
        ring.commands.push(ClientCmd { tag, partition, verb }).err().map(|Full(cmd)| cmd)
    }

    pub(super) fn send(&mut self) -> usize {
        let mut sent = 0;
        self.blocked = false;
        while self.machine.pending() > 0 {
            self.machine.pack_many();
            // Inline storage: no allocation, and only what is used is written.
            let mut slices = SmallVec::<[IoSlice<'_>; SLICES]>::new();
            self.machine.each_piece(SLICES, |slice| slices.push(IoSlice::new(slice)));
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let result = self.socket.send(&slices);
            drop(slices);
            match result {
                Ok(0) => break,
                Ok(bytes) => {
                    sent += bytes;
                    self.machine.sent(bytes);
                    if bytes < offered {
                        self.blocked = true; // It is full: asking again would only be told so.
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // The peer is gone: nothing more can be said to it.
                    let rest = self.machine.pending();
                    self.machine.sent(rest);
                    self.lost();
                    self.machine.shutdown();
                    break;
                }
            }
        }
        sent
    }
}
