//! A head on a reactor: the machine, its log device, its mailbox, its clients.

use super::late::{Late, LateWrites};
use super::port::{Devices, time};
use crate::bus::{ASKER_SHIFT, Askers, Post, drain};
use crate::order::{HeadOrder, Report, Reporter};
use palisade_control::report::RoleStep;
use palisade_protocol::export::nbd::Connection;
use palisade_protocol::head::Head;
use palisade_protocol::wire::{
    Assignment, ClientCmd, ClientDone, ClientError, ClientOk, ClientTag, Envelope, Event, NodeId, Out,
    PartitionId,
};
use palisade_runtime::block::BlockDriver;
use palisade_runtime::clock::Nanos;
use palisade_runtime::park::WaitSet;
use palisade_runtime::reactor::Service;
use palisade_runtime::ring::Receiver;
use std::collections::{BTreeSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

/// The asker number of this process's control side (flush orders).
pub const CONTROL_ASKER: u8 = 255;
/// Messages and commands taken per turn, so that no input starves the others.
const BATCH: usize = 512;

/// The rings of a head.
pub struct HeadRings {
    /// Messages of other nodes.
    pub mailbox: Receiver<Envelope>,
    /// Orders of control.
    pub orders: Receiver<HeadOrder>,
}

/// A partition's commands; each partition has its own, so that one that waits holds up no other.
struct ClientRing {
    partition: PartitionId,
    ring: Receiver<ClientCmd>,
    /// Taken from the ring to look for those of a lost connection; they go first.
    early: VecDeque<ClientCmd>,
}

impl ClientRing {
    fn pop(&mut self) -> Option<ClientCmd> {
        self.early.pop_front().or_else(|| self.ring.pop())
    }

    /// Takes the commands of a connection out.
    fn abort(&mut self, connection: u32, out: &mut Out) {
        while let Some(cmd) = self.ring.pop() {
            self.early.push_back(cmd);
        }
        self.early.retain(|ClientCmd { tag, .. }| {
            let gone = Connection::id_of(*tag) == connection;
            if gone {
                out.done.push(ClientDone { tag: *tag, result: Err(ClientError::NotServed) });
            }
            !gone
        });
    }
}

/// A head as a service.
pub struct HeadService {
    name: String,
    node: NodeId,
    head: Head,
    devices: Devices,
    rings: HeadRings,
    clients: Vec<ClientRing>,
    post: Post,
    askers: Askers,
    reporter: Reporter,
    out: Out,
    /// Column writes that a drill keeps back.
    late: LateWrites,
    /// Partitions that it serves.
    serving: BTreeSet<PartitionId>,
}

impl HeadService {
    /// Puts the parts together. `log` is device 0.
    pub fn new(
        name: &str,
        node: NodeId,
        head: Head,
        log: BlockDriver,
        rings: HeadRings,
        post: Post,
        reporter: Reporter,
    ) -> Self {
        Self {
            name: name.to_owned(),
            node,
            head,
            devices: Devices::new(vec![log]),
            rings,
            clients: Vec::new(),
            post,
            askers: Askers::default(),
            reporter,
            out: Out::default(),
            late: LateWrites::default(),
            serving: BTreeSet::new(),
        }
    }

    /// A drill may make its column writes leave late.
    pub fn steered_by(mut self, late: Option<Late>) -> Self {
        self.late = LateWrites::new(late);
        self
    }

    /// The machine, for simulators and tests.
    pub fn machine(&self) -> &Head {
        &self.head
    }

    fn take_orders(&mut self, now: Nanos) -> usize {
        let mut count = 0;
        while let Some(order) = self.rings.orders.pop() {
            count += 1;
            let at = time(now);
            match order {
                HeadOrder::Assign(assignment) => {
                    self.told(&assignment);
                    self.head.assign(at, assignment, &mut self.out);
                }
                HeadOrder::Outcome(partition, nonce, outcome) => {
                    self.head.outcome(at, partition, nonce, outcome, &mut self.out);
                }
                HeadOrder::Gone(head, boot) => self.head.peer_gone(at, head, boot),
                HeadOrder::Pause(partition, paused) => self.head.set_rate_pause(partition, paused),
                HeadOrder::Create(config) => self.head.create_partition(at, config),
                HeadOrder::Serve(partition, ring) => {
                    self.clients.push(ClientRing { partition, ring, early: VecDeque::new() });
                }
                HeadOrder::Abort(partition, connection) => {
                    let gone = |tag| Connection::id_of(tag) == connection;
                    self.head.abort(at, partition, &gone, &mut self.out);
                    for client in self.clients.iter_mut().filter(|client| client.partition == partition) {
                        client.abort(connection, &mut self.out);
                    }
                }
                HeadOrder::Clients(partition, clients) => self.head.set_clients(at, partition, clients),
                HeadOrder::ClientAsks(partition, io) => self.head.client_asks(partition, io),
                HeadOrder::Fill(partition, member, true) => self.head.take_back(partition, member),
                HeadOrder::Fill(partition, member, false) => {
                    self.head.fill(at, partition, member, &mut self.out);
                }
                HeadOrder::Forget(partition) => self.head.forget(partition, &mut self.out),
                HeadOrder::Isolate(severity) => self.head.set_isolating(severity),
                HeadOrder::Delete(partition) => self.head.delete_partition(at, partition, &mut self.out),
                HeadOrder::Devices(partition, targets) => self.head.set_devices(at, partition, targets),
                HeadOrder::Flush { partition, token } => {
                    let tag = ClientTag(u64::from(CONTROL_ASKER) << ASKER_SHIFT | token);
                    self.head.flush_all(at, partition, tag, &mut self.out);
                }
                HeadOrder::Route(to, ring) => self.post.route(to, ring),
                HeadOrder::Asker(asker, ring) => self.askers.add(asker, ring),
                HeadOrder::Groups(ask) => {
                    // Before its log is read it has nothing to say, and is asked again.
                    if let Some((log, groups)) = self.head.groups() {
                        let node = self.node;
                        self.reporter.send(Report::Groups { node, log, ask, groups });
                    }
                }
                HeadOrder::Status => self.reporter.send(Report::Head(Box::new(self.head.status()))),
            }
        }
        count
    }

    /// A primary that is told another number answers nobody until it serves under that.
    fn told(&mut self, assignment: &Assignment) {
        let partition = assignment.stamp.partition;
        let leads = assignment.members.first().is_some_and(|first| first.head == self.node);
        if leads && self.serving.contains(&partition) {
            let (node, step, at_us) = (self.node, RoleStep::Assigned, wall_us());
            self.reporter.send(Report::Role { node, partition, step, at_us });
        }
    }

    /// Takes commands while the head has room for them; the rest waits in its ring (back-pressure).
    fn take_commands(&mut self, now: Nanos) -> usize {
        let mut count = 0;
        for client in &mut self.clients {
            let most = count + BATCH;
            while count < most && self.head.ready(client.partition) {
                let Some(cmd) = client.pop() else { break };
                self.head.handle_client(time(now), cmd, &mut self.out);
                count += 1;
            }
        }
        count
    }

    /// Carries out what the machine asked for.
    fn put_out(&mut self, now: Nanos) {
        for cmd in self.out.block.drain(..) {
            self.devices.submit(cmd);
        }
        while let Some((to, msg)) = self.late.due(now) {
            self.post.send(to, msg);
        }
        for (to, msg) in self.out.net.drain(..) {
            if let Some(msg) = self.late.hold(now, to, msg) {
                self.post.send(to, msg);
            }
        }
        for done in self.out.done.drain(..) {
            if done.tag.0 >> ASKER_SHIFT == u64::from(CONTROL_ASKER) {
                let token = done.tag.0 & ((1 << ASKER_SHIFT) - 1);
                let result = done.result.map(|ok| debug_assert!(matches!(ok, ClientOk::Done)));
                self.reporter.send(Report::Flushed { token, result });
            } else {
                self.askers.answer(done);
            }
        }
        for event in self.out.events.drain(..) {
            let role = match event {
                Event::Serving { stamp } => {
                    self.serving.insert(stamp.partition);
                    Some((stamp.partition, RoleStep::Serving))
                }
                Event::Demoted { partition, .. } => {
                    self.serving.remove(&partition);
                    Some((partition, RoleStep::Stopped))
                }
                _ => None,
            };
            if let Some((partition, step)) = role {
                let (node, at_us) = (self.node, wall_us());
                self.reporter.send(Report::Role { node, partition, step, at_us });
            }
            self.reporter.send(Report::Event(self.node, event));
        }
        self.devices.kick();
        self.post.flush();
        self.askers.flush();
    }
}

/// Microseconds since 1970: heads of different processes are compared by it.
fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

impl Service for HeadService {
    fn name(&self) -> &str {
        &self.name
    }

    fn turn(&mut self, now: Nanos) -> usize {
        let mut work = self.take_orders(now);
        let (head, out) = (&mut self.head, &mut self.out);
        work += drain(&mut self.rings.mailbox, BATCH, |envelope: Envelope| {
            let Envelope { from, boot, near, msg, .. } = envelope;
            match near {
                true => head.handle_near(time(now), from, boot, msg, out),
                false => head.handle_msg(time(now), from, boot, msg, out),
            }
        });
        work += self.devices.poll(now, |_, done| head.handle_block(time(now), done, out));
        work += self.take_commands(now);
        self.head.turn(time(now), &mut self.out);
        work += usize::from(!self.out.is_empty());
        self.put_out(now);
        work
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.post.pending() {
            return Some(Nanos::ZERO);
        }
        let own = self.devices.deadline(self.head.deadline());
        own.into_iter().chain(self.late.deadline()).min()
    }

    fn wait_fds<'a>(&'a self, set: &mut WaitSet<'a>) {
        self.devices.wait_fds(set);
    }

    fn stopping(&mut self, _now: Nanos) -> bool {
        self.devices.in_flight() == 0
    }
}
