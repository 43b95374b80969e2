//! The simulated rack: virtual time, one queue of events, nodes, devices, links, clients and checks.
//!
//! One thread and one seed decide everything. A node's turn takes what waits in its inbox, lets the
//! machines run, and carries their effects out one by one in the order in which they were made; a death
//! planned at one of them drops the rest. What the checks find is collected in `violations`.

use crate::checks::{FenceChecks, NumberChecks};
use crate::clients::Volume;
use crate::dice::Dice;
use crate::faults::{NetMode, Odds, Scenario};
use crate::fold::Fold;
use crate::grants::{Decision, Grants};
use crate::group::GroupChecks;
use crate::host::{Counts, Effect, Host, Input};
use crate::links::Links;
use crate::node::{Doom, Node};
use crate::tally::{Moment, Role, Tally};
use crate::tape::Tape;
use palisade_dma::Pool;
use palisade_protocol::head::Solo;
use palisade_protocol::wire::*;
use std::collections::BTreeMap;
use std::time::Duration;

mod asking;
mod authority;
mod devices;
mod network;
mod trouble;

/// Most commands that a machine may have in flight on one device (`Bounded`).
pub const IN_FLIGHT_MAX: usize = 4096;
/// Most inputs that may wait for one turn (`Bounded`).
pub const INBOX_MAX: usize = 65_536;

/// Something that will happen.
#[allow(clippy::large_enum_variant)] // Moved a few times per event; boxing would cost more.
#[derive(Debug)]
pub(crate) enum Happening {
    Turn { node: NodeId },
    DiskDone { node: NodeId, life: u64, disk: usize, flight: u64 },
    Arrive { to: NodeId, life: u64, from: NodeId, input: Input },
    Think { volume: usize, client: usize },
    Start { node: NodeId },
    Register { head: NodeId, life: u64 },
    Grant { head: NodeId, boot: BootId, log: LogId },
    Propose { from: NodeId, boot: BootId, wish: Proposal },
    Served { head: NodeId, stamp: Stamp },
    Flip { partition: PartitionId },
    Stored { life: u64 },
    Mend { from: NodeId, to: NodeId },
    Heal { node: NodeId, disk: usize },
    Awake { node: NodeId },
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
    /// Since when nothing goes wrong; later than any moment while something may.
    pub(crate) calm_since: Time,
    /// Of a write's two log copies one at most rots: that of this head.
    pub(crate) rotten_head: Option<NodeId>,
    queue: BTreeMap<(Time, u64), Happening>,
    next_event: u64,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) links: Links,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) pool: Pool,
    /// Free buffers before anything ran, to find leaks.
    pub(crate) free_at_start: [usize; palisade_dma::SLOT_CLASSES.len()],
    builder: Builder,
    probe: RecordProbe,
    pub(crate) grants: Grants,
    authority_life: u64,
    authority_up: bool,
    /// The authority's decision that is not durable yet.
    deciding: Option<Box<Decision>>,
    /// Who was granted a number beside its primary; nobody: it is to be alone (`SoloByLeave`).
    others: BTreeMap<(PartitionId, Number), Vec<NodeId>>,
    newest_boot: BTreeMap<(NodeId, NodeId), u64>,
    pub(crate) fence: FenceChecks,
    numbers: NumberChecks,
    /// Present in direct mode, where messages can be seen.
    group: Option<GroupChecks>,
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
    pub(crate) tape: Option<Tape>,
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
        let grants = Grants::found(RackId(1), scenario.heads, &volumes, scenario.code);
        Self {
            now: Time(1_000_000_000),
            scenario,
            odds: Odds::CALM,
            calm_since: Time(1_000_000_000),
            rotten_head: None,
            queue: BTreeMap::new(),
            next_event: 0,
            nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
            links: Links::default(),
            volumes,
            free_at_start: pool.stats().free,
            pool,
            builder,
            probe,
            grants,
            authority_life: 0,
            authority_up: true,
            deciding: None,
            others: BTreeMap::new(),
            newest_boot: BTreeMap::new(),
            fence: FenceChecks::default(),
            numbers: NumberChecks::default(),
            group: (scenario.net == NetMode::Direct).then(|| GroupChecks::new(scenario.solo == Solo::Wait)),
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
            tape: None,
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
            Happening::Propose { from, boot, wish } => self.propose(from, boot, wish),
            Happening::Served { head, stamp } => self.served(head, stamp),
            Happening::Flip { partition } => self.flip(partition),
            Happening::Stored { life } => self.stored(life),
            Happening::Mend { from, to } => self.links.mend(from, to),
            Happening::Heal { node, disk } => self.heal(node, disk),
            Happening::Awake { node } => {
                if self.nodes[&node].asleep.is_some_and(|until| until <= self.now) {
                    self.awake(node);
                }
            }
            Happening::Trouble => self.trouble(),
        }
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("the world names only its own nodes")
    }

    /// Begins a new life of a node, recovering from its devices alone.
    pub(crate) fn start(&mut self, id: NodeId) {
        let boot = BootId(self.dice.wide());
        let salt = self.dice.next();
        let node = self.nodes.get_mut(&id).expect("the world names only its own nodes");
        if node.up() || node.away {
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
        node.asleep = None;
        for disk in &mut node.disks {
            let toll = disk.crash(&mut dice, power);
            self.tally.torn_writes += toll.torn;
            if node.role == Role::Head {
                self.tally.counts.torn_records += toll.torn;
            }
            self.tally.lost_sectors += toll.lost;
        }
        let role = node.role;
        self.rot_the_end(id);
        self.fence.died(id);
        self.group.iter_mut().for_each(|group| group.died(id));
        if role == Role::Head {
            self.volumes.iter_mut().for_each(|volume| volume.head_died(id));
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
        if let Some(until) = node.asleep.filter(|until| *until > now) {
            return self.wake_at(id, until);
        }
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
            match (input, &mut self.group) {
                (Input::Msg { from, msg, .. }, group) => {
                    self.fence.message_in(id, msg);
                    group.iter_mut().for_each(|group| group.message_in(id, *from, msg));
                }
                (Input::Client(cmd), Some(group)) => group.asked(id, cmd, self.now),
                _ => {}
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
            Effect::Answer(done) => self.answer(id, &done),
            Effect::Event(event) => self.event(id, event),
        }
    }

    /// Dies as planned, and comes back after a while.
    fn die(&mut self, id: NodeId, doom: Doom) {
        self.kill(id, doom.power, doom.at);
        let away = self.dice.range(1_000_000, 150_000_000);
        self.after(away, Happening::Start { node: id });
    }

    fn event(&mut self, id: NodeId, event: Event) {
        match event {
            Event::Recovered { log } => {
                let node = self.node_mut(id);
                node.log = Some(log);
                node.formatted = true;
                let life = node.life;
                if let Some(tape) = &mut self.tape {
                    tape.opened(self.now, id);
                }
                self.after(10_000, Happening::Register { head: id, life });
            }
            Event::Serving { stamp } => {
                if self.scenario.moves {
                    let travel = self.net_dice.range(50_000, 2_000_000);
                    self.after(travel, Happening::Served { head: id, stamp });
                }
                self.serves(id, stamp);
            }
            // One in five is lost on the way.
            Event::Propose(wish) if !self.net_dice.chance(0.2) => {
                let travel = self.net_dice.range(50_000, 2_000_000);
                let boot = self.nodes[&id].boot;
                self.after(travel, Happening::Propose { from: id, boot, wish });
            }
            Event::DataLost { partition, extent } if self.odds == Odds::CALM => {
                self.violate(format!(
                    "extent {extent} of partition {partition} is lost, within what the code bears"
                ));
            }
            _ => {}
        }
    }

    /// A head serves a partition: clients go there, unless a newer number serves already.
    fn serves(&mut self, id: NodeId, stamp: Stamp) {
        let boot = self.nodes[&id].boot;
        let verdict = self.numbers.serving(id, boot, stamp, self.scenario.moves);
        let newest = match verdict {
            Ok(newest) => newest,
            Err(what) => return self.violate(what),
        };
        let others = self.others.get(&(stamp.partition, stamp.number)).cloned().unwrap_or_default();
        let alone = others.is_empty();
        self.group.iter_mut().for_each(|group| group.serves(id, stamp.partition, others.clone()));
        let now = self.now;
        let Some(volume) = self.volumes.iter_mut().find(|volume| volume.partition == stamp.partition) else {
            return;
        };
        if !newest {
            return;
        }
        self.tally.failovers += u64::from(alone);
        self.tally.moves += u64::from(volume.primary != id);
        volume.primary = id;
        volume.head_serves(now);
        let asked = volume.ask_recent(&mut self.ids, now);
        asked.into_iter().for_each(|cmd| self.input(id, Input::Client(cmd)));
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
        if let Some(group) = &self.group {
            self.tally.checked_acks = group.checked_writes;
            self.tally.checked_confirms = group.checked_reads;
        }
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
