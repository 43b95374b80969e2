//! The shipping services under the shipping reactor loop: [`Reactor::turn`] polls a node's service, which
//! takes messages, completions and commands from its rings and ports and puts its effects into others.
//! Here these ports and rings end in the simulator.

use crate::dice::Dice;
use crate::host::{Census, Counts, Effect, Host, Input, Words};
use crate::hosts::{Machine, weave};
use palisade_node::bus::{CLIENT_RING, MAILBOX, Post};
use palisade_node::order::{HeadOrder, ORDERS, REPORTS, Report, Reporter, SledOrder};
use palisade_node::service::{HeadRings, HeadService, SledRings, SledService};
use palisade_protocol::head::Head;
use palisade_protocol::sled::Sled;
use palisade_protocol::wire::*;
use palisade_runtime::block::{
    BlockCompletion, BlockDriver, BlockFault, BlockInfo, BlockOk as PortOk, BlockPort, BlockRequest,
    BlockVerb,
};
use palisade_runtime::clock::Nanos;
use palisade_runtime::reactor::{Reactor, Service};
use palisade_runtime::ring::{Receiver, Sender, channel};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What passes between a service's block port and the simulator.
#[derive(Debug, Default)]
struct Wire {
    submitted: Vec<BlockRequest>,
    completed: Vec<BlockCompletion>,
    in_flight: usize,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service's end of a false device.
struct Port {
    info: BlockInfo,
    wire: Arc<Mutex<Wire>>,
}

impl BlockPort for Port {
    fn info(&self) -> &BlockInfo {
        &self.info
    }
    fn submit(&mut self, request: BlockRequest) {
        let mut wire = lock(&self.wire);
        wire.in_flight += 1;
        wire.submitted.push(request);
    }
    fn kick(&mut self) {}
    fn poll(&mut self, _now: Nanos, out: &mut Vec<BlockCompletion>) -> usize {
        let mut wire = lock(&self.wire);
        let count = wire.completed.len();
        wire.in_flight -= count;
        out.append(&mut wire.completed);
        count
    }
    fn in_flight(&self) -> usize {
        lock(&self.wire).in_flight
    }
}

/// A service that the simulator can look into between turns.
struct Shared<S> {
    name: String,
    service: Arc<Mutex<S>>,
}

impl<S: Service> Service for Shared<S> {
    fn name(&self) -> &str {
        &self.name
    }
    fn turn(&mut self, now: Nanos) -> usize {
        lock(&self.service).turn(now)
    }
    fn deadline(&self) -> Option<Nanos> {
        lock(&self.service).deadline()
    }
}

/// How the simulator looks into a service's machine.
pub trait View {
    /// Shows the machine.
    fn with<R>(&self, look: impl FnOnce(&dyn Machine) -> R) -> R;
}

impl View for HeadService {
    fn with<R>(&self, look: impl FnOnce(&dyn Machine) -> R) -> R {
        look(self.machine())
    }
}

impl View for SledService {
    fn with<R>(&self, look: impl FnOnce(&dyn Machine) -> R) -> R {
        look(self.machine())
    }
}

/// The simulator's ends of a node's rings.
struct Ends {
    node: NodeId,
    mailbox: Sender<Envelope>,
    /// All destinations share one ring, so that messages keep the order in which they were sent.
    mail_out: Receiver<Envelope>,
    reports: Receiver<Report>,
    clients: BTreeMap<PartitionId, Sender<ClientCmd>>,
    answers: Receiver<ClientDone>,
    orders: Option<Sender<HeadOrder>>,
    wires: Vec<Arc<Mutex<Wire>>>,
}

/// A node's service under a reactor.
pub struct Served<S> {
    reactor: Reactor,
    service: Arc<Mutex<S>>,
    ends: Ends,
    dice: Dice,
    late: VecDeque<Input>,
}

/// What every node of a rack needs to be wired.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// The node.
    pub node: NodeId,
    /// Its boot.
    pub boot: BootId,
    /// Every other node.
    pub peers: Vec<NodeId>,
    /// Bytes of each device.
    pub devices: Vec<u64>,
    /// Decides the order of its effects.
    pub salt: u64,
}

impl Wiring {
    fn drivers(&self) -> (Vec<BlockDriver>, Vec<Arc<Mutex<Wire>>>) {
        let wires: Vec<_> = self.devices.iter().map(|_| Arc::new(Mutex::new(Wire::default()))).collect();
        let drivers = self.devices.iter().zip(&wires).map(|(bytes, wire)| {
            let info = BlockInfo {
                path: "simulated".to_owned(),
                bytes: *bytes,
                block: 4096,
                volatile_cache: true,
                durable: true,
                direct: true,
                note: String::new(),
            };
            BlockDriver::Dyn(Box::new(Port { info, wire: Arc::clone(wire) }))
        });
        (drivers.collect(), wires)
    }

    fn post(&self, ring: &Sender<Envelope>) -> Post {
        let mut post = Post::new(self.node, self.boot);
        self.peers.iter().for_each(|peer| post.route(*peer, ring.clone()));
        post
    }
}

impl Served<HeadService> {
    /// A head under a reactor.
    pub fn head(wiring: &Wiring, head: Head, partitions: &[PartitionId]) -> Self {
        let reactor = Reactor::new("sim").expect("descriptors for a reactor");
        let waker = || reactor.waker();
        let (mailbox, mail_in) = channel(MAILBOX, waker());
        let (mail_to, mail_out) = channel(4 * MAILBOX, waker());
        let (report_to, reports) = channel(REPORTS, waker());
        let (mut orders, orders_in) = channel(ORDERS, waker());
        let (answer_to, answers) = channel(CLIENT_RING, waker());
        let (mut drivers, wires) = wiring.drivers();
        let log = drivers.remove(0);
        let rings = HeadRings { mailbox: mail_in, orders: orders_in };
        let post = wiring.post(&mail_to);
        let service = HeadService::new("head", wiring.node, head, log, rings, post, Reporter::new(report_to));
        let mut clients = BTreeMap::new();
        let mut order = |what| assert!(orders.send(what).is_ok(), "a fresh order ring has room");
        order(HeadOrder::Asker(0, answer_to));
        for partition in partitions {
            let (ask, asked) = channel(CLIENT_RING, waker());
            order(HeadOrder::Serve(*partition, asked));
            clients.insert(*partition, ask);
        }
        let ends = Ends {
            node: wiring.node,
            mailbox,
            mail_out,
            reports,
            clients,
            answers,
            orders: Some(orders),
            wires,
        };
        Self::start(reactor, service, ends, wiring.salt)
    }
}

impl Served<SledService> {
    /// A sled under a reactor.
    pub fn sled(wiring: &Wiring, sled: Sled) -> Self {
        let reactor = Reactor::new("sim").expect("descriptors for a reactor");
        let waker = || reactor.waker();
        let (mailbox, mail_in) = channel(MAILBOX, waker());
        let (mail_to, mail_out) = channel(4 * MAILBOX, waker());
        let (report_to, reports) = channel(REPORTS, waker());
        let (_orders, orders_in) = channel::<SledOrder>(1, waker());
        let (_, answers) = channel(1, waker());
        let (drivers, wires) = wiring.drivers();
        let rings = SledRings { mailbox: mail_in, orders: orders_in };
        let post = wiring.post(&mail_to);
        let service =
            SledService::new("sled", wiring.node, sled, drivers, rings, post, Reporter::new(report_to));
        let clients = BTreeMap::new();
        let ends =
            Ends { node: wiring.node, mailbox, mail_out, reports, clients, answers, orders: None, wires };
        Self::start(reactor, service, ends, wiring.salt)
    }
}

impl<S: Service + View + 'static> Served<S> {
    fn start(mut reactor: Reactor, service: S, ends: Ends, salt: u64) -> Self {
        let service = Arc::new(Mutex::new(service));
        reactor.add(Box::new(Shared { name: "sim".to_owned(), service: Arc::clone(&service) }));
        Self { reactor, service, ends, dice: Dice::new(salt), late: VecDeque::new() }
    }

    /// Puts an input into its ring; gives it back when the ring is full.
    fn put(&mut self, input: Input) -> Option<Input> {
        let ends = &mut self.ends;
        match input {
            Input::Msg { from, boot, msg } => {
                let envelope = Envelope { from, boot, to: ends.node, near: false, msg };
                let full = ends.mailbox.push(envelope).err()?;
                Some(Input::Msg { from, boot, msg: full.0.msg })
            }
            Input::Block(done) => {
                lock(&ends.wires[0])
                    .completed
                    .push(BlockCompletion { key: done.key.0, result: to_port(done.result) });
                None
            }
            Input::Client(cmd) => {
                ends.clients.get_mut(&cmd.partition)?.push(cmd).err().map(|full| Input::Client(full.0))
            }
            Input::Assign(assignment) => {
                ends.orders.as_mut()?.push(HeadOrder::Assign(assignment)).err().map(order_back)
            }
            Input::FlushAll(partition, token) => {
                ends.orders.as_mut()?.push(HeadOrder::Flush { partition, token }).err().map(order_back)
            }
            Input::Datagram { .. } => unreachable!("the fabric took it"),
            other => unreachable!("roles move on bare machines only: {other:?}"),
        }
    }

    fn put_all(&mut self, inputs: &mut Vec<Input>) {
        self.late.extend(inputs.drain(..));
        for _ in 0..self.late.len() {
            let Some(input) = self.late.pop_front() else { break };
            if let Some(back) = self.put(input) {
                self.late.push_back(back);
            }
        }
    }

    fn collect(&mut self, effects: &mut Vec<Effect>) {
        let ends = &mut self.ends;
        let mut lanes: [VecDeque<Effect>; 3] = Default::default();
        for (index, wire) in ends.wires.iter().enumerate() {
            let submitted = std::mem::take(&mut lock(wire).submitted);
            lanes[0].extend(submitted.into_iter().map(|request| Effect::Block(from_port(index, request))));
        }
        while let Some(envelope) = ends.mail_out.pop() {
            lanes[1].push_back(Effect::Send(envelope.to, envelope.msg));
        }
        while let Some(done) = ends.answers.pop() {
            lanes[2].push_back(Effect::Answer(done));
        }
        while let Some(report) = ends.reports.pop() {
            match report {
                Report::Event(_, event) => effects.push(Effect::Event(event)),
                Report::Flushed { token, result } => {
                    let result = result.map(|()| ClientOk::Done);
                    lanes[2].push_back(Effect::Answer(ClientDone { tag: ClientTag(token), result }));
                }
                _ => {}
            }
        }
        weave(lanes, &mut self.dice, effects);
    }
}

fn order_back(full: palisade_runtime::ring::Full<HeadOrder>) -> Input {
    match full.0 {
        HeadOrder::Assign(assignment) => Input::Assign(assignment),
        HeadOrder::Flush { partition, token } => Input::FlushAll(partition, token),
        other => unreachable!("only these are sent: {other:?}"),
    }
}

fn from_port(index: usize, request: BlockRequest) -> BlockCmd {
    let op = match request.verb {
        BlockVerb::Read { offset, buf } => BlockOp::Read { offset, buf },
        BlockVerb::Write { offset, bufs, fua } => BlockOp::Write { offset, bufs, fua },
        BlockVerb::Flush => BlockOp::Flush,
    };
    BlockCmd { device: DeviceIx(index as u16), key: Key(request.key), op }
}

fn to_port(result: Result<BlockOk, BlockError>) -> Result<PortOk, BlockFault> {
    match result {
        Ok(BlockOk::Read(buf)) => Ok(PortOk::Read(buf)),
        Ok(BlockOk::Done) => Ok(PortOk::Done),
        Err(BlockError::Io) => Err(BlockFault::Io),
        Err(BlockError::Gone) => Err(BlockFault::Gone),
        Err(BlockError::NoSpace) => Err(BlockFault::NoSpace),
        Err(BlockError::Range) => Err(BlockFault::Range),
    }
}

impl<S: Service + View + 'static> Host for Served<S> {
    fn turn(&mut self, now: Time, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) {
        self.put_all(inputs);
        self.reactor.turn(Nanos(now.0));
        self.collect(effects);
    }
    fn deadline(&self) -> Option<Time> {
        let more = !self.late.is_empty() || !self.ends.mailbox.is_empty();
        let soon = more.then_some(Time::ZERO);
        let due = self.reactor.deadline().map(|at| Time(at.0));
        [soon, due].into_iter().flatten().min()
    }
    fn ready(&self, partition: PartitionId) -> bool {
        lock(&self.service).with(|machine| machine.ready(partition))
    }
    fn leads(&self, partition: PartitionId) -> Option<Stamp> {
        lock(&self.service).with(|machine| machine.leads(partition))
    }
    fn words(&self) -> (Vec<Words>, u64) {
        lock(&self.service).with(|machine| machine.words())
    }
    fn counts(&self) -> Counts {
        lock(&self.service).with(|machine| machine.counts())
    }
    fn census(&self) -> Census {
        lock(&self.service).with(|machine| machine.census())
    }
    fn describe(&self) -> String {
        lock(&self.service).with(|machine| machine.describe())
    }
}
