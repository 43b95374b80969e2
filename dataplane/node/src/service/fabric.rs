//! The door to nodes of other processes: the reliable-datagram machine over a datagram port.
//!
//! Messages come by ring from the services of this process and leave as datagrams; what arrives goes to
//! the mailbox of its node by ring. A peer whose queue is full keeps its messages here, in order.

use super::port::time;
use crate::bus::drain;
use palisade_protocol::fabric::{Fabric, FabricOut, PathId};
use palisade_protocol::wire::{Envelope, NodeId};
use palisade_runtime::clock::Nanos;
use palisade_runtime::net::datagram::DatagramPort;
use palisade_runtime::park::WaitSet;
use palisade_runtime::reactor::Service;
use palisade_runtime::ring::{Full, Receiver, Sender};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;

/// Messages taken per turn.
const BATCH: usize = 512;

/// A peer's addresses become known at run time.
pub enum FabricOrder {
    /// Where a node of another process listens.
    Peer(NodeId, SocketAddr),
}

/// One node's fabric.
pub struct FabricService {
    name: String,
    fabric: Fabric,
    port: Box<dyn DatagramPort>,
    peers: BTreeMap<NodeId, SocketAddr>,
    orders: Receiver<FabricOrder>,
    outgoing: Receiver<Envelope>,
    mailbox: Sender<Envelope>,
    /// Messages whose peer's queue was full.
    held: BTreeMap<NodeId, VecDeque<Envelope>>,
    /// Messages received while the mailbox was full.
    inbound: VecDeque<Envelope>,
    out: FabricOut,
}

impl FabricService {
    /// Puts the parts together; `mailbox` is the node's own.
    pub fn new(
        name: &str,
        fabric: Fabric,
        port: Box<dyn DatagramPort>,
        orders: Receiver<FabricOrder>,
        outgoing: Receiver<Envelope>,
        mailbox: Sender<Envelope>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            fabric,
            port,
            peers: BTreeMap::new(),
            orders,
            outgoing,
            mailbox,
            held: BTreeMap::new(),
            inbound: VecDeque::new(),
            out: FabricOut::default(),
        }
    }

    fn take_orders(&mut self) -> usize {
        let mut count = 0;
        while let Some(FabricOrder::Peer(node, address)) = self.orders.pop() {
            self.fabric.add_peer(node);
            self.peers.insert(node, address);
            count += 1;
        }
        count
    }

    fn take_messages(&mut self, now: Nanos) -> usize {
        for queue in self.held.values_mut() {
            while let Some(envelope) = queue.pop_front() {
                if self.fabric.send(time(now), envelope.to, &envelope.msg).is_err() {
                    queue.push_front(envelope);
                    break;
                }
            }
        }
        let (fabric, held) = (&mut self.fabric, &mut self.held);
        // Bounded: while anything is held, the ring behind it fills, and its senders keep their own.
        if held.values().map(VecDeque::len).sum::<usize>() >= BATCH {
            return 0;
        }
        drain(&mut self.outgoing, BATCH, |envelope| {
            let queue = held.entry(envelope.to).or_default();
            if !queue.is_empty() || fabric.send(time(now), envelope.to, &envelope.msg).is_err() {
                queue.push_back(envelope);
            }
        })
    }

    fn receive(&mut self, now: Nanos) -> usize {
        let (fabric, out) = (&mut self.fabric, &mut self.out);
        let mut count = 0;
        self.port.recv(&mut |_, bytes| {
            count += 1;
            fabric.datagram(time(now), PathId(0), bytes, out);
        });
        count
    }

    fn put_out(&mut self) {
        self.inbound.extend(self.out.received.drain(..));
        while let Some(envelope) = self.inbound.pop_front() {
            if let Err(Full(envelope)) = self.mailbox.push(envelope) {
                self.inbound.push_front(envelope);
                break;
            }
        }
        self.mailbox.kick();
        self.out.boots.clear();
        for datagram in self.out.datagrams.drain(..) {
            if let Some(address) = self.peers.get(&datagram.to) {
                let mut pieces = SmallVec::<[IoSlice<'_>; 16]>::new();
                pieces.push(IoSlice::new(&datagram.head));
                pieces.extend(datagram.payload.iter().map(|buf| IoSlice::new(buf)));
                // A datagram that the kernel does not take is a lost one: the machine sends it again.
                self.port.send(*address, &pieces);
            }
            self.fabric.recycle(datagram);
        }
        self.port.kick();
    }
}

impl Service for FabricService {
    fn name(&self) -> &str {
        &self.name
    }

    fn turn(&mut self, now: Nanos) -> usize {
        let mut work = self.take_orders() + self.receive(now) + self.take_messages(now);
        self.fabric.turn(time(now), &mut self.out);
        work += self.out.datagrams.len() + self.out.received.len();
        self.put_out();
        work
    }

    fn deadline(&self) -> Option<Nanos> {
        if !self.inbound.is_empty() {
            return Some(Nanos::ZERO);
        }
        self.fabric.deadline().map(|at| Nanos(at.0))
    }

    fn wait_fds<'a>(&'a self, set: &mut WaitSet<'a>) {
        if let Some(fd) = self.port.wait_fd() {
            set.readable(fd);
        }
    }
}
