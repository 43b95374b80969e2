//! The door to nodes of other processes: the reliable-datagram machine over a datagram port for each network.
//!
//! Messages come by ring from the services of this process and leave as datagrams; what arrives goes to
//! the mailbox of its node by ring. A peer whose queue is full keeps its messages here, in order.

use super::port::time;
use crate::bus::drain;
use crate::order::{Report, Reporter};
use palisade_protocol::fabric::{Fabric, FabricOut, PathId, PathState, PathStatus};
use palisade_protocol::wire::{Envelope, NodeId};
use palisade_runtime::clock::Nanos;
use palisade_runtime::net::datagram::{DatagramPort, Outgoing, SEND_BATCH};
use palisade_runtime::park::WaitSet;
use palisade_runtime::reactor::Service;
use palisade_runtime::ring::{Full, Receiver, Sender};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;

/// Messages taken per turn.
const BATCH: usize = 512;

/// A node's addresses, one for each network that it is on.
pub type Addresses = SmallVec<[SocketAddr; 2]>;

/// What a fabric is told at run time.
pub enum FabricOrder {
    /// Where a node of another process listens, network by network.
    Peer(NodeId, Addresses),
    /// Ends with [`Report::Paths`].
    Status,
}

/// One node's fabric.
pub struct FabricService {
    name: String,
    node: NodeId,
    fabric: Fabric,
    ports: Vec<Box<dyn DatagramPort>>,
    peers: BTreeMap<NodeId, Addresses>,
    reporter: Reporter,
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
    /// Puts the parts together: a port for each network of the machine; `mailbox` is the node's own.
    pub fn new(
        (name, node): (&str, NodeId),
        fabric: Fabric,
        ports: Vec<Box<dyn DatagramPort>>,
        reporter: Reporter,
        orders: Receiver<FabricOrder>,
        outgoing: Receiver<Envelope>,
        mailbox: Sender<Envelope>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            node,
            fabric,
            ports,
            peers: BTreeMap::new(),
            reporter,
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
        while let Some(order) = self.orders.pop() {
            match order {
                FabricOrder::Peer(node, addresses) => {
                    self.fabric.add_peer_on(node, addresses.len() as u8);
                    self.peers.insert(node, addresses);
                }
                FabricOrder::Status => self.show_paths(),
            }
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
        for (path, port) in self.ports.iter_mut().enumerate() {
            count += port.recv(&mut |_, bytes| {
                fabric.datagram(time(now), PathId(path as u8), bytes, out);
            });
        }
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
        self.tell();
        self.transmit();
    }

    fn show_paths(&mut self) {
        let talked_to = |path: &PathStatus| self.fabric.peer_boot(path.peer).is_some();
        let paths = self.fabric.paths().filter(talked_to).collect();
        self.reporter.send(Report::Paths(self.node, paths));
    }

    /// Tells of networks that went down or came up. With one network it is the peer that comes and goes, which
    /// others tell of. The node's next report says it too: control takes no head back by what was before (MA-15).
    fn tell(&mut self) {
        if !self.out.paths.is_empty() {
            self.show_paths();
        }
        for (peer, path, state) in self.out.paths.drain(..) {
            let mut others = self.fabric.paths().filter(|other| other.peer == peer && other.path != path);
            if self.peers.get(&peer).is_some_and(|addresses| addresses.len() > 1) {
                let others = others.any(|other| other.state == PathState::Up);
                self.reporter.send(Report::Path { node: self.node, peer, path, state, others });
            }
        }
    }

    /// Hands the datagrams of a turn to their networks, many by one call. One that the kernel does not take
    /// is a lost one: the machine sends it again.
    fn transmit(&mut self) {
        for (path, port) in self.ports.iter_mut().enumerate() {
            let mut batch = SmallVec::<[Outgoing<'_>; SEND_BATCH]>::new();
            for datagram in self.out.datagrams.iter().filter(|datagram| usize::from(datagram.path.0) == path)
            {
                let addresses = self.peers.get(&datagram.to);
                let Some(to) = addresses.and_then(|addresses| addresses.get(path)) else { continue };
                let payload = datagram.payload.iter().map(|buf| IoSlice::new(buf));
                let pieces = std::iter::once(IoSlice::new(&datagram.head)).chain(payload).collect();
                batch.push(Outgoing { to: *to, pieces });
                if batch.len() == SEND_BATCH {
                    port.send(&batch);
                    batch.clear();
                }
            }
            if !batch.is_empty() {
                port.send(&batch);
            }
        }
        self.out.datagrams.drain(..).for_each(|datagram| self.fabric.recycle(datagram));
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
        for fd in self.ports.iter().filter_map(|port| port.wait_fd()) {
            set.readable(fd);
        }
    }
}
