//! Who uses a volume (MA-12): what the head says of its clients when another head asks how it is (MA-13).
//!
//! NBD has no client identity. A client is an address of the network, or a process on this host; its connections
//! count as one. It is connected while one of them is open, associated for a while after that, and its I/O is
//! what it had answered in the last seconds.

use crate::order::HeadOrder;
use palisade_protocol::head::Clients;
use palisade_protocol::wire::PartitionId;
use palisade_runtime::clock::Nanos;
use palisade_runtime::net::stream::Peer;
use palisade_runtime::ring::Sender;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often what changed is told.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// How long a client that left counts as one that may connect.
const ASSOCIATED: Duration = Duration::from_secs(60);
/// The window of I/O, in slices.
const SLICES: usize = 10;
/// One slice.
const SLICE: Duration = Duration::from_secs(1);
/// Clients of one volume that are remembered (`Bounded`); the policies look at none beyond.
const CLIENTS_MAX: usize = 256;

/// A client of a volume.
#[derive(Debug)]
struct Known {
    who: Peer,
    connections: u32,
    seen: Nanos,
    answered: [u64; SLICES],
}

impl Known {
    fn io(&self) -> u64 {
        self.answered.iter().sum()
    }
}

/// All clients of an export's volumes.
#[derive(Debug, Default)]
pub(super) struct Registry {
    volumes: BTreeMap<PartitionId, Vec<Known>>,
    told: BTreeMap<PartitionId, Clients>,
    head: Option<Sender<HeadOrder>>,
    slice: usize,
    slice_ends: Nanos,
    next: Nanos,
    changed: bool,
}

impl Registry {
    /// The head whose volumes these are.
    pub(super) fn set_head(&mut self, head: Sender<HeadOrder>) {
        self.head = Some(head);
    }

    /// A client wants a volume here that another head leads (MA-14).
    pub(super) fn ask_head(&mut self, partition: PartitionId, io: u64) {
        if let Some(head) = &mut self.head {
            // A head that is so busy hears of the client's next try.
            let _ = head.send(HeadOrder::ClientAsks(partition, io)).is_ok();
        }
    }

    /// A connection attached to a volume.
    pub(super) fn attach(&mut self, now: Nanos, partition: PartitionId, who: Peer) {
        if let Some(known) = self.known(now, partition, who) {
            known.connections += 1;
        }
        self.changed = true;
    }

    /// It ended, in whatever way.
    pub(super) fn detach(&mut self, now: Nanos, partition: PartitionId, who: Peer) {
        if let Some(known) = self.known(now, partition, who) {
            known.connections = known.connections.saturating_sub(1);
        }
        self.changed = true;
    }

    /// It had so many requests answered.
    pub(super) fn answered(&mut self, now: Nanos, partition: PartitionId, who: Peer, count: u64) {
        let slice = self.slice;
        if let Some(known) = self.known(now, partition, who) {
            known.answered[slice] += count;
        }
        self.changed = true;
    }

    /// The client's record, made if there is room.
    fn known(&mut self, now: Nanos, partition: PartitionId, who: Peer) -> Option<&mut Known> {
        let clients = self.volumes.entry(partition).or_default();
        let at = match clients.iter().position(|known| known.who == who) {
            Some(at) => at,
            None if clients.len() < CLIENTS_MAX => {
                clients.push(Known { who, connections: 0, seen: now, answered: [0; SLICES] });
                clients.len() - 1
            }
            None => {
                // Whoever left longest ago makes room.
                let gone = clients.iter().enumerate().filter(|(_, known)| known.connections == 0);
                let (at, _) = gone.min_by_key(|(_, known)| known.seen)?;
                clients[at] = Known { who, connections: 0, seen: now, answered: [0; SLICES] };
                at
            }
        };
        clients[at].seen = now;
        clients.get_mut(at)
    }

    /// Whether connections should say now what they had answered.
    pub(super) fn due(&self, now: Nanos) -> bool {
        now >= self.next
    }

    /// Tells the head what changed.
    pub(super) fn tell(&mut self, now: Nanos) {
        self.next = now + TELL_EVERY;
        self.slide(now);
        self.changed = false;
        let Some(head) = &mut self.head else { return };
        for (&partition, clients) in &self.volumes {
            let fresh = summary(clients);
            if self.told.get(&partition) == Some(&fresh) {
                continue;
            }
            match head.send(HeadOrder::Clients(partition, fresh)) {
                Ok(()) => drop(self.told.insert(partition, fresh)),
                Err(_) => self.changed = true,
            }
        }
        self.volumes.retain(|_, clients| !clients.is_empty());
    }

    /// Old slices of the window end, and with them who left long ago.
    fn slide(&mut self, now: Nanos) {
        if now < self.slice_ends {
            return;
        }
        let over = now.since(self.slice_ends).as_nanos() / SLICE.as_nanos() + 1;
        for _ in 0..over.min(SLICES as u128) {
            self.slice = (self.slice + 1) % SLICES;
            let slice = self.slice;
            self.volumes.values_mut().flatten().for_each(|known| known.answered[slice] = 0);
        }
        self.slice_ends = now + SLICE;
        for clients in self.volumes.values_mut() {
            clients.retain(|known| known.connections > 0 || now.since(known.seen) < ASSOCIATED);
        }
    }

    /// When to be asked again though nothing happens: something is to be told, or I/O is to be forgotten.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if self.changed {
            return Some(self.next);
        }
        let busy = self.volumes.values().flatten().any(|known| known.io() > 0);
        busy.then_some(self.slice_ends)
    }
}

fn summary(clients: &[Known]) -> Clients {
    let connected = |known: &&Known| known.connections > 0;
    let most = clients.iter().map(Known::io).max().unwrap_or(0);
    Clients {
        connected: clients.iter().filter(connected).count() as u32,
        associated: clients.len() as u32,
        busiest: clients.iter().filter(connected).any(|known| known.io() == most),
        io: clients.iter().filter(connected).map(Known::io).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_runtime::park::Parker;
    use palisade_runtime::ring::{Receiver, channel};

    const VOLUME: PartitionId = PartitionId(3);

    fn rig() -> (Registry, Receiver<HeadOrder>) {
        let parker = Parker::new().expect("eventfd");
        let (orders, told) = channel(64, parker.waker());
        let mut registry = Registry::default();
        registry.set_head(orders);
        (registry, told)
    }

    fn at(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    fn last(told: &mut Receiver<HeadOrder>) -> Option<Clients> {
        std::iter::from_fn(|| told.pop())
            .map(|order| match order {
                HeadOrder::Clients(VOLUME, clients) => clients,
                other => panic!("{other:?}"),
            })
            .last()
    }

    #[test]
    fn ma12_connections_of_one_client_are_one_and_a_lost_one_is_not_connected_any_more() {
        let (mut registry, mut told) = rig();
        let (a, b) = (Peer::Process(1), Peer::Process(2));
        [a, a, b].into_iter().for_each(|who| registry.attach(at(0), VOLUME, who));
        registry.answered(at(0), VOLUME, a, 5);
        registry.answered(at(0), VOLUME, b, 9);
        registry.tell(at(0));
        let clients = Clients { connected: 2, associated: 2, busiest: true, io: 14 };
        assert_eq!(last(&mut told), Some(clients));
        registry.tell(at(10));
        assert_eq!(last(&mut told), None, "nothing new");
        registry.detach(at(20), VOLUME, a);
        registry.detach(at(20), VOLUME, b);
        assert_eq!(registry.deadline(), Some(at(20)));
        registry.tell(at(20));
        let clients = Clients { connected: 1, associated: 2, busiest: false, io: 5 };
        assert_eq!(last(&mut told), Some(clients), "the busiest is gone");
    }

    #[test]
    fn ma12_io_is_that_of_the_last_seconds_and_who_left_is_forgotten_after_a_while() {
        let (mut registry, mut told) = rig();
        registry.attach(at(0), VOLUME, Peer::Process(1));
        registry.attach(at(0), VOLUME, Peer::Process(2));
        registry.answered(at(0), VOLUME, Peer::Process(1), 7);
        registry.tell(at(0));
        assert_eq!(last(&mut told).map(|clients| clients.io), Some(7));
        assert!(registry.deadline().is_some_and(|end| end <= at(1000)), "the window slides without I/O, too");
        registry.tell(at(5000));
        assert_eq!(last(&mut told), None, "five seconds are within the window");
        registry.tell(at(20_000));
        assert_eq!(last(&mut told).map(|clients| clients.io), Some(0));
        assert_eq!(registry.deadline(), None, "an idle volume wakes nobody");
        registry.detach(at(21_000), VOLUME, Peer::Process(2));
        registry.tell(at(22_000));
        assert_eq!(last(&mut told).map(|c| (c.connected, c.associated)), Some((1, 2)));
        registry.tell(at(90_000));
        assert_eq!(last(&mut told).map(|c| (c.connected, c.associated)), Some((1, 1)));
    }

    #[test]
    fn bounded_more_clients_than_are_remembered_take_the_place_of_those_that_left() {
        let (mut registry, mut told) = rig();
        for pid in 0..CLIENTS_MAX as u32 + 9 {
            registry.attach(at(0), VOLUME, Peer::Process(pid));
        }
        registry.tell(at(0));
        assert_eq!(last(&mut told).map(|clients| clients.connected), Some(CLIENTS_MAX as u32));
        registry.detach(at(1), VOLUME, Peer::Process(4));
        registry.attach(at(2), VOLUME, Peer::Process(100_000));
        registry.tell(at(20));
        assert_eq!(last(&mut told), None, "one left and one came");
        assert!(registry.volumes[&VOLUME].iter().any(|known| known.who == Peer::Process(100_000)));
    }
}
