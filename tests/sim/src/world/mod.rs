//! The simulated rack: virtual time, one queue of events, nodes, devices, links, clients and checks.
//!
//! One thread and one seed decide everything. A node's turn takes what waits in its inbox, lets the
//! machines run, and carries their effects out one by one in the order in which they were made; a death
//! planned at one of them drops the rest. What the checks find is collected in `violations`.

use self::care::Care;
use crate::checks::{FenceChecks, NumberChecks};
use crate::clients::Volume;
use crate::diary::Diary;
use crate::dice::Dice;
use crate::fault::Event;
use crate::faults::{NetMode, Odds, Scenario};
use crate::fold::Fold;
use crate::grants::{Decision, Grants};
use crate::group::GroupChecks;
use crate::host::{Counts, Effect, Host, Input, Words};
use crate::links::Links;
use crate::node::{Doom, Node};
use crate::tally::{Moment, Tally};
use crate::tape::Tape;
use palisade_control::config;
use palisade_dma::Pool;
use palisade_protocol::head::{PartitionConfig, Solo};
use palisade_protocol::wire::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

mod asking;
mod authority;
mod care;
mod devices;
mod lives;
mod lost;
mod network;
mod roles;
mod strike;
mod tell;
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
    Rejoin { node: NodeId },
    Restore { from: NodeId, to: NodeId, path: u8 },
    AuthorityBack,
    Heal { node: NodeId, disk: usize },
    Awake { node: NodeId },
    Trouble,
    Report { head: NodeId, life: u64 },
    Said { head: NodeId, boot: BootId, words: Vec<Words>, room: u64 },
    Forgotten { head: NodeId, partition: PartitionId },
    Unmark { node: NodeId, all: bool },
    Repace { node: NodeId },
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
    /// When the run began.
    pub(crate) began: Time,
    /// Faults may happen.
    pub(crate) troubled: bool,
    /// Faults to come, instead of those that the odds would bring.
    pub(crate) script: Option<VecDeque<Event>>,
    /// Faults that happened.
    pub(crate) struck: Vec<Event>,
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
    /// Faults that keep it away now.
    authority_gone: u32,
    /// Numbers under which a head that did not lead was made primary without the leading one's agreement.
    taken_over: BTreeSet<(PartitionId, Number)>,
    /// Numbers under which a head was to take over from the copies of a lone one.
    pub(super) salvaged: BTreeSet<(PartitionId, Number)>,
    /// The authority's decision that is not durable yet.
    deciding: Option<Box<Decision>>,
    /// What control remembers of groups, where it replaces members.
    care: Care,
    /// Partitions as they were declared, for heads that join later.
    pub(crate) declared: Vec<PartitionConfig>,
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
    pub(crate) trouble_dice: Dice,
    net_dice: Dice,
    disk_dice: Dice,
    pub(crate) client_dice: Dice,
    pub(crate) fold: Fold,
    pub(crate) tally: Tally,
    pub(crate) violations: Vec<String>,
    pub(crate) flushing: BTreeMap<ClientTag, Option<Result<(), ClientError>>>,
    pub(crate) diary: Option<Diary>,
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
        let solo = match scenario.solo {
            Solo::Wait => config::Solo::Wait,
            Solo::Sleds => config::Solo::Sleds,
            Solo::Local => config::Solo::Local,
        };
        let grants = Grants::found(RackId(1), scenario.heads, &volumes, scenario.code, solo);
        Self {
            now: Time(1_000_000_000),
            scenario,
            odds: Odds::CALM,
            began: Time(1_000_000_000),
            troubled: false,
            script: None,
            struck: Vec::new(),
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
            authority_gone: 0,
            taken_over: BTreeSet::new(),
            salvaged: BTreeSet::new(),
            deciding: None,
            care: Care::default(),
            declared: Vec::new(),
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
            trouble_dice: dice.fork(),
            dice,
            fold: Fold::default(),
            tally: Tally { runs: 1, ..Tally::default() },
            violations: Vec::new(),
            flushing: BTreeMap::new(),
            diary: None,
            tape: None,
            effects: Vec::new(),
            inputs: Vec::new(),
        }
    }

    /// Groups are not looked into.
    pub(crate) fn look_away(&mut self) {
        self.group = None;
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
        self.tell(|| format!("VIOLATION {what}"));
        self.violations.push(format!("at {}: {what}", self.now.0));
    }

    /// Puts a line into the diary, if one is kept.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(diary) = &mut self.diary {
            diary.line(self.now, line());
        }
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
            Happening::Rejoin { node } => self.links.rejoin(node),
            Happening::Restore { from, to, path } => self.links.restore(from, to, path),
            Happening::AuthorityBack => self.authority_back(),
            Happening::Heal { node, disk } => self.heal(node, disk),
            Happening::Awake { node } => {
                if self.nodes[&node].asleep.is_some_and(|until| until <= self.now) {
                    self.awake(node);
                }
            }
            Happening::Trouble => self.trouble(),
            Happening::Report { head, life } => self.report(head, life),
            Happening::Said { head, boot, words, room } => self.said(head, boot, words, room),
            Happening::Forgotten { head, partition } => self.forgotten(head, partition),
            Happening::Unmark { node, all } => self.unmark(node, all),
            Happening::Repace { node } => self.set_pace(node, 0),
        }
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("the world names only its own nodes")
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
        let clock = node.clock(now);
        let mut inputs = std::mem::take(&mut self.inputs);
        std::mem::swap(&mut inputs, &mut node.inbox);
        let mut doomed = None;
        for input in &inputs {
            doomed = doomed.or_else(|| node.passes(Moment::of_input(input)));
        }
        self.note_inputs(id, &inputs);
        let mut effects = std::mem::take(&mut self.effects);
        if doomed.is_none_or(|doom: Doom| doom.after) {
            host.turn(clock, &mut inputs, &mut effects);
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
            // Told by the node's own clock.
            let due = self.nodes[&id].until(due, now);
            self.wake_at(id, due.max(now + Duration::from_nanos(200)));
        }
    }

    fn note_inputs(&mut self, id: NodeId, inputs: &[Input]) {
        self.fold.number(self.now.0 ^ u64::from(id.0) << 48);
        for input in inputs {
            input.fold(&mut self.fold);
            self.diary.iter_mut().for_each(|diary| diary.line(self.now, format!("{id} <- {input:?}")));
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
            effect.fold(&mut self.fold);
            self.tell(|| format!("{id} -> {effect:?}"));
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
            Effect::Datagram(to, path, bytes) => self.send_datagram(id, to, path, bytes),
            Effect::Answer(done) => self.answer(id, &done),
            Effect::Event(event) => self.event(id, event),
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
