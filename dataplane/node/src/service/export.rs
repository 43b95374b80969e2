//! NBD on a reactor: listeners, sockets, one byte machine per connection.
//!
//! Per turn each connection is first sent its answers, which came back by ring (one vectored write), then
//! read once (into one large buffer that all connections share; what the machine does not take at once
//! waits in the connection's own backlog), and its commands go to the volumes' rings. A call that moved
//! less than it could is not repeated in the same turn: it would only be told to wait.
//!
//! Copies of payload, besides the kernel's: a small write's, once, from the receive buffer to a pool slot
//! that the log may hand to the device as it is (a large one is received straight into its slot); a read's,
//! once, into the transmit ring when many small answers leave together. Bare volumes live in here: simple
//! requests are carried out while they are parsed, a write's payload is copied once, from the receive
//! buffer into the volume, a small read's once, from the volume into the transmit ring, and the answers
//! leave in the same turn.

use crate::bus::{ASKER_SHIFT, drain};
use crate::exports::ExportList;
use crate::order::HeadOrder;
use crate::service::bare::BareVolume;
pub use crate::service::client::VolumeRing;
use crate::service::client::{Client, Input, Volumes};
use crate::service::registry::Registry;
use palisade_dma::Pool;
use palisade_protocol::export::nbd::{Beside, Connection, Phase};
use palisade_protocol::wire::{ClientCmd, ClientDone, PartitionId};
use palisade_runtime::clock::Nanos;
use palisade_runtime::net::stream::Listener;
use palisade_runtime::park::WaitSet;
use palisade_runtime::reactor::Service;
use palisade_runtime::ring::{Receiver, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Receive buffer: below 512 KiB small requests cost 15-20 % more.
const RECEIVE: usize = 1 << 20;
/// Answers taken per turn.
const BATCH: usize = 1024;
/// How often listeners are asked while the reactor is busy.
const ACCEPT_EVERY: Duration = Duration::from_millis(2);
/// Pause before a connection that found no buffer asks again.
const POOL_RETRY: Duration = Duration::from_micros(100);
/// For so long after a volume left this head, clients that were sent away and know of no group do not bring it
/// back: they are to find the other head first (EF-28).
const LEFT: Duration = Duration::from_secs(10);
/// Connection slots fit between the asker and the machine's own 32 bits of a tag.
const SLOT_BITS: u32 = ASKER_SHIFT - 32;

/// Tells the export which volumes there are, at run time.
pub enum ExportOrder {
    /// Commands of a partition go to its head.
    Volume(PartitionId, VolumeRing),
    /// A volume that is served in here.
    Bare(BareVolume),
    /// The partition is gone; its clients are sent away.
    Gone(PartitionId),
    /// The head whose volumes these are: it is told of their clients (MA-12) and of those that ask for volumes
    /// of other heads (MA-14).
    Head(Sender<HeadOrder>),
}

/// All NBD listeners of a node, with their connections.
pub struct ExportService {
    name: String,
    asker: u8,
    listeners: Vec<Listener>,
    exports: Arc<ExportList>,
    pool: Pool,
    volumes: Volumes,
    orders: Receiver<ExportOrder>,
    answers: Receiver<ClientDone>,
    clients: Vec<Option<Client>>,
    registry: Registry,
    /// When volumes left this head.
    left: BTreeMap<PartitionId, Nanos>,
    clients_max: usize,
    client_bytes: usize,
    receive: Box<[u8]>,
    commands: Vec<ClientCmd>,
    next_accept: Nanos,
    now: Nanos,
    stopping: bool,
}

/// What an export needs.
pub struct ExportParts {
    /// For statistics.
    pub name: String,
    /// Upper bits of its tags; volumes answer to it.
    pub asker: u8,
    /// Listening sockets.
    pub listeners: Vec<Listener>,
    /// The one list of exports.
    pub exports: Arc<ExportList>,
    /// Where payload goes.
    pub pool: Pool,
    /// Volumes that come and go.
    pub orders: Receiver<ExportOrder>,
    /// Answers of volumes.
    pub answers: Receiver<ClientDone>,
    /// Most connections.
    pub clients_max: usize,
    /// Payload bytes that all connections together may have in open commands and unsent answers.
    pub client_bytes: usize,
}

impl ExportService {
    /// Puts the parts together.
    pub fn new(parts: ExportParts) -> Self {
        Self {
            name: parts.name,
            asker: parts.asker,
            listeners: parts.listeners,
            exports: parts.exports,
            pool: parts.pool,
            volumes: Volumes::default(),
            orders: parts.orders,
            answers: parts.answers,
            clients: Vec::new(),
            registry: Registry::default(),
            left: BTreeMap::new(),
            clients_max: parts.clients_max.min(1 << SLOT_BITS),
            client_bytes: parts.client_bytes,
            receive: vec![0; RECEIVE].into_boxed_slice(),
            commands: Vec::with_capacity(BATCH),
            next_accept: Nanos::ZERO,
            now: Nanos::ZERO,
            stopping: false,
        }
    }

    fn take_orders(&mut self) -> usize {
        let mut count = 0;
        while let Some(order) = self.orders.pop() {
            count += 1;
            match order {
                ExportOrder::Head(head) => self.registry.set_head(head),
                ExportOrder::Volume(partition, ring) => {
                    self.left.remove(&partition);
                    self.volumes.rings.insert(partition, ring);
                }
                ExportOrder::Bare(volume) => self.volumes.bare.push(volume),
                ExportOrder::Gone(partition) => {
                    if self.volumes.rings.remove(&partition).is_some() {
                        self.left.insert(partition, self.now);
                    }
                    self.volumes.bare.retain(|volume| volume.partition() != partition);
                    for client in self.clients.iter_mut().flatten() {
                        if client.machine.partition() == Some(partition) {
                            client.machine.shutdown();
                        }
                    }
                }
            }
        }
        count
    }

    fn accept(&mut self, now: Nanos) -> usize {
        if now < self.next_accept || self.stopping {
            return 0;
        }
        self.next_accept = now + ACCEPT_EVERY;
        let mut count = 0;
        for listener in &self.listeners {
            while let Ok(Some(socket)) = listener.accept() {
                count += 1;
                let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
                if slot >= self.clients_max {
                    // Closing at once is the only answer NBD has before its greeting.
                    continue;
                }
                let id = u32::from(self.asker) << SLOT_BITS | slot as u32;
                let client = Client::new(socket, id);
                if slot == self.clients.len() {
                    self.clients.push(Some(client));
                } else {
                    self.clients[slot] = Some(client);
                }
            }
        }
        if count > 0 {
            self.share();
        }
        count
    }

    /// Every connection gets the same part of the buffers, however slow the others take their answers.
    fn share(&mut self) {
        let each = self.client_bytes / self.clients.iter().flatten().count().max(1);
        self.clients.iter_mut().flatten().for_each(|client| client.machine.set_bytes_max(each));
    }

    fn take_answers(&mut self) -> usize {
        let clients = &mut self.clients;
        drain(&mut self.answers, BATCH, |done| {
            let slot = (Connection::id_of(done.tag) & ((1 << SLOT_BITS) - 1)) as usize;
            // A connection that is gone leaves its answers to be dropped (P-11).
            if let Some(Some(client)) = clients.get_mut(slot) {
                client.machine.complete(done);
            }
        })
    }

    /// The head is told of its clients.
    fn tell_head(&mut self, now: Nanos) {
        if self.registry.due(now) {
            for client in self.clients.iter_mut().flatten() {
                client.count(now, &mut self.registry);
            }
            self.registry.tell(now);
        }
    }

    /// One connection's share of a turn; false when it is to be closed.
    fn serve(&mut self, slot: usize) -> (usize, bool) {
        let Some(client) = self.clients[slot].as_mut() else { return (0, true) };
        // Answers first: their clients wait, while what comes in may wait a little.
        let mut work = client.send();
        if client.waiting.is_empty() {
            let input = Input {
                exports: &self.exports,
                pool: &self.pool,
                commands: &mut self.commands,
                volumes: &mut self.volumes,
            };
            work += client.receive(&mut self.receive, input);
        }
        work += client.hand_over(&mut self.commands, &mut self.volumes);
        client.tell_lost(&mut self.volumes);
        if client.counted.is_none() {
            // In its handshake, or at its end.
            client.count(self.now, &mut self.registry);
            if let Some(knock) = client.machine.take_knock() {
                let left = self.left.get(&knock.partition);
                if knock.informed || left.is_none_or(|left| self.now.since(*left) > LEFT) {
                    self.registry.ask_head(knock.partition, knock.io);
                }
            }
        }
        if !client.blocked {
            work += client.send();
        }
        let open = !(client.machine.closed().is_some() && client.machine.pending() == 0
            || client.ended && client.idle());
        (work, open)
    }
}

impl Service for ExportService {
    fn name(&self) -> &str {
        &self.name
    }

    fn turn(&mut self, now: Nanos) -> usize {
        self.now = now;
        let mut work = self.take_orders() + self.accept(now) + self.take_answers();
        for slot in 0..self.clients.len() {
            if self.clients[slot].is_none() {
                continue;
            }
            let (done, open) = self.serve(slot);
            work += done;
            if !open {
                if let Some(mut client) = self.clients[slot].take() {
                    client.uncount(now, &mut self.registry);
                }
                self.share();
                work += 1;
            }
        }
        for ring in self.volumes.rings.values_mut() {
            ring.commands.kick();
        }
        self.tell_head(now);
        work
    }

    fn deadline(&self) -> Option<Nanos> {
        let now = |client: &Client| {
            !client.waiting.is_empty()
                || client.lost
                || client.machine.wants_turn() && !client.machine.wants_pool()
        };
        if self.clients.iter().flatten().any(now) {
            return Some(Nanos::ZERO);
        }
        // Buffers come back on other cores too, which tells nobody.
        let pool = self.clients.iter().flatten().any(|client| client.machine.wants_pool());
        let pool = pool.then(|| self.now + POOL_RETRY);
        pool.into_iter().chain(self.registry.deadline()).min()
    }

    fn wait_fds<'a>(&'a self, set: &mut WaitSet<'a>) {
        for listener in &self.listeners {
            set.readable(listener.fd());
        }
        for client in self.clients.iter().flatten() {
            if client.blocked {
                set.writable(client.socket.fd());
            } else if !client.ended && client.backlog.is_empty() {
                set.readable(client.socket.fd());
            }
        }
    }

    fn stopping(&mut self, _now: Nanos) -> bool {
        if !std::mem::replace(&mut self.stopping, true) {
            self.listeners.clear();
            for client in self.clients.iter_mut().flatten() {
                client.machine.shutdown();
            }
        }
        self.clients.iter().flatten().all(|client| client.idle() && client.machine.pending() == 0)
    }
}

impl std::fmt::Debug for ExportService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clients = self.clients.iter().flatten().filter(|c| c.machine.phase() != Phase::Closed).count();
        f.debug_struct("ExportService").field("name", &self.name).field("clients", &clients).finish()
    }
}

#[cfg(test)]
mod tests;
