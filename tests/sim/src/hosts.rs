//! What runs on the nodes: the shipping machines, with or without the shipping fabric below them.
//!
//! A machine's outputs are sorted by kind, not by time, so the order in which they leave is drawn: a node
//! may submit before it sends or the other way round, and may die in between.

use crate::dice::Dice;
use crate::host::{Census, Counts, Effect, Host, Input, Words};
use palisade_protocol::fabric::{Fabric, FabricOut, PathId, PathState};
use palisade_protocol::head::{Head, RoleState};
use palisade_protocol::sled::Sled;
use palisade_protocol::wire::*;
use std::collections::VecDeque;

/// What heads and sleds have in common.
pub trait Machine {
    /// Takes an input.
    fn take(&mut self, now: Time, input: Input, out: &mut Out);
    /// Ends a reactor turn.
    fn turn(&mut self, now: Time, out: &mut Out);
    /// When `turn` must run again.
    fn deadline(&self) -> Option<Time>;
    /// Whether a client may send.
    fn ready(&self, partition: PartitionId) -> bool;
    /// See [`Host::leads`].
    fn leads(&self, partition: PartitionId) -> Option<Stamp>;
    /// See [`Host::words`].
    fn words(&self) -> (Vec<Words>, u64) {
        (Vec::new(), 0)
    }
    /// What it has counted.
    fn counts(&self) -> Counts;
    /// Its columns.
    fn census(&self) -> Census;
    /// One line about its state.
    fn describe(&self) -> String;
}

impl Machine for Head {
    fn take(&mut self, now: Time, input: Input, out: &mut Out) {
        match input {
            Input::Msg { from, boot, msg } => self.handle_msg(now, from, boot, msg, out),
            Input::Block(done) => self.handle_block(now, done, out),
            Input::Client(cmd) => self.handle_client(now, cmd, out),
            Input::Assign(assignment) => self.assign(now, assignment, out),
            Input::Outcome(partition, nonce, outcome) => self.outcome(now, partition, nonce, outcome, out),
            Input::FlushAll(partition, tag) => self.flush_all(now, partition, ClientTag(tag), out),
            Input::Create(config) => self.create_partition(now, config),
            Input::Fill(partition, member) => self.fill(now, partition, member, out),
            Input::Forget(partition) => self.forget(partition, out),
            Input::Isolate(severity) => self.set_isolating(severity),
            Input::Gone(head, boot) => self.peer_gone(now, head, boot),
            Input::Datagram { .. } => unreachable!("the fabric took it"),
        }
    }
    fn turn(&mut self, now: Time, out: &mut Out) {
        Head::turn(self, now, out);
    }
    fn deadline(&self) -> Option<Time> {
        Head::deadline(self)
    }
    fn ready(&self, partition: PartitionId) -> bool {
        Head::ready(self, partition)
    }
    fn leads(&self, partition: PartitionId) -> Option<Stamp> {
        let parts = self.status().partitions;
        let part = parts.iter().find(|part| part.partition == partition)?;
        let whole = part.role == RoleState::Serving && !part.peer_away && !part.alone && !part.proposing;
        whole.then_some(part.stamp)
    }
    fn words(&self) -> (Vec<Words>, u64) {
        let status = self.status();
        let words = status.partitions.iter().map(|part| Words {
            partition: part.partition,
            number: part.stamp.number,
            role: part.role,
            peer_away: part.peer_away,
            needs_copy: part.needs_copy,
            fills: part.fill.map(|fill| fill.member.head),
        });
        (words.collect(), status.log_room)
    }
    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for partition in &self.status().partitions {
            let seen = &partition.stats.counters;
            counts.add(&Counts {
                flushes: seen.flushes,
                repoints: seen.repoints,
                reconciles: seen.reconciles,
                degraded_reads: seen.degraded_reads,
                collections: seen.collections,
                corrupt: seen.corrupt,
                repaired: seen.repaired,
                copies: seen.copied_forward,
                fills: seen.copies,
                ..Counts::default()
            });
        }
        counts
    }
    fn census(&self) -> Census {
        let primary = |role| matches!(role, RoleState::Serving | RoleState::Reconciling);
        let parts = self.status().partitions;
        let own = || parts.iter().filter(|partition| primary(partition.role));
        let named = own().map(|partition| u64::from(partition.extents) * limits::COLUMNS_MAX as u64).sum();
        let pages = own().map(|partition| u64::from(partition.checkpoint_columns)).sum();
        Census { used: 0, named, pages }
    }
    fn describe(&self) -> String {
        let status = self.status();
        let mut line = format!(
            "recovered {} failed {} log {}/{} free",
            status.recovered, status.log_failed, status.log_free, status.log_blocks
        );
        for p in &status.partitions {
            line += &format!(
                "; partition {} {:?} {} under {} committed {} tail {} waiting {} active {} away {} log blocks {} \
                 extents {} degraded {}",
                p.partition,
                p.role,
                p.why,
                p.stamp.number,
                p.committed,
                p.tail,
                p.waiting,
                p.active,
                p.peer_away,
                p.log_blocks,
                p.extents,
                p.degraded
            );
            for device in p.devices.iter().filter(|device| !device.claimed) {
                line += &format!(" unclaimed {}", device.sled);
            }
        }
        line
    }
}

impl Machine for Sled {
    fn take(&mut self, now: Time, input: Input, out: &mut Out) {
        match input {
            Input::Msg { from, boot, msg } => self.handle_msg(now, from, boot, msg, out),
            Input::Block(done) => self.handle_block(now, done, out),
            other => unreachable!("a sled gets no {other:?}"),
        }
    }
    fn turn(&mut self, now: Time, out: &mut Out) {
        Sled::turn(self, now, out);
    }
    fn deadline(&self) -> Option<Time> {
        Sled::deadline(self)
    }
    fn ready(&self, _partition: PartitionId) -> bool {
        false
    }
    fn leads(&self, _partition: PartitionId) -> Option<Stamp> {
        None
    }
    fn counts(&self) -> Counts {
        let corrupt = self.status().devices.iter().map(|device| device.counters.corrupt).sum();
        Counts { corrupt, ..Counts::default() }
    }
    fn census(&self) -> Census {
        let devices = self.status().devices;
        let used = devices.iter().map(|d| u64::from(d.columns - d.free - d.quarantined)).sum();
        Census { used, ..Census::default() }
    }
    fn describe(&self) -> String {
        let devices = self.status().devices;
        let lines = devices.iter().map(|d| format!("{:?}, {}/{} columns free", d.state, d.free, d.columns));
        lines.collect::<Vec<_>>().join("; ")
    }
}

/// A machine whose messages go by handle.
pub struct Direct<M> {
    machine: M,
    out: Out,
    dice: Dice,
}

impl<M: Machine> Direct<M> {
    /// Hosts a machine; `salt` decides the order of its effects.
    pub fn new(machine: M, salt: u64) -> Self {
        Self { machine, out: Out::default(), dice: Dice::new(salt) }
    }

    /// Moves what the machine wants done into one order.
    fn spill(&mut self, effects: &mut Vec<Effect>) {
        let lanes: [VecDeque<Effect>; 3] = [
            self.out.block.drain(..).map(Effect::Block).collect(),
            self.out.net.drain(..).map(|(to, msg)| Effect::Send(to, msg)).collect(),
            self.out.done.drain(..).map(Effect::Answer).collect(),
        ];
        effects.extend(self.out.events.drain(..).map(Effect::Event));
        weave(lanes, &mut self.dice, effects);
    }
}

/// Puts effects of different kinds into one order; each kind keeps its own.
pub(crate) fn weave(mut lanes: [VecDeque<Effect>; 3], dice: &mut Dice, effects: &mut Vec<Effect>) {
    while lanes.iter().any(|lane| !lane.is_empty()) {
        let lane = dice.below(3) as usize;
        effects.extend(lanes[lane].pop_front());
    }
}

impl<M: Machine> Host for Direct<M> {
    fn turn(&mut self, now: Time, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) {
        for input in inputs.drain(..) {
            self.machine.take(now, input, &mut self.out);
        }
        self.machine.turn(now, &mut self.out);
        self.spill(effects);
    }
    fn deadline(&self) -> Option<Time> {
        self.machine.deadline()
    }
    fn ready(&self, partition: PartitionId) -> bool {
        self.machine.ready(partition)
    }
    fn leads(&self, partition: PartitionId) -> Option<Stamp> {
        self.machine.leads(partition)
    }
    fn words(&self) -> (Vec<Words>, u64) {
        self.machine.words()
    }
    fn counts(&self) -> Counts {
        self.machine.counts()
    }
    fn census(&self) -> Census {
        self.machine.census()
    }
    fn describe(&self) -> String {
        self.machine.describe()
    }
}

/// A host whose messages go through the shipping fabric.
pub struct Fabricked<H> {
    inner: H,
    fabric: Fabric,
    out: FabricOut,
    waiting: VecDeque<(NodeId, Msg)>,
    inner_effects: Vec<Effect>,
    inner_inputs: Vec<Input>,
    networks_down: u64,
}

impl<H: Host> Fabricked<H> {
    /// Puts a fabric below a host.
    pub fn new(inner: H, fabric: Fabric) -> Self {
        Self {
            inner,
            fabric,
            out: FabricOut::default(),
            waiting: VecDeque::new(),
            inner_effects: Vec::new(),
            inner_inputs: Vec::new(),
            networks_down: 0,
        }
    }

    fn receive(&mut self, now: Time, inputs: &mut Vec<Input>) {
        for input in inputs.drain(..) {
            match input {
                Input::Datagram { path, bytes, .. } => {
                    self.fabric.datagram(now, PathId(path), &bytes, &mut self.out);
                }
                other => self.inner_inputs.push(other),
            }
        }
        for envelope in self.out.received.drain(..) {
            self.inner_inputs.push(Input::Msg {
                from: envelope.from,
                boot: envelope.boot,
                msg: envelope.msg,
            });
        }
        self.out.boots.clear();
    }

    /// Messages leave in order per peer; what the fabric has no room for waits here.
    fn send(&mut self, now: Time, to: NodeId, msg: Msg) {
        let behind = self.waiting.iter().any(|(other, _)| *other == to);
        if behind || self.fabric.send(now, to, &msg).is_err() {
            self.waiting.push_back((to, msg));
        }
    }

    fn retry(&mut self, now: Time) {
        for _ in 0..self.waiting.len() {
            let Some((to, msg)) = self.waiting.pop_front() else { break };
            self.send(now, to, msg);
        }
    }
}

impl<H: Host> Host for Fabricked<H> {
    fn turn(&mut self, now: Time, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) {
        self.receive(now, inputs);
        let mut inner = std::mem::take(&mut self.inner_effects);
        self.inner.turn(now, &mut self.inner_inputs, &mut inner);
        self.retry(now);
        for effect in inner.drain(..) {
            match effect {
                Effect::Send(to, msg) => self.send(now, to, msg),
                other => effects.push(other),
            }
        }
        self.inner_effects = inner;
        self.fabric.turn(now, &mut self.out);
        let down = self.out.paths.drain(..).filter(|(_, _, state)| *state == PathState::Down);
        self.networks_down += down.count() as u64;
        for datagram in std::mem::take(&mut self.out.datagrams) {
            let mut bytes = datagram.head.clone();
            datagram.payload.iter().for_each(|piece| bytes.extend_from_slice(piece));
            effects.push(Effect::Datagram(datagram.to, datagram.path.0, bytes));
            self.fabric.recycle(datagram);
        }
    }
    fn deadline(&self) -> Option<Time> {
        [self.inner.deadline(), self.fabric.deadline()].into_iter().flatten().min()
    }
    fn ready(&self, partition: PartitionId) -> bool {
        self.inner.ready(partition)
    }
    fn leads(&self, partition: PartitionId) -> Option<Stamp> {
        self.inner.leads(partition)
    }
    fn words(&self) -> (Vec<Words>, u64) {
        self.inner.words()
    }
    fn counts(&self) -> Counts {
        let (resends, networks_down) = (self.fabric.stats().resends, self.networks_down);
        let mut counts = self.inner.counts();
        counts.add(&Counts { resends, networks_down, ..Counts::default() });
        counts
    }
    fn census(&self) -> Census {
        self.inner.census()
    }
    fn describe(&self) -> String {
        format!("{}; fabric {:?}, {} wait", self.inner.describe(), self.fabric.stats(), self.waiting.len())
    }
}
