//! The simulated rack: virtual time, one queue of events, nodes, devices, links, clients and checks.
//!
//! One thread and one seed decide everything. A node's turn takes what waits in its inbox, lets the
//! machines run, and carries their effects out one by one in the order in which they were made; a death
//! planned at one of them drops the rest. What the checks find is collected in `violations`.

use crate::checks::{FenceChecks, NumberChecks};
use crate::clients::{Answered, Volume};
use crate::dice::Dice;
use crate::disk::Health;
use crate::faults::{Odds, Scenario};
use crate::fold::Fold;
use crate::grants::Grants;
use crate::host::{Counts, Effect, Host, Input};
use crate::links::Links;
use crate::node::{Doom, Node};
use crate::tally::{Moment, Role, Tally};
use palisade_dma::Pool;
use palisade_protocol::wire::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most commands that a machine may have in flight on one device (`Bounded`).
pub const IN_FLIGHT_MAX: usize = 4096;
/// Most inputs that may wait for one turn (`Bounded`).
pub const INBOX_MAX: usize = 65_536;

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Turn { node: NodeId },
    DiskDone { node: NodeId, life: u64, disk: usize, flight: u64 },
    Arrive { to: NodeId, life: u64, from: NodeId, input: Input },
    Think { volume: usize, client: usize },
    Start { node: NodeId },
    Register { head: NodeId, life: u64 },
    Grant { head: NodeId, boot: BootId, log: LogId },
    Store { life: u64, grants: Box<Grants>, assignments: Vec<Assignment> },
    Mend { from: NodeId, to: NodeId },
    Heal { node: NodeId, disk: usize },
    Trouble,
}

/// Makes the machines of a node's new life.
pub type Builder = Box<dyn Fn(&Node, &Pool, u64) -> Box<dyn Host>>;
/// Finds the number on a sled device's durable record of a partition.
pub type RecordProbe = Box<dyn Fn(&Node, DeviceId, PartitionId) -> Result<Number, String>>;

/// The rack and all that happens to it.
pub struct World {
    pub(crate) now: Time,
    pub(crate) scenario: Scenario,
    pub(crate) odds: Odds,
    queue: BTreeMap<(Time, u64), Happening>,
    next_event: u64,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) links: Links,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) pool: Pool,
    builder: Builder,
    probe: RecordProbe,
    grants: Grants,
    authority_life: u64,
    authority_up: bool,
    newest_boot: BTreeMap<(NodeId, NodeId), u64>,
    pub(crate) fence: FenceChecks,
    numbers: NumberChecks,
    pub(crate) asking: bool,
    pub(crate) ids: u64,
    pub(crate) dice: Dice,
    net_dice: Dice,
    disk_dice: Dice,
    pub(crate) client_dice: Dice,
    pub(crate) fold: Fold,
    pub(crate) tally: Tally,
    pub(crate) violations: Vec<String>,
    pub(crate) flushing: BTreeMap<ClientTag, Option<Result<(), ClientError>>>,
    pub(crate) trace: bool,
    effects: Vec<Effect>,
    inputs: Vec<Input>,
}

impl World {
    /// A rack of these nodes, none of them started.
    pub fn new(
        seed: u64,
        scenario: Scenario,
        nodes: Vec<Node>,
        volumes: Vec<Volume>,
        pool: Pool,
        builder: Builder,
        probe: RecordProbe,
    ) -> Self {
        let mut dice = Dice::new(seed);
        let mut grants = Grants::default();
        for volume in &volumes {
            grants.declare(volume.partition, vec![volume.primary, volume.secondary]);
        }
        Self {
            now: Time(1_000_000_000),
            scenario,
            odds: Odds::CALM,
            queue: BTreeMap::new(),
            next_event: 0,
            nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
            links: Links::default(),
            volumes,
            pool,
            builder,
            probe,
            grants,
            authority_life: 0,
            authority_up: true,
            newest_boot: BTreeMap::new(),
            fence: FenceChecks::default(),
            numbers: NumberChecks::default(),
            asking: false,
            ids: 0,
            net_dice: dice.fork(),
            disk_dice: dice.fork(),
            client_dice: dice.fork(),
            dice,
            fold: Fold::default(),
            tally: Tally { runs: 1, ..Tally::default() },
            violations: Vec::new(),
            flushing: BTreeMap::new(),
            trace: false,
            effects: Vec::new(),
            inputs: Vec::new(),
        }
    }

    /// Puts an event in its place.
    pub(crate) fn at(&mut self, when: Time, what: Happening) {
        let id = self.next_event;
        self.next_event += 1;
        self.queue.insert((when, id), what);
    }

    /// Puts an event after a while.
    pub(crate) fn after(&mut self, nanos: u64, what: Happening) {
        self.at(self.now + Duration::from_nanos(nanos), what);
    }

    /// Something that must not be.
    pub(crate) fn violate(&mut self, what: String) {
        if self.trace {
            println!("{:>12} VIOLATION {what}", self.now.0);
        }
        self.violations.push(format!("at {}: {what}", self.now.0));
    }

    fn judge(&mut self, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.violate(what);
        }
    }

    /// Runs until `done` holds, or no longer than `limit`; whether it held. Stops at a violation.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.violations.is_empty() {
            if done(self) {
                return true;
            }
            match self.queue.first_key_value() {
                Some(((when, _), _)) if *when <= end => self.step(),
                _ => {
                    self.now = end;
                    return false;
                }
            }
        }
        false
    }

    fn step(&mut self) {
        let Some(((when, _), what)) = self.queue.pop_first() else { return };
        self.now = self.now.max(when);
        self.tally.steps += 1;
        match what {
            Happening::Turn { node } => self.turn(node),
            Happening::DiskDone { node, life, disk, flight } => self.disk_done(node, life, disk, flight),
            Happening::Arrive { to, life, from, input } => self.arrive(to, life, from, input),
            Happening::Think { volume, client } => self.think(volume, client),
            Happening::Start { node } => self.start(node),
            Happening::Register { head, life } => self.register(head, life),
            Happening::Grant { head, boot, log } => self.grant(head, boot, log),
            Happening::Store { life, grants, assignments } => self.stored(life, *grants, assignments),
            Happening::Mend { from, to } => self.links.mend(from, to),
            Happening::Heal { node, disk } => self.heal(node, disk),
            Happening::Trouble => self.trouble(),
        }
    }

    // ---- nodes ----

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("the world names only its own nodes")
    }

    /// Begins a new life of a node, recovering from its devices alone.
    pub(crate) fn start(&mut self, id: NodeId) {
        let boot = BootId(self.dice.wide());
        let salt = self.dice.next();
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        if node.up() || node.dead_for_good {
            return;
        }
        node.life += 1;
        node.boot = boot;
        node.log = None;
        node.host = Some((self.builder)(node, &self.pool, salt));
        if self.trace {
            println!("{:>12} {id} starts life {}", self.now.0, self.nodes[&id].life);
        }
        self.wake(id, 0);
    }

    /// Ends a node's life. What it had in its inbox and in flight is lost or half done.
    pub(crate) fn kill(&mut self, id: NodeId, power: bool, moment: Moment) {
        let mut dice = self.disk_dice.fork();
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        let Some(host) = node.host.take() else { return };
        if self.trace {
            println!("{:>12} {id} dies at {moment:?}, power {power}", self.now.0);
        }
        self.tally.counts.add(&host.counts());
        *self.tally.crashes.entry((node.role, moment)).or_default() += 1;
        drop(host);
        node.inbox.clear();
        node.turn_at = None;
        node.doom = None;
        for disk in &mut node.disks {
            let toll = disk.crash(&mut dice, power);
            self.tally.torn_writes += toll.torn;
            self.tally.lost_sectors += toll.lost;
        }
        let role = node.role;
        self.fence.died(id);
        if role == Role::Head {
            self.volumes.iter_mut().filter(|volume| volume.primary == id).for_each(Volume::head_died);
        }
    }

    /// Makes sure that a node gets a turn soon.
    pub(crate) fn wake(&mut self, id: NodeId, nanos: u64) {
        let due = self.now + Duration::from_nanos(nanos);
        self.wake_at(id, due);
    }

    fn wake_at(&mut self, id: NodeId, due: Time) {
        let due = due.max(self.now);
        let node = self.node_mut(id);
        if !node.up() || node.turn_at.is_some_and(|planned| planned <= due) {
            return;
        }
        node.turn_at = Some(due);
        self.at(due, Happening::Turn { node: id });
    }

    /// Hands a node an input.
    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let node = self.node_mut(id);
        if !node.up() {
            return;
        }
        node.inbox.push(input);
        if node.inbox.len() > INBOX_MAX {
            self.violate(format!("Bounded: more than {INBOX_MAX} inputs wait at node {id}"));
        }
        let soon = self.net_dice.below(3_000);
        self.wake(id, soon);
    }

    fn turn(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        if node.turn_at != Some(now) {
            return;
        }
        node.turn_at = None;
        let Some(mut host) = node.host.take() else { return };
        let mut inputs = std::mem::take(&mut self.inputs);
        std::mem::swap(&mut inputs, &mut node.inbox);
        let mut doomed = None;
        for input in &inputs {
            doomed = doomed.or_else(|| node.passes(Moment::of_input(input)));
        }
        self.note_inputs(id, &inputs);
        let mut effects = std::mem::take(&mut self.effects);
        if doomed.is_none_or(|doom: Doom| doom.after) {
            host.turn(now, &mut inputs, &mut effects);
        }
        inputs.clear();
        self.inputs = inputs;
        let deadline = host.deadline();
        self.node_mut(id).host = Some(host);
        if let Some(doom) = doomed {
            effects.clear();
            self.effects = effects;
            return self.die(id, doom);
        }
        self.carry_out(id, &mut effects);
        effects.clear();
        self.effects = effects;
        if let Some(due) = deadline {
            self.wake_at(id, due.max(now + Duration::from_nanos(200)));
        }
    }

    fn note_inputs(&mut self, id: NodeId, inputs: &[Input]) {
        self.fold.number(self.now.0 ^ u64::from(id.0) << 48);
        for input in inputs {
            self.fold.debug(input);
            if self.trace {
                println!("{:>12} {id} <- {input:?}", self.now.0);
            }
            if let Input::Msg { msg, .. } = input {
                self.fence.message_in(id, msg);
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            let doom = self.node_mut(id).passes(Moment::of_effect(&effect));
            if doom.is_some_and(|doom| !doom.after) {
                return self.die(id, doom.expect("just seen"));
            }
            self.fold.debug(&effect);
            if self.trace {
                println!("{:>12} {id} -> {effect:?}", self.now.0);
            }
            self.carry_out_one(id, effect);
            if let Some(doom) = doom {
                return self.die(id, doom);
            }
        }
    }

    fn carry_out_one(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Block(cmd) => self.submit(id, cmd),
            Effect::Send(to, msg) => self.send(id, to, msg),
            Effect::Datagram(to, bytes) => self.send_datagram(id, to, bytes),
            Effect::Answer(done) => self.answer(&done),
            Effect::Event(event) => self.event(id, event),
        }
    }

    /// Dies as planned, and comes back after a while.
    fn die(&mut self, id: NodeId, doom: Doom) {
        self.kill(id, doom.power, doom.at);
        let away = self.dice.range(1_000_000, 150_000_000);
        self.after(away, Happening::Start { node: id });
    }

    // ---- devices ----

    fn submit(&mut self, id: NodeId, cmd: BlockCmd) {
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        let index = usize::from(cmd.device.0);
        let Some(disk) = node.disks.get_mut(index) else {
            return self.violate(format!("node {id} has no device {index}"));
        };
        let (role, life) = (node.role, node.life);
        let due = disk.due(self.now, &mut self.disk_dice, 40, self.odds.slow);
        let flight = disk.next_flight();
        let verdict = match role {
            Role::Sled => self.fence.submitted(id, flight, &cmd),
            _ => Ok(()),
        };
        disk.submit(cmd);
        let in_flight = disk.in_flight();
        self.judge(verdict);
        self.tally.in_flight_max = self.tally.in_flight_max.max(in_flight as u64);
        if in_flight > IN_FLIGHT_MAX {
            self.violate(format!("Bounded: {in_flight} commands in flight at node {id}"));
        }
        self.at(due, Happening::DiskDone { node: id, life, disk: index, flight });
    }

    fn disk_done(&mut self, id: NodeId, life: u64, disk: usize, flight: u64) {
        let node = self.node_mut(id);
        if node.life != life || !node.up() {
            return;
        }
        let Some(done) = node.disks[disk].finish(flight) else { return };
        if node.role == Role::Sled {
            let verdict = self.fence.ended(id, flight);
            self.judge(verdict);
        }
        self.input(id, Input::Block(done));
    }

    /// A device recovers; what hung in it ends now.
    fn heal(&mut self, id: NodeId, disk: usize) {
        let node = self.node_mut(id);
        let failed = node.disks[disk].health == Health::Failing;
        node.disks[disk].health = Health::Good;
        let life = node.life;
        if failed {
            // A device that answered with errors is trusted again only by a fresh start of its sled.
            self.kill(id, false, Moment::Idle);
            self.after(1_000_000, Happening::Start { node: id });
            return;
        }
        let node = self.node_mut(id);
        let hung: Vec<u64> = node.disks[disk].flights().collect();
        for flight in hung {
            let nanos = self.disk_dice.range(1_000, 200_000);
            self.after(nanos, Happening::DiskDone { node: id, life, disk, flight });
        }
    }

    // ---- network ----

    fn send(&mut self, from: NodeId, to: NodeId, msg: Msg) {
        let checked = match self.nodes[&from].role {
            Role::Sled => self.fence.grant(from, &msg),
            _ => Ok(None),
        };
        match checked {
            Ok(Some((device, stamp))) => self.check_record(from, device, stamp),
            Ok(None) => {}
            Err(what) => self.violate(what),
        }
        let boot = self.nodes[&from].boot;
        for when in self.deliveries(from, to) {
            let input = Input::Msg { from, boot, msg: msg.clone() };
            self.deliver(from, to, when, input);
        }
    }

    fn send_datagram(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        for when in self.deliveries(from, to) {
            if self.net_dice.chance(self.odds.lost) {
                continue;
            }
            let mut bytes = bytes.clone();
            if self.net_dice.chance(self.odds.damaged) && !bytes.is_empty() {
                let at = self.net_dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.net_dice.below(8);
            }
            self.deliver(from, to, when, Input::Datagram { from, bytes });
        }
    }

    fn deliveries(&mut self, from: NodeId, to: NodeId) -> Vec<Time> {
        if !self.nodes.contains_key(&to) {
            self.violate(format!("node {from} sends to {to}, which does not exist"));
            return Vec::new();
        }
        if !self.links.open(from, to) || !self.nodes[&to].up() {
            return Vec::new();
        }
        self.links.arrivals(self.now, &mut self.net_dice, &self.odds).to_vec()
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, when: Time, input: Input) {
        let life = self.nodes[&to].life;
        self.at(when, Happening::Arrive { to, life, from, input });
    }

    /// A message of an old boot of its sender is dropped once a newer boot was heard (the fabric's
    /// sessions do this).
    fn arrive(&mut self, to: NodeId, life: u64, from: NodeId, input: Input) {
        if self.nodes[&to].life != life || !self.links.open(from, to) {
            return;
        }
        if let Input::Msg { boot, .. } = &input {
            let sender = &self.nodes[&from];
            let age = if sender.boot == *boot { sender.life } else { sender.life - 1 };
            let newest = self.newest_boot.entry((to, from)).or_default();
            if age < *newest {
                return;
            }
            *newest = age;
        }
        self.input(to, input);
    }

    fn check_record(&mut self, sled: NodeId, device: DeviceId, stamp: Stamp) {
        self.tally.checked_grants += 1;
        let verdict = match (self.probe)(&self.nodes[&sled], device, stamp.partition) {
            Ok(number) if number >= stamp.number => Ok(()),
            Ok(number) => Err(format!("the durable record says {number}")),
            Err(why) => Err(why),
        };
        self.judge(verdict.map_err(|why| {
            format!("FenceIsDurable: device {device} grants {} of partition {}, but {why}", stamp.number, stamp.partition)
        }));
    }

    // ---- authority ----

    fn register(&mut self, head: NodeId, life: u64) {
        let node = &self.nodes[&head];
        if node.life != life || !node.up() {
            return;
        }
        if let Some(log) = node.log {
            let boot = node.boot;
            let travel = self.net_dice.range(50_000, 2_000_000);
            self.after(travel, Happening::Grant { head, boot, log });
        }
        self.after(100_000_000, Happening::Register { head, life });
    }

    fn grant(&mut self, head: NodeId, boot: BootId, log: LogId) {
        if !self.authority_up || self.nodes[&head].boot != boot {
            return;
        }
        let (grants, assignments) = self.grants.boot(head, boot, log);
        let nanos = self.disk_dice.range(100_000, 3_000_000);
        let life = self.authority_life;
        self.at(self.now + Duration::from_nanos(nanos), Happening::Store { life, grants: Box::new(grants), assignments });
    }

    /// The grants are durable: only now may they leave. One made meanwhile wins; the agent asks again.
    fn stored(&mut self, life: u64, grants: Grants, assignments: Vec<Assignment>) {
        if !self.authority_up || life != self.authority_life || grants.version() != self.grants.version() + 1 {
            return;
        }
        self.grants = grants;
        for assignment in assignments {
            let verdict = self.numbers.assigned(&assignment);
            self.judge(verdict);
            for member in &assignment.members {
                let node = &self.nodes[&member.head];
                let (to, life) = (member.head, node.life);
                let travel = self.net_dice.range(50_000, 3_000_000);
                let input = Input::Assign(assignment.clone());
                self.after(travel, Happening::Arrive { to, life, from: to, input });
            }
        }
    }

    /// The authority dies or comes back; its store is durable, what it was about to store is lost.
    pub(crate) fn set_authority(&mut self, up: bool) {
        if self.authority_up && !up {
            self.tally.authority_crashes += 1;
            self.authority_life += 1;
        }
        self.authority_up = up;
    }

    // ---- clients ----

    fn think(&mut self, volume: usize, client: usize) {
        if !self.asking {
            return;
        }
        let head = self.volumes[volume].primary;
        let ready = self.ready(volume);
        let state = &self.volumes[volume].clients[client];
        if state.left == 0 {
            return;
        }
        let mut pause = self.client_dice.range(20_000, 4_000_000);
        if ready && state.open < state.depth {
            let asked =
                self.volumes[volume].ask(client, &mut self.client_dice, &mut self.ids, &self.pool, self.now);
            if let Some(cmd) = asked {
                self.volumes[volume].clients[client].left -= 1;
                self.input(head, Input::Client(cmd));
            }
            if self.client_dice.chance(0.4) {
                pause = 0;
            }
        }
        self.after(pause, Happening::Think { volume, client });
    }

    /// Whether the primary of a volume lives and takes commands.
    pub(crate) fn ready(&self, volume: usize) -> bool {
        let volume = &self.volumes[volume];
        self.nodes[&volume.primary].host.as_ref().is_some_and(|host| host.ready(volume.partition))
    }

    /// Lets clients begin.
    pub(crate) fn start_clients(&mut self) {
        self.asking = true;
        for volume in 0..self.volumes.len() {
            for client in 0..self.volumes[volume].clients.len() {
                self.after(0, Happening::Think { volume, client });
            }
        }
    }

    fn answer(&mut self, done: &ClientDone) {
        let verdict = done.result.as_ref().map(|_| ()).map_err(|error| *error);
        if let Some(slot) = self.flushing.get_mut(&done.tag) {
            *slot = Some(verdict);
            return;
        }
        let now = self.now;
        for index in 0..self.volumes.len() {
            match self.volumes[index].answer(done, now) {
                Ok(Answered::Stray) => {}
                Ok(Answered::Well(_)) => {
                    self.tally.answered += 1;
                    return;
                }
                Ok(Answered::Badly(_, error)) => return self.bad_answer(done.tag, error),
                Err(what) => return self.violate(what),
            }
        }
    }

    /// Which errors a client may see: while faults go on a read may meet more missing columns than the
    /// code bears, or a head that just stopped serving. Nothing else.
    fn bad_answer(&mut self, tag: ClientTag, error: ClientError) {
        let allowed = match error {
            ClientError::Unreadable => self.odds != Odds::CALM && self.odds != Odds::UNRULY,
            ClientError::NotServed => true,
            ClientError::Range | ClientError::NoSpace | ClientError::Device => false,
        };
        self.tally.refused += 1;
        if !allowed {
            self.violate(format!("request {} was answered with an error: {error}", tag.0));
        }
    }

    fn event(&mut self, id: NodeId, event: Event) {
        match event {
            Event::Recovered { log } => {
                let node = self.node_mut(id);
                node.log = Some(log);
                let life = node.life;
                self.after(10_000, Happening::Register { head: id, life });
            }
            Event::Serving { stamp } => {
                let boot = self.nodes[&id].boot;
                let verdict = self.numbers.serving(id, boot, stamp);
                self.judge(verdict);
                let now = self.now;
                self.volumes
                    .iter_mut()
                    .filter(|volume| volume.partition == stamp.partition && volume.primary == id)
                    .for_each(|volume| volume.head_serves(now));
            }
            Event::DataLost { partition, extent } if self.odds == Odds::CALM => {
                self.violate(format!("extent {extent} of partition {partition} is lost, within what the code bears"));
            }
            _ => {}
        }
    }

    /// Sums what live nodes counted into the tally; called once, at the end.
    pub(crate) fn settle(&mut self) {
        let mut counts = Counts::default();
        for node in self.nodes.values() {
            if let Some(host) = &node.host {
                counts.add(&host.counts());
            }
        }
        self.tally.counts.add(&counts);
        self.tally.followed_writes = self.fence.followed;
    }

    /// Drops everything that lives or is under way.
    pub(crate) fn forget(&mut self) {
        self.queue.clear();
        self.inputs.clear();
        self.effects.clear();
        for node in self.nodes.values_mut() {
            node.host = None;
            node.inbox.clear();
            node.disks.clear();
        }
    }
}
