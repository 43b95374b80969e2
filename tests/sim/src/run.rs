//! One run: boot, trouble under load, calm, and the reckoning.
//!
//! The reckoning: all requests end within a bound once faults end; all data is read back; everything is
//! flushed and read back with as many sleds failing as the code bears; the whole rack loses power and all
//! is read back again; and one order of events must explain everything that any client ever saw.

use crate::dense::DENSE;
use crate::diary::Diary;
use crate::disk::Health;
use crate::fault::Event;
use crate::faults::{self, Odds, Scenario};
use crate::host::Input;
use crate::lone::LONE;
use crate::rack::{self, Canaries};
use crate::replaced::REPLACED;
use crate::tally::{Role, Tally};
use crate::world::World;
use palisade_protocol::wire::*;
use std::time::Duration;

/// Longest time of trouble, in virtual time.
const TROUBLE_MAX: Duration = Duration::from_secs(6);
/// Longest time until everything ends once faults have ended (liveness).
const CALM_MAX: Duration = Duration::from_secs(30);

/// Longest time that a request may wait while nothing goes wrong (`Bounded`).
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// Decides everything.
    pub seed: u64,
    /// Its scenario; by default the seed's own.
    pub scenario: Scenario,
    /// Rules to break.
    pub canaries: Canaries,
    /// Print every input and effect.
    pub trace: bool,
    /// Longest time of trouble, in virtual time.
    pub trouble: Duration,
}

impl Setup {
    /// The run of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            scenario: faults::scenario(seed),
            canaries: Canaries::default(),
            trace: false,
            trouble: TROUBLE_MAX,
        }
    }

    /// The run of a seed in which roles move.
    pub fn moving(seed: u64) -> Self {
        let scenario = faults::MOVING[(seed % faults::MOVING.len() as u64) as usize];
        Self { scenario, ..Self::new(seed) }
    }

    /// The run of a seed in which heads go on alone with copies on sleds.
    pub fn lone(seed: u64) -> Self {
        Self { scenario: LONE[(seed % LONE.len() as u64) as usize], ..Self::new(seed) }
    }

    /// The run of a seed in which members are replaced.
    pub fn replaced(seed: u64) -> Self {
        Self { scenario: REPLACED[(seed % REPLACED.len() as u64) as usize], ..Self::new(seed) }
    }

    /// The run of a seed that is dense in failovers.
    pub fn dense(seed: u64) -> Self {
        Self { scenario: DENSE[(seed % DENSE.len() as u64) as usize], ..Self::new(seed) }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Name of its scenario.
    pub scenario: &'static str,
    /// Hash of all inputs and effects.
    pub hash: u64,
    /// What it exercised.
    pub tally: Tally,
    /// What must not be; empty for a good run.
    pub violations: Vec<String>,
    /// Virtual time that passed.
    pub lasted: Duration,
}

/// Runs a seed to its end.
pub fn run(setup: &Setup) -> Report {
    run_with(setup, None, setup.trace.then_some(Diary::Print)).0
}

/// Faults of a run, in order, and the diary if one was kept.
pub type Past = (Vec<Event>, Option<Diary>);

/// Runs a seed with faults from a list instead of its own, if one is given, and with a diary.
pub fn run_with(setup: &Setup, script: Option<&[Event]>, diary: Option<Diary>) -> (Report, Past) {
    let mut world = rack::build(setup.seed, setup.scenario, setup.canaries);
    world.diary = diary;
    world.script = script.map(|events| events.iter().copied().collect());
    let start = world.now;
    story(&mut world, setup.trouble);
    world.settle();
    let past = (std::mem::take(&mut world.struck), world.diary.take());
    let mut violations = std::mem::take(&mut world.violations);
    violations.extend(world.leaks());
    let report = Report {
        seed: setup.seed,
        scenario: setup.scenario.name,
        hash: world.fold.value(),
        tally: world.tally.clone(),
        violations,
        lasted: world.now.since(start),
    };
    (report, past)
}

fn story(world: &mut World, trouble: Duration) {
    world.start_all();
    world.start_clients();
    let odds = world.scenario.odds;
    if odds != Odds::CALM {
        world.start_trouble(odds);
    }
    world.run_until(trouble, |world| world.finished() || world.overdue());
    world.calm();
    reckon(world);
}

/// What must hold once faults have ended, step by step.
pub(crate) fn reckon(world: &mut World) {
    let steps: [fn(&mut World); 8] = [
        World::finish,
        World::be_whole,
        World::read_back,
        World::flush_all,
        World::read_degraded,
        World::final_cut,
        World::read_back,
        World::take_stock,
    ];
    for step in steps {
        if !world.violations.is_empty() {
            return;
        }
        step(world);
    }
    for volume in 0..world.volumes.len() {
        if let Err(what) = world.volumes[volume].history.judge() {
            world.violate(format!("partition {}: {what}", world.volumes[volume].partition));
        }
    }
}

impl World {
    /// Starts every node.
    pub(crate) fn start_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.start(id));
    }

    /// Whether the clients have had everything they wanted.
    fn finished(&self) -> bool {
        self.volumes.iter().all(|volume| volume.done())
    }

    /// Whether a request is open for longer than any may be while nothing goes wrong (`Bounded`).
    fn overdue(&self) -> bool {
        let oldest = self.volumes.iter().filter_map(|volume| volume.oldest_open()).min();
        oldest.is_some_and(|sent| self.now > sent.max(self.calm_since) + WAIT_MAX)
    }

    /// Clients go on until they had everything; none waits for long.
    fn finish(&mut self) {
        self.run_until(CALM_MAX, |world| world.finished() || world.overdue());
        if !self.finished() {
            self.stuck("clients did not get what they wanted");
        }
        self.asking = false;
    }

    /// Every volume has its whole group back.
    fn be_whole(&mut self) {
        if self.scenario.heads == 0 {
            return;
        }
        let whole = |world: &World| (0..world.volumes.len()).all(|volume| world.whole(volume));
        if !self.poll_until(CALM_MAX, whole) {
            let lack: Vec<PartitionId> = (0..self.volumes.len())
                .filter(|volume| !self.whole(*volume))
                .map(|volume| self.volumes[volume].partition)
                .collect();
            self.stuck(&format!("partitions {lack:?} did not get their whole group back"));
        }
    }

    /// As `run_until`, for conditions that cost more than a step: they are looked at every millisecond.
    fn poll_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.violations.is_empty() && self.now < end {
            if done(self) {
                return true;
            }
            self.run_until(Duration::from_millis(1), |_| false);
        }
        self.violations.is_empty() && done(self)
    }

    /// Waits for everything open to end.
    fn drain(&mut self) {
        let ended = |world: &World| world.volumes.iter().all(|volume| volume.open_count() == 0);
        self.run_until(CALM_MAX, |world| ended(world) || world.overdue());
        if !ended(self) {
            self.stuck("open requests did not end");
        }
    }

    pub(crate) fn stuck(&mut self, what: &str) {
        if !self.violations.is_empty() {
            return;
        }
        let nodes: Vec<String> = self.nodes.values().map(|node| format!("{node:?}")).collect();
        self.violate(format!("liveness: {what} in time once faults had ended\n  {}", nodes.join("\n  ")));
    }

    /// Reads every sector of every volume.
    pub(crate) fn read_back(&mut self) {
        for volume in 0..self.volumes.len() {
            let sectors = self.volumes[volume].history.sectors();
            let head = self.volumes[volume].primary;
            let mut first = 0;
            while first < sectors && self.violations.is_empty() {
                let count = (sectors - first).min(512);
                if !self.run_until(CALM_MAX, |world| world.ready(volume)) {
                    return self.stuck("the primary did not become ready");
                }
                let cmd = self.volumes[volume].ask_read(0, first, count, &mut self.ids, self.now);
                self.input(head, Input::Client(cmd));
                first += count;
            }
        }
        self.drain();
    }

    /// Everything acknowledged goes to extents.
    pub(crate) fn flush_all(&mut self) {
        let end = self.now + CALM_MAX;
        for volume in 0..self.volumes.len() {
            while self.violations.is_empty() {
                match self.flush_one(volume) {
                    None => return self.stuck("a flush of everything did not end"),
                    Some(Ok(())) => break,
                    // A device that failed is asked again every while only: until then there is no room.
                    Some(Err(ClientError::NoSpace)) if self.now < end => {}
                    // The role moved once more.
                    Some(Err(ClientError::NotServed)) if self.scenario.moves && self.now < end => {
                        self.run_until(Duration::from_millis(50), |_| false);
                    }
                    Some(Err(error)) => self.violate(format!("a flush of everything failed: {error}")),
                }
            }
        }
    }

    /// Asks for everything of a volume to be flushed; the answer, if there was one.
    fn flush_one(&mut self, volume: usize) -> Option<Result<(), ClientError>> {
        self.ids += 1;
        let tag = self.ids;
        let (head, partition) = (self.volumes[volume].primary, self.volumes[volume].partition);
        self.flushing.insert(ClientTag(tag), None);
        self.input(head, Input::FlushAll(partition, tag));
        self.run_until(CALM_MAX, |world| world.flushing.values().all(Option::is_some));
        self.flushing.remove(&ClientTag(tag)).flatten()
    }

    /// Reads all back while as many sleds fail as the code bears beside those that were hurt.
    fn read_degraded(&mut self) {
        let spare =
            u32::from(self.scenario.code.1).saturating_sub(self.scenario.hurt + self.absent_at_most());
        let mut sleds: Vec<NodeId> =
            self.nodes.values().filter(|node| node.role == Role::Sled).map(|node| node.id).collect();
        for _ in 0..spare {
            let id = *self.dice.pick(&sleds);
            sleds.retain(|other| *other != id);
            self.node_mut(id).disks[0].health = Health::Failing;
        }
        self.read_back();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.node_mut(id).disks[0].health = Health::Good);
    }

    /// Columns that a degraded flush may have left out of an extent.
    fn absent_at_most(&self) -> u32 {
        if self.odds_of_scenario_calm() { 0 } else { u32::from(self.scenario.code.1).saturating_sub(1) }
    }

    fn odds_of_scenario_calm(&self) -> bool {
        self.scenario.odds.crashes_per_s == 0.0
            && self.scenario.odds.take_overs_per_s == 0.0
            && self.scenario.odds.cuts_per_s == 0.0
            && self.scenario.odds.sick_per_s == 0.0
            && self.scenario.odds.cuts_of_power_per_s == 0.0
    }

    /// Columns that no extent and no checkpoint names are found and freed (P-27), extents that are dead are released.
    fn take_stock(&mut self) {
        let columns = u64::from(self.scenario.code.0 + self.scenario.code.1);
        let tidy = move |world: &World| {
            let lives = world.nodes.values().filter_map(|node| node.host.as_ref());
            let (used, named) = lives.map(|host| host.census()).fold((0, 0), |sum, census| {
                let extents = census.named / limits::COLUMNS_MAX as u64;
                (sum.0 + census.used, sum.1 + extents * columns + census.pages)
            });
            used <= named
        };
        if !self.poll_until(CALM_MAX, tidy) {
            self.stuck("columns that nothing names were not freed (P-27)");
        }
    }

    /// The whole rack loses power once more, and comes back.
    fn final_cut(&mut self) {
        let salt = self.dice.next();
        self.cut_power(salt);
        self.set_authority(true);
        self.run_until(Duration::from_millis(100), |_| false);
    }

    /// Drops everything that lives; buffers that are still out then have leaked (`Bounded`).
    pub(crate) fn leaks(&mut self) -> Option<String> {
        self.forget();
        let stats = self.pool.stats();
        (stats.free != self.free_at_start).then(|| format!("Bounded: buffers leaked: {stats:?}"))
    }
}
